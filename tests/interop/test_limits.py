"""Limits (S78-S85, P13, P15), lazy tunnels (N9) and owner-only sockets (P11) over a real sshd."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import in_background, open_echo, parked, until
from tests.interop.test_remote_forwards import ask_path
from tests.peers.ports import port_free
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.events import Event
from xec_forward.client.session import current


def test_ttl_closes_the_tunnel_and_says_why(bastion: Sshd, services: Services) -> None:
    tunnel = open_echo(services, ttl=1)
    port = tunnel.local_port
    assert ask(port) == b"ping"
    until(lambda: tunnel.state is xf.TunnelState.CLOSED)
    assert "its ttl of 1 s is over" in str(tunnel.error)
    assert isinstance(tunnel.error, xf.LimitError)
    assert port_free(port)
    assert not xf.tunnels


def test_idle_closes_only_when_no_client_is_there(bastion: Sshd, services: Services) -> None:
    tunnel, other = open_echo(services, idle=1), open_echo(services, idle=1)
    with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as client:
        until(lambda: other.state is xf.TunnelState.CLOSED)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert tunnel.state is xf.TunnelState.READY
    left = time.monotonic()
    until(lambda: tunnel.state is xf.TunnelState.CLOSED)
    assert time.monotonic() - left > 0.9
    assert "no client for 1 s" in str(tunnel.error)


def test_client_past_the_most_allowed_is_reset_and_a_free_place_is_served(bastion: Sshd, services: Services) -> None:
    with open_echo(services, max_connections=2) as tunnel:
        port = tunnel.local_port
        with socket.create_connection(("127.0.0.1", port), timeout=10) as first:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as second:
                for client in (first, second):
                    client.sendall(b"x")
                    assert client.recv(1) == b"x"
                with pytest.raises(ConnectionResetError):
                    ask(port)
                until(lambda: isinstance(tunnel.error, xf.LimitError))
                assert "--max-connections N allows more" in str(tunnel.error)
                first.sendall(b"y")
                assert first.recv(1) == b"y"
            until(lambda: (current().refresh(), tunnel.stats.clients == 1)[1])  # type: ignore[func-returns-value]
            assert ask(port) == b"ping"
        assert tunnel.state is xf.TunnelState.READY


def test_most_tunnels_refuses_the_next_with_the_way_to_raise_it(
    bastion: Sshd, services: Services, request: pytest.FixtureRequest
) -> None:
    before = xf.tunnels.limit
    request.addfinalizer(lambda: setattr(xf.tunnels, "limit", before))
    assert before == 50
    xf.tunnels.limit = 2
    first, second = open_echo(services), open_echo(services)
    with pytest.raises(xf.LimitError, match=r"2 tunnels are open.*xf\.tunnels\.limit = 4"):
        open_echo(services)
    with pytest.raises(xf.LimitError):
        xf.ssh("bastion").forward_multiple([{"remote_port": services.echo, "local_port": 0}])
    assert list(xf.tunnels.values()) == [first, second]
    assert ask(first.local_port) == b"ping"
    first.close()
    third = open_echo(services)
    xf.tunnels.limit = 4
    fourth = open_echo(services)
    assert all(ask(tunnel.local_port) == b"ping" for tunnel in (second, third, fourth))


@pytest.mark.parametrize("most", [None, "x", -1, 0, 1.5, True])
def test_limit_of_tunnels_is_a_whole_number(most: object) -> None:
    before = xf.tunnels.limit
    with pytest.raises(xf.SpecError, match=r"ESPEC the limit of tunnels is .*, not a whole number from 1. xf\.tunnels"):
        xf.tunnels.limit = most  # type: ignore[assignment]
    assert xf.tunnels.limit == before


def test_lazy_tunnel_listens_at_once_and_dials_for_its_first_client(bastion: Sshd, services: Services) -> None:
    with open_echo(services, lazy=True) as tunnel:
        assert tunnel.state is xf.TunnelState.IDLE
        assert tunnel.is_alive()
        assert tunnel.wait_ready(1) is tunnel
        assert not port_free(tunnel.local_port)
        assert bastion.connections() == 0
        assert ask(tunnel.local_port) == b"ping"
        until(lambda: tunnel.state is xf.TunnelState.READY)
        assert bastion.connections() == 1


def test_lazy_tunnel_that_lost_its_link_rests_until_the_next_client(bastion: Sshd, services: Services) -> None:
    with open_echo(services, lazy=True) as tunnel:
        port = tunnel.local_port
        assert ask(port) == b"ping"
        until(lambda: tunnel.state is xf.TunnelState.READY)
        bastion.restart()
        until(lambda: tunnel.state is xf.TunnelState.IDLE)
        until(lambda: bastion.connections() == 0)  # sshd's start was seen by a connection
        assert ask(port) == b"ping"
        until(lambda: tunnel.state is xf.TunnelState.READY)
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.IDLE)
        waiting = in_background(lambda: ask(port, b"patience"))
        until(parked(tunnel))
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        bastion.start()
        assert waiting.result(10) == b"patience"
        assert tunnel.local_port == port


def test_lazy_tunnel_opens_while_the_bastion_is_down(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    with open_echo(services, lazy=True) as tunnel:
        waiting = in_background(lambda: ask(tunnel.local_port, b"patience"))
        until(parked(tunnel))
        bastion.start()
        assert waiting.result(10) == b"patience"


def test_lazy_remote_forward_is_asked_for_at_once_and_says_so(bastion: Sshd, services: Services) -> None:
    tunnel = xf.ssh("bastion").forward(type="remote", remote_port=0, local_port=services.echo, lazy=True)
    with tunnel:
        assert tunnel.state is xf.TunnelState.READY
        assert ask(tunnel.remote_port) == b"ping"
        assert "--lazy does nothing for a remote forward" in tunnel.snapshot.notes


def test_local_unix_socket_is_its_owner_s_alone_and_gone_after_close(
    bastion: Sshd, services: Services, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    tunnel = xf.ssh("bastion").forward(remote_host=bastion.far(), remote_port=services.echo, local_host=str(path))
    with tunnel:
        found = path.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.getuid())
        assert ask_path(path, b"through a path") == b"through a path"
        bastion.restart()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING or tunnel.stats.reconnects == 1)
        assert ask_path(path, b"again") == b"again"
        assert path.stat().st_ino == found.st_ino
    assert not path.exists()


def test_unix_socket_of_the_bastion_is_reached(bastion: Sshd, tmp_path: Path) -> None:
    with (
        Services(tmp_path) as own,
        xf.ssh("bastion").forward(local_port=0, remote_host=own.echo_path) as tunnel,
    ):
        assert ask(tunnel.local_port) == b"ping"


def test_more_clients_are_served_than_a_shells_limit_of_descriptors_allows(bastion: Sshd, services: Services) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        current().stop()
        tunnel = open_echo(services)  # by an engine that inherits the limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with tunnel, contextlib.ExitStack() as clients:
        opened = [
            clients.enter_context(socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=20))
            for _ in range(300)
        ]
        for client in opened:
            client.sendall(b"ping")
        assert all(client.recv(4, socket.MSG_WAITALL) == b"ping" for client in opened)


@contextlib.contextmanager
def most_open_files(count: int) -> Iterator[None]:
    """The engine may have no more than that."""
    before = resource.prlimit(current().engine_pid, resource.RLIMIT_NOFILE)
    resource.prlimit(current().engine_pid, resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.prlimit(current().engine_pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit (Linux)")
def test_client_past_the_open_files_that_the_system_allows_is_counted_and_told(
    bastion: Sshd, services: Services
) -> None:
    def use(client: socket.socket) -> bool:
        try:
            client.sendall(b"ping")
            return client.recv(4, socket.MSG_WAITALL) == b"ping"
        except ConnectionError:
            return False

    with open_echo(services) as tunnel:
        errors: list[Event] = []
        tunnel.on("error", errors.append)
        with most_open_files(128), contextlib.ExitStack() as clients:
            opened = [
                clients.enter_context(socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=20))
                for _ in range(150)
            ]
            served = sum(use(client) for client in opened)
            current().refresh()
            assert 50 < served < 128
            assert tunnel.stats.refused == 150 - served
            assert tunnel.state is xf.TunnelState.READY
        until(lambda: len(errors) == 150 - served)
        assert isinstance(errors[0].error, xf.LimitError)
        assert "ulimit -n" in str(errors[0].error)
        assert ask(tunnel.local_port) == b"ping"
