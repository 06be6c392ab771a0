"""What the opening, health_check() and the doctor look at serves on: who greets each client, who serves one alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

import xec_forward as xf
from tests.peers.debugger import Debugger, initialize
from tests.peers.sshd import Sshd
from xec_forward.demo.cluster import Cluster

LOOKS = 5


@pytest.fixture
def debugger() -> Iterator[Debugger]:
    with Debugger() as debugger:
        yield debugger


def test_debugger_behind_a_bastion_serves_after_each_look(bastion: Sshd, debugger: Debugger) -> None:
    for _ in range(LOOKS):
        with xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=debugger.port, local_port=0) as tunnel:
            assert initialize(tunnel.local_port)["success"]
            assert tunnel.health_check()
            assert initialize(tunnel.local_port)["success"]
        assert xf.ssh("bastion").doctor(remote_host="pg.vpc", remote_port=debugger.port).ok
    assert initialize(debugger.port)["success"]


def test_debugger_of_a_pod_serves_after_each_look(cluster: Cluster, debugger: Debugger) -> None:
    cluster.add_pod("checkout", serves={5678: ("127.0.0.1", debugger.port)})
    prod = xf.k8s(kubeconfig=cluster.kubeconfig)
    for _ in range(LOOKS):
        with prod.port_forward(resource="pod/checkout", remote_port=5678, local_port=0) as tunnel:
            assert initialize(tunnel.local_port)["success"]
            assert tunnel.health_check()
            assert initialize(tunnel.local_port)["success"]
        assert prod.doctor(resource="pod/checkout", remote_port=5678).ok
    assert initialize(debugger.port)["success"]


@pytest.fixture
def last_word() -> Iterator[socket.socket]:
    """A program that serves one client, as Delve does, at Delve's port of an address that nobody else has."""
    with socket.create_server(("127.23.45.1", 2345)) as listener:
        listener.settimeout(10)
        yield listener


def test_debugger_that_serves_one_client_behind_a_bastion_is_left_to_it(
    bastion: Sshd, last_word: socket.socket
) -> None:
    host, port = last_word.getsockname()
    assert "2345" in str(found := xf.ssh("bastion").doctor(remote_host=host, remote_port=port))
    assert found.ok
    with xf.ssh("bastion").forward(remote_host=host, remote_port=port, local_port=0) as tunnel:
        serves_its_client(tunnel, last_word)


def test_debugger_that_serves_one_client_in_a_pod_is_left_to_it(cluster: Cluster, last_word: socket.socket) -> None:
    cluster.add_pod("app", ports={"dlv": 40000}, serves={port: last_word.getsockname() for port in (2345, 40000)})
    prod = xf.k8s(kubeconfig=cluster.kubeconfig)
    for remote in (2345, "dlv"):
        assert prod.doctor(pod="app", remote_port=remote).ok
        with prod.port_forward(pod="app", remote_port=remote, local_port=0) as tunnel:
            serves_its_client(tunnel, last_word)


def serves_its_client(tunnel: xf.Tunnel, listener: socket.socket) -> None:
    """The first who came to it is the tunnel's client."""
    said = "was not tried: such a debugger ends with its first client"
    assert any(said in note for note in tunnel.snapshot.notes)
    health = tunnel.health_check()
    assert health.ok
    assert (health.stages[-1].name, health.stages[-1].outcome) == ("target", "not tried")
    with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as client:
        client.sendall(b"it is I")
        served, _ = listener.accept()
        with served:
            assert served.recv(100) == b"it is I"
