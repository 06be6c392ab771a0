"""Openings that take their time. Ground floor, no I/O."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from html import escape

from ..model import Snapshot
from .facts import way
from .view import View, block
from .words import short_seconds


@dataclass(frozen=True, slots=True, repr=False)
class Progress(View):
    """Openings that take their time: the step each is in, and for how long."""

    snapshots: tuple[Snapshot, ...]
    now: float = field(default_factory=time.time)

    def line(self, snapshot: Snapshot) -> str:
        """One opening as one line."""
        done = ", ".join(steps(snapshot, self.now))
        return f"{snapshot.name}  {snapshot.state}  {way(snapshot)}  {done}".rstrip()

    def plain(self) -> str:
        return "\n".join(self.line(snapshot) for snapshot in self.snapshots)

    def html(self) -> str:
        return block(escape(self.plain()))


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
