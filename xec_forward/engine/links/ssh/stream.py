"""One channel of an SSH connection (RFC 4254 section 5): asyncssh's session on one side, `base.Channel` on the other.

Two things that asyncssh leaves open are settled here:

    nothing reaches the protocol before `release`, so that whoever opened the channel can attach first;
    a channel that ends because its connection does breaks (`connection_lost(error)`), also when the connection
    itself ended in order: its client got no complete answer.

A far service that resets its connection cannot be told from one that ends it: SSH has no message for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

from ....errors import ForwardError
from ..base import ChannelProtocol
from .packets import RawChannel, Window, on_connection_close

# What a channel buffers above the peer's window before it asks the writer to pause.
WRITE_LIMIT = 256 * 1024


class Stream(asyncssh.SSHTCPSession[bytes]):
    """An open channel.

    Args:
        protocol: receives what comes back; None where it is given later, with `attach`.
        round_trip: the link's shortest known round trip in seconds, 0 while it is unknown.
        why_lost: the reason, once the connection is gone.
    """

    def __init__(
        self,
        protocol: ChannelProtocol | None,
        round_trip: Callable[[], float],
        why_lost: Callable[[Exception | None], ForwardError],
    ) -> None:
        self._protocol = protocol
        self._round_trip = round_trip
        self._why_lost = why_lost
        self._loop = asyncio.get_running_loop()
        self._held = True
        self._paused = False
        self._early: list[bytes] = []  # what came before it could be delivered
        self._eof = False
        self._eof_told = False
        self._ended = False
        self._error: ForwardError | None = None
        self._connection_gone = False
        self._may_write = False

    # asyncssh's side

    def connection_made(self, channel: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._channel: RawChannel = channel
        self._window = Window(channel, self._round_trip)
        self._may_write = True
        channel.pause_reading()
        channel.set_write_buffer_limits(WRITE_LIMIT)
        on_connection_close(channel, self._gone)

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        self._window.delivered(len(data))
        # asyncssh resumes by itself a channel that the peer opened, and ends one that is paused but empty.
        if self._held or self._paused:
            self._early.append(data)
        elif self._protocol is not None:
            self._protocol.data_received(data)

    def eof_received(self) -> bool:
        self._eof = True
        self._deliver_end()
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._may_write = False
        self._ended = True
        if self._connection_gone or exc is not None:
            self._error = self._why_lost(exc)
        # An end in order comes behind the data, like any other; a broken channel has none to wait for.
        if not self._held and (self._error is not None or not (self._paused and self._early)):
            self._deliver_end()
            self._end()

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    # base.Channel

    def write(self, data: bytes) -> None:
        if self._may_write:
            try:
                self._channel.write(data)
            except OSError:  # it is closing; connection_lost is on its way
                self._may_write = False

    def write_eof(self) -> None:
        if self._may_write:
            self._may_write = False
            self._channel.write_eof()

    def pause_reading(self) -> None:
        self._paused = True
        if not self._held:
            self._channel.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if not self._held:
            self._deliver()

    def close(self) -> None:
        self._may_write = False
        if not self._ended:
            self._channel.close()

    def abort(self) -> None:
        """End now. The peer's own close is awaited by asyncssh alone: a silent peer holds nobody up."""
        self._may_write = False
        if not self._ended:
            self._channel.abort()
        self._held = False
        self._loop.call_soon(self._end)

    def is_closing(self) -> bool:
        """As asyncio.Transport."""
        return self._ended or self._protocol is None

    def get_extra_info(self, name: str, default: object = None) -> object:
        """As asyncio.Transport; there is nothing to tell."""
        return default

    # between the two

    def attach(self, protocol: ChannelProtocol) -> None:
        """Say who receives, before `release`."""
        self._protocol = protocol

    def release(self) -> None:
        """Deliver what came so far, and from now on."""
        if self._held:
            self._held = False
            self._deliver()

    def _deliver(self) -> None:
        """What came early, then what waits in asyncssh and what is to come; as far as nobody pauses."""
        while self._early and not self._paused and self._protocol is not None:
            self._protocol.data_received(self._early.pop(0))
        if self._paused:
            self._channel.pause_reading()
            return
        if not self._ended:
            self._channel.resume_reading()
        self._deliver_end()
        if self._ended:
            self._end()

    def _deliver_end(self) -> None:
        """The peer's half-close, once everything before it has been delivered."""
        if self._eof and not self._eof_told and not self._held and not self._paused and self._error is None:
            self._eof_told = True
            if self._protocol is not None:
                self._protocol.eof_received()

    def _gone(self) -> None:
        self._connection_gone = True

    def _end(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(self._error)
