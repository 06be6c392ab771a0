"""The client's side of a control connection: hello, requests, and the reply that belongs to each."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from ....errors import LostError
from . import mux
from .control import Control


class Dialogue:
    """A control connection to a master.

    Args:
        sock: connected to the master.
        ended: called once when the master has closed it; not after `close`.

    Attributes:
        control: the connection underneath.
        failed: called with a failure that answers no request: the master takes back what it had granted.
    """

    def __init__(self, sock: socket.socket, ended: Callable[[], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[None] = self._loop.create_future()
        self._waiting: dict[int, Callable[[mux.Message | None], None]] = {}
        self._last = 0
        self.ended = ended
        self.failed: Callable[[mux.Failure], None] | None = None
        self.control = Control(sock, self._received, self._gone)
        self.control.send(mux.Hello())

    async def hello(self) -> None:
        """Wait for the master's hello. Raises MuxError or LostError."""
        await self._hello

    def ask(
        self, message: Callable[[int], mux.Message], replied: Callable[[mux.Message | None], None], *passed: int
    ) -> None:
        """Send a request; `replied` gets the reply, or None when the connection ended before."""
        self._last += 1
        self._waiting[self._last] = replied
        self.control.send(message(self._last), *passed)

    async def request(self, message: Callable[[int], mux.Message], *passed: int) -> mux.Message:
        """Send a request and wait for its reply. Raises LostError when the connection ends before."""
        reply: asyncio.Future[mux.Message | None] = self._loop.create_future()

        def replied(answer: mux.Message | None) -> None:
            if not reply.done():
                reply.set_result(answer)

        if self.control.closed:
            for one in passed:
                os.close(one)
            raise lost("")
        self.ask(message, replied, *passed)
        answer = await reply
        if answer is None:
            raise lost("")
        return answer

    def close(self) -> None:
        self.control.close()
        self._forget()

    def _received(self, message: mux.Message, passed: list[int]) -> None:
        for descriptor in passed:  # a master passes none
            os.close(descriptor)
        if isinstance(message, mux.Hello):
            if not self._hello.done():
                if message.version == mux.VERSION:
                    self._hello.set_result(None)
                else:
                    self._hello.set_exception(mux.MuxError(f"version {message.version} of the mux protocol"))
        elif isinstance(message, mux.ExitMessage | mux.TtyAllocationFailed):
            pass
        elif replied := self._waiting.pop(message.request, None):
            replied(message)
        elif isinstance(message, mux.Failure) and self.failed is not None:
            self.failed(message)

    def _gone(self) -> None:
        self._forget()
        if self.ended is not None:
            self.ended()

    def _forget(self) -> None:
        if not self._hello.done():
            self._hello.set_exception(lost("", "it ended before its hello"))
            self._hello.exception()
        waiting, self._waiting = self._waiting, {}
        for replied in waiting.values():
            replied(None)


def lost(host: str, why: str = "") -> LostError:
    """The link is gone."""
    return LostError(why or "the ssh master is gone", hop=host)
