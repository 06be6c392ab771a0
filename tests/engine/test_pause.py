"""The pauses between tries (S51), on a clock that jumps: doubled to 30 s, with jitter, short while a client waits."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.engine.fake_link import FakeLink
from xec_forward.engine.house import House
from xec_forward.engine.links.base import Link, Opening
from xec_forward.engine.links.pool import Pool
from xec_forward.engine.links.way import Direct
from xec_forward.engine.listener import Binder
from xec_forward.engine.pause import EAGER, FIRST, LONGEST, Pause
from xec_forward.engine.tunnel import Tunnel
from xec_forward.errors import LostError, RefusedError
from xec_forward.model import Open
from xec_forward.options import SshTarget, TunnelOptions
from xec_forward.spec import Endpoint, Forward, Kind

DEADLINE = 10.0
# A pause lasts between these parts of what it is called.
LEAST, MOST = 0.7, 1.0


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Does not wait: the time is later at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._end = time.monotonic() + DEADLINE

    def select(self, timeout: float | None = None) -> Any:
        assert time.monotonic() < self._end, "the deadline passed"
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


class Clock(asyncio.SelectorEventLoop):
    """An event loop on which nobody waits: where nothing else is to be done, its clock jumps to the next timer."""

    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


def on_clock(main: Callable[[Clock], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Clock)

        async def run() -> None:
            await main(loop)

        runner.run(run())


def test_pause_has_jitter_and_is_never_longer_than_it_is_called() -> None:
    async def main(clock: Clock) -> None:
        pause, lengths = Pause(lambda: False), []
        for _ in range(300):
            start = clock.time()
            await pause.between(LONGEST)
            lengths.append(clock.time() - start)
        assert min(lengths) >= LEAST * LONGEST
        assert max(lengths) <= MOST * LONGEST + 0.001
        spread = (MOST - LEAST) * LONGEST
        assert min(lengths) < LEAST * LONGEST + 0.1 * spread
        assert max(lengths) > MOST * LONGEST - 0.1 * spread
        assert len({round(length, 3) for length in lengths}) > 200  # two tunnels do not knock in step

    on_clock(main)


@pytest.mark.parametrize("comes", [0.0, 5.0], ids=["there from the start", "comes meanwhile"])
def test_pause_is_short_for_a_client(comes: float) -> None:
    async def main(clock: Clock) -> None:
        waits = False
        pause = Pause(lambda: waits)

        def come() -> None:
            nonlocal waits
            waits = True
            pause.stir()

        clock.call_later(comes, come)
        await pause.between(LONGEST)
        assert comes <= clock.time() <= comes + EAGER + 0.001

    on_clock(main)


def test_pause_ends_at_once_when_it_is_hurried_and_the_next_one_does_not() -> None:
    async def main(clock: Clock) -> None:
        pause = Pause(lambda: False)
        clock.call_later(3.0, pause.hurry)
        await pause.between(LONGEST)
        assert clock.time() == pytest.approx(3.0, abs=0.001)
        await pause.between(LONGEST)
        assert clock.time() >= 3.0 + LEAST * LONGEST

    on_clock(main)


class Bastion:
    """What is dialled: it is there or not; keeps when each try came, and the links that were had."""

    def __init__(self, clock: Clock) -> None:
        self.there = True
        self.tries: list[float] = []
        self.links: list[FakeLink] = []
        self._clock = clock

    async def dial(self, opening: Opening) -> Link:
        self.tries.append(self._clock.time())
        if not self.there:
            raise RefusedError("nobody listens")
        self.links.append(FakeLink())
        return self.links[-1]


def tunnel_to(bastion: Bastion) -> Tunnel:
    async def nobody(*_: object) -> str:
        raise AssertionError("there is nothing to ask")

    binder = Binder(lambda port: "", lambda port: None)
    pool = Pool()
    house = House(
        pool=pool,
        binder=binder,
        asker=nobody,
        report=lambda changed: None,
        route=lambda request, own=False: Direct("bastion", bastion.dial, pool),
        bound=lambda: None,
        expired=lambda tunnel: None,
        log="",
    )
    forward = Forward(Kind.LOCAL, Endpoint("127.0.0.1", 0), Endpoint("far", 1))
    return Tunnel(Open(1, 1, "pg", forward, TunnelOptions(no_check=True), SshTarget("bastion")), house)


def test_tries_come_ever_more_rarely_up_to_thirty_seconds_and_often_again_after_a_link() -> None:
    async def main(clock: Clock) -> None:
        bastion = Bastion(clock)
        tunnel = tunnel_to(bastion)
        await tunnel.opened
        for wanted in (12, 4):
            bastion.there = False
            bastion.tries.clear()
            links = len(bastion.links)
            bastion.links[-1].lose(LostError("gone"))
            while len(bastion.tries) <= wanted:
                await asyncio.sleep(0.01)
            gaps = [after - before for before, after in zip(bastion.tries, bastion.tries[1:], strict=False)]
            for number, gap in enumerate(gaps):
                called = min(FIRST * 2**number, LONGEST)
                assert LEAST * called <= gap <= MOST * called + 0.05, (number, gaps)
            bastion.there = True
            while len(bastion.links) == links:
                await asyncio.sleep(0.01)
        await tunnel.close()

    on_clock(main)
