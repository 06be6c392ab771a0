"""What the opening, health_check() and the doctor look at serves on: who greets each client, who serves one alone."""

from __future__ import annotations

import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Self

import pytest

import xec_forward as xf
from tests.peers.debugger import Debugger, initialize
from tests.peers.sshd import Sshd
from xec_forward.demo.cluster import Cluster

# An address that nobody else listens on, for the ports that debuggers usually have: one for each of xdist's workers.
HOST = f"127.23.45.{1 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))}"


class Service(ABC):
    """It listens on `port` of 127.0.0.1 while the context is open, in a thread that ends with it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError), self._listener:
            self.serve(self._listener)

    @abstractmethod
    def serve(self, listener: socket.socket) -> None:
        """Take clients; OSError once the context has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)


class Greeter(Service):
    """It greets each client in two pieces, and takes nobody after one that has left before the second."""

    def serve(self, listener: socket.socket) -> None:
        kept = []
        while True:
            client, _ = listener.accept()
            kept.append(client)
            client.sendall(b"good ")
            client.settimeout(0.1)
            with suppress(TimeoutError):
                if not client.recv(1):
                    return
            client.sendall(b"day")


class Spring(Service):
    """It sends to its one client for as long as that takes it.

    Attributes:
        sent: bytes so far.
        over: the client has left.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.over = threading.Event()
        super().__init__()

    def serve(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, suppress(OSError):
            while True:
                self.sent += client.send(bytes(65536))
        self.over.set()


def greeted(port: int) -> bytes:
    words = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        while len(words) < 8 and (piece := client.recv(100)):
            words += piece
    return words


def look(open_tunnel: Callable[[], xf.Tunnel], doctor: Callable[[], object], greeter: Greeter) -> None:
    for _ in range(3):
        with open_tunnel() as tunnel:
            assert greeted(tunnel.local_port) == b"good day"
            assert tunnel.health_check()
            assert greeted(tunnel.local_port) == b"good day"
        assert doctor()
    assert greeted(greeter.port) == b"good day"


def test_service_behind_a_bastion_that_greets_serves_after_each_look(bastion: Sshd) -> None:
    with Greeter() as greeter:
        host, far = xf.ssh("bastion"), {"remote_host": "pg.vpc", "remote_port": greeter.port}
        look(lambda: host.forward(**far, local_port=0), lambda: host.doctor(**far).ok, greeter)


def test_service_of_a_pod_that_greets_serves_after_each_look(cluster: Cluster) -> None:
    with Greeter() as greeter:
        cluster.add_pod("web", serves={7000: ("127.0.0.1", greeter.port)})
        prod, far = xf.k8s(kubeconfig=cluster.kubeconfig), {"pod": "web", "remote_port": 7000}
        look(lambda: prod.port_forward(**far, local_port=0), lambda: prod.doctor(**far).ok, greeter)


def test_service_behind_a_bastion_that_never_ends_is_not_listened_to(bastion: Sshd) -> None:
    with (
        Spring() as spring,
        xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=spring.port, local_port=0),
    ):
        assert spring.over.wait(5)
        assert spring.sent < 20_000_000, "what windows and buffers take"


def test_service_of_a_pod_that_never_ends_is_not_listened_to(cluster: Cluster) -> None:
    with Spring() as spring:
        cluster.add_pod("web", serves={7000: ("127.0.0.1", spring.port)})
        with xf.k8s(kubeconfig=cluster.kubeconfig).port_forward(pod="web", remote_port=7000, local_port=0):
            assert spring.over.wait(5)
            assert spring.sent < 20_000_000, "what windows and buffers take"


@pytest.fixture(params=[2345, 5678])
def debugger_port(request: pytest.FixtureRequest) -> int:
    """Delve's, and debugpy's."""
    port: int = request.param
    return port


@pytest.fixture
def listener(debugger_port: int) -> Iterator[socket.socket]:
    with socket.create_server((HOST, debugger_port)) as listener:
        listener.settimeout(10)
        yield listener


def test_debugger_behind_a_bastion_is_left_to_its_client(bastion: Sshd, listener: socket.socket) -> None:
    host, port = listener.getsockname()
    assert xf.ssh("bastion").doctor(remote_host=host, remote_port=port).ok
    with xf.ssh("bastion").forward(remote_host=host, remote_port=port, local_port=0) as tunnel:
        has_its_client(tunnel, listener)


def test_debugger_in_a_pod_is_left_to_its_client(cluster: Cluster, debugger_port: int, listener: socket.socket) -> None:
    name, address = {2345: "dlv", 5678: "debugpy"}[debugger_port], listener.getsockname()
    cluster.add_pod("app", ports={name: 40000}, serves={debugger_port: address, 40000: address})
    prod = xf.k8s(kubeconfig=cluster.kubeconfig)
    for port in (debugger_port, name):
        assert prod.doctor(pod="app", remote_port=port).ok
        with prod.port_forward(pod="app", remote_port=port, local_port=0) as tunnel:
            has_its_client(tunnel, listener)


def has_its_client(tunnel: xf.Tunnel, listener: socket.socket) -> None:
    """The first who came to it is the tunnel's client."""
    said = "was not tried: a debugger may take nobody after a client that only looks"
    assert any(said in note for note in tunnel.snapshot.notes)
    health = tunnel.health_check()
    assert health.ok
    assert (health.stages[-1].name, health.stages[-1].outcome) == ("target", "not tried")
    with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as client:
        client.sendall(b"it is I")
        served, _ = listener.accept()
        with served:
            assert served.recv(100) == b"it is I"


def test_debugpy_serves_who_comes_after_a_tunnel_was_opened_and_examined(bastion: Sshd) -> None:
    with Debugger(HOST) as debugger:
        host, far = xf.ssh("bastion"), {"remote_host": HOST, "remote_port": debugger.port}
        assert host.doctor(**far).ok
        with host.forward(**far, local_port=0) as tunnel:
            assert tunnel.health_check()
            assert initialize(tunnel.local_port)["success"]
