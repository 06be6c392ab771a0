"""The pool of upgrades to one pod, against an API server like the real one, and services that misbehave."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.peers.channels import Recorder
from tests.peers.links import eventually
from tests.peers.services import Services
from xec_forward.demo.cluster import Cluster, Pod
from xec_forward.engine.links.base import Channel
from xec_forward.engine.links.kubernetes.api import Api
from xec_forward.engine.links.kubernetes.dial import Dialler
from xec_forward.engine.links.kubernetes.upgrade import Upgrade
from xec_forward.engine.links.kubernetes.warm import Warm
from xec_forward.errors import (
    ClosedError,
    ForwardError,
    LimitError,
    LostError,
    PodGoneError,
    RbacError,
    RefusedError,
)
from xec_forward.options import ClusterTarget

ECHO, SOURCE, RESET, NOBODY = 7000, 7001, 7002, 9
PROTOCOLS = ["spdy-tunnel", "spdy-raw", "v4"]


@pytest.fixture
def pod(cluster: Cluster, services: Services) -> Pod:
    ports = {
        ECHO: services.echo,
        SOURCE: services.source,
        RESET: services.reset,
    }
    return cluster.add_pod("web-1", serves={port: ("127.0.0.1", real) for port, real in ports.items()})


@asynccontextmanager
async def warm_to(cluster: Cluster, **options: float) -> AsyncIterator[Warm]:
    """The pool; nothing of it is left at the end."""
    api = await Api.open(ClusterTarget(kubeconfig=str(cluster.kubeconfig)))
    warm = Warm(Dialler(api, "default", "web-1"), "web-1", **options)  # type: ignore[arg-type]
    before = asyncio.all_tasks()
    try:
        yield warm
    finally:
        await warm.close()
        await api.close()
    assert warm.sizes == (0, 0, 0)
    assert isinstance(warm.lost.result(), ForwardError)
    await eventually(lambda: asyncio.all_tasks() <= before)
    await eventually(lambda: cluster.upgrades.live == 0)


@asynccontextmanager
async def serving(
    pod: Pod, port: int, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[None]:
    """A service of the test's own behind a port of the pod."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pod.serve(port, ("127.0.0.1", server.sockets[0].getsockname()[1]))
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


async def ask(warm: Warm, say: bytes = b"hello", port: int = ECHO) -> tuple[Channel, Recorder]:
    """A connection that has answered as much as it was told."""
    client = Recorder()
    async with asyncio.timeout(15):
        channel = await warm.open_channel(port, client)
    channel.write(say)
    await client.at_least(len(say))
    assert client.data == say, client.error
    return channel, client


# ---- protocols ----


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_connection_over_each_protocol(cluster: Cluster, pod: Pod, services: Services, protocol: str) -> None:
    cluster.protocols = {protocol}
    async with warm_to(cluster) as warm:
        channel, client = await ask(warm, b"x" * 300_000)
        channel.close()
        assert await client.lost() is None
        client = Recorder()
        channel = await warm.open_channel(SOURCE, client)
        channel.write(b"3000000\n")
        assert await client.lost() is None
        assert client.size == 3_000_000
        refused = Recorder()
        await warm.open_channel(NOBODY, refused)
        assert isinstance(await refused.lost(), RefusedError)
        reset = Recorder()
        (await warm.open_channel(RESET, reset)).write(b"x")
        assert isinstance(await reset.lost(), LostError)
        assert 0 < await warm.ping() < 5
        assert not warm.lost.done()
    assert set(cluster.upgraded) == {protocol}


async def test_old_server_is_not_asked_for_an_upgrade_for_each_connection(pod: Pod, cluster: Cluster) -> None:
    """It has v4 as well, and would take that where it was offered beside the tunnel."""
    cluster.protocols = {"v4", "spdy-raw"}
    async with warm_to(cluster) as warm:
        for _ in range(6):
            channel, client = await ask(warm)
            channel.close()
            await client.lost()
    assert set(cluster.upgraded) == {"spdy-raw"}
    assert len(cluster.upgraded) < 6
    asked = [line for line in cluster.requests if "portforward" in line]
    assert sum(line.startswith("GET") for line in asked) == 1, "what worked is tried first"


async def test_who_may_only_get_from_an_old_server_gets_there_by_v4(pod: Pod, cluster: Cluster) -> None:
    cluster.protocols = {"v4", "spdy-raw"}
    cluster.state.checks_create = False  # as before 1.35
    cluster.deny("create", "pods/portforward")
    async with warm_to(cluster) as warm:
        await ask(warm)
    assert cluster.upgraded == ["v4"]


async def test_server_that_takes_v4_alone_gets_no_connection_too_many(pod: Pod, cluster: Cluster) -> None:
    cluster.protocols = {"v4"}
    async with warm_to(cluster) as warm:
        for _ in range(3):
            channel, client = await ask(warm)
            channel.close()
            await client.lost()
        assert warm.sizes == (0, 0, 0)
    assert cluster.upgraded == ["v4"] * 3, "nothing is dialled that the service would see"


async def test_tunnel_comes_first_and_leads_to_any_port(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster, spare=1) as warm:
        channel, client = await ask(warm)
        channel.close()
        await client.lost()
        refused = Recorder()
        await warm.open_channel(NOBODY, refused)
        await refused.lost()
    assert set(cluster.upgraded) == {"spdy-tunnel"}


async def test_who_may_only_create_gets_there_by_post(pod: Pod, cluster: Cluster) -> None:
    cluster.deny("get", "pods/portforward")
    async with warm_to(cluster) as warm:
        await ask(warm)
        await eventually(lambda: warm.sizes == (3, 2, 0))
    assert set(cluster.upgraded) == {"spdy-raw"}
    asked = [line for line in cluster.requests if "portforward" in line]
    assert sum(line.startswith("GET") for line in asked) == 1, "what worked is tried first"


async def test_who_may_neither_is_told_what_is_missing(pod: Pod, cluster: Cluster) -> None:
    cluster.deny("get", "pods/portforward")
    cluster.deny("create", "pods/portforward")
    async with warm_to(cluster) as warm:
        with pytest.raises(RbacError, match="portforward"):
            await warm.open_channel(ECHO, Recorder())
        assert isinstance(warm.lost.result(), RbacError)


async def test_server_that_offers_nothing_ends_in_an_error(pod: Pod, cluster: Cluster) -> None:
    cluster.protocols = set()
    async with warm_to(cluster) as warm:
        with pytest.raises(ForwardError):
            await warm.open_channel(ECHO, Recorder())
        assert warm.lost.done()


# ---- the pool ----


async def test_few_stay_warm_and_one_write_opens_a_connection(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster) as warm:
        channel, _ = await ask(warm)
        channel.close()
        await eventually(lambda: warm.sizes[1:] == (3, 0) or warm.sizes[1:] == (2, 0))
        upgrades = cluster.upgrades.total
        opening = warm.open_channel(ECHO, Recorder())
        with pytest.raises(StopIteration) as returned:  # it does not even wait once
            opening.send(None)
        returned.value.value.abort()
        assert cluster.upgrades.total == upgrades


async def test_upgrades_are_used_again_before_the_last_second_has_passed(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster) as warm:
        began = asyncio.get_running_loop().time()
        clients = []
        for number in range(200):
            channel, client = await ask(warm, b"number %d" % number)
            channel.close()
            clients.append(client)
        assert asyncio.get_running_loop().time() - began < 15
        assert cluster.upgrades.total < 20
        assert [await client.lost() for client in clients] == [None] * 200
        assert [client.data for client in clients] == [b"number %d" % number for number in range(200)]
        await eventually(lambda: pod.connections == 0)


async def test_fifty_at_once_byte_for_byte(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster) as warm:

        async def one(number: int) -> None:
            payload = hashlib.sha256(b"%d" % number).digest() * 3000
            channel, client = await ask(warm, payload)
            channel.close()
            assert await client.lost() is None
            assert client.data == payload

        async with asyncio.timeout(60):
            await asyncio.gather(*[one(number) for number in range(50)])
        assert cluster.upgrades.peak <= 100


async def test_stalled_connections_hold_up_nobody(pod: Pod, cluster: Cluster) -> None:
    size, wake, whole = 0, asyncio.Event(), asyncio.Event()

    async def sleeper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal size
        await wake.wait()
        while data := await reader.read(65536):
            size += len(data)
        writer.close()
        whole.set()

    async with serving(pod, 7100, sleeper), warm_to(cluster) as warm:
        upload, download = Recorder(), Recorder()
        channel = await warm.open_channel(7100, upload)
        sent = 0
        while not upload.paused.is_set():
            channel.write(b"x" * 65536)
            sent += 65536
            await asyncio.sleep(0)
        stalled = await warm.open_channel(SOURCE, download)
        stalled.write(b"400000000\n")
        await download.at_least(1)
        stalled.pause_reading()
        for _ in range(20):
            echo, _ = await ask(warm)
            echo.close()
        assert upload.events == []
        assert download.events == ["data"]
        already = download.size
        stalled.resume_reading()
        await download.at_least(already + 1_000_000)
        stalled.abort()
        wake.set()
        channel.close()
        async with asyncio.timeout(20):
            await whole.wait()
        assert size == sent
        assert await upload.lost() is None


async def test_connection_at_the_cap_takes_the_place_of_one_that_ends_or_is_told_so(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster, most=2, spare=0) as warm:
        first, _ = await ask(warm, b"x" * 100_000)  # no short exchange: its upgrade is free after a round of PINGs
        await ask(warm)
        with pytest.raises(LimitError):
            await ask(warm)
        first.close()
        third = asyncio.ensure_future(ask(warm, b"third"))
        await asyncio.sleep(0)
        with pytest.raises(LimitError):
            await ask(warm)
        third.cancel()  # leaves its turn to the next
        await asyncio.wait([third])
        await ask(warm, b"fourth")
        assert cluster.upgrades.total == 2


async def test_cancelled_opening_leaves_nothing(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster) as warm:
        for turns in range(60):
            opening = asyncio.ensure_future(warm.open_channel(ECHO, Recorder()))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not opening.cancel():
                (await opening).abort()
            else:
                await asyncio.wait([opening])
        await eventually(lambda: warm.sizes[2] == 0 and warm.sizes[0] == warm.sizes[1])
        assert not warm.carries
        await eventually(lambda: pod.connections == 0)


async def test_what_a_burst_left_over_is_given_up(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster, idle=0.3) as warm:
        channels = [channel for channel, _ in await asyncio.gather(*[ask(warm) for _ in range(12)])]
        for channel in channels:
            channel.close()
        await eventually(lambda: warm.sizes[0] >= 12)
        await eventually(lambda: warm.sizes == (2, 2, 0))
        await eventually(lambda: cluster.upgrades.live == 2)


@pytest.mark.parametrize("protocol", ["spdy-tunnel", "spdy-raw"])
async def test_upload_arrives_whole_though_its_client_has_closed(pod: Pod, cluster: Cluster, protocol: str) -> None:
    cluster.protocols = {protocol}
    got, whole = hashlib.sha256(), asyncio.Event()
    size = 0

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal size
        while data := await reader.read(65536):
            got.update(data)
            size += len(data)
        writer.close()
        whole.set()

    async with serving(pod, 7100, swallow), warm_to(cluster) as warm:
        client = Recorder()
        channel = await warm.open_channel(7100, client)
        upload = bytes(range(256)) * 4000
        for _ in range(10):
            channel.write(upload)
        channel.close()
        for _ in range(10):  # others follow on the same upgrade
            echo, _ = await ask(warm)
            echo.close()
        async with asyncio.timeout(20):
            await whole.wait()
        assert size == 10 * len(upload)
        assert got.digest() == hashlib.sha256(upload * 10).digest()
        assert await client.lost() is None


async def test_ping_is_answered_also_where_all_are_in_use(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster, most=1) as warm:
        await ask(warm)
        assert warm.sizes == (1, 0, 0)
        assert 0 < await warm.ping() < 5
        assert warm.sizes == (1, 0, 0)


async def test_bug_in_a_dial_is_an_error_of_ours_to_who_waits_and_is_logged() -> None:
    class Broken:
        async def __call__(self, port: int) -> Upgrade:
            raise TypeError("a bug")

        async def reach(self) -> None:
            pass

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    warm = Warm(Broken(), "web-1")
    with pytest.raises(LostError, match="web-1: the port-forward failed: TypeError"):
        await warm.open_channel(ECHO, Recorder())
    assert warm.lost.done()
    await warm.close()

    def logged() -> bool:
        gc.collect()  # a task tells when nobody can ask for its exception any more
        return [str(context["exception"]) for context in told] == ["a bug"]

    await eventually(logged)


# ---- the end ----


async def test_api_server_that_dies_loses_pool_and_connections(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster) as warm:
        _, client = await ask(warm)
        await asyncio.to_thread(cluster.stop_server)
        assert isinstance(await client.lost(), LostError)
        async with asyncio.timeout(10):
            error = await warm.lost
        assert isinstance(error, RefusedError | LostError)
        with pytest.raises(type(error)):
            await warm.open_channel(ECHO, Recorder())


async def test_deleted_pod_is_told_by_the_next_connection(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster) as warm:
        await ask(warm)
        pod.delete()
        await asyncio.to_thread(pod.wait_gone)
        client = Recorder()
        await warm.open_channel(ECHO, client)
        assert isinstance(await client.lost(), PodGoneError)
        assert isinstance(await warm.lost, PodGoneError)
        with pytest.raises(PodGoneError):
            await warm.open_channel(ECHO, Recorder())


async def test_pod_that_is_not_there_is_gone(cluster: Cluster) -> None:
    async with warm_to(cluster) as warm:
        with pytest.raises(PodGoneError):
            await warm.open_channel(ECHO, Recorder())
        assert isinstance(warm.lost.result(), PodGoneError)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_doomed_pod_ends_no_connection_cleanly(pod: Pod, cluster: Cluster, protocol: str) -> None:
    cluster.protocols = {protocol}
    async with warm_to(cluster) as warm:
        _, client = await ask(warm)
        warm.doom(PodGoneError("the pod is going"))
        with pytest.raises(PodGoneError):
            await warm.open_channel(ECHO, Recorder())
        assert warm.carries
        pod.delete()
        assert isinstance(await client.lost(), PodGoneError)
        assert not warm.carries
        await eventually(lambda: warm.sizes == (0, 0, 0))


async def test_retired_pool_ends_with_its_last_connection(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster) as warm:
        channel, client = await ask(warm)
        warm.retire()
        with pytest.raises(ClosedError):
            await warm.open_channel(ECHO, Recorder())
        channel.write(b" again")
        await client.at_least(11)
        assert not warm.lost.done()
        channel.close()
        assert await client.lost() is None
        async with asyncio.timeout(5):
            assert isinstance(await warm.lost, ClosedError)


async def test_closed_pool_ends_its_connections_now(pod: Pod, cluster: Cluster) -> None:
    async with warm_to(cluster) as warm:
        _, client = await ask(warm)
        waiting = asyncio.ensure_future(warm.open_channel(ECHO, Recorder()))
        await warm.close()
        assert isinstance(await client.lost(), ForwardError)
        await asyncio.wait([waiting], timeout=5)
        assert waiting.done()
        if waiting.exception() is not None:
            assert isinstance(waiting.exception(), ForwardError)
        await warm.close()
        warm.abort()


async def test_connection_that_is_given_an_upgrade_in_the_turn_in_which_the_pool_retires_hears_so(
    cluster: Cluster, pod: Pod
) -> None:
    """Whoever opened it tries the next pod: nothing of it is lost, and nothing fails but in words of ours."""
    async with warm_to(cluster) as warm:
        opening = asyncio.ensure_future(warm.open_channel(ECHO, Recorder()))
        async with asyncio.timeout(15):
            while not warm.sizes[0]:
                await asyncio.sleep(0)
        assert not opening.done()
        warm.retire()
        with pytest.raises(ClosedError):
            await opening
