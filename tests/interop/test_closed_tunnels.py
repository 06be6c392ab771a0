"""A tunnel that is not there makes no connection string, and its engine connects to nobody who has its port by now."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

import xec_forward as xf
from tests.interop.test_reconnection import until
from tests.peers.ports import free_port, port_free
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.session import current

CLOSED = "ECLOSED pg: the tunnel is closed. Open it again"
SSL_REQUEST = 80877103


class Stranger:
    """Another program on a port: says that it is a PostgreSQL, and asks whoever comes for the password."""

    def __init__(self) -> None:
        self.told: list[bytes] = []
        self._servers: list[socket.socket] = []

    def take(self, port: int) -> None:
        server = socket.create_server(("127.0.0.1", port))
        self._servers.append(server)
        threading.Thread(target=self._serve, args=(server,), daemon=True).start()

    def leave(self) -> None:
        for server in self._servers:
            # (an accept that waits keeps the port of a socket that is only closed)
            server.shutdown(socket.SHUT_RDWR)
            server.close()
        self._servers.clear()

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                first = client.recv(4096)
                if first[4:8] == struct.pack(">I", SSL_REQUEST):
                    client.sendall(b"N")
                    client.recv(4096)
                client.sendall(b"R" + struct.pack(">II", 8, 3))
                self.told.append(client.recv(4096))


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    stranger = Stranger()
    yield stranger
    stranger.leave()


@pytest.fixture
def open_pg(bastion: Sshd, postgres: Postgres) -> Callable[..., xf.Tunnel]:
    """Opens a tunnel to the database, with its password."""

    def open(**options: object) -> xf.Tunnel:
        return xf.ssh("bastion").forward(
            remote_host="pg.vpc",
            remote_port=postgres.port,
            local_port=0,
            dsn=f"postgresql://{postgres.user}@/{postgres.database}",
            password=lambda: postgres.password,
            **options,  # type: ignore[arg-type]
        )

    return open


@pytest.mark.parametrize("how", ["close", "ttl", "the end of the session"])
def test_closed_tunnel_makes_no_connection_string(open_pg: Callable[..., xf.Tunnel], how: str) -> None:
    tunnel = open_pg(ttl=0.5 if how == "ttl" else 0)
    if how == "close":
        tunnel.close()
    elif how != "ttl":
        current().stop()
    until(lambda: tunnel.state is xf.TunnelState.CLOSED)
    for make in (tunnel.dsn, tunnel.engine, lambda: tunnel.url, lambda: tunnel.dsn("http://")):
        with pytest.raises(xf.ClosedError) as caught:
            make()
        assert str(caught.value) == CLOSED
    assert tunnel.local_port == 0


def test_proxies_of_a_closed_socks_proxy(bastion: Sshd) -> None:
    proxy = xf.ssh("bastion").forward(type="dynamic", local_port=0)
    assert proxy.proxies
    proxy.close()
    with pytest.raises(xf.ClosedError):
        assert proxy.proxies


def test_engine_of_a_closed_tunnel_sends_nothing_to_who_has_its_port(
    open_pg: Callable[..., xf.Tunnel], stranger: Stranger
) -> None:
    tunnel = open_pg()
    engine = tunnel.engine()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("select 42").scalar() == 42
    port = tunnel.local_port
    tunnel.close()
    stranger.take(port)
    for _ in range(2):  # the one that the pool kept, and another
        with pytest.raises(xf.ClosedError, match=CLOSED):
            engine.connect()
    assert stranger.told == []


def test_failed_one_of_several_has_no_address_and_says_what_failed(
    bastion: Sshd, services: Services, stranger: Stranger
) -> None:
    port = free_port()
    pg = {"dsn": "postgresql://ana@/sales", "password": "hunter2", "local_port": port}
    group = xf.ssh("bastion").forward_multiple(
        [
            {"name": "ok", "remote_host": "pg.vpc", "remote_port": services.echo, "local_port": 0},
            {"name": "bad", "remote_host": "pg.vpc", "remote_port": services.refused, **pg},  # type: ignore[typeddict-item]
        ]
    )
    with group:
        bad = group["bad"]
        assert (bad.state, bad.local_port, bad.snapshot.listen) == (xf.TunnelState.FAILED, 0, "")
        stranger.take(port)
        for make in (bad.dsn, bad.engine, lambda: bad.url):
            with pytest.raises(xf.RefusedError, match=r"^ECONNREFUSED pg\.vpc"):
                make()
        stranger.leave()
        assert group["ok"].is_alive()


def test_engine_of_a_tunnel_that_lost_its_port_to_another_program_waits_for_its_return(
    open_pg: Callable[..., xf.Tunnel], stranger: Stranger
) -> None:
    session = current()
    with open_pg() as tunnel:
        engine, port = tunnel.engine(), tunnel.local_port
        # Keep the client from starting another engine until the port is taken.
        with session._starting:
            os.kill(session.engine_pid, signal.SIGKILL)
            until(lambda: port_free(port))
            stranger.take(port)
        until(lambda: tunnel.state is xf.TunnelState.FAILED)
        with pytest.raises(xf.PortInUseError):
            engine.connect()
        assert tunnel.local_port == 0
        assert stranger.told == []
        stranger.leave()
        tunnel.reconnect()
        assert tunnel.wait_ready(10).local_port == port
        with engine.connect() as connection:
            assert connection.exec_driver_sql("select 42").scalar() == 42
