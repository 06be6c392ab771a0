"""A connection that was asked for: it can be ended before it is there, and says afterwards how it ended."""

from __future__ import annotations

import asyncio
from typing import cast


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
