"""Bytes to frames: one direction of a connection, cut anywhere.

Payload of DATA is given out as it comes and never gathered: a frame may announce 16 MiB, and a relay wants what there
is. All that is kept between two calls is the head of a frame, or one control frame.
"""

from __future__ import annotations

import struct

from .frames import (
    CONTROL_BIT,
    FLAG_FIN,
    HEAD,
    LARGEST_CONTROL,
    LARGEST_DATA,
    LARGEST_STREAM,
    VERSION,
    Data,
    Frame,
    GoAway,
    Ignored,
    Ping,
    RstStream,
    SpdyError,
    SynReply,
    SynStream,
    Type,
)
from .headers import HeaderDecoder

_SYN_STREAM = struct.Struct(">I6x")
_UINT32 = struct.Struct(">I")
_TWO_UINT32 = struct.Struct(">II")


class Decoder:
    """Reads the frames that one peer of a connection sends. Keeps at most one head or one control frame.

    >>> decoder = Decoder()
    >>> decoder.feed(bytes.fromhex("00000003 01000005 6865"))
    [Data(stream=3, data=b'he', fin=False)]
    >>> decoder.feed(b"llo")
    [Data(stream=3, data=b'llo', fin=True)]
    """

    def __init__(self) -> None:
        self._headers = HeaderDecoder()
        # What has come of a head or a control frame, and how long it has to be.
        self._kept = bytearray()
        self._wanted = HEAD.size
        # The DATA frame whose payload is passing, if bytes of it are left.
        self._stream = 0
        self._fin = False
        self._left = 0
        self._failed = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`, and what it holds of a DATA frame.

        Raises:
            SpdyError: the stream is malformed or over our limits; from then on always.
        """
        if self._failed:
            raise SpdyError("the stream was malformed before")
        try:
            return self._read(data)
        except SpdyError:
            self._failed = True
            self._kept.clear()
            raise

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their head or control frame."""
        return len(self._kept)

    def _read(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                frames.append(Data(self._stream, piece, self._fin and not self._left))
                continue
            part = data[at : at + self._wanted - len(self._kept)]
            at += len(part)
            self._kept += part
            if len(self._kept) < self._wanted:
                break
            first, second = HEAD.unpack_from(self._kept)
            flags, length = second >> 24, second & LARGEST_DATA
            if not first & CONTROL_BIT:
                self._stream, self._fin, self._left = _stream(first), bool(flags & FLAG_FIN), length
                if not length:
                    frames.append(Data(self._stream, b"", self._fin))
            else:
                kind = _control_type(first, length)
                self._wanted = HEAD.size + length
                if len(self._kept) < self._wanted:
                    continue
                frames.append(self._control(kind, flags, bytes(self._kept[HEAD.size :])))
            self._kept.clear()
            self._wanted = HEAD.size
        return frames

    def _control(self, kind: int, flags: int, payload: bytes) -> Frame:
        fin = bool(flags & FLAG_FIN)
        match kind:
            case Type.SYN_STREAM:
                (stream,) = _fields(_SYN_STREAM, payload)
                return SynStream(_stream(stream), self._headers.decode(payload[_SYN_STREAM.size :]), fin)
            case Type.SYN_REPLY:
                (stream,) = _fields(_UINT32, payload)
                return SynReply(_stream(stream), self._headers.decode(payload[_UINT32.size :]), fin)
            case Type.RST_STREAM:
                stream, status = _fields(_TWO_UINT32, payload, whole=True)
                return RstStream(_stream(stream), _nonzero(status, "a reset with status 0"))
            case Type.PING:
                (number,) = _fields(_UINT32, payload, whole=True)
                return Ping(_nonzero(number, "a ping with number 0"))
            case Type.GOAWAY:
                stream, status = _fields(_TWO_UINT32, payload, whole=True)
                return GoAway(stream & LARGEST_STREAM, status)
            case Type.HEADERS:
                # Nobody wants them, but the next header block cannot be read without this one.
                (stream,) = _fields(_UINT32, payload)
                _stream(stream)
                self._headers.decode(payload[_UINT32.size :])
        return Ignored(kind, flags, len(payload))


def _control_type(first: int, length: int) -> int:
    version = first >> 16 & 0x7FFF
    if version != VERSION:
        raise SpdyError(f"a control frame of version {version}, not {VERSION}")
    if length > LARGEST_CONTROL:
        raise SpdyError(f"a control frame of {length} bytes, more than {LARGEST_CONTROL}")
    return first & 0xFFFF


def _fields(layout: struct.Struct, payload: bytes, *, whole: bool = False) -> tuple[int, ...]:
    """The numbers at the beginning of `payload`, or with `whole` those that must be all of it."""
    if len(payload) < layout.size or (whole and len(payload) > layout.size):
        raise SpdyError(f"a control frame of {len(payload)} bytes where {layout.size} are due")
    return layout.unpack_from(payload)


def _stream(number: int) -> int:
    stream = number & LARGEST_STREAM
    if not stream:
        raise SpdyError("a frame of stream 0")
    return stream


def _nonzero(number: int, problem: str) -> int:
    if not number:
        raise SpdyError(problem)
    return number
