"""The doctor's way to an SSH host: the same connection as an opening's, with a look at each stage of each hop.

    config      what ssh_config makes of the alias           banner      is it SSH at all; which server
    dns, tcp    of the first host, from here; of one behind  host key    known, unknown, changed, revoked
                another one as that one sees it              login       what was offered, tried, refused

Nothing is changed, and nothing outlives it: no key is recorded or accepted, no live link or master is used, nobody is
asked. A SOURCE that was given is resolved, once the server wants it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import asyncssh
from asyncssh.agent import SSHAgentKeyPair

from ....errors import (
    AuthenticationError,
    ConfigError,
    DeadlineError,
    ForwardError,
    LostError,
    RefusedError,
    UnknownHostKeyError,
)
from ....options import SshTarget
from ....spec import Endpoint
from ....spec.names import is_address
from ..base import Link, Unanswered
from ..chart import Chart, Halt, channel
from ..pool import Lease, Memory
from . import sharing
from .authentication import check_identities, public_half
from .config import Resolved, refuse_circle, resolve, shown
from .connection import Observer, connect
from .known_hosts import HostKeys
from .link import SshLink

# The longest that a TCP connection and a banner may take, seconds.
TCP = 10.0
BANNER = 10.0
# An SSH server speaks first (RFC 4253 section 4.2 lets it). One that is silent for so long is spoken to, seconds.
SILENCE = 2.0
_IDENTIFICATION = b"SSH-2.0-xec_forward\r\n\r\n"
_MOST = 8192

# A SOURCE's kind and reference -> the secret; raises Unanswered
Resolve = Callable[[str, str], Awaitable[str]]


@contextlib.asynccontextmanager
async def examined(target: SshTarget, chart: Chart, source: Resolve) -> AsyncIterator[Link]:
    """A connection of its own to `target`, each stage of the way in `chart`; closed at the end, its hops too.

    Raises:
        ForwardError: the stage that failed runs still, for `Chart.failed`.
        Halt: the examination cannot go on, and the chart says why.
    """
    links: list[SshLink] = []
    try:
        for hop, resolved in await _way(target, chart):
            links.append(await _examine(hop, resolved, chart, source, links[-1] if links else None))
        yield links[-1]
        for link in reversed(links):
            await link.close()
    finally:
        for link in reversed(links):
            link.abort()


async def _way(target: SshTarget, chart: Chart) -> list[tuple[SshTarget, Resolved]]:
    """The hops in order, the target last, as `connection.dial` goes through them."""
    chart.begin(target.host, "config")
    way = await asyncio.to_thread(_chain, target, ())
    *hops, (_, resolved) = way
    text = f"{resolved.username}@{resolved.address}"
    if hops:
        text += f", through {', '.join(hop.host for hop, _ in hops)}"
    elif resolved.proxy_command:
        text += f", through the program {resolved.proxy_program} (ProxyCommand)"
    files = ", ".join(shown(Path(name)) for name in resolved.files) or "no file"
    details = [f"read from {files}"]
    details += [f"an opening rides the ssh master at {path}; examined is the way without it" for path in _masters(way)]
    chart.passed(text, *details)
    return [(replace(hop, control_master="no"), resolved) for hop, resolved in way]


def _chain(target: SshTarget, via: tuple[SshTarget, ...]) -> list[tuple[SshTarget, Resolved]]:
    """Reads files. Raises ConfigError."""
    resolved = resolve(target)
    check_identities(resolved)
    jumps = via or resolved.jumps
    if not jumps:
        return [(target, resolved)]
    refuse_circle(target, jumps)
    return [*_chain(jumps[-1], jumps[:-1]), (target, resolved)]


def _masters(way: list[tuple[SshTarget, Resolved]]) -> Iterator[str]:
    target, resolved = way[-1]
    jumps = tuple(hop for hop, _ in way[:-1])
    yield from (path for path in sharing.paths(target, resolved, jumps) if os.path.exists(path))


class _Silent:
    """The `Opening` of an examination: shows nothing of its own, resolves SOURCEs, asks nobody."""

    def __init__(self, source: Resolve) -> None:
        self._source = source
        self.connect_within = self.remaining = float("inf")

    def step(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def wait_for(self, what: str, hint: str = "") -> None: ...

    async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
        if not source:
            raise Unanswered("the doctor asks nobody", person=True)
        return await self._source(kind, source)


async def _examine(
    target: SshTarget, resolved: Resolved, chart: Chart, source: Resolve, parent: SshLink | None
) -> SshLink:
    """Connect to one hop over the one before it."""
    if resolved.host != chart.findings[0].hop:
        chart.noted(resolved.host, "config", f"{resolved.username}@{resolved.address}")
    strict = replace(resolved, policy="strict")
    try:
        host_keys = await asyncio.to_thread(HostKeys, strict)
    except ConfigError:
        chart.begin(resolved.host, "host key")
        raise
    observer = _Doctor(chart, resolved, await asyncio.to_thread(_names, resolved))
    lease = Lease(None, parent, lambda: None) if parent is not None else None
    opening = _Silent(source)
    try:
        link = await connect(target, strict, opening, Memory(), lease, host_keys, observer)
    except asyncssh.HostKeyNotVerifiable as refusal:
        observer.judged()
        try:
            await host_keys.decide(refusal, opening)
        except UnknownHostKeyError as unknown:
            if resolved.policy != "accept-new":
                raise
            fix = "Open it: under accept-new the first opening records this key; the doctor records nothing"
            chart.unsure(unknown.message, fix)
            raise Halt from unknown
        raise
    except (AuthenticationError, LostError, DeadlineError) as error:
        if chart.stage == "host key" and isinstance(error, LostError):
            # sshd hangs up where nothing is in common, and that may overtake the list of what it has.
            chart.stage = "key exchange"
            error.hint = "No cipher in common? See Ciphers and KexAlgorithms in ssh_config(5); its log may say why"
        if chart.stage != "login":
            raise
        chart.failed(error, *observer.attempts())
        raise Halt from error
    except ConfigError as error:
        if chart.stage == "host key" and "common algorithms" in error.message:
            chart.stage = "key exchange"
        raise
    chart.passed(f"as {resolved.username} with {observer.winner}", *observer.attempts(but_last=True))
    return link


def _names(resolved: Resolved) -> dict[bytes, str]:
    """The identity files by their public key. Reads files."""
    halves = ((identity, public_half(identity.path)) for identity in reversed(resolved.identities))
    return {half.public_data: str(identity) for identity, half in halves if half is not None}


class _Doctor(Observer):
    """Writes down how far the connection to one hop has come."""

    def __init__(self, chart: Chart, resolved: Resolved, names: dict[bytes, str]) -> None:
        self._chart = chart
        self._resolved = resolved
        self._names = names
        self._tried: list[str] = []
        self._offers: dict[str, None] = {}
        self._connection: asyncssh.SSHClientConnection | None = None
        self._proxied = False

    def approach(self, parent: Link | None) -> Any:
        self._proxied = parent is None and bool(self._resolved.proxy_command)
        if self._proxied:
            self._chart.begin(self._resolved.host, "proxy")
            return None
        return _Approach(self._chart, self._resolved, parent)

    def exchanged(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection
        key = connection.get_server_host_key()
        if self._proxied:
            version = connection.get_extra_info("server_version", "")
            self._chart.passed(f"the program {self._resolved.proxy_program} leads to {version}")
        text = f"known: {key.get_algorithm()} {key.get_fingerprint()}" if key is not None else "its authority is known"
        if self._proxied:
            self._chart.noted(self._resolved.host, "host key", text)
        else:
            self._chart.passed(text)
        self._chart.begin(self._resolved.host, "login")

    def judged(self) -> None:
        """The host key was looked at, and is not to be trusted."""
        if self._proxied:
            self._chart.begin(self._resolved.host, "host key")

    def tried(self, what: asyncssh.SSHKeyPair | str) -> None:
        if self._connection is not None:
            self._offers.update(dict.fromkeys(self._connection.get_server_auth_methods()))
        self._tried.append(what if isinstance(what, str) else self._label(what))

    @property
    def winner(self) -> str:
        """What the server accepted."""
        return self._tried[-1] if self._tried else "nothing: the server asks for no proof"

    def attempts(self, *, but_last: bool = False) -> list[str]:
        """What was tried before, a line each, and what the server accepts."""
        tried = self._tried[:-1] if but_last else self._tried
        lines = [f"{'refused before' if but_last else 'tried'}: {one}" for one in dict.fromkeys(tried)]
        return [*lines, f"the server accepts {', '.join(self._offers)}"] if self._offers else lines

    def _label(self, pair: asyncssh.SSHKeyPair) -> str:
        data = pair.key_public_data
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        name = self._names.get(data, "")
        if isinstance(pair, SSHAgentKeyPair):
            name = f"{name} (from the agent)" if name else f"the agent's key {pair.get_comment() or ''}".rstrip()
        return f"{name or 'a key'}, {pair.algorithm.decode()} SHA256:{digest}"


class _Approach:
    """Makes the connection's transport stage by stage; protocol of it, and `tunnel=` for asyncssh.

    What the server says first is read here, and handed on to asyncssh: there is one connection, not two.
    """

    def __init__(self, chart: Chart, resolved: Resolved, parent: Link | None, *, known: bool = False) -> None:
        """`known`: that the server speaks SSH, after the client's first words."""
        self._chart = chart
        self._resolved = resolved
        self._hop = resolved.host
        self._parent = parent
        self._known = known
        # Sooner than ConnectTimeout, whose message cannot say which part it was.
        self._most = 0.9 * (resolved.connect_timeout or float("inf"))
        self._early = bytearray()
        self._spoken = self._ended = False
        self._news = asyncio.Event()
        self._connection: Any = None

    async def create_connection(self, factory: Any, host: str, port: int) -> tuple[Any, Any]:
        """As SSHClientConnection.create_connection, for asyncssh."""
        transport = await self._reach(host, port)
        try:
            if not self._known:
                self._chart.begin(self._hop, "banner")
                self._chart.passed(await self._banner(transport))
                self._chart.begin(self._hop, "host key")
            if self._spoken:
                transport.abort()  # it has had a version already, and takes no second one
                unheard = Chart(lambda _: None, self._chart.limit())
                again = _Approach(unheard, self._resolved, self._parent, known=True)
                return await again.create_connection(factory, host, port)
        except BaseException:
            transport.abort()
            raise
        connection = self._connection = factory()
        connection.connection_made(transport)
        early, self._early = bytes(self._early), bytearray()
        if early:
            connection.data_received(early)
        if self._ended:
            connection.connection_lost(None)
        return transport, connection

    # the stages

    async def _reach(self, host: str, port: int) -> Any:
        if self._parent is not None:
            far = Endpoint(host, port)
            opening = self._parent.open_channel(far, self)
            stream = await channel(self._chart, self._hop, self._parent, far, opening, name="dns", port="tcp")
            self._chart.passed(f"{self._parent.route[-1]} reaches {far}")
            return stream
        self._chart.begin(self._hop, "dns")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._chart.limit(min(TCP, self._most))):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise DeadlineError(f"the name {host} is still being looked up", hint="Is the resolver up?") from None
        places = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        numbers = ", ".join(str(address[0]) for _, address in places)
        self._chart.passed("an address: nothing to look up" if is_address(host) else f"{host} is {numbers}")
        self._chart.begin(self._hop, "tcp")
        return await self._connect(places)

    async def _connect(self, places: Sequence[tuple[int, Any]]) -> asyncio.Transport:
        """The first address that answers, in the resolver's order."""
        loop = asyncio.get_running_loop()
        failed: list[tuple[str, Exception]] = []
        for family, address in places:
            where = str(Endpoint(str(address[0]), address[1]))
            seconds = self._chart.limit(min(TCP, self._most))
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                async with asyncio.timeout(seconds):
                    await loop.sock_connect(sock, address)
                    transport, _ = await loop.create_connection(lambda: cast(asyncio.Protocol, self), sock=sock)
            except BaseException as error:
                sock.close()
                if isinstance(error, TimeoutError):
                    message = f"no answer from {where} within {seconds:.1f} s"
                    hint = "Is the network, or the VPN, up? A firewall may drop it"
                    error = DeadlineError(message, hop=self._hop, hint=hint)
                if not isinstance(error, OSError):
                    raise
                failed.append((where, error))
            else:
                self._chart.passed(where, *(f"{other} did not answer" for other, _ in failed))
                return transport
        raise failed[0][1]

    async def _banner(self, transport: Any) -> str:
        """The server's identification (RFC 4253 section 4.2), which other lines may precede."""
        seconds = self._chart.limit(min(BANNER, self._most))
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        prod = loop.time() + min(SILENCE, seconds / 2)
        while True:
            *lines, _ = bytes(self._early).split(b"\n")
            for line in lines:
                if line.startswith(b"SSH-"):
                    return _printable(line)
            if len(self._early) > _MOST or self._ended or loop.time() > end:
                break
            if loop.time() >= prod and not self._spoken:
                if self._early:
                    break
                transport.write(_IDENTIFICATION)
                self._spoken = True
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end if self._spoken else min(prod, end)):
                    await self._news.wait()
        raise self._stranger(seconds)

    def _stranger(self, seconds: float) -> ForwardError:
        """What it is, if it is not SSH."""
        where, said = self._resolved.address, bytes(self._early)
        hint = "Check the port: an SSH server names itself at once"
        if said.startswith(b"HTTP/") or said.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
            return RefusedError(f"{where} speaks HTTP, not SSH", hop=self._hop, hint=hint)
        if said[:2] in (b"\x15\x03", b"\x16\x03"):  # an alert or a handshake of TLS (RFC 8446 section 5.1)
            return RefusedError(f"{where} speaks TLS, not SSH", hop=self._hop, hint=hint)
        if said:
            line = _printable(said.partition(b"\n")[0])
            return RefusedError(f"{where} says '{line}', which is not SSH", hop=self._hop, hint=hint)
        if self._ended and not self._spoken:
            return LostError(
                f"{where} closed the connection without a word",
                hop=self._hop,
                hint="sshd may be full (MaxStartups) or bar this address (PerSourcePenalties, hosts.deny, fail2ban)",
            )
        if self._ended:
            return RefusedError(f"{where} said nothing and closed the connection", hop=self._hop, hint=hint)
        return DeadlineError(
            f"{where} accepts the connection and says nothing for {seconds:.1f} s",
            hop=self._hop,
            hint="Check the port; if it is right, its sshd hangs, or something in between answers for it",
        )

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.data_received(data)
        else:
            self._early += data
            self._news.set()

    def eof_received(self) -> None:
        if self._connection is not None:
            self._connection.eof_received()
        self._ended = True
        self._news.set()

    def pause_writing(self) -> None:
        pass  # an examination sends next to nothing

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, error: Exception | None) -> None:
        if self._connection is not None:
            self._connection.connection_lost(error)
        self._ended = True
        self._news.set()


def _printable(line: bytes) -> str:
    text = line[:80].decode("utf-8", "replace").strip()
    return "".join(character if character.isprintable() else "?" for character in text)
