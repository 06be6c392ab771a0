"""Requests to an API server: what is answered, each refusal and failure in our words, and the ways to reach it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import yaml  # type: ignore[import-untyped]

from tests.peers.http_proxy import http_proxy
from xec_forward.demo.cluster import Cluster
from xec_forward.demo.cluster.certificates import Authority
from xec_forward.demo.cluster.kubeconfig import Context, encoded
from xec_forward.engine.links.kubernetes import api as api_module
from xec_forward.engine.links.kubernetes import body, raw
from xec_forward.engine.links.kubernetes import proxy as proxy_module
from xec_forward.engine.links.kubernetes.api import Api, Expired
from xec_forward.engine.links.kubernetes.config import Context as Found
from xec_forward.engine.links.kubernetes.environment import proxy_for
from xec_forward.engine.links.kubernetes.failures import Answer, ProxyError, judge
from xec_forward.errors import (
    AuthenticationError,
    ConfigError,
    DeadlineError,
    ForwardError,
    LostError,
    NameNotFoundError,
    ProhibitedError,
    RbacError,
    RefusedError,
    UnreachableError,
)
from xec_forward.options import ClusterTarget

T = TypeVar("T")
RECORDED = Path(__file__).parent.parent / "data" / "k8s-wire" / "rest"
PODS = "/api/v1/namespaces/default/pods"
SECRET = "s3cr3t-pa55"


@asynccontextmanager
async def opened(kubeconfig: Path, via: api_module.Via | None = None) -> AsyncIterator[Api]:
    running = await Api.open(ClusterTarget(kubeconfig=str(kubeconfig)), via=via)
    try:
        yield running
    finally:
        await running.close()


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    async with opened(cluster.kubeconfig) as running:
        yield running


async def soon(wanted: Awaitable[T]) -> T:
    async with asyncio.timeout(10):
        return await wanted


# ---- what is answered ----


async def test_objects_lists_and_reviews_are_answered(cluster: Cluster, api: Api) -> None:
    cluster.add_pod("web-1", labels={"app": "web"})
    cluster.add_pod("db-1", labels={"app": "db"})
    assert (api.name, api.namespace, api.server) == ("demo", "default", cluster.server.removeprefix("https://"))
    assert (await soon(api.get(f"{PODS}/web-1")))["metadata"]["name"] == "web-1"
    found = await soon(api.get(PODS, labelSelector="app=db"))
    assert [item["metadata"]["name"] for item in found["items"]] == ["db-1"]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}},
    }
    answer = await soon(api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review))
    assert answer["status"]["allowed"] is True


async def test_watch_tells_changes_until_the_server_ends_it(cluster: Cluster, api: Api) -> None:
    version = (await soon(api.get(PODS)))["metadata"]["resourceVersion"]
    async with aclosing(api.watch(PODS, resource_version=version)) as events:
        cluster.add_pod("web-1")
        event = await soon(anext(events))
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "web-1")
    short = api.watch(PODS, resource_version=version, timeoutSeconds="1")
    names = {event["object"]["metadata"]["name"] async for event in short}
    assert names == {"web-1"}


async def test_watch_from_a_version_that_is_gone_is_expired(cluster: Cluster, api: Api) -> None:
    cluster.add_pod("web-1")
    version = (await soon(api.get(PODS)))["metadata"]["resourceVersion"]
    cluster.add_pod("web-2")
    cluster.forget()
    with pytest.raises(Expired, match="too old resource version"):
        await soon(anext(api.watch(PODS, resource_version=version)))


async def test_watch_is_lost_with_its_server(cluster: Cluster, api: Api) -> None:
    version = (await soon(api.get(PODS)))["metadata"]["resourceVersion"]
    async with aclosing(api.watch(PODS, resource_version=version)) as events:
        cluster.add_pod("web-1")
        await soon(anext(events))
        cluster.stop_server()
        with pytest.raises(LostError, match="broke the connection"):
            while True:
                await soon(anext(events))
    with pytest.raises(RefusedError, match=r"nobody listens there\. Is the cluster running"):
        await soon(api.get(PODS))
    cluster.start_server()
    assert await soon(api.get(PODS))


async def test_within_another_namespace_it_is_the_same_server(cluster: Cluster, api: Api) -> None:
    assert api.within("sales").namespace == "sales"
    assert api.within("").namespace == "default"
    assert await soon(api.within("sales").get("/version"))


async def test_secret_is_read_and_a_missing_key_names_those_there_are(cluster: Cluster, api: Api) -> None:
    cluster.add_secret("pg", {"password": SECRET.encode(), "user": b"ana"})
    assert await soon(api.read_secret("default", "pg", "password")) == SECRET.encode()
    with pytest.raises(NameNotFoundError, match=r"secret default/pg has no key pass\. It has password, user") as caught:
        await soon(api.read_secret("default", "pg", "pass"))
    assert SECRET not in str(caught.value)
    with pytest.raises(NameNotFoundError, match="there is no secret redis in the namespace default"):
        await soon(api.read_secret("default", "redis", "password"))
    cluster.deny("get", "secrets")
    with pytest.raises(RbacError, match="admin may not get secrets in the namespace default"):
        await soon(api.read_secret("default", "pg", "password"))


# ---- refusals ----


@pytest.mark.parametrize(
    ("recorded", "kind", "words"),
    [
        (
            "status-403-get",
            RbacError,
            "ERBAC api:443: system:serviceaccount:default:viewer may not get services in the namespace default. "
            "kubectl auth can-i get services -n default asks again; a Role that allows it is granted by whoever "
            "runs the cluster",
        ),
        ("status-403-list", RbacError, "viewer may not list services in the namespace default"),
        ("status-404-pod", NameNotFoundError, "there is no pod missing in the namespace default. Check its name, and"),
        ("status-404-service", NameNotFoundError, "there is no service missing in the namespace default"),
        ("status-401", AuthenticationError, "the cluster does not accept the credentials of ana"),
    ],
)
def test_recorded_refusals_are_readable(recorded: str, kind: type[ForwardError], words: str) -> None:
    body = (RECORDED / f"{recorded}.json").read_bytes()
    context = Found("demo", "default", {}, {"token": "t"}, "ana", "/file")
    error = judge(Answer(json.loads(body)["code"], body), "api:443", context, "default")
    assert type(error) is kind
    assert words in str(error)


def test_refusal_of_a_subresource_asks_kubectl_the_right_question() -> None:
    text = (
        'pods "pf" is forbidden: User "ana" cannot create resource "pods/portforward" in API group "" in the namespace'
    )
    body = json.dumps({"kind": "Status", "reason": "Forbidden", "message": f'{text} "apps"'}).encode()
    error = judge(Answer(403, body), "api", Found("demo", "apps", {}, {}, "", "/file"), "apps")
    assert error.message == "ana may not create pods/portforward in the namespace apps"
    assert error.hint.startswith("kubectl auth can-i create pods --subresource=portforward -n apps asks again")


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (302, b"", ConfigError, "no API server: it redirects"),
        (
            400,
            b'{"kind":"Status","message":"pod x does not\\nhave a host"}',
            RefusedError,
            "400.: pod x does not have a",
        ),
        (403, b"unable to upgrade", ProhibitedError, "does not allow it: unable to upgrade"),
        (403, b"<html>no</html>", ProhibitedError, "no reason given"),
        (404, b"page not found", NameNotFoundError, "page not found. Is it the API server's address"),
        (429, b"", UnreachableError, "answers 429: it gives no reason"),
        (500, b'pod not found ("x")', UnreachableError, 'answers 500: pod not found ."x".'),
        (503, b"[]", UnreachableError, "answers 503"),
    ],
)
def test_other_refusals_keep_the_servers_words(status: int, body: bytes, kind: type[ForwardError], words: str) -> None:
    with pytest.raises(kind, match=words):
        raise judge(Answer(status, body), "api", Found("demo", "", {}, {}, "", "/file"), "")


async def test_error_has_the_answer_as_its_cause(api: Api) -> None:
    with pytest.raises(NameNotFoundError) as caught:
        await soon(api.get(f"{PODS}/nobody"))
    assert isinstance(caught.value.__cause__, Answer)
    assert (caught.value.__cause__.status, caught.value.__cause__.reason) == (404, "NotFound")
    assert caught.value.hop == api.server


# ---- who we are ----


async def test_expired_token_is_renewed_once_by_its_plugin(cluster: Cluster, tmp_path: Path) -> None:
    path, script = tmp_path / "config", tmp_path / "login"
    first, second = cluster.new_token("ana"), cluster.new_token("ana")

    def gives(token: str) -> None:
        status = {"token": token}
        answer = {"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": status}
        script.write_text(f"#!/bin/sh\necho run >>{tmp_path}/runs\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
        script.chmod(0o700)

    gives(first)
    entry = {"exec": {"command": str(script), "apiVersion": "client.authentication.k8s.io/v1"}}
    async with opened(cluster.write_kubeconfig(path, Context(auth=entry))) as api:
        assert await soon(api.get(PODS))
        cluster.expire_token(first)
        gives(second)
        answers = await soon(asyncio.gather(*(api.get(PODS) for _ in range(5))))
        assert len(answers) == 5
        assert (tmp_path / "runs").read_text().count("run") == 2
        cluster.expire_token(second)
        with pytest.raises(AuthenticationError, match=r"the credentials of demo\. Its plugin .*login gave"):
            await soon(api.get(PODS))


async def test_refused_token_is_looked_for_in_the_kubeconfig_again(cluster: Cluster, tmp_path: Path) -> None:
    path = cluster.write_kubeconfig(tmp_path / "config", Context(auth={"token": cluster.new_token("ana")}))
    async with opened(path) as api:
        token = json.loads(path.read_text())["users"][0]["user"]["token"]
        cluster.expire_token(token)
        with pytest.raises(AuthenticationError, match="Log in anew, or get a new token") as caught:
            await soon(api.get(PODS))
        assert token not in str(caught.value)
        cluster.write_kubeconfig(path)
        assert await soon(api.get(PODS))


async def test_client_certificate_and_token_file_log_in(cluster: Cluster, tmp_path: Path) -> None:
    cluster.deny("list", "pods", user="ana")
    for auth in ("certificate", "token-file"):
        path = cluster.write_kubeconfig(tmp_path / auth, Context(user="ana", auth=auth))
        async with opened(path) as api:
            with pytest.raises(RbacError, match="ana may not list pods in the namespace default"):
                await soon(api.get(PODS))


@pytest.mark.parametrize("way", ["request", "upgrade"])
async def test_whom_to_act_as_is_told_whatever_it_is_called(cluster: Cluster, tmp_path: Path, way: str) -> None:
    cluster.add_pod("web-1")
    user = {"token": cluster.token, "as": "Jörg", "as-user-extra": {"example.org/scopes": ["view"]}}
    async with opened(cluster.write_kubeconfig(tmp_path / "config", Context(auth=user))) as api:
        assert await soon(api.get(PODS) if way == "request" else upgraded(api))


async def test_no_credentials_at_all_say_so(cluster: Cluster, tmp_path: Path) -> None:
    async with opened(cluster.write_kubeconfig(tmp_path / "config", Context(auth="none"))) as api:
        with pytest.raises(AuthenticationError, match="The context demo names no user"):
            await soon(api.get(PODS))


# ---- TLS, and what else stands at an address ----


def changed(cluster: Cluster, path: Path, entry: Mapping[str, Any]) -> Path:
    """The cluster's kubeconfig with something else in its cluster's entry; None takes it away."""
    return cluster.write_kubeconfig(path, Context(cluster=entry))


class Peer(asyncio.Protocol):
    """Keeps what comes on an upgrade."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self.received = bytearray()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


SPDY = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "portforward.k8s.io"}


async def upgraded(api: Api, pod: str = "web-1") -> Peer:
    return await soon(api.upgrade("POST", f"{PODS}/{pod}/portforward", (), SPDY, Peer))


WAYS: list[Callable[[Api], Awaitable[object]]] = [lambda api: api.get(PODS), upgraded]
both_ways = pytest.mark.parametrize("ask", WAYS, ids=["request", "upgrade"])
Ask = Callable[[Api], Awaitable[object]]


@both_ways
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"certificate-authority-data": encoded(Authority().pem)},
            "certificate is not trusted: self-signed .*Put its auth",
        ),
        ({"certificate-authority-data": None}, "the API server's certificate is not trusted"),
        ({"tls-server-name": "elsewhere"}, "is for another name: hostname mismatch.*Add tls-server-name: with a name"),
    ],
)
async def test_certificate_that_cannot_be_checked_is_refused(
    cluster: Cluster, tmp_path: Path, ask: Ask, entry: dict[str, Any], words: str
) -> None:
    async with opened(changed(cluster, tmp_path / "config", entry)) as api:
        with pytest.raises(ConfigError, match=words):
            await soon(ask(api))


@both_ways
@pytest.mark.parametrize(
    "entry",
    [
        {"certificate-authority-data": None, "insecure-skip-tls-verify": True},
        {"tls-server-name": "kubernetes"},
        {"server": "https://localhost:PORT"},
        {"server": "localhost:PORT/"},
    ],
)
async def test_tls_settings_of_the_cluster_entry_are_honoured(
    cluster: Cluster, tmp_path: Path, ask: Ask, entry: dict[str, Any]
) -> None:
    cluster.add_pod("web-1")
    port = cluster.server.rpartition(":")[2]
    told = {key: value.replace("PORT", port) if isinstance(value, str) else value for key, value in entry.items()}
    if "server" in told and "://" not in told["server"]:
        authority = tmp_path / "ca.crt"
        authority.write_bytes(cluster.authority)
        told |= {"certificate-authority": "ca.crt", "certificate-authority-data": None}
    async with opened(changed(cluster, tmp_path / "config", told)) as api:
        assert await soon(ask(api))


@asynccontextmanager
async def answering(reply: bytes | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[str]]]:
    """A server with one answer to everything (None: silence), and the heads of what it was asked."""
    heads: list[str] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                if reply is not None:
                    writer.write(reply)
                    await writer.drain()
                    if not any(each in reply for each in (b"Content-Length", b"chunked", b" 101 ")):
                        return writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()
        for writer in writers:
            writer.close()


def plain(tmp_path: Path, server: str, entry: Mapping[str, Any] | None = None) -> Path:
    """A kubeconfig for a server that is no cluster of ours."""
    path = tmp_path / "plain"
    document = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": server, **(entry or {})}}],
        "users": [{"name": "it", "user": {"token": "t0ken"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


@both_ways
@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", RefusedError, "does not speak HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://x/?t=1\r\nContent-Length: 0\r\n\r\n", ConfigError, "it redirects"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nno leader", UnreachableError, "answers 503: no leader"),
        (b"HTTP/1.1 503 No\r\n\r\nno leader", UnreachableError, "answers 503: no leader"),
        (
            b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n6;x=y\r\nleader\r\n0\r\nT: x\r\n\r\n",
            UnreachableError,
            "answers 503: no leader$",
        ),
        (
            b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nno leader",
            UnreachableError,
            "answers 503: no leader",
        ),
        (b"", LostError, "broke the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", LostError, "broke the connection"),
    ],
)
async def test_what_is_no_api_server_is_told(
    tmp_path: Path, ask: Ask, reply: bytes, kind: type[ForwardError], words: str
) -> None:
    async with answering(reply) as (port, _), opened(plain(tmp_path, f"http://127.0.0.1:{port}")) as api:
        with pytest.raises(kind, match=words) as caught:
            await soon(ask(api))
        assert caught.value.hop == f"127.0.0.1:{port}"


@both_ways
async def test_server_that_is_busy_is_asked_again_when_it_says_and_not_for_ever(
    cluster: Cluster, api: Api, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_pod("web-1")
    cluster.be_busy(429)
    assert await soon(ask(api))
    for after, tries in ((b"0", 3), (b"60", 1), (b"Fri, 27 Nov 2026 10:00:00 GMT", 1)):
        monkeypatch.setattr(api_module, "PATIENCE", 0.25)
        reply = b"HTTP/1.1 503 No\r\nContent-Length: 9\r\nRetry-After: " + after + b"\r\n\r\nno leader"
        async with answering(reply) as (port, heads), opened(plain(tmp_path, f"http://127.0.0.1:{port}")) as other:
            with pytest.raises(UnreachableError, match="answers 503: no leader"):
                await soon(ask(other))
            assert len(heads) in ((tries, tries + 1) if tries > 1 else (1,))


async def test_page_in_the_place_of_json_is_told(tmp_path: Path) -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"
    async with answering(reply) as (port, _), opened(plain(tmp_path, f"http://127.0.0.1:{port}")) as api:
        with pytest.raises(ConfigError, match="what answers there is no API server"):
            await soon(api.get(PODS))


@both_ways
async def test_plain_server_behind_https_is_told(tmp_path: Path, ask: Ask) -> None:
    reply = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(reply)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with opened(plain(tmp_path, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as api:
        with pytest.raises(ConfigError, match=r"does not speak TLS\. Check server: in"):
            await soon(ask(api))
    server.close()
    for writer in writers:
        writer.close()


@both_ways
async def test_silent_server_ends_at_the_deadline(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "DEADLINE", 0.3)
    async with answering(None) as (port, _), opened(plain(tmp_path, f"http://127.0.0.1:{port}")) as api:
        with pytest.raises(DeadlineError, match="no answer from the API server"):
            await soon(ask(api))


async def test_silence_after_an_upgrade_was_asked_for_may_be_that_of_the_pods_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server asks the node for as long as 30 s. Where TLS is not answered, it is the server's own."""
    monkeypatch.setattr(api_module, "DEADLINE", 0.3)
    async with answering(None) as (port, _):
        async with opened(plain(tmp_path, f"http://127.0.0.1:{port}")) as api:
            with pytest.raises(
                DeadlineError, match=r"it is silent, or the pod's node behind it is\. Is the node ready"
            ):
                await upgraded(api)
        async with opened(plain(tmp_path, f"https://127.0.0.1:{port}")) as api:
            with pytest.raises(DeadlineError, match=r"no answer from the API server\. Is the network, or the VPN, up"):
                await upgraded(api)


@both_ways
async def test_name_that_does_not_resolve_and_refused_port_are_told(tmp_path: Path, ask: Ask) -> None:
    async with opened(plain(tmp_path, "https://api.does-not-exist.invalid")) as api:
        with pytest.raises(NameNotFoundError, match=r"api\.does-not-exist\.invalid:443: its name does not resolve"):
            await soon(ask(api))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with opened(plain(tmp_path, f"https://127.0.0.1:{held.getsockname()[1]}")) as api:
            with pytest.raises(RefusedError, match="nobody listens there"):
                await soon(ask(api))


@pytest.mark.parametrize("server", ["ftp://x", "https://", "https://a:b@:99999999"])
async def test_server_that_is_no_url_is_refused(tmp_path: Path, server: str) -> None:
    with pytest.raises(ConfigError, match="its server is no http:// or https:// URL"):
        async with opened(plain(tmp_path, server)):
            pass


async def test_path_before_the_api_is_kept(tmp_path: Path) -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    async with answering(reply) as (port, heads):
        async with opened(plain(tmp_path, f"http://127.0.0.1:{port}/k8s/clusters/c-1/")) as api:
            assert await soon(api.get(PODS)) == {}
            with pytest.raises(RefusedError, match="200"):
                await upgraded(api)
    assert heads[0].startswith(f"GET /k8s/clusters/c-1{PODS} HTTP/1.1")
    assert heads[1].startswith(f"POST /k8s/clusters/c-1{PODS}/web-1/portforward HTTP/1.1")
    assert all("Authorization: Bearer t0ken\r\n" in head for head in heads)


# ---- upgrades ----


async def test_upgrade_hands_the_connection_over(cluster: Cluster, api: Api) -> None:
    cluster.add_pod("web-1")
    peer = await upgraded(api)
    assert peer.headers["upgrade"].lower() == "spdy/3.1"
    ping = b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01"  # SPDY/3.1, 2.6.5
    peer.transport.write(ping)
    async with asyncio.timeout(10):
        while bytes(peer.received) != ping:
            await asyncio.sleep(0.01)
    await api.close()  # what was handed over is not its own
    peer.transport.write(ping[:-1] + b"\x03")
    async with asyncio.timeout(10):
        while len(peer.received) < 24:
            await asyncio.sleep(0.01)
    peer.transport.abort()
    await soon(peer.lost)


async def test_upgrade_keeps_what_came_right_behind_the_answer(tmp_path: Path) -> None:
    reply = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nearly"
    async with answering(reply) as (port, _), opened(plain(tmp_path, f"http://127.0.0.1:{port}")) as api:
        peer = await upgraded(api)
        assert bytes(peer.received) == b"early"
        peer.transport.close()
        await soon(peer.lost)


async def test_refused_upgrade_gives_the_servers_reason(cluster: Cluster, api: Api) -> None:
    with pytest.raises(NameNotFoundError, match="there is no pod web-9 in the namespace default"):
        await upgraded(api, "web-9")
    pod = cluster.add_pod("web-1")
    pod.pending("0/1 nodes are available")
    with pytest.raises(RefusedError, match="pod web-1 does not have a host assigned"):
        await upgraded(api)
    pod.set_ready(True)
    cluster.deny("create", "pods/portforward")
    with pytest.raises(RbacError, match=r"admin may not create pods/portforward .*--subresource=portforward"):
        await upgraded(api)


async def test_refused_upgrade_whose_body_does_not_end_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "BODY_DEADLINE", 0.2)
    for framing in (b"Content-Length: 900", b"Transfer-Encoding: chunked", b"X-Note: no chunked body, and no end"):
        reply = b"HTTP/1.1 503 No\r\n" + framing + b"\r\n\r\n9\r\nno leader\r\n"
        async with answering(reply) as (port, _), opened(plain(tmp_path, f"http://127.0.0.1:{port}")) as api:
            with pytest.raises(UnreachableError, match=r"answers 503: .*no leader"):
                await upgraded(api)


@pytest.mark.parametrize(
    ("headers", "sent", "content"),
    [
        ({"content-length": "4"}, b"Wikipedia", b"Wiki"),
        ({"content-length": "0"}, b"", b""),
        ({"transfer-encoding": "chunked"}, b"4\r\nWiki\r\nA\r\npedia\r\n0\r\n\r\n0\r\n\r\n", b"Wikipedia\r\n0\r\n"),
        ({"transfer-encoding": "gzip, Chunked", "content-length": "2"}, b"4\r\nWiki\r\n0\r\n\r\n", b"Wiki"),
        ({"transfer-encoding": "chunked"}, b"no chunk\r\n", b""),
        ({"transfer-encoding": "chunked"}, b"1" * 5000, b""),
        ({"transfer-encoding": "chunked"}, b"FFFFFF\r\n" + b"x" * 70_000, b"x" * (body.LARGEST - 8)),
        ({}, b"x" * 70_000, b"x" * body.LARGEST),
    ],
)
@pytest.mark.parametrize("piece", [1, 100_000])
def test_body_is_complete_where_its_framing_says(
    headers: dict[str, str], sent: bytes, content: bytes, piece: int
) -> None:
    if piece == 1 and len(sent) > 10_000:
        piece = 1000
    read = body.Body(503, headers)
    complete = read.complete
    for at in range(0, len(sent), piece):
        read.feed(sent[at : at + piece])
        complete = complete or read.complete
    assert complete
    assert read.content == content


async def test_expired_token_is_renewed_before_an_upgrade(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_pod("web-1")
    path = cluster.write_kubeconfig(tmp_path / "config", Context(auth={"token": "expired"}))
    async with opened(path) as api:
        cluster.write_kubeconfig(path)
        (await upgraded(api)).transport.abort()


async def test_maker_that_wants_something_else_ends_the_connection(tmp_path: Path) -> None:
    reply = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: else\r\n\r\n"

    class NotTaken(Exception):
        pass

    def make(headers: Mapping[str, str]) -> Peer:
        raise NotTaken

    async with answering(reply) as (port, heads), opened(plain(tmp_path, f"http://127.0.0.1:{port}")) as api:
        with pytest.raises(NotTaken):
            await soon(api.upgrade("POST", "/x", [("ports", "1"), ("ports", "2")], SPDY, make))
        assert heads[0].startswith("POST /x?ports=1&ports=2 HTTP/1.1\r\n")


# ---- the way there ----


@both_ways
async def test_proxy_url_is_gone_through(cluster: Cluster, tmp_path: Path, ask: Ask) -> None:
    cluster.add_pod("web-1")
    port = int(cluster.server.rpartition(":")[2])
    async with http_proxy() as proxy:
        proxy.credentials = f"ana:{SECRET}"
        proxy.routes["kubernetes:443"] = ("127.0.0.1", port)
        where = {"server": "https://kubernetes", "proxy-url": f"http://ana:{SECRET}@127.0.0.1:{proxy.port}"}
        async with opened(changed(cluster, tmp_path / "config", where)) as api:
            assert await soon(ask(api))
        assert proxy.asked == ["kubernetes:443"]
        proxy.routes["kubernetes:443"] = ("127.0.0.1", 1)
        async with opened(changed(cluster, tmp_path / "config", where)) as api:
            with pytest.raises(UnreachableError, match=f":{proxy.port}: the proxy does not reach .*502") as caught:
                await soon(ask(api))
            assert SECRET not in f"{caught.value}{caught.value.__cause__!r}"
        where["proxy-url"] = f"http://ana:{SECRET}x@127.0.0.1:{proxy.port}"
        async with opened(changed(cluster, tmp_path / "config", where)) as api:
            with pytest.raises(AuthenticationError, match="the proxy wants credentials, or others") as refused:
                await soon(ask(api))
            assert SECRET not in str(refused.value)
        gone = proxy.port
    where["proxy-url"] = f"http://ana:{SECRET}@127.0.0.1:{gone}"
    async with opened(changed(cluster, tmp_path / "config", where)) as api:
        with pytest.raises(RefusedError, match=f"127.0.0.1:{gone}: nobody listens there. Check proxy-url:") as down:
            await soon(ask(api))
        assert SECRET not in f"{down.value}{down.value.__cause__!r}"


@both_ways
async def test_proxy_of_the_environment_is_gone_through_but_not_to_loopback(
    cluster: Cluster, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_pod("web-1")
    port = int(cluster.server.rpartition(":")[2])
    async with http_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        proxy.routes["kubernetes:6443"] = ("127.0.0.1", port)
        async with opened(changed(cluster, tmp_path / "config", {"server": "https://kubernetes:6443"})) as api:
            assert await soon(ask(api))
        assert proxy.asked == ["kubernetes:6443"]
        async with opened(cluster.kubeconfig) as api:
            assert await soon(ask(api))
        monkeypatch.setenv("NO_PROXY", "kubernetes,10.0.0.0/8")
        async with opened(changed(cluster, tmp_path / "config", {"server": "https://kubernetes:6443"})) as api:
            with pytest.raises(ForwardError):
                await soon(ask(api))
        assert proxy.asked == ["kubernetes:6443"]


@both_ways
async def test_network_in_no_proxy_is_reached_without_the_proxy(
    cluster: Cluster, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_pod("web-1")
    # This machine, at an address that counts for no loopback.
    server = f"https://0.0.0.0:{cluster.server.rpartition(':')[2]}"
    config = changed(cluster, tmp_path / "config", {"server": server, "tls-server-name": "kubernetes"})
    async with http_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "localhost,0.0.0.0/8")
        async with opened(config) as api:
            assert await soon(ask(api))
        assert proxy.asked == []
        monkeypatch.setenv("NO_PROXY", "localhost,10.0.0.0/8")
        async with opened(config) as api:
            assert await soon(ask(api))
        assert proxy.asked == [server.removeprefix("https://")]


@pytest.mark.parametrize(
    ("host", "listed", "bypassed"),
    [
        ("10.20.30.40", "localhost,10.0.0.0/8", True),
        ("10.20.30.40", "10.0.0.0/16", False),
        ("10.20.30.40", "10.20.30.40", True),
        ("10.20.30.40", "10.20.30.40:6443", True),
        ("10.20.30.40", "10.20.30.40:443, 10.20.30.4", False),
        ("10.20.30.40", "30.40, .40", False),
        ("10.20.30.40", "fd00::/8, nonsense/8, :6443, [, .", False),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "[fd00::1]:6443", True),
        ("fd00::1", "fd00:0::1", True),
        ("fd00::1", "[fd00::1]:443", False),
        ("api.corp.example", "corp.example", True),
        ("API.corp.example", "Corp.Example:6443", True),
        ("corp.example", "corp.example", True),
        ("api.corp.example", ".corp.example", True),
        ("api.corp.example", "*.corp.example", True),
        ("corp.example", ".corp.example, *.corp.example", False),
        ("api.corp.example", "corp.example:443", False),
        ("apicorp.example", "corp.example", False),
        ("api.corp.example", "10.0.0.0/8, *", True),
        ("api.corp.example", "", False),
        ("localhost", "", True),
        ("127.8.0.1", "", True),
        ("::1", "", True),
    ],
)
def test_no_proxy_is_read_as_go_reads_it(host: str, listed: str, bypassed: bool) -> None:
    for names in (("HTTPS_PROXY", "NO_PROXY"), ("https_proxy", "no_proxy")):
        environment = dict(zip(names, ("http://proxy:3128", listed), strict=True))
        assert proxy_for("https", host, 6443, environment) == ("" if bypassed else "http://proxy:3128")
        assert proxy_for("http", host, 6443, environment) == ""


@asynccontextmanager
async def saying(words: bytes) -> AsyncIterator[int]:
    """The port of a server that says this to everybody, and no more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        with contextlib.suppress(OSError), contextlib.closing(writer):
            await reader.read(-1)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def tls_of(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    """A server on 127.0.0.1 whose certificate is of that authority."""
    (tmp_path / "proxy.pem").write_bytes(b"".join(authority.server(("127.0.0.1",))))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "proxy.pem")
    return tls


@both_ways
async def test_proxy_that_is_reached_by_tls_is_gone_through(cluster: Cluster, tmp_path: Path, ask: Ask) -> None:
    cluster.add_pod("web-1")
    port = int(cluster.server.rpartition(":")[2])

    @asynccontextmanager
    async def through(proxy: int, login: str = f"ana:{SECRET}") -> AsyncIterator[Api]:
        where = {"server": "https://kubernetes", "proxy-url": f"https://{login}@127.0.0.1:{proxy}"}
        async with opened(changed(cluster, tmp_path / "config", where)) as api:
            yield api

    async with http_proxy(tls_of(cluster._authority, tmp_path)) as proxy:
        proxy.credentials = f"ana:{SECRET}"
        proxy.routes["kubernetes:443"] = ("127.0.0.1", port)
        async with through(proxy.port) as api:
            for _ in range(2):
                assert await soon(ask(api))
            assert set(proxy.asked) == {"kubernetes:443"}
            proxy.routes["kubernetes:443"] = ("127.0.0.1", 1)
            with pytest.raises(UnreachableError, match=f":{proxy.port}: the proxy does not reach .*502"):
                await soon(upgraded(api))
        async with through(proxy.port, "eve:wrong") as api:
            with pytest.raises(AuthenticationError, match="the proxy wants credentials, or others") as refused:
                await soon(ask(api))
            assert "wrong" not in str(refused.value)
    async with through(proxy.port) as api:
        with pytest.raises(RefusedError, match=f":{proxy.port}: nobody listens there. Check proxy-url:") as down:
            await soon(ask(api))
        assert isinstance(down.value.__cause__, ProxyError), "nobody was reached, which counts against what is silent"
    async with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as plain_one, through(plain_one) as api:
        with pytest.raises(ConfigError, match=f":{plain_one}: what answers there does not speak TLS"):
            await soon(ask(api))
    async with http_proxy(tls_of(Authority(), tmp_path)) as stranger, through(stranger.port) as api:
        with pytest.raises(ConfigError, match="the proxy's certificate is not trusted"):
            await soon(ask(api))
        assert stranger.asked == []


async def test_proxy_that_is_none_is_told(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "DEADLINE", 0.3)
    for words, said in ((b"SSH-2.0-x\r\n", "does not speak SOCKS5"), (b"", "the proxy does not answer, or the API")):
        async with saying(words) as port:
            where = {"proxy-url": f"socks5://ana:{SECRET}@127.0.0.1:{port}"}
            async with opened(changed(cluster, tmp_path / "config", where)) as api:
                with pytest.raises(ForwardError, match=f"127.0.0.1:{port}: .*{said}") as caught:
                    await soon(api.get(PODS))
                assert SECRET not in str(caught.value)
    for url in (f"socks4://u:{SECRET}@x:1080", f"ftp://u:{SECRET}@x", f"http://u:{SECRET}@x:y"):
        with pytest.raises(ConfigError, match="its proxy-url is no http:// or https:// or socks5://") as refused:
            async with opened(changed(cluster, tmp_path / "config", {"proxy-url": url})):
                pass
        assert SECRET not in str(refused.value)


@both_ways
@pytest.mark.parametrize("host", ["api.private", "10.99.0.1", "[fd99::1]"])
async def test_way_through_a_bastion_keeps_the_servers_own_name(tmp_path: Path, ask: Ask, host: str) -> None:
    """The certificate has the API server's name or address and nothing else; the door is on 127.0.0.1."""
    authority = Authority()
    certificate, key = authority.server([host.strip("[]")])
    (tmp_path / "pair").write_bytes(certificate + key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "pair")
    names: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    body = b'{"kind":"Status","message":"x"}'
    reply = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    asked: list[tuple[str, int]] = []
    async with answering(reply, tls) as (port, heads):

        async def via(far: str, far_port: int) -> tuple[str, int]:
            asked.append((far, far_port))
            return "127.0.0.1", port

        entry = {"certificate-authority-data": encoded(authority.pem)}
        async with opened(plain(tmp_path, f"https://{host}:6443", entry), via) as api:
            with pytest.raises(RefusedError, match=r"the API server refuses the request \(400\): x") as caught:
                await soon(ask(api))
            assert caught.value.hop == f"{host}:6443"
    assert asked == [(host.strip("[]"), 6443)]
    assert names == ([host] if host == "api.private" else [None])  # no SNI for an address (RFC 6066, 3)
    assert f"Host: {host}:6443\r\n" in heads[0]


async def test_kubernetes_asyncio_is_not_imported_before_the_first_cluster() -> None:
    code = "import sys, xec_forward.engine.links.kubernetes.api; sys.exit('kubernetes_asyncio' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await soon(process.wait()) == 0
