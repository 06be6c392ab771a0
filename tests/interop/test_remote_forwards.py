"""Remote forwards (S21, S22, S28) against a real sshd: the bastion listens, a service on this side answers."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import until
from tests.peers import netns
from tests.peers.netns import Network
from tests.peers.ports import free_port, port_free
from tests.peers.services import Services, pattern, pattern_digest
from tests.peers.sshd import Sshd
from tests.peers.sshd import missing as sshd_missing
from tests.peers.unanswering import Unanswering
from xec_forward.client.events import Event
from xec_forward.client.session import current

BIG = 50 * 1024 * 1024
# A degraded tunnel tries again this often, and a little more, seconds.
MENDED_WITHIN = 10.0


def remote(port: int, **arguments: object) -> xf.Tunnel:
    """A remote forward that leads to `port` on this side."""
    wanted = {"remote_port": 0, "local_port": port, **arguments}
    return xf.ssh("bastion").forward(type="remote", **wanted)  # type: ignore[arg-type]


def ask_path(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_port_zero_reports_the_port_and_bytes_pass_both_ways(bastion: Sshd, services: Services) -> None:
    with remote(services.echo, local_host="127.0.0.1") as tunnel:
        assert tunnel.state is xf.TunnelState.READY
        assert tunnel.remote_port > 0
        assert (tunnel.local_host, tunnel.local_port) == ("127.0.0.1", services.echo)
        assert str(tunnel.remote_port) in repr(tunnel)
        assert ask(tunnel.remote_port, b"hello") == b"hello"
        current().refresh()
        assert (tunnel.stats.bytes_up, tunnel.stats.bytes_down, tunnel.stats.clients_total) == (5, 5, 1)


def test_fifty_megabytes_arrive_whole_in_each_direction(bastion: Sshd, services: Services) -> None:
    with remote(services.source) as down, remote(services.reply) as up:
        with socket.create_connection(("127.0.0.1", down.remote_port), timeout=60) as client:
            client.sendall(b"%d\n" % BIG)
            digest = hashlib.sha256()
            while data := client.recv(1 << 18):
                digest.update(data)
        assert digest.hexdigest() == pattern_digest(BIG)
        with socket.create_connection(("127.0.0.1", up.remote_port), timeout=60) as client:
            for block in pattern(BIG):
                client.sendall(block)
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.split() == [str(BIG).encode(), pattern_digest(BIG).encode()]


def test_service_that_ends_first_still_receives_what_its_client_sends(bastion: Sshd) -> None:
    received = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.settimeout(10)
                client.sendall(b"bye")
                client.shutdown(socket.SHUT_WR)
                while data := client.recv(65536):
                    received.extend(data)
            done.set()

        threading.Thread(target=serve, daemon=True).start()
        with (
            remote(server.getsockname()[1], local_host="127.0.0.1") as tunnel,
            socket.create_connection(("127.0.0.1", tunnel.remote_port), timeout=10) as client,
        ):
            assert b"".join(iter(lambda: client.recv(65536), b"")) == b"bye"
            for _ in range(20):
                client.sendall(b"x" * 50_000)
            client.shutdown(socket.SHUT_WR)
            assert done.wait(10)
    assert len(received) == 1_000_000


def test_many_clients_at_once_each_get_their_own_answer(bastion: Sshd, services: Services) -> None:
    with remote(services.echo) as tunnel:
        messages = [hashlib.sha256(str(n).encode()).digest() * 2000 for n in range(60)]
        with ThreadPoolExecutor(60) as pool:
            answers = list(pool.map(lambda message: ask(tunnel.remote_port, message), messages))
        assert answers == messages
        until(lambda: (current().refresh(), tunnel.stats.clients == 0)[1])  # type: ignore[func-returns-value]
        assert tunnel.stats.clients_total == 60


def test_service_on_this_side_that_never_answers_costs_its_client_alone(bastion: Sshd, services: Services) -> None:
    with (
        Unanswering() as silent,
        remote(silent.port, local_host="127.0.0.1", timeout=1) as tunnel,
        remote(services.echo) as other,
        socket.create_connection(("127.0.0.1", tunnel.remote_port), 10) as client,
    ):
        assert ask(other.remote_port) == b"ping"
        assert client.recv(1) == b""
        until(lambda: f"127.0.0.1:{silent.port}: no answer, on this side" in str(tunnel.error))
        assert tunnel.state is xf.TunnelState.READY


def test_unix_sockets_on_both_sides(bastion: Sshd, tmp_path: Path) -> None:
    far = tmp_path / "far.sock"
    with Services(tmp_path) as own:
        near = own.echo_path
        with (
            xf.ssh("bastion").forward(type="remote", local_port=own.echo, remote_host=str(far)) as one,
            xf.ssh("bastion").forward(type="remote", remote_port=0, local_host=near) as two,
        ):
            assert ask_path(far, b"to a path there") == b"to a path there"
            assert one.snapshot.listen == str(far)
            assert ask(two.remote_port, b"to a path here") == b"to a path here"
            assert two.snapshot.connect == near


def test_same_port_is_asked_for_again_after_the_bastion_was_killed(bastion: Sshd, services: Services) -> None:
    with remote(services.echo) as tunnel:
        port = tunnel.remote_port
        with socket.create_connection(("127.0.0.1", port), timeout=10) as carried:
            carried.sendall(b"x")
            assert carried.recv(1) == b"x"
            bastion.kill()
            until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        assert port_free(port)
        bastion.start()
        tunnel.wait_ready(10)
        assert tunnel.remote_port == port
        assert ask(port) == b"ping"
        assert tunnel.stats.reconnects == 1


def test_same_port_is_asked_for_again_by_an_engine_that_follows_another(bastion: Sshd, services: Services) -> None:
    session = current()
    with remote(services.echo) as tunnel:
        port, first = tunnel.remote_port, session.engine_pid
        os.kill(first, 9)
        until(lambda: session.engine_pid not in (0, first), 15)
        tunnel.wait_ready(15)
        assert tunnel.remote_port == port
        assert ask(port) == b"ping"


def test_port_taken_meanwhile_degrades_the_tunnel_with_the_reason_until_it_is_free(
    bastion: Sshd, services: Services
) -> None:
    with remote(services.echo) as tunnel:
        port = tunnel.remote_port
        told: list[Event] = []
        for name in ("ready", "reconnecting", "degraded", "reconnected", "error"):
            tunnel.on(name, told.append)
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        # Both of the loopback addresses: one is enough for sshd to say yes.
        with socket.create_server(("127.0.0.1", port)), socket.create_server(("::1", port), family=socket.AF_INET6):
            bastion.start()
            until(lambda: tunnel.state is xf.TunnelState.DEGRADED)
            assert isinstance(tunnel.error, xf.ProhibitedError)
            assert str(port) in str(tunnel.error)
            assert not tunnel.is_alive()
            assert not tunnel.health_check().ok
            with pytest.raises(xf.DeadlineError, match="degraded"):
                tunnel.wait_ready(0.1)
            until(lambda: told[-1].name == "degraded")
            assert isinstance(told[-1].error, xf.ProhibitedError)
            assert told[-1].snapshot.state is xf.TunnelState.DEGRADED
        tunnel.wait_ready(MENDED_WITHIN)
        until(lambda: told[-1].name == "ready")
        assert [event.name for event in told] == ["ready", "reconnecting", "degraded", "ready"]
        assert tunnel.error is None
        assert tunnel.remote_port == port
        assert ask(port) == b"ping"


def test_service_that_refuses_ends_that_client_alone_and_is_an_error_event(bastion: Sshd, services: Services) -> None:
    with remote(services.refused) as tunnel, remote(services.echo) as other:
        with socket.create_connection(("127.0.0.1", other.remote_port), timeout=10) as carried:
            carried.sendall(b"a")
            assert carried.recv(1) == b"a"
            with socket.create_connection(("127.0.0.1", tunnel.remote_port), timeout=10) as client:
                assert client.recv(1) == b""
            until(lambda: tunnel.error is not None)
            # By a name with two addresses (localhost), of which both refuse.
            assert isinstance(tunnel.error, xf.RefusedError)
            assert "on this side" in str(tunnel.error)
            assert tunnel.state is xf.TunnelState.READY
            carried.sendall(b"b")
            assert carried.recv(1) == b"b"
        current().refresh()
        assert (tunnel.stats.refused, tunnel.stats.clients) == (1, 0)
        assert other.error is None


def test_client_past_the_most_allowed_is_ended_and_a_free_place_is_served(bastion: Sshd, services: Services) -> None:
    with remote(services.echo, max_connections=1) as tunnel:
        with socket.create_connection(("127.0.0.1", tunnel.remote_port), timeout=10) as first:
            first.sendall(b"1")
            assert first.recv(1) == b"1"
            with socket.create_connection(("127.0.0.1", tunnel.remote_port), timeout=10) as second:
                assert second.recv(1) == b""
            until(lambda: isinstance(tunnel.error, xf.LimitError))
            first.sendall(b"2")
            assert first.recv(1) == b"2"
        until(lambda: (current().refresh(), tunnel.stats.clients == 0)[1])  # type: ignore[func-returns-value]
        assert ask(tunnel.remote_port) == b"ping"


def test_close_has_the_bastion_stop_listening_and_keeps_the_link_of_others(bastion: Sshd, services: Services) -> None:
    with remote(services.echo) as other:
        tunnel = remote(services.hang)
        port = tunnel.remote_port
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"x")
            until(lambda: (current().refresh(), tunnel.stats.bytes_down)[1])  # type: ignore[func-returns-value]
            tunnel.close()
            assert client.recv(1) == b""
        assert port_free(port)
        assert bastion.connections() == 1
        assert ask(other.remote_port) == b"ping"


@pytest.mark.parametrize("options", [{"PermitListen": "none"}, {"AllowTcpForwarding": "local"}], ids=str)
def test_refused_listen_is_one_clear_error(
    options: dict[str, str | None], services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := sshd_missing():
        pytest.skip(missing)
    folder = tmp_path / "strict"
    folder.mkdir()
    with Sshd(folder, options=options) as strict:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(strict.write_config(tmp_path / "config")))
        with pytest.raises(xf.ProhibitedError) as caught:
            remote(services.echo, remote_port=free_port())
        assert caught.value.hop == "bastion"
        assert "PermitListen" in caught.value.hint
        assert "\n" not in str(caught.value)
        assert not xf.tunnels


def test_taken_port_is_one_clear_error(bastion: Sshd, services: Services) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), socket.create_server(("::1", port), family=socket.AF_INET6):
        with pytest.raises(xf.ProhibitedError, match="taken"):
            remote(services.echo, remote_port=port)


# ---- a bastion that is not on loopback


@pytest.fixture
def network() -> Iterator[Network]:
    if missing := netns.missing() or sshd_missing():
        pytest.skip(missing)
    with Network() as running:
        yield running


@pytest.fixture
def far_bastion(
    request: pytest.FixtureRequest, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sshd]:
    """A bastion in a network of its own; the parameter is its GatewayPorts."""
    folder = tmp_path / "far"
    folder.mkdir()
    with Sshd(folder, options={"GatewayPorts": request.param}, network=network.name, address=network.far) as running:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(running.write_config(tmp_path / "ssh_config")))
        yield running


def reachable(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=5) as client:
            client.sendall(b"x")
            return client.recv(1) == b"x"
    except ConnectionRefusedError:
        return False


@pytest.mark.parametrize("far_bastion", ["no"], indirect=True)
@pytest.mark.parametrize("asked", ["", "its own address"])
def test_wide_listener_that_the_bastion_narrows_is_remarked_on(
    far_bastion: Sshd, network: Network, services: Services, asked: str
) -> None:
    host = {"remote_host": network.far} if asked else {}
    with remote(services.echo, gateway_ports=True, **host) as tunnel:
        assert not reachable(network.far, tunnel.remote_port)
        (note,) = tunnel.snapshot.notes
        assert "loopback alone (GatewayPorts" in note
        asking = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10)\n"
        asking += "s.sendall(b'x'); print(s.recv(1).decode())"
        answer = network.run("python3", "-c", asking, str(tunnel.remote_port))
        assert answer == b"x\n"
        assert tunnel.stats.clients_total <= 1  # our own look is no client


@pytest.mark.parametrize("far_bastion", ["clientspecified", "yes"], indirect=True)
def test_wide_listener_that_the_bastion_grants_is_reached_from_elsewhere(
    far_bastion: Sshd, network: Network, services: Services
) -> None:
    with remote(services.echo, gateway_ports=True) as tunnel:
        assert tunnel.snapshot.notes == ()
        assert reachable(network.far, tunnel.remote_port)
        assert reachable(network.far, tunnel.remote_port)
        until(lambda: (current().refresh(), tunnel.stats.clients_total == 2)[1])  # type: ignore[func-returns-value]


@pytest.mark.parametrize("far_bastion", ["no", "clientspecified"], indirect=True)
def test_listener_is_not_wide_unless_asked(far_bastion: Sshd, network: Network, services: Services) -> None:
    with remote(services.echo) as tunnel:
        assert not reachable(network.far, tunnel.remote_port)
        assert tunnel.snapshot.notes == ()


@pytest.mark.parametrize("far_bastion", ["yes"], indirect=True)
def test_listener_that_the_bastion_widens_unasked_is_remarked_on(
    far_bastion: Sshd, network: Network, services: Services
) -> None:
    with remote(services.echo) as tunnel:
        assert reachable(network.far, tunnel.remote_port)
        (note,) = tunnel.snapshot.notes
        assert "every interface (GatewayPorts" in note
