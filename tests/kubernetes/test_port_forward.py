"""What goes through a port-forward to a pod: whole, in order, and ended as the pod ended it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import xec_forward as xf
from tests.peers.figures import Figures, kept_by
from tests.peers.ports import port_free
from xec_forward.client.session import current
from xec_forward.engine.links.kubernetes.warm import IDLE
from xec_forward.model import Counters

from .peer import NUMBERS, REFUSED, EmbeddedPeer, Peer, until
from .programs import PAUSE, pattern_digest

SOAK = os.environ.get("XEC_FORWARD_SOAK") == "1"
# containerd ends a connection this long after its first side has ended, seconds.
LATE = 1.0

# Upgrades that a busy moment added to the pool have gone this much later, seconds.
SHRUNK_WITHIN = 2 * IDLE + 15


# What a row may keep: upgrades stay warm for the next clients, up to a hundred.
WARM = (102, 2, 64.0)


def full(soak: int, short: int) -> int:
    """How much of a row: all of it in a soak, a short form else."""
    return soak if SOAK else short


def connect(tunnel: xf.Tunnel) -> socket.socket:
    """A client, which waits at most a while for anything."""
    return socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=30)


def ask(tunnel: xf.Tunnel, data: bytes = b"ping") -> bytes:
    """What `echo` answers; the client then closes."""
    with connect(tunnel) as client:
        return exchange(client, data)


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Send, and receive as much."""
    client.sendall(data)
    return take(client, len(data))


def take(client: socket.socket, size: int) -> bytes:
    """Receive so many bytes, or less where the connection ends before."""
    received = bytearray()
    while len(received) < size and (piece := client.recv(size - len(received))):
        received += piece
    return bytes(received)


def read_on(client: socket.socket) -> tuple[int, str]:
    """Read to the end: how many bytes, and their sha256."""
    digest, size = hashlib.sha256(), 0
    while data := client.recv(1 << 20):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


def message(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def stats(tunnel: xf.Tunnel) -> Counters:
    """The counters as they are now."""
    current().refresh()
    return tunnel.stats


def behind(tunnel: xf.Tunnel) -> str:
    """The pod that a tunnel leads to: `pod/NAME:PORT`."""
    current().refresh()
    return next(note for note in tunnel.snapshot.notes if note.startswith("pod/")).split()[0]


@contextlib.contextmanager
def opened(peer: Peer, port: str | int, *, where: str = "pod/web", **options: Any) -> Iterator[xf.Tunnel]:
    """A tunnel to a port of `programs`, by its name in PORTS or by number; nothing is tried at the opening."""
    number = NUMBERS.get(port, 0) if isinstance(port, str) else port
    options.setdefault("no_check", True)
    with peer.cluster().port_forward(resource=where, local_port=0, remote_port=number, **options) as tunnel:
        yield tunnel


@pytest.fixture
def web(peer: Peer) -> Peer:
    """The cluster with a pod `web`."""
    peer.add_pod("web")
    return peer


def test_download_of_a_client_that_has_shut_down_its_writing_arrives_whole(web: Peer) -> None:
    size = full(400, 60) * 1_000_000
    with opened(web, "source") as tunnel, connect(tunnel) as client:
        figures = Figures(WARM)
        client.sendall(b"%d\n" % size)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1, socket.MSG_PEEK)
        time.sleep(1.3 * LATE)  # all of it would be here before the node cut it, where it is little
        began = time.monotonic()
        received, digest = read_on(client)
        speed = received / (time.monotonic() - began) / 1e6
        figures.say("download, writing shut down early", lost=size - received, bytes=size, speed=f"{speed:.0f} MB/s")
        assert (received, digest) == (size, pattern_digest(size))


def test_answer_that_pauses_arrives_whole_although_its_client_has_shut_down_its_writing(web: Peer) -> None:
    """For longer than the second after which a node that heard of that end would cut it."""
    size = 1_000_000
    assert PAUSE > LATE
    with opened(web, "pausing") as tunnel, connect(tunnel) as client:
        client.sendall(b"%d\n" % size)
        client.shutdown(socket.SHUT_WR)
        assert read_on(client) == (size, pattern_digest(size))


def test_upload_arrives_whole_and_its_answer_comes_back(web: Peer) -> None:
    size = full(400, 60) * 1_000_000
    block = message(1, 1_000_000)
    digest = hashlib.sha256()
    with opened(web, "sink") as tunnel, connect(tunnel) as client:
        figures = Figures(WARM)
        client.sendall(struct.pack(">Q", size))
        for _ in range(size // len(block)):
            client.sendall(block)
            digest.update(block)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
        figures.say("upload", lost=0, bytes=size)
        assert answer == f"{digest.hexdigest()}\n".encode()


def test_upload_reaches_the_pod_although_its_client_leaves_at_once(web: Peer) -> None:
    """The end of a client that says something and goes comes behind what it said, as the pod itself counts it."""
    with opened(web, "swallow") as tunnel, opened(web, "tally", name="tally") as tally:

        def swallowed() -> int:
            with connect(tally) as client, client.makefile("rb") as lines:
                return int(lines.readline())

        before = swallowed()
        for number in range(10):
            with connect(tunnel) as client:
                client.sendall(message(number, 20_000))
        until(lambda: swallowed() - before >= 200_000, 20)
        assert swallowed() - before == 200_000
        until(lambda: stats(tunnel).clients == 0, 20)
        assert tunnel.error is None


def test_fifty_connections_at_once_carry_each_its_own_bytes(web: Peer) -> None:
    messages = [message(number, 100_000 + number) for number in range(50)]
    with opened(web, "echo") as tunnel, ThreadPoolExecutor(50) as pool:
        figures = Figures(WARM)

        def converse(data: bytes) -> bytes:
            with connect(tunnel) as client, ThreadPoolExecutor(1) as sender:
                sending = sender.submit(client.sendall, data)
                received = take(client, len(data))
                sending.result(30)
                return received

        answers = list(pool.map(converse, messages))
        right = sum(one == other for one, other in zip(messages, answers, strict=True))
        figures.say("50 connections at once", lost=0, right=f"{right} of 50")
        assert right == 50
    if isinstance(web, EmbeddedPeer):
        assert web.embedded.streams.peak <= 100  # one connection is one pair of streams, on an upgrade of its own


def test_connections_one_after_the_other_leak_nothing(web: Peer) -> None:
    count = full(1000, 200)
    with opened(web, "echo") as tunnel:
        for _ in range(20):  # the pool finds its size
            assert ask(tunnel) == b"ping"
        figures = Figures((*WARM[:2], kept_by(count, 4.0)[2]))
        began = time.monotonic()
        for number in range(count):
            data = b"%08d" % number
            assert ask(tunnel, data) == data
        each = (time.monotonic() - began) / count
        # (What a busy moment has added to the pool goes after half a minute, for which a soak has the time.)
        until(lambda: figures.kept()[0] <= full(2, 8), SHRUNK_WITHIN)
        figures.say(f"{count} connections in a row", lost=0, each=f"{1000 * each:.1f} ms")
        current().refresh()
        assert (tunnel.stats.clients, tunnel.stats.refused, tunnel.stats.reconnects) == (0, 0, 0)
        if isinstance(web, EmbeddedPeer):
            cluster = web.embedded
            until(lambda: cluster.streams.live == 0, 20)
            assert cluster.upgrades.live <= 8
    if isinstance(web, EmbeddedPeer):
        cluster = web.embedded
        until(lambda: cluster.upgrades.live == 0, 10)


@pytest.mark.parametrize("port", ["banner", "half"])
def test_banner_is_delivered_and_its_end_passes_for_no_failure(web: Peer, port: str) -> None:
    with opened(web, port) as tunnel, connect(tunnel) as client:
        assert take(client, 6) == b"HELLO\n"
        assert client.recv(1) == b""  # and no ConnectionResetError
        client.close()
        current().refresh()
        assert tunnel.error is None


def test_service_that_answers_only_after_the_end_waits_until_its_client_goes(web: Peer) -> None:
    """A half-close cannot reach a pod: passed on, it would end the answer. The client decides how long it waits."""
    with opened(web, "reply") as tunnel, connect(tunnel) as client:
        client.sendall(b"12345")
        client.shutdown(socket.SHUT_WR)
        client.settimeout(2 * LATE)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert tunnel.error is None  # it may be a slow answer
        if SOAK:  # what is said of it; `test_distance` has that too, and quicker
            until(lambda: tunnel.error is not None)
            assert "a service that answers only then never does" in str(tunnel.error)
        client.close()
        until(lambda: stats(tunnel).clients == 0)
        assert (tunnel.state, tunnel.stats.refused) == (xf.TunnelState.READY, 0)


def test_client_that_waits_in_vain_is_reset_when_the_tunnel_closes(web: Peer) -> None:
    with opened(web, "silent") as tunnel, connect(tunnel) as client:
        client.sendall(b"select pg_sleep(1000)")
        until(lambda: stats(tunnel).bytes_up)
        time.sleep(0.3)  # nothing moves for a moment: that is what makes it hung
        port = tunnel.local_port
        began = time.monotonic()
        tunnel.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert time.monotonic() - began < 0.5
        tunnel.close()
        assert tunnel.state is xf.TunnelState.CLOSED
        assert port_free(port)


def test_several_ports_of_a_deployment_are_of_one_pod_and_share_its_watch(peer: Peer) -> None:
    peer.add_workload("deployment", "web", pods=2)
    ports: list[Any] = [
        {"name": "by_number", "remote_port": NUMBERS["echo"], "local_port": 0},
        {"name": "by_name", "remote_port": "echo", "local_port": 0},
        {"name": "banner", "remote_port": "banner", "local_port": 0},
    ]
    with peer.cluster().port_forward(deployment="web", forwards=ports, no_check=True) as group:
        assert (ask(group["by_number"]), ask(group["by_name"])) == (b"ping", b"ping")
        with connect(group["banner"]) as client:
            assert take(client, 6) == b"HELLO\n"
        pods = {behind(tunnel).partition(":")[0] for tunnel in group.values()}
        assert len(pods) == 1
        assert list(group) == ["by_number", "by_name", "banner"]
        assert group["echo"] is group["by_name"]
        if isinstance(peer, EmbeddedPeer):
            lists = [request for request in peer.embedded.requests if request.endswith("/deployments/web")]
            assert len(lists) == 1
        # The link is one: to drop it is to drop it for all.
        group["by_name"].reconnect()
        for tunnel in group.values():
            until(lambda tunnel=tunnel: tunnel.stats.reconnects == 1)  # type: ignore[misc]
            tunnel.wait_ready(peer.patience)
        assert ask(group["by_number"]) == b"ping"


@pytest.mark.parametrize("kind", ["deployment", "statefulset", "replicaset", "daemonset", "job"])
def test_workload_leads_to_one_of_its_pods(peer: Peer, kind: str) -> None:
    peer.add_workload(kind, "web")
    with opened(peer, "echo", where=f"{kind}/web") as tunnel:
        assert ask(tunnel) == b"ping"
        assert behind(tunnel).startswith("pod/web-")


def test_selector_leads_to_a_pod_with_the_labels(web: Peer) -> None:
    cluster = web.cluster()
    with cluster.port_forward(selector="app=web,app!=api", local_port=0, remote_port="echo", no_check=True) as tunnel:
        assert (ask(tunnel), behind(tunnel)) == (b"ping", "pod/web:7000")


def test_port_of_a_service_leads_to_its_target_port_by_number_and_by_name(web: Peer) -> None:
    web.add_service(
        "web",
        {"name": "plain", "port": 80, "targetPort": 7000},
        {"name": "named", "port": 81, "targetPort": "banner"},
        {"name": "same", "port": 7000},
    )
    cluster = web.cluster()
    for wanted, leads in ((80, 7000), ("plain", 7000), (81, 7004), ("named", 7004), (7000, 7000)):
        with cluster.port_forward(service="web", local_port=0, remote_port=wanted, no_check=True) as tunnel:
            assert behind(tunnel) == f"pod/web:{leads}"
            if leads == 7000:
                assert ask(tunnel) == b"ping"
            else:
                with connect(tunnel) as client:
                    assert take(client, 6) == b"HELLO\n"


def test_port_of_a_headless_service_is_the_pods_own(web: Peer) -> None:
    web.add_service("web", {"name": "echo", "port": 80, "targetPort": 7000}, headless=True)
    cluster = web.cluster()
    for wanted in (7000, "echo"):
        with cluster.port_forward(service="web", local_port=0, remote_port=wanted, no_check=True) as tunnel:
            assert (ask(tunnel), behind(tunnel)) == (b"ping", "pod/web:7000")
            current().refresh()
            told = any("headless: the pod's own port" in note for note in tunnel.snapshot.notes)
            assert told == (wanted == 7000)


def test_health_check_tells_each_stage(web: Peer) -> None:
    with opened(web, "echo") as tunnel:
        health = tunnel.health_check()
        assert [stage.name for stage in health.stages] == ["listener", "link", "target"]
        assert health.ok
    with opened(web, REFUSED) as tunnel:
        health = tunnel.health_check()
        assert not health.ok
        assert "nothing listens on port 9" in str(health.error and health.error.message)


def test_port_that_refuses_fails_the_opening_in_one_line(web: Peer) -> None:
    with pytest.raises(xf.RefusedError) as caught:
        web.cluster().port_forward(pod="web", local_port=0, remote_port=REFUSED)
    assert "nothing listens on port 9 in the pod" in str(caught.value)
    assert caught.value.hint
    assert not xf.tunnels
