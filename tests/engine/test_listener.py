"""Bind and hold, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from xec_forward.engine.listener import Binder
from xec_forward.engine.neighbours import Holder, Neighbours
from xec_forward.errors import ConfigError, PortInUseError
from xec_forward.options import TunnelOptions
from xec_forward.spec import Endpoint

FAR = Endpoint("far", 5432)
OPTIONS = TunnelOptions()


def binder(own: str = "", holder: Holder | None = None) -> Binder:
    return Binder(lambda port: own, lambda port: holder)


def occupied() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


async def test_written_port_is_taken_and_free_again_after_close() -> None:
    with occupied() as sock:
        port = sock.getsockname()[1]
    listener = await binder().bind(Endpoint("", port), FAR, OPTIONS)
    assert str(listener) == f"127.0.0.1:{port}"
    await listener.serve(asyncio.Protocol)
    with pytest.raises(PortInUseError):
        await binder().bind(Endpoint("", port), FAR, OPTIONS)
    await listener.close()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))


@pytest.mark.parametrize("host", ["127.0.0.1", "*"])
async def test_listener_knows_whether_it_listens(host: str) -> None:
    listener = await binder().bind(Endpoint(host, 0), FAR, TunnelOptions(gateway_ports=True))
    assert listener.trouble() is not None  # it holds the port, and takes nobody yet
    await listener.serve(asyncio.Protocol)
    assert listener.trouble() is None
    listener.sockets[-1].shutdown(socket.SHUT_RD)  # as `ss --kill` does from outside
    assert "does not listen" in str(listener.trouble())
    await listener.close()


async def test_written_port_that_is_taken_is_refused_with_the_way_round() -> None:
    with occupied() as sock:
        port = sock.getsockname()[1]
        with pytest.raises(PortInUseError) as caught:
            await binder().bind(Endpoint("", port), FAR, OPTIONS)
    text = str(caught.value)
    assert text.startswith(f"EADDRINUSE 127.0.0.1:{port}: taken by another program")
    assert f"write 0 in the place of {port}" in text


async def test_port_held_by_our_own_tunnel_names_it() -> None:
    with occupied() as sock, pytest.raises(PortInUseError, match="held by the tunnel pg of this kernel"):
        await binder("pg").bind(Endpoint("", sock.getsockname()[1]), FAR, OPTIONS)


async def test_port_held_by_another_kernel_names_its_notebook() -> None:
    holder = Holder("pg", "/home/ana/sales.ipynb", 1, True)
    with occupied() as sock, pytest.raises(PortInUseError, match=r"the tunnel pg of /home/ana/sales\.ipynb"):
        await binder("", holder).bind(Endpoint("", sock.getsockname()[1]), FAR, OPTIONS)


async def test_port_of_an_engine_whose_kernel_is_gone_is_waited_for() -> None:
    sock = occupied()
    port = sock.getsockname()[1]
    asyncio.get_running_loop().call_later(0.3, sock.close)
    holder = Holder("pg", "", 1, False)
    listener = await binder("", holder).bind(Endpoint("", port), FAR, OPTIONS)
    assert listener.port == port
    await listener.close()


async def test_unwritten_port_is_the_far_port_or_any_and_says_which() -> None:
    with occupied() as sock:
        taken = sock.getsockname()[1]
        listener = await binder().bind(Endpoint(), Endpoint("far", taken), OPTIONS)
        assert listener.port not in (0, taken)
        assert listener.notes == [f"local port {listener.port}, because {taken} is taken by another program"]
        await listener.close()
    listener = await binder().bind(Endpoint(), Endpoint("far", taken), OPTIONS)
    assert (listener.port, listener.notes) == (taken, [])
    await listener.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*"])
async def test_wide_address_needs_gateway_ports(host: str) -> None:
    with pytest.raises(ConfigError, match="--gateway-ports"):
        await binder().bind(Endpoint(host, 0), FAR, OPTIONS)
    listener = await binder().bind(Endpoint(host, 0), FAR, TunnelOptions(gateway_ports=True))
    assert listener.port
    await listener.close()


async def test_gateway_ports_alone_means_the_wildcard_and_a_written_interface_wins() -> None:
    wide = TunnelOptions(gateway_ports=True)
    listener = await binder().bind(Endpoint("", 0), FAR, wide)
    assert listener.host == "0.0.0.0"
    await listener.close()
    listener = await binder().bind(Endpoint("127.0.0.1", 0), FAR, wide)
    assert listener.host == "127.0.0.1"
    await listener.close()


async def test_localhost_is_one_listener_on_127_0_0_1() -> None:
    listener = await binder().bind(Endpoint("localhost", 0), FAR, OPTIONS)
    assert (listener.host, len(listener.sockets)) == ("127.0.0.1", 1)
    await listener.close()


async def test_address_of_another_machine_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="not an address of this machine"):
        await binder().bind(Endpoint("192.0.2.1", 0), FAR, TunnelOptions(gateway_ports=True))


def test_privileged_port_without_rights_suggests_a_higher_one() -> None:
    code = """
import asyncio, os
from tests.engine.test_listener import FAR, OPTIONS, Endpoint, binder
from xec_forward.errors import BindPermissionError
if os.getuid() == 0:
    os.setuid(65534)
try:
    asyncio.run(binder().bind(Endpoint("", 80), FAR, OPTIONS))
except BindPermissionError as error:
    print(error)
"""
    command = [sys.executable, "-c", code]
    if os.getuid() == 0:
        # A container may allow low ports to everybody; a network namespace of our own has the kernel's default.
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("EPERM 127.0.0.1:80: "), done.stderr
    assert "8080" in done.stdout


async def test_unix_socket_is_owner_only_replaces_a_stale_one_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "pg.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    listener = await binder().bind(Endpoint(path=str(path)), FAR, OPTIONS)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    await listener.serve(asyncio.Protocol)
    with pytest.raises(PortInUseError):
        await binder().bind(Endpoint(path=str(path)), FAR, OPTIONS)
    await listener.close()
    assert not path.exists()


async def test_unix_socket_leaves_any_other_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(PortInUseError):
        await binder().bind(Endpoint(path=str(path)), FAR, OPTIONS)
    assert path.read_text() == "mine"


def test_neighbour_is_named_while_it_lives_and_forgotten_when_it_is_killed(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from xec_forward.engine.neighbours import Neighbours
record = Neighbours(Path(sys.argv[1]), kernel=1, notebook="other.ipynb")
record.publish({5432: "pg"})
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        mine = Neighbours(tmp_path, kernel=os.getpid(), notebook="mine.ipynb")
        assert mine.holder(5432) == Holder("pg", "other.ipynb", 1, True)
        assert mine.holder(5433) is None
        other.kill()
        other.wait()
        assert mine.holder(5432) is None
    assert len(list(tmp_path.iterdir())) == 1
    mine.close()
    assert list(tmp_path.iterdir()) == []


async def test_socket_of_a_listener_whose_close_is_cancelled_is_gone_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "pg.sock"
    listener = await binder().bind(Endpoint(path=str(path)), FAR, OPTIONS)
    await listener.serve(asyncio.Protocol)
    closing = asyncio.create_task(listener.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert not path.exists()
    assert all(sock.fileno() < 0 for sock in listener.sockets)


async def test_folder_of_a_unix_socket_is_made_owner_only_where_it_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "tunnels" / "pg.sock"
    listener = await binder().bind(Endpoint(path=str(path)), FAR, OPTIONS)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert listener.notes == []
    await listener.close()


@pytest.mark.parametrize(("mode", "remarked"), [(0o777, True), (0o770, True), (0o1777, False), (0o755, False)])
async def test_folder_in_which_others_may_replace_the_socket_is_remarked_on(
    tmp_path: Path, mode: int, remarked: bool
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    listener = await binder().bind(Endpoint(path=str(folder / "pg.sock")), FAR, OPTIONS)
    assert [str(folder) in note for note in listener.notes] == ([True] if remarked else [])
    await listener.close()
