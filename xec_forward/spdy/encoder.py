"""Frames to bytes: one direction of a connection."""

from __future__ import annotations

import struct
import zlib

from .frames import (
    CONTROL_BIT,
    FLAG_FIN,
    HEAD,
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
from .headers import HeaderEncoder

_SYN_STREAM = struct.Struct(">IIBB")
_UINT32 = struct.Struct(">I")
_TWO_UINT32 = struct.Struct(">II")


class Encoder:
    """Writes the frames that one peer of a connection sends.

    SYN_STREAM and SYN_REPLY must be encoded in the order in which they are sent: they share one compressor.

    Args:
        level: zlib's, of their headers.

    >>> Encoder().encode(Data(3, b"hello", fin=True)).hex(" ", -4)
    '00000003 01000005 68656c6c 6f'
    """

    def __init__(self, level: int = zlib.Z_BEST_COMPRESSION) -> None:
        self._headers = HeaderEncoder(level)

    def encode(self, frame: Frame) -> bytes:
        """The bytes of `frame`. Raises SpdyError for one that cannot be written; the encoder is then as before."""
        match frame:
            case Data(stream, data, fin):
                return self.data_head(stream, len(data), fin=fin) + data
            case SynStream(stream, headers, fin):
                # No associated stream, the highest priority, no slot.
                fields = _SYN_STREAM.pack(_stream(stream), 0, 0, 0)
                return _control(Type.SYN_STREAM, fields + self._headers.encode(headers), _flags(fin))
            case SynReply(stream, headers, fin):
                fields = _UINT32.pack(_stream(stream))
                return _control(Type.SYN_REPLY, fields + self._headers.encode(headers), _flags(fin))
            case RstStream(stream, status):
                return _control(Type.RST_STREAM, _TWO_UINT32.pack(_stream(stream), _number(status)))
            case Ping(number):
                return _control(Type.PING, _UINT32.pack(_number(number)))
            case GoAway(stream, status):
                last_good = _stream(stream) if stream else 0
                return _control(Type.GOAWAY, _TWO_UINT32.pack(last_good, _number(status, least=0)))
            case Ignored():
                raise SpdyError("a frame that was ignored has no payload to send")

    @staticmethod
    def data_head(stream: int, size: int, *, fin: bool = False) -> bytes:
        """What stands before `size` bytes of data: a large upload is sent without copying it into frames."""
        if size > LARGEST_DATA:
            raise SpdyError(f"{size} bytes in one frame, more than {LARGEST_DATA}")
        return HEAD.pack(_stream(stream), _flags(fin) << 24 | size)


def _control(kind: Type, payload: bytes, flags: int = 0) -> bytes:
    return HEAD.pack(CONTROL_BIT | VERSION << 16 | kind, flags << 24 | len(payload)) + payload


def _flags(fin: bool) -> int:
    return FLAG_FIN if fin else 0


def _stream(stream: int) -> int:
    if not 0 < stream <= LARGEST_STREAM:
        raise SpdyError(f"{stream} is no stream")
    return stream


def _number(value: int, least: int = 1) -> int:
    if not least <= value <= 0xFFFFFFFF:
        raise SpdyError(f"{value} is not a number from {least} to {0xFFFFFFFF}")
    return value
