"""What an opening in progress shows and asks: the engine's side of `links.base.Opening`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from ..errors import DeadlineError
from ..model import Step

# How long a connection may take to come about when another try follows, seconds.
CONNECT_AGAIN = 5.0

# call, kind, source, prompt, echo -> the answer; raises links.base.Unanswered
Asker = Callable[[int, str, str, str, bool], Awaitable[str]]


class CallOpening:
    """The opening that one call waits for (call 0: a reconnection that nobody waits for).

    Implements links.base.Opening. Its deadline, if it has one, stands still while a question is out: a person
    who looks for a passphrase is not a slow network.

    Args:
        changed: called whenever a step begins or ends.
    """

    def __init__(self, call: int, asker: Asker, changed: Callable[[], None]) -> None:
        self.call = call
        self.connect_within = CONNECT_AGAIN if not call else float("inf")
        self.steps: list[Step] = []
        self.step_since = 0.0
        self.waiting = self.waiting_hint = ""
        self._asker = asker
        self._changed = changed
        self._deadline: asyncio.Timeout | None = None

    @property
    def current(self) -> str:
        """The name of the step in progress, or ""."""
        return next((step.name for step in reversed(self.steps) if step.seconds is None), "")

    @property
    def failed(self) -> str:
        """The name of the step that an opening which came to nothing was in, or ""."""
        return self.current or next((step.name for step in reversed(self.steps)), "")

    def restart(self) -> None:
        """Another try begins: its steps are the ones to show."""
        self.steps.clear()
        self.waiting = self.waiting_hint = ""

    def wait_for(self, what: str, hint: str = "") -> None:
        """See links.base.Opening."""
        if what != self.waiting:
            self.waiting, self.waiting_hint = what, hint
            self._changed()

    def late(self, seconds: float, hop: str) -> DeadlineError:
        """The error of an opening that took too long: what it waited for, else the step it was in."""
        if self.waiting:
            return DeadlineError(f"not ready within {seconds:g} s: {self.waiting}", hop=hop, hint=self.waiting_hint)
        hint = "--timeout S allows more time"
        step = self.failed or "start"
        return DeadlineError(f"no answer within {seconds:g} s, in the step {step}", hop=hop, hint=hint)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a part of the opening."""
        start = time.monotonic()
        self.step_since = time.time()
        step = Step(name)
        self.steps.append(step)
        self._changed()
        outcome = "failed"
        try:
            yield
            outcome = "ok"
        finally:
            ended = Step(name, round(time.monotonic() - start, 4), outcome)
            self.steps[:] = [ended if each is step else each for each in self.steps]
            self._changed()

    def remark(self, outcome: str) -> None:
        """Say of the last step what was seen in it."""
        self.steps[-1] = Step(self.steps[-1].name, self.steps[-1].seconds, outcome)

    @property
    def remaining(self) -> float:
        """See links.base.Opening."""
        when = self._deadline.when() if self._deadline is not None else None
        return max(0.0, when - asyncio.get_running_loop().time()) if when is not None else float("inf")

    def limit(self, deadline: asyncio.Timeout) -> None:
        """Name the deadline that stands still while a question is out."""
        self._deadline = deadline

    async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
        """See links.base.Opening."""
        loop = asyncio.get_running_loop()
        deadline, asked = self._deadline, loop.time()
        when = deadline.when() if deadline is not None else None
        if deadline is not None and when is not None:
            deadline.reschedule(None)
        try:
            return await self._asker(self.call, kind, source, prompt, echo)
        finally:
            if deadline is not None and when is not None:
                deadline.reschedule(when + loop.time() - asked)
