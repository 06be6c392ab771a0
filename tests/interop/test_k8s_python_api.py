"""`xf.k8s()` and `port_forward()` against the embedded API server: blocking and awaitable forms."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.peers.ports import free_port, port_free
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.cluster import PortArguments
from xec_forward.client.session import current
from xec_forward.demo.cluster import Cluster


@pytest.fixture
def prod(cluster: Cluster) -> xf.Cluster:
    """The cluster as a user has it."""
    return xf.k8s(context="demo", kubeconfig=cluster.kubeconfig)


@pytest.fixture
def api(cluster: Cluster, services: Services) -> Cluster:
    """The cluster with a workload of each kind, all named `api` and with the same two ports, behind a Service."""
    ports = {"debug": 9229, "echo": 7000}
    serves = {9229: ("127.0.0.1", services.echo), 7000: ("127.0.0.1", services.echo)}
    for add in (
        *(cluster.add_deployment, cluster.add_statefulset, cluster.add_replicaset),
        *(cluster.add_daemonset, cluster.add_job),
    ):
        add("api", ports=ports, serves=serves)
    cluster.add_pod("alone", labels={"app": "alone"}, ports=ports, serves=serves)
    cluster.add_service("api", selector={"app": "api"}, ports=[{"name": "debug", "port": 9229, "targetPort": "debug"}])
    return cluster


def ask(port: int, data: bytes = b"ping") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        return client.recv(len(data), socket.MSG_WAITALL)


# What asks no cluster


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"remote_port": 80}, "what to lead to is missing"),
        ({"pod": "a", "service": "b", "remote_port": 80}, "pod and service are given"),
        ({"pod": "a"}, "remote_port is missing"),
        ({"pod": "a", "remote_port": 0}, "remote_port is 0, not a port from 1"),
        ({"pod": "a", "remote_port": 70000}, "not a port from 1"),
        ({"pod": "a", "remote_port": True}, "not a port from 1"),
        ({"pod": "a", "remote_port": "1:2"}, "neither a port's number nor its name"),
        ({"pod": "a", "remote_port": 80, "local_port": -1}, "local_port is -1"),
        ({"pod": "A", "remote_port": 80}, "no name of a resource"),
        ({"service": "", "remote_port": 80}, "a name is missing"),
        ({"resource": "x/y", "remote_port": 80}, "no kind 'x'"),
        ({"selector": "a;b", "remote_port": 80}, "no label selector"),
        ({"pod": "a", "remote_port": 80, "socks_user": "ana"}, "has no option socks_user"),
        ({"pod": "a", "remote_prot": 80}, "Did you mean remote_port?"),
        ({"pod": "a", "remote_port": 80, "name": "my-db"}, "a NAME is a Python identifier"),
        ({"pod": "a", "remote_port": 80, "dsn": "postgresql://ana:hunter2@/s"}, "holds no password"),
        ({"pod": "a", "remote_port": 80, "password": "secret:hunter2"}, "a key of it"),
        ({"pod": "a", "remote_port": 80, "hold": "long"}, "hold="),
        ({"pod": "a", "forwards": []}, "forwards is empty"),
        ({"pod": "a", "forwards": [{"remote_port": 80, "pod": "b"}]}, "an entry of forwards has no option pod"),
        ({"pod": "a", "forwards": [{"remote_port": 80}, {"local_port": 3}]}, "remote_port is missing"),
    ],
)
def test_malformed_arguments_are_one_spec_error(prod: xf.Cluster, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(xf.SpecError) as caught:
        prod.port_forward(**arguments)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert not current().tunnels


def test_kubernetes_secret_needs_a_cluster() -> None:
    with pytest.raises(xf.SpecError, match="is read from a cluster, and bastion is none"):
        xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=5432, password="secret:pg/password")
    assert not current().tunnels


def test_cluster_shows_where_it_is_and_takes_the_hosts_to_go_through() -> None:
    bastion = xf.ssh("bastion", username="ana", proxy="jump")
    behind = xf.k8s(context="prod", namespace="sales", kubeconfig=Path("/k"), proxy=bastion)
    assert repr(behind) == "<Cluster prod sales>"
    assert behind.target.kubeconfig == "/k"
    assert [(hop.host, hop.username) for hop in behind.target.proxy] == [("jump", ""), ("bastion", "ana")]
    assert repr(xf.k8s()) == "<Cluster cluster>"


# Through the cluster


@pytest.mark.parametrize(
    ("where", "far"),
    [
        ({"pod": "alone"}, "pod/alone"),
        ({"service": "api"}, "svc/api"),
        ({"deployment": "api"}, "deploy/api"),
        ({"statefulset": "api"}, "sts/api"),
        ({"replicaset": "api"}, "rs/api"),
        ({"daemonset": "api"}, "ds/api"),
        ({"job": "api"}, "job/api"),
        ({"selector": "app=alone"}, "-l app=alone"),
        ({"resource": "deployments/api"}, "deploy/api"),
    ],
)
def test_each_kind_of_resource_is_reached(api: Cluster, prod: xf.Cluster, where: dict[str, Any], far: str) -> None:
    port = free_port()
    with prod.port_forward(**where, local_port=port, remote_port=9229, no_check=True) as tunnel:
        assert tunnel.is_alive()
        assert (tunnel.local_port, tunnel.remote_host, tunnel.remote_port) == (port, far, 9229)
        assert tunnel.snapshot.way == (f"127.0.0.1:{port}", "demo", f"{far}:9229")
        assert ask(port) == b"ping"
    assert tunnel.state is xf.TunnelState.CLOSED
    assert port_free(port)


def test_named_port_takes_any_free_local_port(api: Cluster, prod: xf.Cluster) -> None:
    with prod.port_forward(service="api", remote_port="debug", no_check=True) as tunnel:
        assert tunnel.name == "api"
        assert tunnel.local_port > 0
        assert tunnel.remote_port_name == "debug"
        assert ask(tunnel.local_port) == b"ping"


def test_several_ports_are_one_group_by_name_and_port_and_one_pods(api: Cluster, prod: xf.Cluster) -> None:
    forwards: list[PortArguments] = [{"local_port": 0, "remote_port": 9229}, {"name": "metrics", "remote_port": "echo"}]
    with prod.port_forward(pod="alone", forwards=forwards, no_check=True) as debug:
        assert list(debug) == ["alone", "metrics"]
        assert debug[9229] is debug["alone"] is debug[debug["alone"].local_port]
        assert debug["metrics"] is debug["echo"]
        assert [ask(tunnel.local_port) for tunnel in debug.values()] == [b"ping"] * 2
    assert all(tunnel.state is xf.TunnelState.CLOSED for tunnel in debug.values())
    unnamed: list[PortArguments] = [{"local_port": 0, "remote_port": 9229}, {"remote_port": "echo"}]
    with prod.port_forward(deployment="api", forwards=unnamed, no_check=True) as group:
        assert list(group) == ["api_9229", "api_echo"]


def test_one_that_fails_stays_in_the_group_unless_told(api: Cluster, prod: xf.Cluster) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        bad = taken.getsockname()[1]
        forwards: list[PortArguments] = [
            {"local_port": 0, "remote_port": 9229},
            {"local_port": bad, "remote_port": 7000},
        ]
        with prod.port_forward(pod="alone", forwards=forwards, no_check=True) as group:
            assert [tunnel.state for tunnel in group.values()] == [xf.TunnelState.READY, xf.TunnelState.FAILED]
            assert isinstance(group["alone_7000"].error, xf.PortInUseError)
        with pytest.raises(xf.PortInUseError):
            prod.port_forward(pod="alone", forwards=forwards, no_check=True, exit_on_failure=True)
    assert not current().tunnels


async def test_awaitable_forms_do_the_same(api: Cluster, prod: xf.Cluster) -> None:
    tunnel = await prod.aport_forward(service="api", local_port=0, remote_port=9229, no_check=True)
    assert await asyncio.to_thread(ask, tunnel.local_port) == b"ping"
    await tunnel.aclose()
    async with prod.aport_forward(pod="alone", remote_port="debug", no_check=True) as tunnel:
        assert await asyncio.to_thread(ask, tunnel.local_port) == b"ping"
    assert tunnel.state is xf.TunnelState.CLOSED
    forwards: list[PortArguments] = [{"local_port": 0, "remote_port": 9229}, {"remote_port": "echo"}]
    async with prod.aport_forward(pod="alone", forwards=forwards, no_check=True) as group:
        assert list(group) == ["alone_9229", "alone_echo"]
        assert await asyncio.to_thread(ask, group["echo"].local_port) == b"ping"
    assert all(tunnel.state is xf.TunnelState.CLOSED for tunnel in group.values())


def test_use_closes_also_on_an_error(api: Cluster, prod: xf.Cluster) -> None:
    assert (
        prod.port_forward(pod="alone", remote_port="debug", no_check=True).use(lambda t: ask(t.local_port)) == b"ping"
    )
    with pytest.raises(ZeroDivisionError):
        prod.port_forward(pod="alone", remote_port="debug", no_check=True).use(lambda t: 1 / 0)
    assert not current().tunnels


def test_secret_is_read_for_each_connection_and_kept_nowhere(
    cluster: Cluster, prod: xf.Cluster, postgres: Postgres
) -> None:
    cluster.add_statefulset("postgres", serves={5432: ("127.0.0.1", postgres.port)})
    cluster.add_secret("postgres", {"password": postgres.password.encode()})
    dsn = f"postgresql://{postgres.user}@/{postgres.database}"
    known = set(vars(current().sources)["_known"])
    with prod.port_forward(
        statefulset="postgres", local_port=0, remote_port=5432, dsn=dsn, password="secret:postgres/password"
    ) as pg:
        engine = pg.engine()
        before = cluster.requests.count("GET /api/v1/namespaces/default/secrets/postgres")
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.exec_driver_sql("select 6 * 7").scalar() == 42
            engine.dispose()
        assert cluster.requests.count("GET /api/v1/namespaces/default/secrets/postgres") == before + 2
        kept = {name: each for name, each in vars(current().sources)["_known"].items() if name not in known}
        assert len(kept) == 1
        assert postgres.password not in repr(kept) + repr(pg) + repr(pg.url)
        cluster.deny("get", "secrets")
        with pytest.raises(xf.RbacError):
            pg.dsn()


def test_errors_are_those_of_the_tree(api: Cluster, prod: xf.Cluster, cluster: Cluster) -> None:
    with pytest.raises(xf.NameNotFoundError):
        prod.port_forward(service="nothing", remote_port=80, timeout=5)
    with pytest.raises(xf.ConfigError):
        xf.k8s(context="nowhere", kubeconfig=cluster.kubeconfig).port_forward(service="api", remote_port=9229)
    cluster.deny("get", "pods/portforward")
    cluster.deny("create", "pods/portforward")
    with pytest.raises(xf.RbacError):
        prod.port_forward(service="api", local_port=0, remote_port=9229, timeout=5)
    assert not current().tunnels


def test_cluster_behind_a_bastion_is_reached_through_it(api: Cluster, bastion: Sshd, cluster: Cluster) -> None:
    behind = xf.k8s(kubeconfig=cluster.kubeconfig, proxy=xf.ssh("bastion"))
    with behind.port_forward(service="api", local_port=0, remote_port=9229, no_check=True) as tunnel:
        assert tunnel.snapshot.way[1:3] == ("bastion", "demo")
        assert ask(tunnel.local_port) == b"ping"
