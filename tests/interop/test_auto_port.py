"""auto_port (S76, S77): counts up from a taken port, ten ports in all, and holds what it bound."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import until
from tests.peers.kernel import Kernel
from tests.peers.kernel import missing as kernel_missing
from tests.peers.ports import port_free
from tests.peers.services import Services
from tests.peers.sshd import Sshd

TRIES = 10


def listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


@contextmanager
def taken(count: int, spare: int = 2) -> Iterator[int]:
    """The first of `count` ports in a row that other programs hold; `spare` more behind them are free."""
    for first in range(21000, 32000, count + spare):
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(listen(port))
            except OSError:
                continue
            if all(port_free(port) for port in range(first + count, first + count + spare)):
                yield first
                return
    raise AssertionError("there are no ports in a row")


def open_at(services: Services, port: int | None, **options: Any) -> xf.Tunnel:
    where: dict[str, Any] = {} if port is None else {"local_port": port}
    target = xf.ssh("bastion")
    return target.forward(remote_host="pg.vpc", remote_port=services.echo, auto_port=True, **where, **options)


def test_free_port_is_taken_as_written(bastion: Sshd, services: Services) -> None:
    with taken(0) as first, open_at(services, first) as tunnel:
        assert tunnel.local_port == first
        assert not any("local port" in note for note in tunnel.snapshot.notes)


@pytest.mark.parametrize(("count", "why"), [(1, "{0} is taken"), (4, "{0} to {1} are taken")])
def test_taken_port_is_counted_up_and_the_card_says_so(bastion: Sshd, services: Services, count: int, why: str) -> None:
    with taken(count) as first, open_at(services, first) as tunnel:
        assert tunnel.local_port == first + count
        said = f"local port {first + count}, because " + why.format(first, first + count - 1)
        assert said in tunnel.snapshot.notes
        assert ask(tunnel.local_port) == b"ping"


def test_tenth_port_is_the_last_that_is_tried(bastion: Sshd, services: Services) -> None:
    with taken(TRIES - 1) as first, open_at(services, first) as tunnel:
        assert tunnel.local_port == first + TRIES - 1


def test_ten_taken_ports_are_the_end(bastion: Sshd, services: Services) -> None:
    with taken(TRIES) as first:
        with pytest.raises(xf.PortInUseError) as caught:
            open_at(services, first)
        assert str(caught.value) == (
            f"EADDRINUSE 127.0.0.1:{first}-{first + TRIES - 1}: No available ports found. "
            "Write 0 in the place of the local port for any free one"
        )
        assert port_free(first + TRIES)
        assert not xf.tunnels


def test_range_ends_with_the_last_port_there_is(bastion: Sshd, services: Services) -> None:
    with ExitStack() as stack:
        for port in range(65533, 65536):
            with suppress(OSError):  # taken all the same
                stack.enter_context(listen(port))
        with pytest.raises(xf.PortInUseError, match=r"127\.0\.0\.1:65533-65535: No available ports found"):
            open_at(services, 65533)


def test_unwritten_port_counts_up_from_the_far_one(bastion: Sshd, services: Services) -> None:
    # The far service listens on that very port of this machine.
    with open_at(services, None) as tunnel:
        assert services.echo < tunnel.local_port < services.echo + TRIES
        assert f"local port {tunnel.local_port}, because {services.echo}" in " ".join(tunnel.snapshot.notes)


def test_tunnel_that_has_failed_holds_no_port_and_speaks_of_none(bastion: Sshd, services: Services) -> None:
    # Its far end refuses on a port that is held on this machine, too.
    wanted = [
        {"name": "good", "remote_host": bastion.far(), "remote_port": services.echo, "local_port": 0},
        {"name": "bad", "remote_host": bastion.far(), "remote_port": services.refused},
    ]
    with xf.ssh("bastion").forward_multiple(wanted) as group:
        assert group.bad.state is xf.TunnelState.FAILED
        assert not any("local port" in note for note in group.bad.snapshot.notes)


def test_our_own_tunnel_is_a_taken_port_like_any_other(bastion: Sshd, services: Services) -> None:
    with taken(0, spare=4) as first, open_at(services, first) as one, open_at(services, first) as two:
        assert (one.local_port, two.local_port) == (first, first + 1)
        assert ask(one.local_port) == ask(two.local_port) == b"ping"


def test_ten_that_want_the_same_port_at_once_get_one_each_and_hold_it(bastion: Sshd, services: Services) -> None:
    opened: list[xf.Tunnel] = []
    with taken(0, spare=TRIES) as first:
        threads = [threading.Thread(target=lambda: opened.append(open_at(services, first))) for _ in range(TRIES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(tunnel.local_port for tunnel in opened) == list(range(first, first + TRIES))
        bastion.kill()
        until(lambda: all(tunnel.state is xf.TunnelState.RECONNECTING for tunnel in opened))
        assert not any(port_free(tunnel.local_port) for tunnel in opened)
        xf.close_all()
        assert all(port_free(port) for port in range(first, first + TRIES))


def test_port_is_kept_over_reconnection_though_the_wanted_one_is_free_again(bastion: Sshd, services: Services) -> None:
    with taken(1) as first:
        tunnel = open_at(services, first)
    assert port_free(first)
    tunnel.reconnect()
    tunnel.wait_ready(10)
    assert tunnel.local_port == first + 1
    tunnel.close()


def test_only_a_taken_port_moves_it_on(bastion: Sshd) -> None:
    """A port that needs more rights is refused, and none above it is tried."""
    code = (
        "import xec_forward as xf\n"
        "try:\n"
        "    xf.ssh('bastion').forward(local_port=1020, remote_host='pg.vpc', remote_port=80, auto_port=True)\n"
        "except PermissionError as error:\n"
        "    print(error)"
    )
    command = [sys.executable, "-c", code]
    if os.getuid() == 0:
        if not shutil.which("setpriv") or not shutil.which("unshare"):
            pytest.skip("setpriv and unshare (Debian: util-linux)")
        # A container may allow low ports to everybody; a network namespace of our own has the kernel's default.
        command = ["setpriv", "--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service", *command]
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("EPERM 127.0.0.1:1020: "), done.stdout + done.stderr


def test_other_faults_are_themselves(bastion: Sshd, services: Services) -> None:
    with taken(1) as first:
        with pytest.raises(xf.ConfigError, match="--gateway-ports permits it"):
            open_at(services, first, local_interface="0.0.0.0")
        with pytest.raises(xf.RefusedError):
            xf.ssh("bastion").forward(
                remote_host="pg.vpc", remote_port=services.refused, local_port=first, auto_port=True
            )
        assert port_free(first + 1)


def test_line_takes_it_and_its_card_says_which_port(bastion: Sshd, services: Services, tmp_path: Path) -> None:
    if missing := kernel_missing():
        pytest.skip(missing)
    folder = tmp_path / "kernel"
    folder.mkdir()
    with Kernel(folder, {}, "%load_ext xec_forward") as kernel:
        far = f"{bastion.far()}:{services.echo}"
        with taken(2) as first:
            card = kernel.run(f"%forward bastion {first}:{far} --as echo --auto-port").ok().displays[0].text
            assert f"127.0.0.1:{first + 2} -> bastion -> {far}" in card
            assert f"note: local port {first + 2}, because {first} to {first + 1} are taken" in card
            assert kernel.value("echo.local_port") == first + 2
            plain = kernel.run(f"%forward bastion {first}:{far} --as other")
            assert plain.error is not None
            assert plain.error.value.startswith(f"EADDRINUSE 127.0.0.1:{first}: taken by another program")
            assert "--auto-port" in plain.error.value
            again = kernel.run(f"%forward bastion {first}:{far} --as echo --auto-port").ok()
            assert "reused" in again.displays[0].text
        with taken(TRIES) as first:
            none = kernel.run(f"%forward bastion {first}:{far} --as more --auto-port")
            assert none.error is not None
            assert "No available ports found" in none.error.value
