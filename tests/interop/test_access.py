"""Who may use a tunnel (S64-S68, N4): the same-user guard and allowed_ips, checked before any channel opens."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import open_echo, until
from tests.peers.kernel import Kernel
from tests.peers.kernel import missing as kernel_missing
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.events import Event
from xec_forward.client.session import current
from xec_forward.engine.guard import Guard

STRANGER = 65534

CLIENT = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
host, port = sys.argv[3], int(sys.argv[1])
family = socket.AF_UNIX if "/" in host else socket.AF_INET6 if ":" in host else socket.AF_INET
client = socket.socket(family)
client.settimeout(10)
try:
    client.connect(host if "/" in host else (host, port))
    client.sendall(b"ping")
    print(client.recv(4).decode())
except ConnectionResetError:
    print("reset")
except PermissionError:
    print("denied")
"""

LEAVER = f"""
import os, socket, struct, sys
os.setuid({STRANGER})
client = socket.socket()
client.connect(("127.0.0.1", int(sys.argv[1])))
client.sendall(b"FLUSHALL")
if sys.argv[2] == "reset":
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.close()
"""


def as_user(uid: int, port: int, host: str = "127.0.0.1") -> str:
    """What a process of that user gets from the tunnel (at a path: its unix socket): `ping`, `reset`, `denied`."""
    if os.getuid() != 0:
        pytest.skip("root, to be another user")
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(port), str(uid), host],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_another_user_of_the_host_is_reset_counted_shown_and_logged(
    bastion: Sshd, services: Services, host: str
) -> None:
    with open_echo(services, local_interface=host) as tunnel:
        rejected: list[Event] = []
        tunnel.on("rejected", rejected.append)
        assert as_user(STRANGER, tunnel.local_port, host) == "reset"
        assert as_user(os.getuid(), tunnel.local_port, host) == "ping"
        until(lambda: rejected)
        text = str(rejected[0].error)
        assert text.startswith(f"EPROHIBITED Rejected connection from {host}: it is of another user (uid {STRANGER})")
        assert "--guard off" in text
        current().refresh()
        assert (tunnel.stats.rejected, tunnel.stats.clients_total) == (1, 1)
        assert f"Rejected connection from {host}" in Path(current().log).read_text()


def test_rejected_client_is_counted_in_the_table_of_its_notebook(
    bastion: Sshd, services: Services, tmp_path: Path
) -> None:
    if missing := kernel_missing():
        pytest.skip(missing)
    with Kernel(tmp_path, {}, "%load_ext xec_forward") as kernel:
        kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo").ok()
        assert "rejected" not in kernel.run("%forward").ok().text
        port = kernel.value("echo.local_port")
        for count in (1, 2):
            assert as_user(STRANGER, port) == "reset"
            shown = kernel.run("%forward").ok().displays[0].text
            head, row = shown.splitlines()[:2]
            place = head.index("rejected")
            assert row[place:].split()[0] == str(count), shown
            assert f"it is of another user (uid {STRANGER})" in shown
        assert as_user(os.getuid(), port) == "ping"


@pytest.mark.parametrize("leaves", ["close", "reset"])
def test_another_user_who_sends_and_leaves_at_once_delivers_nothing(
    bastion: Sshd, services: Services, leaves: str
) -> None:
    """What it sent lies in our buffer when its socket is gone: the engine is held still until it has left."""
    if os.getuid() != 0:
        pytest.skip("root, to be another user")
    with socket.create_server(("127.0.0.1", 0)) as far:
        far.settimeout(10)
        arguments = {"remote_host": "pg.vpc", "remote_port": far.getsockname()[1], "local_port": 0, "no_check": True}
        with xf.ssh("bastion").forward(**arguments) as tunnel:
            os.kill(current().engine_pid, signal.SIGSTOP)
            try:
                leaver = [sys.executable, "-c", LEAVER, str(tunnel.local_port), leaves]
                subprocess.run(leaver, timeout=30, check=True)
            finally:
                os.kill(current().engine_pid, signal.SIGCONT)
            # A connection of ours, behind it in the backlog, is the first that the service sees.
            with socket.create_connection(("127.0.0.1", tunnel.local_port)) as own:
                own.sendall(b"mine")
                served, _ = far.accept()
                with served:
                    assert served.recv(100) == b"mine"
            current().refresh()
            # (Of one that has reset its connection there is nothing left to turn away.)
            assert (tunnel.stats.rejected, tunnel.stats.clients_total) == (leaves == "close", 1)


def test_guard_holds_when_the_engine_has_no_descriptor_left_to_ask_with(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel:
        engine = current().engine_pid
        most = resource.prlimit(engine, resource.RLIMIT_NOFILE)
        last = max(int(name) for name in os.listdir(f"/proc/{engine}/fd"))
        # One more can be accepted, and nothing opened beside it.
        resource.prlimit(engine, resource.RLIMIT_NOFILE, (last + 2, most[1]))
        try:
            assert as_user(STRANGER, tunnel.local_port) == "reset"
        finally:
            resource.prlimit(engine, resource.RLIMIT_NOFILE, most)
        assert ask(tunnel.local_port) == b"ping"
        current().refresh()
        assert (tunnel.stats.rejected, tunnel.stats.refused, tunnel.stats.clients_total) == (1, 0, 1)


# A filter of system calls (seccomp(2)) for the process and all that it starts: there are no netlink sockets.
NO_NETLINK = """
import ctypes, platform, struct
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]  # socket(2)
program = struct.pack(
    "HBBI" * 6,
    0x20, 0, 0, 0,  # the call's number
    0x15, 0, 3, number,
    0x20, 0, 0, 16,  # its first argument, the family
    0x15, 0, 1, 16,  # AF_NETLINK
    0x06, 0, 0, 0x00050061,  # fails: EAFNOSUPPORT
    0x06, 0, 0, 0x7FFF0000,  # allowed
)
code = ctypes.create_string_buffer(program)
filter = struct.pack("HxxxxxxP", 6, ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.c_char_p(filter), 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP
"""
TELLS = """
import socket
import xec_forward as xf
with xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port={far}, local_port=0) as tunnel:
    with socket.create_connection(("127.0.0.1", tunnel.local_port), 10) as client:
        client.sendall(b"ping")
        print(client.recv(4))
    print(tunnel.snapshot.notes)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="seccomp on x86_64 or aarch64")
def test_system_that_does_not_tell_whose_a_connection_is_serves_everybody_and_says_so(
    bastion: Sshd, services: Services
) -> None:
    code = NO_NETLINK + TELLS.format(far=services.echo)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("b'ping'\n")
    assert "other users of this machine are not kept out" in done.stdout


def test_guard_off_lets_every_user_in_and_says_so(bastion: Sshd, services: Services) -> None:
    given_up = "every user of this machine can use this port: the guard is off"
    with open_echo(services) as tunnel:
        assert given_up not in tunnel.snapshot.notes
    with open_echo(services, guard="off") as tunnel:
        assert as_user(STRANGER, tunnel.local_port) == "ping"
        assert given_up in tunnel.snapshot.notes


def test_unix_socket_is_its_owners_alone(bastion: Sshd, services: Services) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # anybody may come as far as the socket
        path = f"{folder}/echo.sock"
        with xf.ssh("bastion").forward(local_host=path, remote_host="pg.vpc", remote_port=services.echo):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert as_user(STRANGER, 0, path) == "denied"
            assert as_user(os.getuid(), 0, path) == "ping"


def test_folder_made_for_a_unix_socket_lets_nobody_else_through(bastion: Sshd, services: Services) -> None:
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o755)
        folder = Path(above) / "tunnels"
        path = str(folder / "echo.sock")
        with xf.ssh("bastion").forward(local_host=path, remote_host="pg.vpc", remote_port=services.echo):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            os.chmod(path, 0o666)  # it is the folder that keeps them out
            assert as_user(STRANGER, 0, path) == "denied"
            assert as_user(os.getuid(), 0, path) == "ping"


def test_allowed_ips_turns_others_away_and_touches_nobody_else(bastion: Sshd, services: Services) -> None:
    with open_echo(services, allowed_ips=["10.0.0.0/8", "127.0.0.2"], guard="off") as tunnel:
        with pytest.raises(ConnectionResetError):
            ask(tunnel.local_port)
        with socket.socket() as client:
            client.settimeout(10)
            client.bind(("127.0.0.2", 0))
            client.connect(("127.0.0.1", tunnel.local_port))
            client.sendall(b"ping")
            assert client.recv(4) == b"ping"
        until(lambda: tunnel.stats.rejected == 1)
        assert "Rejected connection from 127.0.0.1" in str(tunnel.error)


# Where the tunnel listens, where its client connects to, who may, and whether this one may.
FAMILIES = [
    ("127.0.0.1", "127.0.0.1", "127.0.0.0/8", True),
    ("127.0.0.1", "127.0.0.1", "::1,fd00::/8", False),
    ("127.0.0.1", "::ffff:127.0.0.1", "127.0.0.1", True),  # a socket of the newer kind, at an address of the older
    ("127.0.0.1", "::ffff:127.0.0.1", "::1", False),
    ("::1", "::1", "::1", True),
    ("::1", "::1", "::/64", True),
    ("::1", "::1", "fd00::/8,::2", False),
    ("::1", "::1", "127.0.0.0/8,0.0.0.0/0", False),
    ("*", "127.0.0.1", "127.0.0.1", True),  # both listeners of a wildcard
    ("*", "::1", "127.0.0.1", False),
    ("*", "::1", "::1", True),
    ("*", "127.0.0.1", "::1", False),
]
MAPPED = [
    ("127.0.0.1", "127.0.0.1", "::ffff:127.0.0.0/104", True),
    ("127.0.0.1", "127.0.0.1", "::ffff:127.0.0.1", True),
    ("127.0.0.1", "127.0.0.1", "::ffff:10.0.0.0/104", False),
    ("127.0.0.1", "::ffff:127.0.0.1", "::ffff:127.0.0.0/104", True),
    ("::1", "::1", "::ffff:127.0.0.0/104", False),
]


class Counting:
    """An echo that counts who reaches it."""

    def __init__(self) -> None:
        self.came = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self.came += 1
                with client:
                    client.sendall(client.recv(100))

    def __enter__(self) -> Counting:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def outcome(host: str, port: int) -> str:
    """What a client that connects to `host` gets: `ping`, `reset`."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        client.settimeout(10)
        try:
            client.connect((host, port))
            client.sendall(b"ping")
            return client.recv(4).decode()
        except (ConnectionResetError, BrokenPipeError):
            return "reset"


def hold_to(cases: list[tuple[str, str, str, bool]]) -> None:
    """Each case by a real client; who is turned away never reaches the service."""
    target, wanted = xf.ssh("bastion"), 0
    with Counting() as far:
        where: dict[str, Any] = {"remote_host": "pg.vpc", "remote_port": far.port, "local_port": 0, "no_check": True}
        with target.forward(**where) as own:
            for listen, host, allowed, served in cases:
                case = (listen, host, allowed)
                wide = {"local_interface": listen, "gateway_ports": listen == "*"}
                with target.forward(**where, **wide, allowed_ips=allowed.split(",")) as tunnel:
                    assert outcome(host, tunnel.local_port) == ("ping" if served else "reset"), case
                    current().refresh()
                    counts = (tunnel.stats.clients_total, tunnel.stats.rejected)
                    assert counts == ((1, 0) if served else (0, 1)), case
                # One of ours, behind it: whoever had come before would have been counted.
                assert outcome("127.0.0.1", own.local_port) == "ping"
                wanted += served + 1
                assert far.came == wanted, case


def test_allowed_ips_holds_for_both_families_and_who_is_turned_away_reaches_nothing(bastion: Sshd) -> None:
    hold_to(FAMILIES)


def test_allowed_ips_written_as_mapped_networks_are_those_of_the_older_kind(bastion: Sshd) -> None:
    hold_to(MAPPED)


def test_allowed_ips_knows_a_mapped_address_and_both_families() -> None:
    guard = Guard.of(("127.0.0.0/8", "fd00::/8"), "off")
    here = ("127.0.0.1", 1)
    assert guard.refuses(("::ffff:127.0.0.9", 1), here) is None
    assert guard.refuses(("fd00::1", 1), here) is None
    assert guard.refuses(("fe80::1%eth0", 1), here) is not None
    assert guard.refuses(("::ffff:192.0.2.1", 1), here) is not None


def test_rejected_client_opens_no_channel(bastion: Sshd, services: Services) -> None:
    with open_echo(services, allowed_ips="192.0.2.0/24", no_check=True) as tunnel:
        for _ in range(5):
            with pytest.raises(ConnectionResetError):
                ask(tunnel.local_port)
        current().refresh()
        assert (tunnel.stats.rejected, tunnel.stats.clients_total, tunnel.stats.clients) == (5, 0, 0)


def test_allowed_ips_holds_for_who_comes_to_the_bastion_too(bastion: Sshd) -> None:
    with Counting() as near:
        where: dict[str, Any] = {"type": "remote", "remote_port": 0, "local_host": "127.0.0.1", "local_port": near.port}
        with xf.ssh("bastion").forward(**where, allowed_ips=["10.9.0.0/16", "127.0.0.2"]) as tunnel:
            for _ in range(5):
                # Of the channel that is refused SSH has no more to say than of one that ends.
                assert outcome("127.0.0.1", tunnel.remote_port) in ("reset", "")
            until(lambda: (current().refresh(), tunnel.stats.rejected == 5)[1])  # type: ignore[func-returns-value]
            assert (tunnel.stats.clients_total, near.came) == (0, 0)
            assert "Rejected connection from 127.0.0.1" in str(tunnel.error)
            tunnel.reconnect()
            tunnel.wait_ready(10)
            assert outcome("127.0.0.1", tunnel.remote_port) in ("reset", "")
            with socket.socket() as client:
                client.settimeout(10)
                client.bind(("127.0.0.2", 0))
                client.connect(("127.0.0.1", tunnel.remote_port))
                client.sendall(b"ping")
                assert client.recv(4) == b"ping"
            assert near.came == 1


@pytest.mark.parametrize("told", ["", "UNKNOWN", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0"])
def test_address_that_is_not_told_is_none_of_those_allowed(told: str) -> None:
    assert Guard.of(("127.0.0.0/8", "fd00::/8"), "uid").outside(told) is not None
    assert Guard.of((), "uid").outside(told) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"local_host": "/tmp/never.sock", "remote_host": "pg.vpc", "remote_port": 5432},
        {"type": "dynamic", "local_host": "/tmp/never.sock"},
        {"type": "remote", "remote_host": "/tmp/never.sock", "local_port": 5432},
    ],
    ids=["local", "dynamic", "remote"],
)
def test_allowed_ips_of_a_unix_socket_is_one_clear_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(xf.SpecError) as caught:
        xf.ssh("bastion").forward(**arguments, allowed_ips="127.0.0.1")
    assert str(caught.value) == (
        "ESPEC allowed_ips does not go with '/tmp/never.sock': who uses a unix socket has no address. "
        "Leave it out: the rights of the file say who may connect"
    )


@pytest.mark.parametrize("given", ["10.0.0.300", "host.example", "10.0.0.0/33", ""])
def test_what_is_no_network_is_one_clear_error(given: str) -> None:
    with pytest.raises(xf.SpecError, match="an address or a network is expected"):
        xf.ssh("bastion").forward(remote_port=1, allowed_ips=[given])


def test_guard_costs_less_than_100_us_a_connection() -> None:
    guard = Guard.of((), "uid")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            peer, own = client.getsockname(), listener.getsockname()
            times = []
            for _ in range(200):
                start = time.perf_counter()
                assert guard.refuses(peer, own) is None
                times.append(time.perf_counter() - start)
    took = statistics.median(times) * 1e6
    print(f"\nsame-user guard: {took:.0f} us a connection (median of 200)")
    assert took < 100
