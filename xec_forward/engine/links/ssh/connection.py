"""Dialling an SSH link: connect over the hops before it, check the host key, log in.

Nothing is ever executed on a hop: no session channel, no agent forwarding, no X11; a forward-only account is
enough. Each hop before the target is a link of the pool like any other, with its own host-key check and login;
asyncssh's own ProxyJump, which skips our check, is never used.

A dial connects at most a few times: when a person has to accept a host key the connection is dropped, the question
asked, and the next connection accepts that key and no other. So nobody's login grace time runs while somebody reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import asyncssh

from ....errors import ConfigError, DeadlineError
from ....options import SshTarget
from ....spec import Endpoint
from ..base import Link, Opening
from ..pool import Lease, Memory, Pool
from . import failures, packets, sharing
from .authentication import Login, check_identities
from .config import Resolved, identity, refuse_circle, resolve
from .known_hosts import HostKeys
from .link import SshLink
from .proxy_command import ProxyCommand

# asyncssh tells every channel at INFO.
asyncssh.set_log_level(logging.WARNING)

# The bound of each part of a dial (connect, key exchange, login) where ssh_config has no ConnectTimeout; the
# caller's own deadline is usually the nearer one. Questions to a person do not count.
PART_DEADLINE = 120.0
# AES-GCM is half as fast again as chacha20 in asyncssh.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


class _Clock:
    """The deadline of the dial's present part; it stands still while a person is asked."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self.part = ""
        self.seconds = 0.0
        self._timeout = timeout

    def begin(self, part: str, seconds: float) -> None:
        self.part, self.seconds = part, seconds
        self.run()

    def run(self) -> None:
        self._timeout.reschedule(asyncio.get_running_loop().time() + self.seconds)

    def stop(self) -> None:
        self._timeout.reschedule(None)


class Observer:
    """Sees how far a connection has come. This one does nothing about it; the doctor's is in `examine`."""

    def approach(self, parent: Link | None) -> Any:
        """What makes the connection's transport, as `tunnel=` of asyncssh; None: a ProxyCommand, or asyncssh itself."""
        return _Carrier(parent) if parent is not None else None

    def connected(self) -> None:
        """The transport is there, and the key exchange begins."""

    def exchanged(self, connection: asyncssh.SSHClientConnection) -> None:
        """The host key is trusted, and the login begins."""

    def tried(self, what: asyncssh.SSHKeyPair | str) -> None:
        """A key or something else is shown to the server."""


class _Client(asyncssh.SSHClient):
    """What asyncssh calls while it connects and when the connection ends."""

    def __init__(
        self, link: SshLink, host_keys: HostKeys, login: Login, begin: Callable[[str], None], observer: Observer
    ) -> None:
        self._link = link
        self._host_keys = host_keys
        self._login = login
        self._begin = begin
        self._observer = observer
        self._interactive = False

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn
        self._link.made(conn)
        self._begin("the key exchange")
        self._observer.connected()

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.gone(exc)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._host_keys.validate(key)

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._host_keys.validate_authority(key)

    def begin_auth(self, username: str) -> None:
        self._begin("the login")
        self._observer.exchanged(self._connection)

    async def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | None:
        self._note_offers()
        pair = await self._login.next_key()
        if pair is not None:
            self._observer.tried(pair)
        return pair

    async def password_auth_requested(self) -> str | None:
        self._note_offers()
        password = await self._login.password("password")
        if password is not None:
            self._observer.tried("the password")
        return password

    async def kbdint_auth_requested(self) -> str | None:
        self._note_offers()
        return "" if self._login.may_interact() else None

    async def kbdint_challenge_received(  # type: ignore[override]
        self, name: str, instructions: str, lang: str, prompts: list[tuple[str, bool]]
    ) -> list[str] | None:
        answers = await self._login.answers(instructions.strip(), list(prompts))
        if answers:
            self._observer.tried("keyboard-interactive")
        return answers

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
        self.wait_for = opening.wait_for
        self.connect_within = opening.connect_within
        self.remaining = opening.remaining

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


async def dial(target: SshTarget, opening: Opening, pool: Pool) -> Link:
    """Ride a master that lives; else connect, check the host key, log in, over the hops that ssh_config names.

    Args:
        target: where to.
        opening: shown the step "ssh" (and "ssh HOP" for each hop before), and asked what has to be asked.
        pool: where the links to the hops come from, and what earlier dials of this target learned.

    Raises:
        ForwardError: any of the tree but those of binds; `hop` says where. The cause of an AuthenticationError or an
            UnknownHostKeyError is `Unanswered` where nobody could answer.
    """
    return await _dial(target, opening, pool, (), "ssh")


async def _dial(target: SshTarget, opening: Opening, pool: Pool, via: tuple[SshTarget, ...], step: str) -> Link:
    """`via`: the hops before this one that were written out, in the place of those it configures itself."""
    resolved = await asyncio.to_thread(resolve, target)
    jumps = via or resolved.jumps
    places = sharing.paths(target, resolved, jumps)
    if places:
        with opening.step("master"):
            ridden = await sharing.ride_any(places, target, resolved)
        if ridden is not None:
            return ridden
    await asyncio.to_thread(check_identities, resolved)
    memory = pool.memory(identity(target, via))
    parent: Lease | None = None
    if jumps:
        # Two dials that wait for each other would wait for ever.
        await asyncio.to_thread(refuse_circle, target, jumps)
        hop, before = jumps[-1], jumps[:-1]
        key = identity(hop, before)
        memory.hold(pool.keep(key))
        approach = partial(_dial, hop, pool=pool, via=before, step=f"ssh {hop.host}")
        parent = await pool.acquire(key, approach, opening)
    try:
        with opening.step(step):
            link = await _dial_hop(target, resolved, opening, memory, parent)
    except BaseException:
        if parent is not None:
            parent.release()
        raise
    if target.control_master == "yes":
        try:
            await sharing.serve(link, places[0])
        except BaseException:
            await link.close()
            raise
    return link


async def _dial_hop(
    target: SshTarget, resolved: Resolved, opening: Opening, memory: Memory, parent: Lease | None
) -> SshLink:
    while True:
        host_keys = await asyncio.to_thread(HostKeys, resolved, memory.answers.get("host key", ""))
        try:
            return await connect(target, resolved, opening, memory, parent, host_keys)
        except asyncssh.HostKeyNotVerifiable as refusal:
            await host_keys.decide(refusal, opening)
            if memory.answers.get("host key") == host_keys.offered:
                raise ConfigError("the accepted host key was refused", hop=resolved.host) from refusal
            memory.answers["host key"] = host_keys.offered


async def connect(
    target: SshTarget,
    resolved: Resolved,
    opening: Opening,
    memory: Memory,
    parent: Lease | None,
    host_keys: HostKeys,
    observer: Observer | None = None,
) -> SshLink:
    """One connection. Raises HostKeyNotVerifiable as it is, and all else as ForwardError."""
    observer = observer or Observer()
    route = (*(parent.link.route if parent is not None else ()), target.host)
    link = SshLink(target.host, route)
    login: Login | None = None
    clock: _Clock | None = None
    proxy = ProxyCommand(resolved) if parent is None and resolved.proxy_command else None
    try:
        async with asyncio.timeout(None) as timeout:
            most = resolved.connect_timeout or PART_DEADLINE
            clock = _Clock(timeout)
            clock.begin("connecting", min(most, opening.connect_within))
            login = Login(target, resolved, _PatientOpening(opening, clock), memory)
            client = _Client(link, host_keys, login, partial(clock.begin, seconds=most), observer)
            if target.compression_level is not None:
                packets.set_compression_level(target.compression_level)
            await asyncssh.connect(
                target.host,
                resolved.port,
                username=resolved.username,
                config=list(resolved.files),
                client_factory=lambda: client,
                tunnel=observer.approach(parent.link if parent is not None else None) or proxy,
                known_hosts=host_keys.known,
                server_host_key_algs=() if resolved.host_key_algorithms else host_keys.algorithms,
                x509_trusted_certs=None,
                client_keys=None,
                agent_path=None,
                agent_forwarding=False,
                gss_host=() if resolved.gssapi else None,
                gss_kex=False,
                encryption_algs=() if resolved.ciphers else f"^{','.join(CIPHERS)}",
                compression_algs=("zlib@openssh.com", "zlib", "none") if resolved.compression else "none",
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
                hint="Is the network, or the VPN, up?",
            ) from None
        if isinstance(error, asyncssh.PermissionDenied) and login is not None:
            raise login.refused() from login.unanswered
        if proxy is not None and isinstance(error, asyncssh.ConnectionLost | OSError):
            raise await proxy.failure() from error
        raise failures.explain(error, resolved) from error
    finally:
        host_keys.record_if_new()
        if login is not None:
            await login.end()
    link.persist = resolved.control_persist
    if link.persist:
        how_long = "as long as the kernel" if link.persist == float("inf") else f"{link.persist:g} s"
        link.remark = f"the connection outlives its last tunnel: {how_long}"
    link.ready(parent)
    return link
