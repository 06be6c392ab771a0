"""Faults, one row a test: what must hold on a bad day, against a real sshd, with figures.

Each row prints one line of figures: bytes lost, time to recover, and what is left in the engine (descriptors,
megabytes). The short form runs in CI; `make soak` (XEC_FORWARD_SOAK=1) runs every row in full.
"""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import open_echo, parked, until
from tests.peers.kernel import port_free
from tests.peers.services import Services, pattern_digest
from tests.peers.sshd import Sshd
from xec_forward.client.session import current

SOAK = os.environ.get("XEC_FORWARD_SOAK") == "1"
MEGABYTE = 1024 * 1024
RESET = struct.pack("ii", 1, 0)


def full(soak: int, short: int) -> int:
    """How much of a row: all of it in a soak, a short form else."""
    return soak if SOAK else short


class Figures:
    """What the engine holds: descriptors, resident megabytes, CPU-seconds."""

    def __init__(self) -> None:
        self.pid = current().engine_pid

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def megabytes(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(row: str, **figures: object) -> None:
    print(f"\n{row:<44} " + "  ".join(f"{name} {value}" for name, value in figures.items()))


def test_bastion_killed_under_200_clients(bastion: Sshd, services: Services) -> None:
    count = full(200, 100)
    with open_echo(services) as tunnel:
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        messages = [hashlib.sha256(str(n).encode()).digest() * 2000 for n in range(count)]
        with ThreadPoolExecutor(count) as pool:
            answers = [pool.submit(ask, tunnel.local_port, message) for message in messages]
            until(parked(tunnel, count), 20)
            bastion.start()
            start = time.monotonic()
            lost = sum(answer.result(30) != message for answer, message in zip(answers, messages, strict=True))
            took = time.monotonic() - start
        say("bastion killed, clients waiting", clients=count, lost=lost, recovered=f"{took:.2f} s")
        assert lost == 0


def test_target_refuses_hangs_and_resets_and_the_others_go_on(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    group = target.forward_multiple(
        [
            {"name": name, "remote_host": "pg.vpc", "remote_port": port, "local_port": 0, "no_check": True}
            for name, port in (
                ("refused", services.refused),
                ("hang", services.hang),
                ("reset", services.reset),
                ("echo", services.echo),
            )
        ]
    )
    with group, socket.create_connection(("127.0.0.1", group["echo"].local_port), timeout=10) as steady:
        for _ in range(full(200, 20)):
            with pytest.raises(ConnectionResetError):
                ask(group["refused"].local_port)
            with socket.create_connection(("127.0.0.1", group["hang"].local_port), timeout=10) as hung:
                hung.sendall(b"x")
            with socket.create_connection(("127.0.0.1", group["reset"].local_port), timeout=10) as broken:
                broken.sendall(b"x")
                try:
                    assert broken.recv(1) == b""  # SSH has no message for a reset of the far side
                except ConnectionResetError:
                    pass
            steady.sendall(b"steady")
            assert steady.recv(6) == b"steady"
        assert group["echo"].stats.reconnects == 0


def test_slow_reader_and_slow_writer_leave_memory_bounded(bastion: Sshd, services: Services) -> None:
    size = full(200, 64) * 1_000_000
    target = xf.ssh("bastion")
    source = target.forward(remote_host="pg.vpc", remote_port=services.source, local_port=0, no_check=True)
    deaf = target.forward(remote_host="pg.vpc", remote_port=services.deaf, local_port=0, no_check=True)
    with source, deaf, socket.create_connection(("127.0.0.1", deaf.local_port), timeout=5) as writer:
        figures = Figures()
        writer.setblocking(False)
        blocked = time.monotonic() + 2
        while time.monotonic() < blocked:
            try:
                writer.send(bytes(MEGABYTE))
                blocked = time.monotonic() + 0.5
            except BlockingIOError:
                time.sleep(0.02)
        peak = figures.megabytes()
        with socket.create_connection(("127.0.0.1", source.local_port), timeout=10) as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            reader.sendall(b"%d\n" % size)
            time.sleep(0.5)  # it does not read: buffers fill as far as they will
            digest, left = hashlib.sha256(), size
            while data := reader.recv(256 * 1024):
                digest.update(data)
                left -= len(data)
                if left % 16 == 0:
                    peak = max(peak, figures.megabytes())
        say("slow reader, slow writer", bytes=size, lost=left, peak=f"{peak:.0f} MB")
        assert left == 0
        assert digest.hexdigest() == pattern_digest(size)
        assert peak < 100


def test_thousand_idle_clients_cost_little(bastion: Sshd, services: Services) -> None:
    count = full(1000, 400)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    clients: list[socket.socket] = []
    try:
        with open_echo(services) as tunnel:
            figures = Figures()
            for _ in range(count):
                client = socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=20)
                clients.append(client)
            for client in clients:
                client.sendall(b"!")
            for client in clients:
                assert client.recv(1) == b"!"
            before = figures.cpu()
            time.sleep(2)
            cpu, memory = figures.cpu() - before, figures.megabytes()
            say("idle clients", clients=count, memory=f"{memory:.0f} MB", cpu=f"{cpu:.2f} s in 2 s")
            assert memory < 60
            assert cpu < 0.2
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_clients_that_leave_while_their_channel_opens_leak_nothing(bastion: Sshd, services: Services) -> None:
    rounds = full(10_000, 1_000)
    with open_echo(services) as tunnel:
        assert ask(tunnel.local_port) == b"ping"
        figures = Figures()
        before, memory = figures.descriptors(), figures.megabytes()
        for number in range(rounds):
            client = socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10)
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        until(lambda: (current().refresh(), tunnel.stats.clients)[1] == 0, 30)  # type: ignore[func-returns-value]
        until(lambda: figures.descriptors() <= before + 2, 10)
        grown = figures.megabytes() - memory
        assert ask(tunnel.local_port) == b"ping"
        kept = figures.descriptors() - before
        say("clients that leave at once", rounds=rounds, descriptors=kept, memory=f"{grown:+.1f} MB")
        assert grown < 20


def test_many_openings_and_closings_of_a_tunnel_leak_nothing(bastion: Sshd, services: Services) -> None:
    rounds = full(1000, 100)
    with open_echo(services) as steady:
        figures = Figures()

        def once() -> None:
            tunnel = open_echo(services)
            port = tunnel.local_port
            tunnel.close()
            assert port_free(port)

        once()
        before, memory = figures.descriptors(), figures.megabytes()
        for _ in range(rounds):
            once()
        kept, grown = figures.descriptors() - before, figures.megabytes() - memory
        say("openings and closings", rounds=rounds, descriptors=kept, memory=f"{grown:+.1f} MB")
        assert kept <= 2
        assert grown < 20
        assert ask(steady.local_port) == b"ping"
        assert list(xf.tunnels) == [steady.name]


def test_rekey_under_load_loses_nothing(tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    size = full(400, 48) * 1_000_000
    folder = tmp_path / "rekeying"
    folder.mkdir()
    with Sshd(folder, options={"RekeyLimit": "8M"}) as bastion:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(bastion.write_config(tmp_path / "config")))
        target = xf.ssh("bastion")
        source = target.forward(remote_host="pg.vpc", remote_port=services.source, local_port=0, no_check=True)
        reply = target.forward(remote_host="pg.vpc", remote_port=services.reply, local_port=0, no_check=True)
        with source, reply:
            answers: list[bytes] = []
            upload = threading.Thread(target=lambda: answers.append(ask(reply.local_port, b"u" * size)))
            upload.start()
            with socket.create_connection(("127.0.0.1", source.local_port), timeout=60) as reader:
                reader.sendall(b"%d\n" % size)
                digest = hashlib.sha256()
                while data := reader.recv(MEGABYTE):
                    digest.update(data)
            upload.join(120)
            assert digest.hexdigest() == pattern_digest(size)
            assert answers[0].split()[0] == str(size).encode()
            say("rekey each 8 MB, both directions", bytes=2 * size, lost=0)
