"""`--doctor`: the stages appear in one display as they come; and the line that a failed opening ends with."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ..client.doctor import SilentStages, TerminalStages, examine_line
from ..diagnosis import Diagnosis
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
from ..model import Ask, Finding
from ..options import ClusterTarget, SshTarget
from ..spec import Kind
from . import prompts
from .live import DisplayCanvas

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..client.session import Session

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


class _DisplayStages(SilentStages):
    """One display of a notebook, updated as the stages come."""

    def __init__(self, shell: InteractiveShell, where: str) -> None:
        super().__init__(where)
        self._shell = shell
        self.canvas = DisplayCanvas()

    def found(self, finding: Finding) -> None:
        super().found(finding)
        self.canvas.finish(self.diagnosis)

    def ask(self, question: Ask) -> str:
        """A SOURCE that is `prompt` is asked for here. Raises NobodyAnswers."""
        return prompts.answer(self._shell, question, self.where)


def examine(shell: InteractiveShell, session: Session, line: Line) -> None:
    """Examine what a line would open, and show it. Raises SpecError, EngineError, KeyboardInterrupt."""
    assert line.target is not None
    if getattr(shell, "kernel", None) is not None:
        stages = _DisplayStages(shell, line.target.host)
        examination = examine_line(session, line, stages)
        stages.canvas.finish(Diagnosis(examination))
        return
    printed = TerminalStages(line.target.host)
    try:
        printed.finish(examine_line(session, line, printed))
    finally:
        printed.erase()


def offer(error: ForwardError, line: Line | None) -> None:
    """A failed opening whose reason the doctor can tell ends with the line that asks it."""
    if line is None or line.action is not Action.OPEN or not isinstance(line.target, SshTarget | ClusterTarget):
        return
    if line.members or not isinstance(error, _EXPLAINED) or not error.hop:
        return
    stop = "" if error.hint.endswith(("?", ".")) else "."
    hint = f"{error.hint}{stop} " if error.hint else ""
    words = _host_line(line, line.target) if isinstance(line.target, SshTarget) else _cluster_line(line, line.target)
    error.hint = f"{hint}See each hop: {words}"


# The line itself is not repeated: its options may name a SOURCE.


def _host_line(line: Line, target: SshTarget) -> str:
    words = f"{SSH.magic} --doctor"
    if target != SshTarget(target.host, username=target.username, port=target.port):
        return f"{words}, then the same words"
    host = f"[{target.host}]" if ":" in target.host else target.host
    user = f"{target.username}@" if target.username else ""
    port = f":{target.port}" if target.port else ""
    ends = [str(each.connect) for each in line.forwards if each.kind is Kind.LOCAL and each.connect]
    return " ".join([words, f"{user}{host}{port}", *dict.fromkeys(end.removeprefix(":") for end in ends)])


def _cluster_line(line: Line, target: ClusterTarget) -> str:
    words = [KUBERNETES.magic, "--doctor"]
    if target != ClusterTarget(target.namespace, target.context, target.kubeconfig):
        return f"{' '.join(words)}, then the same words"
    given = (("-n", target.namespace), ("--context", target.context), ("--kubeconfig", target.kubeconfig))
    ends = [each.connect for each in line.forwards if each.connect is not None]
    # A selector stands behind its -l.
    words += [word for end in ends[:1] for word in end.host.split(" ", 1)]
    words += dict.fromkeys(end.port_name or str(end.port) for end in ends)
    words += [word for option, value in given if value for word in (option, value)]
    return shlex.join(words)
