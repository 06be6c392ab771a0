"""How the API server itself is reached: contexts and files, a bastion, an HTTP proxy, from inside the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import xec_forward as xf
from tests.peers.http_proxy import HttpProxy, http_proxy
from tests.peers.netns import missing as namespaces_missing
from tests.peers.ports import port_free
from tests.peers.sshd import Sshd
from tests.peers.sshd import missing as sshd_missing
from tests.peers.unanswering import Unanswering
from xec_forward.client.session import current
from xec_forward.demo.cluster.certificates import Authority
from xec_forward.demo.cluster.kubeconfig import Context

from .peer import NUMBERS, EmbeddedPeer, until
from .programs import pattern_digest
from .test_faults import ends_by_reset
from .test_port_forward import ask, behind, connect, exchange, message, read_on, stats

ECHO = NUMBERS["echo"]


@pytest.fixture
def web(embedded: EmbeddedPeer) -> EmbeddedPeer:
    """The embedded cluster with a deployment `web`."""
    embedded.add_workload("deployment", "web")
    return embedded


def forward(cluster: xf.Cluster, port: int = ECHO) -> xf.Tunnel:
    return cluster.port_forward(deployment="web", local_port=0, remote_port=port, no_check=True, timeout=15)


def port_of(web: EmbeddedPeer) -> int:
    return int(web.embedded.server.rpartition(":")[2])


def in_a_namespace_of_its_own(
    mounts: str, program: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program of Python's that sees these mounts, which nobody else does."""
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        cwd=Path(xf.__file__).parent.parent,
    )


# ---- a bastion


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A real sshd, `bastion`, which alone knows the name `kubernetes`."""
    if reason := sshd_missing():
        pytest.skip(reason)
    folder = tmp_path / "gateway"
    folder.mkdir()
    with Sshd(folder, names={"kubernetes": "127.0.0.1"}) as running:
        if running.far("kubernetes") != "kubernetes":
            pytest.skip("mount namespaces (root, with unshare)")
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(running.write_config(tmp_path / "ssh_config")))
        yield running


@pytest.mark.parametrize("host", ["kubernetes", "127.0.0.1"])
def test_api_server_behind_a_bastion_keeps_its_own_tls_name(
    web: EmbeddedPeer, gateway: Sshd, tmp_path: Path, host: str
) -> None:
    """Neither the name nor the door's address is told to TLS in the other's place."""
    server = {"server": f"https://{host}:{port_of(web)}"}
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(cluster=server))
    with forward(xf.k8s(kubeconfig=file, proxy="bastion")) as tunnel:
        assert tunnel.snapshot.way[1:3] == ("bastion", "demo")
        data = message(3, 500_000)
        assert ask(tunnel, data) == data
    size = 20_000_000
    with forward(xf.k8s(kubeconfig=file, proxy="bastion"), NUMBERS["source"]) as tunnel, connect(tunnel) as client:
        client.sendall(b"%d\n" % size)
        client.shutdown(socket.SHUT_WR)
        assert read_on(client) == (size, pattern_digest(size))


def test_certificate_for_another_name_is_refused_through_a_bastion_too(
    web: EmbeddedPeer, gateway: Sshd, tmp_path: Path
) -> None:
    server = {"server": f"https://pg.vpc:{port_of(web)}"}  # the bastion leads there, the certificate is for others
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(cluster=server))
    with pytest.raises(xf.ConfigError, match="certificate is for another name"):
        forward(xf.k8s(kubeconfig=file, proxy="bastion"))
    named = {**server, "tls-server-name": "kubernetes"}
    file = web.embedded.write_kubeconfig(tmp_path / "named", Context(cluster=named))
    with forward(xf.k8s(kubeconfig=file, proxy="bastion")) as tunnel:
        assert ask(tunnel) == b"ping"


def test_bastion_that_dies_resets_its_clients_and_is_survived(web: EmbeddedPeer, gateway: Sshd, tmp_path: Path) -> None:
    server = {"server": f"https://kubernetes:{port_of(web)}"}
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(cluster=server))
    with forward(xf.k8s(kubeconfig=file, proxy="bastion")) as tunnel:
        port = tunnel.local_port
        with connect(tunnel) as client:
            assert exchange(client, b"a") == b"a"
            gateway.kill()
            ends_by_reset(client)
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        assert not port_free(port)
        gateway.start()
        assert ask(tunnel) == b"ping"
        assert (tunnel.local_port, stats(tunnel).reconnects) == (port, 1)


def test_bastion_that_does_not_reach_the_api_server_is_told(web: EmbeddedPeer, gateway: Sshd, tmp_path: Path) -> None:
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(cluster={"server": "https://nowhere.vpc:6443"}))
    with pytest.raises(xf.ForwardError) as caught:
        forward(xf.k8s(kubeconfig=file, proxy="bastion"))
    assert "\n" not in str(caught.value)
    assert "bastion" in str(caught.value) or "nowhere.vpc" in str(caught.value)
    assert not isinstance(caught.value, xf.DeadlineError)


# ---- what a cluster's entry says


@contextlib.contextmanager
def proxied(tls: ssl.SSLContext | None = None) -> Iterator[HttpProxy]:
    """`http_proxy` on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        context = http_proxy(tls)
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(10)
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def tls_of(authority: Authority, folder: Path, name: str = "127.0.0.1") -> ssl.SSLContext:
    """A proxy's, with a certificate of that authority."""
    (folder / "proxy.pem").write_bytes(b"".join(authority.server((name,))))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "proxy.pem")
    return tls


def test_proxy_url_is_gone_through_for_requests_and_upgrades(web: EmbeddedPeer, tmp_path: Path) -> None:
    with proxied() as proxy:
        proxy.credentials = "ana:tr0ub4dor"
        proxy.routes["kubernetes:443"] = ("127.0.0.1", port_of(web))
        entry = {"server": "https://kubernetes", "proxy-url": f"http://ana:tr0ub4dor@127.0.0.1:{proxy.port}"}
        file = web.embedded.write_kubeconfig(tmp_path / "config", Context(cluster=entry))
        with forward(xf.k8s(kubeconfig=file)) as tunnel:
            data = message(4, 300_000)
            assert ask(tunnel, data) == data
            assert len(proxy.asked) >= 2
            assert set(proxy.asked) == {"kubernetes:443"}
            assert "tr0ub4dor" not in repr(tunnel.snapshot) + Path(current().log).read_text()


def test_proxy_url_of_a_socks_proxy_is_gone_through(web: EmbeddedPeer, gateway: Sshd, tmp_path: Path) -> None:
    """The proxy is our own, through a real sshd: it alone knows the API server's name."""
    login = {"socks_user": "ana", "socks_password": lambda: "tr0ub4dor"}
    with xf.ssh("bastion").forward(type="dynamic", local_port=0, **login) as proxy:

        def through(server: str, password: str = "tr0ub4dor") -> xf.Cluster:
            url = f"socks5://ana:{password}@127.0.0.1:{proxy.local_port}"
            entry = {"server": server, "proxy-url": url}
            file = tmp_path / f"config-{len(list(tmp_path.iterdir()))}"  # each a cluster of its own
            return xf.k8s(kubeconfig=web.embedded.write_kubeconfig(file, Context(cluster=entry)))

        server = f"https://kubernetes:{port_of(web)}"
        with forward(through(server)) as tunnel:
            data = message(5, 300_000)
            assert ask(tunnel, data) == data
            assert stats(proxy).clients >= 2
            assert "tr0ub4dor" not in repr(tunnel.snapshot) + Path(current().log).read_text()
        with forward(through(server), NUMBERS["source"]) as tunnel, connect(tunnel) as client:
            client.sendall(b"%d\n" % 20_000_000)
            client.shutdown(socket.SHUT_WR)
            assert read_on(client) == (20_000_000, pattern_digest(20_000_000))
        with pytest.raises(xf.AuthenticationError, match="the proxy wants credentials, or others"):
            forward(through(server, "wrong"))
        with pytest.raises(xf.RefusedError, match="nobody listens at the API server's address, as seen from the proxy"):
            forward(through("https://kubernetes:1"))
        with pytest.raises(xf.UnreachableError, match="does not reach the API server, or does not know its name"):
            forward(through("https://nowhere.vpc:6443"))


def test_tls_server_name_of_the_entry_is_what_the_certificate_must_have(web: EmbeddedPeer, tmp_path: Path) -> None:
    good = web.embedded.write_kubeconfig(tmp_path / "good", Context(cluster={"tls-server-name": "kubernetes"}))
    with forward(xf.k8s(kubeconfig=good)) as tunnel:
        assert ask(tunnel) == b"ping"
    bad = web.embedded.write_kubeconfig(tmp_path / "bad", Context(cluster={"tls-server-name": "elsewhere"}))
    with pytest.raises(xf.ConfigError, match="certificate is for another name"):
        forward(xf.k8s(kubeconfig=bad))


# ---- a name with two addresses

DUAL = """
import json, socket, sys, time
import xec_forward as xf
began, cluster = time.monotonic(), xf.k8s(kubeconfig=sys.argv[1])
with cluster.port_forward(deployment="web", local_port=0, remote_port=7000, timeout=15) as tunnel:
    with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as client:
        client.sendall(b"ping")
        print(json.dumps([client.recv(4).decode(), time.monotonic() - began]))
"""


@pytest.mark.parametrize("way", ["server", "http", "https"])
def test_address_that_does_not_answer_holds_up_nothing(web: EmbeddedPeer, tmp_path: Path, way: str) -> None:
    """As with an IPv6 that leads nowhere: the name has ::1, where all packets are dropped, before 127.0.0.1."""
    if reason := namespaces_missing():
        pytest.skip(reason)
    with contextlib.ExitStack() as running:
        entry = {"server": f"https://dual.test:{port_of(web)}", "tls-server-name": "kubernetes"}
        port = port_of(web)
        if way != "server":
            tls = tls_of(web.embedded._authority, tmp_path, "dual.test") if way == "https" else None
            proxy = running.enter_context(proxied(tls))
            proxy.routes[f"dual.test:{port}"] = ("127.0.0.1", port)
            entry["proxy-url"] = f"{way}://dual.test:{proxy.port}"
            port = proxy.port
        try:
            running.enter_context(Unanswering("::1", port))
        except OSError:
            pytest.skip("IPv6")
        hosts = tmp_path / "hosts"
        hosts.write_text("::1 dual.test\n127.0.0.1 dual.test localhost\n")
        file = web.embedded.write_kubeconfig(tmp_path / "config", Context(cluster=entry))
        done = in_a_namespace_of_its_own(f"mount --bind {hosts} /etc/hosts", DUAL, str(file))
        assert done.returncode == 0, done.stderr
        answer, took = json.loads(done.stdout)
        assert answer == "ping"
        assert took < 8  # a dial that waits for ::1 takes 20


# ---- contexts and files


def test_files_of_a_list_are_merged_and_the_first_current_context_counts(
    web: EmbeddedPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = web.embedded.write_kubeconfig(tmp_path / "first", Context(name="one"))
    second = web.embedded.write_kubeconfig(tmp_path / "second", Context(name="two", namespace="nowhere"))
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, (tmp_path / "missing", first, second))))
    with forward(xf.k8s()) as tunnel:
        assert (ask(tunnel), tunnel.snapshot.route) == (b"ping", ("one",))
    with pytest.raises(xf.NameNotFoundError, match="there is no namespace nowhere"):
        forward(xf.k8s(context="two"))
    with pytest.raises(xf.ConfigError, match="there is no context three") as caught:
        forward(xf.k8s(context="three"))
    assert "one, two" in (caught.value.hint or "")


def test_namespace_of_the_context_counts_and_one_that_is_written_counts_more(web: EmbeddedPeer, tmp_path: Path) -> None:
    web.embedded.add_workload("deployments", "web", namespace="sales", **web.template())
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(namespace="sales"))
    (sales,) = web.embedded.call(
        lambda: [pod["metadata"]["name"] for pod in web.embedded.state.store.of_kind("pods", "sales")]
    )
    with forward(xf.k8s(kubeconfig=file)) as tunnel:
        assert behind(tunnel) == f"pod/{sales}:{ECHO}"
    with forward(xf.k8s(kubeconfig=file, namespace="default")) as tunnel:
        assert behind(tunnel) != f"pod/{sales}:{ECHO}"
        assert ask(tunnel) == b"ping"


# ---- from inside a pod

INSIDE = """
import json, socket, sys
import xec_forward as xf
with xf.k8s().port_forward(deployment="web", local_port=0, remote_port=7000, no_check=True) as tunnel:
    with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as client:
        client.sendall(b"ping")
        print(json.dumps([client.recv(4).decode(), tunnel.snapshot.route]))
"""


def test_service_account_of_the_pod_that_we_are_in_is_used(web: EmbeddedPeer, tmp_path: Path) -> None:
    """With a service account where pods have it, in a mount namespace of the test's own, and no kubeconfig at all."""
    if reason := namespaces_missing():
        pytest.skip(reason)
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(web.embedded.new_token("pod"))
    (account / "ca.crt").write_bytes(web.embedded.authority)
    (account / "namespace").write_text("default")
    mounts = (
        "mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io /var/run/secrets/kubernetes.io &&"
        f" cp -r {account} /var/run/secrets/kubernetes.io/serviceaccount"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    environment |= {
        "HOME": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(port_of(web)),
    }
    done = in_a_namespace_of_its_own(mounts, INSIDE, environment=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["ping", ["in-cluster"]]
