"""The engine as a process: it ends with its pipe and with its parent, whatever killed it, and never by SIGINT."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xec_forward.client.process import EngineProcess
from xec_forward.engine.__main__ import _OwnersLog
from xec_forward.model import PROTOCOL_VERSION, Describe, Done, Hello, Welcome


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XEC_FORWARD_STATE", str(tmp_path))


def ended(pid: int, timeout: float) -> bool:
    """Whether the process ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout)[0])
    finally:
        os.close(descriptor)


def greeted() -> EngineProcess:
    engine = EngineProcess()
    engine.send(Hello(PROTOCOL_VERSION, os.getpid()))
    welcome = next(engine.receive())
    assert isinstance(welcome, Welcome)
    assert welcome.pid == engine.pid
    return engine


def test_engine_answers_and_ends_when_the_pipe_does() -> None:
    engine = greeted()
    engine.send(Describe(1))
    assert next(engine.receive()) == Done(1)
    start = time.monotonic()
    engine.stop()
    assert time.monotonic() - start < 1.0
    assert ended(engine.pid, 0)


def test_interrupt_does_not_end_the_engine() -> None:
    engine = greeted()
    for _ in range(3):
        os.kill(engine.pid, signal.SIGINT)
    engine.send(Describe(1))
    assert next(engine.receive()) == Done(1)
    engine.stop()


def test_log_is_owner_only(tmp_path: Path) -> None:
    engine = greeted()
    assert Path(engine.log).stat().st_mode & 0o077 == 0
    assert Path(engine.log).is_relative_to(tmp_path)
    engine.stop()


def test_log_is_owner_only_after_it_was_rotated_too(tmp_path: Path) -> None:
    log = _OwnersLog(tmp_path / "engine.log", maxBytes=1000, backupCount=1)
    try:
        for _ in range(3):
            log.emit(logging.makeLogRecord({"msg": "x" * 900}))
        both = [path.stat().st_mode & 0o777 for path in tmp_path.glob("engine.log*")]
        assert both == [0o600, 0o600]
    finally:
        log.close()


def test_stray_output_of_the_engine_goes_to_its_log_and_not_into_a_frame() -> None:
    engine = greeted()
    for descriptor in (0, 1, 2):
        target = os.readlink(f"/proc/{engine.pid}/fd/{descriptor}")
        assert target == ("/dev/null" if descriptor == 0 else engine.log)
    engine.stop()


def test_garbage_on_the_pipe_ends_the_engine() -> None:
    engine = greeted()
    engine._socket.sendall(b"\xff\xff\xff\xff garbage")
    assert list(engine.receive()) == []
    assert ended(engine.pid, 2)
    engine.stop()


PARENT = """
import os, sys, time
from xec_forward.client.session import current
session = current()
session.start()
print(session.engine_pid, flush=True)
if "fork" in sys.argv:
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
if "hold" in sys.argv:
    # A worker that bypassed Python's fork hooks and still holds the pipe open.
    import ctypes
    if ctypes.CDLL(None).fork() == 0:
        time.sleep(60)
        os._exit(0)
sys.stdin.read()
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT], ids=lambda s: s.name)
@pytest.mark.parametrize("worker", ["", "fork", "hold"])
def test_engine_ends_with_its_parent_whatever_killed_it(signal_number: signal.Signals, worker: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, worker],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.05)  # lets the worker be forked; it changes nothing where it comes later
        os.kill(parent.pid, signal_number)
        try:
            assert ended(pid, 2.0)
        finally:
            try:
                os.killpg(parent.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def test_engine_does_not_import_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "asyncssh.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    greeted().stop()
