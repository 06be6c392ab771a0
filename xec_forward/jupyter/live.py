"""What a waiting cell shows: nothing for a second, then the step each opening is in and for how long.

In a notebook it is one display that is updated in place, and that the card replaces; in a terminal one line that
is written over, and erased at the end; elsewhere (a pipe, a file) nothing.
"""

from __future__ import annotations

import shutil
import sys
import time
import uuid
from typing import TYPE_CHECKING

from ..model import Ask, Snapshot
from . import prompts
from ..render import Progress, Text, View

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# Nothing is shown of an opening that takes less than this, seconds.
PATIENCE = 1.0
# The shortest time between two updates, seconds.
PAUSE = 0.25


class Canvas:
    """Where a waiting cell draws. This one draws nothing but the last view."""

    def draw(self, view: Progress) -> None:
        """Show how things stand."""

    def erase(self) -> None:
        """Take it away."""

    def finish(self, view: View) -> None:
        """Show the last view in its place."""
        print(view.plain())


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


class TerminalCanvas(Canvas):
    """The last line of a terminal, written over."""

    def __init__(self) -> None:
        self._drawn = False

    def draw(self, view: Progress) -> None:
        lines = view.plain().split("\n")
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        # A line that wraps could not be erased.
        room = shutil.get_terminal_size().columns - 1
        sys.stdout.write(f"\r\x1b[2K{(lines[0] + more)[:room]}")
        sys.stdout.flush()
        self._drawn = True

    def erase(self) -> None:
        if self._drawn:
            sys.stdout.write("\r\x1b[2K")
            sys.stdout.flush()
            self._drawn = False

    def finish(self, view: View) -> None:
        self.erase()
        print(view.plain())


def canvas_for(shell: InteractiveShell) -> Canvas:
    """The canvas that this front-end can show."""
    if getattr(shell, "kernel", None) is not None:
        return DisplayCanvas()
    return TerminalCanvas() if sys.stdout.isatty() else Canvas()


class LiveWatcher:
    """The watcher of a magic (client.watcher.Watcher): shows progress, asks the person in front of it.

    Args:
        where: the target as the user wrote it, for the text of questions.
    """

    def __init__(self, shell: InteractiveShell, where: str = "", *, quiet: bool = False) -> None:
        self._shell = shell
        self._where = where
        self._canvas = Canvas() if quiet else canvas_for(shell)
        self._snapshots: dict[int, Snapshot] = {}
        self._next = time.monotonic() + PATIENCE
        self._drawn = ""

    def progress(self, snapshot: Snapshot) -> None:
        """Another step, or another state."""
        self._snapshots[snapshot.tunnel] = snapshot
        self._draw()

    def tick(self) -> None:
        """Time has passed."""
        self._draw()

    def ask(self, question: Ask) -> str:
        """Put a question to a person. Raises NobodyAnswers."""
        self._canvas.erase()
        self._drawn = ""
        try:
            return prompts.answer(self._shell, question, self._where)
        finally:
            # The time that the person took is nobody's slowness.
            self._next = time.monotonic() + PATIENCE

    def erase(self) -> None:
        """The opening came to nothing: leave nothing of it on the screen."""
        self._canvas.erase()

    def finish(self, view: View) -> None:
        """Show the cards in the place of the progress."""
        self._canvas.finish(view)

    def _draw(self) -> None:
        now = time.monotonic()
        if now < self._next or not self._snapshots:
            return
        view = Progress(tuple(self._snapshots.values()))
        text = view.plain()
        if text != self._drawn:
            self._canvas.draw(view)
            self._drawn, self._next = text, now + PAUSE
