"""A shell command of the user's, run under the reaper: started, listened to, and ended with all its children.

Nothing of the command stands in an argument of ours: it travels to the reaper over a socket pair (see `reaper`).
What it says goes to the engine's log, line by line; its last line is what an error can quote.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import cast

from ..errors import ConfigError, EngineError
from ..options import CommandTarget
from ..spec.words import shorten
from . import reaper
from .pipes import connect_reading

logger = logging.getLogger(__name__)

# Seconds the reaper has to start the command: a Python interpreter on a busy machine.
START_DEADLINE = 15.0
# How long the last words of a command that has ended are waited for, where a process that left still holds its output.
OUTPUT_GRACE = 0.2
# The log is small and rotates: a talkative output gets this many lines in each span of seconds.
LOG_LINES, LOG_SPAN = 100, 10.0
_LONGEST_LINE = 2000
# Terminal sequences (ECMA-48 section 5.4), and whatever else must not reach a log or a notebook.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[^\S ]|[\x00-\x1f\x7f-\x9f]")
_ASSIGNMENT = re.compile(r"\w+=")


def name_of(command: str) -> str:
    """What to call a command in a message: its program's name alone, because its arguments may hold anything.

    >>> name_of("AWS_PROFILE=x /usr/bin/aws ssm start-session")
    'aws'
    """
    return CommandTarget(command).host


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended.

    Attributes:
        status: its exit code, minus the number of the signal that ended it, None where it cannot be told.
        last_words: the last line it wrote to stderr (or else to stdout), shortened, or "".
    """

    status: int | None
    last_words: str = ""

    def __str__(self) -> str:
        if self.status is None:
            how = "was ended"
        elif self.status < 0:
            how = f"was ended by {_signal_name(-self.status)}"
        else:
            # A shell says 128 + N of a child that signal N ended (POSIX, Shell Command Language, 2.8.2).
            why = f" ({_signal_name(self.status - 128)})" if 128 < self.status < 160 else ""
            how = f"ended with exit code {self.status}{why}"
        return f"{how}: {self.last_words}" if self.last_words else how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Program(asyncio.SubprocessProtocol):
    """A running command. Make one with `Program.start`.

    Attributes:
        name: for messages.
        logged: what it says goes to the log.
        group: the process id of its shell, and the id of its process group.
        ended: resolved once the shell has ended; its children may live a moment longer (see `wait_gone`).
    """

    def __init__(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.logged = True
        self.group = 0
        self.ended: asyncio.Future[Ending] = loop.create_future()
        self._loop = loop
        self._started: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._process: asyncio.SubprocessTransport | None = None
        self._control: asyncio.Transport | None = None
        self._reaper_gone = False
        self._reported = False
        self._status: int | None = None
        self._outputs: dict[int, _Output] = {}

    @classmethod
    async def start(
        cls,
        command: str,
        name: str,
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        logged: bool = True,
    ) -> Program:
        """Start a command by /bin/sh; returns when the shell runs. Cancelling it leaves nothing running.

        Args:
            command: one line or several, as for `sh -c`.
            name: what to call it.
            stdin, stdout: descriptors that become the command's own (the caller closes his copies); unless told,
                /dev/null, and a pipe to the log as stderr always is.
            logged: what it says goes to the log; else its last line alone is kept, for errors.

        Raises:
            ConfigError: it is no command.
            EngineError: no process could be started.
        """
        if not command.strip() or "\0" in command:
            raise ConfigError("the command is empty or holds a NUL", hop=name)
        program = cls(name)
        program.logged = logged
        ours, theirs = socket.socketpair()
        passed = [theirs.fileno()]
        try:
            # Pipes of our own: uvloop's are sockets, on which a script's `> /dev/stderr` fails.
            if stdout == subprocess.PIPE:
                stdout = await program._listen_to(1)
                passed.append(stdout)
            stderr = await program._listen_to(2)
            passed.append(stderr)
            # The path, not the module, and no site: half the time to start, and no hook of anybody's runs first.
            await program._loop.subprocess_exec(
                lambda: program,
                sys.executable,
                "-I",
                "-S",
                reaper.__file__,
                str(theirs.fileno()),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(theirs.fileno(),),
                # Its own session: what is sent to the engine's group must not reach it.
                start_new_session=True,
            )
            await program._loop.create_unix_connection(lambda: _Control(program), sock=ours)
            assert program._control is not None
            program._control.write(command.encode(errors="surrogateescape") + b"\0")
            async with asyncio.timeout(START_DEADLINE):
                await program._started
        except TimeoutError:
            program._give_up()
            raise EngineError(f"the command did not start within {START_DEADLINE:g} s", hop=name) from None
        except OSError as error:
            program._give_up()
            raise EngineError(f"no process could be started: {error.strerror or error}", hop=name) from error
        except BaseException:
            program._give_up()
            raise
        finally:
            theirs.detach()
            for descriptor in passed:
                os.close(descriptor)
            if program._control is None:
                ours.close()
        return program

    def end(self) -> None:
        """End the command and its children: SIGTERM, and SIGKILL after a second. Returns at once; idempotent."""
        if self._control is not None and not self._control.is_closing():
            # Half of it: what the reaper still says is heard.
            self._control.write_eof()

    def _give_up(self) -> None:
        """The start has failed."""
        self.end()
        if self._process is None:
            for output in self._outputs.values():
                output.close()

    async def wait_gone(self) -> None:
        """Wait until nothing is left of the command, of its process group, of the reaper, and of our pipes to them."""
        if self._process is not None:
            await asyncio.shield(self._gone)

    async def _listen_to(self, number: int) -> int:
        """The writing end of a pipe that leads to the log."""
        reading, writing = os.pipe()
        output = self._outputs[number] = _Output(self.name, self)
        try:
            await connect_reading(output, reading)
        except BaseException:
            os.close(writing)
            raise
        return writing

    @property
    def last_words(self) -> str:
        """The last line so far: of stderr, else of stdout."""
        for descriptor in (2, 1):
            output = self._outputs.get(descriptor)
            if output is not None and output.last:
                return output.last
        return ""

    # called by the process's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process = cast(asyncio.SubprocessTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The reaper has gone."""
        self._reaper_gone = True
        # A process that left the group may hold our pipes for ever.
        for output in self._outputs.values():
            self._loop.call_later(OUTPUT_GRACE, output.close)
        self.output_finished()

    def output_finished(self) -> None:
        """Called when a pipe has ended."""
        if all(output.finished for output in self._outputs.values()):
            if self._reported:
                self._conclude()
            if self._reaper_gone and not self._gone.done():
                self._gone.set_result(None)

    # called by the reaper's end of the pair

    def heard(self, word: str, number: int) -> None:
        """One line of the reaper's."""
        if word == "started":
            self.group = number
            logger.info("%s: started as process %d", self.name, number)
            if not self._started.done():
                self._started.set_result(None)
        elif word == "exited":
            self._report(number)
        elif not self._started.done():
            self._started.set_exception(EngineError(f"no process could be started: {os.strerror(number)}"))

    def control_made(self, transport: asyncio.Transport) -> None:
        """The pair is up."""
        self._control = transport

    def control_lost(self) -> None:
        """The reaper is gone, or will be at once."""
        if not self._started.done():
            self._started.set_exception(EngineError("the reaper ended before it started the command"))
            self._started.exception()  # the caller may have gone
        if self.group and not self._reported:
            # Somebody killed the reaper: its work is ours. It has not reaped the shell, so the group's id is its own.
            with contextlib.suppress(OSError):
                os.killpg(self.group, signal.SIGKILL)
            self._report(None)

    def _report(self, status: int | None) -> None:
        if not self._reported:
            self._reported = True
            self._status = status
            self._loop.call_later(OUTPUT_GRACE, self._conclude)
            self.output_finished()

    def _conclude(self) -> None:
        if not self.ended.done():
            ending = Ending(self._status, self.last_words)
            logger.info("%s: %s", self.name, Ending(self._status))
            self.ended.set_result(ending)


class _Control(asyncio.Protocol):
    """Our end of the pair with the reaper."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._program.control_made(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            word, _, number = line.decode().partition(" ")
            self._program.heard(word, int(number))

    def connection_lost(self, exc: Exception | None) -> None:
        self._program.control_lost()


class _Quota:
    """How much of the log one output may have."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._start = loop.time()
        self._lines = 0

    def spend(self) -> tuple[bool, int]:
        """Whether one more line may be logged, and how many were left out in the span before."""
        left_out = 0
        now = self._loop.time()
        if now - self._start >= LOG_SPAN:
            left_out = max(0, self._lines - LOG_LINES)
            self._start, self._lines = now, 0
        self._lines += 1
        return self._lines <= LOG_LINES, left_out


class _Output(asyncio.Protocol):
    """One of a command's outputs, line by line. Holds one line of bounded length, and the last that said something."""

    def __init__(self, name: str, program: Program) -> None:
        self._name = name
        self._program = program
        self._quota = _Quota(asyncio.get_running_loop())
        self._transport: asyncio.BaseTransport | None = None
        self._unfinished = b""
        self.last = ""
        self.finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self._unfinished + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._line(line)
        self._unfinished = rest[:_LONGEST_LINE]

    def connection_lost(self, exc: Exception | None) -> None:
        line, self._unfinished = self._unfinished, b""
        self._line(line)
        self.finished = True
        self._program.output_finished()

    def close(self) -> None:
        """Listen no more; idempotent."""
        if self._transport is not None:
            self._transport.close()

    def _line(self, raw: bytes) -> None:
        line = _ESCAPES.sub(" ", raw[:_LONGEST_LINE].decode(errors="replace")).strip()
        if not line:
            return
        self.last = shorten(line)
        if not self._program.logged:
            return
        may, left_out = self._quota.spend()
        if left_out:
            logger.info("%s: %d more lines were left out", self._name, left_out)
        if may:
            logger.info("%s: %s", self._name, line)
