"""The text of `--help`, for the magics and for the command line, made from `options`. Ground floor, no I/O."""

from __future__ import annotations

import textwrap

from ..options import ClusterTarget, CommandTarget, Service, SshTarget, TunnelOptions
from .dialect import KUBERNETES, SSH, Dialect
from .flags import Section

__all__ = ["CLUSTER_COMMAND_FORMS", "COMMAND_FORMS", "DOCTOR_FORMS", "help_text"]

_WIDTH = 100
_COLUMN = 36

MAGIC_FORMS = """\
%forward [OPTIONS] TARGET [SPEC ...]     open until the kernel ends; the value is the tunnel, or the group
%%forward [OPTIONS] TARGET               the same, each line of the cell being a SPEC with its own options
%%forward [OPTIONS] TARGET SPEC ...      the cell is code; open until it ends
%forward                                 the table of tunnels
%forward --close NAME [...]              close these
%forward --close-all                     close all
%forward --reconnect NAME [...]          drop the link, keep the port, dial again
%forward --panel                         all of it with buttons, and a form to open a tunnel
%forward --doctor [OPTIONS] TARGET [SPEC ...]   examine each hop of what the line would open; changes nothing

%forward [OPTIONS] --command TEXT SPEC   a command opens the way, in the place of a host
%forward [OPTIONS] TARGET                without a SPEC: the forwards that ssh_config names for it

  %forward bastion 5432:pg.vpc:5432 --as pg --dsn postgresql://ana@/sales
  %forward ana@bastion:2222 sales=postgresql://ana@pg.vpc/sales --password keyring:sales/ana
"""

CLUSTER_FORMS = """\
%k8s_forward [OPTIONS] RESOURCE PORT ... open until the kernel ends; the value is the tunnel, or the group
%%k8s_forward [OPTIONS]                  the same, each line of the cell being RESOURCE PORT ... and options
%%k8s_forward [OPTIONS] RESOURCE PORT ...  the cell is code; open until it ends
%k8s_forward                             the table of tunnels
%k8s_forward --close NAME [...]          close these
%k8s_forward --close-all                 close all
%k8s_forward --reconnect NAME [...]      drop the link, keep the port, dial again
%k8s_forward --panel                     all of it with buttons, and a form to open a tunnel
%k8s_forward --doctor [OPTIONS] [RESOURCE PORT ...]   examine the way the line would take; changes nothing

  %k8s_forward svc/postgres 5432 --as pg --dsn postgresql://ana@/sales --password secret:postgres/password
  %k8s_forward deploy/api web=8080:http 9229 -n staging --context dev
"""

COMMAND_FORMS = """\
xec-forward open [OPTIONS] TARGET [SPEC ...]     open until Ctrl-C; without a SPEC: the forwards of ssh_config
xec-forward open [OPTIONS] --command TEXT SPEC   a command opens the way, in the place of a host

  xec-forward open bastion 5432:pg.vpc:5432 --dsn postgresql://ana@/sales
  xec-forward open ana@bastion:2222 postgresql://ana@pg.vpc/sales -D 1080
"""

CLUSTER_COMMAND_FORMS = """\
xec-forward k8s-open [OPTIONS] RESOURCE PORT [PORT ...]   open until Ctrl-C

  xec-forward k8s-open svc/postgres 5432 -n production --dsn postgresql://ana@/sales
"""

DOCTOR_FORMS = """\
xec-forward doctor [OPTIONS] TARGET [SPEC ...]     examine each hop of what `open` would open; changes nothing
xec-forward doctor [OPTIONS] KIND/NAME PORT ...    the same of `k8s-open`, which an option such as -n tells too

  xec-forward doctor bastion pg.vpc:5432
  xec-forward doctor svc/postgres 5432 -n production
"""

_WORDS = """\
TARGET   an alias of ssh_config, [user@]host[:port], or ssh://[user@]host[:port]

SPEC     as in ssh -L, IPv6 in brackets, NAME= in front if wanted
  5432:pg.vpc:5432                       local port, far host, far port
  127.0.0.1:5432:pg.vpc:5432             with the local interface
  0:pg.vpc:5432                          any free local port
  pg.vpc:5432                            the same local port if it can be bound, else any
  5432                                   that port of the target itself
  postgresql://ana@pg.vpc/sales          far host, far port, and the connection string to make
  /run/me/pg.sock:pg.vpc:5432            unix sockets, on either side
  -L SPEC                                as in ssh; -N -T -f are accepted and ignored
  -R 8080:localhost:3000                 remote: the target's 8080 reaches our 3000
  -D 1080                                a SOCKS proxy; -D 0 on any free port

SOURCE   where a secret comes from, never the secret:
         env:NAME, keyring:SERVICE/USER, cmd:COMMAND, file:PATH or prompt
"""


_CLUSTER_WORDS = """\
RESOURCE   what leads to a pod; of several ready ones one is chosen, and another when it is gone
  svc/postgres                           a service; PORT is the service's own
  pod/web-0, web-0                       a pod
  deploy/api sts/db rs/x ds/agent job/x  a pod of it; kubectl's long and plural names are known too
  -l app=api, --selector app=api         a pod with these labels

PORT     as in kubectl port-forward, NAME= in front if wanted
  15432:5432                             local port, far port
  5432                                   the same local port if it can be bound, else any
  :5432                                  any free local port
  8080:http, http                        the far port by its name; alone: any free local port

SOURCE   where a secret comes from, never the secret:
         env:NAME, keyring:SERVICE/USER, cmd:COMMAND, file:PATH,
         secret:NAME/KEY (a Kubernetes Secret, in the namespace of the line) or prompt
"""


def help_text(forms: str = "", dialect: Dialect = SSH) -> str:
    """The usage: the forms first (those of the magic unless told), then the words, then the options in groups."""
    groups: tuple[tuple[str, tuple[Section, ...]], ...] = (("options", (Service, TunnelOptions)),)
    if dialect is KUBERNETES:
        words, own = _CLUSTER_WORDS, CLUSTER_FORMS
        groups += (("options of the cluster", (ClusterTarget,)),)
    else:
        words, own = _WORDS, MAGIC_FORMS
        groups += (("options of TARGET", (SshTarget,)), ("in the place of TARGET", (CommandTarget,)))
    return "\n".join([forms or own, words, *(_group(title, sections, dialect) for title, sections in groups)])


def _group(title: str, sections: tuple[Section, ...], dialect: Dialect) -> str:
    lines = [title]
    for flag in dict.fromkeys(dialect.flags.values()):
        if flag.section not in sections:
            continue
        left = ", ".join(flag.spellings) + (f" {flag.metavar}" if flag.metavar else "")
        first, *more = textwrap.wrap(flag.help, _WIDTH - _COLUMN)
        if len(left) > _COLUMN - 4:
            lines.append(f"  {left}")
            left = ""
        lines.append(f"  {left:<{_COLUMN - 2}}{first}")
        lines.extend(" " * _COLUMN + line for line in more)
    if Service in sections:
        lines.append(f"  {'-h, --help':<{_COLUMN - 2}}this text")
    return "\n".join(lines) + "\n"
