"""One login for all (S11-S13, S69-S70, P4): riding a terminal's `ssh -M`, and being a master for others."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import until
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.line import parse_line
from xec_forward.options import SshTarget
from xec_forward.render import Table


@pytest.fixture
def place() -> Iterator[Path]:
    """A short folder: the path of a unix socket has room for some 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="xf-") as name:
        yield Path(name)


@contextlib.contextmanager
def terminal_master(config: Path, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real `ssh -M`, as a user leaves it open in a terminal."""
    with subprocess.Popen(
        ["ssh", "-F", config, "-M", "-S", path, "-N", "bastion"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as master:
        try:
            until(path.exists)
            yield master
        finally:
            master.kill()


def control(path: Path, config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", config, "-S", path, *words, "bastion"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def echo(services: Services) -> dict[str, object]:
    return {"remote_host": "pg.vpc", "remote_port": services.echo, "local_port": 0}


def test_three_tunnels_make_one_connection(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    with target.forward_multiple([echo(services)] * 3) as group:  # type: ignore[list-item]
        assert [ask(tunnel.local_port) for tunnel in group.values()] == [b"ping"] * 3
        assert bastion.connections() == 1


def test_terminals_login_serves_the_notebook_and_its_loss_is_survived(
    bastion: Sshd, services: Services, tmp_path: Path, place: Path
) -> None:
    path = place / "cm"
    with terminal_master(tmp_path / "ssh_config", path) as master:
        tunnel = xf.ssh("bastion", control_path=str(path)).forward(**echo(services))
        assert ask(tunnel.local_port) == b"ping"
        assert bastion.connections() == 1, "the terminal's, and no other"
        assert any(f"ssh master of process {master.pid}" in note for note in tunnel.snapshot.notes)
        assert [step.name for step in tunnel.snapshot.steps][:1] == ["master"]
        master.kill()
        until(lambda: tunnel.state is xf.TunnelState.READY and tunnel.snapshot.counters.reconnects == 1)
        assert ask(tunnel.local_port) == b"ping"
        assert not any("ssh master" in note for note in tunnel.snapshot.notes)
        tunnel.close()


def test_control_path_of_ssh_config_is_ridden_without_being_asked_for(
    bastion: Sshd, services: Services, tmp_path: Path, place: Path
) -> None:
    config = bastion.write_config(tmp_path / "ssh_config", ControlPath=f"{place}/%C")
    expanded = subprocess.run(
        ["ssh", "-F", config, "-G", "bastion"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    (path,) = (line.split()[1] for line in expanded.splitlines() if line.startswith("controlpath "))
    with terminal_master(config, Path(path)):
        with xf.ssh("bastion").forward(**echo(services)) as tunnel:
            assert ask(tunnel.local_port) == b"ping"
            assert bastion.connections() == 1
        with xf.ssh("bastion", control_master="no").forward(**echo(services)) as tunnel:
            assert ask(tunnel.local_port) == b"ping"
            assert bastion.connections() == 2
        assert control(Path(path), config, "-O", "check").returncode == 0, "somebody else's master is left alone"


def test_remote_forward_beside_a_live_master_takes_a_connection_of_ours(
    bastion: Sshd, services: Services, tmp_path: Path, place: Path
) -> None:
    path = place / "cm"
    with terminal_master(tmp_path / "ssh_config", path):
        target = xf.ssh("bastion", control_path=str(path))
        with (
            target.forward(**echo(services)) as tunnel,
            target.forward(type="remote", remote_port=0, local_port=services.echo) as remote,
        ):
            assert ask(tunnel.local_port) == ask(remote.remote_port) == b"ping"
            assert bastion.connections() == 2, "the terminal's and ours"


def test_our_connection_is_a_master_for_ssh_and_for_a_second_kernel(
    bastion: Sshd, services: Services, tmp_path: Path, place: Path
) -> None:
    path, config = place / "cm", tmp_path / "ssh_config"
    target = xf.ssh("bastion", control_master="yes", control_path=str(path))
    with target.forward(**echo(services)) as tunnel:
        assert path.stat().st_mode & 0o177 == 0
        assert "Master running" in control(path, config, "-O", "check").stderr
        through = subprocess.run(
            ["ssh", "-F", config, "-S", path, "-W", f"pg.vpc:{services.echo}", "bastion"],
            input=b"over ours",
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert through.stdout == b"over ours"
        script = (
            "import sys, xec_forward as xf\n"
            "from tests.interop.test_python_api import ask\n"
            f"t = xf.ssh('bastion', control_path={str(path)!r})"
            f".forward(remote_host='pg.vpc', remote_port={services.echo}, local_port=0)\n"
            "print(ask(t.local_port), *t.snapshot.notes)\n"
        )
        second = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False, cwd=Path.cwd()
        )
        assert second.stdout.startswith("b'ping' over the ssh master of process"), second.stderr
        assert bastion.connections() == 1
        assert ask(tunnel.local_port) == b"ping"
    until(lambda: not path.exists())


def test_exit_of_our_master_leaves_the_tunnels(bastion: Sshd, services: Services, tmp_path: Path, place: Path) -> None:
    path = place / "cm"
    with xf.ssh("bastion", control_master="yes", control_path=str(path)).forward(**echo(services)) as tunnel:
        assert control(path, tmp_path / "ssh_config", "-O", "exit").returncode == 0
        until(lambda: not path.exists())
        assert ask(tunnel.local_port) == b"ping"


def test_master_without_a_place_is_one_clear_error(bastion: Sshd, services: Services) -> None:
    with pytest.raises(xf.ConfigError, match="--control-path"):
        xf.ssh("bastion", control_master="yes").forward(**echo(services))
    assert not xf.tunnels


def test_connection_outlives_its_last_tunnel_as_long_as_asked_and_says_so(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion", control_persist=1.0)
    with target.forward(**echo(services)) as tunnel:
        assert any("outlives its last tunnel: 1 s" in note for note in tunnel.snapshot.notes)
        table = Table((tunnel.snapshot,))
        assert "pg: the connection outlives its last tunnel: 1 s" in table.plain()
        assert "pg: the connection outlives its last tunnel: 1 s" in table.html()
    assert bastion.connections() == 1
    start = time.monotonic()
    with target.forward(**echo(services)):
        assert bastion.connections() == 1
        assert time.monotonic() - start < 1.0
    until(lambda: bastion.connections() == 0, 5)


def test_without_control_persist_the_connection_goes_with_its_last_tunnel(bastion: Sshd, services: Services) -> None:
    with xf.ssh("bastion").forward(**echo(services)):
        assert bastion.connections() == 1
    until(lambda: bastion.connections() == 0, 3)


@pytest.mark.parametrize("text", ["yes", "1h", "600", "no"])
def test_control_persist_is_read_in_all_its_forms(text: str) -> None:
    target = parse_line(["bastion", "5432", "--control-persist", text]).target
    assert isinstance(target, SshTarget)
    assert target.control_persist == {"yes": float("inf"), "1h": 3600, "600": 600, "no": 0}[text]
