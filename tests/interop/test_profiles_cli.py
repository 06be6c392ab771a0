"""`xec-forward open @NAME`: real processes in the folder of a project file, against a real sshd and a cluster."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.test_cli import Command, ask
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.demo.cluster import Cluster

SECRET = "hunter2-s3cret"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project file of the working folder's parent."""
    inner = tmp_path / "project" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return tmp_path / "project" / "xec_forward.toml"


def echoes(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"ping")
        assert client.recv(4, socket.MSG_WAITALL) == b"ping"


def refused(*words: str) -> tuple[int, str]:
    """The exit status and the one line of an error."""
    done = subprocess.run(
        [sys.executable, "-m", "xec_forward", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert SECRET not in done.stderr
    return done.returncode, done.stderr.strip()


def test_profile_opens_what_it_says_and_the_line_wins(project: Path, bastion: Sshd, services: Services) -> None:
    far = bastion.far()
    project.write_text(f'[tunnels.echo]\nssh = "bastion"\nforward = "0:{far}:{services.echo}"\nno_check = true\n')
    with Command("@echo") as command:
        assert command.ready().out.startswith("echo  ready  127.0.0.1:")
        assert ask(command.port) == b"ping"
        command.process.send_signal(signal.SIGINT)
        assert command.ends() == 0
    with Command("@echo", "--as", "other", f"0:{far}:{services.reply}") as command:
        assert command.ready().out.startswith("other  ready  127.0.0.1:")
        assert ask(command.port).startswith(b"4 ")


def test_group_opens_tunnels_of_both_kinds(
    project: Path, bastion: Sshd, services: Services, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    cluster.add_deployment("api", ports={"echo": 7000}, serves={7000: ("127.0.0.1", services.echo)})
    project.write_text(
        f'[tunnels.echo]\nssh = "bastion"\nforward = "0:{bastion.far()}:{services.echo}"\n'
        '[tunnels.api]\nk8s = "deploy/api"\nforward = ":echo"\n'
        '[groups]\nall = ["echo", "api"]\n'
    )
    with Command("@all", "--no-check") as command:
        out = command.until(lambda running: running.out.count("  ready  127.0.0.1:") == 2).out
        ports = [line.split("127.0.0.1:")[1].split()[0] for line in out.splitlines() if "  ready  " in line]
        for port in ports:
            echoes(int(port))
        assert "-> bastion -> " in out
        assert "-> demo -> deploy/api:echo" in out
        command.process.send_signal(signal.SIGTERM)
        assert command.ends() == 0


def test_what_is_wrong_is_one_line_with_file_and_line(project: Path) -> None:
    status, text = refused("open", "@sales")
    assert (status, text.partition(".")[0]) == (1, "xec-forward open: ECONFIG @sales: there is no xec_forward")
    project.write_text(f'[tunnels.sales]\nssh = "bastion"\nforward = "pg.vpc:5432"\npassword = "{SECRET}"\n')
    status, text = refused("open", "@sales")
    assert status == 1
    assert text.startswith(f"xec-forward open: ECONFIG {project} line 4: password takes the place a secret comes from")
    assert refused("k8s-open", "@sale")[1].endswith("there is no tunnel or group sale. Did you mean @sales?")
    assert refused("open", "@sales", "--hold", "x")[0] == 1
