"""`xec-forward open`: real processes, at a terminal and without one, against a real sshd."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

from tests.peers.interrogator import Interrogator
from tests.peers.kernel import process_alive, wait_until
from tests.peers.ports import port_free
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd, descendants

ENDS_WITHIN = 20.0


def ask(port: int, data: bytes = b"ping") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


class Command:
    """A running `xec-forward open`; its output grows in `out` and `err`.

    Args:
        words: after `open`.
        terminal: all three streams are one terminal's, whose foreground group it leads (`out` is what it shows).
    """

    def __init__(self, *words: str, terminal: bool = False, program: Sequence[str] = ()) -> None:
        command = [*(program or (sys.executable, "-m", "xec_forward")), "open", *words]
        self.out, self.err = "", ""
        self._streams: dict[int, str] = {}
        if terminal:
            self._master, slave = pty.openpty()
            # setsid, and the first terminal that is opened becomes the controlling one.
            opened = f"import os, sys; os.setsid(); os.close(os.open({os.ttyname(slave)!r}, os.O_RDWR)); "
            command = [sys.executable, "-c", f"{opened}os.execv(sys.argv[1], sys.argv[1:])", *command]
            self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
            os.close(slave)
            self._streams[self._master] = "out"
        else:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            self._streams = {self.process.stdout.fileno(): "out", self.process.stderr.fileno(): "err"}

    def type(self, text: str) -> None:
        """What a person types."""
        os.write(self._master, text.encode())

    def until(self, condition: Callable[[Command], object], within: float = 30.0) -> Command:
        """Read its output until a condition holds."""
        end = time.monotonic() + within
        while not condition(self):
            assert time.monotonic() < end, f"not within {within} s: {self.out!r} {self.err!r}"
            self._read(0.05)
            if self.process.poll() is not None and not self._streams:
                assert condition(self), f"it ended: {self.process.returncode} {self.out!r} {self.err!r}"
        return self

    def ends(self, within: float = ENDS_WITHIN) -> int:
        """Wait for its end; the exit status."""
        end = time.monotonic() + within
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it goes on: {self.out!r} {self.err!r}"
            self._read(0.05)
        while self._streams and time.monotonic() < end:
            self._read(0.05)
        assert "Traceback" not in self.out + self.err, self.out + self.err
        return self.process.returncode

    def _read(self, timeout: float) -> None:
        for stream in select.select(list(self._streams), [], [], timeout)[0]:
            try:
                data = os.read(stream, 65536)
            except OSError:  # a terminal without a program
                data = b""
            if not data:
                del self._streams[stream]
                continue
            name = "out" if self._streams[stream] == "out" else "err"
            setattr(self, name, getattr(self, name) + data.decode())

    def ready(self) -> Command:
        """Wait for the card."""
        return self.until(lambda command: "  ready  " in command.out)

    @property
    def port(self) -> int:
        """The port of the card."""
        found = re.search(r"  ready  127\.0\.0\.1:(\d+) -> ", self.out)
        assert found, self.out
        return int(found[1])

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        if hasattr(self, "_master"):
            os.close(self._master)


@pytest.fixture
def echo(bastion: Sshd, services: Services) -> str:
    return f"0:{bastion.far()}:{services.echo}"


@pytest.fixture
def program() -> str:
    path = Path(sys.executable).with_name("xec-forward")
    if not path.exists():
        pytest.skip("the program xec-forward (pip install -e .)")
    return str(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_open_tunnel_stays_until_a_signal_and_leaves_nothing(echo: str, number: signal.Signals) -> None:
    with Command("bastion", echo, "--as", "pg") as command:
        command.ready()
        assert command.out.startswith("pg  ready  127.0.0.1:")
        assert ask(command.port) == b"ping"
        children = descendants(command.process.pid)
        assert children
        command.process.send_signal(number)
        assert command.ends() == 0
        assert command.err == ""
        wait_until(lambda: not any(map(process_alive, children)), "an engine stays")
        assert port_free(command.port)


def test_console_script_is_the_same_program(echo: str, program: str) -> None:
    with Command("bastion", echo, program=[program]) as command:
        assert ask(command.ready().port) == b"ping"
        command.process.send_signal(signal.SIGINT)
        assert command.ends() == 0


def test_killed_command_leaves_nothing(echo: str) -> None:
    with Command("bastion", echo) as command:
        command.ready()
        children = descendants(command.process.pid)
        command.process.kill()
        command.ends()
        wait_until(lambda: not any(map(process_alive, children)), "an engine stays")
        assert port_free(command.port)


def test_control_c_at_a_terminal_resets_a_hung_client_and_ends(bastion: Sshd, services: Services) -> None:
    with Command("bastion", f"0:{bastion.far()}:{services.hang}", terminal=True) as command:
        command.ready()
        with socket.create_connection(("127.0.0.1", command.port), timeout=10) as client:
            client.sendall(b"select pg_sleep(3600)")
            command.type("\x03")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert command.ends() == 0


def test_several_specs_of_all_kinds_open_over_one_connection(bastion: Sshd, services: Services, echo: str) -> None:
    words = (
        f"api={echo}",
        f"reply=0:{bastion.far()}:{services.reply}",
        "-D",
        "0",
        "-R",
        f"0:localhost:{services.echo}",
    )
    with Command("bastion", *words) as command:
        command.until(lambda c: c.out.count("  ready  ") == 4)
        for start in ("api  ready  ", "reply  ready  ", "socks  ready  ", "remote"):
            assert f"\n{start}" in f"\n{command.out}"
        assert "socks5h://127.0.0.1:" in command.out
        assert bastion.connections() == 1
        command.process.send_signal(signal.SIGINT)
        assert command.ends() == 0


def test_card_gives_the_connection_string_without_a_password(bastion: Sshd, echo: str) -> None:
    with Command("bastion", echo, "--dsn", "redis:///0", "--no-check", "--password", "env:NOT_SET") as command:
        command.ready().until(lambda c: "notebook only" in c.out)
        assert f"redis://127.0.0.1:{command.port}/0" in command.out
        assert "--password: of use in a notebook only" in command.out
        command.process.send_signal(signal.SIGINT)
        assert command.ends() == 0


def test_forwards_of_ssh_config_open_without_a_spec(bastion: Sshd, services: Services, tmp_path: Path) -> None:
    bastion.write_config(tmp_path / "ssh_config", LocalForward=f"0 {bastion.far()}:{services.echo}")
    with Command("bastion") as command:
        assert ask(command.ready().port) == b"ping"
        command.process.send_signal(signal.SIGINT)
        assert command.ends() == 0


def test_tunnel_that_ends_by_itself_ends_the_command(bastion: Sshd, echo: str) -> None:
    with Command("bastion", echo, "--as", "pg", "--ttl", "1s") as command:
        command.ready()
        assert command.ends() == 0
        assert command.err.splitlines()[-1].startswith("pg  closed")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "TARGET is missing"),
        (("bastion",), "a SPEC is missing"),
        (("bastion", "5432:pg.vpc:port"), "port"),
        (("bastion", "--nonsense", "5432"), "--nonsense"),
        (("--close", "pg"), "--close is for a notebook"),
        (("bastion", "5432", "--ssh-password", "tr0ub4dor&3"), "--ssh-password"),
    ],
)
def test_bad_line_is_one_line_and_status_2(bastion: Sshd, words: tuple[str, ...], said: str) -> None:
    with Command(*words) as command:
        assert command.ends() == 2
        assert command.out == ""
        (line,) = command.err.splitlines()
        assert line.startswith("xec-forward open: ESPEC ")
        assert said in line
        assert "%forward" not in line
        assert "tr0ub4dor&3" not in line


def test_failed_opening_is_one_line_and_status_1(bastion: Sshd, services: Services, echo: str) -> None:
    refused = f"0:{bastion.far()}:{services.refused}"
    with Command("bastion", refused) as command:
        assert command.ends() == 1
        (line,) = command.err.splitlines()
        assert line.startswith("xec-forward open: ECONNREFUSED ")
    with Command("bastion", echo, refused, "--exit-on-failure") as command:
        assert command.ends() == 1
        assert (command.out, len(command.err.splitlines())) == ("", 1)
    with Command("bastion", echo, f"down={refused}") as command:
        command.ready().until(lambda c: "down  failed  " in c.out)
        assert ask(command.port) == b"ping"
        command.process.send_signal(signal.SIGINT)
        assert command.ends() == 0


def test_interrupt_while_opening_is_one_line_and_leaves_nothing(bastion: Sshd, echo: str) -> None:
    bastion.freeze()
    try:
        with Command("bastion", echo) as command:
            wait_until(lambda: descendants(command.process.pid), "no engine")
            children = descendants(command.process.pid)
            command.process.send_signal(signal.SIGINT)
            assert command.ends() == 1
            assert command.err == "xec-forward open: interrupted; nothing is open\n"
            wait_until(lambda: not any(map(process_alive, children)), "an engine stays")
    finally:
        bastion.thaw()


def test_lost_link_is_told_and_comes_back(bastion: Sshd, echo: str) -> None:
    with Command("bastion", echo, "--as", "pg") as command:
        command.ready()
        bastion.drop()
        command.until(lambda c: re.search(r"^pg  reconnecting: .*\npg  ready$", c.err, re.MULTILINE))
        assert ask(command.port) == b"ping"
        command.process.send_signal(signal.SIGINT)
        assert command.ends() == 0


def test_terminal_shows_the_step_that_takes_its_time(bastion: Sshd, echo: str) -> None:
    bastion.freeze()
    try:
        with Command("bastion", echo, terminal=True) as command:
            command.until(lambda c: re.search(r"opening .* ssh for \d s\.\.\.", c.out))
            bastion.thaw()
            command.ready()
            command.type("\x03")
            assert command.ends() == 0
    finally:
        bastion.thaw()


def test_passphrase_is_asked_at_the_terminal_and_not_shown(bastion: Sshd, echo: str, tmp_path: Path) -> None:
    bastion.write_config(tmp_path / "ssh_config", IdentityFile=bastion.encrypted_key())
    with Command("bastion", echo, terminal=True) as command:
        command.until(lambda c: "Passphrase for " in c.out)
        command.type(f"{PASSPHRASE}\n")
        assert ask(command.ready().port) == b"ping"
        assert PASSPHRASE not in command.out
        command.type("\x03")
        assert command.ends() == 0
    with Command("bastion", echo) as command:
        assert command.ends() == 1
        assert "nobody is here to answer" in command.err
    with Command("bastion", echo, "--passphrase", "prompt", terminal=True) as command:
        command.until(lambda c: "Passphrase of the key for bastion (--passphrase prompt): " in c.out)
        command.type("\x03")
        assert command.ends() == 1


def test_login_with_a_code_is_asked_again_after_enter(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Interrogator(tmp_path, [("Verification code: ", True)], ["492817"]) as server:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(server.write_config(tmp_path / "ssh_config")))
        with Command("bastion", f"0:localhost:{services.echo}", "--as", "far", terminal=True) as command:
            command.until(lambda c: "Verification code: " in c.out)
            command.type("492817\n")
            assert ask(command.ready().port) == b"ping"
            server.restart()
            command.until(lambda c: "Press Enter to log in" in c.out)
            assert not port_free(command.port)
            command.type("\n")
            command.until(lambda c: c.out.count("Verification code: ") == 2)
            command.type("492817\n")
            command.until(lambda c: re.search(r"^far  ready\r?$", c.out, re.MULTILINE))
            assert ask(command.port) == b"ping"
            command.type("\x03")
            assert command.ends() == 0


def test_dry_run_prints_the_way_and_connects_to_nobody(bastion: Sshd, services: Services) -> None:
    before = bastion.log.read_text().count("Connection from")
    with Command("bastion", "pg=5432:pg.vpc:5432", "--dry-run") as command:
        assert command.ends() == 0
        assert command.out.startswith("pg  would be opened  127.0.0.1:5432 -> ")
        assert (command.err, bastion.log.read_text().count("Connection from")) == ("", before)


def test_open_imports_no_ipython(bastion: Sshd, echo: str, tmp_path: Path) -> None:
    for name in ("IPython", "ipykernel"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not for a terminal')\n")
    environment = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        with Command("bastion", echo) as command:
            command.ready()
            command.process.send_signal(signal.SIGINT)
            assert command.ends() == 0
    finally:
        if environment is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = environment


def test_failed_opening_offers_the_doctors_command(bastion: Sshd, services: Services) -> None:
    far = f"{bastion.far()}:{services.refused}"
    with Command("bastion", far) as command:
        command.until(lambda it: it.process.poll() is not None)
        assert command.process.returncode == 1
        offered = command.err.rpartition("See each hop: ")[2].strip()
    assert offered == f"xec-forward doctor bastion {far}"
    done = subprocess.run(
        [sys.executable, "-m", "xec_forward", *offered.split()[1:]], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "FAILED  far port" in done.stdout
