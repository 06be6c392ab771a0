"""A cluster's proxy that is reached by TLS (https://) or by SOCKS5 (socks5://), made into one of plain HTTP.

Requests and upgrades know one kind of proxy: a CONNECT in plain HTTP (RFC 9110, 9.3.6). For the others a door on our
loopback is that proxy: it takes the CONNECT, and its relay opens a channel by the real one. Why that one does not lead
on is kept here (`Door.failure`), because a status says less.

    https://    TLS with the proxy, whose certificate the system's authorities or the cluster's vouch for, and CONNECT
    socks5://   RFC 1928, with the login of RFC 1929 where the URL has one; the proxy looks the name up, as with curl's
                socks5h
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import unquote

from yarl import URL

from ....errors import (
    AuthenticationError,
    ClosedError,
    DeadlineError,
    ForwardError,
    LostError,
    ProhibitedError,
    RefusedError,
    UnreachableError,
)
from ....spec import Endpoint
from ...guard import Guard
from ...relay import Relay
from ...socks import Progress
from ..base import Channel, ChannelProtocol, HalfClose, Link
from ..tcp import TcpStream
from . import dialled
from .config import Context
from .dialled import Dialled
from .failures import PROXY_HINT, Answer, NotHttp, at_proxy, by_proxy, explain
from .raw import Head, proxy_authorization

# Schemes that need a door; plain http:// does not.
DOORS = ("https", "socks5", "socks5h")
# Seconds for the proxy's answer, what it does for it included: less than a request has, so that it is the proxy that an
# error speaks of.
DEADLINE = 15.0
_LARGEST = 16 * 1024  # bytes of a CONNECT
_REQUEST = re.compile(rb"CONNECT (\S+):(\d{1,5}) HTTP/1\.[01]\r\n")
_WRITE = {403: "Forbidden", 407: "Proxy Authentication Required", 502: "Bad Gateway"}
# RFC 1928, sections 5 and 6.
_SIZES = {1: 4, 4: 16}
_REPLIES: dict[int, tuple[type[ForwardError], str]] = {
    2: (ProhibitedError, "the proxy does not let us through to the API server"),
    3: (UnreachableError, "the proxy finds no way to the API server's network"),
    4: (UnreachableError, "the proxy does not reach the API server, or does not know its name"),
    5: (RefusedError, "nobody listens at the API server's address, as seen from the proxy"),
    6: (DeadlineError, "the API server does not answer the proxy"),
}

# Leads to a host and port: answers with the address to connect to in their place. Asked before each request.
Via = Callable[[str, int], Awaitable[tuple[str, int]]]


class Door:
    """An HTTP proxy on our loopback that leads on through the real one; opened by the first `address`.

    Args:
        to: the API server.
        proxy: the real one's URL. Holds its password.
        tls: what the API server's certificate is checked with; None where it speaks plain HTTP.
        via: the way to the proxy, where it is not reached directly.
        context: for messages.

    Attributes:
        failure: why the proxy did not lead on the last time that it did not; None once somebody has looked.
    """

    def __init__(self, to: Endpoint, proxy: URL, tls: ssl.SSLContext | None, via: Via | None, context: Context) -> None:
        self.failure: ForwardError | None = None
        self._link = _ProxyLink(proxy, _to_proxy(tls) if proxy.scheme == "https" else None, via, context)
        self._relay = Relay(
            Endpoint(),
            2 * DEADLINE,  # nobody waits that long: `open_channel` has ended before
            parked=lambda: None,
            failed=self._failed,
            guard=Guard.of((), "uid"),
            handshake=partial(_Connect, to),
        )
        self._relay.attach(self._link)
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()

    async def address(self) -> tuple[str, int]:
        """Where it listens."""
        async with self._opening:
            if self._server is None:
                self._server = await asyncio.get_running_loop().create_server(self._relay.client, "127.0.0.1", 0)
            address: tuple[str, int] = self._server.sockets[0].getsockname()
            return address

    async def close(self) -> None:
        """End it, and whatever goes through it; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._relay.detach(LostError("the way to the API server was closed"))
        await self._relay.close(grace=0.0)
        self._link.abort()

    def _failed(self, error: ForwardError) -> None:
        self.failure = error


class _Connect:
    """The door's side of a CONNECT; see handshake.Handshake.

    Args:
        to: where it leads, and nowhere else: its way has the user's login at the proxy.
    """

    def __init__(self, to: Endpoint) -> None:
        self._to = to
        self._unread = b""

    def receive(self, data: bytes) -> Progress:
        self._unread += data
        _, end, rest = self._unread.partition(b"\r\n\r\n")
        if not end and len(self._unread) <= _LARGEST:
            return Progress()
        asked = _REQUEST.match(self._unread)
        connect = Endpoint(asked[1].decode("latin-1").strip("[]"), int(asked[2])) if asked is not None else None
        if not end or connect != self._to:
            return Progress(refused="it asks for something else than a way to the API server")
        return Progress(connect=connect, rest=rest)

    def accepted(self) -> bytes:
        return b"HTTP/1.1 200 Connection established\r\n\r\n"

    def failed(self, error: ForwardError) -> bytes:
        status = 407 if isinstance(error, AuthenticationError) else 403 if isinstance(error, ProhibitedError) else 502
        return f"HTTP/1.1 {status} {_WRITE[status]}\r\nContent-Length: 0\r\n\r\n".encode()


def _to_proxy(tls: ssl.SSLContext | None) -> ssl.SSLContext:
    """TLS with the proxy: the system's authorities, and the cluster's, whose proxy it is. No client certificate."""
    ours = ssl.create_default_context()
    if tls is not None:
        if known := tls.get_ca_certs(binary_form=True):
            ours.load_verify_locations(cadata=b"".join(known))
        if tls.verify_mode is ssl.CERT_NONE:  # insecure-skip-tls-verify counts here too, as with kubectl
            ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
    return ours


class _ProxyLink(Link):
    """The proxy: each channel is a connection of its own to it."""

    half_close = HalfClose.NOW
    listens = False

    def __init__(self, proxy: URL, tls: ssl.SSLContext | None, via: Via | None, context: Context) -> None:
        self.route = (f"{proxy.host}:{proxy.port}",)
        self.lost: asyncio.Future[ForwardError] = asyncio.get_running_loop().create_future()
        self._proxy = proxy
        self._tls = tls
        self._via = via
        self._context = context
        self._streams: set[TcpStream] = set()

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """See Link. Raises no LostError: nothing has been sent yet, and another try is not ours to make."""
        try:
            async with asyncio.timeout(DEADLINE):
                transport = await (self._by_connect(connect) if self._tls is not None else self._by_socks(connect))
            if transport.is_closing():
                raise ConnectionResetError  # in this moment, and nobody would be told of it any more
        except Answer as answer:
            raise by_proxy(answer.status, self.route[0]) from None
        except ForwardError:
            raise
        except (OSError, NotHttp) as caught:
            raise self._explained(caught) from None
        stream = TcpStream(protocol, lambda: True, self._streams.discard)
        transport.set_protocol(stream)
        stream.connection_made(transport)
        self._streams.add(stream)
        asyncio.get_running_loop().call_soon(stream.release)
        return stream

    def _explained(self, error: Exception) -> ForwardError:
        """A failure on the way to the proxy, in our words."""
        hop = self.route[0]
        if isinstance(error, TimeoutError):
            return DeadlineError(
                "the proxy does not answer, or the API server does not answer it", hop=hop, hint=PROXY_HINT
            )
        found = at_proxy(explain(error, hop, self._context), hop)
        return UnreachableError(found.message, hop=hop, hint=found.hint) if isinstance(found, LostError) else found

    async def _by_connect(self, connect: Endpoint) -> asyncio.Transport:
        head = Head()
        target = str(connect)
        try:
            await self._reach(lambda: head)
            await head.ask("CONNECT", target, [("Host", target), *proxy_authorization(self._proxy)], None)
        except BaseException:
            head.abort()
            raise
        return head.transport

    async def _by_socks(self, connect: Endpoint) -> asyncio.Transport:
        talk = _Talk(self.route[0])
        try:
            await self._reach(lambda: talk)
            await talk.connect(connect, unquote(self._proxy.raw_user or ""), unquote(self._proxy.raw_password or ""))
        except BaseException:
            talk.abort()
            raise
        return talk.transport

    async def _reach(self, make: Callable[[], asyncio.Protocol]) -> None:
        host, port = str(self._proxy.host), self._proxy.port or 0
        address = (host, port) if self._via is None else await self._via(host, port)
        name = host if self._tls is not None else None
        await dialled.connect(make, *address, tls=self._tls, server_name=name)

    async def round_trip(self) -> float:
        """See Link. Nobody asks."""
        return 0.0

    async def close(self) -> None:
        """See Link."""
        self.abort()

    def abort(self, reason: ForwardError | None = None) -> None:
        """See Link."""
        if not self.lost.done():
            self.lost.set_result(reason or ClosedError("the link was closed", hop=self.route[0]))
            for stream in list(self._streams):
                stream.abort()


class _Talk(Dialled):
    """A client's side of SOCKS5's handshake. `hop`: the proxy's name in messages."""

    def __init__(self, hop: str) -> None:
        super().__init__()
        self._hop = hop
        self._received = bytearray()
        self._more = asyncio.Event()

    async def connect(self, to: Endpoint, user: str, password: str) -> None:
        """Ask to be led to `to`. Raises ForwardError: the proxy says no, or is none; OSError: it is gone."""
        self.transport.write(bytes((5, 2, 0, 2) if user else (5, 1, 0)))
        (method,) = await self._answer(1)
        if method == 2 and user:
            name, secret = user.encode()[:255], password.encode()[:255]
            self.transport.write(bytes((1, len(name))) + name + bytes((len(secret),)) + secret)
            _, refused = await self._exactly(2)
        else:
            refused = method
        if refused:
            raise by_proxy(407, self._hop)
        self.transport.write(bytes((5, 1, 0)) + _address(to.host) + (to.port or 0).to_bytes(2, "big"))
        reply, _, kind = await self._answer(3)
        if reply:
            error, words = _REPLIES.get(reply, (UnreachableError, f"the proxy does not lead on (its reply is {reply})"))
            raise error(words, hop=self._hop)
        bound = _SIZES.get(kind) or (await self._exactly(1))[0]
        await self._exactly(bound + 2)

    async def _answer(self, size: int) -> bytes:
        """So many bytes behind the version."""
        version, *rest = await self._exactly(1 + size)
        if version != 5:
            raise RefusedError("what answers there does not speak SOCKS5", hop=self._hop, hint=PROXY_HINT)
        return bytes(rest)

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            if self.ended is not None:
                raise self.ended
            self._more.clear()
            await self._more.wait()
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    # called by the transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._more.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._more.set()


def _address(host: str) -> bytes:
    """ATYP and DST.ADDR. A name is the proxy's to look up."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii" if host.isascii() else "idna")[:255]
        return bytes((3, len(name))) + name
    return bytes((1 if address.version == 4 else 4,)) + address.packed
