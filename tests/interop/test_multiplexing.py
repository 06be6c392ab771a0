"""Multiplexing: riding a real `ssh -M`, and our own master shared by a real ssh and by a rider in another process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

import pytest
import uvloop

from tests.interop import test_access
from tests.peers.channels import DEADLINE, Recorder
from tests.peers.links import eventually, linked, target
from tests.peers.services import Services, pattern, pattern_digest
from tests.peers.sshd import PASSWORD, PASSWORD_USER, Sshd, missing
from xec_forward.engine.links.base import Channel
from xec_forward.engine.links.ssh import SshLink, rider
from xec_forward.engine.links.ssh.control import Control
from xec_forward.engine.links.ssh.master import Master
from xec_forward.engine.links.ssh.passage import Passage
from xec_forward.engine.links.ssh.rider import MasterLink, ride
from xec_forward.engine.links.ssh.stdio import Stdio
from xec_forward.errors import (
    ClosedError,
    ConfigError,
    DeadlineError,
    ForwardError,
    LostError,
    NameNotFoundError,
    PortInUseError,
    ProhibitedError,
    RefusedError,
)
from xec_forward.spec import Endpoint

MEGABYTE = 1024 * 1024


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("far")
    folder.chmod(0o755)
    with Services(folder) as running:
        yield running


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path / "sshd"
    folder.mkdir()
    with Sshd(folder) as running:
        running.write_config(tmp_path / "config")
        yield running


class Terminal:
    """A person's `ssh -M` on the control socket `path`, while the context is open."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.path = str(folder / "control")
        self._config = str(folder / "config")
        self._command = ["ssh", "-F", self._config, "-M", "-N", "-S", self.path, *options, "bastion"]
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Terminal:
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self._environment
        )
        end = time.monotonic() + DEADLINE
        while not os.path.exists(self.path):
            assert self.process.poll() is None, "ssh -M ended"
            assert time.monotonic() < end, "ssh -M did not start"
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()  # OpenSSH 9.2 may miss a SIGTERM that comes right before it polls
        self.process.wait(10)


@pytest.fixture
def terminal(sshd: Sshd, tmp_path: Path) -> Iterator[Terminal]:
    with Terminal(tmp_path) as running:
        yield running


@asynccontextmanager
async def riding(path: str, *, alive_interval: float = 15.0, alive_count_max: int = 3) -> AsyncIterator[MasterLink]:
    link = await ride(path, "bastion", ("bastion",), alive_interval=alive_interval, alive_count_max=alive_count_max)
    assert link is not None
    try:
        yield link
    finally:
        await link.close()


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Master, SshLink]]:
    """A master of ours over an SSH link of its own."""
    async with linked(target(folder / "config")) as link:
        master = Master(link, str(folder / "control"), "bastion")
        await master.start()
        try:
            yield master, link
        finally:
            await master.close()


@pytest.fixture(params=["openssh", "ours"])
def either(request: pytest.FixtureRequest, sshd: Sshd, tmp_path: Path) -> str:
    """Which master the test's `mastered` starts."""
    return str(request.param)


@asynccontextmanager
async def mastered(either: str, folder: Path) -> AsyncIterator[MasterLink]:
    """A ride on the one master or the other, which leaves no descriptor behind."""
    before = descriptors()
    if either == "openssh":
        with Terminal(folder) as terminal:
            async with riding(terminal.path) as link:
                yield link
    else:
        async with serving(folder) as (master, _):
            async with riding(master.path) as link:
                yield link
    await eventually(lambda: descriptors() <= before)


def listening_in(folder: str) -> bool:
    return folder in Path("/proc/net/unix").read_text()


def there(path: str) -> bool:
    return os.path.exists(path)


def descriptors() -> set[str]:
    """Our sockets and pipes."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            pass
    return {one for one in found if one.startswith(("socket:", "pipe:"))}


def ssh(path: str, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A real ssh on that control socket, without any way to a server of its own."""
    command = ["ssh", "-F", "none", "-S", path, "-o", "ProxyCommand=false", *words, "bastion"]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=DEADLINE)


async def run_ssh(path: str, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return await asyncio.to_thread(ssh, path, *words, stdin=stdin)


async def send(channel: Channel, recorder: Recorder, size: int) -> str:
    """Write the pattern, as fast as the channel allows; its sha256."""
    for block in pattern(size):
        async with asyncio.timeout(DEADLINE):
            await recorder.writable.wait()
        channel.write(block)
    return pattern_digest(size)


# ---- a channel, whoever the master is ----


async def test_bytes_come_back_by_the_far_name_that_only_the_bastion_knows(
    either: str, sshd: Sshd, tmp_path: Path, far: Services
) -> None:
    async with mastered(either, tmp_path) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(sshd.far(), far.echo), recorder, ("127.0.0.1", 40000))
        channel.write(b"hello")
        await recorder.at_least(5)
        assert recorder.data == b"hello"
        channel.close()
        assert await recorder.lost() is None
        assert link.route == ("bastion",)
        assert 0 < await link.round_trip() < 5


async def test_our_end_is_passed_on_and_the_answer_still_comes(either: str, tmp_path: Path, far: Services) -> None:
    async with mastered(either, tmp_path) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=far.reply), recorder)
        digest = await send(channel, recorder, 100 * MEGABYTE)
        assert recorder.events == []
        channel.write_eof()
        channel.write_eof()
        channel.write(b"after the end, dropped")
        assert await recorder.lost() is None
        assert recorder.data.decode() == f"{100 * MEGABYTE} {digest}\n"
        assert recorder.events == ["data", "eof", "lost"]


async def test_100_mb_arrive_unchanged(either: str, tmp_path: Path, far: Services) -> None:
    size = 100 * MEGABYTE + 12345
    async with mastered(either, tmp_path) as link:
        recorder = Recorder(keep=False)
        channel = await link.open_channel(Endpoint(port=far.source), recorder)
        channel.write(f"{size}\n".encode())
        await recorder.eof()
        assert (recorder.size, recorder.digest) == (size, pattern_digest(size))
        channel.write_eof()
        assert await recorder.lost() is None


async def test_reader_that_does_not_read_stops_the_far_side(either: str, tmp_path: Path, far: Services) -> None:
    size = 64 * MEGABYTE
    async with mastered(either, tmp_path) as link:
        recorder = Recorder(keep=False)
        channel = await link.open_channel(Endpoint(port=far.source), recorder)
        channel.pause_reading()
        channel.write(f"{size}\n".encode())
        other = Recorder()
        echo = await link.open_channel(Endpoint(port=far.echo), other)
        for _ in range(20):  # the master does not stand still for it
            echo.write(b"x" * 1000)
            await other.at_least(other.size + 1000)
        assert recorder.size <= 256 * 1024
        assert await link.round_trip() < 5
        channel.resume_reading()
        await recorder.eof()
        assert (recorder.size, recorder.digest) == (size, pattern_digest(size))


async def test_service_that_does_not_read_stops_the_writer(either: str, tmp_path: Path, far: Services) -> None:
    async with mastered(either, tmp_path) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=far.deaf), recorder)
        written = 0
        while recorder.writable.is_set() and written < 64 * MEGABYTE:
            channel.write(bytes(64 * 1024))
            written += 64 * 1024
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            await recorder.paused.wait()
        assert written < 64 * MEGABYTE
        channel.abort()
        assert await recorder.lost() is None


async def test_50_channels_at_once_are_each_their_own(either: str, tmp_path: Path, far: Services) -> None:
    async def one(number: int) -> None:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=far.echo), recorder)
        text = f"channel {number} ".encode() * 5000
        channel.write(text)
        channel.write_eof()
        assert await recorder.lost() is None
        assert recorder.data == text

    async with mastered(either, tmp_path) as link:
        async with asyncio.timeout(60):
            await asyncio.gather(*(one(number) for number in range(50)))


async def test_unix_socket_of_the_far_side_is_reached(either: str, tmp_path: Path, far: Services) -> None:
    async with mastered(either, tmp_path) as link:
        for _ in range(3):
            recorder = Recorder()
            channel = await link.open_channel(Endpoint(path=far.reply_path), recorder)
            channel.write(b"question")
            channel.write_eof()
            assert await recorder.lost() is None
            assert recorder.data.decode() == f"8 {hashlib.sha256(b'question').hexdigest()}\n"
            assert recorder.events == ["data", "eof", "lost"]
        with pytest.raises(RefusedError):
            await link.open_channel(Endpoint(path="/nobody/listens/here"), Recorder())


async def test_closed_channel_delivers_what_was_written(either: str, tmp_path: Path) -> None:
    size = 8 * MEGABYTE
    received: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        digest = hashlib.sha256()
        while data := await reader.read(MEGABYTE):
            digest.update(data)
        received.set_result(digest.hexdigest())
        writer.close()

    async with mastered(either, tmp_path) as link, await asyncio.start_server(collect, "127.0.0.1", 0) as server:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=server.sockets[0].getsockname()[1]), recorder)
        for block in pattern(size):
            channel.write(block)
        channel.close()
        channel.close()
        assert await recorder.lost() is None
        async with asyncio.timeout(DEADLINE):
            assert await received == pattern_digest(size)


async def test_refused_open_is_a_refused_error_and_the_link_lives(either: str, tmp_path: Path, far: Services) -> None:
    async with mastered(either, tmp_path) as link:
        recorder = Recorder()
        for _ in range(3):
            with pytest.raises(RefusedError):
                await link.open_channel(Endpoint(port=far.refused), recorder)
        assert recorder.events == []
        assert await link.round_trip() > 0


async def test_cancelled_open_leaves_nothing_open(either: str, sshd: Sshd, tmp_path: Path, far: Services) -> None:
    async with mastered(either, tmp_path) as link:
        await link.round_trip()
        before = descriptors()
        sshd.freeze()
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await link.open_channel(Endpoint(port=far.echo), Recorder())
        finally:
            sshd.thaw()
        await eventually(lambda: descriptors() <= before)
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=far.echo), recorder)
        channel.write(b"still")
        await recorder.at_least(5)
        channel.abort()


async def test_lost_connection_breaks_channels_instead_of_ending_them(
    either: str, sshd: Sshd, tmp_path: Path, far: Services
) -> None:
    async with mastered(either, tmp_path) as link:
        recorders = [Recorder(keep=False), Recorder(keep=False)]
        busy = await link.open_channel(Endpoint(port=far.source), recorders[0])
        busy.write(f"{1024 * MEGABYTE}\n".encode())
        await link.open_channel(Endpoint(port=far.hang), recorders[1])
        await recorders[0].at_least(MEGABYTE)
        sshd.drop()
        for recorder in recorders:
            assert isinstance(await recorder.lost(), LostError)
            assert "eof" not in recorder.events
        async with asyncio.timeout(DEADLINE):
            assert isinstance(await link.lost, LostError)
        with pytest.raises(LostError):
            await link.open_channel(Endpoint(port=far.echo), Recorder())
        with pytest.raises(LostError):
            await link.round_trip()


# ---- riding a terminal's master ----


async def test_letting_go_leaves_the_terminals_master_alive(terminal: Terminal, far: Services) -> None:
    async with riding(terminal.path) as link, riding(terminal.path) as other:
        assert link.pid == other.pid == terminal.process.pid
        recorders = [Recorder(), Recorder()]
        await link.open_channel(Endpoint(port=far.hang), recorders[0])
        channel = await other.open_channel(Endpoint(port=far.echo), recorders[1])
        await link.close()
        assert isinstance(await link.lost, ClosedError)
        assert isinstance(await recorders[0].lost(), ClosedError | None)
        channel.write(b"the other rider goes on")
        await recorders[1].at_least(23)
    done = await run_ssh(terminal.path, "-O", "check")
    assert b"Master running" in done.stderr


async def test_closed_link_takes_back_the_forward_it_had_the_master_make(terminal: Terminal, far: Services) -> None:
    async with riding(terminal.path) as link:
        channel = await link.open_channel(Endpoint(path=far.echo_path), Recorder())
        folder = link._folder
        if not folder:
            return  # this OpenSSH (9.4 and later) needs none
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        channel.abort()
    assert not there(folder)
    await eventually(lambda: not listening_in(folder))


async def test_killed_master_breaks_channels_instead_of_ending_them(terminal: Terminal, far: Services) -> None:
    async with riding(terminal.path) as link:
        recorders = [Recorder(keep=False) for _ in range(10)]
        for recorder in recorders:
            channel = await link.open_channel(Endpoint(port=far.source), recorder)
            channel.write(f"{1024 * MEGABYTE}\n".encode())
        await recorders[0].at_least(MEGABYTE)
        terminal.process.kill()
        for recorder in recorders:
            assert isinstance(await recorder.lost(), LostError)
            assert "eof" not in recorder.events
        assert isinstance(await link.lost, LostError)
    assert await ride(terminal.path, "bastion", ("bastion",)) is None, "the socket is stale now"


async def test_stopped_master_is_noticed(terminal: Terminal, far: Services) -> None:
    async with riding(terminal.path, alive_interval=0.1, alive_count_max=2) as link:
        recorder = Recorder()
        await link.open_channel(Endpoint(port=far.hang), recorder)
        terminal.process.send_signal(signal.SIGSTOP)
        assert isinstance(await recorder.lost(), LostError)
        assert "no longer answers" in str(await link.lost)


async def test_stopped_master_is_not_ridden(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rider, "HELLO_DEADLINE", 0.3)
    terminal.process.send_signal(signal.SIGSTOP)
    assert await ride(terminal.path, "bastion", ("bastion",)) is None


async def test_master_that_stopped_listening_carries_on_until_the_next_channel(
    terminal: Terminal, far: Services
) -> None:
    async with riding(terminal.path) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=far.echo), recorder)
        assert (await run_ssh(terminal.path, "-O", "stop")).returncode == 0
        channel.write(b"carried on")
        await recorder.at_least(10)
        with pytest.raises(LostError):
            await link.open_channel(Endpoint(port=far.echo), Recorder())
        assert "no more channels" in str(await link.lost)


async def test_what_a_terminals_master_does_not_tell_is_said_in_the_hint(
    tmp_path: Path, terminal: Terminal, far: Services
) -> None:
    async with riding(terminal.path) as link:
        for connect in (Endpoint(port=far.refused), Endpoint("no.such.name", 80)):
            with pytest.raises(RefusedError, match=r"refused, an unknown name, or not allowed.*terminal"):
                await link.open_channel(connect, Recorder())


async def test_silent_server_behind_a_master_is_a_deadline_error(
    sshd: Sshd, terminal: Terminal, far: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rider, "CHANNEL_DEADLINE", 0.3)
    async with riding(terminal.path) as link:
        sshd.freeze()
        try:
            with pytest.raises(DeadlineError):
                await link.open_channel(Endpoint(port=far.echo), Recorder())
            assert await link.round_trip() < 5, "the master itself is alive"
        finally:
            sshd.thaw()


async def test_login_made_in_a_terminal_serves_without_any_login_of_ours(
    tmp_path: Path, sshd: Sshd, far: Services
) -> None:
    if not sshd.passwords:
        pytest.skip("a password account needs root and unshare (Debian: util-linux)")
    answer = tmp_path / "askpass"
    answer.write_text(f"#!/bin/sh\necho '{PASSWORD}'\n")
    answer.chmod(0o700)
    asking = {"SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
    with Terminal(tmp_path, "-l", PASSWORD_USER, "-o", "PubkeyAuthentication=no", environment=asking) as terminal:
        logins = sshd.log.read_text().count("Accepted ")
        async with riding(terminal.path) as link:
            recorder = Recorder()
            channel = await link.open_channel(Endpoint(sshd.far(), far.echo), recorder)
            channel.write(b"hello")
            await recorder.at_least(5)
            channel.close()
            assert await recorder.lost() is None
        assert sshd.log.read_text().count("Accepted ") == logins
        assert sshd.connections() == 1


async def test_where_no_master_lives_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rider, "HELLO_DEADLINE", 0.3)
    path = tmp_path / "control"
    route = ("bastion",)
    assert await ride(str(path), "bastion", route) is None
    path.write_text("a file")
    assert await ride(str(path), "bastion", route) is None
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        assert await ride(str(path), "bastion", route) is None, "nobody listens"
        listener.listen()
        assert await ride(str(path), "bastion", route) is None, "nobody answers"
    path.unlink()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")

    server = await asyncio.start_unix_server(speak, path)
    path.chmod(0o600)
    async with server:
        assert await ride(str(path), "bastion", route) is None, "something else answers"


async def test_socket_that_others_can_use_is_refused(terminal: Terminal) -> None:
    os.chmod(terminal.path, 0o660)
    with pytest.raises(ConfigError, match="other users"):
        await ride(terminal.path, "bastion", ("bastion",))
    if os.geteuid() == 0:
        os.chmod(terminal.path, 0o600)
        os.chown(terminal.path, 65534, 65534)
        with pytest.raises(ConfigError, match="another user"):
            await ride(terminal.path, "bastion", ("bastion",))


# ---- our master ----


async def test_real_ssh_finds_our_master_as_it_finds_its_own(tmp_path: Path, sshd: Sshd, far: Services) -> None:
    async with serving(tmp_path) as (master, link):
        assert stat.S_IMODE(os.stat(master.path).st_mode) == 0o600
        assert os.listdir(tmp_path).count("control") == 1
        done = await run_ssh(master.path, "-O", "check")
        assert (done.returncode, done.stderr) == (0, f"Master running (pid={os.getpid()})\r\n".encode())
        done = await run_ssh(master.path, "-W", f"{sshd.far()}:{far.echo}", stdin=b"hello" * 100_000)
        assert (done.returncode, done.stdout) == (0, b"hello" * 100_000)
        done = await run_ssh(master.path, "-W", f"127.0.0.1:{far.refused}")
        assert done.returncode != 0
        assert b"Stdio forwarding request failed: ECONNREFUSED refused, as seen from bastion" in done.stderr
        done = await run_ssh(master.path, "true")
        assert b"this master only forwards" in done.stderr
        assert done.returncode == 255
        await eventually(lambda: link.open_channels() == 0)
        await eventually(lambda: master.clients == 0)


async def test_real_ssh_may_bring_a_file_and_dev_null(tmp_path: Path, sshd: Sshd, far: Services) -> None:
    async with serving(tmp_path) as (master, _):
        command = ["ssh", "-F", "none", "-S", master.path, "-W", f"127.0.0.1:{far.reply}", "bastion"]
        question, answer = tmp_path / "question", tmp_path / "answer"
        question.write_bytes(b"".join(pattern(3 * MEGABYTE)))
        for source, expected in (
            (question, f"{3 * MEGABYTE} {pattern_digest(3 * MEGABYTE)}\n"),
            (Path("/dev/null"), f"0 {hashlib.sha256().hexdigest()}\n"),
        ):
            with source.open("rb") as stdin, answer.open("wb") as stdout:
                done = await asyncio.to_thread(subprocess.run, command, stdin=stdin, stdout=stdout, timeout=DEADLINE)
            assert done.returncode == 0
            assert answer.read_text() == expected


async def test_real_ssh_at_a_terminal_is_served_and_the_terminal_stays_as_it_was(
    tmp_path: Path, sshd: Sshd, far: Services
) -> None:
    ours, theirs = os.openpty()
    try:
        async with serving(tmp_path) as (master, _):
            command = ["ssh", "-F", "none", "-S", master.path, "-W", f"127.0.0.1:{far.echo}", "bastion"]
            process = await asyncio.to_thread(
                subprocess.Popen, command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL
            )
            os.write(ours, b"hello\n")
            seen = b""
            while seen.count(b"hello") < 2:  # the terminal's own echo, and the service's
                seen += await asyncio.wait_for(asyncio.to_thread(os.read, ours, 100), DEADLINE)
            assert os.get_blocking(theirs)
            process.terminate()
            await asyncio.to_thread(process.wait, DEADLINE)
            await eventually(lambda: master.clients == 0)
    finally:
        os.close(ours)
        os.close(theirs)


async def test_real_ssh_opens_and_cancels_a_local_forward_on_our_master(
    tmp_path: Path, sshd: Sshd, far: Services
) -> None:
    async with serving(tmp_path) as (master, link):
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
        forward = ("-L", f"{port}:{sshd.far()}:{far.reply}")
        assert (await run_ssh(master.path, "-O", "forward", *forward)).returncode == 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"question")
        writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            assert (await reader.read()).startswith(b"8 ")
        writer.close()
        if os.getuid() == 0:  # who can be somebody else
            assert await asyncio.to_thread(test_access.as_user, test_access.STRANGER, port) == "reset"
        assert (await run_ssh(master.path, "-O", "cancel", *forward)).returncode == 0
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert (await run_ssh(master.path, "-O", "forward", "-L", f"*:{port}:x:1")).returncode != 0
        assert (await run_ssh(master.path, "-O", "forward", "-D", str(port))).returncode != 0
        await eventually(lambda: link.open_channels() == 0)


async def test_forward_of_our_master_waits_in_peace_for_a_descriptor(tmp_path: Path, sshd: Sshd, far: Services) -> None:
    async with serving(tmp_path) as (master, _):
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
        forward = ("-L", f"{port}:{sshd.far()}:{far.echo}")
        assert (await run_ssh(master.path, "-O", "forward", *forward)).returncode == 0
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            taken = os.dup(client.fileno())  # the lowest that is free; all below are in use
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, most[1]))
                await asyncio.sleep(0)
                before = time.process_time()
                await asyncio.sleep(0.6)
                spent = time.process_time() - before
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, most)
                os.close(taken)
            assert spent < 0.2
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(DEADLINE):
                await loop.sock_sendall(client, b"ping")
                assert await loop.sock_recv(client, 4) == b"ping"


async def test_real_ssh_stops_our_master_listening_and_those_served_go_on(
    tmp_path: Path, sshd: Sshd, far: Services
) -> None:
    async with serving(tmp_path) as (master, _):
        async with riding(master.path) as link:
            recorder = Recorder()
            channel = await link.open_channel(Endpoint(port=far.echo), recorder)
            assert (await run_ssh(master.path, "-O", "stop")).returncode == 0
            assert not there(master.path)
            assert not master.ended.done()
            channel.write(b"goes on")
            await recorder.at_least(7)


async def test_real_ssh_ends_our_master_and_the_link_stays(tmp_path: Path, sshd: Sshd, far: Services) -> None:
    async with serving(tmp_path) as (master, link):
        async with riding(master.path) as ridden:
            recorder = Recorder()
            await ridden.open_channel(Endpoint(port=far.hang), recorder)
            assert (await run_ssh(master.path, "-O", "exit")).returncode == 0
            async with asyncio.timeout(DEADLINE):
                await master.ended
            assert not there(master.path)
            assert isinstance(await recorder.lost(), LostError)
            assert isinstance(await ridden.lost, LostError)
        assert await link.round_trip() > 0
        await eventually(lambda: link.open_channels() == 0)


async def test_our_master_tells_a_rider_why(tmp_path: Path, sshd: Sshd, far: Services) -> None:
    async with serving(tmp_path) as (master, _), riding(master.path) as link:
        for connect, kind in (
            (Endpoint(port=far.refused), RefusedError),
            (Endpoint("no.such.name", 80), NameNotFoundError),
            (Endpoint(path="/nobody/listens/here"), RefusedError),
        ):
            with pytest.raises(ForwardError) as caught:
                await link.open_channel(connect, Recorder())
            assert type(caught.value) is kind
            assert caught.value.hop == str(connect)


async def test_our_master_tells_a_rider_that_the_server_forbids_it(tmp_path: Path, far: Services) -> None:
    if reason := missing():
        pytest.skip(reason)
    (tmp_path / "sshd").mkdir()
    with Sshd(tmp_path / "sshd", options={"PermitOpen": f"127.0.0.1:{far.echo}"}) as sshd:
        sshd.write_config(tmp_path / "config")
        async with serving(tmp_path) as (master, _), riding(master.path) as link:
            with pytest.raises(ProhibitedError):
                await link.open_channel(Endpoint(port=far.reply), Recorder())


async def test_far_side_that_has_ended_may_still_receive_through_our_master(tmp_path: Path, sshd: Sshd) -> None:
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def end_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"done")
        writer.write_eof()
        received.set_result(await reader.read())
        writer.close()

    async with (
        serving(tmp_path) as (master, _),
        riding(master.path) as link,
        await asyncio.start_server(end_first, "127.0.0.1", 0) as server,
    ):
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=server.sockets[0].getsockname()[1]), recorder)
        await recorder.eof()
        channel.write(b"after your end")
        channel.write_eof()
        async with asyncio.timeout(DEADLINE):
            assert await received == b"after your end"
        assert await recorder.lost() is None


async def test_second_master_does_not_replace_a_live_one_but_a_stale_one(tmp_path: Path, sshd: Sshd) -> None:
    async with serving(tmp_path) as (master, link):
        second = Master(link, master.path, "bastion")
        with pytest.raises(PortInUseError):
            await second.start()
        await second.close()
        assert there(master.path), "the second one's end removes nothing of the first"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(master.path)
        killed.listen()
    async with serving(tmp_path) as (master, _), riding(master.path) as ridden:
        assert await ridden.round_trip() > 0
    assert [name for name in os.listdir(tmp_path) if name.startswith("control")] == []


async def test_master_in_a_folder_that_is_not_there_or_too_deep_is_a_config_error(tmp_path: Path, sshd: Sshd) -> None:
    async with linked(target(tmp_path / "config")) as link:
        for path in (tmp_path / "no" / "control", tmp_path / ("x" * 100)):
            with pytest.raises(ConfigError):
                await Master(link, str(path), "bastion").start()


async def test_our_master_lets_no_other_user_in(tmp_path: Path, sshd: Sshd) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user needs root")
    folder = Path("/tmp") / f"xec-forward-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        async with linked(target(tmp_path / "config")) as link:
            master = Master(link, str(folder / "control"), "bastion")
            await master.start()
            command = [sys.executable, "-S", "-c", STRANGER, master.path]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=DEADLINE)
            assert b"PermissionError" in done.stderr
            os.chmod(master.path, 0o666)
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=DEADLINE)
            assert done.stdout.strip() == b"b''", "not even a hello"
            await master.close()
    finally:
        folder.rmdir()


class Burst:
    """A channel that delivers all it has, its end too, while it is being resumed."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.protocol: Stdio | None = None

    def resume_reading(self) -> None:
        assert self.protocol is not None
        data, self.data = self.data, b""
        if data:
            self.protocol.data_received(data)
            self.protocol.eof_received()
            self.protocol.connection_lost(None)

    def write(self, data: bytes) -> None: ...
    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


async def test_end_that_comes_while_the_reader_is_behind_cuts_nothing() -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Exception | None] = loop.create_future()
    ours, sink = socket.socketpair()
    source, other = socket.socketpair()
    with ours, other:
        stdio = Stdio(source.detach(), sink.detach(), ended.set_result)
        channel = Burst(b"b" * MEGABYTE)
        channel.protocol = stdio
        stdio.begin(channel)
        stdio.data_received(b"a" * MEGABYTE)
        ours.setblocking(False)
        received = b""
        async with asyncio.timeout(DEADLINE):
            while data := await loop.sock_recv(ours, 64 * 1024):
                received += data
            assert await ended is None
        assert received == b"a" * MEGABYTE + b"b" * MEGABYTE


async def test_end_and_the_masters_farewell_in_one_moment_are_told_in_order() -> None:
    confirmations: list[Callable[[], None]] = []
    (reader, theirs_out), (writer, theirs_in), (ours, theirs) = (socket.socketpair() for _ in range(3))
    recorder = Recorder()
    passage = Passage(recorder, confirmations.append, lambda _: None)
    control = Control(ours, lambda message, passed: None, passage.control_ended)
    await passage.attach(reader, writer, control)
    passage.release()
    theirs_out.sendall(b"answer")
    theirs_out.close()
    await eventually(lambda: bool(confirmations))
    for one in (theirs_in, theirs):
        one.close()
    confirmations[0]()  # before the loop has seen that the control connection ended
    assert await recorder.lost() is None
    assert recorder.events == ["data", "eof", "lost"]


STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
knock = socket.socket(socket.AF_UNIX)
knock.connect(sys.argv[1])
print(knock.recv(100))
"""

RIDER = """
import asyncio, hashlib, sys
from tests.peers.channels import Recorder
from xec_forward.engine.links.ssh.rider import ride
from xec_forward.spec import Endpoint

async def main(path, source, echo, hang):
    link = await ride(path, "bastion", ("bastion",))
    recorder = Recorder(keep=False)
    channel = await link.open_channel(Endpoint(port=int(source)), recorder)
    channel.write(b"%d\\n" % (100 << 20))
    await recorder.eof()
    print(recorder.size, recorder.digest, flush=True)
    channel.close()
    recorders = [Recorder() for _ in range(20)]
    for recorder in recorders:
        await link.open_channel(Endpoint(port=int(hang)), recorder)
    print(len(recorders), flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_rider_in_another_process_is_served_and_when_killed_leaves_nothing(
    tmp_path: Path, sshd: Sshd, far: Services
) -> None:
    before = descriptors()
    async with serving(tmp_path) as (master, link):
        ports = (str(far.source), str(far.echo), str(far.hang))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RIDER, master.path, *ports, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert (await process.stdout.readline()).decode().split() == [
                str(100 * MEGABYTE),
                pattern_digest(100 * MEGABYTE),
            ]
            assert await process.stdout.readline() == b"20\n"
            assert link.open_channels() == 20
            process.kill()
            await process.wait()
        await eventually(lambda: link.open_channels() == 0)
        await eventually(lambda: master.clients == 0)
        assert await link.round_trip() > 0
    await eventually(lambda: descriptors() <= before)


async def test_garbage_and_strangers_do_our_master_no_harm(tmp_path: Path, sshd: Sshd, far: Services) -> None:
    loop = asyncio.get_running_loop()
    hello = bytes.fromhex("000000080000000100000004")
    before = descriptors()
    async with serving(tmp_path) as (master, link):
        for data, passed in (
            (b"GET / HTTP/1.1\r\n\r\n", 0),
            (hello + hello, 0),
            (bytes.fromhex("000000081000000400000001"), 0),  # a request before the hello
            (hello + bytes.fromhex("000000088000000100000001"), 0),  # a reply, from a client
            (hello + b"\xff" * 10000, 0),
            (hello, 30),
            (hello + b"\0\0\0\x14\x10\0\0\x08\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\0\0", 0),  # no descriptors
        ):
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                client.connect(master.path)
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    if passed:
                        socket.send_fds(client, [data], [theirs.fileno()] * passed)
                    else:
                        await loop.sock_sendall(client, data)
                    async with asyncio.timeout(DEADLINE):
                        try:
                            while (reply := await loop.sock_recv(client, 4096)) and b"descriptors" not in reply:
                                pass
                        except ConnectionResetError:
                            pass
        await eventually(lambda: master.clients == 0)
        assert (await run_ssh(master.path, "-O", "check")).returncode == 0
        assert link.open_channels() == 0
    await eventually(lambda: descriptors() <= before)
