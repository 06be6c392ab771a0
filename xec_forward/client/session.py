"""This process's tunnels: opened, closed, followed, and opened again where the engine died.

The session keeps a declarative list of what is open (request, bound port) for that, and nothing more: the running
state is the engine's. How the engine is reached is `connection`'s.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from ..errors import ClosedError, EngineError, ForwardError, LimitError
from ..model import (
    Changed,
    Close,
    Describe,
    Done,
    Fault,
    Message,
    Open,
    Snapshot,
    TunnelState,
)
from ..options import ClusterTarget, CommandTarget, SshTarget, Target, TunnelOptions
from ..spec import Endpoint, Forward, Kind
from .configured import configured_cluster, configured_host
from .connection import MARGIN
from .inquiries import Inquiries
from .together import Inbox, TogetherCall, wait_together
from .watcher import Watcher

if TYPE_CHECKING:
    from .tunnel import Tunnel

logger = logging.getLogger(__name__)

MAX_TUNNELS = 50
# At the end, handlers have so long to be told of it, seconds.
FAREWELL = 1.0
# An engine that dies this often within a minute is not started again.
DEATHS_PER_MINUTE = 4


def _print_notice(text: str) -> None:
    print(f"xec_forward: {text}", file=sys.stderr)


class Session(Inquiries):
    """All tunnels of this process. There is one (`current()`); its engine starts with the first call.

    Attributes:
        tunnels: the tunnels by number, in the order of their opening, until they are closed. Threads add and remove
            them: who looks at all of them takes `listed()`.
        notice: shows the user one line that belongs to no call.
        max_tunnels: how many tunnels may be open at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tunnels: dict[int, Tunnel] = {}
        self.notice: Callable[[str], None] = _print_notice
        self.max_tunnels = MAX_TUNNELS
        self._preparing = threading.Lock()
        self._deaths: deque[float] = deque(maxlen=DEATHS_PER_MINUTE)

    def listed(self) -> tuple[Tunnel, ...]:
        """The tunnels as they are listed now, in the order of their opening."""
        # One step, which no other thread comes between; to walk along the dictionary is many.
        return tuple(self.tunnels.copy().values())

    def stop(self) -> None:
        """End the engine and with it every tunnel, at once. Idempotent; the session can be used again."""
        self.end()
        for tunnel in self.listed():
            tunnel.follow(_gone(tunnel, TunnelState.CLOSED), "close")
        self.tunnels.clear()
        self._handler.end(FAREWELL)

    def abandon(self) -> None:
        """See Connection."""
        super().abandon()
        self.tunnels.clear()

    # ---- opening and closing ----

    def prepare(self, target: Target, forward: Forward, options: TunnelOptions, name: str, scheme: str) -> Tunnel:
        """A handle for a tunnel that is yet to be opened. Raises LimitError."""
        from .tunnel import Tunnel

        ssh = configured_host(target) if isinstance(target, SshTarget) else None
        command = target if isinstance(target, CommandTarget) else None
        cluster = configured_cluster(target) if isinstance(target, ClusterTarget) else None
        with self._preparing:
            if len(self.tunnels) >= self.max_tunnels:
                raise LimitError(
                    f"{len(self.tunnels)} tunnels are open, the most allowed",
                    hint=f"%forward --close NAME frees one; xf.tunnels.limit = {2 * self.max_tunnels} allows more",
                )
            taken = {tunnel.name for tunnel in self.listed() if not tunnel.state.ended}
            if name in taken:
                name = next(other for n in itertools.count(2) if (other := f"{name}_{n}") not in taken)
            number = next(self._numbers)
            tunnel = Tunnel(self, Open(0, number, name, forward, options, ssh, command, cluster, scheme))
            self.tunnels[number] = tunnel
            return tunnel

    def open(self, tunnel: Tunnel, watcher: Watcher | None = None) -> None:
        """Open a prepared tunnel; returns when it is ready."""
        try:
            done = self.call(tunnel.request_for, watcher, tunnel.request.options.timeout)
        except BaseException as error:
            self._take_back([tunnel], error)
            raise
        tunnel.opened(done)

    async def aopen(self, tunnel: Tunnel, watcher: Watcher | None = None) -> None:
        """`open` for coroutines."""
        try:
            done = await self.acall(tunnel.request_for, watcher, tunnel.request.options.timeout)
        except BaseException as error:
            self._take_back([tunnel], error)
            raise
        tunnel.opened(done)

    def open_all(self, tunnels: Sequence[Tunnel], watcher: Watcher | None = None) -> list[ForwardError | None]:
        """Open prepared tunnels side by side; one that fails stays on the list, failed, and touches no other.

        Returns:
            For each tunnel its error, or None where it is ready.

        Raises:
            EngineError: there is no engine. KeyboardInterrupt: all of them were put back.
        """
        inbox: Inbox = queue.SimpleQueue()
        calls: list[TogetherCall] = []
        try:
            for tunnel in tunnels:
                limit = tunnel.request.options.timeout
                calls.append(self._begin(partial(TogetherCall, inbox=inbox), tunnel.request_for, limit))
            results = wait_together(calls, inbox, self.send, self.sources, watcher or self.watcher())
        except BaseException:
            # Those that were ready already, too: the caller gets no handle.
            self._take_back(tunnels)
            raise
        finally:
            for call in calls:
                self._calls.pop(call.number, None)
        errors: list[ForwardError | None] = []
        for tunnel, call in zip(tunnels, calls, strict=True):
            result = results[call.number]
            if isinstance(result, Done):
                tunnel.opened(result)
            else:
                self._give_up(tunnel, result)
            errors.append(None if isinstance(result, Done) else result)
        return errors

    async def aopen_all(self, tunnels: Sequence[Tunnel]) -> list[ForwardError | None]:
        """`open_all` for coroutines."""

        async def one(tunnel: Tunnel) -> ForwardError | None:
            try:
                tunnel.opened(await self.acall(tunnel.request_for, limit=tunnel.request.options.timeout))
            except ForwardError as error:
                self._give_up(tunnel, error)
                return error
            return None

        try:
            return await asyncio.gather(*map(one, tunnels))
        except BaseException:
            self._take_back(tunnels)
            raise

    def open_again(self, tunnel: Tunnel, watcher: Watcher | None = None) -> None:
        """Open a tunnel that the engine no longer has. Where that fails, or is interrupted, it stays failed."""
        with self._opening_again(tunnel) as request:
            tunnel.opened(self.call(request, watcher, tunnel.request.options.timeout))

    async def aopen_again(self, tunnel: Tunnel) -> None:
        """`open_again` for coroutines."""
        with self._opening_again(tunnel) as request:
            tunnel.opened(await self.acall(request, limit=tunnel.request.options.timeout))

    @contextlib.contextmanager
    def _opening_again(self, tunnel: Tunnel) -> Iterator[Callable[[int], Message]]:
        before = tunnel.error
        tunnel.given_up = False  # who asks for it meanwhile asks the engine
        try:
            # Dialled without end, and not tried, is only what was open once.
            yield tunnel.request_again if tunnel.has_opened else tunnel.request_for
        except BaseException as caught:
            with contextlib.suppress(EngineError):
                self.send(Close(0, (tunnel.request.tunnel,)))
            if not tunnel.state.ended:
                self._give_up(tunnel, caught if isinstance(caught, ForwardError) else before)
            raise

    def _take_back(self, tunnels: Sequence[Tunnel], error: BaseException | None = None) -> None:
        """Nobody gets these handles: whatever the engine has of them shall go. Does not wait, never raises.

        Args:
            error: what their opening failed with; who has hung something on them meanwhile is told.
        """
        numbers = tuple(tunnel.request.tunnel for tunnel in tunnels)
        if isinstance(error, ForwardError):
            for tunnel in tunnels:
                self._give_up(tunnel, error)
        with contextlib.suppress(EngineError):
            self.send(Close(0, numbers))
        for number in numbers:
            self.tunnels.pop(number, None)

    def close(self, tunnels: Iterable[Tunnel], within: float = MARGIN) -> None:
        """Close these tunnels side by side; idempotent.

        Args:
            within: seconds in which the engine is to give a sign of life, where clients are to be waited for but a
                stuck engine is not.

        Raises:
            EngineError: it does not, or is gone; it closes them when it can.
        """
        wanted = [tunnel for tunnel in tunnels if tunnel.request.tunnel in self.tunnels]
        if wanted:
            numbers = tuple(tunnel.request.tunnel for tunnel in wanted)
            if within < MARGIN:
                self._require_life(within, Close(0, numbers))
            self._closed(wanted, self.call(lambda call: Close(call, numbers)))

    async def aclose(self, tunnels: Iterable[Tunnel]) -> None:
        """`close` for coroutines."""
        wanted = [tunnel for tunnel in tunnels if tunnel.request.tunnel in self.tunnels]
        if wanted:
            numbers = tuple(tunnel.request.tunnel for tunnel in wanted)
            self._closed(wanted, await self.acall(lambda call: Close(call, numbers)))

    def _closed(self, tunnels: list[Tunnel], done: Done) -> None:
        last = {snapshot.tunnel: snapshot for snapshot in done.snapshots}
        for tunnel in tunnels:
            tunnel.follow(last.get(tunnel.request.tunnel) or _gone(tunnel, TunnelState.CLOSED))
            self.forget(tunnel)

    def _require_life(self, within: float, otherwise: Message) -> None:
        """Wait for a sign of life of the engine; one that gives none is sent what to do when it can."""
        try:
            self.call(Describe, margin=within)
        except BaseException:
            with contextlib.suppress(EngineError):
                self.send(otherwise)
            raise

    def refresh(self, within: float = MARGIN) -> None:
        """Bring every handle's counters up to date. Raises EngineError after so many seconds without an answer."""
        if self._engine is not None and self.tunnels:
            for snapshot in self.call(Describe, margin=within).snapshots:
                tunnel = self.tunnels.get(snapshot.tunnel)
                if tunnel is not None:
                    tunnel.follow(snapshot)

    def forget(self, tunnel: Tunnel) -> None:
        """Take a tunnel off the list of what is open."""
        self.tunnels.pop(tunnel.request.tunnel, None)

    # ---- what the engine tells ----

    def changed(self, message: Changed) -> None:
        """See Connection."""
        tunnel = self.tunnels.get(message.snapshot.tunnel)
        if tunnel is None:
            return
        call = self._calls.get(tunnel.opening_call)
        if call is not None:
            call.deliver(message)
            state = message.snapshot.state
            if state.ended or (state is TunnelState.FAILED and not message.snapshot.listen):
                return  # an opening that failed: what became of it says the call's answer
        elif message.snapshot.state.ended and tunnel.given_up:
            return  # what was left of an opening that was interrupted
        tunnel.follow(message.snapshot, message.event)
        if message.snapshot.state.ended:
            self.forget(tunnel)

    def died(self, log: str, waiting: set[int]) -> None:
        """Say so once, start another, open the same tunnels on the same ports."""
        lost = EngineError("the engine ended unexpectedly", hint=f"Its log is {log}")
        # Not those still opening: whoever opens them is told. Nor those that failed to: they are for --reconnect.
        wanted = [
            tunnel
            for tunnel in self.listed()
            if tunnel.opening_call and tunnel.opening_call not in waiting and not tunnel.given_up
        ]
        for tunnel in wanted:
            tunnel.cut_adrift()
        now = time.monotonic()
        often = len(self._deaths) == DEATHS_PER_MINUTE and now - self._deaths[0] < 60
        self._deaths.append(now)
        if often:
            self.notice(f"{lost}; it did so {DEATHS_PER_MINUTE + 1} times in a minute and is not started again")
            for tunnel in wanted:
                self._give_up(tunnel, LimitError("the engine keeps ending", hint=lost.hint))
            return
        again = f"; another one opens {', '.join(tunnel.name for tunnel in wanted)} again" if wanted else ""
        self.notice(f"{lost.message}{again} (log: {log})")
        if not wanted:
            return
        for tunnel in wanted:
            tunnel.follow(_now(tunnel, TunnelState.RECONNECTING, lost), "reconnecting")
        for tunnel in wanted:
            try:
                tunnel.opened(self.call(tunnel.request_again, limit=tunnel.request.options.timeout))
            except ForwardError as error:
                self._give_up(tunnel, error)

    def _give_up(self, tunnel: Tunnel, error: ForwardError | None) -> None:
        if isinstance(error, ClosedError):
            tunnel.follow(_gone(tunnel, TunnelState.CLOSED), "close")  # by somebody else, while it was opened
            return
        tunnel.given_up, tunnel.adrift = True, False
        tunnel.follow(_gone(tunnel, TunnelState.FAILED, error), "error")


def _now(tunnel: Tunnel, state: TunnelState, error: ForwardError | None = None) -> Snapshot:
    """A snapshot that the engine cannot make any more, because it or the tunnel is gone."""
    fault = Fault.of(error) if error is not None else tunnel.snapshot.error
    return msgspec.structs.replace(
        tunnel.snapshot, state=state, error=fault, since=time.time(), serial=time.monotonic_ns()
    )


def _gone(tunnel: Tunnel, state: TunnelState, error: ForwardError | None = None) -> Snapshot:
    """Likewise, of one that no engine has: what was heard of it last may tell of a port that it holds no more."""
    last = msgspec.structs.replace(_now(tunnel, state, error), listen="", notes=())
    if last.kind is Kind.REMOTE:
        return msgspec.structs.replace(last, remote_port=0)
    return msgspec.structs.replace(last, local_port=0)


def bound_forward(forward: Forward, snapshot: Snapshot) -> Forward:
    """The forward as it was bound: what an engine that follows another must bind."""
    port = snapshot.remote_port if forward.kind is Kind.REMOTE else snapshot.local_port
    if forward.listen.path or not port:
        return forward
    return replace(forward, listen=Endpoint(forward.listen.host, port))


_current: Session | None = None
_current_lock = threading.Lock()


def current() -> Session:
    """The session of this process."""
    global _current
    with _current_lock:
        if _current is None:
            _current = Session()
        return _current


def _after_fork() -> None:
    """A worker is not the kernel: it must not hold the pipe open, nor close the kernel's tunnels."""
    global _current, _current_lock
    _current_lock = threading.Lock()
    session, _current = _current, None
    if session is not None:
        session.abandon()


def _at_exit() -> None:
    if _current is not None:
        _current.stop()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
