"""A recording's client played against a live API server: its bytes in its order, and what the server says to them.

Before each of the client's events it waits for what the server had said before it in the recording, and for the
time that passed then, if that was short. Nothing here reads WebSockets or SPDY by the server's own code but the codec.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.peers.wire import CLIENT, Event, Recording
from xec_forward.spdy import Data, Decoder, Frame, Ping, SynReply

_LONGEST_PAUSE = 1.2  # seconds: more than the second after which containerd closes
_WAIT = 20.0  # seconds for what the recorded server said
_OPCODES = {"text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}
_NAMES = {code: name for name, code in _OPCODES.items()}
_KEY = b"\x12\x34\x56\x78"


@dataclass
class Heard:
    """What a server said: its answer, and after a 101 what came of it.

    Attributes:
        head: the answer's first lines; `body` is what followed where it was not 101.
        stream: the bytes of the upgrade, without the WebSocket's frames.
        messages: the WebSocket's messages: name and payload.
        arrivals: seconds at which each SPDY frame was complete, since the request.
        fragments: messages that came as several frames.
        ended: the server has closed the connection.
    """

    spdy: bool
    head: bytes = b""
    body: bytes = b""
    stream: bytearray = field(default_factory=bytearray)
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    fragments: int = 0
    ended: bool = False
    _decoder: Decoder = field(default_factory=Decoder)

    def take(self, op: str, payload: bytes, at: float) -> None:
        """Something of the upgrade: bytes, or a message."""
        if op != "bytes":
            self.messages.append((op, payload))
        if op in ("bytes", "binary"):
            self.stream += payload
            if self.spdy:
                fresh = self._decoder.feed(payload)
                self.frames += fresh
                self.arrivals += [at] * len(fresh)

    def reached(self, other: Heard) -> bool:
        """As much has been heard as of the other."""
        if self.spdy:
            return _amount(self.frames) >= _amount(other.frames) and _bytes(self.frames) >= _bytes(other.frames)
        return len(self.messages) >= len(other.messages) and len(normal(self.stream)) >= len(normal(other.stream))


def _amount(frames: list[Frame]) -> int:
    return sum(not isinstance(frame, Data) or frame.fin for frame in frames)


def _bytes(frames: list[Frame]) -> int:
    return sum(len(normal(frame.data)) for frame in frames if isinstance(frame, Data))


def normal(text: bytes | bytearray) -> bytes:
    """A text of containerd without what differs each time."""
    text = re.sub(rb"[0-9a-f]{64}", b"SANDBOX", bytes(text))
    text = re.sub(rb"cni-[0-9a-f-]{36}", b"cni-UUID", text)
    text = re.sub(rb"127\.0\.0\.1:\d+->", b"127.0.0.1:PORT->", text)
    return re.sub(rb"\(conn=&\{0x[0-9a-f]+\}", b"(conn=&{ADDRESS}", text)


def story(frames: list[Frame]) -> list[Frame]:
    """What the frames come to, without what is left to chance.

    Replies come first, then the answers to pings; data that arrives without anything else between is joined, stream
    by stream.
    """
    replies = [one for one in frames if isinstance(one, SynReply)]
    told: list[Frame] = [*sorted(replies, key=lambda reply: reply.stream)]
    told += [one for one in frames if isinstance(one, Ping)]
    data: dict[int, bytes] = {}
    for frame in (one for one in frames if not isinstance(one, SynReply | Ping)):
        if isinstance(frame, Data) and not frame.fin:
            data[frame.stream] = data.get(frame.stream, b"") + frame.data
            continue
        told += _joined(data)
        data.clear()
        told.append(frame)
    return told + _joined(data)


def channels(messages: list[tuple[str, bytes]]) -> dict[int, list[bytes]]:
    """What v4's messages come to by channel: its port, then all that followed, joined."""
    told: dict[int, list[bytes]] = {}
    for payload in (payload for op, payload in messages if op == "binary"):
        if payload[0] in told:
            told[payload[0]][1] = normal(told[payload[0]][1] + payload[1:])
        else:
            told[payload[0]] = [payload[1:], b""]
    return told


def _joined(data: dict[int, bytes]) -> list[Frame]:
    return [Data(stream, normal(data[stream])) for stream in sorted(data)]


def recorded(recording: Recording) -> tuple[Heard, list[tuple[Event, Heard]]]:
    """What the recorded server said in all, and before each event of the client."""
    spdy = bool(recording.meta.get("spdy", "spdy" in recording.name or "kubectl" in recording.name))
    heard = Heard(spdy)
    before: list[tuple[Event, Heard]] = []
    for event in recording.events:
        if event.direction == CLIENT or event.op == "note":
            seen = Heard(spdy, frames=list(heard.frames), messages=list(heard.messages), stream=bytearray(heard.stream))
            before.append((event, seen))
        elif event.op == "http":
            heard.head, _, heard.body = event.payload.partition(b"\r\n\r\n")
        elif event.op == "eof":
            heard.ended = True
        else:
            heard.take(event.op, event.payload, event.at / 1000)
    return heard, before


class Replay:
    """One recording played against a server.

    Args:
        recording: it.
        port: the server's, on 127.0.0.1.
        tls: with a client certificate, as most recordings had.
        token: what to say where the recording says REDACTED.
        notes: what to do at a note of the recording that begins with these words.
    """

    def __init__(
        self,
        recording: Recording,
        port: int,
        tls: ssl.SSLContext,
        *,
        token: str = "",
        notes: Mapping[str, Callable[[], object]] | None = None,
    ) -> None:
        self._expected, self._steps = recorded(recording)
        self._port = port
        self._tls = tls
        self._token = token
        self._notes = notes or {}
        self._websocket = "websocket" in recording.head(CLIENT).decode("latin-1").lower()
        self._changed = asyncio.Event()
        self.expected = self._expected
        self.heard = Heard(self._expected.spdy)

    async def run(self) -> None:
        """Play it to its end. Raises TimeoutError where the server does not say what the recorded one said."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
        listening = asyncio.create_task(self._listen(reader))
        try:
            await self._play(writer)
            if self.expected.ended:
                await self._heard(lambda: self.heard.ended)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            writer.transport.abort()

    async def _play(self, writer: asyncio.StreamWriter) -> None:
        loop, previous = asyncio.get_running_loop(), 0.0
        for event, seen in self._steps:
            await self._heard(lambda seen=seen: self.heard.reached(seen))  # type: ignore[misc]
            # A frame sent with the others must not be kept back, one that waited a while must wait again.
            await asyncio.sleep(min(_LONGEST_PAUSE, max(0.0, event.at / 1000 - previous)))
            previous = event.at / 1000
            if event.op == "note":
                for words, act in self._notes.items():
                    if event.fields["note"].startswith(words):
                        await loop.run_in_executor(None, act)
            elif event.op == "http":
                writer.write(event.payload.replace(b"REDACTED", self._token.encode()))
            elif event.op == "eof":
                writer.close()
            else:
                writer.write(_frame(event.op, event.payload) if self._websocket else event.payload)
            if event.op == "http":
                await self._heard(lambda: bool(self.heard.head))
        await self._heard(lambda: self.heard.reached(self.expected))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        started = asyncio.get_running_loop().time()
        try:
            self.heard.head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
            self._tell()
            if b" 101 " not in self.heard.head.split(b"\r\n")[0] + b" ":
                self.heard.body = await _body(reader, self.heard.head)
            elif self._websocket:
                await self._listen_to_messages(reader, started)
            else:
                while data := await reader.read(65536):
                    self.heard.take("bytes", data, asyncio.get_running_loop().time() - started)
                    self._tell()
            while await reader.read(65536):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        self.heard.ended = True
        self._tell()

    async def _listen_to_messages(self, reader: asyncio.StreamReader, started: float) -> None:
        op, message = "", b""
        while True:
            first, length = await reader.readexactly(2)
            if length >= 126:
                form = ">H" if length == 126 else ">Q"
                (length,) = struct.unpack(form, await reader.readexactly(struct.calcsize(form)))
            payload = await reader.readexactly(length)
            op = _NAMES.get(first & 15, op)
            message += payload
            if not first & 128:
                self.heard.fragments += 1
                continue
            self.heard.take(op, message, asyncio.get_running_loop().time() - started)
            self._tell()
            message = b""

    def _tell(self) -> None:
        self._changed.set()

    async def _heard(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(_WAIT):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    match = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return await reader.readexactly(int(match[1])) if match else b""


def _frame(op: str, payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        size = bytes((128 | length,))
    elif length < 65536:
        size = struct.pack(">BH", 128 | 126, length)
    else:
        size = struct.pack(">BQ", 128 | 127, length)
    masked = bytes(byte ^ _KEY[index % 4] for index, byte in enumerate(payload))
    return bytes((128 | _OPCODES[op],)) + size + _KEY + masked
