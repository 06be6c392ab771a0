"""The embedded API server's objects, watches and refusals, against those that a real one answered."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.peers.wire import rest
from xec_forward.demo.cluster import Cluster
from xec_forward.demo.lifeline import ServiceProcess

DEADLINE = 15
PODS = "/api/v1/namespaces/default/pods"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
PORTS: dict[str, int | tuple[int, str]] = {
    "echo": 7000,
    "hostecho": 7008,
    "http": 8080,
    "dns": (5353, "UDP"),
}


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the cluster with the admin's token."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=cluster.authority.decode()))
    headers = {"Authorization": f"Bearer {cluster.token}"}
    timeout = aiohttp.ClientTimeout(DEADLINE)
    async with aiohttp.ClientSession(cluster.server, connector=connector, headers=headers, timeout=timeout) as session:
        yield session


async def get(api: aiohttp.ClientSession, path: str, code: int = 200, **query: str) -> Any:
    async with api.get(path, params=query) as response:
        assert response.status == code
        return await response.json()


async def watched(
    api: aiohttp.ClientSession, path: str, act: Callable[[], object], enough: Callable[[Any], bool], **query: str
) -> list[Any]:
    """The events of a watch from `act` on, up to one that is enough."""
    version = (await get(api, path))["metadata"]["resourceVersion"]
    events: list[Any] = []
    async with api.get(path, params={"watch": "1", "resourceVersion": version, **query}) as response:
        assert response.status == 200
        await asyncio.to_thread(act)
        async for line in response.content:
            events.append(json.loads(line))
            if enough(events[-1]):
                break
    return events


def shape(body: Any, *, ignore: frozenset[str] = frozenset()) -> Any:
    """The fields that an object has, as nested keys."""
    if isinstance(body, dict):
        return {key: shape(value, ignore=ignore) for key, value in body.items() if key not in ignore}
    return [shape(body[0], ignore=ignore)] if isinstance(body, list) and body else None


def missing(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """The fields that theirs has and ours lacks."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = [f"{path}.{key}" for key in theirs if key not in ours]
        return found + [
            one for key in theirs if key in ours for one in missing(theirs[key], ours[key], f"{path}.{key}")
        ]
    if isinstance(theirs, list) and isinstance(ours, list) and theirs and ours:
        return missing(theirs[0], ours[0], f"{path}[]")
    return [path] if (theirs is None) != (ours is None) and theirs is not None else []


# What no client of a port-forward reads.
_UNREAD = """
managedFields annotations generation observedGeneration generateName revisionHistoryLimit progressDeadlineSeconds
strategy podManagementPolicy updateStrategy persistentVolumeClaimRetentionPolicy internalTrafficPolicy tolerations
priority enableServiceLinks preemptionPolicy securityContext serviceAccount hostIPs resources
automountServiceAccountToken terminationMessagePath terminationMessagePolicy imagePullPolicy user started imageID
containerID terminated nodeSelector activeDeadlineSeconds conditions terminatingReplicas fullyLabeledReplicas
updatedReplicas currentReplicas currentRevision updateRevision collisionCount
"""
UNREAD = frozenset(_UNREAD.split())


async def test_objects_have_the_fields_that_are_read(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    cluster.add_pod("pf", labels={"app": "pf"}, ports=PORTS)
    cluster.add_pod("pending", labels={"app": "pending"}, ports=PORTS).pending("0/1 nodes are available")
    cluster.add_pod("noimage", labels={"app": "noimage"}).waiting("ErrImageNeverPull", "not present")
    cluster.add_pod("done", labels={"app": "done"}).fail("DeadlineExceeded")
    ports: list[int | Mapping[str, int | str]] = [
        {"name": "echo", "port": 70, "targetPort": "echo"},
        {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"},
    ]
    cluster.add_service("pf", selector={"app": "pf"}, ports=ports)
    cluster.add_service("headless", selector={"app": "sts"}, ports=ports, headless=True)
    cluster.add_service("noselector", ports=[80])
    cluster.add_deployment("dep", pods=2, ports=PORTS)
    cluster.add_statefulset("sts", ports=PORTS)
    apps = "/apis/apps/v1/namespaces/default"
    asked = {
        "pod-ready": f"{PODS}/pf",
        "pod-pending": f"{PODS}/pending",
        "pod-image-missing": f"{PODS}/noimage",
        "pod-failed": f"{PODS}/done",
        "service-pf": "/api/v1/namespaces/default/services/pf",
        "service-headless": "/api/v1/namespaces/default/services/headless",
        "service-noselector": "/api/v1/namespaces/default/services/noselector",
        "endpointslices-pf": f"{SLICES}?labelSelector=kubernetes.io/service-name=pf",
        "endpointslices-headless": f"{SLICES}?labelSelector=kubernetes.io/service-name=headless",
        "endpointslices-noselector": f"{SLICES}?labelSelector=kubernetes.io/service-name=noselector",
        "deployment": f"{apps}/deployments/dep",
        "replicasets-dep": f"{apps}/replicasets",
        "statefulset": f"{apps}/statefulsets/sts",
        "pod-list-dep": f"{PODS}?labelSelector=app=dep",
    }
    for name, path in asked.items():
        ours, theirs = await get(api, path), rest(name)
        assert missing(shape(theirs, ignore=UNREAD), shape(ours)) == [], name
        for field in ("kind", "apiVersion"):
            assert ours[field] == theirs[field]
        if "items" in theirs:
            assert len(ours["items"]) == len(theirs["items"])


async def test_slice_names_the_resolved_ports_and_ready_pods(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    pod = cluster.add_pod("pf", labels={"app": "pf"}, ports=PORTS)
    cluster.add_service("pf", selector={"app": "pf"}, ports=[{"name": "web", "port": 80, "targetPort": "http"}])
    (one,) = (await get(api, SLICES))["items"]
    assert one["ports"] == [{"name": "web", "protocol": "TCP", "port": 8080}]
    assert one["endpoints"][0]["targetRef"]["name"] == "pf"
    assert one["endpoints"][0]["conditions"] == {"ready": True, "serving": True, "terminating": False}
    pod.set_ready(False)
    (one,) = (await get(api, SLICES))["items"]
    assert one["endpoints"][0]["conditions"] == {"ready": False, "serving": False, "terminating": False}


@pytest.mark.parametrize(
    ("name", "path", "denied"),
    [
        ("status-404-pod", f"{PODS}/missing", ""),
        ("status-404-service", "/api/v1/namespaces/default/services/missing", ""),
        ("status-403-get", "/api/v1/namespaces/default/services/pf", "get"),
        ("status-403-list", "/api/v1/namespaces/default/services", "list"),
    ],
)
async def test_refusals_are_worded_as_recorded(
    cluster: Cluster, api: aiohttp.ClientSession, name: str, path: str, denied: str
) -> None:
    user = "system:serviceaccount:default:viewer"
    if denied:
        cluster.deny(denied, "services", user=user)
    headers = {"Authorization": f"Bearer {cluster.new_token(user)}"}
    async with api.get(path, headers=headers) as response:
        assert (response.status, await response.json()) == (rest(name)["code"], rest(name))


async def test_unknown_and_expired_tokens_are_refused(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    token = cluster.new_token("ana")
    headers = {"Authorization": f"Bearer {token}"}
    async with api.get(PODS, headers=headers) as response:
        assert response.status == 200
    cluster.expire_token(token)
    async with api.get(PODS, headers=headers) as response:
        assert (response.status, await response.json()) == (401, rest("status-401"))
    assert not [line for line in cluster.requests if token in line]


async def test_access_review_tells_what_is_denied(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    recorded = rest("selfsubjectaccessreview-denied")
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    for allowed in (True, False):
        async with api.post(path, json={"spec": recorded["spec"]}) as response:
            assert response.status == 201
            assert (await response.json())["status"] == {"allowed": allowed}
        cluster.deny("create", "pods/portforward")


async def test_watch_of_a_replaced_pod_tells_the_recorded_story(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    (pod, _) = cluster.add_deployment("dep", pods=2, ports=PORTS).pods
    events = await watched(
        api, PODS, pod.delete, lambda event: event["type"] == "DELETED", labelSelector="app=dep", timeoutSeconds="12"
    )
    assert life(events, pod.name) == life(
        [line["event"] for line in rest("watch-pods-pod-replaced") if "event" in line], "dep-f4cf4f96f-k9v4k"
    )


def life(events: list[Any], name: str) -> list[tuple[str, str, str, bool]]:
    """What becomes of the deleted pod, called old, and of the one in its place: each state once."""
    told: list[tuple[str, str, str, bool]] = []
    for event in events:
        body = event["object"]
        who = "old" if body["metadata"]["name"] == name else "new"
        ready = {"type": "Ready", "status": "True"}.items()
        state = (
            who,
            event["type"] if event["type"] != "MODIFIED" else "",
            body["status"]["phase"],
            any(ready <= condition.items() for condition in body["status"].get("conditions", ())),
        )
        if state not in told:
            told.append(state)
    return told


async def test_watch_of_slices_sees_a_deletion_at_once(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    (pod, _) = cluster.add_deployment("dep", pods=2, ports=PORTS).pods
    cluster.add_service("dep", selector={"app": "dep"}, ports=[{"name": "web", "port": 80, "targetPort": "http"}])
    events = await watched(api, SLICES, pod.delete, lambda event: conditions(event) == [(True, False)] * 2)
    recorded = [line["event"] for line in rest("watch-endpointslices-pod-replaced") if "event" in line]
    assert [sorted(conditions(event)) for event in events] == [sorted(conditions(event)) for event in recorded]


def conditions(event: Any) -> list[tuple[bool, bool]]:
    """Ready and terminating of each endpoint."""
    found = [endpoint["conditions"] for endpoint in event["object"]["endpoints"]]
    return [(one["ready"], one["terminating"]) for one in found]


async def test_watch_from_a_forgotten_version_is_expired(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    cluster.add_pod("web")
    cluster.forget()
    async with api.get(PODS, params={"watch": "1", "resourceVersion": "1"}) as response:
        assert response.status == 200
        event = json.loads(await response.content.readline())
    recorded = rest("status-410-watch-expired")
    assert event["object"].pop("message").startswith("too old resource version: 1 (")
    del recorded["object"]["message"]
    assert event == recorded


async def test_watch_ends_after_its_time_with_a_bookmark(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    cluster.add_pod("web")
    query = {"watch": "1", "timeoutSeconds": "1", "allowWatchBookmarks": "true", "sendInitialEvents": "true"}
    async with api.get(PODS, params=query) as response:
        events = [json.loads(line) async for line in response.content]
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_server_comes_back_on_its_port(cluster: Cluster, api: aiohttp.ClientSession) -> None:
    async with api.get(PODS, params={"watch": "1"}) as response:
        await asyncio.to_thread(cluster.stop_server)
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(api, PODS)
    await asyncio.to_thread(cluster.start_server)
    assert (await get(api, PODS))["items"] == []


def test_server_that_stopped_in_the_middle_of_a_handshake_answers_nobody(cluster: Cluster) -> None:
    heard, say = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cadata=cluster.authority.decode())
    tls = context.wrap_bio(heard, say, server_hostname="127.0.0.1")
    host, port = "127.0.0.1", int(cluster.server.rpartition(":")[2])
    with socket.create_connection((host, port), DEADLINE) as client:
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client.sendall(say.read())
        heard.write(client.recv(65536))  # so it has been accepted
        cluster.stop_server()
        try:
            tls.do_handshake()
            tls.write(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.sendall(say.read())
            while data := client.recv(65536):
                heard.write(data)
        except ConnectionError:
            pass
        with pytest.raises(ssl.SSLWantReadError):
            tls.read()
        assert cluster.requests == []


async def test_old_server_has_no_tunnel_and_asks_no_create() -> None:
    with Cluster("1.30") as old, Cluster("1.34") as middle, Cluster("1.36") as new:
        assert [one.protocols for one in (old, middle, new)] == [
            {"v4", "spdy-raw"},
            {"v4", "spdy-raw", "spdy-tunnel"},
            {"v4", "spdy-raw", "spdy-tunnel"},
        ]
        assert [one.state.checks_create for one in (old, middle, new)] == [False, False, True]


async def test_nothing_is_left_of_a_closed_cluster() -> None:
    cluster = Cluster()
    folder = cluster.folder
    assert cluster.kubeconfig.stat().st_mode & 0o777 == 0o600
    cluster.close()
    assert not folder.exists()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", int(cluster.server.rpartition(":")[2]))


async def test_cluster_in_a_process_of_its_own(tmp_path: Path) -> None:
    config = {
        "folder": str(tmp_path / "cluster"),
        "pods": [{"name": "web", "labels": {"app": "web"}, "serves": {"80": ["127.0.0.1", 9]}}],
        "workloads": [{"plural": "deployments", "name": "api", "pods": 2}],
        "services": [{"name": "web", "selector": {"app": "web"}, "ports": [80]}],
        "secrets": [{"name": "pg", "data": {"password": "s3cret"}}],
    }
    process = ServiceProcess("the cluster", "xec_forward.demo.cluster", config)
    try:
        report = await asyncio.to_thread(process.ready, 30)
        assert report["pid"] not in (0, os.getpid())
        content = json.loads(await asyncio.to_thread(Path(report["kubeconfig"]).read_text))
        assert content["clusters"][0]["cluster"]["server"] == report["server"]
    finally:
        await asyncio.to_thread(process.stop)
    assert not (tmp_path / "cluster").exists()
