"""The upgrades to one pod: a few are kept warm, so that a connection begins with one write.

    taken     the one used last, so that those which a burst left over grow old; each carries one live connection
    wanted    `SPARE` free ones behind those in use, and one for each connection that waits; dialled side by side, but
              for as many as are about to be free again
    too many  never more than `MOST` connections: those beyond are told so at once
    given up  free ones above `SPARE`, after `IDLE` seconds

The pool is lost when nothing of it lives and nothing new can be made, or when the pod has gone for good. As long as
something lives, a failed dial is tried again: those side by side fail as one, and whoever comes meanwhile waits for the
next. Where somebody was there to refuse them, a few in a row fail the connections that wait; where nobody was reached,
these wait on as they would for a new link. Such a dial is evidence, too, against those that give no sign of life at
that moment, whatever else may explain their silence.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple

from ....errors import (
    ClosedError,
    DeadlineError,
    ForwardError,
    LimitError,
    LostError,
    PodGoneError,
    RefusedError,
    UnreachableError,
)
from ..base import Channel, ChannelProtocol
from .dial import Dialler, UpgradeApi
from .dials import Dial, Dials
from .failures import ProxyError
from .session import RETURN, Carrier, Session
from .upgrade import Upgrade
from .v4 import V4Session
from .websocket import WebSocketUpgrade

SPARE = 2
# Upgrades at a time. Each has a descriptor, and its client another: the engine has 16 times as many.
MOST = 4000
# Dials at a time: an API server sheds load from who asks for more at once.
_DIALS = 16
IDLE = 30.0
PING_DEADLINE = 10.0
CLOSE_DEADLINE = 1.5
# Free ones are topped up this much later: a short connection gives its own back sooner.
_TOP_UP_PAUSE = 0.1
# Pauses between dials that fail while something lives: the last one for as long as somebody waits, else the longest.
_PAUSES = (0.2, 0.5, 1.0)
_LONGEST_PAUSE = 30.0

# Worth another try; everything else is an answer.
_PASSING = (LostError, RefusedError, UnreachableError, DeadlineError)


def _reached_nobody(error: ForwardError) -> bool:
    """Whether a dial got no answer at all: not a refusal, and not a login that could not be had."""
    return isinstance(error, _PASSING) and isinstance(error.__cause__, OSError | ProxyError)


class Waiting(NamedTuple):
    """A connection that has no upgrade yet."""

    port: int
    session: asyncio.Future[Carrier]


class Warm:
    """The pool.

    Args:
        dial: makes upgrades.
        pod: the pod's name, for messages.
        spare: free upgrades to keep.
        most: upgrades at a time.
        idle: seconds until a free one above `spare` is given up.

    Attributes:
        lost: resolved with the reason when the pool is of no use any more; with ClosedError after `close`.
        doomed: the reason, once the pod is known to go (`doom`).
        dials: those in progress; their `trouble` and `distance` are the pool's.
    """

    def __init__(
        self,
        dial: Dial,
        pod: str,
        *,
        spare: int = SPARE,
        most: int = MOST,
        idle: float = IDLE,
    ) -> None:
        self.lost: asyncio.Future[ForwardError] = asyncio.get_running_loop().create_future()
        self.doomed: ForwardError | None = None
        self.dials = Dials(dial, self, pod)
        self._reach = dial.reach
        self._pod = pod
        self._spare = spare
        self._most = most
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._sessions: set[Carrier] = set()
        self._free: list[tuple[Session, float]] = []  # with the time since when, oldest first
        self._waiting: deque[Waiting] = deque()
        self._reusable = False  # so, once a server has answered with SPDY
        self._last_port = 0
        self._retired = False
        self._top_up_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    @classmethod
    def to_pod(cls, api: UpgradeApi, namespace: str, pod: str) -> Warm:
        """The pool of a pod; nothing is dialled yet."""
        return cls(Dialler(api, namespace, pod), pod)

    @property
    def carries(self) -> bool:
        """Whether a connection lives."""
        return any(session.live for session in self._sessions)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Upgrades, free ones among them, and dials in progress."""
        return len(self._sessions), len(self._free), len(self.dials)

    async def open_channel(self, port: int, protocol: ChannelProtocol) -> Channel:
        """Open a connection to a port of the pod. Whether anything listens there is told by the channel's end alone.

        Raises:
            PodGoneError, LostError: the pool is lost. LimitError: there are too many already. What `dial` raises.
        """
        session = await self._session(port)
        return session.open_channel(port, protocol)

    async def ping(self) -> float:
        """The seconds to the pod's node and back.

        Raises:
            LostError, DeadlineError. What `dial` raises.
        """
        began = time.perf_counter()
        try:
            async with asyncio.timeout(PING_DEADLINE):
                if self._free:
                    return await self._free[-1][0].ping()
                await self._reach()
                return time.perf_counter() - began
        except ForwardError:
            raise  # a DeadlineError is a TimeoutError too, and says whose it is
        except TimeoutError:
            raise DeadlineError(f"no sign of life within {PING_DEADLINE:g} s", hop=self._pod) from None

    def doom(self, reason: ForwardError) -> None:
        """The pod is going: no upgrade is used again, and a connection's end passes for one in order no longer."""
        if self.doomed is None:
            self.doomed = reason
            self._give_up_free()

    def retire(self) -> None:
        """Carry no further connection; end in order (`lost`) once there is none."""
        self._retired = True
        self._fail_waiting(ClosedError("the link was closed", hop=self._pod))
        for session in list(self._sessions):
            session.retire()
        self._end_if_retired()

    async def close(self) -> None:
        """End in order: what was sent is given a moment to be taken. Live connections end now. Idempotent."""
        self._lose(ClosedError("the link was closed", hop=self._pod))
        for session in [each for each in self._sessions if each.live or not each.draining]:
            session.abort()
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                while self._sessions:
                    self._changed.clear()
                    await self._changed.wait()
                await self.dials.wait()
        except TimeoutError:
            pass
        finally:
            self.abort()

    def abort(self, reason: ForwardError | None = None) -> None:
        """End now; idempotent."""
        self._lose(reason or ClosedError("the link was closed", hop=self._pod))
        for session in list(self._sessions):
            session.abort(reason)

    # session.Owner

    def free(self, session: Carrier) -> None:
        """See Owner."""
        if self.lost.done() or self.doomed is not None or self._retired:
            session.retire()
            return
        for waiting in self._waiting:
            if not waiting.session.done() and session.port in (0, waiting.port):
                waiting.session.set_result(session)
                return
        if not isinstance(session, Session):
            session.retire()  # the service at its other end waits for a client already
            return
        self._free.append((session, self._loop.time()))
        if self._idle_timer is None and len(self._free) > self._spare:
            self._idle_timer = self._loop.call_later(self._idle, self._give_up_idle)

    def over(self, session: Carrier, error: ForwardError | None) -> None:
        """See Owner."""
        self._sessions.discard(session)
        self._free = [entry for entry in self._free if entry[0] is not session]
        self._changed.set()
        self._end_if_retired()
        if not self.lost.done():
            self._top_up_soon()

    def gone(self, error: PodGoneError) -> None:
        """See Owner."""
        self.doom(error)
        self._lose(error)

    # dials.Owner

    def dialled(self, upgrade: Upgrade) -> None:
        """See Owner."""
        session: Carrier
        if isinstance(upgrade, WebSocketUpgrade) and upgrade.port:
            self._reusable = False
            session = V4Session(upgrade, self._pod, self)
        else:
            self._reusable = True
            session = Session(upgrade, self._pod, self)
        if session.over:
            raise LostError("the API server closed the connection", hop=self._pod)
        self._sessions.add(session)
        self.free(session)

    def dial_failed(self, error: ForwardError, *, counted: bool) -> None:
        """See Owner."""
        if unreached := _reached_nobody(error):
            for session in [each for each in self._sessions if each.suspect]:
                session.abort(LostError("the API server does not answer", hop=self._pod))
        if isinstance(error, PodGoneError) or not (self._sessions or self.dials):
            self._lose(error)
        elif not isinstance(error, _PASSING) or (self.dials.failures > len(_PAUSES) and not unreached):
            self._fail_waiting(error)
        if counted and not self.lost.done():
            self._cancel_top_up()
            self._top_up_timer = self._loop.call_later(self._pause, self._top_up)

    def dial_over(self) -> None:
        """See Owner."""
        if not self.lost.done() and not self.dials.failures:
            self._top_up_soon()

    # its own

    async def _session(self, port: int) -> Carrier:
        """A session that nobody else has."""
        self._check()
        self._last_port = port
        if self._free:  # so nobody waits: those who do get what becomes free
            free = self._free.pop()[0]
            self._top_up_soon()
            return free
        if self._full:
            text = f"there are {self._most} connections to the pod already, the most at a time"
            raise LimitError(text, hop=self._pod, hint="End some of them")
        waiting = Waiting(port, self._loop.create_future())
        self._waiting.append(waiting)
        if not self.dials.failures or self._waited_for == 1:  # else who waits already has the next dial set
            self._loop.call_soon(self._top_up)  # a connection that ends in this turn may give its own back
        try:
            session = await waiting.session
        except asyncio.CancelledError:
            if waiting.session.done() and not waiting.session.cancelled() and not waiting.session.exception():
                self._loop.call_soon(self.free, waiting.session.result())
            raise
        finally:
            self._waiting.remove(waiting)
        # Whatever happened to the pool in the turn in which it was given has retired it.
        try:
            self._check()
        except ForwardError:
            session.retire()
            raise
        return session if not session.over else await self._session(port)

    def _check(self) -> None:
        """Raise why no connection is to be opened any more."""
        reason = self.lost.result() if self.lost.done() else self.doomed
        if reason is not None:
            raise type(reason)(reason.message, hop=reason.hop, hint=reason.hint)
        if self._retired:
            raise ClosedError("the link was closed", hop=self._pod)

    @property
    def _full(self) -> bool:
        """Whether every upgrade that there may be has its connection, or somebody who waits for it."""
        waiting = len(self._waiting)
        if len(self._sessions) + waiting < self._most:
            return False
        return sum(session.live for session in self._sessions) + waiting >= self._most

    def _end_if_retired(self) -> None:
        if self._retired and not self._sessions:
            self._lose(ClosedError("the link was closed", hop=self._pod))

    @property
    def _waited_for(self) -> int:
        """How many connections wait."""
        return sum(not waiting.session.done() for waiting in self._waiting)

    def _top_up_soon(self) -> None:
        # Where dials fail and nothing lives any more, the next one tells whether the pool is lost.
        if (self._waited_for and not self.dials.failures) or (self.dials.failures and not self._sessions):
            self._top_up()
        elif self._top_up_timer is None:
            self._top_up_timer = self._loop.call_later(_TOP_UP_PAUSE, self._top_up)

    def _cancel_top_up(self) -> None:
        if self._top_up_timer is not None:
            self._top_up_timer.cancel()
            self._top_up_timer = None

    def _top_up(self) -> None:
        """Dial as many as are wanted."""
        self._cancel_top_up()
        if self.lost.done() or self.doomed is not None or self._retired:
            return
        room = min(self._most - len(self._sessions), _DIALS) - len(self.dials)
        for port in self._wanted()[: max(0, room)]:
            self.dials.start(port)
        if self._waiting and self._top_up_timer is None:
            self._top_up_timer = self._loop.call_later(RETURN, self._top_up)  # who was to be free may not be

    def _wanted(self) -> list[int]:
        """The ports to dial for."""
        wanted = [waiting.port for waiting in self._waiting if not waiting.session.done()]
        coming = self.dials.ports
        if self._reusable:
            wanted += [self._last_port] * (self._spare - len(self._free))
            returning = sum(isinstance(each, Session) and each.returning for each in self._sessions)
            return wanted[len(coming) + returning :]
        for port in coming:
            if port in wanted:
                wanted.remove(port)
        return wanted

    @property
    def _pause(self) -> float:
        """Seconds until the next dial, after one that failed."""
        if self.dials.failures > len(_PAUSES) and not self._waited_for:
            return _LONGEST_PAUSE
        return _PAUSES[min(self.dials.failures, len(_PAUSES)) - 1]

    def _fail_waiting(self, error: ForwardError) -> None:
        if isinstance(error, LostError):  # that would mean that the pool is
            error = UnreachableError(error.message, hop=error.hop, hint=error.hint)
        for waiting in self._waiting:
            if not waiting.session.done():
                waiting.session.set_exception(error)

    def _lose(self, error: ForwardError) -> None:
        if self.lost.done():
            return
        self.lost.set_result(error)
        for waiting in self._waiting:
            if not waiting.session.done():
                waiting.session.set_exception(error)
        self.dials.cancel()
        self._cancel_top_up()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._give_up_free()

    def _give_up_free(self) -> None:
        free, self._free = self._free, []
        for session, _ in free:
            session.retire()

    def _give_up_idle(self) -> None:
        self._idle_timer = None
        now = self._loop.time()
        while len(self._free) > self._spare and self._free[0][1] <= now - self._idle:
            self._free.pop(0)[0].retire()
        if len(self._free) > self._spare:
            self._idle_timer = self._loop.call_at(self._free[0][1] + self._idle, self._give_up_idle)
