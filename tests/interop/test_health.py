"""health_check() (S57): each stage with its time, and where it fails the stage and the error. is_alive() (S59)."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import xec_forward as xf
from tests.interop.test_faults import full
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import open_echo, until
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from tests.peers.unanswering import Unanswering
from xec_forward.client.connection import MARGIN
from xec_forward.client.session import current
from xec_forward.demo.cluster import Cluster
from xec_forward.model import Health


def outcomes(health: Health) -> list[tuple[str, str]]:
    return [(stage.name, stage.outcome) for stage in health.stages]


def test_each_stage_of_a_healthy_tunnel_has_its_time(bastion: Sshd, postgres: Postgres) -> None:
    spec = {"remote_host": "pg.vpc", "remote_port": postgres.port, "local_port": 0}
    with xf.ssh("bastion").forward(**spec, dsn="postgresql://ana@/sales") as pg:
        health = pg.health_check()
        assert health
        assert health.error is None
        assert outcomes(health) == [(name, "ok") for name in ("listener", "link", "target", "postgresql")]
        assert all(stage.milliseconds is not None and 0 <= stage.milliseconds < 5000 for stage in health.stages)


def test_upgrade_that_a_hello_was_said_over_serves_on(cluster: Cluster, postgres: Postgres) -> None:
    cluster.add_pod("pg", serves={5432: ("127.0.0.1", postgres.port)})
    prod = xf.k8s(kubeconfig=cluster.kubeconfig)
    with prod.port_forward(pod="pg", remote_port=5432, local_port=0) as pg:
        for _ in range(3):
            assert outcomes(pg.health_check())[-1] == ("postgresql", "ok")
        assert cluster.upgrades.total == cluster.upgrades.live


def test_target_that_refuses_is_the_stage_that_fails(bastion: Sshd, services: Services) -> None:
    with xf.ssh("bastion").forward(
        remote_host="pg.vpc", remote_port=services.refused, local_port=0, no_check=True
    ) as tunnel:
        health = tunnel.health_check()
        assert not health
        assert outcomes(health) == [("listener", "ok"), ("link", "ok"), ("target", "ECONNREFUSED")]
        assert health.error is not None
        assert "refused, as seen from bastion" in health.error.message


def test_link_that_is_down_is_told_at_once_and_then_that_it_is_back(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel:
        bastion.kill()
        until(lambda: current().refresh() or tunnel.state is xf.TunnelState.RECONNECTING)
        start = time.monotonic()
        health = tunnel.health_check()
        assert time.monotonic() - start < 2
        assert not health
        assert outcomes(health) == [("listener", "ok"), ("link", "reconnecting")]
        assert health.error is not None
        bastion.start()
        tunnel.wait_ready(10)
        assert tunnel.health_check()


def test_target_that_never_answers_is_told_within_the_timeout(bastion: Sshd) -> None:
    with (
        Unanswering() as far,
        xf.ssh("bastion").forward(
            remote_host="pg.vpc", remote_port=far.port, local_port=0, no_check=True, timeout=1
        ) as tunnel,
    ):
        start = time.monotonic()
        health = tunnel.health_check()
        assert time.monotonic() - start < 2
        assert not health
        assert outcomes(health) == [("listener", "ok"), ("link", "ok"), ("target", "ETIMEDOUT")]
        assert isinstance(health.error and health.error.error(), xf.DeadlineError)
        far.answer()
        until(lambda: tunnel.health_check(), 10)


def test_check_that_takes_its_time_is_not_taken_for_an_engine_that_is_stuck(
    bastion: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may take as long as the tunnel's timeout says; the client's patience begins behind that."""
    with (
        Unanswering() as far,
        xf.ssh("bastion").forward(
            remote_host="pg.vpc", remote_port=far.port, local_port=0, no_check=True, timeout=1
        ) as tunnel,
    ):
        monkeypatch.setattr(current(), "call", partial(current().call, margin=0.5))
        assert outcomes(tunnel.health_check())[-1] == ("target", "ETIMEDOUT")


def test_lazy_tunnel_that_waits_for_its_first_client_is_well(bastion: Sshd, services: Services) -> None:
    with open_echo(services, lazy=True) as tunnel:
        health = tunnel.health_check()
        assert health
        assert (outcomes(health), health.error) == ([("listener", "ok"), ("link", "idle")], None)
        assert tunnel.is_alive()
        assert bastion.connections() == 0  # to look is not to dial
        assert ask(tunnel.local_port) == b"ping"
        assert outcomes(tunnel.health_check()) == [(name, "ok") for name in ("listener", "link", "target")]


def test_unix_socket_whose_file_is_gone_is_the_listener_that_fails(
    bastion: Sshd, services: Services, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    with xf.ssh("bastion").forward(local_host=str(path), remote_host="pg.vpc", remote_port=services.echo) as tunnel:
        assert tunnel.health_check()
        path.unlink()  # as a cleaner of temporary folders does
        for other in (False, True):
            if other:
                path.write_text("somebody else's")
            health = tunnel.health_check()
            assert not health
            assert outcomes(health) == [("listener", "ECONNRESET")]
            assert str(health.error).startswith(f"ECONNRESET {path}: the socket's file is gone")


def test_remote_forward_that_the_bastion_does_not_listen_for_is_the_listener_that_fails(
    bastion: Sshd, services: Services
) -> None:
    with xf.ssh("bastion").forward(type="remote", remote_port=0, local_port=services.echo) as tunnel:
        port = tunnel.remote_port
        assert outcomes(tunnel.health_check()) == [("link", "ok"), ("listener", "ok")]
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        assert outcomes(tunnel.health_check()) == [("link", "reconnecting")]
        # Both of the loopback addresses: one is enough for sshd to say yes.
        with socket.create_server(("127.0.0.1", port)), socket.create_server(("::1", port), family=socket.AF_INET6):
            bastion.start()
            until(lambda: tunnel.state is xf.TunnelState.DEGRADED)
            health = tunnel.health_check()
        assert not health
        assert outcomes(health) == [("link", "ok"), ("listener", "EPROHIBITED")]
        assert str(port) in str(health.error)


@contextmanager
def stopped_engine() -> Iterator[None]:
    """The engine stands still, as a machine under the heaviest load has it."""
    pid = current().engine_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_stopped_engine_hangs_nobody_and_all_is_well_when_it_goes_on(
    bastion: Sshd, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout, margin = 5, full(int(MARGIN), 1)
    patience = timeout + margin  # what the engine may take, and what it may be silent after that
    with open_echo(services, timeout=timeout) as tunnel:
        monkeypatch.setattr(current(), "call", partial(current().call, margin=margin))
        with stopped_engine():
            start = time.monotonic()
            for _ in range(1000):
                assert tunnel.is_alive()  # by what the engine has told: nobody is asked
            assert time.monotonic() - start < 0.5
            start = time.monotonic()
            with pytest.raises(xf.EngineError, match="the engine does not answer"):
                tunnel.health_check()
            assert patience <= time.monotonic() - start < patience + 1
        assert tunnel.health_check()
        assert tunnel.is_alive()
        assert ask(tunnel.local_port) == b"ping"
