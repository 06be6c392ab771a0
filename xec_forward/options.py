"""Every option, declared once. Ground floor, no I/O.

An option is a field of one of these frozen dataclasses; the field's name is the keyword argument and the
profile key, and with dashes the flag (`server_alive_interval`, `--server-alive-interval`). The `help` texts
here are the reference: `line` makes the argument parser from them.

    SshTarget       who to dial and how: these decide which tunnels share a connection
    CommandTarget   the command that opens a port, in the place of a host
    ClusterTarget   the cluster whose API server leads to its pods
    TunnelOptions   how the tunnel behaves
    Service         what the service behind it wants: connection string, password, environment
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from typing import Any


def option(
    default: Any,
    help: str,
    *,
    metavar: str = "",
    short: tuple[str, ...] = (),
    flag: str = "",
    least: float = 0,
    most: float = 1_000_000,
) -> Any:
    """A dataclass field that is an option.

    Args:
        default: its value where it is not given.
        help: one sentence for `--help` and the reference page.
        metavar: what stands for its value; "" for a switch.
        short: further spellings, those of ssh and kubectl.
        flag: the long spelling where it is not the field's name (only `--as`, for `name`).
        least, most: the limits of a number; for a number of seconds `most` also keeps infinity out.
    """
    metadata = {"help": help, "metavar": metavar, "short": short, "flag": flag, "least": least, "most": most}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class SshTarget:
    """An SSH host as asked for, not yet dialled. Empty and None mean: what ssh_config says, else ssh's default.

    `passphrase` and `ssh_password` hold references as `source.Source` makes them (a kind and a digest): never
    the secret, never the text of the SOURCE. `agent` is the kernel's SSH_AUTH_SOCK of the moment, which may be
    another than the one the engine started with.
    """

    host: str
    username: str = option("", "the login name on the bastion", metavar="USER", short=("-l",))
    port: int | None = option(None, "the SSH port", metavar="PORT", short=("-p",), least=1, most=65535)
    private_key: tuple[str, ...] = option((), "identity file; may be given again", metavar="FILE", short=("-i",))
    passphrase: str = option("", "where the key's passphrase comes from", metavar="SOURCE")
    ssh_password: str = option("", "where the login's password comes from", metavar="SOURCE")
    ssh_config: str = option(
        "",
        "read this file in the place of ~/.ssh/config; 'none' reads no file",
        metavar="FILE",
        short=("-F",),
    )
    host_key: str = option(
        "",
        "an unknown host key: ask, refuse it (strict), or record it (accept-new)",
        metavar="ask|strict|accept-new",
    )
    server_alive_interval: float | None = option(
        None, "seconds between keepalives, 0 for none; 15 unless told", metavar="S"
    )
    server_alive_count_max: int | None = option(
        None, "keepalives missed before the link counts as lost; 3 unless told", metavar="N", least=1
    )
    proxy: tuple[SshTarget, ...] = option(
        (), "the hosts to go through, in order; in the place of ssh_config's", metavar="HOST[,HOST]", short=("-J",)
    )
    compression: bool = option(False, "compress what goes to the server; it chooses for itself", short=("-C",))
    compression_level: int | None = option(
        None, "how hard: 1 is fast, 9 is small; 6 unless told", metavar="1-9", least=1, most=9
    )
    control_master: str = option(
        "", "share the login: auto rides a live master, yes also serves one, no does neither", metavar="yes|no|auto"
    )
    control_path: str = option("", "the master's socket; ssh_config's ControlPath unless told", metavar="PATH")
    control_persist: float | None = option(
        None, "how long the connection outlives its last tunnel: 10m, 600, yes, no", metavar="D|yes|no"
    )
    agent: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class CommandTarget:
    """A command that opens a local port, `%p` in its text; it stands in the place of a host.

    >>> CommandTarget("/usr/bin/cloudflared access tcp --url localhost:%p").host
    'cloudflared'
    """

    command: str = option("", "run this in the place of a TARGET; %p is the local port it must open", metavar="TEXT")

    @property
    def host(self) -> str:
        """What to call it: its program's name alone, because its arguments may hold anything."""
        try:
            words = shlex.split(self.command)
        except ValueError:
            words = self.command.split()
        for word in words:
            if not _ASSIGNMENT.match(word) and word not in ("exec", "env"):
                name = "".join(filter(str.isprintable, os.path.basename(word.strip("();{}"))))
                return name[:40] or "command"
        return "command"

    def __repr__(self) -> str:
        return f"CommandTarget({self.host} ...)"


# An environment variable in front of a command: AWS_PROFILE=sales aws ...
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True, slots=True)
class ClusterTarget:
    """A Kubernetes cluster as asked for: a context of the kubeconfig. Empty means what kubectl would take.

    `files` are those of the kernel's KUBECONFIG at the moment, which may be others than the engine started with.

    >>> ClusterTarget(context="prod").host
    'prod'
    """

    namespace: str = option(
        "", "the namespace; the context's own unless told, else default", metavar="NAME", short=("-n",)
    )
    context: str = option("", "the context of the kubeconfig; its current one unless told", metavar="NAME")
    kubeconfig: str = option("", "read this file in the place of $KUBECONFIG or ~/.kube/config", metavar="FILE")
    proxy: tuple[SshTarget, ...] = option(
        (), "the hosts to go through to the API server, in order", metavar="HOST[,HOST]", short=("-J",)
    )
    files: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """What to call it before its configuration is read."""
        return self.context or "cluster"


Target = SshTarget | CommandTarget | ClusterTarget


@dataclass(frozen=True, slots=True)
class TunnelOptions:
    """How a tunnel behaves. Times are seconds."""

    local_interface: str = option(
        "", "the local address to listen on; 127.0.0.1 unless told, or unless the SPEC says one", metavar="A"
    )
    gateway_ports: bool = option(False, "permit an address that other machines can reach")
    allowed_ips: tuple[str, ...] = option(
        (), "the addresses and networks that clients may come from; any unless told", metavar="CIDR[,CIDR]"
    )
    auto_port: bool = option(False, "where the local port is taken, try the next ones, ten ports in all")
    guard: str = option("", "on loopback, turn other users of this machine away (uid), or not (off)", metavar="uid|off")
    no_check: bool = option(False, "do not try the far service while opening")
    hold: float = option(30.0, "seconds a client is held while the link is down; 30 unless told", metavar="S")
    timeout: float = option(
        30.0,
        "seconds the opening may take, and then each connection to the service; 30 unless told",
        metavar="S",
        least=0.1,
    )
    lazy: bool = option(False, "listen at once, dial when the first client comes")
    retry_initial: bool = option(False, "go on trying where the first connection fails; --timeout is for each try")
    retry_delay: float = option(
        5.0, "seconds between the tries of --retry-initial; 5 unless told", metavar="S", least=0.1, most=3600
    )
    max_retries: int | None = option(
        None, "give up after this many further tries, at first or to reconnect; never unless told", metavar="N"
    )
    ttl: float = option(0.0, "close after this time: 90, 90s, 10m, 1h30m; 0 for never", metavar="D")
    idle: float = option(0.0, "close after this time without a client; 0 for never", metavar="D")
    max_connections: int = option(0, "the most clients at once; 0 for any number", metavar="N")
    socks_user: str = option("", "ask the clients of a SOCKS proxy for this name and a password", metavar="NAME")
    socks_password: str = option("", "where that password comes from", metavar="SOURCE")


@dataclass(frozen=True, slots=True)
class Service:
    """What the service behind the tunnel is to the notebook, and how a line opens. Stays on the kernel's side."""

    name: str = option("", "the name of the handle in the notebook", metavar="NAME", flag="--as")
    dsn: str = option(
        "", "the connection string to make: scheme, user, database, parameters; no password", metavar="URL"
    )
    password: str = option("", "where the service's password comes from", metavar="SOURCE")
    env: bool = option(False, "set PGHOST and its like for the kernel, until the tunnel closes; never a password")
    force: bool = option(False, "let --as NAME replace an object that is not a tunnel")
    quiet: bool = option(False, "show no card")
    set_proxy_env: bool = option(False, "point ALL_PROXY at the SOCKS proxy, put back on close")
    exit_on_failure: bool = option(False, "when one of several fails, close them all")
    dry_run: bool = option(False, "say what would be opened, and open nothing")
    keep: bool = option(False, "leave what a cell of code opened open after it, until the kernel ends")
