"""Lines that open more than they say, or nothing at all: ssh_config's own forwards, --dry-run, --command."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.peers.kernel import Kernel, process_alive, wait_until
from tests.peers.ports import free_port, port_free
from tests.peers.services import Services
from tests.peers.sshd import Sshd, descendants

PYTHON = shlex.quote(sys.executable)


def ask(address: tuple[str, int] | str, data: bytes = b"ping") -> bytes:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(address)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


# ssh_config's own forwards


def test_target_alone_opens_every_forward_of_its_ssh_config(
    kernel: Kernel, bastion: Sshd, services: Services, tmp_path: Path
) -> None:
    far = bastion.far()
    remote, socks = free_port(), free_port()
    path = tmp_path / "near.sock"
    included = tmp_path / "included"
    included.write_text(f"LocalForward 127.0.0.1:0 {far}:{services.echo}\n")
    lines = [
        f"Include {included}",
        f"LocalForward {path} {far}:{services.echo}",
        f"RemoteForward {remote} localhost:{services.echo}",
        f"DynamicForward {socks}",
        *([f"LocalForward [::1]:0 [::1]:{services.echo}"] if has_ipv6() else []),
    ]
    text = bastion.config("bastion") + "".join(f"    {line}\n" for line in lines)
    text += f"Match host 127.0.0.1 user {bastion.user}\n    LocalForward 0 127.0.0.1:{services.reply}\n"
    text += "Host other\n    LocalForward 1 nowhere.vpc:1\n"
    (tmp_path / "ssh_config").write_text(text)
    done = kernel.run("%forward bastion --as all --no-check").ok()
    assert "nowhere.vpc" not in done.text
    assert len(done.displays[-1].text.split("  ready  ")) - 1 == (6 if has_ipv6() else 5)
    group = kernel.value("{k: [t.snapshot.listen, t.snapshot.connect, t.local_port] for k, t in all.items()}")
    ends = {(listen.rpartition(":")[0], connect) for listen, connect, _ in group.values()}
    assert ("127.0.0.1", f"{far}:{services.echo}") in ends
    assert ask(str(path)) == b"ping"
    assert ask(("127.0.0.1", remote)) == b"ping"
    (reply,) = [port for _, connect, port in group.values() if connect == f"127.0.0.1:{services.reply}"]
    assert ask(("127.0.0.1", reply)).startswith(b"4 ")
    if has_ipv6():
        assert ("[::1]", f"[::1]:{services.echo}") in ends
    kernel.run("%forward --close-all").ok()
    assert not path.exists()
    assert port_free(remote)


def test_target_without_forwards_says_that_a_spec_is_missing(kernel: Kernel) -> None:
    done = kernel.run("%forward bastion")
    assert done.error is not None
    assert done.error.value.startswith("ESPEC a SPEC is missing")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("LocalForward 5432 pg.vpc", "LocalForward: "),
        ("LocalForward 5432 pg.vpc:nothing-known", "LocalForward: "),
        ("RemoteForward", "RemoteForward"),
        ("DynamicForward 99999", "DynamicForward: "),
    ],
)
def test_bad_forward_in_ssh_config_is_one_line_that_names_the_option(
    kernel: Kernel, bastion: Sshd, tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "ssh_config").write_text(bastion.config("bastion") + f"    {line}\n")
    done = kernel.run("%forward bastion")
    assert done.error is not None
    assert done.error.value.startswith("ECONFIG bastion: ")
    assert said in done.error.value
    assert "\n" not in done.error.value


def test_forwards_of_ssh_config_stay_closed_where_a_spec_is_given(
    kernel: Kernel, bastion: Sshd, services: Services, tmp_path: Path
) -> None:
    port = free_port()
    bastion.write_config(tmp_path / "ssh_config", LocalForward=f"{port} {bastion.far()}:{services.echo}")
    kernel.run(f"%forward bastion 0:{bastion.far()}:{services.reply} --as reply").ok()
    assert port_free(port)


# --dry-run


def test_dry_run_shows_the_way_and_dials_binds_and_asks_nothing(
    kernel: Kernel, bastion: Sshd, services: Services, tmp_path: Path
) -> None:
    (tmp_path / "ssh_config").write_text(
        bastion.config("jump") + bastion.config("bastion", ProxyJump="jump", IdentityFile=bastion.encrypted_key())
    )
    port, before = free_port(), bastion.log.read_text().count("Connection from")
    lines = (
        f"%forward bastion {port}:pg.vpc:5432 --as pg --password prompt --dry-run",
        "%forward bastion -D 0 -R 8080:localhost:3000 --dry-run",
    )
    shown = [kernel.run(line, answers=["nothing is asked"]).ok() for line in lines]
    assert [done.prompts for done in shown] == [[], []]
    hops = " -> ".join(f"{bastion.user}@127.0.0.1:{bastion.port}" for _ in range(2))
    assert f"pg  would be opened  127.0.0.1:{port} -> {hops} -> pg.vpc:5432" in shown[0].text
    assert "anywhere (SOCKS)" in shown[1].text
    assert port_free(port)
    assert bastion.log.read_text().count("Connection from") == before
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0
    assert kernel.value("'pg' in globals()") is False


def test_dry_run_starts_no_command(kernel: Kernel, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    done = kernel.run(f"%forward --command 'touch {mark}; sleep 60 # %p' 0:localhost:5432 --dry-run").ok()
    assert "would be opened" in done.text
    assert not mark.exists()


# --command


def test_ssh_as_the_command_carries_the_tunnel(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    config = os.environ["XEC_FORWARD_SSH_CONFIG"]
    command = f"ssh -F {config} -NL %p:{bastion.far()}:{services.echo} bastion"
    done = kernel.run(f"%forward --command '{command}' 0:localhost:{services.echo} --as far").ok()
    assert "far  ready  127.0.0.1:" in done.text
    assert " -> ssh -> " in done.text
    assert config not in done.text
    assert ask(("127.0.0.1", kernel.value("far.local_port"))) == b"ping"


def test_command_that_dies_is_started_again_and_ends_with_its_tunnel(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("hello from the command")
    pids = tmp_path / "pids"
    command = f"echo $$ >> {pids}; exec {PYTHON} -m http.server %p --bind 127.0.0.1 --directory {tmp_path}"
    line = f"%forward --command {shlex.quote(command)} web=0:localhost:8000"
    done = kernel.run(line).ok()
    assert "http ok" in done.text
    port = kernel.value("web.local_port")

    def fetch() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello.txt", timeout=20) as answer:
            text: str = answer.read().decode()
            return text

    assert fetch() == "hello from the command"
    first = int(pids.read_text().split()[0])
    os.kill(first, signal.SIGKILL)
    wait_until(
        lambda: kernel.value("web.stats.reconnects") >= 1 or kernel.value("str(web.state)") != "ready", "no loss"
    )
    assert fetch() == "hello from the command"
    assert kernel.value("web.local_port") == port
    second = int(pids.read_text().split()[-1])
    assert second != first
    kernel.run("%forward --close web").ok()
    wait_until(lambda: not process_alive(second), "the command stays")
    assert port_free(port)


def test_group_of_the_command_ends_when_the_engine_is_killed(kernel: Kernel, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    server = f"{PYTHON} -m http.server %p --bind 127.0.0.1"
    command = f"sleep 600 & echo $! >> {pids}; echo $$ >> {pids}; {server}"
    kernel.run(f"%forward --command {shlex.quote(command)} web=0:localhost:8000").ok()
    started = [int(pid) for pid in pids.read_text().split()]
    assert all(map(process_alive, started))
    (engine,) = [
        pid
        for pid in descendants(kernel.pid)
        if b"xec_forward.engine" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"reaper" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(engine, signal.SIGKILL)
    wait_until(lambda: not any(map(process_alive, started)), "the command's group stays")


def test_command_that_is_not_there_is_one_line(kernel: Kernel) -> None:
    done = kernel.run("%forward --command 'no-such-program %p' 0:localhost:5432 --as pg")
    assert done.error is not None
    assert done.error.value.startswith("ECONFIG no-such-program: ")
    assert "\n" not in done.error.value
