"""The port is held for life (S4, N2): a real sshd is killed, frozen and brought back while clients wait."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.peers.ports import port_free
from tests.peers.services import Services, pattern_digest
from tests.peers.sshd import Sshd
from xec_forward.client.session import current

# A client that waits is served this soon after the link can be had again, seconds.
SERVED_WITHIN = 1.0


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.01)


def in_background(work: Callable[[], bytes]) -> Future[bytes]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def open_echo(services: Services, **options: object) -> xf.Tunnel:
    return xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=services.echo, local_port=0, **options)


def parked(tunnel: xf.Tunnel, count: int = 1) -> Callable[[], bool]:
    def look() -> bool:
        current().refresh()
        return tunnel.stats.parked >= count

    return look


def test_client_that_waits_while_the_bastion_is_down_is_served_when_it_returns(
    bastion: Sshd, services: Services
) -> None:
    with open_echo(services) as tunnel:
        port = tunnel.local_port
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        assert not port_free(port)
        waiting = in_background(lambda: ask(port, b"patience"))
        until(parked(tunnel))
        bastion.start()
        start = time.monotonic()
        assert waiting.result(10) == b"patience"
        took = time.monotonic() - start
        assert took < SERVED_WITHIN, f"served {took:.2f} s after the bastion's return"
        until(lambda: tunnel.state is xf.TunnelState.READY)
        assert tunnel.local_port == port
        assert tunnel.snapshot.counters.reconnects == 1


def test_many_clients_during_an_outage_are_all_served_in_full(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel:
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        messages = [hashlib.sha256(str(n).encode()).digest() * 1000 for n in range(50)]
        with ThreadPoolExecutor(50) as pool:
            answers = [pool.submit(ask, tunnel.local_port, message) for message in messages]
            until(parked(tunnel, 50))
            bastion.start()
            assert [answer.result(20) for answer in answers] == messages


def test_client_that_waits_while_the_bastion_is_frozen_is_served_when_it_thaws(
    bastion: Sshd, services: Services
) -> None:
    with open_echo(services) as tunnel:
        bastion.freeze()
        waiting = in_background(lambda: ask(tunnel.local_port, b"patience"))
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        bastion.thaw()
        start = time.monotonic()
        assert waiting.result(10) == b"patience"
        assert time.monotonic() - start < SERVED_WITHIN


def test_frozen_bastion_is_noticed_by_keepalives_and_its_client_served_after_the_thaw(
    bastion: Sshd, services: Services
) -> None:
    target = xf.ssh("bastion", server_alive_interval=0.2, server_alive_count_max=2)
    with target.forward(remote_host="pg.vpc", remote_port=services.echo, local_port=0) as tunnel:
        with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as carried:
            carried.sendall(b"x")
            assert carried.recv(1) == b"x"
            bastion.freeze()
            until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
            with pytest.raises(ConnectionResetError):
                carried.recv(1)
        waiting = in_background(lambda: ask(tunnel.local_port, b"patience"))
        until(parked(tunnel))
        bastion.thaw()
        start = time.monotonic()
        assert waiting.result(10) == b"patience"
        assert time.monotonic() - start < SERVED_WITHIN


def test_lost_link_resets_a_download_and_never_ends_it_like_a_complete_one(bastion: Sshd, services: Services) -> None:
    tunnel = xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=services.source, local_port=0)
    with tunnel, socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as client:
        client.sendall(b"%d\n" % (1 << 30))
        assert client.recv(65536)
        bastion.kill()
        with pytest.raises(ConnectionResetError):
            while client.recv(1 << 20):
                pass


def test_hung_query_ends_at_once_when_the_tunnel_closes(bastion: Sshd, services: Services) -> None:
    tunnel = xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=services.hang, local_port=0)
    with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as client:
        client.sendall(b"select pg_sleep(1000)")
        until(lambda: (current().refresh(), tunnel.stats.bytes_up)[1])  # type: ignore[func-returns-value]
        time.sleep(0.3)  # nothing moves for a moment: that is what makes it hung
        ended: list[float] = []

        def wait() -> None:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            ended.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        start = time.monotonic()
        tunnel.close()
        thread.join(5)
        assert ended[0] - start < 0.25


def test_download_in_flight_is_finished_by_close(bastion: Sshd, services: Services) -> None:
    tunnel = xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=services.source, local_port=0)
    size = 8 * 1024 * 1024
    with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as client:
        client.sendall(b"%d\n" % size)
        digest = hashlib.sha256(client.recv(65536))
        closing = threading.Thread(target=tunnel.close)
        closing.start()
        while data := client.recv(65536):
            digest.update(data)
        closing.join(5)
    assert digest.hexdigest() == pattern_digest(size)


def test_half_close_reaches_the_service_and_its_answer_comes_back(bastion: Sshd, services: Services) -> None:
    with xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=services.reply, local_port=0) as tunnel:
        message = b"z" * 1_000_000
        answer = ask(tunnel.local_port, message)
        assert answer.split()[0] == b"1000000"
        assert hashlib.sha256(message).hexdigest().encode() in answer


def test_refused_connection_resets_one_client_and_touches_no_other(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    refused = target.forward(remote_host="pg.vpc", remote_port=services.refused, local_port=0, no_check=True)
    with open_echo(services) as tunnel, refused:
        with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as other:
            other.sendall(b"a")
            assert other.recv(1) == b"a"
            with pytest.raises(ConnectionResetError):
                ask(refused.local_port)
            until(lambda: refused.error is not None)
            assert isinstance(refused.error, xf.RefusedError)
            assert refused.state is xf.TunnelState.READY
            other.sendall(b"b")
            assert other.recv(1) == b"b"


def test_reconnect_drops_the_transport_and_keeps_the_port(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel:
        port = tunnel.local_port
        with socket.create_connection(("127.0.0.1", port), timeout=10) as carried:
            carried.sendall(b"x")
            assert carried.recv(1) == b"x"
            tunnel.reconnect()
            with pytest.raises(ConnectionResetError):
                carried.recv(1)
        tunnel.wait_ready(10)
        assert (tunnel.local_port, ask(port)) == (port, b"ping")


def test_hold_ends_with_a_reset_and_the_reason(bastion: Sshd, services: Services) -> None:
    with open_echo(services, hold=0.3) as tunnel:
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        with pytest.raises(ConnectionResetError):
            ask(tunnel.local_port)
        until(lambda: tunnel.stats.refused == 1)


def test_no_hold_at_all_is_for_a_link_that_is_down_alone(bastion: Sshd, services: Services) -> None:
    with (
        open_echo(services, hold=0) as tunnel,
        xf.ssh("bastion").forward(type="remote", local_port=services.echo, remote_port=0, hold=0) as remote,
    ):
        assert [ask(port) for port in (tunnel.local_port, remote.remote_port) for _ in range(3)] == [b"ping"] * 6
        assert (tunnel.error, remote.error) == (None, None)
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        start = time.monotonic()
        with pytest.raises(ConnectionResetError):
            ask(tunnel.local_port)
        assert time.monotonic() - start < SERVED_WITHIN
        until(lambda: "a client waited 0 s" in str(tunnel.error))
        bastion.start()
        tunnel.wait_ready(10)
        assert ask(tunnel.local_port) == b"ping"


def test_changed_host_key_after_an_outage_fails_the_tunnel_and_keeps_the_port(
    bastion: Sshd, services: Services
) -> None:
    with open_echo(services) as tunnel:
        bastion.restart(changed_host_key=True)
        until(lambda: tunnel.state is xf.TunnelState.FAILED)
        assert isinstance(tunnel.error, xf.ChangedHostKeyError)
        assert not port_free(tunnel.local_port)
        with pytest.raises(ConnectionResetError):
            ask(tunnel.local_port)
        bastion.write_known_hosts()
        tunnel.reconnect()
        tunnel.wait_ready(10)
        assert ask(tunnel.local_port) == b"ping"


def test_outage_with_an_open_transfer_of_another_tunnel_on_another_bastion_touches_only_its_own(
    bastion: Sshd, services: Services, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("other")
    with Sshd(folder) as other:
        config = other.write_config(folder / "config", "other")
        target = xf.ssh("other", ssh_config=str(config))
        with (
            open_echo(services) as tunnel,
            target.forward(remote_host="pg.vpc", remote_port=services.echo, local_port=0) as kept,
            socket.create_connection(("127.0.0.1", kept.local_port), timeout=10) as client,
        ):
            client.sendall(b"1")
            assert client.recv(1) == b"1"
            bastion.kill()
            until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
            client.sendall(b"2")
            assert client.recv(1) == b"2"
            assert kept.state is xf.TunnelState.READY
