"""Bytes between descriptors that somebody passed to us and a channel, both ways; the master's end of a passage.

The descriptors may be anything: a rider's sockets, the pipes of a ProxyCommand, the terminal of `ssh -W`, /dev/null.
So they are driven by the loop's reader and writer callbacks and not by a transport. Rules:

    back-pressure both ways    a channel that cannot take more stops the reading, a descriptor that cannot the channel
    half-close both ways       the end of what is read is passed on at once; the far side's end closes the other
    "it is all yours"          the descriptor read from is closed at its end: so a rider knows that we have everything
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable

from ..base import Channel

BLOCK = 256 * 1024


class Stdio:
    """Two descriptors and a channel; implements `base.ChannelProtocol`.

    Args:
        source, sink: read from and written to; closed here.
        ended: called once, with what broke the channel, or None after an end in order.

    Raises:
        OSError: a descriptor cannot be used; both are closed then.
    """

    channel: Channel

    def __init__(self, source: int, sink: int, ended: Callable[[Exception | None], None]) -> None:
        self._ended: Callable[[Exception | None], None] | None = ended
        self._loop = asyncio.get_running_loop()
        self._backlog = bytearray()
        self._source, self._sink = source, sink
        self._reading = self._writing = False
        self._may_read = True
        self._source_ended = False
        self._far_ended = False
        self._channel_ended = False
        try:
            self._source, self._source_polls = _prepare(source, os.O_RDONLY)
            self._sink, self._sink_polls = _prepare(sink, os.O_WRONLY)
        except OSError:
            self._close_source()
            self._close_sink()
            raise

    def begin(self, channel: Channel) -> None:
        """The channel is open: read from now on."""
        self.channel = channel
        self._flow()

    # the channel's side

    def data_received(self, data: bytes) -> None:
        if self._sink < 0:
            return
        self._backlog += data
        if not self._writing:
            self._write()

    def eof_received(self) -> None:
        self._far_ended = True
        if not self._backlog:
            self._close_sink()

    def pause_writing(self) -> None:
        self._may_read = False
        self._flow()

    def resume_writing(self) -> None:
        self._may_read = True
        self._flow()

    def connection_lost(self, error: Exception | None) -> None:
        self._close_source()
        if error is not None:
            self._backlog.clear()
            self._end(error)
        elif not self._backlog:
            self._end(None)
        else:
            self._channel_ended = True  # the rest goes out first; `_write` ends

    # ours

    def hang_up(self) -> None:
        """Whoever passed the descriptors has gone. What was read before its end still goes out."""
        if self._source_ended:
            self._backlog.clear()
            self._close_sink()  # what still comes goes nowhere, and must not pass for a failure
            self.channel.close()
        else:
            self.abort()

    def abort(self) -> None:
        """End now, without a word."""
        self._ended = None
        self._close_source()
        self._close_sink()
        with contextlib.suppress(AttributeError):  # it never opened
            self.channel.abort()

    def _flow(self) -> None:
        wanted = self._may_read and self._source >= 0
        if wanted == self._reading:
            return
        self._reading = wanted
        if not wanted:
            if self._source_polls and self._source >= 0:
                self._loop.remove_reader(self._source)
        elif self._source_polls:
            self._loop.add_reader(self._source, self._read)
        else:
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        if not self._reading:
            return
        try:
            data = os.read(self._source, BLOCK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self.channel.write(data)
            if self._reading and not self._source_polls:
                self._loop.call_soon(self._read)
            return
        self._source_ended = True
        self.channel.write_eof()
        self._close_source()

    def _write(self) -> None:
        try:
            while self._backlog:
                with memoryview(self._backlog) as view:
                    sent = os.write(self._sink, view[:BLOCK])
                del self._backlog[:sent]
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sink, self._write)
                self.channel.pause_reading()
            return
        except OSError:  # nobody reads it any more
            self._backlog.clear()
            self._close_sink()
            self.channel.abort()
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sink)
            self.channel.resume_reading()  # it may deliver at once, the end too
            if self._backlog:
                return
        if self._channel_ended:
            self._end(None)
        elif self._far_ended:
            self._close_sink()

    def _end(self, error: Exception | None) -> None:
        # Told first, then the stream ends: who sees its end can look for the reason.
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(error)
        self._close_source()
        self._close_sink()

    def _close_source(self) -> None:
        source, self._source = self._source, -1
        if source >= 0:
            if self._reading and self._source_polls:
                self._loop.remove_reader(source)
            self._reading = False
            os.close(source)

    def _close_sink(self) -> None:
        sink, self._sink = self._sink, -1
        if sink >= 0:
            if self._writing:
                self._writing = False
                self._loop.remove_writer(sink)
            # Where source and sink are one socket, closing one of two descriptors would end nothing.
            with contextlib.suppress(OSError), socket.socket(fileno=sink) as one:
                one.shutdown(socket.SHUT_WR)
                one.detach()
            os.close(sink)


def _prepare(descriptor: int, access: int) -> tuple[int, bool]:
    """Make it non-blocking; the descriptor to use, and whether the loop can wait for it."""
    mode = os.fstat(descriptor).st_mode
    if os.isatty(descriptor):
        # It is the shell's too, which must not find it non-blocking: open the terminal once more.
        again = os.open(os.ttyname(descriptor), access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        os.close(descriptor)
        return again, True
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        os.set_blocking(descriptor, False)
        return descriptor, True
    return descriptor, False
