"""When tunnels were not there for their clients: kept for a while, to be told of an error that came from it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakSet

from ..model import Counters, Snapshot, TunnelState
from .events import Event
from .tunnel import Tunnel

_DOWN = (TunnelState.RECONNECTING, TunnelState.WAITING, TunnelState.FAILED, TunnelState.CLOSED)
_EVENTS = ("reconnecting", "reconnected", "degraded", "error", "close")
# How many are kept, of all tunnels together.
_KEPT = 200


@dataclass(slots=True, eq=False)
class Outage:
    """A time in which a tunnel that had been ready was not.

    Attributes:
        last: the tunnel as it was last in it; its state says what it does, or did last.
        port: the local one, 0 where it has none; a closed tunnel's snapshot no longer tells.
        counters: what had gone through it when it began.
        since, until: seconds since the epoch; until is None while it lasts.
    """

    last: Snapshot
    port: int
    counters: Counters
    since: float
    until: float | None = None

    def overlaps(self, start: float, end: float) -> bool:
        """Whether it was at any time between two moments."""
        return self.since <= end and (self.until is None or self.until >= start)


class Outages:
    """The outages of the tunnels that are watched. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: WeakSet[Tunnel] = WeakSet()
        self._outages: deque[Outage] = deque(maxlen=_KEPT)
        self._ports: dict[int, int] = {}

    def watch(self, tunnels: Iterable[Tunnel]) -> None:
        """Follow these tunnels from now on; one that is followed already is only looked at."""
        for tunnel in tunnels:
            if tunnel not in self._watched:
                self._watched.add(tunnel)
                for name in _EVENTS:
                    tunnel.on(name, self._take)
            self._note(tunnel.snapshot)

    def between(self, start: float, end: float) -> list[Outage]:
        """Those at any time between two moments (seconds since the epoch), the oldest first."""
        with self._lock:
            return [outage for outage in self._outages if outage.overlaps(start, end)]

    def _take(self, event: Event) -> None:
        self._note(event.snapshot)

    def _note(self, snapshot: Snapshot) -> None:
        if not snapshot.opened:
            return  # its opening failed, and whoever asked for it was told
        with self._lock:
            port = self._ports.pop(snapshot.tunnel, 0) or snapshot.local_port
            if not snapshot.state.ended:
                self._ports[snapshot.tunnel] = snapshot.local_port or port
            lasting = [each for each in self._outages if each.until is None and each.last.tunnel == snapshot.tunnel]
            if snapshot.state not in _DOWN:
                for outage in lasting:
                    if snapshot.serial > outage.last.serial:
                        outage.until = snapshot.since
            elif not lasting:
                self._outages.append(Outage(snapshot, port, snapshot.counters, snapshot.since))
            elif snapshot.serial > lasting[-1].last.serial:
                lasting[-1].last = snapshot
