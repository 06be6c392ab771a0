"""The server's side of a WebSocket (RFC 6455) after its handshake, with the habits of an API server.

A message over 4096 bytes goes out as two frames, a ping is answered, a close is answered with 1000 and no reason.
aiohttp's own would hide the first of these, which clients stumble over.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct

from ...masking import mask

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL_CLOSURE = struct.pack(">H", 1000)

_FIRST_FRAME = 4096  # bytes of a message before it goes on in a second frame
_LARGEST_MESSAGE = 64 * 1024 * 1024
_CLOSE_WAIT = 2.0  # seconds for the client's answer to our close
_FIN = 0x80
_MASKED = 0x80


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()


class WebSocket:
    """Messages over a connection whose handshake is done."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._received = bytearray()
        self._closing = False

    async def receive(self) -> tuple[int, bytes] | None:
        """The next message and its opcode, TEXT or BINARY; None at the end, whose close has been answered."""
        opcode, message = BINARY, b""
        while not self._closing and (frame := await self._frame()) is not None:
            final, kind, payload = frame
            if kind == CLOSE:
                self._close()
                return None
            if kind == PING:
                self._write(_FIN | PONG, payload)
            elif kind in (TEXT, BINARY, CONTINUATION):
                opcode = kind or opcode
                message = message + payload if message else payload
                if final:
                    return opcode, message
                if len(message) > _LARGEST_MESSAGE:
                    self._close()
                    return None
        return None

    def send(self, *messages: bytes) -> None:
        """Send binary messages, in one write."""
        if not self._closing:
            self._writer.write(b"".join([part for message in messages for part in _frames(message)]))

    async def drain(self) -> None:
        """Wait until the client has taken most of what was sent. Raises OSError where it is gone."""
        await self._writer.drain()

    async def close(self) -> None:
        """Close with 1000, and wait for the client's answer for a moment."""
        if not self._closing:
            self._close()
            try:
                async with asyncio.timeout(_CLOSE_WAIT):
                    while (frame := await self._frame()) is not None and frame[1] != CLOSE:
                        pass
            except TimeoutError:
                pass

    def _close(self) -> None:
        self._write(_FIN | CLOSE, NORMAL_CLOSURE)
        self._closing = True

    def _write(self, first: int, payload: bytes) -> None:
        if not self._closing:
            self._writer.write(_head(first, len(payload)) + payload)

    async def _frame(self) -> tuple[bool, int, bytes] | None:
        while (frame := self._parse()) is None:
            data = await self._reader.read(65536)
            if not data:
                return None
            self._received += data
        return frame

    def _parse(self) -> tuple[bool, int, bytes] | None:
        """The first frame of what was received, once it is whole."""
        received = self._received
        if len(received) < 2:
            return None
        length, start = received[1] & 0x7F, 2
        if length >= 126:
            form = ">H" if length == 126 else ">Q"
            start += struct.calcsize(form)
            if len(received) < start:
                return None
            (length,) = struct.unpack_from(form, received, 2)
        key = b""
        if received[1] & _MASKED:
            key = bytes(received[start : start + 4])
            start += 4
        if len(received) < start + length:
            return None
        first, payload = received[0], received[start : start + length]
        del received[: start + length]
        if key:
            mask(payload, key)
        return bool(first & _FIN), first & 0x0F, bytes(payload)


def _frames(message: bytes) -> list[bytes]:
    if len(message) <= _FIRST_FRAME:
        return [_head(_FIN | BINARY, len(message)), message]
    first, rest = message[:_FIRST_FRAME], message[_FIRST_FRAME:]
    return [_head(BINARY, len(first)), first, _head(_FIN | CONTINUATION, len(rest)), rest]


def _head(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return struct.pack(">BBH", first, 126, length)
    return struct.pack(">BBQ", first, 127, length)
