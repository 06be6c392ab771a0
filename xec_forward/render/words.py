"""Numbers, times and sizes in words. Ground floor, no I/O."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..model import Snapshot, Step
from ..services import PORTS

# Below this nothing worth a word moves, bytes per second.
SLOWEST = 1.0


def opening(steps: Sequence[Step]) -> str:
    """What an opening took: `0.8 s (ssh 0.5, target 0.2, postgresql ok)`."""
    done = [step for step in steps if step.seconds is not None]
    if not done:
        return ""
    total = sum(step.seconds or 0.0 for step in done)
    parts = [
        # Of the service's own protocol what counts is whether it was seen; a note tells what was seen instead.
        f"{step.name} {'ok' if step.outcome == 'ok' else 'not seen'}"
        if step.name in PORTS
        else f"{step.name} {short_seconds(step.seconds or 0.0)}"
        for step in done
    ]
    return f"{short_seconds(total)} s ({', '.join(parts)})"


def steps(snapshot: Snapshot, now: float | None) -> list[str]:
    """How far an opening has come, a step each.

    Args:
        now: seconds since the epoch; None: without how long the step that runs has taken.
    """
    parts = []
    for step in snapshot.steps:
        if step.seconds is not None:
            parts.append(f"{step.name} {short_seconds(step.seconds)} s")
        else:
            what = f" ({snapshot.waiting})" if snapshot.waiting else ""
            long = "" if now is None else f" for {max(0.0, now - snapshot.step_since):.0f} s"
            parts.append(f"{step.name}{what}{long}...")
    return parts


def short_seconds(seconds: float) -> str:
    """Seconds with one digit after the point, with two where they are few."""
    return f"{seconds:.1f}" if seconds >= 0.095 else f"{seconds:.2f}"


def duration(seconds: float) -> str:
    """How long something has lasted, in the two largest units at most: `12 min`, `3 h 5 min`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def clock(moment: float, now: float) -> str:
    """A moment as this machine's clock shows it: `14:02:09`, with its date where that is another day.

    Args:
        moment, now: seconds since the epoch.
    """
    told, today = time.localtime(moment), time.localtime(now)
    same_day = told[:3] == today[:3]
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", told)


def size(count: int) -> str:
    """A number of bytes in decimal units."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 9.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def speed(rate: float) -> str:
    """Bytes per second in words, "" where nothing moves: `1.2 MB/s`."""
    return f"{size(round(rate))}/s" if rate >= SLOWEST else ""
