"""A dial in progress, and those who wait for it: its steps are shown to each, its questions put to one by one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, TypeVar

from .base import Dial, Link, Opening, Unanswered

T = TypeVar("T")


class Waiter:
    """One caller of `acquire` while the dial is in progress."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.steps: dict[str, AbstractContextManager[None]] = {}

    def enter(self, name: str) -> None:
        step = self.steps[name] = self.opening.step(name)
        step.__enter__()

    def exit(self, name: str, error: BaseException | None) -> None:
        step = self.steps.pop(name, None)
        if step is not None:
            with contextlib.suppress(BaseException):  # a step passes the error on; so do we, once
                step.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


class Flight(Generic[T]):
    """The dial. It is the `Opening` that the dial sees.

    Attributes:
        waiters: who waits for it, the first one first.
        landed: what all of them get.
        task: what sees it through.
    """

    def __init__(self, dial: Dial) -> None:
        self.waiters: list[Waiter] = []
        self.landed: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self._dial = dial
        self._try: asyncio.Task[Link] | None = None
        self._superseded = False
        self._steps: list[str] = []
        self._asked = False  # a person: what they answered may be good for one try only

    async def link(self) -> Link:
        """Dial, and dial again where a try is given up for a fresh one. Raises what the dial raises."""
        while True:
            self._superseded = False
            self._try = asyncio.ensure_future(self._dial(self))
            try:
                return await self._try
            except asyncio.CancelledError:
                ours = asyncio.current_task()
                if not self._superseded or (ours is not None and ours.cancelling()):
                    raise

    def anew(self) -> None:
        """Give up the try under way for a fresh one, unless a person has a part in it."""
        if self._try is not None and not self._asked and not self._try.done():
            self._superseded = True
            self._try.cancel()

    def join(self, opening: Opening) -> Waiter:
        """One more waits, and is shown the steps that are under way."""
        waiter = Waiter(opening)
        self.waiters.append(waiter)
        for name in self._steps:
            waiter.enter(name)
        return waiter

    def leave(self, waiter: Waiter, error: BaseException | None = None) -> None:
        """One does not wait any more."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            for name in reversed(list(waiter.steps)):
                waiter.exit(name, error)
            if not waiter.left.done():
                waiter.left.set_result(None)

    # base.Opening

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._steps.append(name)
        for waiter in self.waiters:
            waiter.enter(name)
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._steps.remove(name)
            for waiter in self.waiters:
                waiter.exit(name, error)

    def wait_for(self, what: str, hint: str = "") -> None:
        for waiter in self.waiters:
            waiter.opening.wait_for(what, hint)

    @property
    def connect_within(self) -> float:
        """The patience of the most patient who waits."""
        return max((waiter.opening.connect_within for waiter in self.waiters), default=float("inf"))

    @property
    def remaining(self) -> float:
        """Until the last one gives up."""
        return max((waiter.opening.remaining for waiter in self.waiters), default=float("inf"))

    async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
        self._asked = self._asked or not source
        asked: set[Waiter] = set()
        refusal = Unanswered("nobody waits for the answer any more", person=True)
        while waiter := next((one for one in self.waiters if one not in asked), None):
            asked.add(waiter)
            question: asyncio.Future[str] = asyncio.ensure_future(
                waiter.opening.ask(kind, source=source, prompt=prompt, echo=echo)
            )
            try:
                either: list[asyncio.Future[Any]] = [question, waiter.left]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if question.done() and not question.cancelled():
                    return question.result()
            except Unanswered as caught:
                refusal = caught
            finally:
                if not question.done():
                    question.cancel()
                    await asyncio.wait({question}, timeout=1)
        raise refusal
