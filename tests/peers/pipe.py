"""The two ends of an upgrade as a test holds them: a socket that is the test's own, and whoever has the session."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

from tests.peers.wire import SERVER, Recording
from xec_forward.engine.links.kubernetes.session import Carrier, Session
from xec_forward.engine.links.kubernetes.upgrade import Kind, Upgrade
from xec_forward.engine.links.kubernetes.v4 import V4Session
from xec_forward.engine.links.kubernetes.websocket import (
    Opcode,
    WebSocketUpgrade,
)
from xec_forward.errors import ForwardError, PodGoneError
from xec_forward.spdy import Data, Decoder, Encoder, Frame, Ping


class Wire(asyncio.Transport):
    """The socket of an upgrade, whose other end is the test; it answers PINGs unless told not to.

    Attributes:
        writes: what was written, call by call, without WebSocket's frames.
        frames: the same as SPDY frames.
        reading: false while the upgrade has paused it.
    """

    def __init__(self, upgrade: Upgrade) -> None:
        super().__init__()
        self.upgrade = upgrade
        self.writes: list[bytes] = []
        self.frames: list[Frame] = []
        self.control: list[tuple[int, bytes]] = []
        self.reading = True
        self.answers_pings = True
        self.closed = self.aborted = False
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._ended = False
        upgrade.connection_made(self)

    @property
    def websocket(self) -> bool:
        return isinstance(self.upgrade, WebSocketUpgrade)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        data = bytes(data)
        if self.websocket:
            opcode, data = client_message(data)
            if opcode != Opcode.BINARY:
                self.control.append((opcode, data))
                return
        self.writes.append(data)
        if self.upgrade.kind is Kind.V4:
            return
        new = self._decoder.feed(data)
        self.frames += new
        if self.answers_pings:
            for ping in [frame for frame in new if isinstance(frame, Ping)]:
                asyncio.get_running_loop().call_soon(self.send, self._encoder.encode(ping))

    def send(self, data: bytes, pieces: int = 1) -> None:
        """Bytes from the server: as they are, or as one message of so many fragments."""
        if self.websocket:
            size = max(1, -(-len(data) // pieces))
            parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
            opcodes = [Opcode.BINARY, *[Opcode.CONTINUATION] * (len(parts) - 1)]
            data = b"".join(
                server_frame(opcode, part, fin=part is parts[-1]) for opcode, part in zip(opcodes, parts, strict=True)
            )
        self.deliver(data)

    def deliver(self, data: bytes) -> None:
        """Bytes from the socket."""
        if not self._ended:
            self.upgrade.data_received(data)

    def send_frames(self, *frames: Frame) -> None:
        self.send(b"".join(self._encoder.encode(frame) for frame in frames))

    def end(self, error: Exception | None = None) -> None:
        """The connection ends."""
        if not self._ended:
            self._ended = True
            self.upgrade.connection_lost(error)

    def sent(self, kind: type[Frame]) -> list[Frame]:
        return [frame for frame in self.frames if isinstance(frame, kind)]

    # asyncio.Transport

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.end)

    def abort(self) -> None:
        self.aborted = True
        self.close()


def server_frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    first = (0x80 if fin else 0) | opcode
    if len(data) < 126:
        return bytes((first, len(data))) + data
    if len(data) < 65536:
        return bytes((first, 126)) + struct.pack(">H", len(data)) + data
    return bytes((first, 127)) + struct.pack(">Q", len(data)) + data


def client_message(frame: bytes) -> tuple[int, bytes]:
    """Opcode and payload of one masked frame, read as RFC 6455 section 5.2 has it."""
    assert frame[0] & 0x80
    assert frame[1] & 0x80, "a client masks"
    size, at = frame[1] & 0x7F, 2
    if size == 126:
        size, at = struct.unpack_from(">H", frame, 2)[0], 4
    elif size == 127:
        size, at = struct.unpack_from(">Q", frame, 2)[0], 10
    key, payload = frame[at : at + 4], frame[at + 4 :]
    assert len(payload) == size
    return frame[0] & 0x0F, bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


class Owner:
    """Keeps what a session tells."""

    def __init__(self) -> None:
        self.doomed: ForwardError | None = None
        self.freed = asyncio.Event()
        self.ended: list[ForwardError | None] = []
        self.pod_gone: list[PodGoneError] = []

    def free(self, session: Carrier) -> None:
        self.freed.set()

    def over(self, session: Carrier, error: ForwardError | None) -> None:
        self.ended.append(error)

    def gone(self, error: PodGoneError) -> None:
        self.pod_gone.append(error)

    async def until_free(self) -> None:
        async with asyncio.timeout(5):
            await self.freed.wait()
        self.freed.clear()


def begin(folder: str) -> tuple[Session, Wire, Owner]:
    """A new session on an upgrade of the form that the folder's recordings have."""
    upgrade = WebSocketUpgrade(Kind.TUNNEL) if "ws" in folder else Upgrade(Kind.RAW)
    wire, owner = Wire(upgrade), Owner()
    return Session(upgrade, "web-1", owner), wire, owner


def chunks(recording: Recording) -> Iterator[tuple[bytes, int]]:
    """What the server sent, as it came, with the frames of each message."""
    for event in recording.events:
        if event.direction == SERVER and event.op in ("bytes", "binary"):
            yield event.payload, event.fields.get("ws_frames", 1)


def received(recording: Recording, number: int) -> bytes:
    frames = recording.frames(SERVER)
    return b"".join(frame.data for frame in frames if isinstance(frame, Data) and frame.stream == number)


async def turn() -> None:
    """Let what was put off to the end of this turn happen."""
    for _ in range(3):
        await asyncio.sleep(0)


def begin_v4(port: int = 7000) -> tuple[V4Session, Wire, Owner]:
    upgrade = WebSocketUpgrade(Kind.V4, port)
    wire, owner = Wire(upgrade), Owner()
    return V4Session(upgrade, "web-1", owner), wire, owner
