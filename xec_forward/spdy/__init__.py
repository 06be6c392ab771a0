"""SPDY/3.1 as Kubernetes speaks it for port-forward: frames to bytes and back. Ground floor, no I/O.

frames   the frames, and the numbers in them
headers  header blocks: names and values, compressed
encoder  frames out
decoder  bytes in, however they are cut

The source is draft-mbelshe-httpbis-spdy (https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/); where
it leaves a choice, what github.com/moby/spdystream takes decides, for that is what an API server and a kubelet run.
That library neither sends nor heeds WINDOW_UPDATE: there is no flow control within a connection.
"""

from .decoder import Decoder
from .encoder import Encoder
from .frames import (
    LARGEST_CONTROL,
    LARGEST_DATA,
    LARGEST_HEADERS,
    LARGEST_STREAM,
    STATUS_CANCEL,
    STATUS_FLOW_CONTROL_ERROR,
    STATUS_FRAME_TOO_LARGE,
    STATUS_INTERNAL_ERROR,
    STATUS_INVALID_CREDENTIALS,
    STATUS_INVALID_STREAM,
    STATUS_PROTOCOL_ERROR,
    STATUS_REFUSED_STREAM,
    STATUS_STREAM_ALREADY_CLOSED,
    STATUS_STREAM_IN_USE,
    STATUS_UNSUPPORTED_VERSION,
    Data,
    Frame,
    GoAway,
    Ignored,
    Ping,
    RstStream,
    SpdyError,
    SynReply,
    SynStream,
)
from .headers import DICTIONARY

__all__ = [
    "DICTIONARY",
    "LARGEST_CONTROL",
    "LARGEST_DATA",
    "LARGEST_HEADERS",
    "LARGEST_STREAM",
    "STATUS_CANCEL",
    "STATUS_FLOW_CONTROL_ERROR",
    "STATUS_FRAME_TOO_LARGE",
    "STATUS_INTERNAL_ERROR",
    "STATUS_INVALID_CREDENTIALS",
    "STATUS_INVALID_STREAM",
    "STATUS_PROTOCOL_ERROR",
    "STATUS_REFUSED_STREAM",
    "STATUS_STREAM_ALREADY_CLOSED",
    "STATUS_STREAM_IN_USE",
    "STATUS_UNSUPPORTED_VERSION",
    "Data",
    "Decoder",
    "Encoder",
    "Frame",
    "GoAway",
    "Ignored",
    "Ping",
    "RstStream",
    "SpdyError",
    "SynReply",
    "SynStream",
]
