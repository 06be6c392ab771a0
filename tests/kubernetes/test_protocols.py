"""Every way to a pod that a server may offer: the tunnel of 1.31, SPDY by POST, v4.channel.k8s.io."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import xec_forward as xf
from tests.peers.channels import Recorder
from tests.peers.traffic import Steady
from xec_forward.demo.cluster import Cluster
from xec_forward.engine.links.kubernetes.api import Api
from xec_forward.engine.links.kubernetes.dial import Dialler
from xec_forward.engine.links.kubernetes.upgrade import Kind, Upgrade
from xec_forward.engine.links.kubernetes.warm import Warm
from xec_forward.errors import LostError, RefusedError
from xec_forward.options import ClusterTarget

from .peer import NUMBERS, REFUSED, EmbeddedPeer, Peer, Programs, until
from .programs import pattern_digest
from .test_faults import ends_by_reset, fill, turns_away
from .test_port_forward import ask, connect, exchange, message, opened, read_on, stats, take


@pytest.fixture
def server(request: pytest.FixtureRequest, programs: Programs) -> Iterator[EmbeddedPeer]:
    """A server of that version, with a pod `web`."""
    version, protocols = request.param
    with Cluster(version) as cluster:
        if protocols is not None:
            cluster.protocols = protocols
        peer = EmbeddedPeer(cluster, programs.serves)
        peer.add_pod("web")
        yield peer


# The server's version, what it offers (None: what that version does), and the protocol that is then spoken.
each_server = pytest.mark.parametrize(
    ("server", "spoken"),
    [
        pytest.param(("1.36", None), "spdy-tunnel", id="1.36"),
        pytest.param(("1.31", None), "spdy-tunnel", id="1.31"),
        pytest.param(("1.30", None), "spdy-raw", id="1.30"),
        pytest.param(("1.36", {"spdy-raw"}), "spdy-raw", id="SPDY by POST"),
        pytest.param(("1.30", {"v4"}), "v4", id="1.30, WebSocket alone"),
    ],
    indirect=["server"],
)


@each_server
def test_bytes_ends_refusals_and_resets_are_the_same_over_each(server: EmbeddedPeer, spoken: str) -> None:
    size = 8_000_000
    with opened(server, "pausing") as tunnel, connect(tunnel) as client:
        client.sendall(b"%d\n" % size)
        client.shutdown(socket.SHUT_WR)
        assert read_on(client) == (size, pattern_digest(size))
    with opened(server, "echo") as tunnel, ThreadPoolExecutor(20) as pool:
        messages = [message(number, 10_000) for number in range(20)]
        assert list(pool.map(lambda data: ask(tunnel, data), messages)) == messages
    with opened(server, "banner") as tunnel, connect(tunnel) as client:
        assert take(client, 6) == b"HELLO\n"
        assert client.recv(1) == b""
    with opened(server, "reset") as tunnel, connect(tunnel) as client:
        client.sendall(b"x")
        ends_by_reset(client)
    with opened(server, REFUSED) as tunnel:
        turns_away(tunnel)
        until(lambda: "nothing listens on port 9 in the pod" in str(tunnel.error))
        assert tunnel.state is xf.TunnelState.READY
    assert set(server.embedded.upgraded) == {spoken}
    until(lambda: server.embedded.upgrades.live == 0)


@each_server
def test_stalled_upload_freezes_nobody_over_each(server: EmbeddedPeer, spoken: str) -> None:
    with (
        opened(server, "deaf", name="deaf") as deaf,
        opened(server, "echo", name="others") as echo,
        Steady(echo.local_port),
        connect(deaf) as stalled,
    ):
        fill(stalled)
        assert ask(echo) == b"ping"
    assert set(server.embedded.upgraded) == {spoken}


@each_server
def test_api_server_restart_is_survived_over_each(server: EmbeddedPeer, spoken: str) -> None:
    with opened(server, "echo") as tunnel, connect(tunnel) as client, ThreadPoolExecutor(1) as pool:
        assert exchange(client, b"a") == b"a"
        server.embedded.stop_server()
        try:
            ends_by_reset(client)
            waiting = pool.submit(ask, tunnel)  # v4 keeps nothing warm that would break: it is he who finds out
            until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
            until(lambda: stats(tunnel).parked == 1)
        finally:
            server.embedded.start_server()
        assert waiting.result(20) == b"ping"
        until(lambda: tunnel.state is xf.TunnelState.READY)
        assert stats(tunnel).reconnects == 1


class Single(Dialler):
    """A dialler to the pod `web` that asks in one way, and keeps what was taken."""

    def __init__(self, api: Api, namespace: str, kind: Kind) -> None:
        super().__init__(api, namespace, "web")
        self._ways = [{Kind.TUNNEL: self._tunnel, Kind.RAW: self._spdy, Kind.V4: self._v4}[kind]]
        self.taken: set[Kind] = set()

    async def __call__(self, port: int) -> Upgrade:
        upgrade = await super().__call__(port)
        self.taken.add(upgrade.kind)
        return upgrade


@pytest.mark.parametrize("kind", Kind)
def test_way_that_is_asked_for_alone_carries_bytes_ends_refusals_and_resets(peer: Peer, kind: Kind) -> None:
    """A server that has them all, as real ones do, is asked for one."""
    peer.add_pod("web")
    size = 8_000_000

    async def converse() -> None:
        api = await Api.open(ClusterTarget(kubeconfig=str(peer.kubeconfig)))
        minor = (await api.get("/version"))["minor"]  # such as 30, or 30+
        dialler = Single(api, peer.namespace, kind)
        warm = Warm(dialler, "web")
        try:
            if kind is Kind.TUNNEL and int(minor.rstrip("+")) < 31:
                pytest.skip("kube-apiserver 1.31 or later, which has the tunnel")

            async def client(port: int, say: bytes) -> Recorder:
                recorder = Recorder()
                channel = await warm.open_channel(port, recorder)
                channel.write(say)
                return recorder

            source = await client(NUMBERS["source"], b"%d\n" % size)
            assert await source.lost() is None
            assert (source.size, source.digest) == (size, pattern_digest(size))
            talks = [await client(NUMBERS["echo"], message(number, 10_000)) for number in range(5)]
            for number, talk in enumerate(talks):
                await talk.at_least(10_000)
                assert talk.data == message(number, 10_000)
            assert isinstance(await (await client(NUMBERS["reset"], b"x")).lost(), LostError)
            assert isinstance(await (await client(REFUSED, b"x")).lost(), RefusedError)
            assert dialler.taken == {kind}
        finally:
            await warm.close()
            await api.close()

    asyncio.run(converse())


def test_server_that_offers_no_way_is_told_in_one_line(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    embedded.embedded.protocols = set()
    with pytest.raises(xf.ForwardError) as caught:
        embedded.cluster().port_forward(pod="web", local_port=0, remote_port=NUMBERS["echo"], timeout=10)
    assert "\n" not in str(caught.value)
    assert caught.value.hint, str(caught.value)
    assert not isinstance(caught.value, xf.DeadlineError), str(caught.value)
