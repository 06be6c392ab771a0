"""A channel that begins anew where its pod had gone before it took anything.

Between a pod's end and the moment we hear of it, a channel can still be opened to the pod that was: it ends with
"network namespace ... is closed" (`PodGoneError`), and nothing that was sent has reached anybody. So as long as nothing
has come back, what was written is kept (up to a limit), and written again to a channel to the pod that follows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ....errors import ForwardError, LostError, PodGoneError
from ..base import Channel, ChannelProtocol

# How much is kept, bytes; who has sent more than this has been heard by somebody.
KEPT = 256 * 1024
# How often one connection begins anew: with the pauses before a pod whose sandbox is made anew (`leading`), for 7 s.
TRIES = 8

logger = logging.getLogger(__name__)

# Opens a channel to the pod that is chosen now.
Reopen = Callable[[ChannelProtocol], Awaitable[Channel]]


class Attempt:
    """A channel towards the relay, and the protocol of the channel to the pod behind it.

    Args:
        protocol: the relay's side.
        reopen: opens another channel.
        held: told when this channel has ended for good.
    """

    def __init__(self, protocol: ChannelProtocol, reopen: Reopen, held: Callable[[Attempt], None]) -> None:
        self._protocol = protocol
        self._reopen = reopen
        self._held = held
        self._channel: Channel | None = None
        self._kept: list[bytes] | None = []
        self._size = 0
        self._eof = self._closed = self._paused = self._writing_paused = False
        self._tries = 0
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the first channel. Raises what `reopen` raises."""
        self._channel = await self._reopen(self)

    # ---- towards the relay: links.base.Channel ----

    def write(self, data: bytes) -> None:
        if self._kept is not None:
            self._kept.append(data)
            self._size += len(data)
            if self._size > KEPT:
                self._kept = None
        if self._channel is not None:
            self._channel.write(data)

    def write_eof(self) -> None:
        self._eof = True
        if self._channel is not None:
            self._channel.write_eof()

    def pause_reading(self) -> None:
        self._paused = True
        if self._channel is not None:
            self._channel.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._channel is not None:
            self._channel.resume_reading()

    def close(self) -> None:
        self._closed = True
        if self._channel is not None:
            self._channel.close()

    def abort(self) -> None:
        self._end()
        if self._channel is not None:
            self._channel.abort()

    # ---- towards the pod: links.base.ChannelProtocol ----

    def data_received(self, data: bytes) -> None:
        self._kept = None
        self._protocol.data_received(data)

    def eof_received(self) -> None:
        self._kept = None
        self._protocol.eof_received()

    def pause_writing(self) -> None:
        if not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._writing_paused:
            self._writing_paused = False
            self._protocol.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._channel = None
        again = isinstance(error, PodGoneError) and self._kept is not None and self._tries < TRIES
        if again and not self._closed:
            self._tries += 1
            self._task = asyncio.get_running_loop().create_task(self._again())
        else:
            self._end()
            self._protocol.connection_lost(error)

    # ---- again ----

    async def _again(self) -> None:
        logger.info("the pod had gone before it took a connection: it goes to the next one")
        try:
            channel = await self._reopen(self)
        except (ForwardError, TimeoutError) as error:
            self._end()
            self._protocol.connection_lost(error if isinstance(error, ForwardError) else LostError(str(error)))
            return
        self._channel = channel
        if self._paused:
            channel.pause_reading()
        for data in self._kept or ():
            channel.write(data)
        self.resume_writing()
        if self._closed:
            channel.close()
        elif self._eof:
            channel.write_eof()

    def _end(self) -> None:
        """Nothing more will be tried."""
        self._kept = None
        self._held(self)
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
