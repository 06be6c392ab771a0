"""`%forward --doctor`: the stages appear in one display as they come; and the line that a failed opening ends with."""

from __future__ import annotations

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
    RefusedError,
    UnreachableError,
)
from ..line import Action, Line
from ..model import Ask, Finding
from ..options import SshTarget
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
    if line is None or line.action is not Action.OPEN or not isinstance(line.target, SshTarget):
        return
    if not isinstance(error, _EXPLAINED) or not error.hop:
        return
    stop = "" if error.hint.endswith(("?", ".")) else "."
    hint = f"{error.hint}{stop} " if error.hint else ""
    error.hint = f"{hint}See each hop: {_doctor_line(line, line.target)}"


def _doctor_line(line: Line, target: SshTarget) -> str:
    """The line itself is not repeated: its options may name a SOURCE."""
    words = "%forward --doctor"
    if target != SshTarget(target.host, username=target.username, port=target.port):
        return f"{words}, then the same words"
    host = f"[{target.host}]" if ":" in target.host else target.host
    user = f"{target.username}@" if target.username else ""
    port = f":{target.port}" if target.port else ""
    ends = [str(each.connect) for each in line.forwards if each.kind is Kind.LOCAL and each.connect]
    return " ".join([words, f"{user}{host}{port}", *dict.fromkeys(end.removeprefix(":") for end in ends)])
