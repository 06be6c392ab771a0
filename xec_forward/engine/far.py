"""The channel's side of a client: tells the client what the far end does, and the channel how the client ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..errors import DeadlineError, ForwardError, LostError
from .links.base import Channel, HalfClose

if TYPE_CHECKING:
    from .splice import Client

# Seconds without a first byte for a client whose end could not be passed on, until that is told.
UNANSWERED = 5.0


class Far:
    """The channel's side of a client: implements links.base.ChannelProtocol."""

    channel: Channel

    def __init__(self, client: Client, half_close: HalfClose) -> None:
        self.client = client
        self._half_close = half_close
        self._ended = False
        self._lost = False
        self.answered = False
        self.paused = False
        self._unanswered: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self.answered = True
        self._stop_waiting()
        self.client.deliver(data)

    def eof_received(self) -> None:
        self._ended = True
        self._stop_waiting()
        if self._half_close is not HalfClose.NOW and self.client.near_eof:
            self.channel.write_eof()
        self.client.far_ended()

    def pause_writing(self) -> None:
        self.paused = True
        self.client.pause_reading()

    def resume_writing(self) -> None:
        self.paused = False
        self.client.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._stop_waiting()
        if error is None:
            self.client.finish()
        else:
            if not self.answered and isinstance(error, ForwardError) and not isinstance(error, LostError):
                self.client.not_served(error)
            self.client.reset(
                error if isinstance(error, ForwardError) else LostError(str(error) or "the link was lost")
            )

    def leave(self) -> None:
        """The client is gone for good: the far side gets what was sent, and its answer is nobody's any more."""
        self._lost = True
        self._stop_waiting()
        self.channel.close()

    def near_ended(self) -> None:
        """The client half-closed its side."""
        if self._half_close is HalfClose.NOW or (self._ended and self._half_close is HalfClose.DEFERRED):
            self.channel.write_eof()
        elif self._half_close is HalfClose.DEFERRED:
            if not self.answered:
                self._unanswered = asyncio.get_running_loop().call_later(UNANSWERED, self._tell_unanswered)
            self.client.pass_end_when_gone()
        if self._ended:
            self.client.finish()

    def near_lost(self) -> None:
        """The client's transport is gone."""
        self._stop_waiting()
        if self._lost:
            return
        if self._ended and self.client.near_eof:
            self.channel.close()
        else:
            self.channel.abort()

    def _tell_unanswered(self) -> None:
        """It may be a slow answer; but where the service waits for the end of what it is sent, nothing else says so."""
        self._unanswered = None
        hint = "That end cannot be passed on before the answer: a service that answers only then never does"
        message = f"a client has ended its side, and no answer has begun within {UNANSWERED:g} s"
        self.client.tell(DeadlineError(message, hint=hint))

    def _stop_waiting(self) -> None:
        if self._unanswered is not None:
            self._unanswered.cancel()
            self._unanswered = None
