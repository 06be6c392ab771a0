"""Faults, one row a test: what must hold on a bad day, against a real sshd. Here those of bastion, target and load.

In every row nothing is lost silently, the others are untouched, the port is held. Each prints one line of figures:
bytes lost, time to recover, and what the engine has kept. The short form runs in CI; `make soak`
(XEC_FORWARD_SOAK=1) runs every row in full. The faults of the network are in `test_faults_network`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.interop.test_persistence import dials
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import open_echo, parked, until
from tests.peers.figures import Figures, kept_by
from tests.peers.ports import port_free
from tests.peers.services import PACE, Services, pattern, pattern_digest
from tests.peers.sshd import Sshd, descendants
from tests.peers.traffic import Steady, Transfer
from tests.peers.unanswering import Unanswering
from xec_forward.client.events import Event
from xec_forward.client.session import current
from xec_forward.engine.monitor import INTERVAL, PATIENCE
from xec_forward.model import Counters

SOAK = os.environ.get("XEC_FORWARD_SOAK") == "1"
MEGABYTE = 1024 * 1024
RESET = struct.pack("ii", 1, 0)
# Served this soon after the bastion is back, seconds (a machine under load included).
RECOVERED_WITHIN = 2.0
# How often a row that counts does first what it counts then: caches fill, the allocator finds its size.
WARM_UP = 3
# Keepalives as the rows that count on them set them, and when a silent peer is noticed: interval x (count + 1).
ALIVE: dict[str, Any] = {"server_alive_interval": 1, "server_alive_count_max": 2}
NOTICED_WITHIN = 3.0 + 1.0


def full(soak: int, short: int) -> int:
    """How much of a row: all of it in a soak, a short form else."""
    return soak if SOAK else short


@pytest.fixture
def other(tmp_path: Path, services: Services) -> Iterator[xf.Tunnel]:
    """A tunnel through another bastion: whatever happens, it is untouched."""
    folder = tmp_path / "other"
    folder.mkdir()
    with Sshd(folder) as bastion:
        target = xf.ssh("other", ssh_config=str(bastion.write_config(folder / "config", "other")))
        with target.forward(remote_host="pg.vpc", remote_port=services.echo, local_port=0, name="other") as tunnel:
            yield tunnel
            current().refresh()
            assert (tunnel.state, tunnel.stats.reconnects) == (xf.TunnelState.READY, 0)


def missing(message: bytes, answer: bytes) -> int:
    """Bytes of an echoed message that did not come back, or not as they were sent."""
    if message == answer:
        return 0
    pairs = enumerate(zip(message, answer, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(len(message), len(answer)))
    return max(len(message), len(answer)) - same


def served_after(
    tunnel: xf.Tunnel, clients: int, mended: contextlib.AbstractContextManager[object]
) -> tuple[float, int]:
    """Seconds from the end of `mended`, which ends the outage, until all who waited had been served; bytes lost."""
    messages = [hashlib.sha256(str(n).encode()).digest() * 2000 for n in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        with mended:
            answers = [pool.submit(ask, tunnel.local_port, message) for message in messages]
            until(parked(tunnel, clients), 20)
        start = time.monotonic()
        lost = sum(missing(message, answer.result(30)) for message, answer in zip(messages, answers, strict=True))
        return time.monotonic() - start, lost


def channels(bastion: Sshd) -> int:
    """Sockets of the bastion's connections: each channel is one of them, those that we forgot included."""
    count = 0
    for pid in descendants(bastion.pid):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += os.readlink(entry).startswith("socket:")
    return count


def leave(client: socket.socket, way: int) -> None:
    """Go, in one of the ways that there are: with an end or with a reset, having said something or nothing."""
    if way & 1:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    if way & 2:
        client.sendall(b"never mind")
    client.close()


# ---- the bastion


def test_bastion_killed_while_200_clients_come(bastion: Sshd, services: Services, other: xf.Tunnel) -> None:
    clients = full(200, 100)
    with open_echo(services) as tunnel, Steady(other.local_port) as steady:
        figures, port = Figures(), tunnel.local_port
        with Transfer(port) as transfer:
            until(lambda: transfer.received > MEGABYTE)
            bastion.kill()
            assert transfer.wait(10) == "reset"
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        assert not port_free(port)
        with contextlib.ExitStack() as back:
            back.callback(bastion.start)
            took, lost = served_after(tunnel, clients, back)
        assert tunnel.local_port == port
        figures.say("bastion killed", lost=lost, recovered=took, clients=clients, others=f"{steady.worst:.3f} s")
        assert lost == 0
        assert took < RECOVERED_WITHIN + clients / 100


def test_bastion_frozen_for_a_moment_costs_no_byte_and_no_connection(
    bastion: Sshd, services: Services, other: xf.Tunnel
) -> None:
    with open_echo(services) as tunnel, Steady(other.local_port) as steady:
        figures = Figures()
        with Transfer(tunnel.local_port) as transfer:
            until(lambda: transfer.received > MEGABYTE)
            bastion.freeze()
            time.sleep(0.5)  # what is on its way arrives
            reached = transfer.received
            time.sleep(0.5)
            assert transfer.received == reached
            bastion.thaw()
            thawed = time.monotonic()
            until(lambda: transfer.received > reached)
            took = time.monotonic() - thawed
            assert transfer.finish() == "complete"
        assert tunnel.stats.reconnects == 0
        figures.say("bastion frozen for 1 s", lost=transfer.lost, recovered=took, others=f"{steady.worst:.3f} s")
        assert took < RECOVERED_WITHIN


def test_bastion_frozen_for_long_is_noticed_and_its_clients_served_after_the_thaw(
    bastion: Sshd, services: Services, other: xf.Tunnel
) -> None:
    clients = full(200, 50)
    target = xf.ssh("bastion", **ALIVE)
    with (
        target.forward(remote_host="pg.vpc", remote_port=services.echo, local_port=0) as tunnel,
        Steady(other.local_port) as steady,
    ):
        figures, port = Figures(), tunnel.local_port
        with Transfer(port) as transfer:
            until(lambda: transfer.received > MEGABYTE)
            bastion.freeze()
            frozen = time.monotonic()
            assert transfer.wait(10) == "reset"
            noticed = time.monotonic() - frozen
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        with contextlib.ExitStack() as back:
            back.callback(bastion.thaw)
            took, lost = served_after(tunnel, clients, back)
        assert not port_free(port)
        figures.say(
            "bastion frozen for long",
            lost=lost,
            recovered=took,
            clients=clients,
            noticed=f"{noticed:.1f} s",
            others=f"{steady.worst:.3f} s",
        )
        assert lost == 0
        assert noticed < NOTICED_WITHIN
        assert took < RECOVERED_WITHIN + clients / 100


@pytest.fixture
def looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """How often the engine looks at its links, and how long an answer may take: shortened but in a soak."""
    times = (INTERVAL, PATIENCE) if SOAK else (1.0, 0.5)
    folder = tmp_path / "quick"
    folder.mkdir()
    quick = "from xec_forward.engine import monitor\nmonitor.INTERVAL, monitor.PATIENCE = "
    (folder / "sitecustomize.py").write_text(f"{quick}{times}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return times


def test_link_that_dies_in_silence_is_replaced_after_two_looks_without_any_keepalives(
    looks: tuple[float, float], bastion: Sshd, services: Services, other: xf.Tunnel
) -> None:
    interval, patience = looks
    target = xf.ssh("bastion", server_alive_interval=0)
    with (
        target.forward(remote_host="pg.vpc", remote_port=services.echo, local_port=0) as tunnel,
        Steady(other.local_port) as steady,
        socket.create_connection(("127.0.0.1", tunnel.local_port), 3 * (interval + patience)) as carried,
    ):
        figures = Figures()
        told: list[Event] = []
        tunnel.on("reconnecting", told.append)
        carried.sendall(b"x")
        assert carried.recv(1) == b"x"
        bastion.freeze()
        os.kill(bastion.pid, signal.SIGCONT)  # its connections alone are silent, as behind a router that forgot them
        died = time.monotonic()
        with pytest.raises(ConnectionResetError):
            carried.recv(1)
        noticed = time.monotonic() - died
        lost = missing(b"ping", ask(tunnel.local_port))
        took = time.monotonic() - died - noticed
        figures.say(
            f"link dies in silence, a look each {interval:g} s",
            lost=lost,
            recovered=took,
            noticed=f"{noticed:.1f} s",
            others=f"{steady.worst:.3f} s",
        )
        assert [str(event.error) for event in told] == [f"ECONNRESET bastion: no sign of life for {2 * interval:g} s"]
        assert tunnel.stats.reconnects == 1
        assert lost == 0
        # One look that is not answered is none too many; the first comes after an interval at the most.
        assert interval + patience < noticed < 2 * (interval + patience) + 2
        assert took < RECOVERED_WITHIN


def test_jump_host_lost_breaks_what_goes_through_it_alone(
    bastion: Sshd, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "jump"
    folder.mkdir()
    clients = full(200, 20)
    with Sshd(folder) as jump:
        config = tmp_path / "both"
        config.write_text(bastion.config("inner", ProxyJump="jump") + bastion.config("direct") + jump.config("jump"))
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(config))
        echo: dict[str, Any] = {"remote_host": "pg.vpc", "remote_port": services.echo, "local_port": 0}
        with (
            xf.ssh("inner").forward(name="through", **echo) as tunnel,
            xf.ssh("direct").forward(name="direct", **echo) as direct,  # the same sshd, without the jump
            Steady(direct.local_port) as steady,
        ):
            figures, port = Figures(), tunnel.local_port
            with Transfer(port) as transfer:
                until(lambda: transfer.received > MEGABYTE)
                jump.kill()
                assert transfer.wait(10) == "reset"
            until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
            assert not port_free(port)
            with contextlib.ExitStack() as back:
                back.callback(jump.start)
                took, lost = served_after(tunnel, clients, back)
            current().refresh()
            assert (direct.stats.reconnects, tunnel.stats.reconnects) == (0, 1)
            figures.say("jump host killed", lost=lost, recovered=took, clients=clients, others=f"{steady.worst:.3f} s")
            assert lost == 0
            assert took < RECOVERED_WITHIN


def test_rekey_under_load_loses_nothing(tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    size = full(400, 48) * 1_000_000
    folder = tmp_path / "rekeying"
    folder.mkdir()
    with Sshd(folder, options={"RekeyLimit": "8M", "LogLevel": "DEBUG1"}) as bastion:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(bastion.write_config(tmp_path / "config")))
        target = xf.ssh("bastion")
        source = target.forward(remote_host="pg.vpc", remote_port=services.source, local_port=0, no_check=True)
        reply = target.forward(remote_host="pg.vpc", remote_port=services.reply, local_port=0, no_check=True)
        with source, reply:
            figures = Figures()
            answers: list[bytes] = []
            upload = threading.Thread(target=lambda: answers.append(ask(reply.local_port, b"u" * size)))
            upload.start()
            with socket.create_connection(("127.0.0.1", source.local_port), timeout=60) as reader:
                reader.sendall(b"%d\n" % size)
                digest, left = hashlib.sha256(), size
                while data := reader.recv(MEGABYTE):
                    digest.update(data)
                    left -= len(data)
            upload.join(120)
            unsent = size - int(answers[0].split()[0])
            # Each tells it twice, for the keys of either direction; the first keys are no rekeying.
            rekeys = bastion.log.read_text().count("set_newkeys: rekeying") // 2
            figures.say("rekey each 8 MB, both directions", lost=left + unsent, bytes=2 * size, rekeys=rekeys)
            assert rekeys >= size // (8 * MEGABYTE)
            assert (left, unsent) == (0, 0)
            assert digest.hexdigest() == pattern_digest(size)
            assert source.stats.reconnects == 0


# ---- the target


def test_target_refuses_hangs_and_resets_and_the_others_go_on(bastion: Sshd, services: Services) -> None:
    rounds = full(200, 20)
    kinds = ("refused", "hang", "reset", "echo")
    group = xf.ssh("bastion").forward_multiple(
        [
            {
                "name": name,
                "remote_host": "pg.vpc",
                "remote_port": getattr(services, name),
                "local_port": 0,
                "no_check": True,
            }
            for name in kinds
        ]
    )
    with group, Steady(group["echo"].local_port) as steady:  # the same bastion, the same link

        def once() -> None:
            with pytest.raises(ConnectionResetError):
                ask(group["refused"].local_port)
            # Given up on: after a mere end it would still wait for its answer.
            leave(socket.create_connection(("127.0.0.1", group["hang"].local_port), timeout=10), 3)
            with socket.create_connection(("127.0.0.1", group["reset"].local_port), timeout=10) as broken:
                broken.sendall(b"x")
                with contextlib.suppress(ConnectionResetError):
                    assert broken.recv(1) == b""  # SSH has no message for a reset of the far side

        for _ in range(WARM_UP):
            once()
        figures = Figures(kept_by(rounds))
        for _ in range(rounds):
            once()
        figures.settled()
        current().refresh()
        assert group["refused"].stats.refused == WARM_UP + rounds
        assert all(group[name].stats.reconnects == 0 for name in kinds)
        lost = missing(b"ping", ask(group["echo"].local_port))
        figures.say("target refuses, hangs, resets", lost=lost, rounds=rounds, others=f"{steady.worst:.3f} s")
        assert lost == 0


def test_target_that_never_answers_is_its_clients_trouble_alone(bastion: Sshd, services: Services) -> None:
    within = 2.0
    with (
        Unanswering() as silent,
        open_echo(services) as others,
        xf.ssh("bastion").forward(
            remote_host="pg.vpc", remote_port=silent.port, local_port=0, no_check=True, timeout=within
        ) as tunnel,
        Steady(others.local_port) as steady,  # the same bastion, the same link
        ThreadPoolExecutor() as pool,
    ):
        figures, port = Figures(), tunnel.local_port
        told: list[Event] = []
        tunnel.on("error", told.append)
        start = time.monotonic()
        with pytest.raises(ConnectionResetError):
            ask(port)
        noticed = time.monotonic() - start
        until(lambda: told)
        assert isinstance(told[0].error, xf.DeadlineError)
        assert f"pg.vpc:{silent.port}: no answer within {within:g} s" in str(told[0].error)
        waiting = pool.submit(ask, port, b"patience")
        until(lambda: (current().refresh(), tunnel.stats.clients == 1)[1])  # type: ignore[func-returns-value]
        silent.answer()
        answered = time.monotonic()
        lost = missing(b"patience", waiting.result(10))
        took = time.monotonic() - answered
        assert (tunnel.state, tunnel.stats.refused, tunnel.stats.reconnects) == (xf.TunnelState.READY, 1, 0)
        figures.say(
            "target never answers",
            lost=lost,
            recovered=took,
            noticed=f"{noticed:.1f} s",
            others=f"{steady.worst:.3f} s",
        )
        assert lost == 0
        assert noticed < within + 1.0
        assert took < within


# ---- load


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
        with socket.create_connection(("127.0.0.1", source.local_port), timeout=10) as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            reader.sendall(b"%d\n" % size)
            time.sleep(0.5)  # it does not read: buffers fill as far as they will
            digest, left = hashlib.sha256(), size
            while data := reader.recv(256 * 1024):
                digest.update(data)
                left -= len(data)
        figures.say("slow reader, slow writer", lost=left, bytes=size, peak=f"{figures.peak():.0f} MB")
        assert left == 0
        assert digest.hexdigest() == pattern_digest(size)
        assert figures.peak() < 100


def test_writer_whose_far_reader_is_paced_ends_whole_and_leaves_memory_bounded(
    bastion: Sshd, services: Services
) -> None:
    size = full(200, 64) * 1_000_000
    with (
        open_echo(services) as others,
        xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=services.paced, local_port=0) as paced,
        Steady(others.local_port) as steady,  # over the same link
    ):
        figures = Figures()
        with socket.create_connection(("127.0.0.1", paced.local_port), timeout=60) as writer:
            start, before = time.monotonic(), figures.megabytes()
            for block in pattern(size):
                writer.sendall(block)
            writer.shutdown(socket.SHUT_WR)
            answer = writer.recv(200).split()
            took = time.monotonic() - start
        lost, more = size - int(answer[0]), figures.peak() - before
        figures.say(
            "slow writer, its far reader paced",
            lost=lost,
            bytes=size,
            speed=f"{size / took / 1e6:.1f} MB/s",
            peak=f"{figures.peak():.0f} MB",
            others=f"{steady.worst:.3f} s",
        )
        assert lost == 0
        assert answer[1].decode() == pattern_digest(size)
        assert took > 0.95 * size / PACE
        assert figures.peak() < 100
        assert more < 32


def test_thousand_idle_clients_cost_little(bastion: Sshd, services: Services) -> None:
    count = full(1000, 400)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        with open_echo(services) as tunnel:
            figures = Figures()
            with contextlib.ExitStack() as stack:
                clients = [
                    stack.enter_context(socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=20))
                    for _ in range(count)
                ]
                for client in clients:
                    client.sendall(b"!")
                lost = sum(client.recv(1) != b"!" for client in clients)
                before, start = figures.cpu(), time.monotonic()
                time.sleep(2)
                cpu = (figures.cpu() - before) / (time.monotonic() - start)
                memory = figures.megabytes()
            figures.say("idle clients", lost=lost, clients=count, memory=f"{memory:.0f} MB", cpu=f"{cpu:.3f} s/s")
            assert lost == 0
            assert memory < 60
            assert cpu < 0.02
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# How many leave in one freeze of the bastion, and whether as many leave with it awake, at once, in between.
@pytest.mark.parametrize(
    ("short", "batch", "awake"), [(1_000, 50, True), (500, 500, False)], ids=["by_turns", "frozen"]
)
def test_clients_that_leave_while_their_channel_opens_leak_nothing(
    bastion: Sshd, services: Services, request: pytest.FixtureRequest, short: int, batch: int, awake: bool
) -> None:
    rounds = full(10_000, short)
    with open_echo(services) as tunnel:
        address = ("127.0.0.1", tunnel.local_port)

        def stats() -> Counters:
            current().refresh()
            return tunnel.stats

        def gone() -> bool:
            return stats().clients == 0

        assert ask(tunnel.local_port) == b"ping"
        until(gone)
        figures, held = Figures(kept_by(rounds, 8.0)), channels(bastion)
        for number in range(rounds // batch):
            if awake and number % 2:  # at once: most have left before anybody looked
                for way in range(batch):
                    leave(socket.create_connection(address, timeout=10), way)
            else:  # the bastion has been asked, and cannot have answered
                bastion.freeze()
                for _ in range(batch // 50):
                    came = stats().clients_total + 50
                    clients = [socket.create_connection(address, timeout=10) for _ in range(50)]
                    until(lambda came=came: stats().clients_total >= came)  # type: ignore[misc]
                    for way, client in enumerate(clients):
                        leave(client, way)
                bastion.thaw()
            until(gone, 30)
        figures.settled()
        until(lambda: channels(bastion) <= held, 10)
        lost = missing(b"ping", ask(tunnel.local_port))
        assert tunnel.stats.reconnects == 0
        row = f"clients that leave, {request.node.callspec.id}"
        figures.say(row, lost=lost, rounds=rounds, channels=f"{channels(bastion) - held:+d}")
        assert lost == 0


def test_many_openings_and_closings_of_a_tunnel_leak_nothing(bastion: Sshd, services: Services) -> None:
    rounds = full(1000, 100)
    with open_echo(services) as steady:

        def once() -> None:
            tunnel = open_echo(services)
            port = tunnel.local_port
            tunnel.close()
            assert port_free(port)

        for _ in range(WARM_UP):
            once()
        figures, held = Figures(kept_by(rounds)), channels(bastion)
        for _ in range(rounds):
            once()
        figures.settled()
        until(lambda: channels(bastion) <= held, 10)
        lost = missing(b"ping", ask(steady.local_port))
        figures.say("openings and closings", lost=lost, rounds=rounds, channels=f"{channels(bastion) - held:+d}")
        assert lost == 0
        assert list(xf.tunnels) == [steady.name]


def test_many_openings_that_each_dial_leak_nothing(bastion: Sshd, services: Services) -> None:
    rounds = full(1000, 20)

    def once() -> None:
        """No other tunnel keeps the connection: it comes and goes with this one."""
        with open_echo(services) as tunnel:
            port = tunnel.local_port
        assert port_free(port)

    for _ in range(WARM_UP):
        once()
    until(lambda: bastion.connections() == 0)
    figures, dialled = Figures(kept_by(rounds)), dials(bastion)
    for _ in range(rounds):
        once()
    figures.settled()
    until(lambda: bastion.connections() == 0)
    dialled = dials(bastion) - dialled
    with open_echo(services) as tunnel:
        lost = missing(b"ping", ask(tunnel.local_port))
    figures.say("openings that each dial", lost=lost, rounds=rounds, dials=dialled)
    assert lost == 0
    assert dialled == rounds
    assert not xf.tunnels
