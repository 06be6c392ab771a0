"""One tunnel: a front that stays, links that come and go, and the supervisor that moves its state.

The supervisor is one task and the only one that changes the state. It binds, dials, checks the far service,
and then waits for the link to be lost, and dials again with the port held. Whoever opened the tunnel waits for
`opened`; the tunnel's life does not depend on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from ..errors import (
    AuthenticationError,
    ClosedError,
    ConfigError,
    EngineError,
    ForwardError,
    HostKeyError,
    LimitError,
    LostError,
    RbacError,
)
from ..model import Health, Open, Snapshot, TunnelState
from ..services import scheme_for_port
from ..spec import Endpoint, Kind
from . import socks
from .front import Front, LocalFront, RemoteFront
from .guard import Guard
from .handshake import Handshake
from .health import UNTRIED, Probe, examine, untried
from .house import House
from .links.base import Link, Passing, Unanswered
from .links.pool import Lease
from .links.way import Place
from .pause import FIRST, LONGEST, Pause
from .record import Record
from .relay import Relay

# How often a degraded tunnel tries to be whole again, seconds.
MEND_INTERVAL = 5.0
# Counters are reported at most this often, seconds.
REPORT_INTERVAL = 0.5
# Errors that another try will not mend.
FINAL = (AuthenticationError, HostKeyError, ConfigError, RbacError)
# How long one that may pass by itself (links.base.Passing) is not taken for final, seconds.
PASSING = 30.0
# How often a caller who waits between two tries hears of it, seconds.
WORD = 5.0


logger = logging.getLogger(__name__)


def _unforeseen(error: Exception) -> ForwardError:
    """A fault of ours: the log has the traceback, the user gets one line."""
    logger.error("a fault of xec_forward", exc_info=error)
    return EngineError(f"a fault of xec_forward: {type(error).__name__}", hint="The engine's log has the details")


class Tunnel:
    """One tunnel, from `open` to `close`."""

    def __init__(self, request: Open, house: House) -> None:
        self.request = request
        self._house = house
        self._connect = request.forward.connect or Endpoint()
        self._credentials: tuple[str, str] | None = None
        self._pause = Pause(lambda: bool(self._front.relay.parked_clients))
        self._again = asyncio.Event()  # somebody asked for another try
        self._front = self._make_front()
        self._record = Record(request, self._front, house.report, house.asker, house.log)
        self._lease: Lease | None = None
        self._way = house.route(request)
        # What the login learned (a passphrase) stays usable for the next dial while this tunnel lives.
        self._keep = self._way.keep()
        remote = request.forward.kind is Kind.REMOTE
        # Nobody can come to a remote forward that has not been asked for.
        self._lazy = request.options.lazy and not remote
        for option in ("lazy", "auto_port"):
            if remote and getattr(request.options, option):
                self._record.notes.append(f"--{option.replace('_', '-')} does nothing for a remote forward")
        self._ticker: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(), name=f"tunnel {request.name}")

    def _make_front(self) -> Front:
        forward, options = self.request.forward, self.request.options
        relay = Relay(
            self._connect,
            options.hold,
            within=options.timeout,
            parked=self._pause.stir,
            failed=lambda error: self._record.client_failed(error),
            rejected=lambda error: self._record.client_rejected(error),
            guard=Guard.of(options.allowed_ips, options.guard),
            handshake=self._handshake if forward.kind is Kind.DYNAMIC else None,
            most=options.max_connections,
        )
        if forward.kind is Kind.REMOTE:
            return RemoteFront(forward, options, relay)
        return LocalFront(forward, options, relay, self._house.binder)

    def _handshake(self) -> Handshake:
        return socks.Handshake(self._credentials)

    @property
    def port(self) -> int:
        """The port bound on this side, 0 where there is none."""
        bound = self._front.bound
        return bound.port or 0 if bound is not None and self.request.forward.kind is not Kind.REMOTE else 0

    @property
    def name(self) -> str:
        return self.request.name

    @property
    def place(self) -> Place:
        """Where in a cluster it leads."""
        return self._way.place

    def snapshot(self) -> Snapshot:
        """What a user may see of this tunnel now."""
        return self._record.snapshot()

    async def _tick(self) -> None:
        """Report what changed, and end when the tunnel's own time, which begins here, is over."""
        options, relay, start = self.request.options, self._front.relay, time.time()
        relay.last_client = start
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            self._record.tell()
            now = time.time()
            if options.ttl and now - start >= options.ttl:
                self._expire(f"its ttl of {options.ttl:g} s is over")
            elif options.idle and not relay.clients and now - relay.last_client >= options.idle:
                self._expire(f"it had no client for {options.idle:g} s")

    def _expire(self, why: str) -> None:
        self._record.failed(LimitError(f"closed, because {why}", hop=self.name, hint="Open it again"))
        self._house.expired(self)

    # ---- the supervisor ----

    async def _supervise(self) -> None:
        try:
            await self._open()
        except Exception as caught:
            error = caught if isinstance(caught, ForwardError) else _unforeseen(caught)
            await self._undo()
            self._record.move(TunnelState.FAILED, "error", error)
            if not self.opened.done():
                self.opened.set_exception(error)
            return
        if not self.opened.done():
            self.opened.set_result(None)
        self._again.clear()
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        try:
            await self._stay_linked()
        except Exception as caught:
            error = _unforeseen(caught)
            self._front.relay.refuse(error)
            self._record.move(TunnelState.FAILED, "error", error)

    async def _stay_linked(self) -> None:
        """Wait for the link to be lost, dial again; for ever."""
        while True:
            if self._lease is not None:
                error = await self._lost(self._lease.link)
                logger.info("%s: the link is lost: %s", self.name, error)
                self._front.detach(error)
                self._release()
                self._record.reconnects += 1
                self._again.clear()
                if not self._lazy or self._front.relay.parked_clients:
                    self._record.move(TunnelState.RECONNECTING, "reconnecting", error)
            if self._lazy and not self._front.relay.parked_clients:
                self._record.move(TunnelState.IDLE)
                await self._first_client()
            await self._redial()

    async def _lost(self, link: Link) -> ForwardError:
        """The reason, once the link is gone; a degraded tunnel tries meanwhile to be whole again."""
        # shielded: the future belongs to all tunnels on this link
        lost = asyncio.shield(link.lost)
        while self._record.state is TunnelState.DEGRADED:
            done, _ = await asyncio.wait([lost], timeout=MEND_INTERVAL)
            if done:
                break
            await self._attach(link, "ready")
        return await lost

    async def _first_client(self) -> None:
        """A lazy tunnel dials when somebody comes."""
        while not self._front.relay.parked_clients and not self._again.is_set():
            await self._pause.until_stirred()
        self._again.clear()
        self._record.move(TunnelState.OPENING if not self._record.opened_at else TunnelState.RECONNECTING)

    async def _open(self) -> None:
        """Bind, dial, check: from opening to ready (idle where it is lazy)."""
        options = self.request.options
        self._record.move(TunnelState.OPENING)
        async with self._deadline():
            await self._front.bind()
            self._house.bound()
            if options.socks_user:
                secret = await self._ask_socks_password()
                self._credentials = (options.socks_user, secret)
            # Before there is a link: who knocks meanwhile waits as long as `hold` says, and is known to be there.
            await self._front.serve()
        if self.request.reopen:
            self._record.move(TunnelState.RECONNECTING, "reconnecting")
        if self.request.reopen or self._lazy:
            await self._way.settle()
            self._record.place = self._way.place
            return
        failures = 0
        while True:
            try:
                async with self._deadline():
                    link = await self._dial()
                    if not options.no_check:
                        await self._check_far(link)
                    await self._front.attach(link)
                break
            except ForwardError as error:
                failures += 1
                if not options.retry_initial or isinstance(error, FINAL) or failures > self._most_failures():
                    raise
                self._release()
                await self._wait_to_retry(error)
        self._record.move(TunnelState.READY, "ready")

    @contextlib.asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """What a caller waits for, within `timeout` seconds. Raises DeadlineError, which names the step."""
        options, opening = self.request.options, self._record.opening
        try:
            async with asyncio.timeout(options.timeout) as deadline:
                opening.limit(deadline)
                yield
        except TimeoutError as error:
            if isinstance(error, ForwardError):  # one of the steps had a deadline of its own
                raise
            far = opening.waiting or opening.failed in ("target", self._scheme())
            hop = str(self._connect) if far else self.request.target.host
            raise opening.late(options.timeout, hop) from None

    async def _wait_to_retry(self, error: ForwardError) -> None:
        """The pause of --retry-initial. A word now and then tells the caller that the engine is not stuck."""
        delay = self.request.options.retry_delay
        self._record.failed(error, "error")
        logger.info("%s: %s; again in %g s", self.name, error, delay)
        loop = asyncio.get_running_loop()
        end = loop.time() + delay
        self._record.opening.restart()
        with self._record.opening.step(f"{error.code}, again in {delay:g} s"):
            while (left := end - loop.time()) > 0 and not self._again.is_set():
                try:
                    async with asyncio.timeout(min(left, WORD)):
                        await self._again.wait()
                except TimeoutError:
                    self._record.tell(again=True)
        self._again.clear()
        self._record.opening.restart()

    def _most_failures(self) -> float:
        most = self.request.options.max_retries
        return float("inf") if most is None else most

    async def _ask_socks_password(self) -> str:
        try:
            return await self._record.opening.ask(
                "socks-password", source=self.request.options.socks_password, prompt="Password for the SOCKS proxy: "
            )
        except Unanswered as error:
            raise ConfigError(
                f"no password for the SOCKS proxy: {error}", hint="--socks-password SOURCE says where it is"
            ) from error

    async def _dial(self) -> Link:
        opening = self._record.opening
        lease = await self._way.acquire(opening)
        self._record.place = self._way.place
        if self.request.forward.kind is Kind.REMOTE and not lease.link.listens:
            # A ridden master: this forward takes a connection of ours.
            lease.release()
            lease = await self._house.route(self.request, own=True).acquire(opening)
        self._lease = lease
        self._record.linked(lease.link)
        return lease.link

    async def _check_far(self, link: Link) -> None:
        if self.request.forward.kind is not Kind.LOCAL:
            return
        opening = self._record.opening
        if untried(self._connect, self._scheme()):
            self._record.notes.append(f"{self._connect} was {UNTRIED}")
            return
        async with Probe(self._connect, self._scheme()) as probe:
            with opening.step("target"):
                await probe.open(link)
            if not probe.scheme:
                return
            with opening.step(probe.scheme):
                outcome = await probe.hello()
            opening.remark(outcome)
            if outcome != "ok":
                self._record.notes.append(f"{self._connect} {outcome}")

    def _scheme(self) -> str:
        return self.request.scheme or scheme_for_port(self._connect.port or 0)

    async def _attach(self, link: Link, event: str) -> None:
        """Have the front work over this link; degraded, with the reason, where it cannot (yet)."""
        try:
            await self._front.attach(link)
        except LostError:
            return  # `link.lost` is on its way
        except ForwardError as error:
            degraded = self._record.state is TunnelState.DEGRADED
            self._record.move(TunnelState.DEGRADED, "" if degraded else "degraded", error)
        else:
            self._record.move(TunnelState.READY, event)

    async def _redial(self) -> None:
        """Dial until there is a link again: from reconnecting (or waiting, failed) to ready."""
        loop = asyncio.get_running_loop()
        delay, failures, since = FIRST, 0, loop.time()
        while True:
            self._record.begin()
            try:
                async with self._deadline():
                    link = await self._dial()
            except ForwardError as error:
                failures += 1
                passing = isinstance(error.__cause__, Passing) and loop.time() - since < PASSING
                if (isinstance(error, FINAL) and not passing) or failures > self._most_failures():
                    await self._give_up(error)
                    delay, failures, since = FIRST, 0, loop.time()
                    continue
                self._record.failed(error)
                logger.info("%s: %s; again in about %.1f s", self.name, error, delay)
                await self._pause.between(delay)
                self._again.clear()
                delay = min(delay * 2, LONGEST)
            else:
                self._front.relay.park()
                await self._attach(link, "reconnected" if self._record.opened_at else "ready")
                return

    async def _give_up(self, error: ForwardError) -> None:
        """Another try will not mend it: refuse clients, with the port held, until somebody asks for one."""
        person = isinstance(error.__cause__, Unanswered) and error.__cause__.person
        self._front.relay.refuse(error)
        self._record.move(TunnelState.WAITING if person else TunnelState.FAILED, "error", error)
        await self._again.wait()
        self._again.clear()
        self._front.relay.park()
        self._record.move(TunnelState.RECONNECTING, "reconnecting")

    def _release(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    async def _undo(self) -> None:
        """Give back what an opening that failed had taken."""
        self._release()
        await self._front.unbind()

    # ---- requests ----

    async def close(self, grace: float = 2.0) -> None:
        """Terminal and idempotent: stop accepting, end the clients (see relay), give back the link, unbind."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(grace))
        await asyncio.shield(self._closing)

    async def _close(self, grace: float) -> None:
        self._supervisor.cancel()
        if self._ticker is not None:
            self._ticker.cancel()
        await asyncio.wait([self._supervisor])
        if self._front.bound is not None:
            self._record.move(TunnelState.CLOSING)
        await self._front.unbind()
        await self._front.relay.close(grace)
        self._release()
        self._keep.release()
        if not self.opened.done():
            self.opened.set_exception(ClosedError("the tunnel was closed while it opened"))
            self.opened.exception()
        self._record.move(TunnelState.CLOSED, "close")

    async def reconnect(self) -> None:
        """Drop the link and dial again, also from waiting and failed; the port stays.

        Returns when the link is gone, not when there is another. Other tunnels on that link lose it too, and dial
        again. A tunnel that is still opening dials as it is.
        """
        self._again.set()
        self._pause.hurry()
        if self._lease is not None and self.opened.done():
            link = self._lease.link
            link.abort()
            await asyncio.wait([link.lost])
        # The supervisor's turn: what is answered shows the new state.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def hurry(self) -> None:
        """The machine woke up, or its network changed: a try that waits comes at once. A login that waits for a person
        still does."""
        self._pause.hurry()
        if not self.opened.done():
            self._again.set()

    async def check(self) -> Health:
        """Look at each stage: listener, link, target, and the protocol's hello where the scheme is known."""
        link = self._lease.link if self._lease is not None else None
        connect = self._connect if self.request.forward.kind is Kind.LOCAL else None
        snapshot, limit = self._record.snapshot(), self.request.options.timeout
        return await examine(self._front, link, connect, self._scheme(), snapshot, timeout=limit)
