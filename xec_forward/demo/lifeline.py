"""Processes that end with whoever started them, whatever ended that one.

The parent holds the write end of the child's stdin and never writes to it after the first line (the
configuration, as JSON: what is secret stays out of the process table). When the parent goes, be it by
SIGKILL, the kernel closes the pipe; the child reads EOF, cleans up and leaves. The child answers with one JSON
line on stdout: what it has to tell, or `{"error": "..."}`.

The child has a session of its own, so that Ctrl-C in the terminal reaches only the parent, which then ends
its children in order.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any


class DemoError(Exception):
    """The demo cannot go on. Its text is one line for the user, with the fix where there is one."""


class ServiceProcess:
    """A child process that serves until its stdin ends.

    Args:
        name: what to call it in messages.
        module: run as `python -m module`; its `main` is `serve(...)` below.
        config: its first line of stdin.
    """

    def __init__(self, name: str, module: str, config: Mapping[str, Any]) -> None:
        self.name = name
        self.seconds = 0.0
        self._report: dict[str, Any] | None = None
        self._started = time.monotonic()
        self._reading = threading.Lock()  # held while `ready`, perhaps in another thread, uses stdout
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died at once: `ready` tells
            self._process.stdin.write(json.dumps(dict(config)).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """It has ended, by itself or because it was let go."""
        return self._process.poll() is not None

    def ready(self, timeout: float) -> dict[str, Any]:
        """Its report, waited for at most `timeout` seconds; idempotent. Raises DemoError."""
        with self._reading:
            if self._report is None:
                received = self._first_line(self._started + timeout, timeout)
                self.seconds = time.monotonic() - self._started
                self._report = json.loads(received)
        if "error" in self._report:
            raise DemoError(f"{self.name}: {self._report['error']}")
        return self._report

    def release(self) -> None:
        """Let go of it: it starts to clean up. Idempotent."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def stop(self, timeout: float = 10.0) -> None:
        """Let go, wait until it has ended, kill it after `timeout` seconds. Idempotent."""
        self.release()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            with self._reading:  # EOF has ended it by now
                self._process.stdout.close()

    def _first_line(self, deadline: float, timeout: float) -> bytes:
        if self._process.stdout is None or self._process.stdout.closed:
            raise DemoError(f"{self.name} was stopped before it was ready")
        descriptor = self._process.stdout.fileno()
        received = b""
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise DemoError(f"{self.name} did not start within {timeout:.0f} s")
            piece = os.read(descriptor, 65536)
            if not piece:
                raise DemoError(f"{self.name} ended before it was ready")
            received += piece
        return received


class Ended(BaseException):
    """In the child: stdin has ended, or SIGTERM came. Not an Exception, so that nothing swallows it."""


def serve(main: Callable[[dict[str, Any]], None]) -> None:
    """The child's side: read the configuration, run `main`, turn what it raises into one report line.

    `main` calls `report` once it is ready, then `wait` until the end; it cleans up in its own `finally`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    try:
        main(json.loads(_first_line()))
    except Ended:
        pass
    except Exception as error:
        report({"error": " ".join(str(error).split()) or type(error).__name__})
        raise SystemExit(1) from None


def report(fields: Mapping[str, Any]) -> None:
    """Tell the parent, in one line; in vain where it is gone already."""
    with suppress(BrokenPipeError):
        os.write(1, json.dumps(dict(fields)).encode() + b"\n")


def released(timeout: float) -> bool:
    """Wait `timeout` seconds for stdin to end; whether it did. What a parent writes later is dropped."""
    deadline = time.monotonic() + timeout
    while True:
        if not select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        if not os.read(0, 4096):
            return True


def run(command: list[str], *, timeout: float, **options: Any) -> None:
    """Run a program to its end, ending it when the parent goes. Raises Ended, or DemoError with its last words."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    assert process.stdout is not None
    output = process.stdout.fileno()
    deadline = time.monotonic() + timeout
    said = b""
    try:
        while True:
            readable = select.select([0, output], [], [], max(0.0, deadline - time.monotonic()))[0]
            if not readable:
                raise DemoError(f"{Path(command[0]).name} did not finish within {timeout:.0f} s")
            if 0 in readable and not os.read(0, 4096):
                raise Ended
            if output in readable:
                piece = os.read(output, 65536)
                if not piece:
                    break
                said += piece
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()
        process.stdout.close()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines() or [f"exit status {process.returncode}"]
        raise DemoError(f"{Path(command[0]).name} failed: {lines[-1]}")


def remove_folder(folder: Path, timeout: float = 3.0) -> bool:
    """Remove a folder, again while others that end at the same time still write to it; whether it is gone."""
    deadline = time.monotonic() + timeout
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            break
        if folder.exists():
            time.sleep(0.05)
    return not folder.exists()


def _first_line() -> bytes:
    # Byte by byte from the descriptor: a buffered reader could take what `released` waits for.
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            raise Ended
        line += piece
    return line


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended
