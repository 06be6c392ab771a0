"""A channel through another process: two one-way streams, and the control connection that stands for it.

The master writes what comes from the far side into one socket pair and reads what goes there from the other; so
each direction ends on its own. (With one pair for both, as a terminal is, a master has no way to pass on the far
side's end: it closes its descriptor, and the other one keeps the stream open.)

Neither stream says why it ended. So before an end is passed on, the master is asked for a sign of life: one that
answers after the end was alive when it came, and the end is an orderly one; else the link is lost, and a cut answer
does not pass for a complete one.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable

from ....errors import ForwardError
from ..base import ChannelProtocol
from .control import Control

# What a channel buffers above the socket's own buffer before it asks the writer to pause.
WRITE_LIMIT = 256 * 1024
# How long a closed channel's last bytes may take to reach the master, seconds.
LINGER = 30.0


class _Half(asyncio.Protocol):
    """A transport's callbacks: of the stream that we read, of the one that we write, or of one that is both."""

    def __init__(self, passage: Passage, *, reads: bool, writes: bool) -> None:
        self._passage = passage
        self._reads = reads
        self._writes = writes

    def data_received(self, data: bytes) -> None:
        if self._reads:
            self._passage.came(data)

    def eof_received(self) -> bool:
        if self._reads:
            self._passage.far_end()
        if self._writes and not self._reads:
            self._passage.taken()
        return self._reads and self._writes

    def pause_writing(self) -> None:
        if self._writes:
            self._passage.full(True)

    def resume_writing(self) -> None:
        if self._writes:
            self._passage.full(False)

    def connection_lost(self, error: Exception | None) -> None:
        if self._reads:
            self._passage.far_end()
        if self._writes:
            self._passage.taken()


class Passage:
    """An open channel: `base.Channel` for the relay.

    Args:
        protocol: receives what comes back.
        confirm: calls back once the master has shown that it is alive; never, when the link is lost meanwhile.
        forget: called when the passage has ended.
        refusal: what a passage means that ends before a single byte came; None: an end like any other.
    """

    def __init__(
        self,
        protocol: ChannelProtocol,
        confirm: Callable[[Callable[[], None]], None],
        forget: Callable[[Passage], None],
        refusal: ForwardError | None = None,
    ) -> None:
        self._protocol: ChannelProtocol | None = protocol
        self._confirm = confirm
        self._forget = forget
        self._refusal = refusal
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Transport | None = None
        self._writer: asyncio.Transport | None = None
        self._control: Control | None = None
        self._held = True
        self._early: list[bytes] = []
        self._paused = False
        self._may_write = True
        self._closing = False
        self._linger: asyncio.TimerHandle | None = None
        self._far_ended = False
        self._confirmed = False
        self._taken = False
        self._full = False
        self._empty = True
        self.first: asyncio.Future[None] = self._loop.create_future()

    async def attach(self, reader: socket.socket, writer: socket.socket, control: Control | None) -> None:
        """Take the streams; `reader is writer` where one socket is both. They are ours whatever happens."""
        self._control = control
        both = reader is writer
        try:
            self._reader = await self._transport(reader, _Half(self, reads=True, writes=both))
        except BaseException:
            writer.close()
            raise
        self._writer = self._reader if both else await self._transport(writer, _Half(self, reads=False, writes=True))
        self._writer.set_write_buffer_limits(WRITE_LIMIT)
        self._flow()

    async def _transport(self, sock: socket.socket, half: _Half) -> asyncio.Transport:
        sock.setblocking(False)
        try:
            transport, _ = await self._loop.create_unix_connection(lambda: half, sock=sock)
        except BaseException:
            sock.close()
            raise
        return transport

    # base.Channel

    def write(self, data: bytes) -> None:
        if self._may_write and self._writer is not None:
            self._writer.write(data)

    def write_eof(self) -> None:
        if self._may_write and self._writer is not None:
            self._may_write = False
            if not self._writer.is_closing():
                self._writer.write_eof()
            if self._control is None and self._confirmed:
                self._end(None)

    def pause_reading(self) -> None:
        self._paused = True
        self._flow()

    def resume_reading(self) -> None:
        self._paused = False
        self._flow()

    def close(self) -> None:
        """End in order: what was written reaches the master first, for at most LINGER seconds."""
        if self._closing or self._protocol is None:
            return
        self._closing = True
        self._early.clear()
        self._paused = False
        self._flow()
        if self._taken:
            self._loop.call_soon(self._end, None)
            return
        self.write_eof()
        self._linger = self._loop.call_later(LINGER, self.abort)
        if self._control is None and self._writer is not None:
            self._writer.close()  # one socket: what is in it is the master's, whatever we do

    def abort(self) -> None:
        """End now."""
        self._drop()
        self._loop.call_soon(self._end, None)

    def is_closing(self) -> bool:
        """As asyncio.Transport."""
        return self._closing or self._protocol is None

    def get_extra_info(self, name: str, default: object = None) -> object:
        """As asyncio.Transport; there is nothing to tell."""
        return default

    # what the streams say

    def came(self, data: bytes) -> None:
        """Bytes from the far side."""
        self._refusal = None
        self._empty = False
        self._note_first()
        if self._held:
            self._early.append(data)
            self._flow()
        elif self._protocol is not None and not self._closing:
            self._protocol.data_received(data)

    def far_end(self) -> None:
        """The far side's stream ended, in order or not."""
        self._note_first()
        if not self._far_ended and self._protocol is not None:
            self._far_ended = True
            self._confirm(self._far_end_confirmed)

    def taken(self) -> None:
        """The master has closed its end of what we write: it has all of it, or wants no more."""
        self._taken = True
        self._may_write = False
        self.full(False)  # what else is written goes nowhere, and waits for nothing
        if self._closing or (self._control is None and self._confirmed and not self._held):
            self._end(None)

    def full(self, full: bool) -> None:
        """Whether there is no room for what we write."""
        if full != self._full and self._protocol is not None and not self._closing:
            self._full = full
            if full:
                self._protocol.pause_writing()
            else:
                self._protocol.resume_writing()

    def control_ended(self) -> None:
        """The master has let go of the channel: all of its bytes are in our stream, and the end behind them."""
        if self._control is not None:
            self._control.close()
        self._settle()

    # between the two

    @property
    def refused(self) -> bool:
        """Whether it ended before a single byte came."""
        return self._far_ended and self._empty

    def proven(self) -> None:
        """The far side is there: an end is an end like any other."""
        self._refusal = None

    def discard(self) -> None:
        """End now and tell nobody: it was never given out."""
        self._protocol = None
        self._drop()
        self._forget(self)

    def release(self) -> None:
        """Deliver what came so far, and from now on."""
        self._held = False
        early, self._early = self._early, []
        for data in early:
            if self._protocol is not None and not self._closing:
                self._protocol.data_received(data)
        self._flow()
        if self._confirmed:
            self._deliver_end()

    def broken(self, error: ForwardError) -> None:
        """The link is lost, or the master says that this channel is."""
        self._drop()
        if self._held:
            self._loop.call_soon(self._end, error)
        else:
            self._end(error)

    def _far_end_confirmed(self) -> None:
        if self._control is not None and not self._control.closed:
            self._control.read()  # a word about why may wait there
        self._confirmed = True
        if not self._held:
            self._deliver_end()

    def _deliver_end(self) -> None:
        if self._protocol is None:
            return
        if self._refusal is not None:
            self.broken(self._refusal)
            return
        if not self._closing:
            self._protocol.eof_received()
        self._settle()

    def _settle(self) -> None:
        """End, if both the far side and the master have."""
        if not self._confirmed or self._held:
            return
        if self._control is not None:
            if self._control.closed:
                self._end(None)
        elif not self._may_write or self._closing or self._hung_up():
            self._end(None)

    def _hung_up(self) -> bool:
        """Whether the peer has closed its one socket for good, or only for writing."""
        if self._writer is None or self._writer.is_closing():
            return True
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    def _flow(self) -> None:
        if self._reader is not None and not self._reader.is_closing() and not self._far_ended:
            # Held back, it is paused at its first chunk only: an end must be seen, and paused nothing is.
            if self._paused or (self._held and self._early):
                self._reader.pause_reading()
            else:
                self._reader.resume_reading()

    def _note_first(self) -> None:
        if not self.first.done():
            self.first.set_result(None)

    def _drop(self) -> None:
        self._may_write = False
        for transport in (self._reader, self._writer):
            if transport is not None:
                transport.abort()
        if self._control is not None:
            self._control.close()

    def _end(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return
        if self._linger is not None:
            self._linger.cancel()
        self._drop()
        self._forget(self)
        protocol.connection_lost(error)
