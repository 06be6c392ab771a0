"""What moved through a tunnel lately: bytes per second, as a rate and as the points of a small line drawing.

The engine reports counters as they change, about twice a second; a history is made of these reports alone. It keeps
no clock of its own, and costs nothing while nothing moves.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from ..model import Snapshot

# How far back the line goes: so many points, a second each.
POINTS = 30
# Seconds over which the present rate is taken.
RECENT = 2.0
# What a report adds has moved since the one before it, and within this time: more than the pause between two, seconds.
_REPORTED = 1.0
# Reports that are kept; at two a second they reach further back than the line.
_KEPT = 4 * POINTS


class History:
    """One tunnel's reports. Moments are seconds of `time.monotonic`, the clock of `Snapshot.serial`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def add(self, snapshot: Snapshot) -> None:
        """Take note of a report; one that is older than the last is passed over."""
        when, counters = snapshot.serial / 1e9, snapshot.counters
        with self._lock:
            if not self._reports or when > self._reports[-1][0]:
                self._reports.append((when, counters.bytes_up + counters.bytes_down))

    def rate(self, now: float) -> float:
        """Bytes per second, both ways together, in the last two seconds."""
        return sum(moved for _, moved in self._shares(now - RECENT, RECENT)) / RECENT

    def line(self, now: float) -> tuple[int, ...]:
        """Bytes in each of the last 30 seconds, both ways together, the oldest first."""
        points = [0.0] * POINTS
        for second, moved in self._shares(now - POINTS, 1.0):
            if second < POINTS:
                points[second] += moved
        return tuple(round(moved) for moved in points)

    def _shares(self, start: float, width: float) -> Iterator[tuple[int, float]]:
        """What moved, by spaces of `width` seconds counted from `start`: the space's number and bytes of one report."""
        with self._lock:
            reports = tuple(self._reports)
        for (before, had), (when, has) in pairwise(reports):
            # Another engine begins to count at 0.
            moved, begin = has - had, max(before, when - _REPORTED)
            if moved <= 0 or when <= start:
                continue
            for space in range(max(0, int((begin - start) // width)), int((when - start) // width) + 1):
                low, high = max(begin, start + space * width), min(when, start + (space + 1) * width)
                if high > low:
                    yield space, moved * (high - low) / (when - begin)
