"""The SSH link: one connection to one hop, dialled over the hops before it.

Nothing is ever executed on a hop: no session channel, no agent forwarding, no X11; a forward-only account is
enough. Each hop before the target is a link of the pool like any other, with its own host-key check and login;
asyncssh's own ProxyJump, which skips our check, is never used.

A dial connects at most a few times: when a person has to accept a host key the connection is dropped, the question
asked, and the next connection accepts that key and no other. So nobody's login grace time runs while somebody reads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, cast

import asyncssh

from ....errors import ClosedError, ConfigError, DeadlineError, ForwardError, LostError
from ....options import SshTarget
from ....spec import Endpoint
from ..base import Channel, ChannelProtocol, HalfClose, Link, Opening
from ..pool import Lease, Memory, Pool
from . import failures, packets
from .authentication import Login, check_identities
from .config import Resolved, identity, resolve
from .known_hosts import HostKeys
from .stream import Stream

logger = logging.getLogger(__name__)

# asyncssh tells every channel at INFO.
asyncssh.set_log_level(logging.WARNING)

# The bound of each part of a dial (connect, key exchange, login) where ssh_config has no ConnectTimeout; the
# caller's own deadline is usually the nearer one. Questions to a person do not count.
PART_DEADLINE = 120.0
CHANNEL_DEADLINE = 25.0
PING_DEADLINE = 10.0
CLOSE_DEADLINE = 1.0
# AES-GCM is half as fast again as chacha20 in asyncssh.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


class SshLink(Link):
    """A live SSH connection.

    Args:
        host: the hop's name in messages.
        route: the names of all hops, this one last.
    """

    half_close = HalfClose.NOW

    def __init__(self, host: str, route: tuple[str, ...]) -> None:
        self.host = host
        self.route = route
        self.lost: asyncio.Future[ForwardError] = asyncio.get_running_loop().create_future()
        self.round_trip_floor = 0.0
        self._parent: Lease | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """See Link. An answer that has not come within CHANNEL_DEADLINE seconds is a DeadlineError."""
        connection = self._connection
        if connection is None or self.lost.done() or self._closing:
            raise LostError("the connection is gone", hop=self.host)
        stream = Stream(protocol, lambda: self.round_trip_floor, self._why_lost)
        opening: Coroutine[Any, Any, tuple[Any, Any]]
        if connect.path:
            opening = connection.create_unix_connection(
                lambda: cast(Any, stream),
                connect.path,
                encoding=None,
                window=packets.WINDOW,
                max_pktsize=packets.PACKET,
            )
        else:
            opening = connection.create_connection(
                lambda: stream,
                connect.host or "localhost",
                connect.port or 0,
                *origin,
                encoding=None,
                window=packets.WINDOW,
                max_pktsize=packets.PACKET,
            )
        # A task of its own: an open that was sent cannot be taken back, so after a cancellation it waits for the
        # answer in our place and closes what was opened.
        task = self._spawn(opening)
        try:
            async with asyncio.timeout(CHANNEL_DEADLINE):
                await asyncio.shield(task)
        except asyncssh.ChannelOpenError as error:
            if self.lost.done() or self._closing:
                raise LostError("the connection is gone", hop=self.host) from error
            raise failures.refusal(error, connect, self.host) from error
        except TimeoutError:
            task.add_done_callback(_discard)
            raise DeadlineError(
                f"no answer within {CHANNEL_DEADLINE:g} s, as seen from {self.host}", hop=str(connect)
            ) from None
        except asyncio.CancelledError:
            task.add_done_callback(_discard)
            raise
        except Exception as error:  # the connection broke at this very moment
            raise self._why_lost(error) from error
        asyncio.get_running_loop().call_soon(stream.release)
        return stream

    async def round_trip(self) -> float:
        """See Link."""
        if self._connection is None or self.lost.done():
            raise LostError("the connection is gone", hop=self.host)
        start = time.perf_counter()
        try:
            async with asyncio.timeout(PING_DEADLINE):
                await packets.ping(self._connection)
        except TimeoutError:
            raise DeadlineError(f"no answer within {PING_DEADLINE:g} s", hop=self.host) from None
        if self.lost.done():
            raise LostError("the connection is gone", hop=self.host)
        seconds = time.perf_counter() - start
        self.round_trip_floor = min(self.round_trip_floor or seconds, seconds)
        return seconds

    async def close(self) -> None:
        """See Link."""
        self._closing = True
        connection = self._connection
        try:
            if connection is not None and not self.lost.done():
                connection.close()
                async with asyncio.timeout(CLOSE_DEADLINE):
                    await connection.wait_closed()
        except TimeoutError:
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """See Link."""
        self._closing = True
        if self._connection is not None:
            self._connection.abort()
        if not self.lost.done():
            self.lost.set_result(ClosedError("the link was closed", hop=self.host))
        parent, self._parent = self._parent, None
        if parent is not None:
            parent.release()

    def made(self, connection: asyncssh.SSHClientConnection) -> None:
        """The connection has begun."""
        self._connection = connection
        packets.quicken(connection)

    def ready(self, parent: Lease | None) -> None:
        """The login is done.

        Learns the round trip: twice, since the first answer waits for the server to settle.

        Args:
            parent: the lease on the link that this one goes through, given back when this one has ended.
        """
        self._parent = parent

        async def measure() -> None:
            try:
                await self.round_trip()
                await self.round_trip()
            except (LostError, DeadlineError):
                pass

        self._spawn(measure())

    def gone(self, error: Exception | None) -> None:
        """The connection has ended."""
        if not self.lost.done():
            self.lost.set_result(self._why_lost(error))

    def open_channels(self) -> int:
        """How many channels the connection has, half-open ones included."""
        return packets.open_channels(self._connection) if self._connection is not None else 0

    def _why_lost(self, error: Exception | None) -> ForwardError:
        if self._closing:
            return ClosedError("the link was closed", hop=self.host)
        return failures.loss(error, self.host)

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _discard(task: asyncio.Task[Any]) -> None:
    """Close a channel that nobody wants any more."""
    if not task.cancelled() and task.exception() is None:
        task.result()[0].abort()


class _Clock:
    """The deadline of the dial's present part; it stands still while a person is asked."""

    def __init__(self, timeout: asyncio.Timeout, seconds: float) -> None:
        self.part = "connecting"
        self.seconds = seconds
        self._timeout = timeout

    def begin(self, part: str) -> None:
        self.part = part
        self.run()

    def run(self) -> None:
        self._timeout.reschedule(asyncio.get_running_loop().time() + self.seconds)

    def stop(self) -> None:
        self._timeout.reschedule(None)


class _Client(asyncssh.SSHClient):
    """What asyncssh calls while it connects and when the connection ends."""

    def __init__(self, link: SshLink, host_keys: HostKeys, login: Login, clock: _Clock) -> None:
        self._link = link
        self._host_keys = host_keys
        self._login = login
        self._clock = clock
        self._interactive = False

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn
        self._link.made(conn)
        self._clock.begin("the key exchange")

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.gone(exc)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._host_keys.validate(key)

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._host_keys.validate_authority(key)

    def begin_auth(self, username: str) -> None:
        self._clock.begin("the login")

    async def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | None:
        self._note_offers()
        return await self._login.next_key()

    async def password_auth_requested(self) -> str | None:
        self._note_offers()
        return await self._login.password("password")

    async def kbdint_auth_requested(self) -> str | None:
        self._note_offers()
        return "" if self._login.may_interact() else None

    async def kbdint_challenge_received(  # type: ignore[override]
        self, name: str, instructions: str, lang: str, prompts: list[tuple[str, bool]]
    ) -> list[str] | None:
        return await self._login.answers(instructions.strip(), list(prompts))

    def auth_completed(self) -> None:
        self._login.succeeded()

    def _note_offers(self) -> None:
        self._login.offers.update(dict.fromkeys(self._connection.get_server_auth_methods()))


class _PatientOpening:
    """An Opening whose questions stop the dial's clock."""

    def __init__(self, opening: Opening, clock: _Clock) -> None:
        self._opening = opening
        self._clock = clock
        self.step = opening.step

    async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
        self._clock.stop()
        try:
            return await self._opening.ask(kind, source=source, prompt=prompt, echo=echo)
        finally:
            self._clock.run()


class _Carrier:
    """Carries a connection to the next hop in a channel: protocol of the channel, `tunnel=` for asyncssh."""

    def __init__(self, parent: Link) -> None:
        self._parent = parent
        self._connection: Any = None

    async def create_connection(self, factory: Any, host: str, port: int) -> tuple[Any, Any]:
        """As SSHClientConnection.create_connection, for asyncssh."""
        stream = await self._parent.open_channel(Endpoint(host, port), self)
        connection = self._connection = factory()
        connection.connection_made(stream)
        return stream, connection

    def data_received(self, data: bytes) -> None:
        self._connection.data_received(data)

    def eof_received(self) -> None:
        self._connection.eof_received()

    def pause_writing(self) -> None:
        pass  # what the channels inside may send is bounded by their own windows

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, error: Exception | None) -> None:
        if self._connection is not None:
            self._connection.connection_lost(error)


async def dial(target: SshTarget, opening: Opening, pool: Pool) -> SshLink:
    """Connect, check the host key, log in, over the hops that ssh_config names.

    Args:
        target: where to.
        opening: shown the step "ssh" (and "ssh HOP" for each hop before), and asked what has to be asked.
        pool: where the links to the hops come from, and what earlier dials of this target learned.

    Raises:
        ForwardError: any of the tree but those of binds; `hop` says where. The cause of an AuthenticationError or an
            UnknownHostKeyError is `Unanswered` where nobody could answer.
    """
    return await _dial(target, opening, pool, (), ())


async def _dial(
    target: SshTarget, opening: Opening, pool: Pool, via: tuple[SshTarget, ...], trail: tuple[SshTarget, ...]
) -> SshLink:
    """`via`: hops that were written out, in the place of the configured ones; `trail`: whose hop this is."""
    if target in trail:
        raise ConfigError("its ProxyJump leads back to itself", hop=target.host, hint="see ssh_config")
    resolved = await asyncio.to_thread(resolve, target)
    await asyncio.to_thread(check_identities, resolved)
    memory = pool.memory(identity(target, via))
    jumps = via or resolved.jumps
    parent: Lease | None = None
    if jumps:
        hop, before = jumps[-1], jumps[:-1]
        key = identity(hop, before)
        memory.hold(pool.keep(key))
        approach = partial(_dial, hop, pool=pool, via=before, trail=(*trail, target))
        parent = await pool.acquire(key, approach, opening)
    try:
        with opening.step(f"ssh {target.host}" if trail else "ssh"):
            return await _dial_hop(target, resolved, opening, memory, parent)
    except BaseException:
        if parent is not None:
            parent.release()
        raise


async def _dial_hop(
    target: SshTarget, resolved: Resolved, opening: Opening, memory: Memory, parent: Lease | None
) -> SshLink:
    while True:
        host_keys = await asyncio.to_thread(HostKeys, resolved, memory.answers.get("host key", ""))
        try:
            return await _connect(target, resolved, opening, memory, parent, host_keys)
        except asyncssh.HostKeyNotVerifiable as refusal:
            await host_keys.decide(refusal, opening)
            if memory.answers.get("host key") == host_keys.offered:
                raise ConfigError("the accepted host key was refused", hop=resolved.host) from refusal
            memory.answers["host key"] = host_keys.offered


async def _connect(
    target: SshTarget,
    resolved: Resolved,
    opening: Opening,
    memory: Memory,
    parent: Lease | None,
    host_keys: HostKeys,
) -> SshLink:
    """One connection. Raises HostKeyNotVerifiable as it is, and all else as ForwardError."""
    route = (*(parent.link.route if parent is not None else ()), target.host)
    link = SshLink(target.host, route)
    login: Login | None = None
    clock: _Clock | None = None
    try:
        async with asyncio.timeout(None) as timeout:
            clock = _Clock(timeout, resolved.connect_timeout or PART_DEADLINE)
            clock.run()
            login = Login(target, resolved, _PatientOpening(opening, clock), memory)
            client = _Client(link, host_keys, login, clock)
            await asyncssh.connect(
                target.host,
                resolved.port,
                username=resolved.username,
                config=list(resolved.files),
                client_factory=lambda: client,
                tunnel=_Carrier(parent.link) if parent is not None else None,
                known_hosts=host_keys.known,
                server_host_key_algs=() if resolved.host_key_algorithms else host_keys.algorithms,
                x509_trusted_certs=None,
                client_keys=None,
                agent_path=None,
                agent_forwarding=False,
                gss_host=() if resolved.gssapi else None,
                gss_kex=False,
                encryption_algs=() if resolved.ciphers else f"^{','.join(CIPHERS)}",
                compression_algs=() if resolved.compression else "none",
                keepalive_interval=resolved.alive_interval,
                keepalive_count_max=resolved.alive_count_max,
                connect_timeout=None,
                login_timeout=0,
                utf8_decode_errors="replace",
            )
    except BaseException as error:
        if isinstance(error, asyncssh.HostKeyNotVerifiable) or not isinstance(error, Exception):
            raise
        if isinstance(error, TimeoutError) and timeout.expired() and clock is not None:
            raise DeadlineError(
                f"no answer from {resolved.address} within {clock.seconds:g} s, during {clock.part}",
                hop=resolved.host,
                hint="is the network, or the VPN, up?",
            ) from None
        if isinstance(error, asyncssh.PermissionDenied) and login is not None:
            raise login.refused() from login.unanswered
        raise failures.explain(error, resolved) from error
    finally:
        host_keys.record_if_new()
        if login is not None:
            await login.end()
    link.ready(parent)
    return link
