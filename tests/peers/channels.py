"""What tests put at our end of a link: a protocol that keeps what a channel brings, an opening that answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator, Mapping

from xec_forward.engine.links.base import Unanswered

DEADLINE = 20.0


class Recorder:
    """A ChannelProtocol that keeps (or only counts and digests) what comes back.

    Attributes:
        data: what came, unless `keep` is false; size and digest are kept in any case.
        events: the calls in order: data (once in a row), eof, lost.
        error: what connection_lost was given.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self.data = b""
        self.size = 0
        self.events: list[str] = []
        self.error: Exception | None = None
        self._keep = keep
        self._digest = hashlib.sha256()
        self._eof = asyncio.Event()
        self._lost = asyncio.Event()
        self._more = asyncio.Event()
        self.paused = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        if self.events[-1:] != ["data"]:
            self.events.append("data")
        self.size += len(data)
        self._digest.update(data)
        if self._keep:
            self.data += data
        self._more.set()

    def eof_received(self) -> None:
        self.events.append("eof")
        self._eof.set()

    def pause_writing(self) -> None:
        self.writable.clear()
        self.paused.set()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.events.append("lost")
        self.error = error
        self._lost.set()
        self._more.set()

    @property
    def digest(self) -> str:
        """The sha256 of all that came."""
        return self._digest.hexdigest()

    async def eof(self) -> None:
        """Wait for the end of what comes."""
        async with asyncio.timeout(DEADLINE):
            await self._eof.wait()

    async def lost(self) -> Exception | None:
        """Wait for the end of the channel; what connection_lost was given."""
        async with asyncio.timeout(DEADLINE):
            await self._lost.wait()
        return self.error

    async def at_least(self, size: int) -> None:
        """Wait until so many bytes have come."""
        async with asyncio.timeout(DEADLINE):
            while self.size < size and not self._lost.is_set():
                self._more.clear()
                await self._more.wait()


class Conversation:
    """An Opening that answers from a table and keeps what it was told and asked.

    Args:
        answers: by the SOURCE's reference, or by kind for questions to a person. A list is used up in order.
            What is not there is Unanswered.
        person: whether a person is there at all.
    """

    def __init__(self, answers: Mapping[str, str | list[str]] | None = None, *, person: bool = False) -> None:
        self.connect_within = self.remaining = float("inf")
        self.asked: list[tuple[str, str, str]] = []
        self.steps: list[str] = []
        self._answers = {
            name: [one] * 99 if isinstance(one, str) else list(one) for name, one in (answers or {}).items()
        }
        self._person = person

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.steps.append(name)
        yield

    async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
        self.asked.append((kind, source, prompt))
        if not source and not self._person:
            raise Unanswered("nobody is there to answer", person=True)
        answers = self._answers.get(source or kind)
        if not answers:
            raise Unanswered("there is no answer", person=not source)
        return answers.pop(0)
