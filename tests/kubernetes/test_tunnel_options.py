"""A Kubernetes tunnel is a tunnel: options, limits, guard, events and handles are those of SSH."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

import xec_forward as xf
from tests.interop.test_access import STRANGER, as_user
from tests.peers.ports import port_free
from tests.peers.postgres import Postgres
from xec_forward.client.events import Event
from xec_forward.client.session import current

from .peer import REFUSED, EmbeddedPeer, Peer, until
from .test_faults import ends_by_reset, turns_away
from .test_port_forward import ask, connect, exchange, opened, stats


@pytest.fixture
def web(peer: Peer) -> Peer:
    """The cluster with a pod `web`."""
    peer.add_pod("web")
    return peer


def test_lazy_tunnel_asks_no_cluster_before_its_first_client(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    with opened(embedded, "echo", lazy=True) as tunnel:
        assert tunnel.state is xf.TunnelState.IDLE
        assert embedded.embedded.requests == []
        assert ask(tunnel) == b"ping"
        until(lambda: tunnel.state is xf.TunnelState.READY)


def test_retry_initial_opens_once_the_api_server_is_there(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    embedded.embedded.stop_server()
    errors: list[xf.TunnelState] = []

    def back() -> None:
        until(lambda: any(one.error is not None for one in current().tunnels.values()), 20)
        errors.extend(one.state for one in current().tunnels.values())
        embedded.embedded.start_server()

    thread = threading.Thread(target=back)
    thread.start()
    with opened(embedded, "echo", retry_initial=True, retry_delay=0.2) as tunnel:
        assert ask(tunnel) == b"ping"
    thread.join(10)
    assert errors == [xf.TunnelState.OPENING]


def test_ttl_and_idle_close_with_their_reason(web: Peer) -> None:
    with opened(web, "echo", ttl=1) as short, opened(web, "echo", idle=1, name="quiet") as quiet:
        ports = short.local_port, quiet.local_port
        with connect(quiet) as client:
            assert exchange(client, b"a") == b"a"
            until(lambda: short.state is xf.TunnelState.CLOSED)
            assert "its ttl of 1 s is over" in str(short.error)
            time.sleep(1.2)  # longer than idle, with a client
            assert exchange(client, b"b") == b"b"
        until(lambda: quiet.state is xf.TunnelState.CLOSED)
        assert "it had no client for 1 s" in str(quiet.error)
        assert all(port_free(port) for port in ports)


def test_client_past_the_most_allowed_is_reset(web: Peer) -> None:
    with opened(web, "echo", max_connections=1) as tunnel, connect(tunnel) as first:
        assert exchange(first, b"a") == b"a"
        turns_away(tunnel)
        until(lambda: isinstance(tunnel.error, xf.LimitError))
        assert exchange(first, b"b") == b"b"


def test_another_user_of_the_host_is_turned_away(web: Peer) -> None:
    with opened(web, "echo") as tunnel:
        assert as_user(STRANGER, tunnel.local_port) == "reset"
        assert as_user(os.getuid(), tunnel.local_port) == "ping"
        assert stats(tunnel).rejected == 1
        log = Path(current().log).read_text()
        assert "Rejected connection from 127.0.0.1" in log


def test_outage_is_told_in_order_and_close_comes_once(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web")
    with opened(embedded, "echo") as tunnel:
        seen: list[str] = []
        for name in ("ready", "reconnecting", "reconnected", "close"):
            tunnel.on(name, lambda event: seen.append(event.name))
        assert ask(tunnel) == b"ping"
        embedded.embedded.stop_server()
        until(lambda: seen[-1:] == ["reconnecting"])
        assert tunnel.error is not None
        assert not tunnel.health_check().ok
        embedded.embedded.start_server()
        until(lambda: seen[-1] == "reconnected")
        tunnel.close()
        tunnel.close()
        until(lambda: seen == ["ready", "reconnecting", "reconnected", "close"])


def test_refused_client_is_an_error_event_with_its_reason(web: Peer) -> None:
    with opened(web, REFUSED) as tunnel:
        errors: list[Event] = []
        tunnel.on("error", errors.append)
        turns_away(tunnel)
        until(lambda: errors)
        assert isinstance(errors[0].error, xf.RefusedError)


def test_reconnect_resets_who_is_there_and_keeps_the_port(web: Peer) -> None:
    with opened(web, "echo") as tunnel:
        port = tunnel.local_port
        with connect(tunnel) as client:
            assert exchange(client, b"a") == b"a"
            tunnel.reconnect()
            ends_by_reset(client)
        tunnel.wait_ready(web.patience)
        assert (tunnel.local_port, ask(tunnel)) == (port, b"ping")


def test_use_hands_over_the_tunnel_and_closes_it(web: Peer) -> None:
    tunnel = web.cluster().port_forward(pod="web", local_port=0, remote_port="echo", no_check=True)
    port = tunnel.local_port
    assert tunnel.use(ask) == b"ping"
    assert port_free(port)
    assert tunnel.state is xf.TunnelState.CLOSED
    with pytest.raises(xf.ClosedError):
        tunnel.reconnect()


def test_port_in_use_is_told_before_any_pod_is_waited_for(embedded: EmbeddedPeer) -> None:
    embedded.add_pod("web", ready=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(xf.PortInUseError):
            embedded.cluster().port_forward(pod="web", local_port=port, remote_port=7000, timeout=10)
        assert time.monotonic() - began < 5


def test_pod_that_goes_between_two_queries_is_nobodys_trouble(embedded: EmbeddedPeer, postgres: Postgres) -> None:
    """What a user sees of a replaced pod, with a pool of connections that looks before it hands one out."""
    serves = {5432: ("127.0.0.1", postgres.port)}
    workload = embedded.embedded.add_deployment("postgres", serves=serves)
    dsn = f"postgresql://{postgres.user}@/{postgres.database}"
    cluster = embedded.cluster()
    with cluster.port_forward(
        deployment="postgres", local_port=0, remote_port=5432, dsn=dsn, password=postgres.password
    ) as pg:
        engine = pg.engine()
        with engine.connect() as connection:
            assert connection.exec_driver_sql("select 6 * 7").scalar() == 42
        workload.replace_pod().wait_ready()
        with engine.connect() as connection:
            assert connection.exec_driver_sql("select 6 * 8").scalar() == 48
        engine.dispose()
