"""An API server that is far away, silent, or refuses: what becomes of the upgrades to a pod, and what is said of it."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_relay import house
from tests.peers.channels import Conversation, Recorder
from tests.peers.distance import Distance
from tests.peers.links import eventually
from xec_forward.demo.cluster.kubeconfig import Context
from xec_forward.demo.cluster.streams import SpdySession
from xec_forward.engine import far as far_module
from xec_forward.engine.health import Probe
from xec_forward.engine.links import kubernetes
from xec_forward.engine.links.base import Link
from xec_forward.engine.links.kubernetes import api as api_module
from xec_forward.engine.links.kubernetes import cluster as cluster_module
from xec_forward.engine.links.kubernetes import link as link_module
from xec_forward.engine.links.kubernetes import plugin, pulse
from xec_forward.engine.links.kubernetes import session as session_module
from xec_forward.engine.links.kubernetes.api import Api
from xec_forward.engine.links.kubernetes.dial import Dialler
from xec_forward.engine.links.kubernetes.pulse import Pulse
from xec_forward.engine.links.kubernetes.session import Session
from xec_forward.engine.links.kubernetes.upgrade import Upgrade
from xec_forward.engine.links.kubernetes.warm import MOST, Warm
from xec_forward.engine.links.pool import Pool
from xec_forward.errors import DeadlineError, LimitError, LostError, RbacError, RefusedError
from xec_forward.options import ClusterTarget
from xec_forward.spdy import Frame, Ping
from xec_forward.spec import Endpoint, Resource

from .peer import NUMBERS, REFUSED, EmbeddedPeer
from .test_port_forward import full

# Of PINGs, instead of pulse's own; seconds.
INTERVAL, DEADLINE = 0.2, 0.15
ECHO, DEAF = NUMBERS["echo"], NUMBERS["deaf"]


@pytest.fixture
def far() -> Iterator[Callable[..., Distance]]:
    """Relays, ended with the test."""
    made: list[Distance] = []

    def relay(to: int, delay: float = 0.0) -> Distance:
        made.append(Distance(to, delay))
        return made[-1].__enter__()

    yield relay
    for each in made:
        each.__exit__(None, None, None)


@pytest.fixture
def distance(embedded: EmbeddedPeer, far: Callable[..., Distance]) -> Distance:
    """The way to the embedded API server, whose pod `web` runs the programs."""
    embedded.add_pod("web")
    return far(int(embedded.embedded.server.rpartition(":")[2]))


@pytest.fixture
def kubeconfig(embedded: EmbeddedPeer, distance: Distance, tmp_path: Path) -> Path:
    entry = {"server": f"https://127.0.0.1:{distance.port}"}
    return embedded.embedded.write_kubeconfig(tmp_path / "config", Context(cluster=entry))


@asynccontextmanager
async def warm_to(kubeconfig: Path, **options: float) -> AsyncIterator[Warm]:
    api = await Api.open(ClusterTarget(kubeconfig=str(kubeconfig)))
    warm = Warm(Dialler(api, "default", "web"), "web", **options)  # type: ignore[arg-type]
    try:
        yield warm
    finally:
        await warm.close()
        await api.close()


@asynccontextmanager
async def linked(kubeconfig: Path, port: int = ECHO) -> AsyncIterator[Link]:
    """The link to the pod `web`, as a tunnel has it."""
    target, pool, connect = ClusterTarget(kubeconfig=str(kubeconfig)), Pool(), Endpoint("pod/web", port)
    try:
        lease = await kubernetes.Way(target, Resource.of("pod/web"), connect, pool).acquire(Conversation())
        yield lease.link
        await lease.link.close()
    finally:
        await pool.close()


async def ask(warm: Warm, say: bytes = b"hello") -> tuple[Any, Recorder]:
    """A connection to `echo` that has answered."""
    client = Recorder()
    channel = await warm.open_channel(ECHO, client)
    channel.write(say)
    await client.at_least(len(say))
    assert client.data == say, client.error
    return channel, client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life are asked for sooner, and sooner again."""
    monkeypatch.setattr(session_module, "Pulse", partial(Pulse, interval=INTERVAL, deadline=DEADLINE))


def sessions(warm: Warm) -> list[Session]:
    return [each for each in warm._sessions if isinstance(each, Session)]


class Counted:
    """Counts the dials of a pool that did not begin together.

    Attributes:
        rounds: how many times some began.
    """

    def __init__(self, warm: Warm) -> None:
        self.rounds = 0
        self._dial = warm.dials._dial
        self._last = 0.0
        warm.dials._dial = self

    async def __call__(self, port: int) -> Upgrade:
        if time.monotonic() - self._last > 0.05:
            self.rounds += 1
        self._last = time.monotonic()
        return await self._dial(port)

    async def reach(self) -> None:
        await self._dial.reach()


async def stalled_upload(warm: Warm) -> Recorder:
    """An upload that the pod does not read, for so long that its upgrade has given no sign of life for a round."""
    client = Recorder()
    channel = await warm.open_channel(DEAF, client)
    while not client.paused.is_set():
        channel.write(bytes(65536))
        await asyncio.sleep(0)
    await eventually(lambda: any(each.suspect for each in sessions(warm)))
    return client


# ---- signs of life


async def test_refusal_of_another_connection_leaves_a_stalled_upload_alone(
    embedded: EmbeddedPeer, kubeconfig: Path, quick: None
) -> None:
    async with warm_to(kubeconfig, spare=0) as warm:
        upload = await stalled_upload(warm)
        embedded.embedded.deny("create", "pods/portforward")
        with pytest.raises(RbacError):
            await warm.open_channel(ECHO, Recorder())
        embedded.embedded.allow("create", "pods/portforward")
        await ask(warm)
        assert upload.events == []


async def test_dial_that_reaches_nobody_ends_what_gives_no_sign_of_life_and_nothing_else(
    distance: Distance, kubeconfig: Path, quick: None
) -> None:
    async with warm_to(kubeconfig, spare=0) as warm:
        channel, client = await ask(warm)
        upload = await stalled_upload(warm)
        distance.shut()
        late = asyncio.ensure_future(warm.open_channel(ECHO, Recorder()))
        assert isinstance(await upload.lost(), LostError)
        channel.write(b" again")
        await client.at_least(11)
        assert client.data == b"hello again"
        assert not late.done()
        late.cancel()


async def test_who_comes_while_nobody_is_reached_waits_for_as_long_as_something_lives(
    distance: Distance, kubeconfig: Path
) -> None:
    """And the API server is asked about once a second, however many come."""
    async with warm_to(kubeconfig, spare=0) as warm:
        channel, client = await ask(warm)
        dials = Counted(warm)
        distance.shut()
        late = []
        for _ in range(20):  # in many rounds; longer than what an answer that is a refusal may be tried again
            late += [asyncio.ensure_future(ask(warm, b"late")) for _ in range(5)]
            await asyncio.sleep(0.15)
        assert not any(each.done() for each in late)
        assert isinstance(warm.dials.trouble, RefusedError)
        assert dials.rounds <= 6
        distance.open()
        async with asyncio.timeout(15):
            answers = await asyncio.gather(*late)
        assert [each.data for _, each in answers] == [b"late"] * 100
        channel.write(b" again")
        await client.at_least(11)
        assert (client.data, warm.dials.trouble) == (b"hello again", None)


async def test_who_is_alone_while_nobody_is_reached_needs_not_wait_for_a_pause_that_nobody_waited_in(
    distance: Distance, kubeconfig: Path
) -> None:
    async with warm_to(kubeconfig, spare=1) as warm:
        await ask(warm)
        distance.shut()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                while True:
                    await ask(warm)
        await eventually(lambda: warm.dials.failures > 3)
        distance.open()
        async with asyncio.timeout(1.5):
            await ask(warm)


async def test_spare_upgrades_that_are_refused_are_asked_for_more_and_more_seldom(
    embedded: EmbeddedPeer, kubeconfig: Path
) -> None:
    """As where a permission was taken away under a connection that lives; who comes is told so at once."""
    async with warm_to(kubeconfig, spare=2) as warm:
        await ask(warm)
        await eventually(lambda: warm.sizes == (3, 2, 0))
        embedded.embedded.deny("create", "pods/portforward")
        dials = Counted(warm)
        await ask(warm)
        await eventually(lambda: warm.dials.failures > 3, 15)
        assert dials.rounds <= 4
        began = time.monotonic()
        with pytest.raises(RbacError):
            while True:  # those that were warm take some
                await ask(warm)
        assert time.monotonic() - began < 1


async def test_one_that_is_served_by_a_connection_that_ends_needs_no_dial(distance: Distance, kubeconfig: Path) -> None:
    async with warm_to(kubeconfig, spare=0) as warm:
        channel, _ = await ask(warm)
        distance.shut()
        late = asyncio.ensure_future(ask(warm, b"late"))
        await eventually(lambda: warm.dials.trouble is not None)
        channel.close()
        async with asyncio.timeout(5):
            await late


async def test_standstill_of_a_round_or_two_costs_no_connection(
    distance: Distance, kubeconfig: Path, quick: None
) -> None:
    async with warm_to(kubeconfig, spare=1) as warm:
        channel, client = await ask(warm)
        await eventually(lambda: warm.sizes == (2, 1, 0))
        distance.still = True
        await eventually(lambda: all(each.suspect for each in sessions(warm)))
        distance.still = False
        await eventually(lambda: not any(each.suspect for each in sessions(warm)))
        channel.write(b" again")
        await client.at_least(11)
        assert (client.data, warm.sizes) == (b"hello again", (2, 1, 0))


async def test_api_server_that_is_gone_without_a_word_is_noticed_within_the_documented_time(
    distance: Distance, kubeconfig: Path, quick: None
) -> None:
    assert pulse.INTERVAL + pulse.MISSED * pulse.DEADLINE == 45, "docs/design.md says so"
    async with warm_to(kubeconfig, spare=1) as warm:
        _, client = await ask(warm)
        # What was sent has been taken, so that nothing explains the silence.
        await eventually(lambda: all(each._pulse._taken == each._pulse._sent for each in sessions(warm)))
        distance.still = True
        began = time.monotonic()
        assert isinstance(await client.lost(), LostError)
        took = time.monotonic() - began
        assert (pulse.MISSED - 1) * DEADLINE < took < INTERVAL + pulse.MISSED * DEADLINE + 0.5


async def test_idle_upgrade_is_pinged_every_ten_to_twenty_seconds_all_the_way_to_the_pods_node(
    kubeconfig: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where containerd has its end, at the shortened interval."""
    assert 10 <= pulse.INTERVAL <= 20
    came: dict[SpdySession, list[float]] = {}
    take = SpdySession._take

    async def count(self: SpdySession, frame: Frame) -> None:
        if isinstance(frame, Ping):
            came.setdefault(self, []).append(time.monotonic())
        await take(self, frame)

    monkeypatch.setattr(SpdySession, "_take", count)
    async with warm_to(kubeconfig, spare=1) as warm:
        await ask(warm)
        await eventually(lambda: len(came) == 2 and all(len(times) >= 4 * 5 for times in came.values()))
    for times in came.values():
        rounds = times[::5]
        assert 0.9 * INTERVAL < (rounds[3] - rounds[0]) / 3 < 1.5 * INTERVAL


async def test_connection_with_a_question_under_way_is_given_up_once_a_dial_has_reached_nobody(
    distance: Distance, kubeconfig: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence alone may be the pod's, which has not read what was sent; that of the idle ones makes us dial."""
    async with warm_to(kubeconfig, spare=1) as warm:
        channel, client = await ask(warm)
        await eventually(lambda: warm.sizes == (2, 1, 0))
        await eventually(lambda: all(each._pulse._taken == each._pulse._sent for each in sessions(warm)))
        monkeypatch.setattr(api_module, "DEADLINE", 0.3)
        distance.still = True
        channel.write(b"again")
        began = time.monotonic()
        assert isinstance(await client.lost(), LostError)
        assert time.monotonic() - began < INTERVAL + pulse.MISSED * DEADLINE + 0.1 + 0.3 + 0.5


# ---- what is said


async def test_silent_api_server_is_what_is_named(
    distance: Distance, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "DEADLINE", 0.3)
    async with warm_to(kubeconfig) as warm:
        distance.still = True
        for asked in (warm.ping(), warm.open_channel(ECHO, Recorder())):
            with pytest.raises(DeadlineError, match="no answer from the API server"):
                await asked


async def test_look_at_the_port_of_a_link_that_is_lost_for_it_hears_the_reason(
    distance: Distance, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client waits for the next link; an opening has none to wait for."""
    monkeypatch.setattr(api_module, "DEADLINE", 0.3)
    async with linked(kubeconfig) as link, Probe(Endpoint("pod/web", ECHO)) as probe:
        distance.still = True
        with pytest.raises(DeadlineError, match="no answer from the API server"):
            await probe.open(link)


async def test_silent_api_server_is_what_a_connection_of_the_link_hears(
    distance: Distance, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where others live, for whose sake it is tried again."""
    async with linked(kubeconfig) as link:
        client = Recorder()
        channel = await link.open_channel(Endpoint("pod/web", ECHO), client)
        channel.write(b"hello")
        await client.at_least(5)
        monkeypatch.setattr(api_module, "DEADLINE", 0.2)
        monkeypatch.setattr(link_module, "CHANNEL_DEADLINE", 0.7)
        distance.still = True
        with pytest.raises(DeadlineError, match="no answer from the API server") as caught:
            while True:  # those that were warm take some
                await link.open_channel(Endpoint("pod/web", ECHO), Recorder())
        assert "VPN" in caught.value.hint


async def test_hanging_plugin_is_what_is_named(
    embedded: EmbeddedPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.add_pod("web")
    program, hangs, runs = tmp_path / "give-token", tmp_path / "hangs", tmp_path / "runs"
    status = f'{{"token": "{embedded.embedded.token}", "expirationTimestamp": "2020-01-01T00:00:00Z"}}'
    answer = f'{{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {status}}}'
    program.write_text(f"#!/bin/sh\necho run >>{runs}\n[ -e {hangs} ] && exec sleep 60\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o700)
    entry = {"exec": {"command": str(program), "apiVersion": "client.authentication.k8s.io/v1"}}
    config = embedded.embedded.write_kubeconfig(tmp_path / "config", Context(auth=entry))
    async with warm_to(config) as warm:
        monkeypatch.setattr(plugin, "DEADLINE", 0.5)
        hangs.touch()
        runs.unlink()
        with pytest.raises(DeadlineError, match="the plugin give-token did not answer"):
            await warm.ping()
        outcomes = await asyncio.gather(
            *(warm.open_channel(ECHO, Recorder()) for _ in range(5)), return_exceptions=True
        )
        assert {str(each) for each in outcomes} == {str(outcomes[0])}
        assert "the plugin give-token did not answer within 0.5 s" in str(outcomes[0])
        assert runs.read_text().count("run") == 2, "whoever waits for the plugin shares its failure too"


async def test_first_login_may_take_as_long_as_the_opening_and_a_renewal_no_longer_than_its_own_time(
    embedded: EmbeddedPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a login in a browser, with a second factor."""
    embedded.add_pod("web")
    program = tmp_path / "login"
    token = embedded.embedded.new_token("ana")
    status = f'{{"token": "{token}"}}'
    answer = f'{{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {status}}}'
    program.write_text(f"#!/bin/sh\nsleep 1\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o700)
    entry = {"exec": {"command": str(program), "apiVersion": "client.authentication.k8s.io/v1"}}
    config = embedded.embedded.write_kubeconfig(tmp_path / "config", Context(auth=entry))
    monkeypatch.setattr(plugin, "DEADLINE", 0.5)
    pool, opening = Pool(), Conversation()
    opening.remaining = 10
    try:
        lease = await cluster_module.acquire(ClusterTarget(kubeconfig=str(config)), opening, pool)
        embedded.embedded.expire_token(token)
        with pytest.raises(DeadlineError, match=r"the plugin login did not answer within 0\.5 s"):
            await cluster_module.api_of(lease.link, "default").get("/version")
        lease.release()
    finally:
        await pool.close()


async def test_client_that_waits_for_a_service_which_waits_for_its_end_is_told_of(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No port-forward brings that end to the pod before the answer. Where an answer has begun, there is no trouble."""
    monkeypatch.setattr(far_module, "UNANSWERED", 0.3)
    reply, source = (Endpoint("pod/web", NUMBERS[name]) for name in ("reply", "source"))
    async with linked(kubeconfig) as link, house() as front:
        front.relay.attach(link)
        for connect, say, heard in ((source, b"10\n", 10), (reply, b"12345", 0)):
            front.relay.connect = connect
            client = await front.connect()
            await asyncio.get_running_loop().sock_sendall(client, say)
            client.shutdown(socket.SHUT_WR)
            if heard:
                assert await asyncio.get_running_loop().sock_recv(client, 100)
        await eventually(lambda: bool(front.failures))
        (error,) = front.failures
        assert isinstance(error, DeadlineError)
        assert "a client has ended its side, and no answer has begun within 0.3 s" in str(error)
        assert "a service that answers only then never does" in error.hint
        assert front.relay.refused == 0
        client.close()
        await eventually(lambda: not front.relay.clients)


async def test_client_that_has_its_answer_and_waits_for_an_end_is_told_of(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `echo PING | nc -N`: nobody knows whether it is the whole answer, so no end of file says that it is."""
    monkeypatch.setattr(far_module, "STANDSTILL", 0.3)
    async with linked(kubeconfig) as link, house() as front:
        front.relay.attach(link)
        front.relay.connect = Endpoint("pod/web", ECHO)
        client, loop = await front.connect(), asyncio.get_running_loop()
        await loop.sock_sendall(client, b"PING")
        client.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(client, 100) == b"PING"
        await eventually(lambda: bool(front.failures))
        (error,) = front.failures
        assert "a client has ended its side, and nothing more of its answer has come for 0.3 s" in str(error)
        assert "until the client closes" in error.hint
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.close()
        await eventually(lambda: not front.relay.clients)


async def test_refused_port_is_refused_also_where_the_way_is_long(
    embedded: EmbeddedPeer, far: Callable[..., Distance], tmp_path: Path
) -> None:
    """A round trip of 0.3 s: the refusal comes later than from a node next door."""
    embedded.add_pod("web")
    entry = {"server": f"https://127.0.0.1:{far(int(embedded.embedded.server.rpartition(':')[2]), 0.15).port}"}
    config = embedded.embedded.write_kubeconfig(tmp_path / "config", Context(cluster=entry))
    async with linked(config, REFUSED) as link, Probe(Endpoint("pod/web", REFUSED)) as probe:
        with pytest.raises(RefusedError, match="nothing listens on port 9"):
            await probe.open(link)


# ---- how many


async def test_hundreds_are_carried_at_once(kubeconfig: Path) -> None:
    count = full(1000, 130)
    async with warm_to(kubeconfig) as warm:
        clients = [client for _, client in await asyncio.gather(*(ask(warm, b"%d" % each) for each in range(count)))]
        assert warm.sizes[0] >= count
        assert [client.events for client in clients] == [["data"]] * count


async def test_one_too_many_is_told_so_at_once(kubeconfig: Path) -> None:
    assert MOST == 4000, "docs/surface.md says so"
    async with warm_to(kubeconfig, most=3, spare=1) as warm:
        first, _ = await ask(warm)
        for _ in range(2):
            await ask(warm)
        with pytest.raises(LimitError, match="3 connections to the pod already"):
            await warm.open_channel(ECHO, Recorder())
        first.close()
        async with asyncio.timeout(5):
            await ask(warm)


async def test_system_that_allows_no_more_open_files_is_what_is_named(kubeconfig: Path) -> None:
    async with warm_to(kubeconfig, spare=0) as warm:
        channel, client = await ask(warm)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            with pytest.raises(LimitError, match="the system allows no more open files"):
                await warm.open_channel(ECHO, Recorder())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        channel.write(b" again")
        await client.at_least(11)
        await ask(warm)
