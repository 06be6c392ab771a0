"""One connection into the pod: a pair of SPDY streams on one side, `base.Channel` on the other.

Its end is judged from both streams (recorded from containerd 2.1 behind an API server 1.36):

    data FIN, error FIN, no text           ended in order, or the pod was deleted
    data FIN, error text, RST of error     refused, or one second after a reset by the service
    data FIN, error text, FIN of error     the same of containerd 1.6
    error text, RST of both                the pod's network is gone
    error text                             the node timed out
    RST                                    the node did not take the stream

So a FIN of the data stream alone says nothing yet: a service that died looks the same, until the text comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ....errors import ForwardError, LostError
from ....spdy import Data, Frame
from ..base import ChannelProtocol
from . import endings

if TYPE_CHECKING:
    from .session import Session

# Seconds from the end of one stream to the end of the other, which is milliseconds behind.
END_DEADLINE = 3.0
# Seconds from a text to the reset behind it; a node that timed out sends none.
TEXT_DEADLINE = 0.5
# Seconds that what was sent has to be taken by the pod once its sender has closed. After that it takes one.
DRAIN_DEADLINE = 60.0
# Bytes that may come for a client that has closed, once what it sent has been taken.
_MOST_DROPPED = 256 * 1024
# A short exchange: so few bytes were sent that any socket's buffer takes them, and so few came back that hardly more
# are on their way.
_SHORT_SENT = 4 * 1024
_SHORT_RECEIVED = 64 * 1024


class Stream:
    """An open connection.

    Args:
        session: what it runs on.
        number: the error stream's id; the data stream has the next.
        hop: the name of the far end in messages.
        protocol: receives what comes back.
    """

    def __init__(self, session: Session, number: int, hop: str, protocol: ChannelProtocol) -> None:
        self.error_id = number
        self.data_id = number + 2
        self.hop = hop
        self.port = 0
        self.closed = False  # our side sends no more and wants no more
        self._fin_sent = False
        self._session = session
        self._protocol: ChannelProtocol | None = protocol
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []
        self._text = bytearray()
        self._data_over = False
        self._error_over = False
        self._reset = False
        self._paused = False
        self._dropped = 0
        self._sent = 0
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def short(self) -> bool:
        """Whether nothing of it can be in another's way: the pod has answered, and little was said."""
        return 0 < self._received <= _SHORT_RECEIVED and self._sent <= _SHORT_SENT

    # base.Channel

    def write(self, data: bytes) -> None:
        if data and not self._fin_sent and self._protocol is not None:
            self._sent += len(data)
            self._session.send_data(self.data_id, data)

    def write_eof(self) -> None:
        if self._protocol is not None:
            self.send_fin(self._session.queue)

    def pause_reading(self) -> None:
        if not self._paused and not self.closed and self._protocol is not None:
            self._paused = True
            self._stop_timer()
            self._session.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._session.resume_reading()
            self._judge()

    def close(self) -> None:
        """See base.Channel. What still comes is dropped; `connection_lost` tells how it ended, a second later."""
        if self.closed or self._protocol is None:
            return
        self.send_fin(self._session.queue_at_leisure)
        self.closed = True
        self._paused = False
        self._gathered.clear()
        self._stop_timer()
        self._timer = self._loop.call_later(DRAIN_DEADLINE, self._undrained)
        self._session.closed(self)

    def abort(self) -> None:
        if self._protocol is None:
            return
        self._stop_timer()
        protocol, self._protocol = self._protocol, None
        self._gathered.clear()
        self._loop.call_soon(protocol.connection_lost, None)
        self._paused = False
        self.closed = True
        self._session.aborted(self)

    # the session's side

    def send_fin(self, queue: Callable[[Frame], None]) -> None:
        """Our side sends no more; idempotent."""
        if not self._fin_sent:
            self._fin_sent = True
            queue(Data(self.data_id, b"", fin=True))

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    def data(self, frame: Data) -> None:
        """A DATA frame of either stream, or a piece of one."""
        if frame.stream == self.data_id:
            self._received += len(frame.data)
            if self.closed:
                self._drop(len(frame.data))
            elif frame.data:  # a FIN has none
                self._gathered.append(frame.data)
            self._data_over |= frame.fin
        else:
            self._text += frame.data[: endings.LARGEST_TEXT - len(self._text)]
            self._error_over |= frame.fin
        if self._data_over or self._error_over or self._text:
            self._judge()

    def reset(self, stream: int) -> None:
        """A RST_STREAM of either stream."""
        self._reset = True
        if stream == self.data_id:
            self._data_over = True
        else:
            self._error_over = True
        self._judge()

    def flush(self) -> None:
        """Hand on what was gathered, in one piece."""
        gathered, self._gathered = self._gathered, []
        if gathered and self._protocol is not None:
            self._protocol.data_received(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def finish(self, error: ForwardError | None) -> None:
        """It has ended; idempotent."""
        if self._protocol is None:
            return
        self._stop_timer()
        self.flush()
        # What was delivered may have made its receiver abort.
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            self._session.ended(self, error)
            protocol.connection_lost(error)

    # the end

    def _judge(self) -> None:
        if self._protocol is None:
            return
        if self._error_over and (self._text or self._reset):
            self._finish_as_told()
        elif self._error_over and self._data_over:
            self.finish(self._session.doomed)
        elif self._text:
            self._wait(TEXT_DEADLINE)
        elif self._error_over or self._data_over:
            self._wait(END_DEADLINE)

    def _wait(self, seconds: float) -> None:
        if self._timer is None and not self._paused:
            self._timer = self._loop.call_later(seconds, self._finish_as_told)

    def _finish_as_told(self) -> None:
        """It broke; the text says why."""
        if self._text:
            self.finish(endings.explain(self._text.decode("utf-8", "replace"), self.port, self.hop))
        elif self._session.doomed is not None:
            self.finish(self._session.doomed)
        elif self._reset:
            self.finish(LostError("the pod's node reset the connection", hop=self.hop))
        else:
            self.finish(LostError("the connection ended, and the pod's node did not say how", hop=self.hop))

    def _drop(self, size: int) -> None:
        """Its client has closed, and the pod sends on. Let it, but not for ever: the next connection is behind it."""
        self._dropped += size
        if self._dropped > _MOST_DROPPED and self._protocol is not None and self._session.taken():
            self.abort()

    def _undrained(self) -> None:
        self.finish(LostError(f"the pod did not take what was sent in {DRAIN_DEADLINE:g} s", hop=self.hop))
        self._session.retire()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
