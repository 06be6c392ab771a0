"""A service that greets whoever connects is looked at by the opening, health_check() and the doctor, and serves on."""

from __future__ import annotations

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
