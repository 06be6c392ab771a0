"""A kubeconfig that changes between two openings, and under a tunnel: it means what it says now, as for kubectl.

The changes are kubectl's own (`config use-context`, `config set-context`, `config set-cluster`).
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import xec_forward as xf
from tests.peers.cluster import kubectl_missing, kubectl_path
from tests.peers.distance import Distance
from tests.peers.ports import port_free
from xec_forward.client.session import current
from xec_forward.demo.cluster import Cluster, Context

from .peer import NUMBERS, EmbeddedPeer, Programs, until
from .test_port_forward import ask, behind, stats

ECHO = NUMBERS["echo"]


@dataclass
class Two:
    """A kubeconfig with the contexts `prod` (the current one) and `staging`, of clusters with a service `db` each.

    Attributes:
        file: the kubeconfig, which $KUBECONFIG names.
    """

    prod: EmbeddedPeer
    staging: EmbeddedPeer
    file: Path

    def kubectl(self, *words: str) -> None:
        """`kubectl config WORDS`."""
        command = [kubectl_path(), "--kubeconfig", str(self.file), "config", *words]
        subprocess.run(command, check=True, capture_output=True, timeout=30, env={**os.environ, "HOME": "/nowhere"})


@pytest.fixture
def two(cluster: Cluster, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    if reason := kubectl_missing():
        pytest.skip(reason)
    with Cluster() as other:
        peers = {"prod": EmbeddedPeer(cluster, programs.serves), "staging": EmbeddedPeer(other, programs.serves)}
        documents = []
        for name, peer in peers.items():
            peer.add_pod(f"{name}-db")
            ports = [{"name": "echo", "port": ECHO}]
            peer.embedded.add_service("db", selector={"app": f"{name}-db"}, ports=ports)
            peer.embedded.add_secret("db", {"password": f"{name}-secret".encode()})
            file = peer.embedded.write_kubeconfig(tmp_path / name, Context(name=name))
            documents.append(json.loads(file.read_text()))
        one, two = documents
        for section in ("clusters", "users", "contexts"):
            one[section] += two[section]
        file = tmp_path / "config"
        file.write_text(json.dumps(one))
        monkeypatch.setenv("KUBECONFIG", str(file))
        yield Two(peers["prod"], peers["staging"], file)


def forward(**options: object) -> xf.Tunnel:
    given = {"resource": "svc/db", "local_port": 0, "remote_port": ECHO, "no_check": True, "timeout": 10, **options}
    return xf.k8s().port_forward(**given)  # type: ignore[arg-type]


def test_new_tunnel_goes_where_the_current_context_leads_and_one_that_lives_stays_with_its_own(two: Two) -> None:
    login = {"dsn": "postgresql://ana@/sales", "password": "secret:db/password"}
    with forward(**login) as first:
        assert behind(first) == f"pod/prod-db:{ECHO}"
        two.kubectl("use-context", "staging")
        with forward(**login) as second:
            assert (second.snapshot.route, behind(second)) == (("staging",), f"pod/staging-db:{ECHO}")
            assert "staging-secret" in second.dsn().reveal()
            first.reconnect()
            first.wait_ready(10)
            assert (first.snapshot.route, behind(first), ask(first)) == (("prod",), f"pod/prod-db:{ECHO}", b"ping")
            assert "prod-secret" in first.dsn().reveal()
    with forward(lazy=True) as lazy:  # its context is the one of the moment, though nothing is dialled yet
        two.kubectl("use-context", "prod")
        assert ask(lazy) == b"ping"
        assert behind(lazy) == f"pod/staging-db:{ECHO}"
    with forward() as third:  # also right after the last one has closed
        assert behind(third) == f"pod/prod-db:{ECHO}"


def test_engine_that_follows_a_dead_one_opens_the_tunnel_in_its_own_context_and_namespace(two: Two) -> None:
    with forward() as tunnel:
        two.kubectl("use-context", "staging")
        two.kubectl("set-context", "prod", "--namespace", "nowhere")
        engine = current().engine_pid
        os.kill(engine, signal.SIGKILL)
        until(lambda: current().engine_pid not in (0, engine), 20)
        until(lambda: tunnel.state is xf.TunnelState.READY, 20)
        assert (behind(tunnel), ask(tunnel)) == (f"pod/prod-db:{ECHO}", b"ping")


def test_namespace_of_the_context_is_the_one_it_has_now(two: Two) -> None:
    two.prod.embedded.add_pod("web", namespace="sales", labels={"app": "web"}, **two.prod.template())
    with forward() as first:
        two.kubectl("set-context", "prod", "--namespace", "sales")
        with forward(resource="pod/web") as second:
            assert (second.snapshot.namespace, ask(second)) == ("sales", b"ping")
        with pytest.raises(xf.NameNotFoundError, match="there is no service db in the namespace sales"):
            forward()
        assert ask(first) == b"ping"


def test_what_was_wrong_is_right_as_soon_as_it_is_mended(two: Two) -> None:
    """As the hints say; nothing of the try before is in the way."""
    server = two.prod.embedded.server
    two.kubectl("set-cluster", "prod", "--server", "https://127.0.0.1:1")
    with pytest.raises(xf.RefusedError, match="nobody listens there"):
        forward()
    two.kubectl("set-cluster", "prod", "--server", server)
    with forward() as tunnel:
        assert ask(tunnel) == b"ping"
    authority = two.file.with_name("authority")
    authority.write_bytes(two.staging.embedded.authority)
    two.kubectl("set-cluster", "prod", "--certificate-authority", str(authority))  # a file, which may change itself
    with pytest.raises(xf.ConfigError, match="certificate is not trusted"):
        forward()
    authority.write_bytes(two.prod.embedded.authority)
    with forward() as tunnel:
        assert ask(tunnel) == b"ping"
    data = base64.b64encode(two.staging.embedded.authority).decode()
    two.kubectl("set", "clusters.prod.certificate-authority-data", data)
    with pytest.raises(xf.ConfigError, match="certificate is not trusted"):
        forward()


def test_cluster_that_comes_back_on_another_port_is_found_there_by_its_tunnels(two: Two) -> None:
    with Distance(int(two.prod.embedded.server.rpartition(":")[2])) as door:
        two.kubectl("set-cluster", "prod", "--server", f"https://127.0.0.1:{door.port}")
        tunnel = forward(hold=20)
        assert ask(tunnel) == b"ping"
    with tunnel:
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        two.kubectl("use-context", "staging")
        two.kubectl("delete-cluster", "prod")  # as who makes a cluster anew does for a while
        assert not port_free(tunnel.local_port)
        tunnel.reconnect()
        two.kubectl("set-cluster", "prod", "--server", two.prod.embedded.server, "--insecure-skip-tls-verify")
        assert ask(tunnel) == b"ping"
        assert (behind(tunnel), stats(tunnel).reconnects) == (f"pod/prod-db:{ECHO}", 1)


def test_login_that_was_read_anew_is_not_shown_to_the_server_that_had_the_name_before(two: Two) -> None:
    """The old server refuses the token; the file has another one by now, which is another server's."""
    prod, staging = two.prod.embedded, two.staging.embedded
    with forward() as tunnel:
        token = staging.new_token("admin")
        two.kubectl("set-cluster", "prod", "--server", staging.server, "--insecure-skip-tls-verify")
        two.kubectl("set-credentials", "prod", "--token", token)
        for old in prod.call(lambda: list(prod.state.access.tokens)):
            prod.expire_token(old)
        prod.call(lambda: prod.state.access.tokens.update({token: "admin"}))  # it would be taken
        assert ask(tunnel) == b"ping"
        until(lambda: behind(tunnel) == f"pod/staging-db:{ECHO}")
