"""The half of the peers that needs a real cluster, as far as it can be held to the truth without one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from xec_forward.demo.cluster import Cluster
from xec_forward.demo.cluster.kubeconfig import Context

from . import programs, real
from .peer import NUMBERS, EmbeddedPeer
from .real import RealPeer, Refused
from .test_ways_to_the_api_server import proxied, tls_of

IMAGE = "python:3.13-alpine"
OBJECTS: list[tuple[str, real.Body]] = [
    ("V1Namespace", real.namespace("xec-forward-test-0")),
    ("V1ConfigMap", real.script()),
    ("V1Pod", real.pod("web", IMAGE, gated=True)),
    ("V1Deployment", real.workload("deployment", "web", IMAGE, 2)),
    ("V1StatefulSet", real.workload("statefulset", "web", IMAGE, 1)),
    ("V1ReplicaSet", real.workload("replicaset", "web", IMAGE, 1)),
    ("V1DaemonSet", real.workload("daemonset", "web", IMAGE, 1)),
    ("V1Job", real.workload("job", "web", IMAGE, 1)),
    ("V1Service", real.service("web", ({"name": "echo", "port": 80, "targetPort": "echo"},), headless=True)),
]


@pytest.mark.parametrize(("model", "body"), OBJECTS, ids=[model for model, _ in OBJECTS])
async def test_object_has_only_fields_that_the_api_knows_and_all_that_it_requires(model: str, body: Any) -> None:
    """Read into the models of the API's own description, which check it, and written again, nothing is lost."""
    from kubernetes_asyncio.client import ApiClient

    async with ApiClient() as client:
        read = client._ApiClient__deserialize(body, model)
        assert client.sanitize_for_serialization(read) == body


def test_requests_see_pods_and_replace_them(cluster: Cluster, embedded: EmbeddedPeer) -> None:
    embedded.add_workload("deployment", "web")
    peer = RealPeer(cluster.kubeconfig, IMAGE)
    peer.namespace = "default"
    try:
        before = peer.pods("web")
        assert before == embedded.pods("web")
        ((old, ready),) = before.values()
        assert ready
        peer.delete_pod(old)
        new = peer.replacement("web", before)
        assert (new, True) in embedded.pods("web").values()
        assert peer._runs(new)
        with pytest.raises(Refused, match="404"):
            peer.delete_pod("nothing")
    finally:
        peer.rest.close()


def test_wait_in_vain_tells_the_pods_state_and_the_events(
    cluster: Cluster, embedded: EmbeddedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_pod("web", labels={"app": "web"}).pending("0/1 nodes are available: 1 node has a taint")
    peer = RealPeer(cluster.kubeconfig, IMAGE)
    peer.namespace = "default"
    event = {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "involvedObject": {"kind": "ReplicaSet", "name": "web-1"},
        "message": 'forbidden: violates PodSecurity "restricted:latest"',
    }
    ask = peer.rest

    def answer(method: str, path: str, **words: str) -> real.Body:
        """The embedded server keeps no events."""
        return {"items": [event]} if path.endswith("/events") else ask(method, path, **words)

    monkeypatch.setattr(peer, "rest", answer)
    peer.patience = 0.3
    try:
        with pytest.raises(AssertionError) as caught:
            peer._until("web", lambda: peer._ready("web") == 1)
    finally:
        ask.close()
    said = str(caught.value)
    assert "pod/web is Pending; PodScheduled: 0/1 nodes are available" in said
    assert "ReplicaSet/web-1: forbidden: violates PodSecurity" in said


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_and_server_name_of_the_kubeconfig_count_here_too(cluster: Cluster, tmp_path: Path, scheme: str) -> None:
    tls = tls_of(cluster._authority, tmp_path) if scheme == "https" else None
    with proxied(tls) as proxy:
        proxy.routes["kubernetes.test:443"] = ("127.0.0.1", int(cluster.server.rpartition(":")[2]))
        entry = {
            "server": "https://kubernetes.test",
            "tls-server-name": "kubernetes",
            "proxy-url": f"{scheme}://127.0.0.1:{proxy.port}",
        }
        rest = real.Rest(cluster.write_kubeconfig(tmp_path / "config", Context(cluster=entry)))
        try:
            assert rest("GET", "/version")["major"] == "1"
        finally:
            rest.close()
        assert proxy.asked == ["kubernetes.test:443"]


def test_distance_of_the_cluster_widens_the_bounds(cluster: Cluster) -> None:
    peer = RealPeer(cluster.kubeconfig, IMAGE)
    try:
        assert 0 < peer._measure() < 1
        peer.distance = 0.1
        assert peer.within(0.5) == 2.5
        assert EmbeddedPeer.distance == 0
    finally:
        peer.rest.close()


def test_every_pod_is_one_that_restricted_pod_security_admits() -> None:
    """The Pod Security Standards, "Restricted"."""
    for model, body in OBJECTS:
        spec = body["spec"].get("template", body)["spec"] if model != "V1Service" and "spec" in body else None
        if spec is None:
            continue
        context = spec["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {kind for volume in spec["volumes"] for kind in volume} == {"name", "configMap"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_options_take_their_value_from_the_next_word() -> None:
    """With no path on the line, where pytest would take the value for one unless it knows the option."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--kube-image",
            "python:3",
            "--kubeconfig",
            "LICENSE",
            "--markers",
            "--noconftest",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr


def test_namespace_that_cannot_be_made_leaves_nothing_open(cluster: Cluster) -> None:
    """The embedded server makes no objects by POST: so does one whose user may not."""
    with pytest.raises(Refused), RealPeer(cluster.kubeconfig, IMAGE):
        pass


def test_removal_whose_answer_is_lost_is_asked_for_again_and_hides_no_failure(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = []
    asked: list[str] = []

    def lose(rest: real.Rest, method: str, path: str) -> real.Body:
        asked.append(f"{method} {path}")
        if failures:
            raise failures.pop()
        return {}

    monkeypatch.setattr(real.Rest, "__call__", lose)
    in_vain = [xf.DeadlineError("late"), Refused(503, "no leader"), TimeoutError()]

    def peer() -> RealPeer:
        made = RealPeer(cluster.kubeconfig, IMAGE)
        asked.clear()
        return made

    failures += in_vain
    own, of = ValueError("the test's own"), peer()
    of.__exit__(ValueError, own, None)
    assert asked == [f"DELETE /api/v1/namespaces/{of.namespace}"] * 3
    assert own.__notes__ == [f"the namespace {of.namespace} could not be removed: DeadlineError ETIMEDOUT late"]
    failures += in_vain
    with pytest.raises(AssertionError, match="could not be removed: DeadlineError"):
        peer().__exit__(None, None, None)
    failures += in_vain[:2]
    peer().__exit__(None, None, None)
    assert len(asked) == 3


def test_image_that_the_node_has_is_not_pulled() -> None:
    for image in ("python:3.13-alpine", "registry.test/mine:latest"):
        (container,) = real.pod("web", image, gated=False)["spec"]["containers"]
        assert container["imagePullPolicy"] == "IfNotPresent"


def test_services_of_the_pods_listen_on_both_families() -> None:
    """A pod of a cluster that has IPv6 alone has no other address, and its readiness is looked for there."""
    with programs.listen(0, in_pod=True) as listener:
        for host in ("127.0.0.1", "::1") if socket.has_ipv6 and socket.has_dualstack_ipv6() else ("127.0.0.1",):
            socket.create_connection((host, listener.getsockname()[1]), timeout=5).close()


def test_script_of_the_pods_needs_nothing_but_python(tmp_path: Path) -> None:
    script = tmp_path / "programs.py"
    script.write_text(real.script()["data"]["programs.py"])
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert {int(port) for port in json.loads(process.stdout.readline())} == set(NUMBERS.values())
        process.communicate(timeout=10)
    assert process.returncode == 0
    assert len(script.read_bytes()) < 1 << 20  # the most that a ConfigMap holds
    assert programs.pattern_digest(0) != programs.pattern_digest(1)
