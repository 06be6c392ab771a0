"""What the demo shows while it works: one line per step, with the seconds so far.

On a terminal the line of the running step is rewritten ten times a second; elsewhere each step is one line,
written when it ends (and one more after 10 s of silence, so that a log does not look dead).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SPINNER = "|/-\\"
_COLUMN = 64


class Progress:
    """Writes steps and their results to `out` (stdout)."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._terminal = self._out.isatty()
        self._lock = threading.Lock()
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the first step could have begun."""
        return time.monotonic() - self._began

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show `name` and its seconds while the block runs; its end says whether it went well."""
        began = time.monotonic()
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(name, began, done), daemon=True)
        ticker.start()
        mark = "failed"
        try:
            yield
            mark = ""
        except (asyncio.CancelledError, KeyboardInterrupt):
            mark = "interrupted"
            raise
        finally:
            done.set()
            ticker.join()
            self._write(self._line(name, time.monotonic() - began, mark), end="\n", rewrite=self._terminal)

    def text(self, text: str, indent: str = "      ") -> None:
        """Show text below the last step, indented; colours only on a terminal."""
        if not self._terminal:
            text = _ANSI.sub("", text)
        for line in text.rstrip().splitlines():
            self._write(f"{indent}{line.rstrip()}", end="\n")

    def line(self, text: str = "") -> None:
        """Show one line as it is."""
        self._write(text, end="\n")

    def _line(self, name: str, seconds: float, mark: str) -> str:
        # A terminal that wraps the line could not rewrite it; a log shows it in full.
        width = min(_COLUMN, shutil.get_terminal_size((80, 24)).columns - 16) if self._terminal else _COLUMN
        if len(name) > width and self._terminal:
            name = name[: width - 1] + "…"
        return f"  {name:<{width}}{seconds:6.1f} s{' ' + mark if mark else ''}"

    def _tick(self, name: str, began: float, done: threading.Event) -> None:
        turn = 0
        while not done.wait(0.1 if self._terminal else 10.0):
            seconds = time.monotonic() - began
            if self._terminal:
                self._write(self._line(name, seconds, _SPINNER[turn % 4]), end="", rewrite=True)
            else:
                self._write(self._line(name, seconds, "so far"), end="\n")
            turn += 1

    def _write(self, text: str, *, end: str, rewrite: bool = False) -> None:
        with self._lock:
            self._out.write(("\r\x1b[K" if rewrite else "") + text + end)
            self._out.flush()
