"""`--doctor` in a notebook: the stages appear in one display as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..client.doctor import SilentStages, TerminalStages, examine_line
from ..client.watcher import question_text
from ..diagnosis import Diagnosis
from ..line import Line
from ..model import Ask, Finding
from . import prompts
from .live import DisplayCanvas

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..client.session import Session


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
        return prompts.ask(self._shell, question_text(question, self.where), echo=question.echo)


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
