"""Sleep and a changed address (N3), and the monitor's part in recovery (S60), through the public surface.

A machine that sleeps is an engine that is stopped while the wall clock goes on. Keepalives are off: what is noticed
here is noticed without them.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import until
from tests.peers import netns
from tests.peers.interrogator import Interrogator
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.session import current
from xec_forward.client.watcher import ScriptWatcher
from xec_forward.engine.monitor import PROBE, SLEPT, TICK

# How long the machine sleeps, and how long it may take until all is well again, seconds.
NAP = SLEPT + TICK + 0.5
RECOVERED_WITHIN = TICK + PROBE + 2.0


def sleep_well() -> float:
    """The engine stands still for longer than a hiccup; when it woke up."""
    os.kill(current().engine_pid, signal.SIGSTOP)
    try:
        time.sleep(NAP)  # the wall clock has to go on: there is nothing to wait for
    finally:
        os.kill(current().engine_pid, signal.SIGCONT)
    return time.monotonic()


def cut(bastion: Sshd) -> None:
    """Every connection goes silent, as behind a router that forgot them; new ones are served."""
    bastion.freeze()
    os.kill(bastion.pid, signal.SIGCONT)


def logged(what: str) -> int:
    return len(re.findall(what, Path(current().log).read_text()))


def open_quiet(services: Services, **options: Any) -> xf.Tunnel:
    """An echo tunnel without keepalives."""
    target = xf.ssh("bastion", server_alive_interval=0)
    return target.forward(remote_host="pg.vpc", remote_port=services.echo, local_port=0, **options)


def test_first_connection_after_waking_is_served_and_takes_seconds(bastion: Sshd, services: Services) -> None:
    with open_quiet(services) as tunnel, socket.create_connection(("127.0.0.1", tunnel.local_port), 10) as carried:
        carried.sendall(b"x")
        assert carried.recv(1) == b"x"
        cut(bastion)
        woke = sleep_well()
        assert ask(tunnel.local_port, b"first") == b"first"
        took = time.monotonic() - woke
        with pytest.raises(ConnectionResetError):
            carried.recv(1)
        assert took < RECOVERED_WITHIN, f"served {took:.1f} s after waking"
        assert tunnel.snapshot.counters.reconnects == 1
        assert logged("the machine slept for about") == 1


def test_link_is_replaced_after_waking_though_nobody_uses_it(bastion: Sshd, services: Services) -> None:
    with open_quiet(services) as tunnel:
        cut(bastion)
        woke = sleep_well()
        until(lambda: tunnel.snapshot.counters.reconnects == 1 and tunnel.is_alive())
        assert time.monotonic() - woke < RECOVERED_WITHIN
        start = time.monotonic()
        assert ask(tunnel.local_port) == b"ping"
        assert time.monotonic() - start < 1


def test_first_query_after_waking_works(bastion: Sshd, postgres: Postgres) -> None:
    target = xf.ssh("bastion", server_alive_interval=0)
    with target.forward(
        remote_host="pg.vpc",
        remote_port=postgres.port,
        local_port=0,
        dsn=f"postgresql://{postgres.user}@/{postgres.database}",
        password=lambda: postgres.password,
    ) as pg:
        engine = pg.engine()
        try:
            with engine.connect() as connection:
                assert connection.exec_driver_sql("select 1").scalar() == 1
            cut(bastion)
            woke = sleep_well()
            with engine.connect() as connection:  # the pool's connection went with the link
                assert connection.exec_driver_sql("select 40 + 2").scalar() == 42
            assert time.monotonic() - woke < RECOVERED_WITHIN
            with psycopg.connect(pg.dsn()) as plain:
                assert plain.execute("select 40 + 2").fetchone() == (42,)
        finally:
            engine.dispose()


def test_sleep_with_nothing_wrong_changes_nothing(bastion: Sshd, services: Services) -> None:
    with open_quiet(services) as tunnel, socket.create_connection(("127.0.0.1", tunnel.local_port), 10) as client:
        client.sendall(b"1")
        assert client.recv(1) == b"1"
        sleep_well()
        until(lambda: logged("the machine slept for about"))
        client.sendall(b"2")
        assert client.recv(1) == b"2"
        time.sleep(PROBE)  # as long as a link has to answer: none may be given up
        client.sendall(b"3")
        assert client.recv(1) == b"3"
        current().refresh()
        assert (tunnel.state, tunnel.stats.reconnects) == (xf.TunnelState.READY, 0)
        assert bastion.connections() == 1


def test_login_that_waits_for_a_person_still_does_after_waking(
    tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "questions"
    folder.mkdir()

    class Person(ScriptWatcher):
        def ask(self, question: object) -> str:
            return "123456"

    with Interrogator(folder, [("Code: ", True)], ["123456"]) as server:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(server.write_config(tmp_path / "config")))
        monkeypatch.setattr(current(), "watcher", Person)
        with xf.ssh("bastion").forward(remote_host="localhost", remote_port=services.echo, local_port=0) as tunnel:
            server.restart()
            until(lambda: tunnel.state is xf.TunnelState.WAITING, 20)
            asked = server.questioned()
            sleep_well()
            until(lambda: logged("the machine slept for about"))
            time.sleep(2)  # a tunnel that dialled would have asked by now
            assert server.questioned() == asked
            assert tunnel.state is xf.TunnelState.WAITING


@pytest.fixture
def network() -> Iterator[netns.Network]:
    if missing := netns.missing():
        pytest.skip(missing)
    with netns.Network() as network:
        yield network


@pytest.fixture
def far_bastion(network: netns.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A bastion at the other end of that network."""
    folder = tmp_path / "far_bastion"
    folder.mkdir()
    with Sshd(folder, network=network.name, address=network.far) as running:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(running.write_config(tmp_path / "far_config")))
        yield running


def open_far(bastion: Sshd) -> xf.Tunnel:
    """A tunnel to the bastion's own SSH port: its banner is a service that speaks first."""
    target = xf.ssh("bastion", server_alive_interval=0)
    return target.forward(remote_host=bastion.address, remote_port=bastion.port, local_port=0)


def banner(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        return client.recv(4)


def test_changed_address_is_noticed_at_once_and_the_first_connection_served(
    network: netns.Network, far_bastion: Sshd
) -> None:
    with open_far(far_bastion) as tunnel:
        assert banner(tunnel.local_port) == b"SSH-"
        network.change_address()
        start = time.monotonic()
        assert banner(tunnel.local_port) == b"SSH-"
        took = time.monotonic() - start
        assert took < PROBE + 3, f"served {took:.1f} s after the move"
        assert tunnel.snapshot.counters.reconnects == 1
        assert logged("the machine's addresses changed") >= 1


def test_pause_between_tries_ends_when_the_address_changes(network: netns.Network, far_bastion: Sshd) -> None:
    with open_far(far_bastion) as tunnel:
        far_bastion.kill()
        until(lambda: logged(r"; again in about 8\.0 s"), 30)
        began = time.monotonic()
        far_bastion.start()
        assert tunnel.state is xf.TunnelState.RECONNECTING
        network.change_address()
        start = time.monotonic()
        until(tunnel.is_alive)
        assert time.monotonic() - start < 2
        assert time.monotonic() - began < 5.5  # by itself the next try would not have come yet


def test_first_connection_that_is_tried_again_is_tried_when_the_address_changes(
    network: netns.Network, far_bastion: Sshd
) -> None:
    far_bastion.kill()
    target, port = xf.ssh("bastion"), far_bastion.port
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(
            lambda: target.forward(
                remote_host=network.far, remote_port=port, local_port=0, retry_initial=True, retry_delay=60
            )
        )
        until(lambda: any(tunnel.error for tunnel in current().tunnels.values()))
        far_bastion.start()
        network.change_address()
        with call.result(10) as tunnel:
            assert banner(tunnel.local_port) == b"SSH-"


def test_client_that_waits_through_a_long_silence_is_served_soon_after_it(
    network: netns.Network, far_bastion: Sshd
) -> None:
    with open_far(far_bastion) as tunnel, ThreadPoolExecutor(1) as pool:
        with network.absent():
            tunnel.reconnect()
            waiting = pool.submit(banner, tunnel.local_port)
            # A connection that was asked for at its beginning is asked for again ever more rarely (RFC 6298): by then
            # after 4 s more.
            time.sleep(7.4)
            assert not waiting.done()
        start = time.monotonic()
        assert waiting.result(20) == b"SSH-"
        assert time.monotonic() - start < 2.2


def test_opening_under_way_starts_afresh_when_the_address_changes(network: netns.Network, far_bastion: Sshd) -> None:
    with ThreadPoolExecutor(1) as pool:
        with network.absent():
            call = pool.submit(open_far, far_bastion)
            time.sleep(3.5)
            assert not call.done()
        network.change_address()
        start = time.monotonic()
        with call.result(20) as tunnel:
            assert time.monotonic() - start < 2
            assert banner(tunnel.local_port) == b"SSH-"
