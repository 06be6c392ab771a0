"""The engine as a child process, and our end of its pipe.

The pipe is a socket pair: one end is inherited under its own number, so that the engine's 0, 1 and 2 are free
for /dev/null and the log. It is not inheritable by anything else; a worker forked by the kernel closes its copy
(see session), and the engine watches its parent besides.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from ..errors import EngineError
from ..model import Message, Report
from ..paths import state_folder
from ..wire import FrameError, encode, reports

# A healthy engine reads at once; one that does not take a message in this time is stuck, seconds.
SEND_TIMEOUT = 10.0
KEEP_LOGS = 10


class EngineProcess:
    """A running engine. `send` from any thread, `receive` from one.

    Raises:
        EngineError: it could not be started.
    """

    def __init__(self) -> None:
        if os.name != "posix":
            # The pipe is a descriptor passed to the child; Windows needs another way that is not built yet.
            raise EngineError("Windows is not supported yet", hint="Run the kernel in WSL")
        try:
            self.log = _new_log(state_folder("logs"))
        except OSError as error:
            raise EngineError(
                f"cannot write a log: {error.strerror}",
                hop=str(error.filename),
                hint="XEC_FORWARD_STATE names another folder",
            ) from error
        ours, theirs = socket.socketpair()
        # A timeout on the socket would make it non-blocking for receive too; SO_SNDTIMEO limits sending alone.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SEND_TIMEOUT), 0))
        environment = dict(os.environ)
        home = str(Path(__file__).resolve().parents[2])
        # Last on the path: only of use where the package is not installed.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), home]))
        try:
            with theirs, open(self.log, "ab") as output:
                self._process = subprocess.Popen(
                    # -P: a notebook's folder may hold a module named like one of ours or the library's
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "xec_forward.engine",
                        str(theirs.fileno()),
                        str(os.getpid()),
                        self.log,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                    # Its own session: a terminal's Ctrl-C and hang-up are meant for the kernel.
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            hint = "Is that Python still there? Restart the kernel if it was replaced"
            raise EngineError(f"cannot start {sys.executable}: {error.strerror}", hint=hint) from error
        self._socket = ours
        self._sending = threading.Lock()

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._process.pid

    def send(self, message: Message) -> None:
        """Send one message. Raises EngineError where the engine is gone or stuck."""
        try:
            with self._sending:
                self._socket.sendall(encode(message))
        except OSError as error:
            raise EngineError("the engine is gone or does not answer", hint=f"Its log is {self.log}") from error

    def receive(self) -> Iterator[Report]:
        """The engine's messages, until it ends."""
        decoder = reports()
        while True:
            try:
                data = self._socket.recv(65536)
                if not data:
                    return
                yield from decoder.feed(data)
            except (OSError, FrameError):
                return

    def stop(self, timeout: float = 2.5) -> None:
        """Close the pipe and wait for the engine to end; kill it where it does not. Idempotent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()

    def abandon(self) -> None:
        """In a forked child: close the copy of the pipe, leave the engine to the parent."""
        self._socket.close()
        # Popen would warn that "its" process still runs; it is not ours to wait for.
        self._process.returncode = 0


def _new_log(folder: Path) -> str:
    """An empty owner-only log file; the oldest ones are removed."""
    logs = sorted(folder.glob("engine-*.log*"), key=lambda path: path.stat().st_mtime)
    for old in logs[: -2 * KEEP_LOGS]:
        old.unlink(missing_ok=True)
    number = 0
    while True:
        path = folder / f"engine-{os.getpid()}{f'-{number}' if number else ''}.log"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            return str(path)
        except FileExistsError:
            number += 1
