"""Options of a connection and of a listener, as the server, the wire and the system see them."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.peers.kernel import Kernel, wait_until
from tests.peers.kernel import missing as kernel_missing
from tests.peers.meter import Meter
from tests.peers.services import Services
from tests.peers.sshd import Sshd, missing

SIZE = 3 << 20


def prose(size: int) -> bytes:
    """Text that a better search compresses better: words of an invented language, the same on every machine."""
    chance = random.Random(71)
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 9))) for _ in range(3000)]
    text = " ".join(chance.choices(words, k=size // 5)).encode()
    return text[:size]


PROSE = prose(SIZE)


def upload(port: int) -> None:
    """Send the text to the `reply` service, and check that all of it arrived."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(PROSE)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer == f"{SIZE} {hashlib.sha256(PROSE).hexdigest()}\n".encode()


def echo(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"ping")
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


class Talkative(Sshd):
    """An sshd that says in its log what it has negotiated and what it is asked."""

    def compressions(self) -> list[str]:
        """The compression from the client of each key exchange so far, the first of each connection included."""
        return re.findall(r"kex: client->server cipher: \S+ MAC: \S+ compression: (\S+)", self.log.read_text())

    def keepalives(self) -> int:
        return self.log.read_text().count("rtype keepalive@openssh.com")


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talkative]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path / "sshd"
    folder.mkdir()
    with Talkative(folder, options={"LogLevel": "DEBUG1", "RekeyLimit": "128K"}) as running:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(running.write_config(tmp_path / "ssh_config")))
        yield running


def behind(meter: Meter, sshd: Sshd, folder: Path) -> str:
    """The ssh_config of the server behind a meter."""
    file = folder / f"metered_{meter.port}"
    name = f"[127.0.0.1]:{sshd.port}"
    return str(sshd.write_config(file, Port=meter.port, HostKeyAlias=name))


def sent(sshd: Sshd, services: Services, folder: Path, **options: Any) -> int:
    """How many bytes the text takes on the wire, on a connection of its own."""
    with (
        Meter(sshd.port) as meter,
        xf.ssh("bastion", ssh_config=behind(meter, sshd, folder), **options).forward(
            remote_host="localhost", remote_port=services.reply, local_port=0
        ) as tunnel,
    ):
        upload(tunnel.local_port)
        return meter.up


# compression


def test_compression_is_off_unless_asked_for_and_governs_what_we_send(
    sshd: Talkative, services: Services, tmp_path: Path
) -> None:
    plain = sent(sshd, services, tmp_path)
    assert plain > SIZE
    assert set(sshd.compressions()) == {"none"}
    compressed = sent(sshd, services, tmp_path, compression=True)
    assert compressed < 0.6 * plain
    assert sshd.compressions()[-1] == "zlib@openssh.com"


def test_compression_of_ssh_config_counts_too(sshd: Talkative, services: Services, tmp_path: Path) -> None:
    config = sshd.write_config(tmp_path / "compressing", Compression="yes")
    with xf.ssh("bastion", ssh_config=str(config)).forward(
        remote_host="localhost", remote_port=services.reply, local_port=0
    ):
        assert sshd.compressions()[-1] == "zlib@openssh.com"


def test_level_decides_how_small_and_survives_the_rekeying(sshd: Talkative, services: Services, tmp_path: Path) -> None:
    fast = sent(sshd, services, tmp_path, compression_level=1)
    before = len(sshd.compressions())
    small = sent(sshd, services, tmp_path, compression_level=9)
    # Several key exchanges, each with a compressor of its own.
    assert len(sshd.compressions()) - before >= 3
    assert small < 0.95 * fast


def test_two_connections_side_by_side_keep_their_levels(sshd: Talkative, services: Services, tmp_path: Path) -> None:
    alone = {level: sent(sshd, services, tmp_path, compression_level=level) for level in (1, 9)}
    with ExitStack() as stack:
        meters, threads = {}, []
        for level in (1, 9):
            meter = meters[level] = stack.enter_context(Meter(sshd.port))
            target = xf.ssh("bastion", ssh_config=behind(meter, sshd, tmp_path), compression_level=level)
            tunnel = stack.enter_context(
                target.forward(remote_host="localhost", remote_port=services.reply, local_port=0)
            )
            threads.append(threading.Thread(target=upload, args=(tunnel.local_port,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for level, meter in meters.items():
            assert meter.up == pytest.approx(alone[level], rel=0.02)


def test_compression_is_part_of_what_makes_a_connection(sshd: Talkative, services: Services) -> None:
    far = {"remote_host": "localhost", "remote_port": services.echo, "local_port": 0}
    targets = [{}, {"compression": True}, {"compression_level": 1}, {"compression_level": 9}, {"compression_level": 9}]
    with ExitStack() as stack:
        for options in targets:
            tunnel = stack.enter_context(xf.ssh("bastion", **options).forward(**far))
            assert echo(tunnel.local_port) == b"ping"
        assert sshd.connections() == 4


# keepalives


def test_keepalives_come_at_the_interval_and_0_means_none(sshd: Talkative, services: Services, tmp_path: Path) -> None:
    folder = tmp_path / "quiet"
    folder.mkdir()
    far = {"remote_host": "localhost", "remote_port": services.echo, "local_port": 0, "no_check": True}
    with Talkative(folder, options={"LogLevel": "DEBUG1"}) as quiet:
        config = str(quiet.write_config(tmp_path / "quiet_config"))
        never = xf.ssh("bastion", ssh_config=config, server_alive_interval=0)
        with never.forward(**far), xf.ssh("bastion", server_alive_interval=0.1).forward(**far):
            before = quiet.keepalives()  # the measured round trip of the opening, if any
            wait_until(lambda: sshd.keepalives() > before + 10, "no keepalives")
            assert quiet.keepalives() == before


def test_silent_server_counts_as_lost_after_the_interval_times_the_count(sshd: Talkative, services: Services) -> None:
    target = xf.ssh("bastion", server_alive_interval=0.3, server_alive_count_max=2)
    with target.forward(remote_host="localhost", remote_port=services.echo, local_port=0) as tunnel:
        sshd.freeze()
        try:
            wait_until(lambda: tunnel.state is xf.TunnelState.RECONNECTING, "the silence is not noticed", 5)
            assert "no longer answers" in str(tunnel.error)
        finally:
            sshd.thaw()
        tunnel.wait_ready(20)
        assert echo(tunnel.local_port) == b"ping"


# the listener


def test_wide_bind_wants_gateway_ports(sshd: Talkative, services: Services) -> None:
    far = {"remote_host": "localhost", "remote_port": services.echo, "local_port": 0}
    for address in ("0.0.0.0", "*"):
        with pytest.raises(xf.ForwardError) as caught:
            xf.ssh("bastion").forward(local_interface=address, **far)
        assert "gateway" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sshd.log.read_text().count("Accepted ") == 0
    with xf.ssh("bastion").forward(local_interface="0.0.0.0", gateway_ports=True, **far) as tunnel:
        assert tunnel.snapshot.listen.startswith("0.0.0.0:")
    with xf.ssh("bastion").forward(gateway_ports=True, **far) as tunnel:
        assert tunnel.snapshot.listen.startswith(("*:", "0.0.0.0:", "[::]:"))
        assert echo(tunnel.local_port) == b"ping"
    with xf.ssh("bastion").forward(local_interface="127.0.0.1", gateway_ports=True, **far) as tunnel:
        assert tunnel.snapshot.listen.startswith("127.0.0.1:")


# what is out of bounds


def test_option_out_of_bounds_is_one_line_from_the_magic(sshd: Talkative, tmp_path: Path) -> None:
    if reason := kernel_missing():
        pytest.skip(reason)
    folder = tmp_path / "kernel"
    folder.mkdir()
    with Kernel(folder, {}, "%load_ext xec_forward") as kernel:
        for option, value in (
            ("--compression-level", "10"),
            ("--compression-level", "0"),
            ("--compression-level", "high"),
            ("--server-alive-interval", "-1"),
            ("--server-alive-interval", "inf"),
            ("--server-alive-count-max", "0"),
            ("--local-interface", "5432:"),
            ("--host-key", "maybe"),
            ("--port", "70000"),
            ("--hold", "-1"),
            ("--timeout", "0"),
        ):
            done = kernel.run(f"%forward bastion 0:localhost:5432 {option}={value}")
            assert done.error is not None, option
            assert done.error.value.startswith(f"ESPEC {option} "), done.error.value
            assert "\n" not in done.error.value
    assert sshd.connections() == 0


@pytest.mark.parametrize(
    "option",
    [
        {"compression_level": 10},
        {"compression_level": "high"},
        {"server_alive_interval": -1},
        {"server_alive_count_max": 0},
        {"host_key": "maybe"},
        {"port": 70000},
        {"compresion": True},
    ],
)
def test_option_out_of_bounds_is_one_line_from_python(option: dict[str, Any]) -> None:
    with pytest.raises(xf.SpecError) as caught:
        xf.ssh("bastion", **option)
    assert next(iter(option)) in str(caught.value)
    assert "\n" not in str(caught.value)
