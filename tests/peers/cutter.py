"""A TCP relay in front of a server that cuts its connections at a chosen byte, with a reset or with a mere end.

with Cutter(sshd.port) as cutter:
    ...                                    # connect to cutter.port
    cutter.cut_after(100_000, reset=True)  # once so many more bytes have come from the server
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from .aside import Aside

_PIECE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
_NEVER = 1 << 62


class Cutter(Aside):
    """The relay.

    Attributes:
        cuts: how many times it has cut.
    """

    def __init__(self, to: int) -> None:
        super().__init__(to)
        self.cuts = 0
        self._left = _NEVER
        self._reset = False

    def cut_after(self, count: int, *, reset: bool) -> None:
        """Cut every connection, once `count` more bytes have come from the server."""

        def arm() -> None:
            self._left, self._reset = count, reset

        self.loop.call_soon_threadsafe(arm)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See Aside."""
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.close()
            return
        both = {writer, to_server}
        self.writers |= both
        try:
            await asyncio.gather(self._pump(reader, to_server, False), self._pump(server, writer, True))
        finally:
            self.writers -= both
            for each in both:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                if down:
                    data, self._left = data[: self._left], self._left - len(data)
                writer.write(data)
                if self._left <= 0:
                    self._left = _NEVER
                    self.cuts += 1
                    self.end()
                    return
                await writer.drain()
            if not writer.is_closing():
                writer.write_eof()

    def end(self) -> None:
        """See Aside; with a reset, where one was asked for last."""
        for writer in self.writers:
            if self._reset:
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()  # what was written goes first
