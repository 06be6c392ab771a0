"""One request and its answer. The reader thread delivers messages; the caller waits for them in its own way.

Both ways of waiting share `Call.take`, which says what a message means. A caller that gives up (KeyboardInterrupt,
a cancelled task) sends Cancel and waits briefly until the engine has put everything back.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from ..errors import EngineError, ForwardError
from ..model import Answer, Ask, Cancel, Changed, Done, Examined, Failed, Message, Report
from .sources import Sources
from .watcher import NobodyAnswers, Watcher

# How often a waiting caller's watcher ticks, seconds.
TICK = 0.1
# How long a caller that gave up waits for the engine to put things back, seconds.
PUT_BACK = 3.0


class Call(ABC):
    """Base of the two ways to wait.

    Args:
        number: the call's number.
        limit: seconds without a word from the engine after which it counts as stuck.
        send: sends a message to the engine.
    """

    def __init__(self, number: int, limit: float, send: Callable[[Message], None]) -> None:
        self.number = number
        self._limit = limit
        self._send = send
        self._end = time.monotonic() + limit

    @abstractmethod
    def deliver(self, message: Report | ForwardError) -> None:
        """Called on the reader thread."""

    def take(self, message: Report | ForwardError, watcher: Watcher) -> Done | Ask | None:
        """What a message means: the end (Done, or raises), a question to answer, or news."""
        self.extend()
        match message:
            case Done() | Ask():
                return message
            case Failed():
                raise message.fault.error()
            case Changed():
                watcher.progress(message.snapshot)
            case Examined():
                watcher.found(message.finding)
            case ForwardError():
                raise message
        return None

    def extend(self) -> None:
        """The engine is not silent, or had no reason to speak: its time begins anew."""
        self._end = time.monotonic() + self._limit

    def check_deadline(self) -> None:
        """Raises EngineError where the engine has been silent for too long."""
        if time.monotonic() > self._end:
            raise EngineError("the engine does not answer", hint="Restart the kernel, or end the engine process")

    def resolve(self, question: Ask, sources: Sources, watcher: Watcher) -> Answer:
        """Answer a question: a SOURCE by resolving it, anything else by asking a person."""
        answer = resolve(question, sources, watcher)
        self.extend()
        return answer


def resolve(question: Ask, sources: Sources, watcher: Watcher | None) -> Answer:
    """The answer to a question. Without a watcher there is no person to ask."""
    try:
        if question.source and not question.source.startswith("prompt"):
            return Answer(question.ask, sources.resolve(question.source))
        if watcher is None:
            raise NobodyAnswers("a person is needed to answer, and nobody is waiting")
        return Answer(question.ask, watcher.ask(question))
    except NobodyAnswers as error:
        return Answer(question.ask, None, str(error), person=True)
    except ForwardError as error:
        return Answer(question.ask, None, error.message)


class BlockingCall(Call):
    """Waited for by a thread; Ctrl-C cancels it."""

    def __init__(self, number: int, limit: float, send: Callable[[Message], None]) -> None:
        super().__init__(number, limit, send)
        self._messages: queue.SimpleQueue[Report | ForwardError] = queue.SimpleQueue()

    def deliver(self, message: Report | ForwardError) -> None:
        self._messages.put(message)

    def wait(self, sources: Sources, watcher: Watcher) -> Done:
        """Wait for the end. Raises the call's error, or KeyboardInterrupt once everything is put back."""
        try:
            while True:
                try:
                    message = self._messages.get(timeout=TICK)
                except queue.Empty:
                    watcher.tick()
                    self.check_deadline()
                    continue
                taken = self.take(message, watcher)
                if isinstance(taken, Done):
                    return taken
                if taken is not None:
                    self._send(self.resolve(taken, sources, watcher))
        except KeyboardInterrupt:
            self._cancel()
            raise

    def _cancel(self) -> None:
        with contextlib.suppress(EngineError):
            self._send(Cancel(self.number))
            end = time.monotonic() + PUT_BACK
            while (left := end - time.monotonic()) > 0:
                try:
                    if isinstance(self._messages.get(timeout=left), Done | Failed | ForwardError):
                        return
                except queue.Empty:
                    return


class AsyncCall(Call):
    """Waited for by a coroutine; cancelling its task cancels it."""

    def __init__(self, number: int, limit: float, send: Callable[[Message], None]) -> None:
        super().__init__(number, limit, send)
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[Report | ForwardError] = asyncio.Queue()

    def deliver(self, message: Report | ForwardError) -> None:
        # The loop may have been closed by a caller that left without waiting.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._messages.put_nowait, message)

    async def wait(self, sources: Sources, watcher: Watcher) -> Done:
        """Wait for the end. Raises the call's error, or CancelledError once everything is put back."""
        try:
            while True:
                try:
                    async with asyncio.timeout(TICK):
                        message = await self._messages.get()
                except TimeoutError:
                    watcher.tick()
                    self.check_deadline()
                    continue
                taken = self.take(message, watcher)
                if isinstance(taken, Done):
                    return taken
                if taken is None:
                    continue
                if taken.source and not taken.source.startswith("prompt"):
                    # A command or a keyring may take its time: not in the caller's loop.
                    answer = await asyncio.to_thread(self.resolve, taken, sources, watcher)
                else:
                    answer = self.resolve(taken, sources, watcher)
                self._send(answer)
        except asyncio.CancelledError:
            await self._cancel()
            raise

    async def _cancel(self) -> None:
        with contextlib.suppress(EngineError, TimeoutError):
            self._send(Cancel(self.number))
            async with asyncio.timeout(PUT_BACK):
                while not isinstance(await self._messages.get(), Done | Failed | ForwardError):
                    pass
