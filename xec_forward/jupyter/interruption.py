"""Ctrl-C while a magic waits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a magic waited: everything under way was put back. One line in a notebook, as our errors are."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._shown: TracebackType | None = None

    def _render_traceback_(self) -> list[str]:
        if self._shown is not None and self._shown is self.__traceback__:
            from ..errors import full_traceback

            return full_traceback(self)
        self._shown = self.__traceback__
        return [str(self)]


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt at once, also in a cell with a top-level await.

    There ipykernel (`_cancel_on_sigint`) turns it into the cancelling of a task that could not run before we return.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler or before is None:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
