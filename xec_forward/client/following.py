"""How a handle follows its tunnel: traits, events, and what of ours is told of every snapshot.

A snapshot is taken over where it comes: on the reader thread, or by whoever waited for an answer. Nobody else's code
runs there, so what a handle says of its tunnel is never older than what has arrived. Whoever observes a trait, or has
hung a handler on an event, is told on the session's handler thread: one after the other, in the order of things.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import traitlets

from ..errors import ForwardError
from ..model import Counters, Snapshot, TunnelState
from .events import Event, Events, Handler, Stream
from .history import History

logger = logging.getLogger(__name__)

Follower = Callable[[Snapshot], object]
HandOver = Callable[[Callable[[], object]], None]


class Following(traitlets.HasTraits):
    """What follows one tunnel's snapshots.

    Args:
        snapshot: the first one.
        hand_over: has something done on the handler thread, in its turn.

    Attributes:
        state, error, stats: traits, which follow the snapshot.
        snapshot: the newest.
        history: what moved through it lately.
    """

    state: traitlets.TraitType[TunnelState, TunnelState] = traitlets.Instance(
        TunnelState, default_value=TunnelState.IDLE, read_only=True
    )
    error: traitlets.TraitType[ForwardError | None, ForwardError | None] = traitlets.Instance(
        ForwardError, default_value=None, allow_none=True, read_only=True
    )
    stats: traitlets.TraitType[Counters, Counters] = traitlets.Instance(
        Counters, default_value=Counters(), read_only=True
    )

    def __init__(self, snapshot: Snapshot, hand_over: HandOver) -> None:
        super().__init__()
        # A default that is made at the first look could come in the place of what another thread has set meanwhile.
        self.trait_values()
        self.snapshot = snapshot
        self.history = History()
        self.history.add(snapshot)
        self._hand_over = hand_over
        self._taking_over = threading.Lock()
        self._events = Events()
        self._followers: list[Follower] = []

    # ---- what comes ----

    def follow(self, snapshot: Snapshot, event: str = "") -> None:
        """Take over a snapshot: on the reader thread, or where it was waited for.

        The two may come in either order: an older snapshot is passed over, its event is not. An end that has no event
        of its own is told in its turn, after the events that wait for the handler thread.
        """
        error = snapshot.error.error() if snapshot.error is not None else None
        self._take_over(snapshot, error)
        for follower in tuple(self._followers):
            try:
                follower(snapshot)
            except Exception:
                logger.exception("a snapshot was not followed")
        if event or snapshot.state.ended:
            self._hand_over(partial(self._events.emit, Event(event or "close", snapshot, error)))

    def _take_over(self, snapshot: Snapshot, error: ForwardError | None) -> None:
        with self._taking_over:
            if snapshot.serial < self.snapshot.serial or self.snapshot.state.ended:
                return
            self.snapshot = snapshot
            if snapshot.counters != self.stats:
                self.history.add(snapshot)
            # The state last: who observes it finds the others as they are with it.
            self.set_trait("stats", snapshot.counters)
            if str(error) != str(self.error):
                self.set_trait("error", error)
            self.set_trait("state", snapshot.state)

    def add_follower(self, follower: Follower) -> None:
        """Call this with every snapshot, there and then, an older one included. For our own code: it takes no time."""
        self._followers.append(follower)

    def remove_follower(self, follower: Follower) -> None:
        """Undo `add_follower`."""
        self._followers.remove(follower)

    # ---- who wants to know ----

    def on(self, event: str, handler: Handler) -> Handler:
        """Call `handler` with each Event of this name; see `client.events` for the names. Returns the handler.

        Raises:
            SpecError: there is no event of that name; or the handler is a coroutine function, and no loop runs here.
        """
        return self._register(event, handler, once=False)

    def once(self, event: str, handler: Handler) -> Handler:
        """`on`, for the next such event only."""
        return self._register(event, handler, once=True)

    def off(self, event: str, handler: Handler) -> None:
        """Undo `on` or `once`."""
        self._events.remove(event, handler)

    def events(self) -> Stream:
        """All events from now on, for `async for`; `ready` comes first where it has been, `close` ends it."""
        return self._events.stream()

    def _register(self, event: str, handler: Handler, *, once: bool) -> Handler:
        missed = self._events.add(event, handler, once=once)
        if missed is not None:
            self._hand_over(missed)
        return handler

    def observe(self, handler: Any, names: Any = traitlets.All, type: Any = "change") -> None:
        """See `HasTraits.observe`. It is called on the handler thread; where it fails that is logged."""
        own = isinstance(handler, traitlets.EventHandler)
        super().observe(handler if own else _Observer(handler, self._hand_over), names=names, type=type)


@dataclass(eq=False, slots=True)
class _Observer:
    """Has an observer told; to traitlets, which looks for it to remove it, the same as what it calls."""

    handler: Callable[[Any], object]
    hand_over: HandOver

    def __call__(self, change: Any) -> None:
        self.hand_over(partial(self._tell, change))

    def _tell(self, change: Any) -> None:
        try:
            self.handler(change)
        except BaseException:  # see Events
            logger.exception("an observer of %s failed", change["name"])

    def __eq__(self, other: object) -> bool:
        return self.handler == (other.handler if isinstance(other, _Observer) else other)

    __hash__ = None  # type: ignore[assignment]


class Changes:
    """Waits for a tunnel's next change, without missing one."""

    def __init__(self, tunnel: Following) -> None:
        self._tunnel = tunnel
        self._event = threading.Event()

    def _set(self, _: Snapshot) -> None:
        self._event.set()

    def __enter__(self) -> Changes:
        self._tunnel.add_follower(self._set)
        return self

    def __exit__(self, *_: object) -> None:
        self._tunnel.remove_follower(self._set)

    def wait(self, timeout: float) -> bool:
        """Wait for it. False where there was none within so many seconds."""
        if timeout <= 0 or not self._event.wait(timeout):
            return False
        self._event.clear()
        return True
