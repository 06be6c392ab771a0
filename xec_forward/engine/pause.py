"""The pause between two tries: half a second at first, doubled up to 30 s, with jitter; short while somebody waits.

The jitter keeps many tunnels that lost the same host from knocking in step (AWS Architecture Blog, "Exponential
Backoff And Jitter").
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

FIRST = 0.5
LONGEST = 30.0
# The pause while a client waits.
EAGER = 0.25


class Pause:
    """Waits between tries. `hurry` ends a wait in progress; so does `stir`, where that makes it shorter.

    Args:
        waited_for: whether a client waits for the next try.
    """

    def __init__(self, waited_for: Callable[[], bool]) -> None:
        self._waited_for = waited_for
        self._stirred = asyncio.Event()
        self._hurried = False

    def stir(self) -> None:
        """A client has come, or something else has changed: look again."""
        self._stirred.set()

    def hurry(self) -> None:
        """The next try is to come at once: somebody asked for it, or the machine woke up."""
        self._hurried = True
        self._stirred.set()

    async def until_stirred(self) -> None:
        """Wait for the next `stir` or `hurry`."""
        await self._stirred.wait()
        self._stirred.clear()

    async def between(self, seconds: float) -> None:
        """Wait for about `seconds`, at most a quarter of a second while a client waits."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        end = start + seconds * random.uniform(0.7, 1.0)
        while loop.time() < end and not self._hurried:
            self._stirred.clear()
            if self._waited_for():
                end = min(end, start + EAGER)
            try:
                async with asyncio.timeout(max(0.0, end - loop.time())):
                    await self._stirred.wait()
            except TimeoutError:
                break
        self._hurried = False
