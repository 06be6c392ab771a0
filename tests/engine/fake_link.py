"""An in-memory link: its channels are driven by the test. It can half-close in each of the three ways."""

from __future__ import annotations

import asyncio

from xec_forward.engine.links.base import ChannelProtocol, HalfClose, Link
from xec_forward.errors import ClosedError, ForwardError, LostError
from xec_forward.spec import Endpoint


class FakeChannel:
    """What the relay wrote to one channel, and the far side's protocol to answer with."""

    def __init__(self, protocol: ChannelProtocol, origin: tuple[str, int]) -> None:
        self.protocol = protocol
        self.origin = origin
        self.written = bytearray()
        self.reading = True
        self.ended = asyncio.Event()  # write_eof
        self.closed = asyncio.Event()  # close or abort
        self.aborted = False
        self._wrote = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.written += data
        self._wrote.set()

    def write_eof(self) -> None:
        self.ended.set()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed.set()

    def abort(self) -> None:
        self.aborted = True
        self.closed.set()

    async def wait_written(self, size: int) -> bytes:
        async with asyncio.timeout(5):
            while len(self.written) < size:
                self._wrote.clear()
                await self._wrote.wait()
        return bytes(self.written)


class FakeLink(Link):
    """A link whose channels open at once, or when the test says so (`gate`)."""

    def __init__(self, half_close: HalfClose = HalfClose.NOW) -> None:
        self.half_close = half_close
        self.route = ("fake",)
        self.lost = asyncio.get_running_loop().create_future()
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: ForwardError | None = None
        self.channels: asyncio.Queue[FakeChannel] = asyncio.Queue()
        self.live: list[FakeChannel] = []
        self.opening = 0

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> FakeChannel:
        self.opening += 1
        try:
            await self.gate.wait()
        finally:
            self.opening -= 1
        if self.lost.done():
            raise LostError("gone")
        if self.refusal is not None:
            raise self.refusal
        channel = FakeChannel(protocol, origin)
        self.live.append(channel)
        self.channels.put_nowait(channel)
        return channel

    async def channel(self) -> FakeChannel:
        """The next channel the relay opened."""
        async with asyncio.timeout(5):
            return await self.channels.get()

    async def round_trip(self) -> float:
        return 0.0

    async def close(self) -> None:
        self.lose(ClosedError("closed"))

    def abort(self, reason: ForwardError | None = None) -> None:
        self.lose(reason or ClosedError("closed"))

    def lose(self, error: ForwardError) -> None:
        """The link goes away, as a real one does: its channels first."""
        if not self.lost.done():
            for channel in self.live:
                if not channel.closed.is_set():
                    channel.protocol.connection_lost(error)
            self.lost.set_result(error)
