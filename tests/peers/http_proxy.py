"""An HTTP proxy that leads on by CONNECT (RFC 9110, 9.3.6), and says what it was asked."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator


class HttpProxy:
    """Used through `http_proxy`.

    Attributes:
        port: where it listens on 127.0.0.1.
        asked: the targets of CONNECT, in order.
        routes: targets that are somewhere else, as HOST:PORT, and where.
        credentials: USER:PASSWORD that it wants, or "".
    """

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.routes: dict[str, tuple[str, int]] = {}
        self.credentials = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            target = head.split()[1]
            self.asked.append(target)
            wanted = f"Basic {base64.b64encode(self.credentials.encode()).decode()}"
            if self.credentials and f"Proxy-Authorization: {wanted}\r\n" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            host, _, port = target.rpartition(":")
            try:
                far = await asyncio.open_connection(*self.routes.get(target, (host.strip("[]"), int(port))))
            except OSError:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno\n")
                await writer.drain()
                return
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with contextlib.closing(far[1]):
                pumps = [asyncio.ensure_future(_pump(reader, far[1])), asyncio.ensure_future(_pump(far[0], writer))]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def http_proxy(tls: ssl.SSLContext | None = None) -> AsyncIterator[HttpProxy]:
    """A proxy that runs; reached by TLS where it is given some."""
    proxy = HttpProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
