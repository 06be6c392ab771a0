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
import threading
from types import TracebackType

_PIECE = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
_NEVER = 1 << 62


class Cutter:
    """Relays 127.0.0.1:`port` to 127.0.0.1:`to`.

    Attributes:
        port: where it listens.
        cuts: how many times it has cut.
    """

    def __init__(self, to: int) -> None:
        self.cuts = 0
        self._to = to
        self._left = _NEVER
        self._reset = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def cut_after(self, count: int, *, reset: bool) -> None:
        """Cut every connection, once `count` more bytes have come from the server."""

        def arm() -> None:
            self._left, self._reset = count, reset

        self._loop.call_soon_threadsafe(arm)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, sock=self._listener)
        await self._over.wait()
        server.close()
        self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=5)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        both = {writer, to_server}
        self._writers |= both
        try:
            await asyncio.gather(self._pump(reader, to_server, False), self._pump(server, writer, True))
        finally:
            self._writers -= both
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
                    self._cut()
                    return
                await writer.drain()
            if not writer.is_closing():
                writer.write_eof()

    def _cut(self) -> None:
        for writer in self._writers:
            if self._reset:
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()  # what was written goes first

    def __enter__(self) -> Cutter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
