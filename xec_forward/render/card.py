"""The card of one tunnel. Ground floor, no I/O."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from html import escape

from ..model import Snapshot, TunnelState
from .facts import Facts, way, way_on
from .sparkline import sparkline
from .view import View, dim, hops, lines, movement, signed
from .words import clock, opening, steps


@dataclass(frozen=True, slots=True, repr=False)
class Card(View):
    """One tunnel.

    Attributes:
        snapshot: what is known of it; as Facts where its ttl or what moves is to be told too.
        names: the names it has in the notebook.
        variables: the environment variables set for it.
        remarks: what else there is to say, a line each.
        reused: the line was run before and its tunnel still serves.
        fresh: it was just opened: the card says what that took, not how it fares.
        now: seconds since the epoch.
        lasting: it stays on the screen: times are those of the clock, and grow by no second.
    """

    snapshot: Snapshot | Facts
    names: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    reused: bool = False
    fresh: bool = False
    now: float = field(default_factory=time.time)
    lasting: bool = False

    def _how(self, facts: Facts) -> list[str]:
        """How it went, or fares."""
        if self.reused:
            return ["reused", *self._times(facts)]
        if self.fresh:
            return [*filter(None, [opening(facts.snapshot.steps)]), *self._end(facts)]
        if facts.snapshot.state is TunnelState.OPENING:
            return steps(facts.snapshot, None if self.lasting else self.now)
        return [*self._times(facts), *filter(None, [facts.traffic])]

    def _times(self, facts: Facts) -> list[str]:
        if not self.lasting:
            return facts.ages(self.now)
        since = facts.snapshot.since
        return [*([f"since {clock(since, self.now)}"] if since else []), *self._end(facts)]

    def _end(self, facts: Facts) -> list[str]:
        if not facts.closes:
            return []
        return [f"closes at {clock(facts.closes, self.now)}" if self.lasting else f"closes in {facts.left(self.now)}"]

    def _lines(self, snapshot: Snapshot) -> list[str]:
        """What stands under the head."""
        said = [f"names: {', '.join(self.names)}"] if self.names else []
        if self.variables:
            said.append(f"environment: {', '.join(self.variables)}")
        if snapshot.error is not None:
            said += [str(snapshot.error), *([f"log: {snapshot.log}"] if snapshot.log else [])]
        said += way_on(snapshot)
        return [*said, *(f"note: {note}" for note in (*snapshot.notes, *self.remarks))]

    def plain(self) -> str:
        facts = Facts.of(self.snapshot)
        snapshot = facts.snapshot
        how = ", ".join([*self._how(facts), *filter(None, [f"{facts.speed} {sparkline(facts.line)}".strip()])])
        head = "  ".join(filter(None, [snapshot.name, str(snapshot.state), way(snapshot), how]))
        return "\n  ".join([head, *self._lines(snapshot)])

    def html(self) -> str:
        facts = Facts.of(self.snapshot)
        how = dim(", ".join(self._how(facts))) if self._how(facts) else ""
        parts = [f"<b>{escape(facts.snapshot.name)}</b>", signed(facts), hops(facts), how, movement(facts)]
        # Spaces that no browser takes away, and at which a line may still break.
        head = "&nbsp; ".join(filter(None, parts))
        return lines([head, *map(escape, self._lines(facts.snapshot))])


@dataclass(frozen=True, slots=True, repr=False)
class Cards(View):
    """The cards of one line."""

    cards: tuple[Card, ...]

    def plain(self) -> str:
        return "\n".join(card.plain() for card in self.cards)

    def html(self) -> str:
        return "".join(card.html() for card in self.cards)
