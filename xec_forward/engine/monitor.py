"""Notices what no socket tells: that the machine slept, that its address changed, that a link died in silence.

    slept      the wall clock went on while this process did not (suspended, or stopped)
    moved      the system's addresses changed: another network, a VPN that came or went (`addresses`)
    silent     every 30 s each link is asked for a sign of life; two in a row that do not come, and it counts as lost

After the first two every link is probed at once, tries that wait for their turn come at once, and those under way start
afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from ..errors import ForwardError, LostError
from .addresses import Addresses
from .links.base import Link

# How often the clocks are compared, and how much more than that must have passed for a sleep, seconds.
TICK = 1.0
SLEPT = 5.0
# How often links are asked for a sign of life, and how long it may take, seconds.
INTERVAL = 30.0
PATIENCE = 10.0
MISSES = 2
# The same after a sleep or a move, when a dead link is likely and somebody may be waiting.
PROBE = 4.0

logger = logging.getLogger(__name__)


class Monitor:
    """Watches the machine, and the links that live, from `start` to `close`.

    Args:
        links: those that live.
        hurry: told that every try is to come at once, and afresh.
        clock: the wall clock.
    """

    def __init__(
        self, links: Callable[[], list[Link]], hurry: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._links = links
        self._hurry = hurry
        self._clock = clock
        self._missed: dict[Link, int] = {}
        self._moved = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to watch."""
        loop = asyncio.get_running_loop()
        self._tasks = {loop.create_task(self._watch_machine()), loop.create_task(self._watch_links())}

    async def close(self) -> None:
        """End; idempotent."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)

    async def _watch_machine(self) -> None:
        with Addresses(self._moved.set):
            before = self._clock()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK):
                        await self._moved.wait()
                now = self._clock()
                slept, moved = now - before - TICK, self._moved.is_set()
                before = now
                self._moved.clear()
                if slept >= SLEPT:
                    logger.info("the machine slept for about %.0f s: every link is probed", slept)
                elif moved:
                    logger.info("the machine's addresses changed: every link is probed")
                else:
                    continue
                self._hurry()
                await self._probe("the machine slept" if slept >= SLEPT else "the machine's address changed")

    async def _probe(self, why: str) -> None:
        """Ask every link at once; those that do not answer soon are lost."""

        async def ask(link: Link) -> None:
            if not await _answers(link, PROBE):
                link.abort(LostError(f"no sign of life after {why}", hop=link.route[-1]))

        await asyncio.gather(*(ask(link) for link in self._links()))

    async def _watch_links(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            links = self._links()
            answers = await asyncio.gather(*(_answers(link, PATIENCE) for link in links))
            self._missed = {
                link: self._missed.get(link, 0) + 1 for link, good in zip(links, answers, strict=True) if not good
            }
            for link, missed in self._missed.items():
                if missed >= MISSES:
                    link.abort(LostError(f"no sign of life for {MISSES * INTERVAL:g} s", hop=link.route[-1]))


async def _answers(link: Link, patience: float) -> bool:
    """Whether a link gives a sign of life in time. One that is lost meanwhile needs no judgement."""
    try:
        async with asyncio.timeout(patience):
            await link.round_trip()
    except TimeoutError:
        return link.lost.done()
    except ForwardError as error:
        return link.lost.done() or not isinstance(error, LostError)
    except Exception:
        logger.exception("a link could not be asked for a sign of life")  # a fault of ours is no sign of death
    return True
