"""The pipe in WebSocket messages (RFC 6455), for the subprotocols of port-forward.

Only what passes between the two peers after the handshake: no extension is negotiated, and no message is gathered. A
payload is handed on as it comes; where a message ends is told with it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

from ....errors import LostError
from ....masking import mask
from .upgrade import Kind, Upgrade

NORMAL = 1000
_PROTOCOL_ERROR = 1002
_NO_STATUS = 1005
_UINT16 = struct.Struct(">H")
_UINT64 = struct.Struct(">Q")
_FIN, _RSV, _MASKED = 0x80, 0x70, 0x80
_LARGEST_CONTROL = 125
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Opcode(IntEnum):
    """RFC 6455 section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_OPCODES = frozenset(int(each) for each in Opcode)
# First bytes of the frames that an API server sends most: a whole binary message, its beginning, its rest.
_DATA_HEADS = frozenset(
    (_FIN | Opcode.BINARY, int(Opcode.BINARY), int(Opcode.CONTINUATION), _FIN | Opcode.CONTINUATION)
)
# Pieces up to this size are handed on together.
_SMALL = 1024


def client_frame(opcode: Opcode, *parts: bytes | memoryview) -> bytes:
    """A whole message of a client. An upload is copied twice here, and nowhere else on its way to TLS."""
    data = bytearray().join(parts)
    size = len(data)
    if size < 126:
        head = bytes((_FIN | opcode, _MASKED | size))
    elif size < 65536:
        head = bytes((_FIN | opcode, _MASKED | 126)) + _UINT16.pack(size)
    else:
        head = bytes((_FIN | opcode, _MASKED | 127)) + _UINT64.pack(size)
    key = os.urandom(4)
    mask(data, key)
    return b"".join((head, key, data))


def handshake(subprotocols: Sequence[str]) -> dict[str, str]:
    """The headers that ask for a WebSocket (section 4.1)."""
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Protocol": ", ".join(subprotocols),
    }


def accepted(asked: Mapping[str, str], answer: Mapping[str, str]) -> bool:
    """Whether the answer is to this handshake, not another's out of some cache (section 4.2.2)."""
    digest = hashlib.sha1((asked["Sec-WebSocket-Key"] + _GUID).encode(), usedforsecurity=False).digest()
    return answer.get("sec-websocket-accept", "") == base64.b64encode(digest).decode()


class WebSocketUpgrade(Upgrade):
    """A pipe whose bytes travel in binary messages; what is written in one call is one message.

    Attributes:
        close_code: the status with which the peer closed, or None.
        ponged: called with the payload of a pong.
    """

    def __init__(self, kind: Kind = Kind.TUNNEL, port: int = 0) -> None:
        super().__init__(kind, port)
        self.close_code: int | None = None
        self.ponged: Callable[[bytes], None] | None = None
        # What has come of a frame's head, and how long it has to be.
        self._head = bytearray()
        self._wanted = 2
        self._opcode = 0
        self._last = False
        self._left = 0
        self._control = b""
        self._gathered: list[bytes] = []

    def write(self, *parts: bytes | memoryview) -> None:
        if not self.ended:
            self._transport.write(client_frame(Opcode.BINARY, *parts))

    def ping(self, payload: bytes) -> None:
        """Send a ping of WebSocket's own, which the API server answers, not the pod's node."""
        if not self.ended:
            self._transport.write(client_frame(Opcode.PING, payload))

    def _farewell(self) -> None:
        code = NORMAL if self.close_code is None or self.close_code == _NO_STATUS else self.close_code
        self._transport.write(client_frame(Opcode.CLOSE, _UINT16.pack(code)))

    def _deliver(self, data: bytes) -> None:
        at, size = 0, len(data)
        while at < size and not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                self._payload(piece)
                continue
            if not self._head and self.kind is not Kind.V4 and (end := self._gather(data, at)) > at:
                at = end
                continue
            part = data[at : at + self._wanted - len(self._head)]
            at += len(part)
            self._head += part
            if len(self._head) == self._wanted:
                self._begin()
        self._hand_on()

    def _gather(self, data: bytes, at: int) -> int:
        """Take the small frames that are there from `at` on, to the last that is whole; returns where that ends.

        A server sends a SPDY frame of 12 bytes as five messages.
        """
        last, gathered = len(data) - 1, self._gathered
        while at < last and data[at] in _DATA_HEADS:
            end = at + 2 + data[at + 1]
            if data[at + 1] > _LARGEST_CONTROL or end > last + 1:
                break
            gathered.append(data[at + 2 : end])
            at = end
        return at

    def _pass_on(self, piece: bytes, end: bool) -> None:
        """Payload of a message. Where a message ends, v4 alone wants to know."""
        if self.kind is not Kind.V4 and len(piece) <= _SMALL:
            self._gathered.append(piece)
            return
        self._hand_on()
        if self._receiver is not None:
            self._receiver.data_received(piece, end)

    def _hand_on(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered and self._receiver is not None and not self.ended:
            self._receiver.data_received(b"".join(gathered), False)

    def _begin(self) -> None:
        """A head, or the part of it that tells its length, is there."""
        head = self._head
        first, second = head[0], head[1]
        if len(head) == 2:
            control = first & 0x08
            fits = second <= _LARGEST_CONTROL and first & _FIN if control else second & ~_MASKED <= 127
            if first & _RSV or second & _MASKED or not fits or first & 0x0F not in _OPCODES:
                self._malformed()
                return
            if second > _LARGEST_CONTROL:
                self._wanted = 4 if second == 126 else 10
                return
            self._left = second
        elif len(head) == 4:
            (self._left,) = _UINT16.unpack_from(head, 2)
        else:
            (self._left,) = _UINT64.unpack_from(head, 2)
        self._opcode = first & 0x0F
        self._last = bool(first & _FIN)
        self._head.clear()
        self._wanted = 2
        if not self._left:
            self._payload(b"")

    def _payload(self, piece: bytes) -> None:
        """Some of a frame's payload, or an empty frame."""
        if self._opcode < Opcode.CLOSE:
            self._pass_on(piece, self._last and not self._left)
            return
        self._control += piece
        if self._left:
            return
        control, self._control = self._control, b""
        if self._opcode == Opcode.PING:
            self._transport.write(client_frame(Opcode.PONG, control))
        elif self._opcode == Opcode.PONG:
            if self.ponged is not None:
                self.ponged(control)
        else:
            self._hand_on()
            self.close_code = _UINT16.unpack_from(control)[0] if len(control) >= 2 else _NO_STATUS
            self.close()
            self._end(LostError("the API server closed the connection"))

    def _malformed(self) -> None:
        self._hand_on()
        self.close_code = _PROTOCOL_ERROR
        self.close()
        self._end(LostError("the API server sent what is not WebSocket"))
