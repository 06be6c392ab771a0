"""The dials of a pool that are in progress, and those in a row that have failed.

Those side by side fail as one: what one of them met, the others met at the same moment.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from ....errors import ForwardError, LostError
from .upgrade import Upgrade


class Dial(Protocol):
    """Makes upgrades; see `dial.Dialler`."""

    async def __call__(self, port: int) -> Upgrade:
        """One upgrade, bound to `port` where it can only be a v4 one. Raises ForwardError."""

    async def reach(self) -> None:
        """Ask the pod's node for a sign of life. Raises ForwardError."""


class Owner(Protocol):
    """Who has the dials dialled. Each, unless it is cancelled, ends with one of the first two calls, and the third."""

    def dialled(self, upgrade: Upgrade) -> None:
        """Take an upgrade. Raises LostError where its connection has ended by then."""

    def dial_failed(self, error: ForwardError, *, counted: bool) -> None:
        """A dial failed; `counted` unless another one beside it was, or one has succeeded meanwhile."""

    def dial_over(self) -> None:
        """There is room for another."""


class Dials:
    """See above.

    Args:
        dial: makes upgrades.
        owner: told of what becomes of each.
        pod: the pod's name, for messages.

    Attributes:
        failures: how often in a row they have failed.
        trouble: why the last one failed; None since one has succeeded.
        distance: seconds that the quickest took, and so more than a round trip; 0 before there is one.
    """

    def __init__(self, dial: Dial, owner: Owner, pod: str) -> None:
        self.failures = 0
        self.trouble: ForwardError | None = None
        self.distance = 0.0
        self._dial = dial
        self._owner = owner
        self._pod = pod
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[None], int] = {}  # each with its port

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def ports(self) -> list[int]:
        """The ports of those in progress."""
        return list(self._tasks.values())

    def start(self, port: int) -> None:
        """Dial for a connection to `port`."""
        task = self._loop.create_task(self._one(port))
        self._tasks[task] = port
        task.add_done_callback(lambda task: self._tasks.pop(task, None))  # also where it never began

    def cancel(self) -> None:
        """End those in progress, but for the one that calls."""
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def wait(self) -> None:
        """Until none is in progress."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _one(self, port: int) -> None:
        failures = self.failures
        try:
            self._owner.dialled(await self._upgrade(port))
        except ForwardError as error:
            self._failed(error, failures)
        except Exception as error:
            self._failed(LostError(f"the port-forward failed: {type(error).__name__}", hop=self._pod), failures)
            raise  # a bug: to the loop's handler, and so to the log
        else:
            self.failures, self.trouble = 0, None
        self._owner.dial_over()

    async def _upgrade(self, port: int) -> Upgrade:
        task = asyncio.current_task()
        assert task is not None
        began = self._loop.time()
        try:
            upgrade = await self._dial(port)  # which has the deadlines of a request and of the login for it
        finally:
            del self._tasks[task]
        took = self._loop.time() - began
        self.distance = min(took, self.distance or took)
        return upgrade

    def _failed(self, error: ForwardError, failures: int) -> None:
        """A dial failed that began after so many."""
        self.trouble = error
        counted = failures == self.failures
        self.failures += counted
        self._owner.dial_failed(error, counted=counted)
