"""A cell whose first line opens tunnels for its code: `%%forward TARGET SPEC ...`, `%%k8s_forward RESOURCE PORT ...`.

That line becomes a call, and the rest of the cell stays what it is (an input transformer). So a top-level await, the
numbers of the lines, the value of the last expression and magics in the code are IPython's own affair, and code that
does not compile opens nothing. What the call opened is closed when IPython says that the cell has ended, however it
did.

A first line without a SPEC heads a list: that cell is left to the magic.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from IPython.core.inputtransformer2 import cell_magic

if TYPE_CHECKING:
    from ..client.tunnel import Tunnel
    from ..model import Counters

_HEAD = re.compile(r"%%(forward|k8s_forward)[ \t]+(\S.*)")


def rewrite(lines: list[str]) -> list[str]:
    """The lines of a cell for Python, where its first ones open tunnels for it; else as they are.

    For `TransformerManager.line_transforms`, before IPython's own: there the cells of magics are turned into calls.
    """
    head: list[str] = []
    while lines and (found := _HEAD.match(lines[0])) and _opens_for_code(found[1], found[2], lines[1:]):
        # The dots stand for the lines that follow.
        head.append(f"get_ipython().run_cell_magic({found[1]!r}, {found[2].rstrip()!r}, ...)\n")
        lines = lines[1:]
        while not lines[0].strip():
            head.append(lines[0])
            lines = lines[1:]
    return head + cell_magic(lines) if head else lines  # type: ignore[no-untyped-call]


def has_code(lines: list[str]) -> bool:
    """Whether there is more than comments."""
    return any(line.strip() and not line.lstrip().startswith("#") for line in lines)


def _opens_for_code(name: str, text: str, body: list[str]) -> bool:
    from ..line import KUBERNETES, SSH
    from ..line.outline import says_what_to_open

    return has_code(body) and says_what_to_open(text, SSH if name == "forward" else KUBERNETES)


@dataclass(slots=True, eq=False)
class Cell:
    """A cell that runs, and what is to be undone at its end.

    Attributes:
        text: as it was typed; None where IPython announces neither its beginning nor its end (a silent one).
        began: seconds since the epoch.
        tunnels: those opened for it.
        loans: what the names of other tunnels were given for.
        before: what had gone through each tunnel when it began, by the tunnel's number.
    """

    text: str | None
    began: float
    tunnels: list[Tunnel] = field(default_factory=list)
    loans: list[object] = field(default_factory=list)
    before: dict[int, Counters] = field(default_factory=dict)


class _Stack(threading.local):
    """The cells that run on a thread, the innermost last; each subshell of a kernel is a thread of its own."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []


class Cells:
    """Follows the cells of one shell by IPython's events.

    Args:
        enter: called with each cell that begins.
        leave: called with each cell that has ended, and what it raised.
    """

    def __init__(self, enter: Callable[[Cell], None], leave: Callable[[Cell, BaseException | None], None]) -> None:
        self._enter = enter
        self._leave = leave
        self._stack = _Stack()

    def current(self) -> Cell:
        """The innermost cell that runs."""
        if not self._stack.cells:
            self._stack.cells.append(Cell(None, time.time()))
        return self._stack.cells[-1]

    @contextmanager
    def inner(self) -> Iterator[None]:
        """What runs in it counts as a cell."""
        cell = Cell("<inner>", time.time())
        self._stack.cells.append(cell)
        try:
            yield
        finally:
            self._end(cell, None)

    def end_all(self) -> None:
        """Nobody follows them any more."""
        for cell in self._stack.cells[:1]:
            self._end(cell, None)

    # ---- IPython's events ----

    def pre_run_cell(self, info: Any) -> None:
        """A cell begins."""
        cell = Cell(info.raw_cell, time.time())
        self._stack.cells.append(cell)
        self._enter(cell)

    def post_run_cell(self, result: Any) -> None:
        """A cell has ended. There is no result where the kernel cancelled it; an empty cell has never begun."""
        text = result.info.raw_cell if result is not None else None
        for cell in reversed(self._stack.cells):
            if result is None or cell.text == text:
                self._end(cell, result.error_in_exec if result is not None else None)
                return

    def post_execute(self) -> None:
        """Something has ended that may have been silent."""
        if self._stack.cells and self._stack.cells[-1].text is None:
            self._end(self._stack.cells[-1], None)

    def _end(self, cell: Cell, error: BaseException | None) -> None:
        """End a cell, and those in it whose end nobody told."""
        while cell in self._stack.cells:
            last = self._stack.cells.pop()
            self._leave(last, error if last is cell else None)
