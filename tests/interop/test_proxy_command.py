"""ProxyCommand (S10): a program is the way to a real sshd; what it says of itself, and that it ends with its tunnel."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import open_echo, until
from tests.peers.kernel import process_alive
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.session import current

# Leads to HOST PORT, talks on stderr all the while, and does not care whether anybody still listens to it.
RELAY = """
import os, socket, sys, threading
print(os.getpid(), file=open(sys.argv[1], "w"))
server = socket.create_connection((sys.argv[2], int(sys.argv[3])))
def up():
    while data := os.read(0, 65536):
        os.write(2, b"so many bytes\\n" * 100)
        server.sendall(data)
threading.Thread(target=up, daemon=True).start()
while data := server.recv(65536):
    os.write(2, b"and so many back\\n")
    os.write(1, data)
threading.Event().wait()
"""
SECRET = "hunter2-of-the-proxy"


class Proxy:
    """Writes ssh_configs whose way to the bastion is a program."""

    def __init__(self, bastion: Sshd, folder: Path) -> None:
        self._bastion = bastion
        self._config = folder / "ssh_config"
        self._pid = folder / "relay.pid"
        self._relay = folder / "relay.py"
        self._relay.write_text(RELAY)

    def write(self, command: str = "") -> None:
        """The way is `command`; unless told, the relay, through what only a shell understands."""
        relay = f"TOKEN={SECRET}; {sys.executable} -S {self._relay} {self._pid} %h %p | cat"
        self._bastion.write_config(self._config, ProxyCommand=command or relay)

    @property
    def pid(self) -> int:
        """The relay's process."""
        return int(self._pid.read_text())


@pytest.fixture
def proxy(bastion: Sshd, tmp_path: Path) -> Proxy:
    return Proxy(bastion, tmp_path)


def test_program_that_talks_on_stderr_is_a_way_like_any_other_and_ends_with_its_tunnel(
    bastion: Sshd, services: Services, proxy: Proxy
) -> None:
    proxy.write()
    with open_echo(services) as tunnel:
        assert ask(tunnel.local_port, bytes(500_000)) == bytes(500_000)
        assert tunnel.error is None
        log = Path(tunnel.snapshot.log).read_text()
    assert "so many bytes" in log  # and so a person can look what it said
    assert SECRET not in log
    until(lambda: not process_alive(proxy.pid))


def test_program_ends_with_an_engine_that_is_killed(bastion: Sshd, services: Services, proxy: Proxy) -> None:
    proxy.write()
    with open_echo(services):
        pid = proxy.pid
        bastion.kill()
        os.kill(current().engine_pid, signal.SIGKILL)
        until(lambda: not process_alive(pid))


@pytest.mark.parametrize(
    ("command", "kind", "says"),
    [
        (
            f"LC_ALL=C TOKEN={SECRET} ls /no/such/file",
            xf.LostError,
            "the ProxyCommand ended with exit code 2: ls: cannot access '/no/such/file'",
        ),
        ("echo starting >&2; echo it is no good >&2; exit 7", xf.LostError, "ended with exit code 7: it is no good"),
        ("exit 0", xf.LostError, "the ProxyCommand ended with exit code 0"),
        ("kill -9 $$", xf.LostError, "the ProxyCommand was ended by SIGKILL"),
        ("exec >&- <&-; sleep 30", xf.LostError, "the ProxyCommand closed the connection"),
        (f"TOKEN={SECRET} /no/such/program", xf.ConfigError, "the ProxyCommand's program program is not there"),
    ],
    ids=["exit code", "last words", "nothing", "signal", "closed", "not there"],
)
def test_program_that_fails_is_told_with_its_own_last_words(
    bastion: Sshd, services: Services, proxy: Proxy, command: str, kind: type[xf.ForwardError], says: str
) -> None:
    proxy.write(command)
    with pytest.raises(kind) as caught:
        open_echo(services)
    assert says in str(caught.value)
    assert caught.value.hop == "bastion"
    diagnosis = xf.ssh("bastion").doctor()
    assert (diagnosis.findings[-1].stage, diagnosis.findings[-1].outcome) == ("proxy", "failed")
    assert says in diagnosis.findings[-1].text
    assert SECRET not in f"{caught.value}{diagnosis}{Path(current().log).read_text()}"


def test_program_that_says_nothing_is_ended_when_time_is_over(
    bastion: Sshd, services: Services, proxy: Proxy, tmp_path: Path
) -> None:
    pid = tmp_path / "mute.pid"
    proxy.write(f"echo $$ > {pid}; exec sleep 60")
    with pytest.raises(xf.DeadlineError):
        open_echo(services, timeout=0.7)
    until(lambda: not process_alive(int(pid.read_text())))


def test_name_that_a_shell_would_read_is_not_given_to_one(bastion: Sshd, proxy: Proxy, tmp_path: Path) -> None:
    proxy.write("echo %r > " + str(tmp_path / "written"))
    with pytest.raises(xf.ConfigError, match="a shell would read more than a name"):
        xf.ssh("bastion", username="ana;touch").forward(remote_port=1)
    assert not (tmp_path / "written").exists()
