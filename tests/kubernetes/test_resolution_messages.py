"""Why a port-forward does not open, or waits: each reason in its own words, with the fix and the names that exist."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import xec_forward as xf
from xec_forward.client.session import current

from .peer import NUMBERS, UDP, EmbeddedPeer, Peer, until
from .test_port_forward import ask, behind, opened

# An opening's time, seconds, where it is to run out; it includes the engine's start. See `Peer.within`.
SHORT = 3.0


def refusal(
    peer: Peer, kind: type[xf.ForwardError], remote_port: int | str = 7000, **arguments: Any
) -> xf.ForwardError:
    """The error of a port-forward that cannot be opened: one line, and nothing is left of the tunnel."""
    arguments.setdefault("timeout", 10)
    with pytest.raises(kind) as caught:
        peer.cluster().port_forward(local_port=0, remote_port=remote_port, no_check=True, **arguments)
    assert not xf.tunnels
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.hint, text
    return caught.value


def words(error: xf.ForwardError) -> str:
    return f"{error.message} | {error.hint}"


# ---- what is not there


def test_missing_object_names_those_that_exist(peer: Peer) -> None:
    peer.add_pod("web")
    peer.add_service("web", {"name": "echo", "port": 80, "targetPort": 7000})
    began = time.monotonic()
    gone = refusal(peer, xf.NameNotFoundError, service="wbe")
    assert gone.code == "ENOTFOUND"
    assert f"there is no service wbe in the namespace {peer.namespace}" in gone.message
    assert gone.hint == "Those there are: web"
    assert "Those there are: web" in words(refusal(peer, xf.NameNotFoundError, pod="weeb"))
    assert "Write svc/web, which exists" in words(refusal(peer, xf.NameNotFoundError, deployment="web"))
    assert time.monotonic() - began < peer.patience


def test_missing_namespace_says_so(peer: Peer) -> None:
    cluster = xf.k8s(kubeconfig=peer.kubeconfig, namespace="nowhere-at-all")
    with pytest.raises(xf.NameNotFoundError, match="there is no namespace nowhere-at-all"):
        cluster.port_forward(service="web", remote_port=80, no_check=True, timeout=10)
    with pytest.raises(xf.NameNotFoundError, match="there is no namespace nowhere-at-all"):
        cluster.port_forward(selector="app=web", remote_port=80, no_check=True, timeout=10)


def test_object_of_another_namespace_is_named_with_it(embedded: EmbeddedPeer) -> None:
    embedded.embedded.add_service("web", namespace="sales", selector={"app": "web"}, ports=[80])
    assert "Write -n sales, where it is" in words(refusal(embedded, xf.NameNotFoundError, service="web"))


# ---- ports


def test_unknown_port_names_those_there_are(peer: Peer) -> None:
    peer.add_pod("web")
    peer.add_service("web", {"name": "echo", "port": 80, "targetPort": 7000}, {"name": "bye", "port": 81})
    number = refusal(peer, xf.ConfigError, 8080, service="web")
    assert words(number) == "the service has no port 8080 | Its ports are 80 (echo), 81 (bye)"
    assert number.hop == "svc/web"
    assert "the service has no port nope" in words(refusal(peer, xf.ConfigError, "nope", service="web"))
    meant = refusal(peer, xf.ConfigError, 7000, service="web")
    assert meant.hint == "Write 80, the service's port that leads to 7000"
    named = refusal(peer, xf.ConfigError, "nope", pod="web")
    assert "pod/web has no port named nope | Its ports are 7000 (echo)" in words(named)


def test_target_port_whose_name_no_container_has_is_told(peer: Peer) -> None:
    peer.add_pod("web")
    peer.add_service("web", {"name": "http", "port": 80, "targetPort": "nope"})
    text = words(refusal(peer, xf.ConfigError, 80, service="web"))
    assert "port 80 leads to targetPort nope, and pod/web has no port named nope" in text
    assert "7000 (echo)" in text


@pytest.mark.parametrize("wanted", [UDP, "dns"])
def test_udp_is_refused(peer: Peer, wanted: int | str) -> None:
    peer.add_pod("web")
    text = words(refusal(peer, xf.ConfigError, wanted, pod="web"))
    assert f"port {wanted} is UDP, and a Kubernetes port-forward carries TCP only" in text
    peer.add_service("web", {"name": "dns", "port": UDP, "protocol": "UDP"})
    assert "carries TCP only" in words(refusal(peer, xf.ConfigError, wanted, service="web"))


# ---- pods that are not ready


def test_pod_that_is_not_ready_is_waited_for_and_named_when_time_is_up(peer: Peer) -> None:
    peer.add_pod("web", ready=False)
    short = peer.within(SHORT)
    began = time.monotonic()
    error = refusal(peer, xf.DeadlineError, pod="web", timeout=short)
    assert short - 0.1 < time.monotonic() - began < short + 3
    assert error.code == "ETIMEDOUT"
    assert f"not ready within {short:g} s: pod/web is Running but not ready" in error.message
    assert f"kubectl -n {peer.namespace} describe pod web" in (error.hint or "")


def test_tunnel_opens_as_soon_as_the_pod_it_waits_for_is_ready(peer: Peer) -> None:
    peer.add_pod("web", ready=False)
    opening = threading.Thread(target=lambda: done.append(ask_once(peer)))
    done: list[bytes] = []
    opening.start()
    until(lambda: any("pod/web is Running but not ready" in one.snapshot.waiting for one in listed()))
    peer.set_ready("web")
    ready = time.monotonic()
    opening.join(peer.patience)
    assert done == [b"ping"]
    if isinstance(peer, EmbeddedPeer):
        assert time.monotonic() - ready < 2


def ask_once(peer: Peer) -> bytes:
    with opened(peer, "echo", timeout=peer.patience) as tunnel:
        return ask(tunnel)


def listed() -> list[xf.Tunnel]:
    """All tunnels, those that are being opened included."""
    return list(current().tunnels.values())


def test_service_without_a_pod_says_for_which_labels_it_waits(peer: Peer) -> None:
    peer.add_service("web", {"name": "echo", "port": 7000})
    error = refusal(peer, xf.DeadlineError, service="web", timeout=peer.within(SHORT))
    assert "no pod has the labels app=web" in error.message
    assert "kubectl get pods --show-labels" in (error.hint or "")


def test_pod_that_no_node_takes_says_why(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    embedded.alone["web"].pending("0/3 nodes are available: 3 Insufficient cpu. preemption: none")
    error = refusal(embedded, xf.DeadlineError, pod="web", timeout=SHORT)
    assert "pod/web is Pending: 0/3 nodes are available: 3 Insufficient cpu" in error.message
    assert "Mend what keeps it off the nodes" in (error.hint or "")


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("ErrImagePull", "Correct the image's name"),
        ("CrashLoopBackOff", "logs web -c"),
        ("CreateContainerConfigError", "Create the ConfigMap or Secret that it names"),
    ],
)
def test_container_that_does_not_start_says_why(embedded: EmbeddedPeer, reason: str, hint: str) -> None:
    embedded.add_pod("web")
    embedded.alone["web"].waiting(reason)
    error = refusal(embedded, xf.DeadlineError, pod="web", timeout=SHORT)
    assert reason in error.message
    assert hint in (error.hint or "")


def test_pod_that_has_ended_is_gone_at_once(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    embedded.alone["web"].fail("Evicted")
    began = time.monotonic()
    error = refusal(embedded, xf.PodGoneError, pod="web")
    assert error.code == "EPODGONE"
    assert "pod/web has failed: Evicted" in error.message
    assert time.monotonic() - began < 5


def test_deployment_without_pods_to_come_says_how_to_start_one(embedded: EmbeddedPeer) -> None:
    embedded.add_workload("deployment", "web", pods=0)
    error = refusal(embedded, xf.PodGoneError, deployment="web")
    assert "the deployment is scaled to zero" in error.message
    assert error.hint == "kubectl -n default scale deploy/web --replicas=1 starts one"


def test_service_without_a_selector_is_followed_by_its_slices_or_refused(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    embedded.embedded.add_service("manual", ports=[{"name": "echo", "port": 7000}])
    error = refusal(embedded, xf.ConfigError, service="manual")
    assert "no selector, and no EndpointSlice of it names a pod" in error.message
    embedded.embedded.add_endpoint_slice("manual", pods=["web"])
    with opened(embedded, "echo", where="svc/manual") as tunnel:
        assert (ask(tunnel), behind(tunnel)) == (b"ping", "pod/web:7000")


# ---- permissions


def test_refused_permission_is_readable_and_says_how_to_ask_again(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    cluster = embedded.embedded
    cluster.deny("create", "pods/portforward")
    with pytest.raises(xf.RbacError) as caught:
        embedded.cluster().port_forward(pod="web", local_port=0, remote_port=NUMBERS["echo"], timeout=10)
    assert caught.value.code == "ERBAC"
    assert caught.value.message == "admin may not create pods/portforward in the namespace default"
    assert "kubectl auth can-i create pods --subresource=portforward -n default asks again" in (caught.value.hint or "")
    assert not xf.tunnels
    cluster.allow("create", "pods/portforward")
    cluster.deny("get", "pods")
    denied = refusal(embedded, xf.RbacError, pod="web")
    assert denied.message == "admin may not get pods in the namespace default"
    assert "kubectl auth can-i get pods -n default asks again" in (denied.hint or "")


def test_permission_to_createalone_is_enough_for_the_older_way(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    embedded.embedded.deny("get", "pods/portforward")
    with opened(embedded, "echo") as tunnel:
        assert ask(tunnel) == b"ping"
    assert set(embedded.embedded.upgraded) == {"spdy-raw"}
    embedded.embedded.deny("create", "pods/portforward")
    with pytest.raises(xf.RbacError, match="pods/portforward in the namespace default"):
        embedded.cluster().port_forward(pod="web", local_port=0, remote_port=NUMBERS["echo"], timeout=10)


def test_user_who_may_not_watch_still_gets_the_next_pod(embedded: EmbeddedPeer) -> None:
    embedded.add_workload("deployment", "web")
    embedded.embedded.deny("watch", "pods")
    with opened(embedded, "echo", where="deploy/web") as tunnel:
        assert ask(tunnel) == b"ping"
        before = embedded.pods("web")
        ((old, _),) = before.values()
        embedded.delete_pod(old)
        embedded.replacement("web", before)
        assert ask(tunnel) == b"ping"
        assert old not in behind(tunnel)


def test_many_openings_of_a_pod_that_is_not_ready_all_end_in_time(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web", ready=False)

    def one(number: int) -> str:
        with pytest.raises(xf.DeadlineError) as caught:
            embedded.cluster().port_forward(
                pod="web", local_port=0, remote_port=7000, no_check=True, timeout=SHORT, name=f"one_{number}"
            )
        return caught.value.message

    with ThreadPoolExecutor(8) as pool:
        futures: list[Future[str]] = [pool.submit(one, number) for number in range(8)]
        assert all("pod/web is Running but not ready" in each.result(20) for each in futures)
    assert not xf.tunnels
