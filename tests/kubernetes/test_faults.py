"""Faults of a cluster, one row a test: one connection's trouble stays its own, and the local port is held throughout.

Each row prints one line of figures, as the table of faults of SSH does. The short form runs in CI; XEC_FORWARD_SOAK=1
runs every row in full.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import xec_forward as xf
from tests.peers.figures import Figures
from tests.peers.ports import port_free
from tests.peers.traffic import UNTOUCHED, Steady

from .peer import NUMBERS, REFUSED, EmbeddedPeer, Peer, until
from .programs import pattern_digest
from .test_port_forward import WARM, ask, behind, connect, exchange, full, message, opened, read_on, stats, take

# Of a cluster next door (`Peer.within` has those of others). A pod that took another's place is found this soon after
# it is ready, seconds.
FOUND_WITHIN = 2.0
# Served this soon after the API server is back, seconds: the pause between two dials included.
RECOVERED_WITHIN = 3.0


@pytest.fixture
def web(peer: Peer) -> Peer:
    """The cluster with a pod `web`."""
    peer.add_pod("web")
    return peer


@contextlib.contextmanager
def others(peer: Peer, where: str = "pod/web") -> Iterator[Steady]:
    """A client of the same pod, who must notice nothing: its tunnel rides on the same link."""
    with (
        opened(peer, "echo", where=where, name="others") as tunnel,
        Steady(tunnel.local_port, peer.within(UNTOUCHED)) as steady,
    ):
        yield steady
        assert (tunnel.state, stats(tunnel).reconnects) == (xf.TunnelState.READY, 0)


def fill(client: socket.socket) -> int:
    """Send until nothing more is taken for half a second; how much was."""
    client.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += client.send(bytes(1 << 20))
    return sent


def ends_by_reset(client: socket.socket, within: float = 10.0) -> float:
    """Read to the end, which must be a reset; the seconds until it came."""
    began = time.monotonic()
    client.settimeout(within)
    with pytest.raises(ConnectionResetError):
        while client.recv(1 << 16):
            pass
        raise AssertionError("a clean end, which passes for a complete answer")
    return time.monotonic() - began


def turns_away(tunnel: xf.Tunnel) -> None:
    """A client of it is reset; that may show as soon as it connects."""
    with pytest.raises(ConnectionResetError), connect(tunnel) as client:
        client.sendall(b"x")
        while client.recv(1 << 16):
            pass
        raise AssertionError("a clean end, which passes for a complete answer")


# ---- one connection


def test_refused_port_resets_its_clients_and_touches_no_other(web: Peer) -> None:
    rounds = full(200, 20)
    with opened(web, REFUSED, name="refused") as refused, others(web) as steady:
        figures = Figures(WARM)
        for _ in range(rounds):
            turns_away(refused)
        until(lambda: stats(refused).refused == rounds)
        assert isinstance(refused.error, xf.RefusedError)
        assert "nothing listens on port 9 in the pod" in str(refused.error)
        assert refused.state is xf.TunnelState.READY
        figures.say("port refused", lost=0, rounds=rounds, others=f"{steady.worst:.3f} s")


def test_reset_by_the_pod_is_a_reset_here_and_touches_no_other(web: Peer) -> None:
    rounds = full(50, 5)
    with opened(web, "reset", name="reset") as tunnel, others(web) as steady:
        figures = Figures(WARM)
        for _ in range(rounds):
            with connect(tunnel) as client:
                client.sendall(b"x")
                ends_by_reset(client)
        assert tunnel.state is xf.TunnelState.READY
        figures.say("reset by the pod", lost=0, rounds=rounds, others=f"{steady.worst:.3f} s")


def test_stalled_upload_freezes_nobody_and_is_bounded(web: Peer) -> None:
    with opened(web, "deaf", name="deaf") as deaf, others(web) as steady, connect(deaf) as stalled:
        figures = Figures(WARM)
        sent = fill(stalled)
        with opened(web, "echo", name="later") as tunnel:  # also those that come while it stalls
            began = time.monotonic()
            data = message(1, 300_000)
            with ThreadPoolExecutor(10) as pool:
                answers = list(pool.map(lambda _: ask(tunnel, data[:50_000]), range(10)))
            assert answers == [data[:50_000]] * 10
            took = time.monotonic() - began
        until(lambda: steady.turns > 40, 20)
        figures.say(
            "stalled upload",
            lost=0,
            taken=f"{sent >> 10} kB",
            ten_others=f"{took:.2f} s",
            others=f"{steady.worst:.3f} s",
        )
        assert sent < 64 << 20
    assert took < web.within(5)


def test_stalled_download_freezes_nobody_and_arrives_whole_after_all(web: Peer) -> None:
    size = full(200, 32) * 1_000_000
    with opened(web, "source", name="source") as source, others(web) as steady, connect(source) as stalled:
        figures = Figures(WARM)
        stalled.sendall(b"%d\n" % size)
        stalled.shutdown(socket.SHUT_WR)
        turns = steady.turns
        until(lambda: steady.turns > turns + 50, 20)
        assert stats(source).bytes_down < size
        received, digest = read_on(stalled)
        figures.say("stalled download", lost=size - received, bytes=size, others=f"{steady.worst:.3f} s")
        assert (received, digest) == (size, pattern_digest(size))
        assert figures.peak() < 200


# ---- the pod


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("deployment", "deploy/web"),
        ("deployment", "svc/web"),
        ("deployment", "-l app=web"),
        ("statefulset", "sts/web"),
        ("statefulset", "pod/web-0"),
    ],
)
def test_replaced_pod_is_found_by_the_next_connection_and_its_port_is_held(peer: Peer, kind: str, where: str) -> None:
    peer.add_workload(kind, "web")
    peer.add_service("web", {"name": "echo", "port": 7000})
    with opened(peer, "echo", where=where) as tunnel:
        figures, port = Figures(WARM), tunnel.local_port
        assert ask(tunnel) == b"ping"
        before = peer.pods("web")
        ((old, _),) = before.values()
        with connect(tunnel) as in_use, ThreadPoolExecutor(1) as pool:
            assert exchange(in_use, b"a") == b"a"
            reset: Future[float] = pool.submit(ends_by_reset, in_use)
            peer.delete_pod(old)
            new = peer.replacement("web", before)
            ready = time.monotonic()
            data = message(2, 100_000)
            assert ask(tunnel, data) == data
            found = time.monotonic() - ready
            reset.result(15)
        assert not port_free(port)
        assert tunnel.local_port == port
        until(lambda: behind(tunnel) == f"pod/{new}:7000")
        figures.say(f"pod replaced, {where}", lost=0, recovered=found, reconnects=stats(tunnel).reconnects)
        assert found < peer.within(FOUND_WITHIN)


def test_clients_that_come_while_the_pod_is_replaced_wait_and_are_served(peer: Peer) -> None:
    clients = full(100, 30)
    peer.add_workload("deployment", "web")
    with opened(peer, "echo", where="deploy/web", hold=peer.patience) as tunnel:
        figures = Figures(WARM)
        assert ask(tunnel) == b"ping"
        before = peer.pods("web")
        ((old, _),) = before.values()
        messages = [message(number, 20_000) for number in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            answers: list[Future[bytes]] = []
            peer.delete_pod(old)
            time.sleep(0.1)  # it is known to go by now, and its network still answers
            for data in messages:
                answers.append(pool.submit(ask, tunnel, data))
            peer.replacement("web", before)
            ready = time.monotonic()
            lost = sum(data != answer.result(60) for data, answer in zip(messages, answers, strict=True))
            took = time.monotonic() - ready
        figures.say("clients while the pod is replaced", lost=lost, recovered=took, clients=clients)
        assert lost == 0
        assert took < peer.within(FOUND_WITHIN + clients / 50)


def test_download_from_a_pod_that_is_deleted_is_reset_and_never_ends_like_a_complete_one(peer: Peer) -> None:
    peer.add_workload("deployment", "web")
    with opened(peer, "source", where="deploy/web") as tunnel, connect(tunnel) as client:
        figures = Figures(WARM)
        client.sendall(b"%d\n" % (1 << 34))
        assert take(client, 1 << 20)
        ((old, _),) = peer.pods("web").values()
        peer.delete_pod(old)
        took = ends_by_reset(client, 30)
        figures.say("pod deleted under a download", lost=0, reset_after=f"{took:.2f} s")


def test_many_clients_of_a_pod_that_is_deleted_are_all_reset(peer: Peer) -> None:
    clients = full(100, 20)
    peer.add_workload("deployment", "web")
    with opened(peer, "echo", where="deploy/web") as tunnel, contextlib.ExitStack() as stack:
        figures = Figures(WARM)
        sockets = [stack.enter_context(connect(tunnel)) for _ in range(clients)]
        for number, client in enumerate(sockets):
            data = message(number, 1000)
            assert exchange(client, data) == data
        before = peer.pods("web")
        ((old, _),) = before.values()
        peer.delete_pod(old)
        took = max(ends_by_reset(client, 30) for client in sockets)
        peer.replacement("web", before)
        assert ask(tunnel) == b"ping"
        until(lambda: stats(tunnel).clients == 0)
        figures.say("pod deleted under its clients", lost=0, clients=clients, reset_after=f"{took:.2f} s")


def test_pod_that_was_named_and_is_deleted_leaves_the_port_held_and_says_why(web: Peer) -> None:
    with opened(web, "echo", hold=1) as tunnel:
        port = tunnel.local_port
        assert ask(tunnel) == b"ping"
        web.delete_pod("web")
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING, 30)
        assert not port_free(port)
        assert "pod/web" in str(tunnel.error)
        with connect(tunnel) as client:
            client.sendall(b"x")
            ends_by_reset(client)
        if isinstance(web, EmbeddedPeer):
            until(lambda: not all_pods(web))
            web.add_pod("web")  # under the same name, by hand
            tunnel.wait_ready(10)
            assert ask(tunnel) == b"ping"


def all_pods(peer: EmbeddedPeer) -> list[dict[str, dict[str, str]]]:
    return peer.embedded.call(lambda: peer.embedded.state.store.of_kind("pods", peer.namespace))


def test_pod_that_is_not_ready_for_a_moment_keeps_its_clients_and_new_ones_go_to_a_ready_one(
    embedded: EmbeddedPeer,
) -> None:
    embedded.add_workload("deployment", "web", pods=2)
    with opened(embedded, "echo", where="deploy/web") as tunnel, connect(tunnel) as client:
        figures = Figures(WARM)
        assert exchange(client, b"a") == b"a"
        used = behind(tunnel).removeprefix("pod/").partition(":")[0]
        controller = embedded.embedded.state.controller
        embedded.embedded.call(lambda: controller.run_pod("default", used, ready=False))

        def moved() -> bool:
            assert ask(tunnel) == b"ping"
            return used not in behind(tunnel)

        until(moved)
        assert exchange(client, b"b") == b"b"
        assert stats(tunnel).reconnects == 0
        figures.say("readiness lost, another is ready", lost=0)


# ---- the API server


def test_api_server_restart_is_survived_with_the_port_held_and_clients_waiting(embedded: EmbeddedPeer) -> None:
    clients = full(100, 30)
    embedded.add_workload("deployment", "web")
    cluster = embedded.embedded
    with opened(embedded, "echo", where="deploy/web") as tunnel, connect(tunnel) as in_use:
        figures, port = Figures(WARM), tunnel.local_port
        assert exchange(in_use, b"a") == b"a"
        cluster.stop_server()
        try:
            ends_by_reset(in_use)
            until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
            assert not port_free(port)
            messages = [hashlib.sha256(str(number).encode()).digest() * 500 for number in range(clients)]
            pool = ThreadPoolExecutor(clients)
            answers = [pool.submit(ask, tunnel, data) for data in messages]
            pool.shutdown(wait=False)
            until(lambda: stats(tunnel).parked >= clients)
        finally:
            cluster.start_server()
        back = time.monotonic()
        lost = sum(data != answer.result(30) for data, answer in zip(messages, answers, strict=True))
        took = time.monotonic() - back
        until(lambda: tunnel.state is xf.TunnelState.READY)
        assert tunnel.local_port == port
        figures.say("API server restarted", lost=lost, recovered=took, clients=clients)
        assert lost == 0
        assert took < RECOVERED_WITHIN


@pytest.mark.parametrize("run", range(3))
def test_api_server_restart_under_a_burst_parks_who_cannot_be_served(embedded: EmbeddedPeer, run: int) -> None:
    """Whoever came before the outage is reset, whoever comes in it waits; nobody gets a clean end too early."""
    embedded.add_workload("deployment", "web")
    cluster = embedded.embedded
    over = threading.Event()

    def come_and_go(tunnel: xf.Tunnel) -> tuple[int, int]:
        served = reset = 0
        while not over.is_set():
            try:
                answer = ask(tunnel, b"0123456789")
            except OSError:
                reset += 1
            else:
                assert answer == b"0123456789", "a clean end, which passes for a complete answer"
                served += 1
        return served, reset

    with opened(embedded, "echo", where="deploy/web") as tunnel, ThreadPoolExecutor(8) as pool:
        figures = Figures(WARM)
        clients = [pool.submit(come_and_go, tunnel) for _ in range(8)]
        try:
            until(lambda: stats(tunnel).clients_total > 50, 20)
            cluster.stop_server()
            until(lambda: tunnel.state is xf.TunnelState.RECONNECTING, 10)
            until(lambda: stats(tunnel).parked == 8)
            cluster.start_server()
            back = time.monotonic()
            tunnel.wait_ready(10)
            assert ask(tunnel) == b"ping"
            took = time.monotonic() - back
            known = stats(tunnel).clients_total
            until(lambda: stats(tunnel).clients_total > known + 50, 20)
        finally:
            over.set()
        outcomes = [client.result(30) for client in clients]
        served, reset = (sum(each) for each in zip(*outcomes, strict=True))
        figures.say("API server restarted under a burst", lost=0, recovered=took, served=served, reset=reset)
        # One of each client's connections was in use when it went.
        assert reset <= 16


def test_client_that_comes_when_the_api_server_has_been_away_for_long_waits_for_it(embedded: EmbeddedPeer) -> None:
    """The first to come finds out; what it sent may have gone out on an upgrade whose end had not been heard of."""
    embedded.add_pod("web")
    with opened(embedded, "echo") as tunnel, ThreadPoolExecutor(6) as pool:
        embedded.embedded.stop_server()
        first = pool.submit(ask, tunnel)
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        answers = [pool.submit(ask, tunnel) for _ in range(5)]
        until(lambda: stats(tunnel).parked >= (5 if first.done() else 6))
        embedded.embedded.start_server()
        assert [answer.result(20) for answer in answers] == [b"ping"] * 5
        assert first.exception(20) is None or isinstance(first.exception(), ConnectionResetError)


def test_port_forward_that_is_refused_is_the_clients_trouble_alone_and_mends_itself(embedded: EmbeddedPeer) -> None:
    """The API server is there and says no: whoever dialled anew would hear the same, as often as they asked."""
    embedded.add_pod("web")
    cluster = embedded.embedded
    with opened(embedded, "echo") as tunnel:
        cluster.deny("create", "pods/portforward")
        before = len(cluster.requests)
        for _ in range(5):
            with pytest.raises(ConnectionResetError):
                ask(tunnel)
        until(lambda: stats(tunnel).refused == 5)
        assert isinstance(tunnel.error, xf.RbacError)
        assert (tunnel.state, stats(tunnel).reconnects) == (xf.TunnelState.READY, 0)
        assert len(cluster.requests) - before < 40
        cluster.allow("create", "pods/portforward")
        with connect(tunnel) as client:
            assert exchange(client, b"a") == b"a"
            embedded.delete_pod("web")  # the pod is still followed
            ends_by_reset(client)


def test_node_that_is_not_reached_is_told_and_the_api_server_is_not_stormed(embedded: EmbeddedPeer) -> None:
    """The API server answers 500 to each port-forward, and the pod is ready for all it knows."""
    embedded.add_pod("web")
    cluster = embedded.embedded
    sandboxes = cluster.state.controller.sandboxes
    with opened(embedded, "echo", hold=2) as tunnel:
        lost = cluster.call(sandboxes.copy)
        cluster.call(sandboxes.clear)
        before = len(cluster.requests)
        with pytest.raises(ConnectionResetError):
            ask(tunnel)
        until(lambda: stats(tunnel).refused == 1)
        assert "the API server answers 500" in str(tunnel.error)
        assert len(cluster.requests) - before < 10
        cluster.call(lambda: sandboxes.update(lost))
        assert ask(tunnel) == b"ping"
        assert (tunnel.state, stats(tunnel).reconnects) == (xf.TunnelState.READY, 0)


def test_watch_that_must_begin_anew_still_tells_of_the_next_replacement(embedded: EmbeddedPeer) -> None:
    embedded.add_workload("deployment", "web")
    with opened(embedded, "echo", where="deploy/web") as tunnel:
        assert ask(tunnel) == b"ping"
        for _ in range(3):
            embedded.embedded.forget()
            before = embedded.pods("web")
            ((old, _),) = before.values()
            embedded.delete_pod(old)
            embedded.replacement("web", before)
            ready = time.monotonic()
            assert ask(tunnel) == b"ping"
            assert time.monotonic() - ready < FOUND_WITHIN
            until(lambda gone=old: gone not in behind(tunnel))  # type: ignore[misc]


def test_idle_tunnel_keeps_few_upgrades_and_none_when_it_is_closed(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    cluster = embedded.embedded
    with opened(embedded, "echo") as tunnel:
        assert ask(tunnel) == b"ping"
        until(lambda: cluster.upgrades.live >= 1)
        assert cluster.upgrades.live <= 4
        until(lambda: cluster.streams.live == 0)
    until(lambda: cluster.upgrades.live == 0)
    assert NUMBERS["echo"] == tunnel.remote_port
