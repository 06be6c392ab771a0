"""An HTTP/1.1 upgrade by hand (RFC 9110, 7.8): dialled, through a proxy by CONNECT, TLS, one request, one answer.

aiohttp keeps the connections that it makes; this one belongs, after its 101, to the caller's protocol alone, whose
`connection_made` is called in the same moment: no byte is lost in between, and nobody else holds it.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast
from urllib.parse import unquote

from yarl import URL

from .body import Body
from .dialled import Dialled, connect
from .failures import Answer, NotHttp, ProxyError

P = TypeVar("P", bound=asyncio.Protocol)

# Makes the protocol from the headers (in lower case) of a 101; what it raises is raised to the caller.
Make = Callable[[Mapping[str, str]], P]

_LARGEST = 64 * 1024  # bytes of a head
# Seconds for the body of a refusal, once its head is there: the status says enough.
BODY_DEADLINE = 3.0


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach the API server.

    Attributes:
        host, port: its own.
        address: where to connect, to it or to the proxy; another address where something leads there.
        proxy: the HTTP proxy to ask, or None. Holds its password.
        tls, server_name: None and "" for plain HTTP.
    """

    host: str
    port: int
    address: tuple[str, int]
    proxy: URL | None = field(repr=False)
    tls: ssl.SSLContext | None
    server_name: str


async def upgrade(
    way: Way,
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]],
    make: Make[P],
    reached: Callable[[], None] = lambda: None,
) -> P:
    """Connect, ask for the upgrade that `headers` name, and hand the connection over. Cancelling it leaves nothing.

    Args:
        target: path and query, encoded.
        headers: with Host, Connection and Upgrade.
        make: makes the protocol once the server has answered 101.
        reached: called once there is a connection to the server.

    Raises:
        Answer: the server refused, with its reason. ProxyError: the proxy did, or was not reached.
        NotHttp: what answers does not speak HTTP.
        OSError: the connection failed, or TLS (SSLError).
    """
    head = Head()
    try:
        await _connect(way, head)
        reached()
        successor = await head.ask(method, target, headers, make)
        assert successor is not None
        return cast(P, successor)
    except BaseException:
        head.abort()
        raise


async def _connect(way: Way, head: Head) -> None:
    """Dial, ask the proxy for the way on where there is one, and have TLS with the API server where it has it."""
    host, port = way.address
    if way.proxy is None:
        name = way.server_name if way.tls else None
        await connect(lambda: head, host, port, tls=way.tls, server_name=name)
        return
    try:
        await connect(lambda: head, host, port)
    except OSError as error:
        raise ProxyError from error
    target = f"[{way.host}]:{way.port}" if ":" in way.host else f"{way.host}:{way.port}"
    try:
        await head.ask("CONNECT", target, [("Host", target), *proxy_authorization(way.proxy)], None)
    except Answer as answer:
        raise ProxyError(answer.status) from None
    if way.tls is not None:
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(head.transport, head, way.tls, server_hostname=way.server_name)
        if transport is None:
            raise ConnectionResetError("the connection ended while TLS began")
        head.transport = transport


def proxy_authorization(proxy: URL) -> list[tuple[str, str]]:
    """For the user-info of a proxy's URL (RFC 7617), if it has one."""
    if proxy.raw_user is None:
        return []
    secret = f"{unquote(proxy.raw_user)}:{unquote(proxy.raw_password or '')}"
    return [("Proxy-Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")]


class Head(Dialled):
    """Sends a request and reads its answer: the head, and the body where it is a refusal.

    `transport` is set anew once TLS is on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received = bytearray()
        self._make: Make[asyncio.Protocol] | None = None
        self._answer: asyncio.Future[asyncio.Protocol | None] | None = None
        self._status, self._retry_after = 0, ""
        self._body: Body | None = None  # of a refusal

    async def ask(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], make: Make[asyncio.Protocol] | None
    ) -> asyncio.Protocol | None:
        """Send a request without a body; the protocol that has the connection now, None after CONNECT (`make` None).

        Raises:
            Answer: the server says no. NotHttp, OSError, and what `make` raises.
        """
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        self._make = make
        self._body = None
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        if self.ended is not None:
            raise self.ended
        self.transport.write("\r\n".join([*lines, "", ""]).encode())
        return await self._answer

    # called by the transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            return
        if self._body is None:
            self._received += data
            self._read_heads()
        else:
            self._body.feed(data)
        if self._body is not None and self._body.complete:
            self._refused()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        assert self.ended is not None
        if self._body is not None:
            self._refused()  # it goes on to the end of the connection
        else:
            self._fail(self.ended)

    def _read_heads(self) -> None:
        """The head of the answer, and those of interim ones before it (RFC 9110, 15.2)."""
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].decode("latin-1")
            del self._received[: end + 4]
            if self._read_head(head):
                return
        if len(self._received) > _LARGEST:
            self._fail(NotHttp())

    def _read_head(self, head: str) -> bool:
        """Act on a head; whether it was the last."""
        first, *lines = head.split("\r\n")
        words = first.split()
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            self._fail(NotHttp())
            return True
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(words[1])
        if self._make is not None and status == 101:
            self._hand_over(self._make, headers)
        elif 100 <= status < 200:
            return False
        elif self._make is None and 200 <= status < 300:
            self._succeed(None)
        else:
            self._status, self._retry_after = status, headers.get("retry-after", "")
            self._body = Body(status, headers)
            self._body.feed(bytes(self._received))
            asyncio.get_running_loop().call_later(BODY_DEADLINE, self._refused)
        return True

    def _hand_over(self, make: Make[asyncio.Protocol], headers: Mapping[str, str]) -> None:
        try:
            successor = make(headers)
        except Exception as error:
            self._fail(error)
            return
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)
        if self._received:
            successor.data_received(bytes(self._received))
        self._succeed(successor)

    def _succeed(self, successor: asyncio.Protocol | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(successor)

    def _refused(self) -> None:
        assert self._body is not None
        self._fail(Answer(self._status, self._body.content, self._retry_after))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # whoever asked may have gone
