"""A tunnel's events: `on`, `once`, `off`, and asynchronous iteration.

    ready          it can be used for the first time; sticky: who comes late is told at once
    reconnecting   the link was lost; the port is held
    reconnected    there is a link again
    degraded       it works in part; the reason is the error
    error          something failed: the opening, or one client
    rejected       somebody who may not be a client was turned away; the error says who
    close          it has ended; once, and the last

Handlers run on the session's handler thread, one after the other, and may themselves call `close()` or `wait_ready()`;
a coroutine function runs in the loop that it was registered from. A handler that fails is logged, and disturbs nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import cast

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

    def tell(self, event: Event) -> None:
        """Run the handler; its failure is logged, whatever it raises."""
        try:
            if self.loop is None:
                self.handler(event)
            elif self.loop.is_closed():
                logger.warning("a handler of %s has no loop any more", event.name)
            else:
                asyncio.run_coroutine_threadsafe(_logged(self.handler, event), self.loop)
        except BaseException:  # sys.exit() too: the thread is everybody's
            logger.exception("a handler of %s failed", event.name)


class Events:
    """Who wants to know of what. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registered: list[_Registered] = []
        self._sticky: dict[str, Event] = {}

    def add(self, name: str, handler: Handler, *, once: bool = False) -> Callable[[], None] | None:
        """Register a handler.

        Returns:
            What tells it of an event that has been, and is replayed to it; or None.

        Raises:
            SpecError: there is no event of that name; or the handler is a coroutine function, and no loop runs here.
        """
        if name not in NAMES:
            near = get_close_matches(name, NAMES, 1)
            raise SpecError(f"there is no event {name}", hint=f"Did you mean {near[0]}?" if near else ", ".join(NAMES))
        one = _Registered(name, handler, once, _loop_of(handler))
        with self._lock:
            sticky = self._sticky.get(name)
            if sticky is None or not once:
                self._registered.append(one)
        return partial(one.tell, sticky) if sticky is not None else None

    def remove(self, name: str, handler: Handler) -> None:
        """Forget a handler; one that is not there is no error."""
        with self._lock:
            self._registered = [one for one in self._registered if (one.name, one.handler) != (name, handler)]

    def emit(self, event: Event) -> None:
        """Tell everyone. `ready` and `close` are sticky, and nothing comes after `close`."""
        with self._lock:
            if "close" in self._sticky:
                return
            if event.name in ("ready", "close"):
                self._sticky[event.name] = event
            wanted = [one for one in self._registered if one.name == event.name]
            self._registered = [one for one in self._registered if not (one.once and one.name == event.name)]
        for one in wanted:
            one.tell(event)

    def stream(self) -> Stream:
        """Every event from now on, what is sticky first; ends after `close`."""
        inbox = _Inbox()
        put = inbox.put
        with self._lock:
            self._registered += [_Registered(name, put, False, None) for name in NAMES]
            for event in self._sticky.values():
                put(event)

        def leave() -> None:
            for name in NAMES:
                self.remove(name, put)

        return Stream(inbox, leave)


class Stream(AsyncIterator[Event]):
    """Events in their order, for `async for`. One that nobody has any more takes no more of them."""

    def __init__(self, inbox: _Inbox, leave: Callable[[], None]) -> None:
        self._inbox = inbox
        self._leave = weakref.finalize(self, leave)

    async def __anext__(self) -> Event:
        if not self._leave.alive and self._inbox.empty:
            raise StopAsyncIteration
        event = await self._inbox.get()
        if event.name == "close":
            self._leave()
        return event

    async def aclose(self) -> None:
        """Take no more; what came is dropped. Idempotent."""
        self._leave()
        self._inbox.clear()


class _Inbox:
    """Filled by the handler thread, emptied by a coroutine of any loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        self._wake: Callable[[], object] | None = None

    @property
    def empty(self) -> bool:
        return not self._events

    def clear(self) -> None:
        self._events.clear()

    def put(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
            wake, self._wake = self._wake, None
        if wake is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended, and nobody waits there any more
                wake()

    async def get(self) -> Event:
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if self._events:
                    return self._events.popleft()
                came = asyncio.Event()
                self._wake = partial(loop.call_soon_threadsafe, came.set)
            await came.wait()


def _loop_of(handler: Handler) -> asyncio.AbstractEventLoop | None:
    """The loop in which a coroutine function is to run, None for any other handler. Raises SpecError."""
    if not inspect.iscoroutinefunction(handler) and not inspect.iscoroutinefunction(type(handler).__call__):
        return None
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise SpecError(
            "a coroutine function needs a loop to run in, and none runs here",
            hint="Register it in a coroutine, or give a plain function",
        ) from None


async def _logged(handler: Handler, event: Event) -> None:
    try:
        await cast(Callable[[Event], Awaitable[object]], handler)(event)
    except (Exception, SystemExit):  # it would end the loop
        logger.exception("a handler of %s failed", event.name)
