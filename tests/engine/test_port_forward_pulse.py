"""What silence means on an upgrade, and when it means nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from tests.peers.links import eventually
from tests.peers.pipe import begin
from xec_forward.engine.links.kubernetes import session as session_module
from xec_forward.engine.links.kubernetes.pulse import MISSED, Pulse
from xec_forward.errors import LostError


class Pulsing:
    def __init__(self, **options: float) -> None:
        self.sent: list[int] = []
        self.dead = asyncio.Event()
        self.pulse = Pulse(self._send, self.dead.set, interval=0.03, deadline=0.06, **options)  # type: ignore[arg-type]

    def _send(self, ids: Sequence[int]) -> None:
        self.sent += ids

    async def rounds(self, count: int) -> None:
        """Answer so many rounds."""
        for _ in range(count):
            await eventually(lambda: bool(self.sent))
            for number in self.sent:
                self.pulse.answered(number)
            self.sent.clear()


async def test_silence_is_death() -> None:
    peer = Pulsing()
    await peer.rounds(3)
    assert not peer.dead.is_set()
    async with asyncio.timeout(5):
        await peer.dead.wait()
    assert len(peer.sent) == 5 * MISSED, "it was asked again before it was given up"
    peer.pulse.stop()


async def test_answer_to_the_last_round_is_life() -> None:
    peer = Pulsing()
    for _ in range(3):
        await eventually(lambda: len(peer.sent) == 5 * MISSED)
        peer.pulse.answered(peer.sent[-1])
        peer.sent.clear()
    assert not peer.dead.is_set()
    peer.pulse.stop()


async def test_whatever_else_comes_or_leaves_is_life_too() -> None:
    peer = Pulsing()
    for _ in range(20):
        await asyncio.sleep(0.02)  # more often than a round takes, and in all longer than silence may last
        peer.pulse.heard()
    assert not peer.dead.is_set()
    assert not peer.pulse.overdue
    assert len(peer.sent) == 5 * MISSED, "PINGs go out all the same, and do not pile up"
    peer.pulse.stop()


async def test_silence_of_a_paused_upgrade_is_not() -> None:
    peer = Pulsing()
    peer.pulse.round()
    peer.pulse.pause()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await peer.dead.wait()
    peer.pulse.resume()
    await peer.rounds(2)
    assert not peer.dead.is_set()
    peer.pulse.stop()


async def test_silence_behind_an_upload_that_the_pod_does_not_read_is_not() -> None:
    peer = Pulsing()
    peer.pulse.wrote()
    peer.pulse.round()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await peer.dead.wait()
    assert peer.pulse.overdue
    assert len(peer.sent) == 5 * MISSED, "more would pile up behind the upload"
    await peer.rounds(1)
    await peer.rounds(1)
    async with asyncio.timeout(5):
        await peer.dead.wait()  # all was taken: silence means something again
    peer.pulse.stop()


async def test_answers_of_some_workers_are_life() -> None:
    peer = Pulsing()
    peer.pulse.wrote()
    for _ in range(20):
        await eventually(lambda: len(peer.sent) >= 5)
        peer.pulse.answered(peer.sent[1])
        peer.sent.clear()
    assert not peer.dead.is_set()
    assert len(peer.pulse._rounds) <= 5, "what is missing does not pile up"
    peer.pulse.stop()


async def test_upgrade_that_does_not_answer_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "Pulse", partial(Pulse, interval=0.02, deadline=0.05))
    _, wire, owner = begin("spdy-raw")
    wire.answers_pings = False
    await eventually(lambda: bool(owner.ended))
    assert isinstance(owner.ended[0], LostError)
    assert wire.aborted
