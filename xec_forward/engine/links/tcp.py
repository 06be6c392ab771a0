"""A channel that is a TCP connection of ours to a program on this machine: asyncio's transport on one side,
`base.Channel` on the other.

A program that dies closes its connections like one that has said everything. So an end of stream is passed on only
while the program still listens; else its own end is waited for, which breaks the channel (`lose`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from ...errors import ForwardError, LostError
from .base import ChannelProtocol

# An end of stream is judged this much later, so that a dying process has closed its listener too (the same exit
# closes both, in no certain order); where nobody can tell whether it listens, its end has this long to show.
_EOF_PAUSE = 0.005
_EOF_PAUSE_BLIND = 0.05
# ... and is passed on this much later at most, when the program lives on without a listener.
_EOF_GRACE = 1.0
_WRITE_LIMIT = 256 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class TcpStream(asyncio.Protocol):
    """The protocol of the connection; the channel of the relay.

    Args:
        protocol: receives what comes back, from `release` on.
        listening: whether the program still listens; None where it cannot be told.
        ended: called once the channel has ended.
    """

    def __init__(
        self,
        protocol: ChannelProtocol,
        listening: Callable[[], bool | None],
        ended: Callable[[TcpStream], None],
    ) -> None:
        self._protocol: ChannelProtocol | None = protocol
        self._listening = listening
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] | None = []
        self._paused = False
        self._eof = False
        self._error: Exception | None = None
        self._judgement: asyncio.TimerHandle | None = None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_LIMIT)
        # uvloop ignores this here: what comes before `release` is kept, a chunk at most.
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
            if self._transport is not None:
                self._transport.pause_reading()
        elif self._protocol is not None:
            self._protocol.data_received(data)

    def eof_received(self) -> bool:
        self._eof = True
        if self._held is None:
            self._judge_eof_soon()
        return True  # the other direction goes on

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._error is None and exc is not None:
            self._error = LostError("the connection was reset")
        if self._held is None:
            self._end()

    # base.Channel

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS ends both directions at once
            self._transport.close()

    def pause_reading(self) -> None:
        self._paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._held is None and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End now, with a reset: the program must not take an upload that was broken off for a complete one."""
        self._held = None
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            if sock is not None and not self._transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()
        else:
            self._loop.call_soon(self._end)

    # the link's side

    def release(self) -> None:
        """Deliver what came so far, and from now on."""
        if self._held is None:
            return
        held, self._held = self._held, None
        for data in held:
            if self._protocol is not None:
                self._protocol.data_received(data)
        if self._eof:
            self._judge_eof_soon()
        if self._transport is None:
            self._end()
        elif not self._paused:
            self.resume_reading()

    def lose(self, error: ForwardError) -> None:
        """The link is gone, and the channel with it."""
        self._error = error
        self.abort()
        self._end()

    def discard(self) -> None:
        """Abort a channel that nobody was given."""
        self._protocol = None
        self.abort()

    def _judge_eof_soon(self) -> None:
        blind = self._listening() is None
        self._judgement = self._loop.call_later(_EOF_PAUSE_BLIND if blind else _EOF_PAUSE, self._judge_eof)

    def _judge_eof(self) -> None:
        if self._listening() is False:
            self._judgement = self._loop.call_later(_EOF_GRACE, self._pass_eof)
        else:
            self._pass_eof()

    def _pass_eof(self) -> None:
        if self._protocol is not None:
            self._protocol.eof_received()

    def _end(self) -> None:
        if self._judgement is not None:
            self._judgement.cancel()
        self._ended(self)
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(self._error)
