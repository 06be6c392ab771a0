"""SPDY/3.1 over one upgrade: one live connection into the pod at a time.

The protocol has no flow control: a client that does not read, or a pod that does not, holds up everything on its
upgrade. So there is one connection on each. The next may begin when nothing of the last can be in its way any more:

    its client has closed (or the pod has, in order), so that whatever still comes of it is dropped;
    a round of PINGs sent behind its FIN is answered, so that the pod's side has taken what was sent. A short exchange
    needs none: the pod has answered, so it has taken the connection, and the little that was sent fits its buffer.

The end itself comes a second after the FIN (containerd gives the other side that long), on an upgrade that already
serves somebody else.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import zlib
from collections.abc import Sequence
from typing import Protocol

from ....errors import ForwardError, LostError, PodGoneError
from ....spdy import (
    LARGEST_STREAM,
    STATUS_CANCEL,
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    Ping,
    RstStream,
    SpdyError,
    SynStream,
)
from ..base import Channel, ChannelProtocol
from .pulse import Pulse, Round
from .stream import Stream
from .upgrade import Upgrade

# What one DATA frame carries at most: a node allocates it as a whole, and queues 50.
LARGEST_DATA = 64 * 1024
# How long a session whose connection has closed is counted on to be free again; seconds.
RETURN = 0.1
# How long the end of a connection whose client has gone may wait to go out with the next one's beginning: that costs
# one write then, and not two; seconds.
LEISURE = 0.005
# Seconds that the PINGs behind a connection may take once it has ended at the far side. Those of a worker of spdystream
# that has data for a connection which nobody reads any more never come (containerd 1.6, of a refused port).
UNTAKEN = 2.0
# So many connections may be in their last second on one upgrade.
_MOST_DRAINING = 64


class Carrier(Protocol):
    """A session, of either protocol.

    Attributes:
        port: the port of the pod that it is bound to; 0 where it leads to any.
        over: it has ended.
    """

    port: int
    over: bool

    @property
    def live(self) -> bool:
        """Whether it carries a connection that somebody has."""

    @property
    def draining(self) -> bool:
        """Whether connections on it are on their way to their end."""

    @property
    def suspect(self) -> bool:
        """Whether a sign of life is late, for whatever reason."""

    def open_channel(self, port: int, protocol: ChannelProtocol) -> Channel:
        """Open a connection on a free session. Whether it could be made is told by its end alone."""

    def retire(self) -> None:
        """Carry no further connection; end in order once there is none."""

    def abort(self, error: ForwardError | None = None) -> None:
        """End now."""


class Owner(Protocol):
    """Who has a session.

    Attributes:
        doomed: the reason, once the pod is known to go.
    """

    doomed: ForwardError | None

    def free(self, session: Carrier) -> None:
        """It can carry a connection."""

    def over(self, session: Carrier, error: ForwardError | None) -> None:
        """It has ended, by an error where there is one. Called once."""

    def gone(self, error: PodGoneError) -> None:
        """The node says that the pod is not there any more."""


class Session:
    """The session of one upgrade; a new one is free.

    Args:
        upgrade: a pipe that nobody reads yet.
        pod: the pod's name, for messages.
        owner: is told of what becomes of it.
    """

    def __init__(self, upgrade: Upgrade, pod: str, owner: Owner) -> None:
        self.port = 0  # leads to any
        self._upgrade = upgrade
        self._pod = pod
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._encoder = Encoder(zlib.Z_BEST_SPEED)
        self._decoder = Decoder()
        self._requests = itertools.count()
        self._next_stream = 1
        self._live: Stream | None = None
        self._streams: dict[int, Stream] = {}  # by both ids: the live one, and those in their last second
        self._check: Round | None = None
        self._check_timer: asyncio.TimerHandle | None = None
        self._free = True
        self._retired = False
        self.over = False
        self._queue: list[bytes] = []
        self._flushing = False  # at the end of this turn
        self._flush_timer: asyncio.TimerHandle | None = None
        self._pulse = Pulse(self._send_pings, self._dead)
        upgrade.start(self)

    @property
    def doomed(self) -> ForwardError | None:
        """See Owner."""
        return self._owner.doomed

    # Carrier

    @property
    def live(self) -> bool:
        return self._live is not None

    @property
    def draining(self) -> bool:
        return len(self._streams) > (2 if self._live is not None else 0)

    @property
    def suspect(self) -> bool:
        return self._pulse.overdue

    @property
    def returning(self) -> bool:
        """Whether it will most likely be free in a moment."""
        check = self._check
        return check is not None and not self._retired and time.perf_counter() - check.began < RETURN

    def open_channel(self, port: int, protocol: ChannelProtocol) -> Stream:
        assert self._free
        self._free = False
        stream = Stream(self, self._next_stream, f"{self._pod}:{port}", protocol)
        stream.port = port
        self._next_stream += 4
        self._live = stream
        self._streams[stream.error_id] = self._streams[stream.data_id] = stream
        headers = {"port": str(port), "requestid": str(next(self._requests))}
        self.queue(SynStream(stream.error_id, {"streamtype": "error", **headers}, fin=True))
        self.queue(SynStream(stream.data_id, {"streamtype": "data", **headers}))
        return stream

    async def ping(self) -> float:
        """The seconds to the pod's node and back. Raises LostError."""
        try:
            return await self._pulse.round().alive
        except asyncio.CancelledError:
            if self.over:
                raise LostError("the connection to the API server is gone", hop=self._pod) from None
            raise

    def retire(self) -> None:
        self._retired = True
        self._free = False
        if not self._streams and not self.over:
            self._flush()
            self._upgrade.close()
            self._end(None)

    def abort(self, error: ForwardError | None = None) -> None:
        self._upgrade.abort()
        self._end(error)

    # the streams' side

    def queue(self, frame: Frame) -> None:
        """Send `frame` with the next data, or by itself at the end of this turn of the loop."""
        self._queue.append(self._encoder.encode(frame))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def queue_at_leisure(self, frame: Frame) -> None:
        """Send a frame that nobody waits for with the next one that somebody does, or by itself a moment later."""
        self._queue.append(self._encoder.encode(frame))
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(LEISURE, self._flush_late)

    def send_data(self, stream: int, data: bytes) -> None:
        """Send data, and with it what is queued."""
        self._pulse.wrote()
        first, self._queue = self._queue, []
        view = memoryview(data)
        for at in range(0, len(data), LARGEST_DATA):
            piece = view[at : at + LARGEST_DATA]
            # Each by itself: a WebSocket's peer gathers a message before it looks at it.
            self._upgrade.write(*first, self._encoder.data_head(stream, len(piece)), piece)
            first = []

    def pause_reading(self) -> None:
        self._upgrade.pause_reading()
        self._pulse.pause()

    def resume_reading(self) -> None:
        self._upgrade.resume_reading()
        self._pulse.resume()

    def closed(self, stream: Stream) -> None:
        """Its client has closed; the stream goes on to its end by itself."""
        self._part(stream)

    def aborted(self, stream: Stream) -> None:
        """The stream is to end now."""
        self._forget(stream)
        if stream is not self._live:
            self.queue(RstStream(stream.data_id, STATUS_CANCEL))
            self._become_free()
        elif self._streams:  # others in their last second keep it
            self._live = None
            self.resume_reading()
            self.queue(RstStream(stream.data_id, STATUS_CANCEL))
            self.retire()
        else:
            self._live = None
            self.abort()

    def taken(self) -> bool:
        """Whether all that was sent on closed streams has been taken by the pod's side."""
        return self._check is None

    def ended(self, stream: Stream, error: ForwardError | None) -> None:
        """The stream has ended at the far side."""
        self._forget(stream)
        if self.over:
            return
        if isinstance(error, PodGoneError):
            self._owner.gone(error)
        if stream is self._live:
            stream.send_fin(self.queue_at_leisure)  # nothing is left half open there
            self._part(stream)
        else:
            self._become_free()
        if self._check is not None and self._check_timer is None:
            self._check_timer = self._loop.call_later(UNTAKEN, self._untaken)
        if self._retired:
            self.retire()

    # the upgrade's side

    def data_received(self, data: bytes, end: bool) -> None:
        self._pulse.heard()
        try:
            self._take(self._decoder.feed(data))
        except SpdyError as error:
            self.abort(LostError(f"the pod's node sent what is not SPDY/3.1: {error}", hop=self._pod))

    def chunk_received(self) -> None:
        if self._live is not None:
            self._live.flush()

    def pause_writing(self) -> None:
        if self._live is not None:
            self._live.pause_writing()

    def resume_writing(self) -> None:
        self._pulse.heard()
        if self._live is not None:
            self._live.resume_writing()

    def connection_lost(self, error: ForwardError) -> None:
        self._end(error)

    # its own

    def _take(self, frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, Data):
                if (stream := self._stream(frame.stream)) is not None:
                    stream.data(frame)
            elif isinstance(frame, RstStream):
                if (stream := self._stream(frame.stream)) is not None:
                    stream.reset(frame.stream)
            elif isinstance(frame, Ping) and frame.id % 2:
                self._pulse.answered(frame.id)
            elif isinstance(frame, Ping):
                self.queue(frame)  # the server's own: it is echoed at once (SPDY/3.1 draft, section 2.6.5)
            elif isinstance(frame, GoAway):
                self.retire()

    def _stream(self, number: int) -> Stream | None:
        """The stream of a frame; None where it has ended. Raises SpdyError for one that never was."""
        stream = self._streams.get(number)
        if stream is None and (number >= self._next_stream or not number % 2):
            raise SpdyError(f"stream {number} was never opened")
        return stream

    def _part(self, stream: Stream) -> None:
        """The live connection is nobody's any more."""
        self._live = None
        self.resume_reading()
        if stream.short:
            self._loop.call_soon(self._become_free)  # behind its FIN
        else:
            self._check = self._pulse.round(self._checked)

    def _checked(self) -> None:
        self._stop_check()
        self._become_free()

    def _untaken(self) -> None:
        self._stop_check()
        self.retire()

    def _stop_check(self) -> None:
        self._check = None
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None

    def _become_free(self) -> None:
        if self._free or self._retired or self.over or self._live is not None or self._check is not None:
            return
        if self.doomed is not None or self._next_stream > LARGEST_STREAM - 4:
            self.retire()
        elif len(self._streams) < 2 * _MOST_DRAINING:
            self._free = True
            self._owner.free(self)

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.error_id, None)
        self._streams.pop(stream.data_id, None)

    def _send_pings(self, ids: Sequence[int]) -> None:
        for number in ids:
            self.queue(Ping(number))

    def _flush_late(self) -> None:
        self._flush_timer = None
        self._flush()

    def _flush(self) -> None:
        self._flushing = False
        queued, self._queue = self._queue, []
        if queued:
            self._upgrade.write(*queued)

    def _dead(self) -> None:
        self.abort(LostError("the API server does not answer", hop=self._pod))

    def _end(self, error: ForwardError | None) -> None:
        if self.over:
            return
        self.over = True
        self._free = False
        self._pulse.stop()
        self._stop_check()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        broke = self.doomed or error or LostError("the connection to the API server was closed", hop=self._pod)
        for stream in {id(each): each for each in self._streams.values()}.values():
            stream.finish(broke)
        self._streams.clear()
        self._live = None
        self._owner.over(self, error)
