"""When tunnels were not there for their clients: kept for a while, to be told of an error that came from it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakSet

from ..model import Counters, Snapshot, TunnelState
from .tunnel import Tunnel

# (Of one that had been ready, `opening` is what another engine does with it.)
_DOWN = (
    TunnelState.OPENING,
    TunnelState.RECONNECTING,
    TunnelState.WAITING,
    TunnelState.FAILED,
    TunnelState.CLOSED,
)
# How many are kept, of all tunnels together.
_KEPT = 200


@dataclass(slots=True, eq=False)
class Outage:
    """A time in which a tunnel that had been ready was not.

    Attributes:
        last: the tunnel as it was last in it; its state says what it does, or did last.
        host, port: where it listens; port 0 where it has none. A closed tunnel's snapshot no longer tells.
        counters: what had gone through it when it began.
        since, until: seconds since the epoch; until is None while it lasts.
    """

    last: Snapshot
    host: str
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
        self._addresses: dict[int, tuple[str, int]] = {}

    def watch(self, tunnels: Iterable[Tunnel]) -> None:
        """Follow these tunnels from now on; one that is followed already is only looked at."""
        for tunnel in tunnels:
            if tunnel not in self._watched:
                self._watched.add(tunnel)
                tunnel.add_follower(self._note)
            self._note(tunnel.snapshot)

    def between(self, start: float, end: float) -> list[Outage]:
        """Those at any time between two moments (seconds since the epoch), the oldest first."""
        with self._lock:
            return [outage for outage in self._outages if outage.overlaps(start, end)]

    def _note(self, snapshot: Snapshot) -> None:
        number = snapshot.tunnel
        with self._lock:
            if not snapshot.opened and number not in self._addresses:
                return  # its opening failed, and whoever asked for it was told
            if snapshot.local_port or number not in self._addresses:
                self._addresses[number] = (snapshot.local_host, snapshot.local_port)
            host, port = self._addresses[number]
            if snapshot.state.ended:
                del self._addresses[number]
            lasting = [each for each in self._outages if each.until is None and each.last.tunnel == number]
            if snapshot.state not in _DOWN:
                for outage in lasting:
                    if snapshot.serial > outage.last.serial:
                        outage.until = snapshot.since
            elif not lasting:
                self._outages.append(Outage(snapshot, host, port, snapshot.counters, snapshot.since))
            elif snapshot.serial > lasting[-1].last.serial:
                lasting[-1].last = snapshot
