"""Openings that take their time. Ground floor, no I/O."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from html import escape

from ..model import Snapshot
from .facts import way
from .view import View, block
from .words import steps


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
