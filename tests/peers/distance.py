"""A TCP relay that puts distance between a client and a server: bytes take their time, stand still, or find nobody.

with Distance(port, delay=0.15) as far:    # a round trip of 0.3 s
    ...                                    # connect to far.port
    far.still = True                       # nothing passes, either way, and nobody is told; what waits passes later
    far.shut()                             # whoever comes from now on is refused; those who are there stay
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from types import TracebackType

_PIECE = 64 * 1024
_UNDER_WAY = 64  # pieces that may be on their way before back-pressure
_LOOK = 0.005


class Distance:
    """Relays 127.0.0.1:`port` to 127.0.0.1:`to`.

    Args:
        delay: seconds that each byte takes, each way.

    Attributes:
        port: where it listens.
        still: nothing passes for as long as it is set.
    """

    def __init__(self, to: int, delay: float = 0.0) -> None:
        self.still = False
        self._to = to
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def shut(self) -> None:
        """Listen no more."""

        async def close() -> None:
            assert self._server is not None
            self._server.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._relay, sock=self._listener)
        await self._over.wait()
        self._server.close()
        self.still = False
        for writer in self._writers:
            writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=5)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        await self._pass()
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers.add(to_server)
        await asyncio.gather(self._pump(reader, to_server), self._pump(server, writer))
        for each in (writer, to_server):
            each.transport.abort()
        self._writers -= {writer, to_server}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One task reads and one writes, so that what is on its way holds up nothing behind it."""
        loop = asyncio.get_running_loop()
        way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)

        async def read() -> None:
            data = b"-"
            while data:
                data = await reader.read(_PIECE)
                await way.put((loop.time() + self._delay, data))

        async def write() -> None:
            while True:
                due, data = await way.get()
                await asyncio.sleep(due - loop.time())
                await self._pass()
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            if not writer.is_closing() and writer.can_write_eof():
                writer.write_eof()

        with contextlib.suppress(ExceptionGroup):  # of OSErrors: either side has gone
            async with asyncio.TaskGroup() as both:
                both.create_task(read())
                both.create_task(write())

    async def _pass(self) -> None:
        while self.still:
            await asyncio.sleep(_LOOK)

    def __enter__(self) -> Distance:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
