"""Every way to a pod that a server may offer: the tunnel of 1.31, v4.channel.k8s.io of 1.30, SPDY by POST."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import xec_forward as xf
from tests.peers.traffic import Steady
from xec_forward.demo.cluster import Cluster

from .peer import NUMBERS, REFUSED, EmbeddedPeer, Programs, until
from .programs import pattern_digest
from .test_faults import ends_by_reset, fill
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
        pytest.param(("1.30", None), "v4", id="1.30"),
        pytest.param(("1.36", {"spdy-raw"}), "spdy-raw", id="SPDY by POST"),
        pytest.param(("1.30", {"spdy-raw"}), "spdy-raw", id="1.30, SPDY by POST"),
    ],
    indirect=["server"],
)


@each_server
def test_bytes_ends_refusals_and_resets_are_the_same_over_each(server: EmbeddedPeer, spoken: str) -> None:
    size = 8_000_000
    with opened(server, "source") as tunnel, connect(tunnel) as client:
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
    with opened(server, REFUSED) as tunnel, connect(tunnel) as client:
        client.sendall(b"x")
        ends_by_reset(client)
        until(lambda: "nothing listens on port 9 in the pod" in str(tunnel.error))
        assert tunnel.state is xf.TunnelState.READY
    assert set(server.embedded.upgraded) == {spoken}
    until(lambda: server.embedded.upgrades.live == 0)


@each_server
def test_stalled_upload_freezes_nobody_over_each(server: EmbeddedPeer, spoken: str) -> None:
    with (
        opened(server, "deaf", name="deaf") as deaf,
        opened(server, "echo", name="others") as echo,
        Steady(echo.local_port) as steady,
        connect(deaf) as stalled,
    ):
        fill(stalled)
        assert ask(echo) == b"ping"
    assert steady.worst < 0.5
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


def test_server_that_offers_no_way_is_told_in_one_line(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    embedded.embedded.protocols = set()
    with pytest.raises(xf.ForwardError) as caught:
        embedded.cluster().port_forward(pod="web", local_port=0, remote_port=NUMBERS["echo"], timeout=10)
    assert "\n" not in str(caught.value)
    assert caught.value.hint, str(caught.value)
    assert not isinstance(caught.value, xf.DeadlineError), str(caught.value)
