"""A TCP relay that puts distance between a client and a server: bytes take their time, stand still, or find nobody.

with Distance(port, delay=0.15) as far:    # a round trip of 0.3 s
    ...                                    # connect to far.port
    far.still = True                       # nothing passes, either way, and nobody is told; what waits passes later
    far.shut()                             # whoever comes from now on is refused; those who are there stay
    far.open()                             # nobody is, from now on
"""

from __future__ import annotations

import asyncio
import contextlib

from .aside import Aside

_PIECE = 64 * 1024
_UNDER_WAY = 64  # pieces that may be on their way before back-pressure
_LOOK = 0.005


class Distance(Aside):
    """The relay.

    Args:
        delay: seconds that each byte takes, each way.

    Attributes:
        still: nothing passes for as long as it is set.
    """

    def __init__(self, to: int, delay: float = 0.0) -> None:
        super().__init__(to)
        self.still = False
        self._delay = delay

    def shut(self) -> None:
        """Listen no more."""

        async def close() -> None:
            assert self.server is not None
            self.server.close()

        asyncio.run_coroutine_threadsafe(close(), self.loop).result(5)

    def open(self) -> None:
        """Listen again, on the same port."""

        async def listen() -> None:
            self.server = await asyncio.start_server(self.relay, "127.0.0.1", self.port)

        asyncio.run_coroutine_threadsafe(listen(), self.loop).result(5)

    def end(self) -> None:
        """See Aside."""
        self.still = False
        for writer in self.writers:
            writer.transport.abort()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See Aside."""
        self.writers.add(writer)
        await self._pass()
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.close()
            return
        self.writers.add(to_server)
        await asyncio.gather(self._pump(reader, to_server), self._pump(server, writer))
        for each in (writer, to_server):
            each.transport.abort()
        self.writers -= {writer, to_server}

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
