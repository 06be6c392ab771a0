"""The line that a failed opening ends with: how to ask the doctor about it."""

from __future__ import annotations

import shlex

from ..errors import (
    AuthenticationError,
    DeadlineError,
    ForwardError,
    LostError,
    NameNotFoundError,
    ProhibitedError,
    RbacError,
    RefusedError,
    UnreachableError,
)
from ..line import KUBERNETES, SSH, Action, Line
from ..options import ClusterTarget, SshTarget
from ..spec import Kind

# What the doctor can say more about. A host key that is not to be trusted says all there is to say itself.
_EXPLAINED = (
    AuthenticationError,
    DeadlineError,
    LostError,
    NameNotFoundError,
    ProhibitedError,
    RbacError,
    RefusedError,
    UnreachableError,
)


def offer(error: ForwardError, line: Line | None, program: str = "") -> None:
    """A failed opening whose reason the doctor can tell ends with the line that asks it.

    Args:
        line: what was to be opened.
        program: the doctor's command; a magic's `--doctor` unless said.
    """
    if line is None or line.action is not Action.OPEN or not isinstance(line.target, SshTarget | ClusterTarget):
        return
    if line.members or not isinstance(error, _EXPLAINED) or not error.hop:
        return
    stop = "" if error.hint.endswith(("?", ".")) else "."
    hint = f"{error.hint}{stop} " if error.hint else ""
    if isinstance(line.target, SshTarget):
        words = _host_line(line, line.target, program or f"{SSH.magic} --doctor")
    else:
        words = _cluster_line(line, line.target, program or f"{KUBERNETES.magic} --doctor")
    error.hint = f"{hint}See each hop: {words}"


# The line itself is not repeated: its options may name a SOURCE.


def _host_line(line: Line, target: SshTarget, words: str) -> str:
    if target != SshTarget(target.host, username=target.username, port=target.port):
        return f"{words}, then the same words"
    host = f"[{target.host}]" if ":" in target.host else target.host
    user = f"{target.username}@" if target.username else ""
    port = f":{target.port}" if target.port else ""
    ends = [str(each.connect) for each in line.forwards if each.kind is Kind.LOCAL and each.connect]
    return " ".join([words, f"{user}{host}{port}", *dict.fromkeys(end.removeprefix(":") for end in ends)])


def _cluster_line(line: Line, target: ClusterTarget, program: str) -> str:
    words = program.split()
    if target != ClusterTarget(target.namespace, target.context, target.kubeconfig):
        return f"{' '.join(words)}, then the same words"
    given = (("-n", target.namespace), ("--context", target.context), ("--kubeconfig", target.kubeconfig))
    ends = [each.connect for each in line.forwards if each.connect is not None]
    # A selector stands behind its -l.
    words += [word for end in ends[:1] for word in end.host.split(" ", 1)]
    words += dict.fromkeys(end.port_name or str(end.port) for end in ends)
    words += [word for option, value in given if value for word in (option, value)]
    return shlex.join(words)
