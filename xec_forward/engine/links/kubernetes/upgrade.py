"""A byte pipe to a pod's port-forward endpoint: an HTTP connection after its 101.

Here is the plain form, as a POST with `Upgrade: SPDY/3.1` gives it; `websocket` has the other. Nothing is queued and
no task runs between the socket and the session: what comes is handed on in the call that brought it.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol, cast

from ....errors import ForwardError, LostError

# What is buffered above the socket before the writer is asked to pause.
WRITE_LIMIT = 256 * 1024
# How long the peer has for its part of an end in order.
CLOSE_DEADLINE = 1.0


class Kind(Enum):
    """What is spoken on an upgrade. Its value is the name for it in messages."""

    RAW = "SPDY/3.1"
    TUNNEL = "SPDY/3.1+portforward.k8s.io"  # the same in WebSocket messages (KEP-4006)
    V4 = "v4.channel.k8s.io"


class Receiver(Protocol):
    """Who gets what comes out of an upgrade."""

    def data_received(self, data: bytes, end: bool) -> None:
        """Bytes; `end` where a WebSocket message ends with them."""

    def chunk_received(self) -> None:
        """What came in one piece from the socket has been handed on."""

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def connection_lost(self, error: ForwardError) -> None:
        """The upgrade has ended, by whomever. Called once."""


class Upgrade(asyncio.Protocol):
    """A pipe: bytes as they are. Nothing in it blocks or raises.

    Attributes:
        kind: what is spoken on it.
        port: the port of the pod that it is bound to; 0 where it leads to any.
        ended: it is closed or closing.
    """

    def __init__(self, kind: Kind = Kind.RAW, port: int = 0) -> None:
        self.kind = kind
        self.port = port
        self.ended = False
        self._transport: asyncio.Transport
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        self._lost: ForwardError | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def start(self, receiver: Receiver) -> None:
        """Say who receives; what came early is delivered now."""
        self._receiver = receiver
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)
        if self._lost is not None:
            self._end(self._lost)

    def write(self, *parts: bytes | memoryview) -> None:
        """Send these, one behind the other."""
        if not self.ended:
            self._transport.write(b"".join(parts))

    def pause_reading(self) -> None:
        """Read no more, so that the peer's sending stops."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, patience: float = CLOSE_DEADLINE) -> None:
        """End in order: what was written goes out. All of it has `patience` seconds, the peer's part with it."""
        if self.ended:
            return
        self._farewell()
        self.ended = True
        self._transport.close()
        self._deadline = asyncio.get_running_loop().call_later(patience, self._transport.abort)

    def abort(self) -> None:
        """End now; what was not sent is dropped."""
        self.ended = True
        self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is handed over: the server has answered 101."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._transport.set_write_buffer_limits(high=WRITE_LIMIT)

    def data_received(self, data: bytes) -> None:
        if self._receiver is None:
            self._early.append(data)
        elif not self.ended:
            self._deliver(data)
            if self._receiver is not None:
                self._receiver.chunk_received()

    def eof_received(self) -> bool:
        return False  # the transport closes itself

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.pause_writing()

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if self._deadline is not None:
            self._deadline.cancel()
        how = "the connection to the API server broke" if exc else "the API server closed the connection"
        self._end(LostError(how))

    # for the form with messages

    def _deliver(self, data: bytes) -> None:
        assert self._receiver is not None
        self._receiver.data_received(data, True)

    def _farewell(self) -> None:
        """What is said before an end in order."""

    def _end(self, error: ForwardError) -> None:
        self._lost = self._lost or error
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_lost(self._lost)
