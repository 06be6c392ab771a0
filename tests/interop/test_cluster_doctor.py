"""The doctor for clusters: each stage failing by its real situation, ticks before it, the cross at it, one fix.

The API server is the embedded one; what leads to it, and what stands in its place, are real peers too.
"""

from __future__ import annotations

import asyncio
import http.server
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.interop.test_doctor import FAR as HOST_FAR
from tests.interop.test_doctor import HOST, failure, listening, run_command, silent, speaker, stages
from tests.peers.http_proxy import http_proxy
from tests.peers.kernel import wait_until
from tests.peers.ports import free_port
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.doctor import dialect_of
from xec_forward.client.session import current
from xec_forward.client.watcher import ScriptWatcher
from xec_forward.demo.cluster import Cluster, Context
from xec_forward.demo.cluster.answers import refusal
from xec_forward.demo.cluster.server import Server
from xec_forward.diagnosis import Diagnosis
from xec_forward.line import KUBERNETES, SSH
from xec_forward.model import Finding, Outcome

LOGIN = ["kubeconfig", "credentials"]
WAY = ["dns", "tcp", "tls"]
API = [*LOGIN, *WAY, "api", "login"]
READY = [*API, "permission", "resource", "pods", "readiness"]
POD = [*READY, "port", "forward", "listening"]


@pytest.fixture
def prod(cluster: Cluster) -> xf.Cluster:
    """The cluster as a user has it."""
    return xf.k8s(kubeconfig=cluster.kubeconfig)


@pytest.fixture
def web(cluster: Cluster, services: Services) -> Cluster:
    """The cluster with a Deployment of two pods behind a Service, both named `web`."""
    cluster.add_deployment("web", pods=2, ports={"echo": 7000}, serves={7000: ("127.0.0.1", services.echo)})
    echo: dict[str, int | str] = {"name": "echo", "port": 70, "targetPort": "echo"}
    cluster.add_service("web", selector={"app": "web"}, ports=[echo, {"name": "odd", "port": 71, "targetPort": "none"}])
    return cluster


@pytest.fixture
def unchanged(cluster: Cluster) -> Iterator[None]:
    """Whatever the test examines: nothing is created, written, bound or left open, and no token is shown."""
    kubeconfig = cluster.kubeconfig.read_bytes()
    current().start()
    yield
    asked = [line.partition("?")[0] for line in cluster.requests if not line.startswith("GET ")]
    reviews = r"POST /apis/auth\w+\.k8s\.io/v1/selfsubject\w*reviews"
    assert [line for line in asked if not re.fullmatch(rf"{reviews}|POST \S+/portforward", line)] == []
    assert listening(current().engine_pid) == set()
    wait_until(lambda: cluster.upgrades.live == 0 and cluster.streams.live == 0, "a port-forward was left open")
    assert not xf.tunnels
    assert cluster.kubeconfig.read_bytes() == kubeconfig


@pytest.fixture
def configured(cluster: Cluster) -> Callable[..., xf.Cluster]:
    """A cluster whose kubeconfig says something else: the user's entry, or something in the cluster's."""

    def make(auth: str | Mapping[str, Any] = "token", **entry: Any) -> xf.Cluster:
        settings = {key.replace("_", "-"): value for key, value in entry.items()}
        file = cluster.folder / "other"
        return xf.k8s(kubeconfig=cluster.write_kubeconfig(file, Context(auth=auth, cluster=settings)))

    return make


@pytest.fixture
def loaded(prod: xf.Cluster, unchanged: None) -> None:
    """The engine has loaded its libraries, so that a time is that of the examination alone."""
    prod.doctor()


def finding(diagnosis: Diagnosis, stage: str) -> Finding:
    (found,) = [each for each in diagnosis.findings if each.stage == stage]
    return found


def server_of(cluster: Cluster) -> str:
    return cluster.server.removeprefix("https://")


# all is well


def test_all_is_well_from_the_kubeconfig_to_the_hello(
    cluster: Cluster, prod: xf.Cluster, postgres: Postgres, unchanged: None
) -> None:
    cluster.add_statefulset("postgres", ports={"pg": 5432}, serves={5432: ("127.0.0.1", postgres.port)})
    cluster.add_service("postgres", selector={"app": "postgres"}, ports=[{"port": 5432, "targetPort": "pg"}])
    diagnosis = prod.doctor(service="postgres", remote_port=5432, password="not asked for")
    assert diagnosis.ok, diagnosis
    assert stages(diagnosis) == [*POD, "postgresql"]
    text = str(diagnosis)
    assert "✗" not in text
    heads = [line for line in text.splitlines() if not line.startswith(" ")]
    assert heads[:3] == ["cluster", server_of(cluster), "svc/postgres:5432"]
    assert heads[-1].startswith("all is well")
    for seen in (
        *("the current context demo: user demo, namespace default", str(cluster.kubeconfig), "Kubernetes v1.36.0"),
        *("good for 127.0.0.1", "✓ create pods/portforward", "✓ get services", "✓ list pods"),
        *("port 5432 leads to targetPort pg", "pod/postgres-0:5432 (pg)", "SPDY/3.1 in a WebSocket"),
    ):
        assert seen in text
    assert cluster.token not in text
    assert all(each.seconds is not None for each in diagnosis.findings)


def test_cluster_alone_is_examined_without_a_resource(prod: xf.Cluster, unchanged: None) -> None:
    diagnosis = prod.doctor(timeout=10)
    assert diagnosis.ok
    assert stages(diagnosis) == [*API, "permission"]


async def test_awaitable_form_and_every_resource(web: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    diagnosis = await prod.adoctor(deployment="web", remote_port=7000)
    assert stages(diagnosis) == POD
    assert diagnosis.ok
    chosen = await prod.adoctor(selector="app=web", remote_port="echo")
    assert stages(chosen) == [stage for stage in POD if stage != "resource"]
    assert finding(chosen, "pods").text == "2"


def test_live_tunnel_is_left_alone(web: Cluster, prod: xf.Cluster) -> None:
    with prod.port_forward(service="web", local_port=0, remote_port=70, no_check=True) as tunnel:
        before = tunnel.snapshot
        assert prod.doctor(service="web", remote_port=70).ok
        assert tunnel.snapshot.opened == before.opened
        assert tunnel.stats.clients_total == 0
        with socket.create_connection(("127.0.0.1", tunnel.local_port), 10) as client:
            client.sendall(b"ping")
            assert client.recv(4) == b"ping"


def test_malformed_arguments_are_errors_and_ask_nobody(cluster: Cluster, prod: xf.Cluster) -> None:
    for arguments in ({"remote_port": 80}, {"service": "web"}, {"pod": "a", "remote_prot": 80}):
        with pytest.raises(xf.SpecError):
            prod.doctor(**arguments)
    assert cluster.requests == []


# the kubeconfig and the credentials


def test_kubeconfig_that_is_not_there(tmp_path: Path, unchanged: None) -> None:
    said = failure(xf.k8s(kubeconfig=tmp_path / "none").doctor(pod="a", remote_port=80), [], "cluster", "kubeconfig")
    assert "--kubeconfig FILE" in said


def test_unknown_context_names_the_nearest(cluster: Cluster, unchanged: None) -> None:
    said = failure(xf.k8s(context="dem", kubeconfig=cluster.kubeconfig).doctor(), [], "dem", "kubeconfig")
    assert "The nearest is demo" in said


def test_malformed_kubeconfig_shows_no_token(tmp_path: Path, unchanged: None) -> None:
    file = tmp_path / "config"
    file.write_text("users:\n- name: x\n  user: {token: hunter2\n")
    said = failure(xf.k8s(kubeconfig=file).doctor(), [], "cluster", "kubeconfig")
    assert "not valid YAML" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("server", "said"), [("ftp://10.0.0.1", "its server is no"), ("https://u:hunter2@[", "its server is no")]
)
def test_malformed_url_is_the_kubeconfigs(
    configured: Callable[..., xf.Cluster], server: str, said: str, unchanged: None
) -> None:
    words = failure(configured(server=server).doctor(), ["kubeconfig"], "cluster", "kubeconfig")
    assert said in words
    assert "hunter2" not in words


def plugin(tmp_path: Path, script: str) -> dict[str, Any]:
    """A user's entry with an exec plugin of this text."""
    program = tmp_path / "give-token"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(program),
            "interactiveMode": "IfAvailable",
        }
    }


def credential(token: str, ends: str = "") -> str:
    status = f'"token": "{token}"' + (f', "expirationTimestamp": "{ends}"' if ends else "")
    answer = f'{{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {{{status}}}}}'
    return f"echo {shlex.quote(answer)}"


def test_plugin_is_run_with_its_time_and_its_token_is_not_shown(
    cluster: Cluster, configured: Callable[..., xf.Cluster], tmp_path: Path, unchanged: None
) -> None:
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    diagnosis = configured(plugin(tmp_path, f"sleep 0.3\n{credential(cluster.token, ends)}")).doctor()
    assert diagnosis.ok, diagnosis
    found = finding(diagnosis, "plugin")
    assert (found.text, found.details) == ("give-token gave a token", ("for another 60 min",))
    assert found.seconds is not None
    assert 0.3 <= found.seconds < 2
    assert cluster.token not in str(diagnosis)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo the SSO session has ended >&2; exit 1", "the SSO session has ended"),
        ("echo hunter2", "without a credential"),
        ("exec sleep 60", "did not answer within"),
    ],
    ids=["failed", "silent", "slow"],
)
def test_plugin_that_gives_nothing(
    configured: Callable[..., xf.Cluster], tmp_path: Path, script: str, words: str, loaded: None
) -> None:
    start = time.monotonic()
    said = failure(configured(plugin(tmp_path, script)).doctor(timeout=3), ["kubeconfig"], "cluster", "plugin")
    assert time.monotonic() - start < 4
    assert words in said
    assert "give-token in a terminal" in said
    assert "hunter2" not in said


def test_plugin_that_is_not_there(configured: Callable[..., xf.Cluster], tmp_path: Path, unchanged: None) -> None:
    entry = plugin(tmp_path, "")
    (tmp_path / "give-token").unlink()
    assert "is not there" in failure(configured(entry).doctor(), ["kubeconfig"], "cluster", "plugin")


def test_each_kind_of_credentials_is_named(configured: Callable[..., xf.Cluster], unchanged: None) -> None:
    for auth, words in (("certificate", "a client certificate"), ("token-file", "the token in ")):
        diagnosis = configured(auth).doctor()
        assert diagnosis.ok, diagnosis
        assert finding(diagnosis, "credentials").text.startswith(words)


def test_expired_token_is_the_login(cluster: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    cluster.expire_token(cluster.token)
    said = failure(prod.doctor(pod="a", remote_port=1), [*LOGIN, *WAY, "api"], server_of(cluster), "login")
    assert "does not accept the credentials of demo" in said
    assert "Log in anew" in said
    assert cluster.token not in said


def test_no_credentials_at_all(cluster: Cluster, configured: Callable[..., xf.Cluster], unchanged: None) -> None:
    diagnosis = configured("none").doctor()
    assert "asked by nobody" in finding(diagnosis, "credentials").text
    failure(diagnosis, [*LOGIN, *WAY, "api"], server_of(cluster), "login")


def test_user_is_named_by_a_server_that_has_the_review(
    cluster: Cluster, prod: xf.Cluster, monkeypatch: pytest.MonkeyPatch, unchanged: None
) -> None:
    """SelfSubjectReview, as servers from 1.28 on answer it; the embedded one has none."""
    document = Server._document

    def with_review(self: Server, request: Any) -> Any:
        if request.path != "/apis/authentication.k8s.io/v1/selfsubjectreviews":
            return document(self, request)
        info = {"username": "ana@example.com", "groups": ["devs", "system:authenticated"]}
        return {"kind": "SelfSubjectReview", "status": {"userInfo": info}}

    monkeypatch.setattr(Server, "_document", with_review)
    cluster.deny("list", "pods")
    diagnosis = prod.doctor(service="web", remote_port=70)
    login = finding(diagnosis, "login")
    assert (login.text, login.details) == ("as ana@example.com", ("groups devs, system:authenticated",))
    assert finding(diagnosis, "permission").text.startswith("ana@example.com may not list pods")


def test_anonymous_user_is_told(
    cluster: Cluster, prod: xf.Cluster, monkeypatch: pytest.MonkeyPatch, unchanged: None
) -> None:
    """What a server says that lets nobody in by name, after /version was for everybody."""
    serve = Server._serve

    async def anonymous(self: Server, request: Any) -> Any:
        if request.method == "GET":
            return await serve(self, request)
        text = (
            'User "system:anonymous" cannot create resource "selfsubjectreviews" in API group "x" at the cluster scope'
        )
        return refusal(403, text)

    monkeypatch.setattr(Server, "_serve", anonymous)
    cluster.stop_server()
    cluster.start_server()
    said = failure(prod.doctor(), [*LOGIN, *WAY, "api"], server_of(cluster), "login")
    assert "without a login" in said


# the way to the API server


def test_unknown_name(configured: Callable[..., xf.Cluster], unchanged: None) -> None:
    diagnosis = configured(server="https://no-such-host.invalid:6443").doctor(pod="a", remote_port=80)
    said = failure(diagnosis, LOGIN, "no-such-host.invalid:6443", "dns")
    assert "VPN" in said
    assert "not reached" in str(diagnosis)


def test_refused_port(configured: Callable[..., xf.Cluster], unchanged: None) -> None:
    port = free_port()
    diagnosis = configured(server=f"https://127.0.0.1:{port}").doctor()
    assert "nobody listens there" in failure(diagnosis, [*LOGIN, "dns"], f"127.0.0.1:{port}", "tcp")


def test_port_that_takes_no_connection_ends_within_the_deadline(
    configured: Callable[..., xf.Cluster], loaded: None
) -> None:
    with socket.socket() as listener, ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # its queue is full: what comes now is dropped
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        start = time.monotonic()
        diagnosis = configured(server=f"https://127.0.0.1:{port}").doctor(timeout=2)
        assert time.monotonic() - start < 3
        assert "no answer" in failure(diagnosis, [*LOGIN, "dns"], f"127.0.0.1:{port}", "tcp")


def test_silent_and_foreign_servers_are_no_tls(configured: Callable[..., xf.Cluster], loaded: None) -> None:
    with speaker(silent) as port:
        start = time.monotonic()
        diagnosis = configured(server=f"https://127.0.0.1:{port}").doctor(timeout=2)
        assert time.monotonic() - start < 3
        assert "no answer" in failure(diagnosis, [*LOGIN, "dns", "tcp"], f"127.0.0.1:{port}", "tls")

    def page(client: socket.socket) -> None:
        client.recv(99)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with speaker(page) as port:
        diagnosis = configured(server=f"https://127.0.0.1:{port}").doctor()
        assert "does not speak TLS" in failure(diagnosis, [*LOGIN, "dns", "tcp"], f"127.0.0.1:{port}", "tls")


def test_certificate_of_another_authority_and_of_another_name(
    cluster: Cluster, configured: Callable[..., xf.Cluster], unchanged: None
) -> None:
    with Cluster() as other:
        said = failure(configured(server=other.server).doctor(), [*LOGIN, "dns", "tcp"], server_of(other), "tls")
    assert "not trusted" in said
    assert "certificate-authority-data" in said
    named = configured(tls_server_name="elsewhere").doctor()
    assert "tls-server-name" in failure(named, [*LOGIN, "dns", "tcp"], server_of(cluster), "tls")
    well = configured(tls_server_name="kubernetes").doctor()
    assert well.ok
    assert "good for kubernetes" in finding(well, "tls").text
    unchecked = configured(insecure_skip_tls_verify=True, certificate_authority_data=None).doctor()
    assert unchecked.ok
    assert "not checked" in finding(unchecked, "tls").text


def test_page_in_the_place_of_an_api_server(configured: Callable[..., xf.Cluster], unchanged: None) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>please log in</html>")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"127.0.0.1:{server.server_address[1]}"
        diagnosis = configured(server=f"http://{where}").doctor()
        assert "no API server" in failure(diagnosis, [*LOGIN, "dns", "tcp"], where, "api")
        assert finding(diagnosis, "tls").outcome is Outcome.SKIPPED
        server.shutdown()


def test_server_that_takes_the_request_and_says_nothing(configured: Callable[..., xf.Cluster], loaded: None) -> None:
    with speaker(silent) as port:
        start = time.monotonic()
        diagnosis = configured(server=f"http://127.0.0.1:{port}").doctor(timeout=2)
        assert time.monotonic() - start < 3
        assert "no answer" in failure(diagnosis, [*LOGIN, "dns", "tcp"], f"127.0.0.1:{port}", "api")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_proxy_url_leads_there_or_is_the_stage_that_fails(
    web: Cluster, configured: Callable[..., xf.Cluster], tmp_path: Path, scheme: str
) -> None:
    pair = tmp_path / "proxy.pem"
    pair.write_bytes(b"".join(web._authority.server(("127.0.0.1",))))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair)
    async with http_proxy(tls if scheme == "https" else None) as proxy:
        through = configured(proxy_url=f"{scheme}://ana:hunter2@127.0.0.1:{proxy.port}")
        diagnosis = await through.adoctor(service="web", remote_port=70)
        way = [*LOGIN, "dns", "tcp"]
        assert stages(diagnosis) == [*way, "proxy", "tls", *POD[5:]], diagnosis
        proxy.credentials = "ana:another"
        refused = await through.adoctor()
        said = failure(refused, way, server_of(web), "proxy")
        assert "the proxy wants credentials" in said
        proxy.credentials = ""
        proxy.routes[server_of(web)] = ("127.0.0.1", free_port())
        failure(await through.adoctor(), way, server_of(web), "proxy")
    assert "hunter2" not in f"{diagnosis}{refused}"


# through an SSH host


def test_ssh_hosts_are_stages_of_their_own(
    web: Cluster, bastion: Sshd, configured: Callable[..., xf.Cluster], unchanged: None
) -> None:
    behind = xf.k8s(kubeconfig=web.kubeconfig, proxy=xf.ssh("bastion"))
    diagnosis = behind.doctor(service="web", remote_port=70)
    assert diagnosis.ok, diagnosis
    # The API server's name is an address: there is nothing to look up.
    assert stages(diagnosis) == [*HOST, *LOGIN, HOST_FAR[0], "tcp", "tls", *POD[5:]]
    text = str(diagnosis).splitlines()
    assert [line for line in text if not line.startswith(" ")][:3] == ["bastion", "cluster", server_of(web)]
    wait_until(lambda: bastion.connections() == 0, "the examination left its connection")
    port = free_port()
    nowhere = xf.k8s(kubeconfig=configured(server=f"https://127.0.0.1:{port}").target.kubeconfig, proxy="bastion")
    failure(nowhere.doctor(), [*HOST, *LOGIN, HOST_FAR[0]], f"127.0.0.1:{port}", "tcp")
    bastion.stop()
    failure(behind.doctor(service="web", remote_port=70), HOST[:2], "bastion", "tcp")


# what the user may do


def test_permission_that_lacks_is_named_with_a_cross(web: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    web.deny("create", "pods/portforward")
    web.deny("list", "pods")
    diagnosis = prod.doctor(service="web", remote_port=70)
    said = failure(diagnosis, API, server_of(web), "permission")
    assert "admin may not create pods/portforward, list pods in the namespace default" in said
    assert "a Role in default that allows: create pods/portforward, list pods" in said
    details = finding(diagnosis, "permission").details
    assert [line for line in details if line.startswith("✗")] == ["✗ create pods/portforward", "✗ list pods"]
    assert "✓ get services" in details


def test_what_can_be_spared_is_a_cross_and_no_failure(web: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    web.deny("watch", "pods")
    web.deny("get", "pods/portforward")
    diagnosis = prod.doctor(service="web", remote_port=70)
    assert diagnosis.ok, diagnosis
    crosses = [line for line in finding(diagnosis, "permission").details if line.startswith("✗")]
    assert len(crosses) == 2
    assert "POST needs create alone" in crosses[0]
    assert "SPDY/3.1, without a WebSocket" in finding(diagnosis, "forward").text
    web.deny("list", "pods")
    name = web.call(lambda: next(iter(web.state.store.of_kind("pods", "default"))))["metadata"]["name"]
    alone = prod.doctor(pod=name, remote_port=7000)
    assert alone.ok, alone
    web.deny("get", "pods")
    assert "may not get pods in" in failure(prod.doctor(pod=name, remote_port=1), API, server_of(web), "permission")


def test_create_is_needed_from_135_on(services: Services) -> None:
    for version, well in (("1.34", True), ("1.35", False)):
        with Cluster(version) as older:
            older.add_pod("web", serves={7000: ("127.0.0.1", services.echo)})
            older.deny("create", "pods/portforward")
            diagnosis = xf.k8s(kubeconfig=older.kubeconfig).doctor(pod="web", remote_port=7000)
            assert diagnosis.ok is well, diagnosis
            older.deny("get", "pods/portforward")
            both = xf.k8s(kubeconfig=older.kubeconfig).doctor(pod="web", remote_port=7000)
            failure(both, API, server_of(older), "permission")


def test_server_that_answers_no_reviews_is_examined_all_the_same(
    web: Cluster, prod: xf.Cluster, monkeypatch: pytest.MonkeyPatch, unchanged: None
) -> None:
    monkeypatch.setattr("xec_forward.demo.cluster.server._REVIEWS", "/nowhere")
    diagnosis = prod.doctor(service="web", remote_port=70)
    assert diagnosis.ok, diagnosis
    assert finding(diagnosis, "permission").outcome is Outcome.SKIPPED
    assert stages(diagnosis) == [stage for stage in POD if stage != "permission"]


# from the resource to the port


def test_missing_resource_names_those_there_are(web: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    said = failure(prod.doctor(service="wbe", remote_port=70), READY[:8], "svc/wbe:70", "resource")
    assert "Those there are: web" in said
    elsewhere = xf.k8s(kubeconfig=web.kubeconfig, namespace="nowhere").doctor(service="web", remote_port=70)
    assert "-n default" in failure(elsewhere, READY[:8], "svc/web:70", "resource")


def test_resource_without_pods(web: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    web.add_service("lonely", selector={"app": "nobody"}, ports=[80])
    said = failure(prod.doctor(service="lonely", remote_port=80), READY[:9], "svc/lonely:80", "pods")
    assert "no pod has the labels app=nobody" in said
    done = web.add_pod("done")
    done.succeed()
    said = failure(prod.doctor(pod="done", remote_port=80), READY[:9], "pod/done:80", "pods")
    assert "has completed" in said


def test_pods_that_are_not_ready_say_why_and_are_not_waited_for(web: Cluster, prod: xf.Cluster, loaded: None) -> None:
    pod = web.add_pod("slow", ready=False)
    pod.pending("0/3 nodes are available: 3 Insufficient memory.")
    start = time.monotonic()
    said = failure(prod.doctor(pod="slow", remote_port=80), READY[:10], "pod/slow:80", "readiness")
    assert time.monotonic() - start < 3
    assert "Insufficient memory" in said
    pod.waiting("ImagePullBackOff", "no such image")
    said = failure(prod.doctor(pod="slow", remote_port=80), READY[:10], "pod/slow:80", "readiness")
    assert "image's name" in said


def test_one_ready_pod_of_several_will_do(web: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    first = web.add_pod("web-extra", labels={"app": "web"}, ready=False)
    first.waiting("CrashLoopBackOff")
    diagnosis = prod.doctor(selector="app=web", remote_port=7000)
    assert diagnosis.ok, diagnosis
    readiness = finding(diagnosis, "readiness")
    assert readiness.text == "2 of 3"
    (why,) = readiness.details
    assert "pod/web-extra" in why
    assert "CrashLoopBackOff" in why


@pytest.mark.parametrize(
    ("port", "words"),
    [(80, "Its ports are 70 (echo), 71 (odd)"), (7000, "Its ports are"), ("http", "no port http"), (71, "named none")],
)
def test_port_that_is_not_there(web: Cluster, prod: xf.Cluster, port: int | str, words: str, unchanged: None) -> None:
    said = failure(prod.doctor(service="web", remote_port=port), READY, f"svc/web:{port}", "port")
    assert words in said


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("spdy-tunnel", "SPDY/3.1 in a WebSocket"),
        ("spdy-raw", "SPDY/3.1, without a WebSocket"),
        ("v4", "v4.channel.k8s.io, the older protocol"),
    ],
)
def test_protocol_that_was_taken_is_named(
    web: Cluster, prod: xf.Cluster, protocol: str, words: str, unchanged: None
) -> None:
    web.protocols = {protocol}
    well = prod.doctor(service="web", remote_port=70)
    assert well.ok, well
    assert words in finding(well, "forward").text
    refused = prod.doctor(deployment="web", remote_port=81)
    assert "nothing listens on port 81" in failure(refused, [*READY, "port", "forward"], "deploy/web:81", "listening")


def test_server_that_upgrades_nothing(web: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    web.protocols = set()
    failure(prod.doctor(service="web", remote_port=70), POD[:-2], "svc/web:70", "forward")


def test_service_that_says_something_else(web: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    diagnosis = prod.doctor(service="web", remote_port=70, dsn="postgresql://ana@/sales")
    assert "does not speak postgresql" in failure(diagnosis, POD, "svc/web:70", "postgresql")


# giving up


async def test_cancelled_examination_leaves_nothing(web: Cluster, prod: xf.Cluster, unchanged: None) -> None:
    listened = asyncio.Event()

    class Watcher(ScriptWatcher):
        def found(self, finding: Finding) -> None:
            if finding.stage == "listening":
                listened.set()

    from xec_forward.client.cluster import _far_ends

    far, _ = _far_ends({"service": "web", "remote_port": 70})
    doctor = asyncio.ensure_future(current().aexamine(prod.target, far, 30, Watcher()))
    await asyncio.wait_for(listened.wait(), 10)
    doctor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(doctor, 2)


# the command


@pytest.mark.parametrize(
    ("line", "cluster"),
    [
        ("svc/postgres 5432", True),
        ("pods/web-0 8080:http", True),
        ("-J bastion deploy/api 80", True),
        ("web-0 80 -n prod", True),
        ("web-0 80 -nprod", True),
        ("web-0 80 --context=prod", True),
        ("--kubeconfig file", True),
        ("--selector app=api 80", True),
        ("-l app=api 80", True),
        ("-lapp=api 80", True),
        ("web-0 80", False),
        ("bastion pg.vpc:5432", False),
        ("-l ana bastion 5432", False),
        ("-NTL 5432:pg.vpc:5432 bastion", False),
        ("ssh://ana@bastion:22 postgresql://ana@pg.vpc/sales", False),
        ("bastion 5432:/run/postgresql/.s.PGSQL.5432 -i ~/.ssh/id", False),
        ("--help", False),
    ],
)
def test_command_tells_whose_line_it_is(line: str, cluster: bool) -> None:
    assert dialect_of(line.split()) is (KUBERNETES if cluster else SSH)


def test_command_examines_a_clusters_line(web: Cluster, unchanged: None) -> None:
    kubeconfig = ["--kubeconfig", str(web.kubeconfig)]
    well = run_command("svc/web", "70", "7000:echo", *kubeconfig)
    assert (well.returncode, well.stderr) == (0, ""), well.stdout
    assert "all is well" in well.stdout
    assert {"svc/web:70", "svc/web:echo"} <= set(well.stdout.splitlines())
    one = run_command("svc/web", "80", "70", *kubeconfig)
    assert one.returncode == 1
    assert "✗ FAILED  port" in one.stdout
    assert "✓ ok      listening" in one.stdout, "the other port is examined all the same"
    malformed = run_command("svc/web", "1:2:3", *kubeconfig)
    assert (malformed.returncode, malformed.stdout) == (2, "")
    assert malformed.stderr.startswith("xec-forward doctor: ESPEC")
    assert "xec-forward doctor svc/web 5432" in run_command("svc/web", *kubeconfig).stderr


def test_command_is_ended_by_ctrl_c(configured: Callable[..., xf.Cluster]) -> None:
    with speaker(silent) as port:
        kubeconfig = configured(server=f"https://127.0.0.1:{port}").target.kubeconfig
        command = [sys.executable, "-m", "xec_forward", "doctor", "--kubeconfig", kubeconfig]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as one:
            assert one.stdout is not None
            while b" tcp " not in one.stdout.readline():
                pass
            one.send_signal(signal.SIGINT)
            _, said = one.communicate(timeout=8)
        assert one.returncode == 1
        assert said.decode().strip() == "xec-forward doctor: interrupted; nothing was changed"
