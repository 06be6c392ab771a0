"""A connection that was asked for: it can be ended before it is there, and says afterwards how it ended."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import cast

from aiohappyeyeballs import start_connection

# Seconds that an address has before the next one is tried beside it (RFC 8305, 5), as aiohttp has it for requests.
STAGGER = 0.25


async def connect(
    make: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> None:
    """Connect to the address of the host that answers first. (uvloop's own way tries them one after the other.)

    Raises:
        OSError: none does; SSLError is one too.
    """
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sock = await start_connection(addresses, happy_eyeballs_delay=STAGGER)
    # The loop's from here on: it closes the socket too, whatever happens.
    await loop.create_connection(make, sock=sock, ssl=tls, server_hostname=server_name)


class Dialled(asyncio.Protocol):
    """The protocol of a connection of ours, until something else takes it over.

    Attributes:
        transport: the connection, once it is there.
        ended: why it is no more, or None.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.ended: Exception | None = None
        self._connected = False

    def abort(self) -> None:
        """End the connection, if there is one."""
        if self._connected:
            self.transport.abort()

    # called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport
        self.transport = cast(asyncio.Transport, transport)
        self._connected = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = exc or ConnectionResetError("the connection ended before an answer came")
