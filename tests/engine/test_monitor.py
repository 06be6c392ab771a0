"""What no socket tells (N3, S60): a jump of the clock, a changed address, a link that died in silence."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.engine.fake_link import FakeLink
from tests.peers import links, netns
from tests.peers.links import eventually
from tests.peers.sshd import Sshd
from xec_forward.engine import monitor
from xec_forward.engine.addresses import Addresses
from xec_forward.engine.links.base import Link
from xec_forward.engine.monitor import Monitor
from xec_forward.errors import LostError

HOUR = 3600.0


class Machine:
    """A wall clock that can be set, and what the monitor did about it."""

    def __init__(self, *links: Link) -> None:
        self.links = list(links)
        self.hurried = 0
        self.offset = 0.0

    def clock(self) -> float:
        return time.time() + self.offset

    def hurry(self) -> None:
        self.hurried += 1

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Machine]:
        watching = Monitor(lambda: [link for link in self.links if not link.lost.done()], self.hurry, self.clock)
        watching.start()
        await asyncio.sleep(0)  # it has looked at the clock
        try:
            yield self
        finally:
            await watching.close()


class Silent(FakeLink):
    """A link whose peer answers `answers` times, and then no more."""

    def __init__(self, answers: int = 0) -> None:
        super().__init__()
        self.answers = answers
        self.asked = 0

    async def round_trip(self) -> float:
        self.asked += 1
        if self.asked > self.answers:
            await asyncio.Event().wait()
        return 0.0


class Faulty(FakeLink):
    """A link that cannot be asked, by a fault of ours."""

    async def round_trip(self) -> float:
        raise RuntimeError("a fault")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor's times, shortened; their proportions stay."""
    for name, seconds in (("TICK", 0.05), ("INTERVAL", 0.2), ("PATIENCE", 0.1), ("PROBE", 0.2)):
        monkeypatch.setattr(monitor, name, seconds)


@pytest.fixture
async def link(bastion: Sshd, tmp_path: Path) -> AsyncIterator[Link]:
    """A real SSH link without keepalives."""
    async with links.linked(links.target(tmp_path / "ssh_config", server_alive_interval=0)) as linked:
        yield linked


async def reason(link: Link, seconds: float) -> str:
    async with asyncio.timeout(seconds):
        return str(await asyncio.shield(link.lost))


async def test_clock_that_jumps_has_a_dead_link_found_at_once(quick: None, bastion: Sshd, link: Link) -> None:
    async with Machine(link).watched() as machine:
        bastion.freeze()
        await asyncio.sleep(2 * monitor.TICK)
        assert not link.lost.done()
        machine.offset = HOUR
        assert "no sign of life after the machine slept" in await reason(link, 2)
        assert isinstance(link.lost.result(), LostError)
        assert machine.hurried == 1


async def test_clock_that_jumps_with_nothing_wrong_changes_nothing(bastion: Sshd, link: Link) -> None:
    async with Machine(link).watched() as machine:
        for jump in (HOUR, 2 * HOUR):  # forward
            before, machine.offset = machine.hurried, jump
            await eventually(lambda before=before: machine.hurried == before + 1)  # type: ignore[misc]
        assert await link.round_trip() < 1
        assert not link.lost.done()
        assert bastion.connections() == 1


async def test_clock_that_is_set_back_is_no_sleep(quick: None) -> None:
    async with Machine(Silent()).watched() as machine:
        machine.offset = -HOUR
        await asyncio.sleep(4 * monitor.TICK)
        assert machine.hurried == 0
        machine.offset = -HOUR + monitor.SLEPT + 1  # from where it is now
        await eventually(lambda: machine.hurried == 1)


async def test_clock_that_is_corrected_a_little_is_no_sleep(quick: None) -> None:
    async with Machine(Silent()).watched() as machine:
        machine.offset = monitor.SLEPT - 1
        await asyncio.sleep(4 * monitor.TICK)
        assert machine.hurried == 0


async def test_link_that_falls_silent_is_given_up_after_two_looks(
    bastion: Sshd, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "INTERVAL", 0.5)
    monkeypatch.setattr(monitor, "PATIENCE", 0.5)
    async with Machine(link).watched() as machine:
        await asyncio.sleep(3 * monitor.INTERVAL)
        assert not link.lost.done()
        bastion.freeze()
        start = time.monotonic()
        assert "no sign of life for" in await reason(link, 10)
        assert time.monotonic() - start > monitor.INTERVAL
        assert machine.hurried == 0


async def test_link_that_misses_one_look_and_answers_the_next_is_kept(quick: None) -> None:
    class Sleepy(Silent):
        async def round_trip(self) -> float:
            self.asked += 1
            if self.asked % 2:
                await asyncio.Event().wait()
            return 0.0

    sleepy = Sleepy()
    async with Machine(sleepy).watched():
        await eventually(lambda: sleepy.asked >= 7)
        assert not sleepy.lost.done()


async def test_silent_link_does_not_hide_another_and_a_fault_ends_no_watch(quick: None) -> None:
    faulty, good, silent = Faulty(), Silent(answers=1000), Silent()
    async with Machine(faulty, good, silent).watched():
        await reason(silent, 5)
        asked = good.asked
        await eventually(lambda: good.asked > asked)
        assert not good.lost.done()
        assert not faulty.lost.done()


async def test_watch_ends_when_it_is_closed() -> None:
    before = asyncio.all_tasks()
    async with Machine(FakeLink()).watched():
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks() - before) == 2
    assert asyncio.all_tasks() == before


async def test_address_that_comes_and_goes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if missing := netns.missing():
        pytest.skip(missing)
    changes: list[float] = []
    with Addresses(lambda: changes.append(time.monotonic())):
        with netns.Network():
            await eventually(lambda: bool(changes))
        count = len(changes)
        await eventually(lambda: len(changes) > count or count > 1)


WATCH = """
import asyncio, sys
from xec_forward.engine.addresses import Addresses

async def main():
    with Addresses(lambda: print("changed", flush=True)):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def test_same_address_announced_again_is_no_change() -> None:
    """A router's advertisements announce an address again and again. In a namespace, where nothing else changes."""
    if missing := netns.missing():
        pytest.skip(missing)
    with netns.Network() as network:

        def address(verb: str, name: str, *more: str) -> None:
            network.run("ip", "addr", verb, name, "dev", "lo", *more)

        command = ["ip", "netns", "exec", network.name, sys.executable, "-c", WATCH]
        address("add", "192.0.2.1/32")
        _wait_for_settled_addresses(network)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for seconds in ("900", "800", "700"):  # the first time it is news
                address("change", "192.0.2.1/32", "valid_lft", seconds, "preferred_lft", seconds)
            address("add", "192.0.2.2/32")
            address("change", "192.0.2.2/32", "valid_lft", "900", "preferred_lft", "900")
            address("del", "192.0.2.2/32")
            out, _ = process.communicate(timeout=15)
            assert out == "changed\n" * 3
        finally:
            process.kill()
            process.wait(5)


def _wait_for_settled_addresses(network: netns.Network) -> None:
    """An IPv6 address is announced when its duplicates have been looked for (RFC 4862 section 5.4)."""
    _until(lambda: not network.run("ip", "-6", "addr", "show", "tentative"))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.05)


def test_elsewhere_the_outer_address_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way without rtnetlink, on this system too."""
    from xec_forward.engine import addresses

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(addresses, "LOOK", 0.05)
    outer = "198.51.100.1"
    monkeypatch.setattr(addresses, "_outer_address", lambda: outer)

    async def look() -> None:
        nonlocal outer
        changes: list[str] = []
        with Addresses(lambda: changes.append(outer)):
            await asyncio.sleep(0.2)
            assert not changes
            outer = ""
            await eventually(lambda: changes == [""])
            outer = "198.51.100.2"
            await eventually(lambda: changes == ["", "198.51.100.2"])

    asyncio.run(look())
