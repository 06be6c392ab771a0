"""From pod to pod: who is served by which, where a pod goes, where its service leads elsewhere, where a node errs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import xec_forward as xf
from tests.peers.distance import Distance
from xec_forward.demo.cluster import Context

from .peer import NUMBERS, EmbeddedPeer, until
from .test_faults import ends_by_reset
from .test_port_forward import ask, behind, connect, exchange, opened, stats

ECHO = NUMBERS["echo"]
# Seconds for which a pod that is deleted serves on in these tests, and the least of them that must be seen.
GRACE, SERVED = 1.5, 1.0


@pytest.fixture
def graceful(embedded: EmbeddedPeer) -> EmbeddedPeer:
    """The embedded cluster, whose pods serve on for a while when they are deleted."""
    timing = embedded.embedded.timing
    timing.stop, timing.sandbox, timing.removal = GRACE, GRACE + 0.1, GRACE + 0.2
    return embedded


def served_to_the_end(client: socket.socket) -> float:
    """Talk on until the reset; the seconds until it came."""
    began = time.monotonic()
    with pytest.raises(ConnectionResetError):
        while time.monotonic() < began + 10:
            assert exchange(client, b"x") == b"x", "a clean end, which passes for a complete answer"
            time.sleep(0.02)
    return time.monotonic() - began


# ---- a pod that goes, and nothing follows


def test_pod_that_is_deleted_serves_its_clients_to_its_own_end(graceful: EmbeddedPeer) -> None:
    graceful.add_pod("web")
    with opened(graceful, "echo", hold=1) as tunnel, connect(tunnel) as client:
        assert exchange(client, b"a") == b"a"
        graceful.delete_pod("web")
        with connect(tunnel) as late:  # nothing will follow, and who comes now hears so
            late.sendall(b"x")
            ends_by_reset(late)
        until(lambda: isinstance(tunnel.error, xf.PodGoneError))
        assert "is being deleted" in str(tunnel.error)
        assert tunnel.state is xf.TunnelState.READY
        assert served_to_the_end(client) > SERVED / 2
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)


def test_workload_that_is_scaled_to_zero_serves_its_clients_to_the_end(graceful: EmbeddedPeer) -> None:
    cluster = graceful.embedded
    workload = cluster.add_deployment("web", **graceful.template())
    with opened(graceful, "echo", where="deploy/web") as tunnel, connect(tunnel) as client:
        assert exchange(client, b"a") == b"a"
        workload.scale_to_zero()
        assert served_to_the_end(client) > SERVED
        until(lambda: "scaled to zero" in str(tunnel.error))


@pytest.mark.parametrize("status", [429, 500])
def test_outage_of_the_api_in_the_moment_of_a_replacement_cuts_nobody(graceful: EmbeddedPeer, status: int) -> None:
    cluster = graceful.embedded
    graceful.add_workload("deployment", "web")
    with opened(graceful, "echo", where="deploy/web") as tunnel, connect(tunnel) as client:
        assert exchange(client, b"a") == b"a"
        ((old, _),) = graceful.pods("web").values()
        cluster.trouble("/deployments/web", status, "etcdserver: leader changed")
        before = len(cluster.requests)
        graceful.delete_pod(old)
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(ask, tunnel)  # waits
            until(lambda: sum("/deployments/web" in each for each in cluster.requests[before:]) > 1)
            assert exchange(client, b"b") == b"b"
            cluster.trouble("/deployments/web")
            assert late.result(10) == b"ping"
        assert served_to_the_end(client) > 0
        assert (tunnel.state, stats(tunnel).reconnects) == (xf.TunnelState.READY, 0)


# ---- a service that leads elsewhere


@pytest.fixture
def colours(embedded: EmbeddedPeer) -> EmbeddedPeer:
    """The pods `blue` and `green`, and a service `web` that leads to the blue one."""
    for colour in ("blue", "green"):
        embedded.add_pod(colour)
    embedded.embedded.add_service("web", selector={"app": "blue"}, ports=[{"name": "echo", "port": ECHO}])
    return embedded


def select(cluster: EmbeddedPeer, app: str) -> None:
    cluster.embedded.change_service("web", selector={"app": app})


def test_service_that_selects_other_pods_is_followed_and_who_is_connected_stays(colours: EmbeddedPeer) -> None:
    with opened(colours, "echo", where="svc/web") as tunnel, connect(tunnel) as client:
        assert (exchange(client, b"a"), behind(tunnel)) == (b"a", f"pod/blue:{ECHO}")
        select(colours, "green")
        until(lambda: behind(tunnel) == f"pod/green:{ECHO}")
        assert (ask(tunnel), exchange(client, b"b")) == (b"ping", b"b")
        colours.delete_pod("blue")  # which is still followed: its end is no complete answer
        ends_by_reset(client)
        assert (ask(tunnel), stats(tunnel).reconnects) == (b"ping", 0)


def test_new_connection_waits_for_a_pod_that_the_service_leads_to_now(colours: EmbeddedPeer) -> None:
    colours.add_pod("red", ready=False)
    with opened(colours, "echo", where="svc/web") as tunnel, connect(tunnel) as client, ThreadPoolExecutor(1) as pool:
        assert exchange(client, b"a") == b"a"
        select(colours, "red")
        until(lambda: "svc/web leads to pod/blue no more; waiting for another pod" in notes(tunnel))
        late: Future[bytes] = pool.submit(ask, tunnel)
        assert exchange(client, b"b") == b"b"
        colours.set_ready("red")
        assert late.result(10) == b"ping"
        assert (behind(tunnel), exchange(client, b"c")) == (f"pod/red:{ECHO}", b"c")


def notes(tunnel: xf.Tunnel) -> tuple[str, ...]:
    stats(tunnel)
    return tunnel.snapshot.notes


def test_pod_that_is_taken_out_of_its_service_gets_no_new_connection(colours: EmbeddedPeer) -> None:
    """`kubectl label pod blue app-`, to look at it in peace."""
    other = colours.embedded.add_pod("other", labels={"app": "blue"}, **colours.template())
    with opened(colours, "echo", where="svc/web") as tunnel, connect(tunnel) as client:
        assert exchange(client, b"a") == b"a"
        pods = {f"pod/{pod.name}:{ECHO}": pod for pod in (colours.alone["blue"], other)}
        pods.pop(behind(tunnel)).relabel({})
        until(lambda: [behind(tunnel)] == list(pods))
        assert (ask(tunnel), exchange(client, b"b")) == (b"ping", b"b")


def test_service_without_a_selector_is_followed_by_its_slices(embedded: EmbeddedPeer) -> None:
    cluster = embedded.embedded
    for name in ("blue", "green"):
        embedded.add_pod(name)
    cluster.add_service("web", ports=[{"name": "echo", "port": ECHO}])
    cluster.add_endpoint_slice("web", pods=["blue"])
    with opened(embedded, "echo", where="svc/web") as tunnel:
        assert behind(tunnel) == f"pod/blue:{ECHO}"

        def switch() -> None:
            store = cluster.state.store
            (body,) = store.of_kind("endpointslices", "default")
            endpoint = dict(body["endpoints"][0])
            endpoint["targetRef"] = endpoint["targetRef"] | {"name": "green"}
            store.put("endpointslices", body | {"endpoints": [endpoint]})

        cluster.call(switch)
        until(lambda: behind(tunnel) == f"pod/green:{ECHO}")
        assert ask(tunnel) == b"ping"


@pytest.mark.parametrize("watched", [True, False])
def test_ports_of_a_service_are_those_it_has_now(colours: EmbeddedPeer, watched: bool) -> None:
    """Also for a tunnel that joins another one, and where the user may not watch."""
    cluster = colours.embedded
    if not watched:
        cluster.deny("watch", "services")
    with opened(colours, "echo", where="svc/web") as tunnel:
        assert ask(tunnel) == b"ping"
        other = {"name": "echo", "port": ECHO, "targetPort": NUMBERS["banner"], "protocol": "TCP"}
        new = {"name": "new", "port": 81, "targetPort": ECHO, "protocol": "TCP"}
        cluster.change_service("web", ports=[other, new])
        with opened(colours, 81, where="svc/web", name="joins") as joins:
            assert (ask(joins), behind(joins)) == (b"ping", f"pod/blue:{ECHO}")
        until(lambda: behind(tunnel) == f"pod/blue:{NUMBERS['banner']}")
        with pytest.raises(xf.ConfigError, match="the service has no port 82"):
            opened(colours, 82, where="svc/web", name="none").__enter__()


# ---- a node that errs


def test_node_that_does_not_know_a_ready_pod_is_told_and_nobody_is_stormed(embedded: EmbeddedPeer) -> None:
    """A kubelet that has just begun: a plain 404, which is not the API server's."""
    cluster = embedded.embedded
    embedded.add_workload("deployment", "web")
    with opened(embedded, "echo", where="deploy/web") as tunnel:
        cluster.trouble("/portforward", 404, "pod does not exist")
        before = len(cluster.requests)
        with pytest.raises(ConnectionResetError):
            ask(tunnel)
        until(lambda: stats(tunnel).refused == 1)
        assert "the pod's node answers 404: pod does not exist" in str(tunnel.error)
        assert len(cluster.requests) - before < 10
        cluster.trouble("/portforward")
        assert ask(tunnel) == b"ping"
        assert (tunnel.state, stats(tunnel).reconnects) == (xf.TunnelState.READY, 0)


def test_clients_of_a_pod_whose_sandbox_is_made_anew_wait_for_it(embedded: EmbeddedPeer) -> None:
    cluster = embedded.embedded
    workload = cluster.add_deployment("web", **embedded.template())
    with opened(embedded, "echo", where="deploy/web") as tunnel, ThreadPoolExecutor(4) as pool:
        assert ask(tunnel) == b"ping"
        remake = workload.pods[0].lose_sandbox()
        before = len(cluster.requests)
        answers = [pool.submit(ask, tunnel) for _ in range(4)]
        timer = threading.Timer(1.0, remake)
        timer.start()
        assert [answer.result(10) for answer in answers] == [b"ping"] * 4
        timer.join()
        assert len(cluster.requests) - before < 60
        assert (tunnel.state, stats(tunnel).reconnects) == (xf.TunnelState.READY, 0)


# ---- a pod that is not ready


@pytest.fixture
def far_away(embedded: EmbeddedPeer, tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig of the embedded cluster, behind 50 ms."""
    with Distance(int(embedded.embedded.server.rpartition(":")[2]), 0.025) as distance:
        entry = {"server": f"https://127.0.0.1:{distance.port}"}
        yield embedded.embedded.write_kubeconfig(tmp_path / "far", Context(cluster=entry))


def test_clients_of_a_pod_that_is_not_ready_share_one_look_for_another(embedded: EmbeddedPeer, far_away: Path) -> None:
    cluster = embedded.embedded
    embedded.add_workload("deployment", "web")
    ((name, _),) = embedded.pods("web").values()
    cluster_as_seen = xf.k8s(kubeconfig=far_away)
    with cluster_as_seen.port_forward(deployment="web", local_port=0, remote_port=ECHO, no_check=True) as tunnel:
        assert ask(tunnel) == b"ping"
        cluster.call(lambda: cluster.state.controller.run_pod("default", name, ready=False))
        before = len(cluster.requests)

        def looks() -> int:
            return sum(each.endswith("/deployments/web") for each in cluster.requests[before:])

        until(lambda: ask(tunnel) == b"ping" and looks())
        before = len(cluster.requests)
        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(lambda _: ask(tunnel), range(20))) == [b"ping"] * 20
        assert looks() <= 2
