"""The channel's side of a client: tells the client what the far end does, and the channel how the client ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..errors import DeadlineError, ForwardError, LostError
from .links.base import Channel, HalfClose

if TYPE_CHECKING:
    from .splice import Client

# A client whose end could not be passed on: seconds without a first byte of its answer, and without another one, until
# that is told. No longer silence says that the answer is whole, so the end is not passed on then either.
UNANSWERED = 5.0
STANDSTILL = 10.0


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
        self._near_ended = 0.0
        self._look: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self.answered = True
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
            self._near_ended = asyncio.get_running_loop().time()
            self._look_at_answer()
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

    def _look_at_answer(self) -> None:
        """Tell where it stands still. It may be a slow one; but where the service waits for the end of what it is sent,
        nothing else says so."""
        loop = asyncio.get_running_loop()
        limit = STANDSTILL if self.answered else UNANSWERED
        still = min(self.client.standstill(), loop.time() - self._near_ended)
        if still < limit:
            self._look = loop.call_later(limit - still, self._look_at_answer)
            return
        self._look = None
        if self.answered:
            message = f"a client has ended its side, and nothing more of its answer has come for {limit:g} s"
            hint = "That end cannot be passed on: a service that waits for it stays connected until the client closes"
        else:
            message = f"a client has ended its side, and no answer has begun within {limit:g} s"
            hint = "That end cannot be passed on before the answer: a service that answers only then never does"
        self.client.tell(DeadlineError(message, hint=hint))

    def _stop_waiting(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
