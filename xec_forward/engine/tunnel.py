"""One tunnel: a front that stays, links that come and go, and the supervisor that moves its state.

The supervisor is one task and the only one that changes the state. It binds, dials, checks the far service,
and then waits for the link to be lost, and dials again with the port held. Whoever opened the tunnel waits for
`opened`; the tunnel's life does not depend on them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from ..errors import (
    AuthenticationError,
    ClosedError,
    ConfigError,
    DeadlineError,
    EngineError,
    ForwardError,
    HostKeyError,
    LimitError,
    LostError,
)
from ..model import Changed, Fault, Health, Open, Snapshot, Stage, TunnelState
from ..services import scheme_for_port
from ..spec import Endpoint, Kind
from . import socks
from .front import Front, LocalFront, RemoteFront
from .guard import Guard
from .health import Probe
from .links.base import Dial, Link, Unanswered
from .links.pool import Lease, Pool
from .listener import Binder
from .opening import Asker, CallOpening
from .relay import Relay
from .splice import Handshake

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
# The pause between tries while a client waits.
EAGER_DELAY = 0.25
# How often a degraded tunnel tries to be whole again, seconds.
MEND_INTERVAL = 5.0
# Counters are reported at most this often, seconds.
REPORT_INTERVAL = 0.5
# Errors that another try will not mend.
FINAL = (AuthenticationError, HostKeyError, ConfigError)


logger = logging.getLogger(__name__)


def _unforeseen(error: Exception) -> ForwardError:
    """A fault of ours: the log has the traceback, the user gets one line."""
    logger.error("a fault of xec_forward", exc_info=error)
    return EngineError(f"a fault of xec_forward: {type(error).__name__}", hint="The engine's log has the details")


class Route(Protocol):
    """What identifies the link a request wants, and how to dial it; `own`: no master is ridden."""

    def __call__(self, request: Open, *, own: bool = False) -> tuple[Hashable, Dial]: ...


@dataclass(frozen=True, slots=True)
class House:
    """What every tunnel of the engine shares."""

    pool: Pool
    binder: Binder
    asker: Asker
    report: Callable[[Changed], None]
    route: Route
    expired: Callable[[Tunnel], None]
    log: str


class Tunnel:
    """One tunnel, from `open` to `close`."""

    def __init__(self, request: Open, house: House) -> None:
        self.request = request
        self._house = house
        self._state = TunnelState.IDLE
        self._since = time.time()
        self._born = time.time()
        self._opened_at = 0.0
        self._error: Fault | None = None
        self._route: tuple[str, ...] = (request.target.host,)
        self._notes: list[str] = []
        self._remark = ""  # the link's
        self._reconnects = 0
        self._opening = CallOpening(request.call, house.asker, self._tell)
        self._lease: Lease | None = None
        self._key, self._dialler = house.route(request)
        # What the login learned (a passphrase) stays usable for the next dial while this tunnel lives.
        self._keep = house.pool.keep(self._key)
        self._connect = request.forward.connect or Endpoint()
        self._credentials: tuple[str, str] | None = None
        self._wake = asyncio.Event()
        self._again = asyncio.Event()
        self._front = self._make_front()
        # Nobody can come to a remote forward that has not been asked for.
        self._lazy = request.options.lazy and request.forward.kind is not Kind.REMOTE
        if self._lazy is not request.options.lazy:
            self._notes.append("--lazy does nothing for a remote forward")
        self._reported: Snapshot | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(), name=f"tunnel {request.name}")

    def _make_front(self) -> Front:
        forward, options = self.request.forward, self.request.options
        relay = Relay(
            self._connect,
            options.hold,
            parked=self._wake.set,
            failed=self._client_failed,
            rejected=self._client_rejected,
            guard=Guard.of(options.allowed_ips, options.guard),
            handshake=self._handshake if forward.kind is Kind.DYNAMIC else None,
            most=options.max_connections,
        )
        if forward.kind is Kind.REMOTE:
            return RemoteFront(forward, options, relay)
        return LocalFront(forward, options, relay, self._house.binder)

    def _handshake(self) -> Handshake:
        return socks.Handshake(self._credentials)

    # ---- what others see ----

    @property
    def port(self) -> int:
        """The port bound on this side, 0 where there is none."""
        bound = self._front.bound
        return bound.port or 0 if bound is not None and self.request.forward.kind is not Kind.REMOTE else 0

    @property
    def name(self) -> str:
        return self.request.name

    def snapshot(self) -> Snapshot:
        """What a user may see of this tunnel now."""
        bound = self._front.bound
        near, far = bound or Endpoint(), self._connect
        if self.request.forward.kind is Kind.REMOTE:
            near, far = far, near
        return Snapshot(
            tunnel=self.request.tunnel,
            name=self.request.name,
            kind=self.request.forward.kind,
            state=self._state,
            route=self._route,
            listen=str(bound) if bound is not None else "",
            local_host=near.host,
            local_port=near.port or 0,
            connect=str(self._connect) if self.request.forward.connect is not None else "",
            remote_host=far.host,
            remote_port=far.port or 0,
            since=self._since,
            opened=self._opened_at,
            steps=tuple(self._opening.steps),
            step_since=self._opening.step_since,
            counters=self._front.relay.counters(self._reconnects),
            error=self._error,
            notes=tuple(filter(None, (*self._front.notes, *self._notes, self._remark))),
            log=self._house.log,
            serial=time.monotonic_ns(),
        )

    def _tell(self, event: str = "") -> None:
        snapshot = self.snapshot()
        seen = msgspec.structs.replace(snapshot, serial=0)
        if event or seen != self._reported:
            self._reported = seen
            self._house.report(Changed(snapshot, event))

    def _move(self, state: TunnelState, event: str = "", error: ForwardError | None = None) -> None:
        self._state = state
        self._since = time.time()
        if error is not None:
            self._error = Fault.of(error)
        elif state is TunnelState.READY:
            self._error = None
        self._tell(event)

    def _client_failed(self, error: ForwardError) -> None:
        """One client could not be served; the others and the tunnel are untouched."""
        self._error = Fault.of(error)
        self._tell("error")

    def _client_rejected(self, error: ForwardError) -> None:
        """Somebody who may not be a client was turned away."""
        logger.warning("%s: %s", self.name, error.message)
        self._error = Fault.of(error)
        self._tell("rejected")

    async def _tick(self) -> None:
        """Report what changed, and end when the tunnel's own time is over."""
        options, relay = self.request.options, self._front.relay
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            self._tell()
            now = time.time()
            if options.ttl and now - self._born >= options.ttl:
                self._expire(f"its ttl of {options.ttl:g} s is over")
            elif options.idle and not relay.clients and now - relay.last_client >= options.idle:
                self._expire(f"it had no client for {options.idle:g} s")

    def _expire(self, why: str) -> None:
        self._error = Fault.of(LimitError(f"closed, because {why}", hop=self.name, hint="Open it again"))
        self._house.expired(self)

    # ---- the supervisor ----

    async def _supervise(self) -> None:
        try:
            await self._open()
        except Exception as caught:
            error = caught if isinstance(caught, ForwardError) else _unforeseen(caught)
            await self._undo()
            self._move(TunnelState.FAILED, "error", error)
            if not self.opened.done():
                self.opened.set_exception(error)
            return
        if not self.opened.done():
            self.opened.set_result(None)
        self._front.relay.last_client = time.time()  # --idle counts from here
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        try:
            await self._stay_linked()
        except Exception as caught:
            error = _unforeseen(caught)
            self._front.relay.refuse(error)
            self._move(TunnelState.FAILED, "error", error)

    async def _stay_linked(self) -> None:
        """Wait for the link to be lost, dial again; for ever."""
        while True:
            if self._lease is not None:
                error = await self._lost(self._lease.link)
                self._front.detach(error)
                self._lease.release()
                self._lease = None
                self._reconnects += 1
                self._again.clear()
                if not self._lazy or self._front.relay.parked_clients:
                    self._move(TunnelState.RECONNECTING, "reconnecting", error)
            if self._lazy and not self._front.relay.parked_clients:
                self._move(TunnelState.IDLE)
                await self._first_client()
            await self._redial()

    async def _lost(self, link: Link) -> ForwardError:
        """The reason, once the link is gone; a degraded tunnel tries meanwhile to be whole again."""
        # shielded: the future belongs to all tunnels on this link
        lost = asyncio.shield(link.lost)
        while self._state is TunnelState.DEGRADED:
            done, _ = await asyncio.wait([lost], timeout=MEND_INTERVAL)
            if done:
                break
            await self._attach(link, "ready")
        return await lost

    async def _first_client(self) -> None:
        """A lazy tunnel dials when somebody comes."""
        self._wake.clear()
        while not self._front.relay.parked_clients and not self._again.is_set():
            await self._wake.wait()
            self._wake.clear()
        self._again.clear()
        self._move(TunnelState.OPENING if not self._opened_at else TunnelState.RECONNECTING)

    async def _open(self) -> None:
        """Bind, dial, check: from opening to ready (idle where it is lazy)."""
        options = self.request.options
        self._move(TunnelState.OPENING)
        try:
            async with asyncio.timeout(options.timeout) as deadline:
                self._opening.limit(deadline)
                await self._front.bind()
                if options.socks_user:
                    secret = await self._ask_socks_password()
                    self._credentials = (options.socks_user, secret)
                if self.request.reopen or self._lazy:
                    # The port first: clients of the tunnel that was may already be knocking.
                    await self._front.serve()
                    if self.request.reopen:
                        self._move(TunnelState.RECONNECTING, "reconnecting")
                    return
                link = await self._dial()
                if not options.no_check:
                    await self._check_far(link)
                await self._front.serve()
                await self._front.attach(link)
        except TimeoutError:
            step = self._opening.current or next((step.name for step in reversed(self._opening.steps)), "start")
            raise DeadlineError(
                f"no answer within {options.timeout:g} s, in the step {step}",
                hop=self.request.target.host,
                hint="--timeout S allows more time",
            ) from None
        self._ready("ready")

    async def _ask_socks_password(self) -> str:
        try:
            return await self._opening.ask(
                "socks-password", source=self.request.options.socks_password, prompt="Password for the SOCKS proxy: "
            )
        except Unanswered as error:
            raise ConfigError(
                f"no password for the SOCKS proxy: {error}", hint="--socks-password SOURCE says where it is"
            ) from error

    async def _dial(self) -> Link:
        lease = await self._house.pool.acquire(self._key, self._dialler, self._opening)
        if self.request.forward.kind is Kind.REMOTE and not lease.link.listens:
            # A ridden master: this forward takes a connection of ours.
            lease.release()
            lease = await self._house.pool.acquire(*self._house.route(self.request, own=True), self._opening)
        self._lease = lease
        self._route = self._lease.link.route
        self._remark = self._lease.link.remark
        return self._lease.link

    async def _check_far(self, link: Link) -> None:
        if self.request.forward.kind is not Kind.LOCAL:
            return
        scheme = self.request.scheme or scheme_for_port(self._connect.port or 0)
        async with Probe(self._connect, scheme) as probe:
            with self._opening.step("target"):
                await probe.open(link)
            if not probe.scheme:
                return
            with self._opening.step(probe.scheme):
                outcome = await probe.hello()
            self._opening.remark(outcome)
            if outcome != "ok":
                self._notes.append(f"{self._connect} {outcome}")

    async def _attach(self, link: Link, event: str) -> None:
        """Have the front work over this link; degraded, with the reason, where it cannot (yet)."""
        try:
            await self._front.attach(link)
        except LostError:
            return  # `link.lost` is on its way
        except ForwardError as error:
            self._move(TunnelState.DEGRADED, "degraded" if self._state is not TunnelState.DEGRADED else "", error)
        else:
            self._ready(event)

    def _ready(self, event: str) -> None:
        if not self._opened_at:
            self._opened_at = time.time()
        self._move(TunnelState.READY, event)

    async def _redial(self) -> None:
        """Dial until there is a link again: from reconnecting (or waiting, failed) to ready."""
        delay = FIRST_DELAY
        while True:
            self._opening = CallOpening(0, self._house.asker, self._tell)
            try:
                async with asyncio.timeout(self.request.options.timeout):
                    link = await self._dial()
            except TimeoutError:
                error: ForwardError = DeadlineError(
                    f"no answer within {self.request.options.timeout:g} s", hop=self.request.target.host
                )
            except FINAL as final:
                person = isinstance(final.__cause__, Unanswered) and final.__cause__.person
                self._front.relay.refuse(final)
                self._move(TunnelState.WAITING if person else TunnelState.FAILED, "error", final)
                await self._again.wait()
                self._again.clear()
                self._front.relay.park()
                self._move(TunnelState.RECONNECTING, "reconnecting")
                continue
            except ForwardError as caught:
                error = caught
            else:
                self._front.relay.park()
                await self._attach(link, "reconnected" if self._opened_at else "ready")
                return
            self._error = Fault.of(error)
            self._tell()
            logger.info("%s: %s; again in about %.1f s", self.name, error, delay)
            await self._pause(delay)
            delay = min(delay * 2, LONGEST_DELAY)

    async def _pause(self, delay: float) -> None:
        """Wait before the next try: `delay` with jitter, a quarter of a second while a client waits."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        end = start + delay * random.uniform(0.7, 1.0)
        while loop.time() < end and not self._again.is_set():
            self._wake.clear()
            if self._front.relay.parked_clients:
                end = min(end, start + EAGER_DELAY)
            try:
                async with asyncio.timeout(max(0.0, end - loop.time())):
                    await self._wake.wait()
            except TimeoutError:
                break
        self._again.clear()

    async def _undo(self) -> None:
        """Give back what an opening that failed had taken."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None
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
            self._move(TunnelState.CLOSING)
        await self._front.unbind()
        await self._front.relay.close(grace)
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        self._keep.release()
        if not self.opened.done():
            self.opened.set_exception(ClosedError("the tunnel was closed while it opened"))
            self.opened.exception()
        self._move(TunnelState.CLOSED, "close")

    async def reconnect(self) -> None:
        """Drop the link and dial again, also from waiting and failed; the port stays.

        Returns when the link is gone, not when there is another.
        """
        self._again.set()
        self._wake.set()
        if self._lease is not None:
            link = self._lease.link
            link.abort()
            await asyncio.wait([link.lost])
        # The supervisor's turn: what is answered shows the new state.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def check(self) -> Health:
        """Look at each stage: listener, link, target, and the protocol's hello where the scheme is known."""
        stages = [Stage("listener", 0.0 if self._front.bound is not None else None)]
        if self._lease is None:
            return Health(False, (*stages, Stage("link", None, self._state)), self._error)
        link = self._lease.link
        try:
            async with asyncio.timeout(self.request.options.timeout):
                stages.append(Stage("link", round(await link.round_trip() * 1000, 3)))
                if self.request.forward.kind is not Kind.LOCAL:
                    return Health(self._state is TunnelState.READY, tuple(stages), self._error)
                scheme = self.request.scheme or scheme_for_port(self._connect.port or 0)
                async with Probe(self._connect, scheme) as probe:
                    start = time.monotonic()
                    await probe.open(link)
                    stages.append(Stage("target", round((time.monotonic() - start) * 1000, 3)))
                    if probe.scheme:
                        start = time.monotonic()
                        outcome = await probe.hello()
                        stages.append(Stage(probe.scheme, round((time.monotonic() - start) * 1000, 3), outcome))
        except TimeoutError:
            error: ForwardError = DeadlineError("the health check took too long", hop=self.request.target.host)
            return Health(False, tuple(stages), Fault.of(error))
        except ForwardError as caught:
            return Health(False, tuple(stages), Fault.of(caught))
        return Health(all(stage.outcome == "ok" for stage in stages), tuple(stages))
