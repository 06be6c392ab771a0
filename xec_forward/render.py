"""Cards and the table: a Snapshot as plain text and as HTML. Ground floor, no I/O; no secret can be in a Snapshot.

The state is always a word, in HTML with a sign before it, never a colour alone. HTML uses the surrounding
colours, so that it reads in light and dark, and every text in it is escaped.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from .model import Snapshot, Step, TunnelState
from .services import PORTS

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

_PRE = "font-family:var(--jp-code-font-family,monospace);font-size:90%;white-space:pre-wrap;color:inherit"
_DIM = "opacity:.75"
_CELL = "text-align:left;padding:1px 12px 1px 0;color:inherit;background:transparent"


class View(ABC):
    """Something that is shown: `plain()` and `html()` say the same."""

    @abstractmethod
    def plain(self) -> str:
        """As text, without a newline at its end."""

    @abstractmethod
    def html(self) -> str:
        """As HTML."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": self.plain(), "text/html": self.html()}

    def __repr__(self) -> str:
        return self.plain()


@dataclass(frozen=True, slots=True, repr=False)
class Card(View):
    """One tunnel.

    Attributes:
        names: the names it has in the notebook.
        variables: the environment variables set for it.
        remarks: what else there is to say, a line each.
        reused: the line was run before and its tunnel still serves.
        fresh: it was just opened: the card says what that took, not how it fares.
        now: seconds since the epoch.
    """

    snapshot: Snapshot
    names: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    reused: bool = False
    fresh: bool = False
    now: float = field(default_factory=time.time)

    def _head(self) -> tuple[str, str, str, str]:
        """Name, state, way, and how it went or fares."""
        return self.snapshot.name, str(self.snapshot.state), way(self.snapshot), self._how()

    def _how(self) -> str:
        snapshot = self.snapshot
        up = f"up {duration(self.now - snapshot.opened)}" if snapshot.opened and not snapshot.state.ended else ""
        if self.reused:
            return f"reused, {up}" if up else "reused"
        if self.fresh:
            return opening(snapshot.steps)
        return ", ".join(filter(None, [up, traffic(snapshot)]))

    def _lines(self) -> list[str]:
        """What stands under the head."""
        lines = [f"names: {', '.join(self.names)}"] if self.names else []
        if self.variables:
            lines.append(f"environment: {', '.join(self.variables)}")
        if self.snapshot.error is not None:
            lines += [str(self.snapshot.error), *([f"log: {self.snapshot.log}"] if self.snapshot.log else [])]
        lines += _way_on(self.snapshot)
        return [*lines, *(f"note: {note}" for note in (*self.snapshot.notes, *self.remarks))]

    def plain(self) -> str:
        return "\n  ".join(["  ".join(filter(None, self._head())), *self._lines()])

    def html(self) -> str:
        name, state, path, how = self._head()
        sign = f"{SIGNS[self.snapshot.state]} {escape(state)}"
        head = f"<b>{escape(name)}</b>  {sign}  {escape(path)}"
        if how:
            head += f'  <span style="{_DIM}">{escape(how)}</span>'
        return block("\n".join([head, *(f"  {escape(line)}" for line in self._lines())]))


@dataclass(frozen=True, slots=True, repr=False)
class Cards(View):
    """The cards of one line."""

    cards: tuple[Card, ...]

    def plain(self) -> str:
        return "\n".join(card.plain() for card in self.cards)

    def html(self) -> str:
        return "".join(card.html() for card in self.cards)


@dataclass(frozen=True, slots=True, repr=False)
class Table(View):
    """All tunnels, with counters, the last error with its fix, and the log's path where there is an error."""

    snapshots: tuple[Snapshot, ...]
    now: float = field(default_factory=time.time)

    _HEADS = ("name", "state", "way", "up", "clients", "sent", "received", "reconnects")

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for snapshot in self.snapshots:
            counters = snapshot.counters
            clients = f"{counters.clients}" + (f" + {counters.parked} waiting" if counters.parked else "")
            rows.append(
                (
                    snapshot.name,
                    str(snapshot.state),
                    way(snapshot),
                    duration(self.now - snapshot.opened) if snapshot.opened else "",
                    f"{clients} of {counters.clients_total}",
                    size(counters.bytes_up),
                    size(counters.bytes_down),
                    str(counters.reconnects),
                )
            )
        return rows

    def plain(self) -> str:
        if not self.snapshots:
            return "no tunnels; %forward --help shows how to open one"
        rows = [self._HEADS, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self._HEADS))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *_notes(self.snapshots), *_errors(self.snapshots)])

    def html(self) -> str:
        if not self.snapshots:
            return block(escape(self.plain()))
        head = "".join(f'<th scope="col" style="{_CELL}">{escape(text)}</th>' for text in self._HEADS)
        body = ""
        for snapshot, row in zip(self.snapshots, self._rows(), strict=True):
            signed = (row[0], f"{SIGNS[snapshot.state]} {row[1]}", *row[2:])
            body += "<tr>" + "".join(f'<td style="{_CELL}">{escape(text)}</td>' for text in signed) + "</tr>"
        table = f'<table style="{_PRE};border-collapse:collapse"><tr>{head}</tr>{body}</table>'
        below = [*_notes(self.snapshots), *_errors(self.snapshots)]
        return table + (block(escape("\n".join(below))) if below else "")


@dataclass(frozen=True, slots=True, repr=False)
class Progress(View):
    """Openings that take their time: the step each is in, and for how long."""

    snapshots: tuple[Snapshot, ...]
    now: float = field(default_factory=time.time)

    def line(self, snapshot: Snapshot) -> str:
        """One opening as one line."""
        parts = []
        for step in snapshot.steps:
            if step.seconds is not None:
                parts.append(f"{step.name} {short_seconds(step.seconds)} s")
            else:
                what = f" ({snapshot.waiting})" if snapshot.waiting else ""
                parts.append(f"{step.name}{what} for {max(0.0, self.now - snapshot.step_since):.0f} s...")
        return f"{snapshot.name}  {snapshot.state}  {way(snapshot)}  {', '.join(parts)}".rstrip()

    def plain(self) -> str:
        return "\n".join(self.line(snapshot) for snapshot in self.snapshots)

    def html(self) -> str:
        return block(escape(self.plain()))


@dataclass(frozen=True, slots=True, repr=False)
class Text(View):
    """A line or several as they are."""

    text: str

    def plain(self) -> str:
        return self.text

    def html(self) -> str:
        return block(escape(self.text)) if self.text else ""


def way(snapshot: Snapshot) -> str:
    """From the listener over the hops to the far end: `127.0.0.1:5432 -> bastion -> pg.vpc:5432`."""
    return " -> ".join(snapshot.way)


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


def size(count: int) -> str:
    """A number of bytes in decimal units."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 9.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def traffic(snapshot: Snapshot) -> str:
    """The counters of a tunnel in a few words, "" where nothing has used it."""
    counters = snapshot.counters
    if not counters.clients_total:
        return ""
    waiting = f" and {counters.parked} waiting" if counters.parked else ""
    words = "client" if counters.clients == 1 else "clients"
    return f"{counters.clients}{waiting} {words}, {size(counters.bytes_up)} sent, {size(counters.bytes_down)} received"


def _notes(snapshots: Iterable[Snapshot]) -> list[str]:
    """What there is to know of each tunnel: how long its connection is kept, whose master carries it."""
    return [f"{snapshot.name}: {note}" for snapshot in snapshots for note in snapshot.notes]


def _errors(snapshots: Iterable[Snapshot]) -> list[str]:
    lines = []
    for snapshot in snapshots:
        if snapshot.error is not None:
            lines.append(f"{snapshot.name}: {snapshot.error}")
            if snapshot.log:
                lines.append(f"{snapshot.name}: log {snapshot.log}")
        lines += [f"{snapshot.name}: {line}" for line in _way_on(snapshot)]
    return lines


def _way_on(snapshot: Snapshot) -> list[str]:
    """What a person is to do about a tunnel that waits for one."""
    return [f"%forward --reconnect {snapshot.name} logs in again"] if snapshot.state is TunnelState.WAITING else []


def block(content: str) -> str:
    return f'<div style="{_PRE}">{content}</div>'
