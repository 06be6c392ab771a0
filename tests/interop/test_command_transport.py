"""The command link (P8): real commands that open a port, ended with all they started, whatever ends the engine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import inspect
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop

from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.engine.links.command import CommandLink, dial, identity, with_port
from xec_forward.engine.links.pool import Pool
from xec_forward.engine.program import Program, name_of
from xec_forward.errors import ClosedError, ConfigError, DeadlineError, ForwardError, LostError
from xec_forward.spec import Endpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups (POSIX)")

PYTHON = shlex.quote(sys.executable)
ANY = Endpoint("pg.vpc", 5432)
DEADLINE = 20.0
ALL_GONE_WITHIN = 2.5


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs a test on asyncio's own loop and on uvloop: their processes and transports differ."""

    def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], **fixtures: object) -> None:
        async def bounded() -> None:
            before, earlier = descriptors(), children()
            async with asyncio.timeout(60):
                await test(**fixtures)
                # Nothing is left behind; what was ended is given the time to go before its loop does.
                # (uvloop keeps /dev/null open from its first process on.)
                await until(lambda: children() <= earlier and descriptors() <= before + 1)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(bounded())

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]  # it is no coroutine function any more
    own = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    others = [one.replace(kind=one.KEYWORD_ONLY) for one in inspect.signature(test).parameters.values()]
    run.__signature__ = inspect.Signature([own, *others])  # type: ignore[attr-defined]
    factories = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]
    return pytest.mark.parametrize("loop_factory", factories)(run)


class NoOpening:
    """Nobody watches."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.connect_within = self.remaining = float("inf")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.steps.append(name)
        yield

    async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
        raise AssertionError("a command asks nothing")


class Near:
    """The relay's end of a channel: keeps what comes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.eof = False
        self.error: Exception | None = None
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.eof = True
        self.ended.set()

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.error = error
        self.ended.set()

    async def end(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            await self.ended.wait()
        return bytes(self.data)


async def ask(link: CommandLink, message: bytes) -> bytes:
    """Send a message and its end; the whole answer."""
    near = Near()
    channel = await link.open_channel(ANY, near)
    channel.write(message)
    channel.write_eof()
    answer = await near.end()
    channel.close()
    assert near.error is None
    return answer


def alive(group: int) -> list[int]:
    """The processes of a group, zombies left out."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] not in "ZX":
                    found.append(int(process.name))
    return found


def parent(pid: int) -> int:
    """The process that started `pid`."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def until(condition: Callable[[], object], timeout: float = DEADLINE) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout, "the deadline passed"
        await asyncio.sleep(0.01)
    return time.monotonic() - start


def script(folder: Path, body: str, name: str = "serve.py") -> str:
    """A command that runs this Python, with `port` in it."""
    path = folder / name
    path.write_text("import os, signal, socket, sys, time\nport = int(sys.argv[1])\n" + textwrap.dedent(body))
    return f"{PYTHON} -S {shlex.quote(str(path))} %p"


ECHO = """
def serve(listener):
    while True:
        client, _ = listener.accept()
        with client:
            while data := client.recv(65536):
                client.sendall(data)
"""
STUBBORN = (
    ECHO
    + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", port))
for _ in range(2):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(1000)
        time.sleep(1000)
serve(listener)
"""
)
PLAIN = ECHO + "\nserve(socket.create_server(('127.0.0.1', port)))\n"


# commands that people use


@on_both_loops
async def test_http_server_of_python_is_reached_through_the_link(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("hello")
    folder = shlex.quote(str(tmp_path))
    opening = NoOpening()
    link = await dial(f"{PYTHON} -m http.server --bind 127.0.0.1 -d {folder} %p", opening)
    assert opening.steps == ["command"]
    assert link.route == (Path(sys.executable).name,)
    assert await link.round_trip() >= 0
    answer = await ask(link, b"GET /page HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200")
    assert answer.endswith(b"\r\n\r\nhello")
    await link.close()
    assert isinstance(link.lost.result(), ClosedError)
    assert not alive(link.program.group)


@on_both_loops
async def test_ssh_with_a_local_forward_carries_half_closes_and_megabytes(
    bastion: Sshd, services: Services, tmp_path: Path
) -> None:
    config = bastion.write_config(tmp_path / "config")
    far = bastion.far("pg.vpc")
    link = await dial(
        f"ssh -F {shlex.quote(str(config))} -N -L 127.0.0.1:%p:{far}:{services.reply} bastion", NoOpening()
    )
    message = os.urandom(3_000_000)
    answer = await ask(link, message)
    assert answer.split() == [b"3000000", hashlib.sha256(message).hexdigest().encode()]
    bastion.kill()
    error = await asyncio.wait_for(link.lost, DEADLINE)
    assert isinstance(error, LostError)
    assert error.hop == "ssh"
    assert "exit code 255" in error.message
    await link.close()


@on_both_loops
async def test_command_that_listens_on_ipv6_loopback_alone_is_found(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("IPv6 on the loopback interface")
    body = ECHO + "\nserve(socket.create_server(('::1', port), family=socket.AF_INET6))\n"
    link = await dial(script(tmp_path, body), NoOpening())
    assert link.host == "::1"
    assert await ask(link, b"six") == b"six"
    await link.close()


@on_both_loops
async def test_dual_stack_wildcard_listener_is_found(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("IPv6 on the loopback interface")
    body = ECHO + "\nserve(socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True))\n"
    link = await dial(script(tmp_path, body), NoOpening())
    assert await ask(link, b"both") == b"both"
    await link.close()


@on_both_loops
async def test_helper_outside_the_process_group_is_believed_after_a_while(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    body = (
        f"if os.fork():\n    time.sleep(1000)\nos.setsid()\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        + PLAIN
    )
    start = time.monotonic()
    try:
        link = await dial(script(tmp_path, body), NoOpening())
        assert time.monotonic() - start > 2
        assert await ask(link, b"daemon") == b"daemon"
        await link.close()
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


@on_both_loops
async def test_port_that_another_user_took_is_never_used(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("root, to be two users")
    # The command's own child becomes another user in another group: to us it is a stranger on the port.
    body = "if os.fork():\n    time.sleep(1000)\nos.setsid()\nos.setuid(65534)\nsignal.alarm(10)\n" + PLAIN
    with pytest.raises(LostError, match="another user's program took port"):
        await dial(script(tmp_path, body), NoOpening())


# the end


@on_both_loops
async def test_close_ends_children_that_ignore_sigterm(tmp_path: Path) -> None:
    link = await dial(script(tmp_path, STUBBORN), NoOpening())
    await until(lambda: len(alive(link.program.group)) >= 5)
    start = time.monotonic()
    await link.close()
    assert time.monotonic() - start < ALL_GONE_WITHIN
    assert not alive(link.program.group)


@on_both_loops
async def test_abort_returns_at_once_and_the_process_group_follows(tmp_path: Path) -> None:
    link = await dial(script(tmp_path, STUBBORN), NoOpening())
    start = time.monotonic()
    link.abort()
    assert time.monotonic() - start < 0.05
    assert isinstance(link.lost.result(), ClosedError)
    assert await until(lambda: not alive(link.program.group)) < ALL_GONE_WITHIN
    await link.program.wait_gone()


@on_both_loops
async def test_stopped_command_is_ended_too(tmp_path: Path) -> None:
    link = await dial(script(tmp_path, PLAIN), NoOpening())
    os.killpg(link.program.group, signal.SIGSTOP)
    start = time.monotonic()
    await link.close()
    assert time.monotonic() - start < 0.9, "SIGCONT lets SIGTERM through"
    assert not alive(link.program.group)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_killed_engine_takes_the_whole_process_group_along(tmp_path: Path, loop: str) -> None:
    owner = tmp_path / "owner.py"
    owner.write_text(
        textwrap.dedent(f"""
        import asyncio, uvloop
        from tests.interop.test_command_transport import NoOpening
        from xec_forward.engine.links.command import dial

        async def main():
            link = await dial({script(tmp_path, STUBBORN)!r}, NoOpening())
            print(link.program.group, flush=True)
            await asyncio.sleep(1000)

        with asyncio.Runner(loop_factory={loop}.new_event_loop) as runner:
            runner.run(main())
        """)
    )
    home = str(Path(__file__).parents[2])
    engine = subprocess.Popen(
        [sys.executable, str(owner)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": home}
    )
    assert engine.stdout is not None
    try:
        group = int(engine.stdout.readline())
        start = time.monotonic()
        while len(alive(group)) < 5:
            assert time.monotonic() - start < DEADLINE
            time.sleep(0.01)
    finally:
        engine.kill()
        engine.wait()
        engine.stdout.close()
    start = time.monotonic()
    while left := alive(group):
        assert time.monotonic() - start < ALL_GONE_WITHIN, left
        time.sleep(0.01)


@on_both_loops
async def test_killed_reaper_takes_the_process_group_along_and_loses_the_link(tmp_path: Path) -> None:
    link = await dial(script(tmp_path, STUBBORN), NoOpening())
    os.kill(parent(link.program.group), signal.SIGKILL)
    error = await asyncio.wait_for(link.lost, DEADLINE)
    assert isinstance(error, LostError)
    await until(lambda: not alive(link.program.group), ALL_GONE_WITHIN)
    await link.close()


@on_both_loops
async def test_cancelled_dial_leaves_no_process(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = script(tmp_path, f"open({str(pid_file)!r}, 'w').write(str(os.getpgid(0)))\ntime.sleep(1000)\n")
    for moment in (0.0, 0.005, 0.03, None):
        pid_file.unlink(missing_ok=True)
        task = asyncio.create_task(dial(command, NoOpening()))
        if moment is None:
            await until(lambda: pid_file.exists() and pid_file.read_text())
        else:
            await asyncio.sleep(moment)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not running(str(tmp_path)), ALL_GONE_WITHIN)


def running(text: str) -> list[str]:
    """The processes with `text` in their arguments."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                arguments = (process / "cmdline").read_bytes().decode(errors="replace")
                if text in arguments and "pytest" not in arguments:
                    found.append(arguments)
    return found


# what goes wrong


@on_both_loops
async def test_command_that_dies_loses_the_link_with_its_exit_code_and_last_words(tmp_path: Path) -> None:
    body = """
    listener = socket.create_server(("127.0.0.1", port))
    client, _ = listener.accept()
    client.recv(1)
    print("first line", file=sys.stderr)
    print("\\x1b[31mSession expired\\x1b[0m", file=sys.stderr)
    sys.exit(3)
    """
    link = await dial(script(tmp_path, body), NoOpening())
    near = Near()
    channel = await link.open_channel(ANY, near)
    channel.write(b"x")
    error = await asyncio.wait_for(link.lost, DEADLINE)
    assert isinstance(error, LostError)
    assert error.message == "the command ended with exit code 3: Session expired"
    assert not near.eof
    assert near.error is not None
    with pytest.raises(LostError):
        await link.open_channel(ANY, Near())
    with pytest.raises(LostError):
        await link.round_trip()
    await link.close()


@on_both_loops
async def test_killed_command_never_ends_a_download_like_a_complete_one(tmp_path: Path) -> None:
    body = """
    listener = socket.create_server(("127.0.0.1", port))
    client, _ = listener.accept()
    client.sendall(b"half an answer")
    client.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    for _ in range(10):
        link = await dial(script(tmp_path, body), NoOpening())
        near = Near()
        channel = await link.open_channel(ANY, near)
        await until(lambda near=near: near.data == b"half an answer")  # type: ignore[misc]
        channel.write(b"x")
        await near.end()
        assert not near.eof
        assert isinstance(near.error, LostError)
        assert "137 (SIGKILL)" in link.lost.result().message
        await link.close()


@on_both_loops
async def test_end_of_a_complete_answer_is_passed_on_without_delay(tmp_path: Path) -> None:
    link = await dial(script(tmp_path, PLAIN), NoOpening())
    took = []
    for _ in range(20):
        start = time.monotonic()
        assert await ask(link, b"all") == b"all"
        took.append(time.monotonic() - start)
    assert sorted(took)[10] < 0.05
    await link.close()


@on_both_loops
async def test_program_that_speaks_first_is_heard_in_full_by_a_late_listener(tmp_path: Path) -> None:
    body = """
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        client, _ = listener.accept()
        client.sendall(b"greeting" * 100_000)
        client.close()
    """
    link = await dial(script(tmp_path, body), NoOpening())
    near = Near()
    channel = await link.open_channel(ANY, near)
    assert not near.data, "nothing may come before the caller goes on"
    channel.pause_reading()
    await asyncio.sleep(0.1)
    assert len(near.data) <= 65536 * 4
    channel.resume_reading()
    assert await near.end() == b"greeting" * 100_000
    channel.close()
    await link.close()


@on_both_loops
async def test_pool_restarts_a_command_that_died(tmp_path: Path) -> None:
    command = script(tmp_path, PLAIN)
    pool = Pool()
    keep = pool.keep(identity(command))

    async def dial_it(opening: object) -> CommandLink:
        return await dial(command, NoOpening())

    lease = await pool.acquire(identity(command), dial_it, NoOpening())
    shared = await pool.acquire(identity(command), dial_it, NoOpening())
    assert shared.link is lease.link
    assert isinstance(lease.link, CommandLink)
    os.killpg(lease.link.program.group, signal.SIGKILL)
    await asyncio.wait_for(asyncio.shield(lease.link.lost), DEADLINE)
    lease.release()
    shared.release()
    again = await pool.acquire(identity(command), dial_it, NoOpening())
    assert again.link is not lease.link
    assert isinstance(again.link, CommandLink)
    assert await ask(again.link, b"back") == b"back"
    again.release()
    keep.release()
    await pool.close()
    assert not alive(again.link.program.group)


@on_both_loops
async def test_command_that_never_listens_meets_the_deadline_with_a_hint() -> None:
    with pytest.raises(DeadlineError) as caught:
        await dial("echo logging in >&2; sleep 1000 # %p", NoOpening(), timeout=0.5)
    assert "does not listen after 0.5 s; its last words: logging in" in caught.value.message
    assert "%p" in caught.value.hint
    await until(lambda: not running("logging in"), ALL_GONE_WITHIN)


@on_both_loops
async def test_command_that_is_not_there_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"there is no such command: .*no-such-command") as caught:
        await dial("no-such-command --port %p", NoOpening())
    assert caught.value.hop == "no-such-command"


@on_both_loops
async def test_command_that_cannot_be_executed_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be executed"):
        await dial(f"{shlex.quote(str(tmp_path))} %p", NoOpening())


@on_both_loops
async def test_command_that_detaches_is_told_to_stay_in_the_foreground() -> None:
    with pytest.raises(LostError, match="ended with exit code 0, before it listened") as caught:
        await dial("true %p", NoOpening())
    assert "foreground" in caught.value.hint


@on_both_loops
async def test_command_whose_port_was_taken_in_between_gets_another(tmp_path: Path) -> None:
    marker = tmp_path / "tries"
    body = f"""
    with open({str(marker)!r}, "a") as tries:
        tries.write(f"{{port}}\\n")
    if len(open({str(marker)!r}).readlines()) == 1:
        sys.exit("bind: Address already in use")
    """
    link = await dial(script(tmp_path, textwrap.dedent(body) + PLAIN), NoOpening())
    first, second = marker.read_text().split()
    assert first != second
    assert link.port == int(second)
    await link.close()


@on_both_loops
async def test_command_that_stops_listening_is_ended_so_that_it_can_be_started_anew(tmp_path: Path) -> None:
    body = """
    listener = socket.create_server(("127.0.0.1", port))
    listener.accept()
    listener.close()
    time.sleep(1000)
    """
    link = await dial(script(tmp_path, body), NoOpening())
    near = Near()
    await link.open_channel(ANY, near)
    await until(lambda: link.listening() is not True)
    with pytest.raises(LostError, match="no longer listens"):
        await link.open_channel(ANY, Near())
    assert isinstance(link.lost.result(), LostError)
    await near.end()
    assert near.error is not None
    await until(lambda: not alive(link.program.group), ALL_GONE_WITHIN)
    await link.close()


@on_both_loops
async def test_fifty_rounds_leave_no_descriptor_no_zombie_and_no_task(tmp_path: Path) -> None:
    command = script(tmp_path, PLAIN)

    async def one(number: int) -> None:
        if number % 5 == 4:
            with pytest.raises(ForwardError):
                await dial("exit 1 # %p", NoOpening())
            return
        link = await dial(command, NoOpening())
        near = Near()
        channel = await link.open_channel(ANY, near)
        channel.write(b"x")
        if number % 2:
            os.killpg(link.program.group, signal.SIGKILL)
            await asyncio.wait_for(asyncio.shield(link.lost), DEADLINE)
        await link.close()

    earlier = children()
    for number in range(5):
        await one(number)
    await until(lambda: children() <= earlier)
    before = descriptors()
    for number in range(50):
        await one(number)
    await until(lambda: children() <= earlier)
    await until(lambda: descriptors() <= before)
    assert len(asyncio.all_tasks()) <= 2


def descriptors() -> int:
    """How many we have open."""
    return len(os.listdir("/proc/self/fd"))


def children() -> set[int]:
    """Our child processes, zombies too. Other tests may have left some: a loop that has ended reaps nobody."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if parent(int(process.name)) == os.getpid():
                    found.add(int(process.name))
    return found


# the program under its reaper


@on_both_loops
async def test_output_goes_to_the_log_line_by_line_and_a_flood_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="xec_forward.engine.program")
    lines = (
        "printf 'one\\rtwo\\n'; printf '\\033]0;title\\007three' > /dev/stderr; seq 1 1000; head -c 5000000 /dev/zero"
    )
    program = await Program.start(f"{lines}; exit 7", "talker")
    ending = await asyncio.wait_for(program.ended, DEADLINE)
    await program.wait_gone()
    assert (ending.status, ending.last_words) == (7, "three")
    said = [record.getMessage() for record in caplog.records]
    assert {"talker: one", "talker: two", "talker: three"} <= set(said)
    assert len(said) < 150
    assert max(map(len, said)) < 2100


@on_both_loops
async def test_command_gets_usual_signals_and_no_descriptor_but_its_own() -> None:
    own, theirs = socket.socketpair()
    was = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the engine
    try:
        look = "ls /proc/self/fd | tr '\\n' ' '; grep -E 'Sig(Ign|Blk)' /proc/self/status; echo $XEC_TEST_MARK"
        os.environ["XEC_TEST_MARK"] = "passed on"
        program = await Program.start(look, "look", stdout=theirs.fileno())
        theirs.close()
        own.setblocking(False)
        text = b""
        while data := await asyncio.get_running_loop().sock_recv(own, 4096):
            text += data
        fields = text.decode().split()
        assert fields[:4] == ["0", "1", "2", "3"], "3 is the folder that ls reads"
        assert fields[4].startswith("Sig"), fields
        values = dict(zip(*[iter(fields[4:8])] * 2, strict=True))
        assert int(values["SigBlk:"], 16) == 0
        assert not int(values["SigIgn:"], 16) & sum(1 << (number - 1) for number in (1, 2, 3, 13, 15, 17))
        assert text.endswith(b"passed on\n")
        await program.wait_gone()
    finally:
        signal.signal(signal.SIGINT, was)
        del os.environ["XEC_TEST_MARK"]
        own.close()


@on_both_loops
async def test_standard_input_and_output_pass_through_as_a_proxy_command_needs(
    bastion: Sshd, services: Services, tmp_path: Path
) -> None:
    config = bastion.write_config(tmp_path / "config")
    loop = asyncio.get_running_loop()
    own, theirs = socket.socketpair()
    own.setblocking(False)
    command = f"ssh -F {shlex.quote(str(config))} -W {bastion.far('pg.vpc')}:{services.reply} bastion"
    program = await Program.start(command, "ssh", stdin=theirs.fileno(), stdout=theirs.fileno())
    theirs.close()
    await loop.sock_sendall(own, b"through and through")
    own.shutdown(socket.SHUT_WR)
    answer = b""
    async with asyncio.timeout(DEADLINE):
        while data := await loop.sock_recv(own, 4096):
            answer += data
        assert answer.split()[0] == b"19"
        assert (await program.ended).status == 0
        await program.wait_gone()
    own.close()


def test_reaper_starts_quickly() -> None:
    took = []
    for _ in range(5):
        ours, theirs = socket.socketpair()
        from xec_forward.engine import reaper

        with ours, theirs:
            start = time.monotonic()
            ours.sendall(b"exit 5\0")
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", reaper.__file__, str(theirs.fileno())], pass_fds=(theirs.fileno(),)
            )
            theirs.close()
            heard = ours.recv(100)
            took.append(time.monotonic() - start)
            while data := ours.recv(100):
                heard += data
            assert heard.endswith(b"exited 5\n")
            assert process.wait(DEADLINE) == 0
    assert min(took) < 0.1, took


def test_place_of_the_port_is_a_token_as_in_ssh_config() -> None:
    assert with_port("a %p b:%p 100%% %%p date +%s", 7) == "a 7 b:7 100% %p date +%s"
    for command in ("ssh -NL 5432:pg.vpc:5432 bastion", "printf %%p", ""):
        with pytest.raises(ConfigError, match="where its local port belongs"):
            with_port(command, 7)
    assert identity("a %p") == identity("a %p") != identity("b %p")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("aws ssm start-session --target i-1", "aws"),
        ("TOKEN=secret exec /opt/my\\ tools/tsh proxy", "tsh"),
        ("'unclosed quote", "'unclosed"),
        ("A=1", "command"),
        ("", "command"),
    ],
)
def test_name_of_a_command_is_its_program_alone(command: str, name: str) -> None:
    assert name_of(command) == name
