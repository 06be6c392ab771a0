"""Port-forward over SPDY/3.1, as containerd's spdystream serves it: a pair of streams for each connection.

The frames travel over a pipe of bytes, `RawPipe` or `TunnelPipe`; the session is the same. One task reads the
frames and gives each to its pod before it reads the next, because the library knows no flow control: a pod that
does not read stops the whole upgrade.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ...spdy import (
    STATUS_CANCEL,
    STATUS_PROTOCOL_ERROR,
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    Ping,
    RstStream,
    SpdyError,
    SynReply,
    SynStream,
)
from .containerd import PodConnection, PortForwardError, Sandbox, SandboxClosed
from .counts import Count
from .websocket import BINARY, WebSocket


class Pipe(Protocol):
    """The bytes of one upgrade."""

    async def receive(self) -> bytes:
        """Some bytes; b"" at the end."""

    def send(self, *frames: bytes) -> None:
        """Send frames, in one write."""

    async def drain(self) -> None:
        """Wait until the client has taken most of it. Raises OSError where it is gone."""

    async def outlive(self) -> None:
        """The session is over: stay for as long as this transport stays then."""


class RawPipe:
    """SPDY's bytes as they are, after `Upgrade: SPDY/3.1`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self) -> bytes:
        return await self._reader.read(65536)

    def send(self, *frames: bytes) -> None:
        self._writer.writelines(frames)

    async def drain(self) -> None:
        await self._writer.drain()

    async def outlive(self) -> None:
        """Not at all: the connection ends with its session."""


class TunnelPipe:
    """SPDY's bytes in binary messages (KEP-4006), cut where Go's writer of frames cuts them."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def receive(self) -> bytes:
        while (message := await self._socket.receive()) is not None:
            opcode, data = message
            if opcode != BINARY:
                await self._socket.close()
                return b""
            if data:
                return data
        return b""

    def send(self, *frames: bytes) -> None:
        self._socket.send(*[piece for frame in frames for piece in _pieces(frame)])

    async def drain(self) -> None:
        await self._socket.drain()

    async def outlive(self) -> None:
        """Until the client closes: a GOAWAY ends the session and leaves the WebSocket open and silent."""
        while await self.receive():
            pass


def _pieces(frame: bytes) -> list[bytes]:
    control = frame[0] & 0x80
    borders = (2, 4, 8, 12, len(frame)) if control else (4, 8, len(frame))
    starts = (0, *borders[:-1])
    return [frame[start:end] for start, end in zip(starts, borders, strict=True) if start < end]


@dataclass(slots=True, eq=False)
class Pair:
    """The two streams of one connection; 0 for one that has not come yet."""

    error: int = 0
    data: int = 0
    connection: PodConnection | None = None
    reset: bool = False  # the client has reset the data stream
    deadline: asyncio.TimerHandle | None = None


class SpdySession:
    """The streams of one upgrade.

    Args:
        pipe: its bytes.
        sandbox: the pod's.
        count: of the pairs of streams.
    """

    def __init__(self, pipe: Pipe, sandbox: Sandbox, count: Count) -> None:
        self._pipe = pipe
        self._sandbox = sandbox
        self._count = count
        self._encoder = Encoder(zlib.Z_BEST_SPEED)
        self._decoder = Decoder()
        self._last_stream = 0
        self._unanswered: list[int] = []
        self._pairs: dict[str, Pair] = {}  # by requestid
        self._by_data: dict[int, Pair] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the client leaves, says GOAWAY, or sends what is no SPDY."""
        try:
            while data := await self._pipe.receive():
                for frame in self._decoder.feed(data):
                    if isinstance(frame, GoAway):
                        return
                    await self._take(frame)
                self._reply()
        except SpdyError:
            pass
        finally:
            for pair in self._pairs.values():
                if pair.deadline:
                    pair.deadline.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, frame: Frame) -> None:
        match frame:
            case SynStream(stream, headers):
                self._open(stream, headers)
            case Data(stream, data, fin):
                if (pair := self._by_data.get(stream)) and pair.connection:
                    if data:
                        await pair.connection.write(data)
                    if fin:
                        pair.connection.end()
            case RstStream(stream):
                if (pair := self._by_data.get(stream)) and pair.connection:
                    pair.reset = True
                    pair.connection.end()
            case Ping(number) if number % 2:
                self._send(frame)

    def _open(self, stream: int, headers: Mapping[str, str]) -> None:
        if stream <= self._last_stream:
            self._send(RstStream(stream, STATUS_PROTOCOL_ERROR))
            return
        self._last_stream = stream
        kind, port = headers.get("streamtype", ""), headers.get("port", "")
        if kind not in ("error", "data") or not port.isdecimal() or not 0 < int(port) < 65536:
            self._send(RstStream(stream, STATUS_CANCEL))
            return
        self._unanswered.append(stream)
        # Without a requestid the data stream is taken to follow its error stream.
        request = headers.get("requestid") or str(stream if kind == "error" else stream - 2)
        pair = self._pairs.get(request)
        if pair is None:
            pair = self._pairs[request] = Pair()
            loop = asyncio.get_running_loop()
            pair.deadline = loop.call_later(self._sandbox.timing.lone_stream, self._give_up, request, pair)
        if getattr(pair, kind):
            return  # a second stream of its kind: answered, then left alone
        setattr(pair, kind, stream)
        if kind == "data":
            self._by_data[stream] = pair
            pair.connection = PodConnection(self._sandbox, int(port), lambda data: self._deliver(stream, data))
        if pair.error and pair.data:
            self._start(request, pair)

    def _start(self, request: str, pair: Pair) -> None:
        if pair.deadline:
            pair.deadline.cancel()
        self._reply()
        task = asyncio.create_task(self._forward(request, pair))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, request: str, pair: Pair) -> None:
        assert pair.connection is not None
        try:
            with self._count:
                await pair.connection.run()
        except SandboxClosed as error:
            self._send(Data(pair.error, str(error).encode()))
            self._send(RstStream(pair.data, STATUS_CANCEL), RstStream(pair.error, STATUS_CANCEL))
        except PortForwardError as error:
            text = Data(pair.error, str(error).encode())
            self._send(*self._last_data(pair), text, RstStream(pair.error, STATUS_CANCEL))
        else:
            self._send(*self._last_data(pair), Data(pair.error, b"", fin=True))
        finally:
            self._by_data.pop(pair.data, None)
            self._pairs.pop(request, None)

    def _last_data(self, pair: Pair) -> list[Frame]:
        return [] if pair.reset else [Data(pair.data, b"", fin=True)]

    def _give_up(self, request: str, pair: Pair) -> None:
        self._pairs.pop(request, None)
        self._by_data.pop(pair.data, None)
        if pair.error:
            text = f"(conn=&{{{id(self):#x}}}, request={request}) timed out waiting for streams"
            self._send(Data(pair.error, text.encode()))

    async def _deliver(self, stream: int, data: bytes) -> None:
        self._send(Data(stream, data))
        await self._pipe.drain()

    def _reply(self) -> None:
        # The later one first: most often the data stream's, and clients must not count on either.
        if self._unanswered:
            unanswered, self._unanswered = self._unanswered, []
            self._send(*(SynReply(stream, {}) for stream in reversed(unanswered)))

    def _send(self, *frames: Frame) -> None:
        self._pipe.send(*map(self._encoder.encode, frames))
