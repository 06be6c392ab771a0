"""What a waiting cell shows (`client.live`), where a notebook shows it: one display that is updated in place, and that
the card replaces.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from ..client.live import Canvas, standard_canvas
from ..client.live import LiveWatcher as TerminalWatcher
from ..client.watcher import question_text
from ..model import Ask
from ..render import Progress, Text, View
from . import prompts

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class DisplayCanvas(Canvas):
    """One display of a notebook, updated in place."""

    def __init__(self) -> None:
        self._id = ""

    def draw(self, view: Progress) -> None:
        self._show(view)

    def erase(self) -> None:
        if self._id:
            self._show(Text(""))

    def finish(self, view: View) -> None:
        self._show(view)

    def _show(self, view: View) -> None:
        from IPython.display import display

        if self._id:
            display(view, display_id=self._id, update=True)  # type: ignore[no-untyped-call]
        else:
            self._id = f"xec_forward-{uuid.uuid4().hex}"
            display(view, display_id=self._id)  # type: ignore[no-untyped-call]


def canvas_for(shell: InteractiveShell) -> Canvas:
    """The canvas that this front-end can show."""
    return DisplayCanvas() if getattr(shell, "kernel", None) is not None else standard_canvas()


class LiveWatcher(TerminalWatcher):
    """The watcher of a magic: shows progress, asks the person in front of it.

    Args:
        where: the target as the user wrote it, for the text of questions.
    """

    def __init__(self, shell: InteractiveShell, where: str = "", *, quiet: bool = False) -> None:
        super().__init__(Canvas() if quiet else canvas_for(shell), where)
        self._shell = shell

    def put(self, question: Ask) -> str:
        """Ask, with nothing drawn in the way. Raises NobodyAnswers."""
        return self.pose(question_text(question, self.where), echo=question.echo)

    def pose(self, prompt: str, *, echo: bool) -> str:
        """Ask in the front-end's own input field. Raises NobodyAnswers, KeyboardInterrupt."""
        return prompts.ask(self._shell, prompt, echo=echo)
