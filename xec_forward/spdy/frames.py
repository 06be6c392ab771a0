"""The frames of SPDY/3.1, and the numbers in them.

Every frame begins with eight bytes. The first bit tells a control frame from a data frame:

    1 | version (15) | type (16)        0 | stream (31)
    flags (8) | length (24)             flags (8) | length (24)

and `length` bytes of payload follow. Numbers are big endian. A client's streams are odd, and rise.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

VERSION = 3
FLAG_FIN = 0x01
CONTROL_BIT = 0x80000000
HEAD = struct.Struct(">II")

LARGEST_STREAM = 0x7FFFFFFF
LARGEST_DATA = 0xFFFFFF
"""What the length of a DATA frame can say."""
LARGEST_HEADERS = 64 * 1024
"""The bytes of one header block before compression; those of a port-forward are about 60."""
LARGEST_CONTROL = 128 * 1024
"""The payload of a control frame; so much that every header block fits, however badly it compresses."""

STATUS_PROTOCOL_ERROR = 1
STATUS_INVALID_STREAM = 2
STATUS_REFUSED_STREAM = 3
STATUS_UNSUPPORTED_VERSION = 4
STATUS_CANCEL = 5
STATUS_INTERNAL_ERROR = 6
STATUS_FLOW_CONTROL_ERROR = 7
STATUS_STREAM_IN_USE = 8
STATUS_STREAM_ALREADY_CLOSED = 9
STATUS_INVALID_CREDENTIALS = 10
STATUS_FRAME_TOO_LARGE = 11


class SpdyError(ValueError):
    """What came is not SPDY/3.1 or is over our limits; or a frame that cannot be written."""


class Type(IntEnum):
    """Types of control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


@dataclass(frozen=True, slots=True)
class SynStream:
    """Opens a stream. With `fin` its sender will send no data on it.

    Priority, slot and associated stream are written as zero and not read: a port-forward has no use for them.
    """

    stream: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    """The stream is open at the other end too. From Kubernetes it has no headers."""

    stream: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream; with `fin` the last ones.

    A decoder gives one frame out in as many pieces as it came in, `fin` on the last: borders mean nothing.
    """

    stream: int
    data: bytes
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    """The stream ends at once, both ways; `status` is one of the STATUS numbers."""

    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Ping:
    """A sign of life, to be sent back as it is. A client's numbers are odd, a server's even."""

    id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """No new streams on this connection; `last_good_stream` is the last that was taken, 0 for none."""

    last_good_stream: int
    status: int = 0


@dataclass(frozen=True, slots=True)
class Ignored:
    """A control frame that means nothing here: SETTINGS, HEADERS, WINDOW_UPDATE, or of an unknown type."""

    type: int
    flags: int
    payload_length: int


Frame = SynStream | SynReply | Data | RstStream | Ping | GoAway | Ignored
