"""However a kernel ends, its engine is gone and its port is free within two seconds; an interrupt changes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

from tests.peers.kernel import Kernel, process_alive, wait_until
from tests.peers.ports import port_free
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd

GONE_WITHIN = 2.0
QUERY = "import psycopg\nc = psycopg.connect(pg_dsn)\nprint('begun', flush=True)\nc.execute('select pg_sleep(60)')"
ENGINE = "__import__('xec_forward.client.session', fromlist=['x']).current().engine_pid"


def _open(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> tuple[int, int]:
    """Open pg; the engine's process id and the local port."""
    kernel.run(
        f"%forward bastion 0:{bastion.far()}:{postgres.port} --as pg "
        "--dsn postgresql://ana@/sales --password env:SALES_PASSWORD"
    ).ok()
    engine, port = kernel.value(f"({ENGINE}, pg.local_port)")
    assert process_alive(engine)
    assert not port_free(port)
    return engine, port


def _gone(engine: int, port: int, since: float) -> None:
    left = max(0.05, since + GONE_WITHIN - time.monotonic())
    wait_until(lambda: not process_alive(engine), "the engine is still there", left)
    wait_until(lambda: port_free(port), "the port is still taken", max(0.05, since + GONE_WITHIN - time.monotonic()))


@pytest.mark.parametrize("code", ["import os\nos._exit(1)", "exit()"])
def test_engine_ends_when_a_cell_ends_the_kernel(kernel: Kernel, bastion: Sshd, postgres: Postgres, code: str) -> None:
    engine, port = _open(kernel, bastion, postgres)
    kernel.client.execute(code)
    kernel.wait_ended()
    _gone(engine, port, time.monotonic())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_engine_ends_when_a_signal_ends_the_kernel(
    kernel: Kernel, bastion: Sshd, postgres: Postgres, number: signal.Signals
) -> None:
    engine, port = _open(kernel, bastion, postgres)
    kernel.signal(number)
    start = time.monotonic()
    kernel.wait_ended()
    _gone(engine, port, start if number is signal.SIGKILL else time.monotonic())


@pytest.mark.parametrize(
    "busy",
    [
        "pass",
        "while True: pass",
        "import ctypes\nctypes.CDLL(None).sleep(60)",
        "psycopg.connect(pg_dsn).execute('select pg_sleep(60)')",
    ],
    ids=["idle", "busy", "hung in C", "in a query"],
)
def test_shutdown_ends_the_engine_even_while_a_cell_runs(
    kernel: Kernel, bastion: Sshd, postgres: Postgres, busy: str
) -> None:
    kernel.run("import psycopg").ok()
    engine, port = _open(kernel, bastion, postgres)
    running = kernel.start(f"print('begun', flush=True)\n{busy}")
    running.until(lambda result: "begun" in result.stdout)
    start = time.monotonic()
    kernel.client.shutdown()
    _gone(engine, port, start)
    kernel.shutdown()
    kernel.wait_ended()


def test_engine_ends_when_a_kernel_is_killed_during_a_query(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> None:
    engine, port = _open(kernel, bastion, postgres)
    kernel.start(QUERY).until(lambda result: "begun" in result.stdout)
    kernel.signal(signal.SIGKILL)
    _gone(engine, port, time.monotonic())


@pytest.mark.parametrize("after", ["idle", "query"])
def test_engine_ends_when_a_kernel_is_killed_and_a_forked_worker_lives_on(
    kernel: Kernel, bastion: Sshd, postgres: Postgres, after: str
) -> None:
    engine, port = _open(kernel, bastion, postgres)
    fork = (
        "import multiprocessing, time, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
        "worker.start()"
    )
    kernel.run(fork).ok()
    worker = kernel.value("worker.pid")
    try:
        if after == "query":
            kernel.start(QUERY).until(lambda result: "begun" in result.stdout)
        kernel.signal(signal.SIGKILL)
        _gone(engine, port, time.monotonic())
        assert process_alive(worker)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def test_forked_worker_leaves_the_kernels_tunnels_alone(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> None:
    _open(kernel, bastion, postgres)
    code = (
        "import multiprocessing, psycopg, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "def query(n): return psycopg.connect(pg_dsn).execute('select %s::int', [n]).fetchone()[0]\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    print(pool.map(query, [1, 2, 3]))\n"
    )
    assert kernel.run(code, 60).ok().stdout == "[1, 2, 3]\n"
    assert kernel.value("(pg.state, query(4))") == ("ready", 4)


def test_restart_frees_the_port_for_the_same_line(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> None:
    engine, port = _open(kernel, bastion, postgres)
    kernel.restart()
    assert not process_alive(engine)
    kernel.run(f"%forward bastion {port}:{bastion.far()}:{postgres.port} --as pg --dsn postgresql://ana@/sales").ok()
    assert kernel.value("(pg.local_port, pg.state)") == (port, "ready")


def test_same_line_waits_for_the_port_of_an_engine_whose_kernel_is_gone(
    kernel: Kernel, bastion: Sshd, postgres: Postgres
) -> None:
    engine, port = _open(kernel, bastion, postgres)
    line = f"%forward bastion {port}:{bastion.far()}:{postgres.port} --as pg --dsn postgresql://ana@/sales"
    os.kill(engine, signal.SIGSTOP)
    try:
        kernel.client.stop_channels()
        kernel.signal(signal.SIGKILL)
        kernel.wait_ended()
        kernel.manager.start_kernel(env=kernel.env, cwd=str(kernel.folder))
        kernel.connect()
        running = kernel.start(line)
        with pytest.raises(AssertionError, match="not within"):
            running.until(lambda result: bool(result.error or result.displays), 0.3)
    finally:
        os.kill(engine, signal.SIGCONT)
    running.wait().ok()
    assert kernel.value("(pg.local_port, pg.state)") == (port, "ready")


def test_interrupt_changes_nothing(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> None:
    engine, port = _open(kernel, bastion, postgres)
    running = kernel.start("import time\nprint('begun', flush=True)\ntime.sleep(60)")
    running.until(lambda result: "begun" in result.stdout)
    kernel.interrupt()
    result = running.wait()
    assert result.error is not None
    assert result.error.name == "KeyboardInterrupt"
    assert kernel.value(f"({ENGINE}, pg.local_port, pg.state)") == (engine, port, "ready")
    assert (
        kernel.run("import psycopg\nprint(psycopg.connect(pg_dsn).execute('select 1').fetchone())").stdout == "(1,)\n"
    )


def test_killed_engine_is_followed_by_another_on_the_same_port(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo").ok()
    engine, port = kernel.value(f"({ENGINE}, echo.local_port)")
    wait = (
        "import os, time\n"
        f"os.kill({engine}, 9)\n"
        "end = time.monotonic() + 10\n"
        f"while ({ENGINE} in (0, {engine}) or echo.state != 'ready') and time.monotonic() < end: time.sleep(0.02)\n"
        "print(echo.state, echo.local_port)"
    )
    result = kernel.run(wait).ok()
    assert result.stdout == f"ready {port}\n"
    assert result.stderr.count("the engine ended unexpectedly") == 1
    assert "another one opens echo again" in result.stderr
    talk = (
        "import socket\n"
        "with socket.create_connection(('127.0.0.1', echo.local_port), 5) as s:\n"
        "    s.sendall(b'hello'); print(s.recv(5))"
    )
    assert kernel.run(talk).ok().stdout == "b'hello'\n"
    assert "echo" in kernel.run("%forward").ok().displays[0].text


def test_login_that_needs_a_person_waits_for_one_after_the_engine_died(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())
    line = f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo"
    kernel.run(line, answers=[PASSPHRASE]).ok()
    port = kernel.value("echo.local_port")
    for again in ("%forward --reconnect echo", line):
        wait = (
            f"import os, time\nos.kill({ENGINE}, 9)\nend = time.monotonic() + 10\n"
            "while echo.state != 'waiting' and time.monotonic() < end: time.sleep(0.02)"
        )
        kernel.run(wait).ok()
        assert kernel.value("(echo.state, echo.local_port)") == ("waiting", port)
        nobody = kernel.run("%forward --reconnect echo")
        assert nobody.error is not None
        assert nobody.error.traceback.startswith("EAUTH bastion: ")
        assert kernel.value("echo.state") == "waiting"
        result = kernel.run(again, answers=[PASSPHRASE]).ok()
        assert len(result.prompts) == 1
        assert kernel.value("(echo.state, echo.local_port)") == ("ready", port)


def test_shutdown_hook_passes_on_what_the_kernel_returns(kernel: Kernel) -> None:
    code = (
        "import asyncio, inspect\n"
        "from xec_forward.jupyter import extension\n"
        "class Fake:\n"
        "    async def do_shutdown(self, restart): return {'status': 'ok', 'restart': restart}\n"
        "fake = Fake()\n"
        "extension._wrap_shutdown(fake)\n"
        "extension._wrap_shutdown(fake)\n"
        "coroutine = fake.do_shutdown(True)\n"
        "answer = await coroutine\n"
        "extension._unwrap_shutdown(fake)\n"
        "plain = 'do_shutdown' not in vars(fake)"
    )
    kernel.run(code).ok()
    assert kernel.value("(answer, plain)") == ({"status": "ok", "restart": True}, True)
