"""The same line in a terminal `ipython`, on a pseudo-terminal."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.peers.kernel import process_alive, wait_until
from tests.peers.ports import free_port, port_free
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd

DEADLINE = 30
ENGINE = "__import__('xec_forward.client.session', fromlist=['x']).current().engine_pid"


class Terminal:
    """A terminal with ipython in it."""

    def __init__(self, folder: Path, password: str) -> None:
        home = folder / "home"
        home.mkdir()
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        env.update(HOME=str(home), IPYTHONDIR=str(home / ".ipython"), SALES_PASSWORD=password, TERM="xterm")
        arguments = ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor", "--no-confirm-exit"]
        self.child = pexpect.spawn(
            sys.executable,
            arguments,
            env=env,
            cwd=str(folder),
            timeout=DEADLINE,
            encoding="utf-8",
            dimensions=(40, 200),
        )
        self._prompt()
        self.run("%load_ext xec_forward")

    def _prompt(self) -> str:
        self.child.expect(r"In \[\d+\]: $")
        return str(self.child.before)

    def start(self, line: str) -> None:
        """Type a line."""
        self.child.sendline(line)
        self.child.expect_exact(line)

    def end(self) -> str:
        """What it put out, up to the next prompt."""
        return self._prompt().replace("\r\n", "\n").lstrip("\n")

    def run(self, line: str) -> str:
        """Type a line and wait for its end."""
        self.start(line)
        return self.end()


@pytest.fixture
def terminal(tmp_path: Path, bastion: Sshd, postgres: Postgres) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path, postgres.password)
    yield terminal
    terminal.child.close(force=True)


def _engine(terminal: Terminal) -> int:
    found = re.search(r"engine (\d+)", terminal.run(f"print('engine', {ENGINE})"))
    assert found
    return int(found[1])


def test_line_works_and_exit_ends_the_engine(terminal: Terminal, bastion: Sshd, postgres: Postgres) -> None:
    port = free_port()
    shown = terminal.run(
        f"%forward bastion {port}:{bastion.far()}:{postgres.port} --as pg --dsn postgresql://ana@/sales "
        "--password env:SALES_PASSWORD"
    )
    assert shown.count(" -> bastion -> ") == 1
    assert shown.startswith(f"pg  ready  127.0.0.1:{port} -> bastion -> ")
    assert "<" not in shown.partition("Out[")[0]
    assert "(1,)" in terminal.run("import psycopg; psycopg.connect(pg_dsn).execute('select 1').fetchone()")
    assert terminal.run("pg").count(" -> bastion -> ") == 1
    assert "postgresql://ana:***@127.0.0.1" in terminal.run("pg_dsn")
    error = terminal.run("%forward --close nobody")
    assert error.strip() == "ECONFIG there is no tunnel named nobody. Open are pg"
    engine = _engine(terminal)
    terminal.child.sendline("exit")
    terminal.child.expect(pexpect.EOF)
    wait_until(lambda: not process_alive(engine), "the engine is still there", 2.0)
    assert port_free(port)


def test_control_c_ends_a_cell_and_spares_the_engine(terminal: Terminal, bastion: Sshd, services: Services) -> None:
    terminal.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo")
    engine = _engine(terminal)
    terminal.start("import time; print('beg' + 'un', flush=True); time.sleep(60)")
    terminal.child.expect_exact("begun")
    terminal.child.sendintr()
    assert "KeyboardInterrupt" in terminal.end()
    assert _engine(terminal) == engine
    assert process_alive(engine)
    assert "state ready" in terminal.run("print('state', echo.state)")


def test_slow_opening_is_one_line_and_control_c_cancels_it(
    terminal: Terminal, bastion: Sshd, services: Services
) -> None:
    port = free_port()
    line = f"%forward bastion {port}:{bastion.far()}:{services.echo} --as echo"
    bastion.freeze()
    terminal.start(line)
    terminal.child.expect(r"echo  opening .*ssh for \d+ s")
    terminal.child.sendintr()
    shown = terminal.end()
    bastion.thaw()
    assert shown.count("interrupted; ") == 1
    assert "Traceback" not in shown
    assert "\r\x1b[2K" in shown
    assert port_free(port)
    assert "ready" in terminal.run(line)


def test_passphrase_is_asked_on_the_terminal(terminal: Terminal, bastion: Sshd, services: Services) -> None:
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())
    terminal.start(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo")
    terminal.child.expect("Passphrase for .*id_encrypted: ")
    terminal.child.sendline(PASSPHRASE)
    shown = terminal.end()
    assert "echo  ready" in shown
    assert PASSPHRASE not in shown


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_closed_terminal_ends_the_engine(
    terminal: Terminal, bastion: Sshd, services: Services, number: signal.Signals
) -> None:
    port = free_port()
    terminal.run(f"%forward bastion {port}:{bastion.far()}:{services.echo} --as echo")
    engine = _engine(terminal)
    terminal.child.kill(number)
    terminal.child.expect(pexpect.EOF)
    wait_until(lambda: not process_alive(engine), "the engine is still there", 2.0)
    assert port_free(port)
