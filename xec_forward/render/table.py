"""The table of all tunnels. Ground floor, no I/O."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape

from ..model import Snapshot
from .facts import Facts, way, way_on
from .sparkline import sparkline
from .view import FONT, View, block, hops, movement, signed

_CELL = "text-align:left;vertical-align:top;padding:1px 12px 1px 0;color:inherit;background:transparent;border:0"
# What may break: the others are numbers with their units, and a table that is too wide scrolls.
_BREAKS = ("name", "way")
# A column that is empty in every row is left out.
_OPTIONAL = ("closes in", "rate", "rejected", "refused")


@dataclass(frozen=True, slots=True, repr=False)
class Table(View):
    """All tunnels, with counters, the last error with its fix, and the log's path where there is an error.

    Attributes:
        snapshots: what is known of each; as Facts where its ttl or what moves is to be told too.
        now: seconds since the epoch.
    """

    snapshots: tuple[Snapshot | Facts, ...]
    now: float = field(default_factory=time.time)

    def _row(self, facts: Facts) -> dict[str, str]:
        counters = facts.snapshot.counters
        return {
            "name": facts.snapshot.name,
            "state": str(facts.snapshot.state),
            "way": way(facts.snapshot),
            "up": facts.up(self.now),
            "closes in": facts.left(self.now),
            "clients": facts.clients,
            "sent": facts.sent,
            "received": facts.received,
            "rate": f"{facts.speed} {sparkline(facts.line)}".strip(),
            "reconnects": str(counters.reconnects),
            **{word: str(count) if count else "" for word, count in facts.troubles.items()},
        }

    def _rows(self) -> list[dict[str, str]]:
        """The rows, with the columns that have something to say."""
        rows = [self._row(Facts.of(each)) for each in self.snapshots]
        empty = [head for head in _OPTIONAL if not any(row[head] for row in rows)]
        return [{head: text for head, text in row.items() if head not in empty} for row in rows]

    def _below(self) -> list[str]:
        snapshots = [Facts.of(each).snapshot for each in self.snapshots]
        return [*_notes(snapshots), *_errors(snapshots)]

    def plain(self) -> str:
        rows = self._rows()
        if not rows:
            return "no tunnels; %forward --help shows how to open one"
        texts = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        told = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in texts]
        return "\n".join([*told, *self._below()])

    def html(self) -> str:
        rows = self._rows()
        if not rows:
            return block(escape(self.plain()))
        styles = {name: _CELL if name in _BREAKS else f"{_CELL};white-space:nowrap" for name in rows[0]}
        head = "".join(f'<th scope="col" style="{style}">{escape(name)}</th>' for name, style in styles.items())
        body = ""
        for told, row in zip(self.snapshots, rows, strict=True):
            facts = Facts.of(told)
            drawn = {"state": signed(facts), "way": hops(facts), "rate": movement(facts)}
            body += f'<tr><th scope="row" style="{_CELL}">{escape(row.pop("name"))}</th>'
            cells = [(drawn.get(name, escape(text)), styles[name]) for name, text in row.items()]
            body += "".join(f'<td style="{style}">{cell}</td>' for cell, style in cells) + "</tr>"
        style = f"{FONT};border-collapse:collapse;margin:0"
        table = f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        below = self._below()
        return f'<div style="overflow-x:auto">{table}</div>' + (block(escape("\n".join(below))) if below else "")


def _notes(snapshots: Iterable[Snapshot]) -> list[str]:
    """What there is to know of each tunnel: how long its connection is kept, whose master carries it."""
    return [f"{snapshot.name}: {note}" for snapshot in snapshots for note in snapshot.notes]


def _errors(snapshots: Iterable[Snapshot]) -> list[str]:
    told = []
    for snapshot in snapshots:
        if snapshot.error is not None:
            told.append(f"{snapshot.name}: {snapshot.error}")
            if snapshot.log:
                told.append(f"{snapshot.name}: log {snapshot.log}")
        told += [f"{snapshot.name}: {line}" for line in way_on(snapshot)]
    return told
