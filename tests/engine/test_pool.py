"""The pool of links, with links that only exist in memory: what it promises has nothing to do with SSH."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.peers.channels import Conversation
from xec_forward.engine.links.base import Channel, ChannelProtocol, HalfClose, Link, Opening, Unanswered
from xec_forward.engine.links.pool import Lease, Pool
from xec_forward.errors import ClosedError, ForwardError, LostError, RefusedError
from xec_forward.spec import Endpoint


class MemoryLink(Link):
    half_close = HalfClose.NOW
    route = ("somewhere",)

    def __init__(self, *, stuck: bool = False) -> None:
        self.lost: asyncio.Future[ForwardError] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        self._stuck = stuck

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        raise LostError("there are no channels here")

    async def round_trip(self) -> float:
        return 0.0

    async def close(self) -> None:
        if self._stuck:
            await asyncio.Event().wait()
        self.abort()

    def abort(self, reason: ForwardError | None = None) -> None:
        self.closed.set()
        if not self.lost.done():
            self.lost.set_result(reason or ClosedError("closed"))

    def break_(self) -> None:
        self.lost.set_result(LostError("gone"))


class Dialler:
    """Counts the dials and lets the test decide when and how each ends."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.dials = 0
        self.cancelled = 0
        self.links: list[MemoryLink] = []
        self.go = asyncio.Event()
        self.error: ForwardError | None = None
        self.script: Callable[[Opening], object] | None = None
        if at_once:
            self.go.set()

    async def __call__(self, opening: Opening) -> Link:
        self.dials += 1
        try:
            with opening.step("dial"):
                if self.script is not None:
                    await self.script(opening)  # type: ignore[misc]
                await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        self.links.append(MemoryLink())
        return self.links[-1]


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def settled(*tasks: asyncio.Task[Lease]) -> None:
    """The tasks have run up to where they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_two_who_want_the_same_link_share_one_dial_and_one_link() -> None:
    pool, dial = Pool(), Dialler()
    tasks = [asyncio.create_task(pool.acquire("key", dial, Conversation())) for _ in range(5)]
    await settled(*tasks)
    dial.go.set()
    leases = await asyncio.gather(*tasks)
    later = await pool.acquire("key", dial, Conversation())
    assert dial.dials == 1
    assert {lease.link for lease in [*leases, later]} == {dial.links[0]}
    for lease in [*leases, later]:
        assert not dial.links[0].closed.is_set()
        lease.release()
        lease.release()
    async with asyncio.timeout(5):
        await dial.links[0].closed.wait()


async def test_dial_under_way_starts_afresh_when_the_network_is_another_one() -> None:
    pool, dial = Pool(), Dialler()
    opening = Conversation()
    waits = asyncio.create_task(pool.acquire("key", dial, opening))
    await settled(waits)
    pool.dial_anew()
    await soon(lambda: dial.dials == 2)
    assert (dial.cancelled, waits.done()) == (1, False)
    assert opening.steps == ["dial", "dial"]
    dial.go.set()
    lease = await waits
    assert lease.link is dial.links[0]
    pool.dial_anew()  # nothing is under way
    await settled(waits)
    assert dial.dials == 2
    await pool.close()


async def test_dial_that_waits_for_a_person_is_not_started_afresh() -> None:
    pool, dial = Pool(), Dialler(at_once=True)
    answered = asyncio.Event()

    class Person(Conversation):
        async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
            await answered.wait()
            return "123456"

    async def login(opening: Opening) -> None:
        assert await opening.ask("password", prompt="Code: ") == "123456"

    dial.script = login
    waits = asyncio.create_task(pool.acquire("key", dial, Person(person=True)))
    await settled(waits)
    pool.dial_anew()
    await settled(waits)
    answered.set()
    await waits
    assert (dial.dials, dial.cancelled) == (1, 0)
    await pool.close()


async def test_waiter_that_leaves_as_the_dial_starts_afresh_ends_it() -> None:
    pool, dial = Pool(), Dialler()
    waits = asyncio.create_task(pool.acquire("key", dial, Conversation()))
    await settled(waits)
    pool.dial_anew()
    waits.cancel()
    await asyncio.wait([waits])
    await soon(lambda: dial.cancelled == dial.dials)
    assert not pool.links
    await pool.close()


async def test_other_keys_have_other_links() -> None:
    pool, dial = Pool(), Dialler(at_once=True)
    one, two = await pool.acquire("one", dial, Conversation()), await pool.acquire("two", dial, Conversation())
    assert one.link is not two.link
    await pool.close()


async def test_a_waiter_that_leaves_does_not_disturb_the_others() -> None:
    pool, dial = Pool(), Dialler()
    first = asyncio.create_task(pool.acquire("key", dial, Conversation()))
    second = asyncio.create_task(pool.acquire("key", dial, Conversation()))
    await settled(first, second)
    first.cancel()
    await asyncio.wait([first])
    dial.go.set()
    lease = await second
    assert (dial.dials, dial.cancelled) == (1, 0)
    lease.release()
    async with asyncio.timeout(5):
        await dial.links[0].closed.wait()


async def test_the_last_waiter_to_leave_cancels_the_dial() -> None:
    pool, dial = Pool(), Dialler()
    tasks = [asyncio.create_task(pool.acquire("key", dial, Conversation())) for _ in range(2)]
    await settled(*tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await soon(lambda: dial.cancelled == 1)
    dial.go.set()
    lease = await pool.acquire("key", dial, Conversation())
    assert dial.dials == 2
    lease.release()
    await pool.close()


async def test_a_waiter_cancelled_as_the_link_lands_gives_its_share_back() -> None:
    pool, dial = Pool(), Dialler()
    task = asyncio.create_task(pool.acquire("key", dial, Conversation()))
    await settled(task)
    dial.go.set()
    await soon(lambda: bool(dial.links))
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        (await task).release()
    async with asyncio.timeout(5):
        await dial.links[0].closed.wait()


async def test_each_waiter_of_a_failed_dial_gets_an_error_of_its_own() -> None:
    pool, dial = Pool(), Dialler()
    cause = Unanswered("nobody", person=True)
    dial.error = RefusedError("no", hop="bastion", hint="try later")
    dial.error.__cause__ = cause
    tasks = [asyncio.create_task(pool.acquire("key", dial, Conversation())) for _ in range(3)]
    await settled(*tasks)
    dial.go.set()
    await asyncio.wait(tasks)
    errors = [task.exception() for task in tasks]
    assert len({id(error) for error in errors}) == 3
    assert {str(error) for error in errors} == {"ECONNREFUSED bastion: no. try later"}
    assert all(error is not None and error.__cause__ is cause for error in errors)
    dial.error = None
    (await pool.acquire("key", dial, Conversation())).release()
    assert dial.dials == 2


async def test_a_lost_link_is_dialled_anew_and_closed_when_its_last_holder_lets_go() -> None:
    pool, dial = Pool(), Dialler(at_once=True)
    old = await pool.acquire("key", dial, Conversation())
    dial.links[0].break_()
    await asyncio.sleep(0)
    new = await pool.acquire("key", dial, Conversation())
    assert new.link is dial.links[1]
    assert not dial.links[0].closed.is_set()
    old.release()
    async with asyncio.timeout(5):
        await dial.links[0].closed.wait()
    assert not dial.links[1].closed.is_set()
    new.release()
    await pool.close()


async def test_a_link_lingers_and_is_taken_up_again() -> None:
    pool, dial = Pool(linger=0.2), Dialler(at_once=True)
    (await pool.acquire("key", dial, Conversation())).release()
    lease = await pool.acquire("key", dial, Conversation())
    assert dial.dials == 1
    lease.release()
    async with asyncio.timeout(5):
        await dial.links[0].closed.wait()
    (await pool.acquire("key", dial, Conversation())).release()
    assert dial.dials == 2
    await pool.close()


async def test_a_lingering_link_that_is_lost_is_closed_and_not_handed_out() -> None:
    pool, dial = Pool(linger=60), Dialler(at_once=True)
    (await pool.acquire("key", dial, Conversation())).release()
    dial.links[0].break_()
    async with asyncio.timeout(5):
        await dial.links[0].closed.wait()
    lease = await pool.acquire("key", dial, Conversation())
    assert lease.link is dial.links[1]
    await pool.close()


async def test_close_ends_links_and_dials_within_two_seconds_even_if_one_is_stuck() -> None:
    pool, waiting, dial = Pool(), Dialler(), Dialler(at_once=True)
    stuck: list[MemoryLink] = []

    async def dial_stuck(opening: Opening) -> Link:
        stuck.append(MemoryLink(stuck=True))
        return stuck[0]

    await pool.acquire("stuck", dial_stuck, Conversation())
    lease = await pool.acquire("fine", dial, Conversation())
    task = asyncio.create_task(pool.acquire("waiting", waiting, Conversation()))
    await settled(task)
    async with asyncio.timeout(2):
        await pool.close()
    assert stuck[0].closed.is_set()
    assert dial.links[0].closed.is_set()
    with pytest.raises(ClosedError):
        await task
    with pytest.raises(ClosedError):
        await pool.acquire("fine", dial, Conversation())
    lease.release()
    await pool.close()


async def test_a_question_goes_to_the_first_who_still_waits() -> None:
    pool, dial = Pool(), Dialler(at_once=True)
    answers: list[str] = []
    asked = asyncio.Event()

    class Slow(Conversation):
        async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
            asked.set()
            return await asyncio.Event().wait() and ""

    async def script(opening: Opening) -> None:
        answers.append(await opening.ask("password", prompt="Password: "))

    dial.script = script
    second = Conversation({"password": "second"}, person=True)
    one = asyncio.create_task(pool.acquire("key", dial, Slow()))
    await settled(one)
    two = asyncio.create_task(pool.acquire("key", dial, second))
    async with asyncio.timeout(5):
        await asked.wait()
    await settled(two)
    assert second.asked == []
    one.cancel()
    (await two).release()
    assert answers == ["second"]


async def test_a_question_one_cannot_answer_goes_to_the_next() -> None:
    pool, dial = Pool(), Dialler()
    answers: list[str] = []

    async def script(opening: Opening) -> None:
        await dial.go.wait()
        answers.append(await opening.ask("password", prompt="Password: "))

    dial.script = script
    alone, person = Conversation(), Conversation({"password": "hello"}, person=True)
    tasks = [asyncio.create_task(pool.acquire("key", dial, opening)) for opening in (alone, person)]
    await settled(*tasks)
    dial.go.set()
    for task in tasks:
        (await task).release()
    assert answers == ["hello"]
    assert len(alone.asked) == 1


async def test_one_who_joins_late_sees_the_step_in_progress() -> None:
    pool, dial = Pool(), Dialler()
    early, late = Conversation(), Conversation()
    one = asyncio.create_task(pool.acquire("key", dial, early))
    await settled(one)
    two = asyncio.create_task(pool.acquire("key", dial, late))
    await settled(two)
    assert early.steps == late.steps == ["dial"]
    dial.go.set()
    for task in (one, two):
        (await task).release()


async def test_what_a_dial_learned_lives_as_long_as_the_key_is_wanted() -> None:
    pool, dial = Pool(), Dialler(at_once=True)
    keep = pool.keep("key")
    lease = await pool.acquire("key", dial, Conversation())
    pool.memory("key").answers["password"] = "hunter2"
    assert "hunter2" not in repr(pool.memory("key"))
    hop = pool.keep("hop")
    pool.memory("hop").answers["password"] = "hop's"
    pool.memory("key").hold(hop)
    dial.links[0].break_()
    lease.release()
    assert pool.memory("key").answers == {"password": "hunter2"}
    assert pool.memory("hop").answers == {"password": "hop's"}
    keep.release()
    keep.release()
    assert pool.memory("key").answers == {}
    assert pool.memory("hop").answers == {}
