"""A tunnel's events: `on`, `once`, `off`, and asynchronous iteration.

    ready          it can be used for the first time; sticky: who comes late is told at once
    reconnecting   the link was lost; the port is held
    reconnected    there is a link again
    degraded       it works in part; the reason is the error
    error          something failed: the opening, or one client
    rejected       somebody who may not be a client was turned away; the error says who
    close          it has ended; once, and the last

Handlers run on the session's handler thread, one after the other, and may themselves call `close()`; a coroutine
function runs in the loop that it was registered from. A handler that fails is logged, and disturbs nobody.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import ForwardError, SpecError
from ..model import Snapshot

logger = logging.getLogger(__name__)

NAMES = ("ready", "reconnecting", "reconnected", "degraded", "error", "rejected", "close")


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a tunnel.

    Attributes:
        name: one of the names above.
        snapshot: the tunnel at that moment; `snapshot.since` is when (seconds since the epoch).
        error: what went wrong, or why it ended; None where nothing did.
    """

    name: str
    snapshot: Snapshot
    error: ForwardError | None = None


Handler = Callable[[Event], object] | Callable[[Event], Awaitable[object]]


@dataclass(eq=False, slots=True)
class _Registered:
    name: str
    handler: Handler
    once: bool
    loop: asyncio.AbstractEventLoop | None


class Events:
    """Who wants to know of what. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered: list[_Registered] = []
        self._sticky: dict[str, Event] = {}

    def add(self, name: str, handler: Handler, *, once: bool = False) -> Event | None:
        """Register a handler.

        Returns:
            The event that is to be replayed to it, or None.

        Raises:
            SpecError: there is no event of that name.
        """
        if name not in NAMES:
            near = get_close_matches(name, NAMES, 1)
            raise SpecError(f"there is no event {name}", hint=f"Did you mean {near[0]}?" if near else ", ".join(NAMES))
        loop = asyncio.get_running_loop() if inspect.iscoroutinefunction(handler) else None
        with self._lock:
            sticky = self._sticky.get(name)
            if sticky is None or not once:
                self._registered.append(_Registered(name, handler, once, loop))
            return sticky

    def remove(self, name: str, handler: Handler) -> None:
        """Forget a handler; one that is not there is no error."""
        with self._lock:
            self._registered = [one for one in self._registered if (one.name, one.handler) != (name, handler)]

    def emit(self, event: Event) -> None:
        """Tell everyone. `ready` and `close` are sticky, and `close` is told once."""
        with self._lock:
            if event.name == "close" and "close" in self._sticky:
                return
            if event.name in ("ready", "close"):
                self._sticky[event.name] = event
            wanted = [one for one in self._registered if one.name == event.name]
            self._registered = [one for one in self._registered if not (one.once and one.name == event.name)]
        for one in wanted:
            self.tell(one.handler, event, one.loop)

    @staticmethod
    def tell(handler: Handler, event: Event, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Run one handler; its failure is logged."""
        try:
            if loop is not None and inspect.iscoroutinefunction(handler):
                asyncio.run_coroutine_threadsafe(_logged(handler, event), loop)
            else:
                handler(event)
        except Exception:
            logger.exception("a handler of %s failed", event.name)

    async def stream(self) -> AsyncIterator[Event]:
        """Every event from now on, what is sticky first; ends after `close`."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event] = asyncio.Queue()

        def put(event: Event) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        with self._lock:
            for name in NAMES:
                self._registered.append(_Registered(name, put, False, None))
            missed = list(self._sticky.values())
        try:
            for event in missed:
                yield event
                if event.name == "close":
                    return
            while True:
                event = await queue.get()
                yield event
                if event.name == "close":
                    return
        finally:
            for name in NAMES:
                self.remove(name, put)


async def _logged(handler: Callable[[Event], Awaitable[object]], event: Event) -> None:
    try:
        await handler(event)
    except Exception:
        logger.exception("a handler of %s failed", event.name)
