"""The real kubectl against the embedded API server: what it reads, and what it forwards."""

from __future__ import annotations

import hashlib
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.peers.cluster import KubectlForward, kubectl, kubectl_missing
from tests.peers.services import Services, pattern_digest
from xec_forward.demo.cluster import Cluster, Context, Pod

pytestmark = pytest.mark.skipif(bool(kubectl_missing()), reason=kubectl_missing() or "kubectl is there")


@pytest.fixture
def web(cluster: Cluster, services: Services) -> Pod:
    """A pod with a service: port 80 leads to its port `http`, an echo."""
    serves = {
        8080: ("127.0.0.1", services.echo),
        9000: ("127.0.0.1", services.source),
        9001: ("127.0.0.1", services.reset),
        9002: ("127.0.0.1", services.deaf),
    }
    pod = cluster.add_pod("web-1", labels={"app": "web"}, ports={"http": 8080, "source": 9000}, serves=serves)
    cluster.add_service("web", selector={"app": "web"}, ports=[{"name": "www", "port": 80, "targetPort": "http"}])
    return pod


def echoed(client: socket.socket, data: bytes) -> bool:
    client.sendall(data)
    received = b""
    while len(received) < len(data):
        piece = client.recv(65536)
        if not piece:
            break
        received += piece
    return received == data


def test_get_lists_what_there_is(cluster: Cluster, web: Pod) -> None:
    cluster.add_deployment("api", namespace="production", pods=2)
    cluster.add_statefulset("db")
    assert kubectl(cluster, "get", "pods", "-o", "name").stdout.split() == ["pod/db-0", "pod/web-1"]
    assert kubectl(cluster, "get", "svc", "-o", "name").stdout.split() == ["service/web"]
    assert len(kubectl(cluster, "get", "pods", "-A", "-l", "app in (web, api)", "-o", "name").stdout.split()) == 3
    found = kubectl(cluster, "get", "deploy,rs,sts,endpointslices,ns", "-n", "production", "-o", "name").stdout.split()
    assert [name.partition("/")[0] for name in found] == [
        "deployment.apps",
        "replicaset.apps",
        "namespace",
        "namespace",
    ]
    assert "web-1" in kubectl(cluster, "get", "pods").stdout
    assert kubectl(cluster, "version").stdout.rstrip().endswith("Server Version: v1.36.0")


def test_get_of_what_is_missing_or_denied(cluster: Cluster, web: Pod) -> None:
    assert 'Error from server (NotFound): pods "nope" not found' in kubectl(cluster, "get", "pod", "nope").stderr
    cluster.deny("list", "secrets")
    refused = kubectl(cluster, "get", "secrets")
    assert refused.returncode == 1
    assert 'secrets is forbidden: User "admin" cannot list resource "secrets" in API group ""' in refused.stderr


def test_secret_is_readable(cluster: Cluster) -> None:
    cluster.add_secret("pg", {"password": b"s3cret"})
    assert kubectl(cluster, "get", "secret", "pg", "-o", "jsonpath={.data.password}").stdout == "czNjcmV0"


def test_certificate_and_expired_token(cluster: Cluster, web: Pod, tmp_path: Path) -> None:
    path = cluster.write_kubeconfig(tmp_path / "config", Context(auth="certificate", user="ana"))
    assert path.stat().st_mode & 0o777 == 0o600
    cluster.deny("get", "pods", user="ana")
    assert 'User "ana" cannot get' in kubectl(cluster, "get", "pod", "web-1", kubeconfig=path).stderr
    cluster.expire_token(cluster.token)
    assert "Unauthorized" in kubectl(cluster, "get", "pods").stderr


@pytest.mark.parametrize("protocols", [{"spdy-tunnel", "v4", "spdy-raw"}, {"v4", "spdy-raw"}])
@pytest.mark.parametrize(
    "words",
    [("web-1", ":8080"), ("pod/web-1", ":http"), ("svc/web", ":80"), ("svc/web", ":www"), ("deploy/api", ":http")],
)
def test_forward_leads_to_the_port(cluster: Cluster, web: Pod, protocols: set[str], words: tuple[str, ...]) -> None:
    serves = {8080: web_address(cluster, web)}
    cluster.add_deployment("api", ports={"http": 8080}, serves=serves)
    cluster.protocols = protocols
    with KubectlForward(cluster, *words) as forward, forward.connect() as client:
        assert echoed(client, b"hello")
    assert cluster.upgraded == ["spdy-tunnel" if "spdy-tunnel" in protocols else "spdy-raw"]


def web_address(cluster: Cluster, pod: Pod) -> tuple[str, int]:
    return cluster.call(lambda: cluster.state.controller.sandboxes[pod.uid].serves[8080])


def test_many_connections_at_once(cluster: Cluster, web: Pod) -> None:
    with KubectlForward(cluster, "web-1", ":8080") as forward:

        def one(number: int) -> bool:
            with forward.connect() as client:
                return echoed(client, bytes([number]) * 40_000)

        with ThreadPoolExecutor(10) as pool:
            assert all(pool.map(one, range(40)))
    assert cluster.streams.total == 40
    assert cluster.upgrades.total == 1


def test_download_is_whole(cluster: Cluster, web: Pod) -> None:
    with KubectlForward(cluster, "web-1", ":9000") as forward, forward.connect() as client:
        client.sendall(b"20000000\n")
        digest = hashlib.sha256()
        while data := client.recv(1 << 20):
            digest.update(data)
    assert digest.hexdigest() == pattern_digest(20_000_000)


def test_refused_port_ends_kubectl_as_it_does_on_a_real_cluster(cluster: Cluster, web: Pod) -> None:
    with KubectlForward(cluster, "web-1", ":9") as forward:
        with forward.connect() as client:
            assert client.recv(1) == b""
        status, said = forward.wait()
    assert status == 1
    assert "failed to connect to localhost:9 inside namespace" in said
    assert "connect: connection refused" in said


def test_reset_by_the_pod_ends_kubectl_too(cluster: Cluster, web: Pod) -> None:
    with KubectlForward(cluster, "web-1", ":9001") as forward:
        with forward.connect() as client:
            client.sendall(b"x")
            assert client.recv(1) == b""
        status, said = forward.wait()
    assert status == 1
    assert "read: connection reset by peer" in said


def test_stalled_upload_freezes_the_upgrade(cluster: Cluster, web: Pod) -> None:
    """The protocol's own flaw, which the client's pool of upgrades is there to avoid."""
    with KubectlForward(cluster, "web-1", ":8080", ":9002", ports=2) as forward:
        with forward.connect(1) as stalled, forward.connect(0) as other:
            assert echoed(other, b"before")
            stalled.settimeout(1.0)
            block = struct.pack(">Q", 0) * 8192
            with pytest.raises(TimeoutError):
                while True:
                    stalled.sendall(block)
            other.settimeout(1.0)
            other.sendall(b"after")
            with pytest.raises(TimeoutError):
                other.recv(5)


def test_pending_pod_and_missing_permission(cluster: Cluster, web: Pod) -> None:
    web.pending("0/1 nodes are available")
    refused = kubectl(cluster, "port-forward", "web-1", ":8080", "--pod-running-timeout=1s")
    assert refused.returncode == 1
    assert "status=Pending" in refused.stderr
    web.set_ready(True)
    cluster.deny("create", "pods/portforward")
    assert "is forbidden" in kubectl(cluster, "port-forward", "web-1", ":8080").stderr


def test_delete_replaces_the_pod_of_a_deployment(cluster: Cluster) -> None:
    deployment = cluster.add_deployment("api")
    (pod,) = deployment.pods
    assert kubectl(cluster, "delete", "pod", pod.name, "--wait=true").returncode == 0
    assert pod.body is None
    (fresh,) = deployment.pods
    assert fresh.name != pod.name
    fresh.wait_ready()
