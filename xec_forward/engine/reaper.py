"""Runs one shell command for the engine and outlives it just long enough to end it: `python .../reaper.py FD`.

FD is our end of a socket pair with the engine; 0, 1 and 2 are the command's own and are left to it.

    engine -> reaper    COMMAND NUL, once; after that any byte, or the end of the stream, means: end it
    reaper -> engine    one line each: "started PID", then "exited STATUS"; or "failed ERRNO" in their place

PID is the shell's and its process group's. STATUS is its exit code, or minus the number of the signal that
ended it. The command is run by `/bin/sh -c`, as ssh's ProxyCommand is by the user's shell (ssh_config(5)).

The group ends when the engine says so, when the engine is gone (whatever killed it: the kernel closes its end of
the pair), when we get SIGTERM, and when the shell itself has ended and left children behind: SIGTERM first, SIGKILL
to whatever is left after GRACE seconds. A process that moved to a group of its own (setsid, a daemon) is not found.

Imports nothing of ours and little else: it is started for every command, and starts in some 20 ms.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time

# Seconds between SIGTERM and SIGKILL, and again until we give up on what not even SIGKILL ends.
GRACE = 1.0
_LOOK_EVERY = 0.01
_LONGEST_COMMAND = 1 << 20
# What may be ignored or handled here must be as usual for the command: ignored signals survive an exec.
_DEFAULTS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class Reaper:
    """One command and its process group.

    Args:
        control: our end of the socket pair.
    """

    def __init__(self, control: int) -> None:
        _close_all_but(control)
        # It was inherited on purpose; the command must not inherit it in turn, or the pair would outlive us.
        os.set_inheritable(control, False)
        self._control = control
        self._group = 0
        self._status: int | None = None
        self._told_to_end = False
        self._wakes, wake = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminate)

    def run(self) -> None:
        """From the command to the last of its processes."""
        command = self._receive()
        if command is None:
            return
        try:
            self._group = os.posix_spawn(
                "/bin/sh",
                [b"sh", b"-c", command],
                os.environ,
                setpgroup=0,
                setsigmask=(),
                setsigdef=_DEFAULTS,
            )
        except OSError as error:
            self._say(f"failed {error.errno}")
            return
        self._let_go()
        self._say(f"started {self._group}")
        _adopt_orphans()
        while not self._told_to_end and not self._reap():
            self._wait()
        self._end()

    def _receive(self) -> bytes | None:
        """The command, or None where the engine is gone, or wants it no more, before it was started."""
        received = b""
        while b"\0" not in received:
            part = self._read()
            if not part or len(received) > _LONGEST_COMMAND:
                return None
            received += part
        command, _, more = received.partition(b"\0")
        return None if more else command

    def _read(self) -> bytes:
        try:
            return os.read(self._control, 1 << 16)
        except OSError:  # a killed engine with our words unread resets the pair
            return b""

    def _let_go(self) -> None:
        """Close our copies of the command's descriptors, so that their ends show when the command's own are closed."""
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)

    def _wait(self, timeout: float | None = None) -> None:
        """Until the engine speaks or is gone, or a signal came."""
        listening = [self._wakes] if self._told_to_end else [self._wakes, self._control]
        ready = select.select(listening, (), (), timeout)[0]
        if self._wakes in ready:
            os.read(self._wakes, 4096)
        if self._control in ready:
            self._read()
            self._told_to_end = True

    def _reap(self) -> bool:
        """Take note of all that has ended; whether the shell has. Says so the first time."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if pid == self._group:
                self._status = os.waitstatus_to_exitcode(status)
                self._say(f"exited {self._status}")
        return self._status is not None

    def _end(self) -> None:
        """End the group. Returns when nothing of it is left, or nothing more can be done."""
        self._told_to_end = True
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a stopped process takes no SIGTERM
        end = time.monotonic() + GRACE
        killed = False
        while True:
            # Reaped first: a zombie would count as alive.
            if self._reap() and not self._signal(0):
                return
            if time.monotonic() >= end:
                if killed:
                    return
                self._signal(signal.SIGKILL)
                killed, end = True, time.monotonic() + GRACE
            self._wait(_LOOK_EVERY)

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; whether anything of it is there that we can reach."""
        try:
            os.killpg(self._group, number)
        except (ProcessLookupError, PermissionError):  # the latter: another user's (sudo), or macOS: only zombies
            return False
        return True

    def _say(self, line: str) -> None:
        try:
            os.write(self._control, f"{line}\n".encode())
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise

    def _terminate(self, *_: object) -> None:
        self._told_to_end = True


def _close_all_but(control: int) -> None:
    """Close what was inherited by accident: uvloop passes copies of 1 and 2, whose ends would then never show."""
    try:
        descriptors = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        descriptors = list(range(256))
    for descriptor in descriptors:
        if descriptor > 2 and descriptor != control:
            try:
                os.close(descriptor)
            except OSError:  # the one that read the list
                pass


def _adopt_orphans() -> None:
    """What the shell leaves behind becomes our child, to be reaped: a container's first process may never do it.

    prctl(2), PR_SET_CHILD_SUBREAPER. After the start, because ctypes takes its time.
    """
    if sys.platform.startswith("linux"):
        try:
            import ctypes

            ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
        except (ImportError, OSError, AttributeError):
            pass  # then they are the first process's


if __name__ == "__main__":
    Reaper(int(sys.argv[1])).run()
