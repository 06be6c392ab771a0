"""Frames on the pipe between client and engine. Ground floor, no I/O: messages in, bytes out, and back.

A frame is its body's length as 4 bytes big endian, then the body: one message of `model` as MessagePack. The
first message each way (`Hello`, `Welcome`) carries the protocol's version. A frame longer than `FRAME_LIMIT`
means the stream is not ours: `FrameError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from .model import Message, Report, Request

FRAME_LIMIT = 16 * 1024 * 1024
_LENGTH = 4

M = TypeVar("M", bound=Message)


class FrameError(ValueError):
    """The stream holds something that is not a frame of ours."""


_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH, "big") + body


class Decoder(Generic[M]):
    """Bytes in any pieces, messages out in order.

    >>> decoder = reports()
    >>> list(decoder.feed(b""))
    []
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """Add bytes, yield each message they complete.

        Raises:
            FrameError: the bytes are no frame, or the frame is no message of this direction.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH:
            length = int.from_bytes(self._buffer[:_LENGTH], "big")
            if length > FRAME_LIMIT:
                raise FrameError(f"a frame of {length} bytes, more than {FRAME_LIMIT}")
            end = _LENGTH + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH:end])
            del self._buffer[:end]
            try:
                message = self._decoder.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                # Malformed UTF-8 comes as UnicodeDecodeError, which holds the whole body, a secret perhaps.
                problem = "malformed text" if isinstance(error, UnicodeDecodeError) else str(error)
            else:
                yield message
                continue
            # Raised out here, so that nothing of the body hangs on it.
            raise FrameError(f"not a message: {problem}")


def requests() -> Decoder[Request]:
    """For the engine: what the client sends."""
    return Decoder(msgspec.msgpack.Decoder(Request))


def reports() -> Decoder[Report]:
    """For the client: what the engine sends."""
    return Decoder(msgspec.msgpack.Decoder(Report))
