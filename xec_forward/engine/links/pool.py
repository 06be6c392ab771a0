"""Links shared by identity: one dial for all who want the same link, closed when the last one has let go.

The pool knows nothing of SSH. Whoever asks brings a key (what makes two links the same) and a way to dial.

    acquire    joins the live link, or the dial in progress, or starts one ("single flight")
    release    the last lease gone, the link is closed (after `linger` seconds)
    lost       a lost link is forgotten at once, so that the next `acquire` dials anew
    keep       keeps what a key's dials learned (`memory`) between two links, for a tunnel that redials

While a dial is in progress its steps are shown to everyone who waits for it, and its questions are put to the
first who still waits, then to the next when that one has no answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from ...errors import ClosedError, ForwardError
from .base import Dial, Link, Opening
from .flight import Flight

logger = logging.getLogger(__name__)

# How long `Pool.close` waits for links to end in order before it aborts them, seconds.
CLOSE_GRACE = 1.5
# How often a link that only outsiders use is looked at, seconds.
IN_USE_AGAIN = 1.0


class Memory:
    """What the dials of one key learned and the next one can use again: answers, and the same of its hops.

    Lives while the key is wanted. Nothing of it is ever shown.
    """

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self._keeps: dict[Hashable, Keep] = {}

    def hold(self, keep: Keep) -> None:
        """Keep another key's memory as long as this one lives."""
        if keep.key in self._keeps:
            keep.release()
        else:
            self._keeps[keep.key] = keep

    def forget(self) -> None:
        """Drop everything."""
        self.answers.clear()
        keeps, self._keeps = self._keeps, {}
        for keep in keeps.values():
            keep.release()

    def __repr__(self) -> str:
        return f"<Memory of {len(self.answers)} answers>"


class _Shared:
    """A link and how many hold it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.holders = 0
        self.linger: asyncio.TimerHandle | None = None


class Keep:
    """The wish to have a link of `key` again; see `Pool.keep`."""

    def __init__(self, key: Hashable, release: Callable[[], None]) -> None:
        self.key = key
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """The wish has ended; idempotent."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Lease(Keep):
    """The right to use `link` until `release`."""

    def __init__(self, key: Hashable, link: Link, release: Callable[[], None]) -> None:
        super().__init__(key, release)
        self.link = link


class _Entry:
    """All the pool knows of one key. `wanted` counts waiters, leases and keeps."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.wanted = 0
        self.current: _Shared | None = None
        self.flight: Flight[_Shared] | None = None
        self.memory = Memory()


class Pool:
    """Links by key.

    Args:
        linger: seconds a link is kept after its last lease; 0 closes it at once.
    """

    def __init__(self, linger: float = 0.0) -> None:
        self._linger = linger
        self._entries: dict[Hashable, _Entry] = {}
        self._links: set[_Shared] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def acquire(self, key: Hashable, dial: Dial, opening: Opening) -> Lease:
        """A lease on the live link of `key`; dials where there is none.

        Cancelling it leaves the dial to the others who wait for it; the last one to go cancels it.

        Args:
            key: what makes two links the same.
            dial: how to make one; called at most once at a time for a key.
            opening: told the steps, and asked the questions, of the dial.

        Raises:
            ForwardError: the dial failed (a copy for each who waited), or the pool is closed.
        """
        if self._closed:
            raise ClosedError("the engine is closing")
        entry = self._want(key)
        try:
            shared = entry.current
            if shared is None:
                shared = await self._fly(entry, dial, opening)
            else:
                shared.holders += 1
                self._stay(shared)
        except BaseException:
            self._unwant(entry)
            raise
        held = shared

        def release() -> None:
            self._let_go(entry, held)
            self._unwant(entry)

        return Lease(key, shared.link, release)

    def keep(self, key: Hashable) -> Keep:
        """Keep the memory of `key` until released, though its link may be lost meanwhile."""
        entry = self._want(key)
        return Keep(key, lambda: self._unwant(entry))

    def memory(self, key: Hashable) -> Memory:
        """What earlier dials of `key` learned. For the dial itself; a fresh one where the key is not wanted."""
        entry = self._entries.get(key)
        return entry.memory if entry is not None else Memory()

    def has(self, key: Hashable) -> bool:
        """Whether a link of `key` lives."""
        entry = self._entries.get(key)
        return entry is not None and entry.current is not None

    @property
    def links(self) -> list[Link]:
        """The links that live."""
        return [shared.link for shared in self._links if not shared.link.lost.done()]

    def dial_anew(self) -> None:
        """The network is another one: each dial under way starts afresh, but those that asked a person.

        What was sent before is lost, and TCP would repeat it ever more rarely (RFC 6298 section 5.5).
        """
        for entry in list(self._entries.values()):
            if entry.flight is not None:
                entry.flight.anew()

    async def close(self) -> None:
        """End every dial and every link, within 2 seconds; idempotent. Later calls of `acquire` fail."""
        self._closed = True
        for entry in list(self._entries.values()):
            if entry.flight is not None and entry.flight.task is not None:
                entry.flight.task.cancel()
        for shared in list(self._links):
            self._end(shared)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLOSE_GRACE)
        for shared in list(self._links):
            shared.link.abort()
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(list(self._tasks), timeout=0.5)
        for entry in list(self._entries.values()):
            entry.memory.forget()

    # who wants what

    def _want(self, key: Hashable) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(key)
        entry.wanted += 1
        return entry

    def _unwant(self, entry: _Entry) -> None:
        entry.wanted -= 1
        self._tidy(entry)

    def _tidy(self, entry: _Entry) -> None:
        if not entry.wanted and entry.current is None and self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
            entry.memory.forget()

    def _let_go(self, entry: _Entry, shared: _Shared) -> None:
        shared.holders -= 1
        if shared.holders:
            return
        linger = max(self._linger, shared.link.persist)
        if not linger or self._closed or shared.link.lost.done():
            self._leave(entry, shared)
        elif linger != float("inf"):
            shared.linger = asyncio.get_running_loop().call_later(linger, self._leave, entry, shared)

    def _leave(self, entry: _Entry, shared: _Shared) -> None:
        """Nobody of ours wants the link any more: it goes, or (in use from outside) a little later."""
        if shared.link.in_use and not self._closed and not shared.link.lost.done():
            shared.linger = asyncio.get_running_loop().call_later(IN_USE_AGAIN, self._leave, entry, shared)
        else:
            self._drop(entry, shared)

    def _stay(self, shared: _Shared) -> None:
        if shared.linger is not None:
            shared.linger.cancel()
            shared.linger = None

    def _drop(self, entry: _Entry, shared: _Shared) -> None:
        if entry.current is shared:
            entry.current = None
        self._end(shared)
        self._tidy(entry)

    def _end(self, shared: _Shared) -> None:
        if shared in self._links:
            self._stay(shared)
            self._links.discard(shared)
            self._spawn(self._close_link(shared.link))

    async def _close_link(self, link: Link) -> None:
        try:
            async with asyncio.timeout(CLOSE_GRACE):
                await link.close()
        except Exception as error:
            logger.info("a link did not close in order: %r", error)
        finally:
            link.abort()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # single flight

    async def _fly(self, entry: _Entry, dial: Dial, opening: Opening) -> _Shared:
        flight = entry.flight
        if flight is None:
            flight = entry.flight = Flight[_Shared](dial)
            waiter = flight.join(opening)
            flight.task = self._spawn(self._dial(entry, flight))
        else:
            waiter = flight.join(opening)
        try:
            return await asyncio.shield(flight.landed)
        except asyncio.CancelledError as cancelled:
            flight.leave(waiter, cancelled)
            if not flight.landed.done():
                if not flight.waiters and entry.flight is flight:
                    entry.flight = None
                    assert flight.task is not None
                    flight.task.cancel()
            elif not flight.landed.cancelled() and flight.landed.exception() is None:
                self._let_go(entry, flight.landed.result())  # it landed for us too, in the same moment
            raise
        except ForwardError as error:
            raise _copy(error) from error.__cause__

    async def _dial(self, entry: _Entry, flight: Flight[_Shared]) -> None:
        try:
            link = await flight.link()
        except BaseException as error:
            if entry.flight is flight:
                entry.flight = None
            if isinstance(error, Exception):
                flight.landed.set_exception(error)
            elif isinstance(error, asyncio.CancelledError):
                flight.landed.set_exception(ClosedError("the engine is closing"))
            flight.landed.exception()  # those who wait have their own; with nobody left it is nobody's
            if not isinstance(error, Exception):
                raise
            return
        if entry.flight is flight:
            entry.flight = None
        shared = _Shared(link)
        self._links.add(shared)
        if not flight.waiters or self._closed:
            self._end(shared)
            flight.landed.set_exception(ClosedError("the engine is closing"))
            flight.landed.exception()
            return
        shared.holders = len(flight.waiters)
        entry.current = shared
        link.lost.add_done_callback(lambda _: self._lost(entry, shared))
        flight.landed.set_result(shared)

    def _lost(self, entry: _Entry, shared: _Shared) -> None:
        if entry.current is shared:
            entry.current = None
            if not shared.holders:  # it lingered
                self._drop(entry, shared)


def _copy(error: ForwardError) -> ForwardError:
    """The same error for one more who waits: a shared exception would grow by each one's traceback."""
    return type(error)(error.message, hop=error.hop, hint=error.hint)
