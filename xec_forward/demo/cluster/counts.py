"""Counts of what comes and goes, for a test to look at from its own thread."""

from __future__ import annotations

from types import TracebackType


class Count:
    """Things that live for a while: used as a context for as long as one lives.

    Attributes:
        total: all that ever were.
        live: those that are now.
        peak: the most that were at once.
    """

    def __init__(self) -> None:
        self.total = 0
        self.live = 0
        self.peak = 0

    def __enter__(self) -> None:
        self.total += 1
        self.live += 1
        self.peak = max(self.peak, self.live)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live -= 1

    def __repr__(self) -> str:
        return f"<{self.live} live, {self.peak} at most, {self.total} in all>"
