"""What an opening shows while it is waited for: nothing for a second, then the step it is in and for how long.

In a terminal it is one line that is written over, and erased at the end; elsewhere (a pipe, a file) nothing. A
notebook has a canvas of its own, in jupyter/.
"""

from __future__ import annotations

import shutil
import sys
import time

from ..model import Ask, Snapshot
from ..render import Progress, View
from .watcher import ScriptWatcher

# Nothing is shown of an opening that takes less than this, seconds.
PATIENCE = 1.0
# The shortest time between two updates, seconds.
PAUSE = 0.25


class Canvas:
    """Where a waiting caller draws. This one draws nothing but the last view."""

    def draw(self, view: Progress) -> None:
        """Show how things stand."""

    def erase(self) -> None:
        """Take it away."""

    def finish(self, view: View) -> None:
        """Show the last view in its place."""
        print(view.plain(), flush=True)


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
        super().finish(view)


def standard_canvas() -> Canvas:
    """The canvas that standard output can show."""
    return TerminalCanvas() if sys.stdout.isatty() else Canvas()


class LiveWatcher(ScriptWatcher):
    """A watcher (`watcher.Watcher`) that shows progress, and asks the person at the terminal.

    Args:
        canvas: where it draws.
        where: the target as the user wrote it, for the text of questions.
    """

    def __init__(self, canvas: Canvas, where: str = "") -> None:
        super().__init__(where)
        self._canvas = canvas
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
            return self.put(question)
        finally:
            # The time that the person took is nobody's slowness.
            self._next = time.monotonic() + PATIENCE

    def put(self, question: Ask) -> str:
        """Ask, with nothing drawn in the way. Raises NobodyAnswers."""
        return super().ask(question)

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
