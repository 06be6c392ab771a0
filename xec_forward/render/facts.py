"""One tunnel in words: what card, table, panel and sidebar have in common. Ground floor, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import from_code
from ..model import Snapshot, TunnelState
from .words import duration, size, speed, steps

SIGNS = {
    TunnelState.IDLE: "○",
    TunnelState.OPENING: "◌",
    TunnelState.READY: "●",
    TunnelState.RECONNECTING: "↻",
    TunnelState.WAITING: "⏸",
    TunnelState.DEGRADED: "◐",
    TunnelState.FAILED: "✗",
    TunnelState.CLOSING: "◌",
    TunnelState.CLOSED: "□",
}

_NOT_OPEN = (TunnelState.FAILED, TunnelState.CLOSING, TunnelState.CLOSED)


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to tell of a tunnel at one moment.

    Attributes:
        ttl: seconds from its first being ready to its end; 0 for none.
        rate: bytes per second, both ways together.
        line: bytes in each of the last seconds, both ways together, the oldest first.
    """

    snapshot: Snapshot
    ttl: float = 0.0
    rate: float = 0.0
    line: tuple[int, ...] = ()

    @classmethod
    def of(cls, told: Snapshot | Facts) -> Facts:
        """Those of a Snapshot; facts as they are."""
        return told if isinstance(told, Facts) else cls(told)

    @property
    def sign(self) -> str:
        """What stands before the word of its state."""
        return SIGNS[self.snapshot.state]

    @property
    def open(self) -> bool:
        """Whether it counts as open."""
        return self.snapshot.state not in _NOT_OPEN

    @property
    def clients(self) -> str:
        """Its clients now and in all, for a column: `1 of 4`, `1 (2 waiting) of 4`."""
        counters = self.snapshot.counters
        return f"{counters.clients}{self._parked} of {counters.clients_total}"

    @property
    def users(self) -> str:
        """The same in a sentence, "" where there was none: `1 client now (2 waiting), 4 in all`."""
        counters = self.snapshot.counters
        if not counters.clients_total:
            return ""
        word = "client" if counters.clients == 1 else "clients"
        return f"{counters.clients or 'no'} {word} now{self._parked}, {counters.clients_total} in all"

    @property
    def _parked(self) -> str:
        parked = self.snapshot.counters.parked
        return f" ({parked} waiting)" if parked else ""

    @property
    def traffic(self) -> str:
        """Who uses it and what went through it, "" where nothing has: `1 client now, 4 in all, 1 kB sent, ...`."""
        return ", ".join(filter(None, [self.users, self.moved]))

    @property
    def moved(self) -> str:
        """What went through it, and what did not, "" where nothing has: `1 kB sent, 2 MB received, 3 refused`."""
        parts = [f"{self.sent} sent, {self.received} received"] if self.users else []
        return ", ".join([*parts, *(f"{count} {word}" for word, count in self.troubles.items() if count)])

    @property
    def troubles(self) -> dict[str, int]:
        """Clients that were turned away here (`rejected`), and connections that the far side refused (`refused`)."""
        return {"rejected": self.snapshot.counters.rejected, "refused": self.snapshot.counters.refused}

    @property
    def sent(self) -> str:
        """Bytes that led away from the notebook."""
        return size(self.snapshot.counters.bytes_up)

    @property
    def received(self) -> str:
        """Bytes that led to it."""
        return size(self.snapshot.counters.bytes_down)

    @property
    def speed(self) -> str:
        """Its rate in words, "" while nothing moves."""
        return speed(self.rate)

    @property
    def closes(self) -> float:
        """When its ttl ends it, seconds since the epoch; 0 where nothing does."""
        opened = self.snapshot.opened
        return opened + self.ttl if self.ttl and opened and self.open else 0.0

    @property
    def fault(self) -> tuple[str, str]:
        """The last error without its hint, and that; both "" where there is none."""
        fault = self.snapshot.error
        if fault is None:
            return "", ""
        return str(from_code(fault.kind, fault.message, hop=fault.hop)), fault.hint

    @property
    def times(self) -> list[tuple[str, float]]:
        """What grows older by itself: a word, and the moment (seconds since the epoch) that it counts from, or to.

        `up` since it was first ready, or `for` since it entered another state; `closes in` where its ttl ends it.
        """
        snapshot = self.snapshot
        age = ("up", snapshot.opened) if snapshot.state is TunnelState.READY else ("for", snapshot.since)
        return [(word, moment) for word, moment in (age, ("closes in", self.closes)) if moment]

    def ages(self, now: float) -> list[str]:
        """The same in words: `up 12 min`, `closes in 48 min`."""
        return [f"{word} {duration(abs(now - moment))}" for word, moment in self.times]

    def up(self, now: float) -> str:
        """For how long it has been there since it was first ready, "" where it was not: `12 min`."""
        return duration(now - self.snapshot.opened) if self.snapshot.opened and self.open else ""

    def left(self, now: float) -> str:
        """How long its ttl leaves it, "" where it has none: `48 min`."""
        return duration(self.closes - now) if self.closes else ""

    def json(self) -> dict[str, Any]:
        """The same for a face that draws by itself, as plain JSON.

        state, sign: the word, and the sign that goes with it; open: whether it counts as open.
        way: listener, hops, far end; address: where clients connect.
        how: lines: while it opens its steps, and then who uses it and what went through it.
        times: as they are here. rate: as text, "" while nothing moves; line: as it is here.
        error, hint: the last error without its hint, and that, or what a waiting one waits for; "" where there is none.
        """
        snapshot = self.snapshot
        error, hint = self.fault
        opening = snapshot.state is TunnelState.OPENING
        return {
            "tunnel": snapshot.tunnel,
            "name": snapshot.name,
            "state": str(snapshot.state),
            "sign": self.sign,
            "open": self.open,
            "way": list(snapshot.way),
            "address": snapshot.listen,
            "how": [", ".join(steps(snapshot, None))] if opening else [*filter(None, [self.users, self.moved])],
            "times": [list(time) for time in self.times],
            "rate": self.speed,
            "line": list(self.line),
            "error": error,
            "hint": "Reconnect logs in again" if snapshot.state is TunnelState.WAITING else hint,
            "notes": list(snapshot.notes),
        }


def way(snapshot: Snapshot) -> str:
    """From the listener over the hops to the far end: `127.0.0.1:5432 -> bastion -> pg.vpc:5432`."""
    return " -> ".join(snapshot.way)


def traffic(snapshot: Snapshot) -> str:
    """See `Facts.traffic`."""
    return Facts(snapshot).traffic


def way_on(snapshot: Snapshot) -> list[str]:
    """What a person is to do about a tunnel that waits for one."""
    return [f"%forward --reconnect {snapshot.name} logs in again"] if snapshot.state is TunnelState.WAITING else []
