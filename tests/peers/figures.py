"""What the engine holds, and the line of figures that each row of the table of faults prints."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from xec_forward.client.session import current

MEGABYTE = 1024 * 1024
# What a row may keep at the most, beyond what was there before it: descriptors, tasks, megabytes. The memory is what an
# outage with hundreds of clients leaves to the allocator, for the next one.
KEPT = (2, 2, 20.0)
# What is left of each time that something was done, megabytes: the allocator's, and not enough to be a leak.
_EACH = 0.01
# The last of the clients' ends takes a moment, seconds.
_SETTLES_WITHIN = 10.0
# Every row that was said, for the end of the run: pytest shows nothing of a test that passes.
SAID: list[str] = []


def kept_by(rounds: int, base: float = 1.0) -> tuple[int, int, float]:
    """What a row may keep that does the same so many times, having done it before.

    Args:
        base: megabytes that do not grow with the rounds: of what is large, or has not been done before.
    """
    descriptors, tasks, _ = KEPT
    return descriptors, tasks, round(base + _EACH * rounds, 1)


class Figures:
    """The engine that runs now, seen from outside; `say` counts what it kept from here on.

    Args:
        most: what may be kept: descriptors, tasks, megabytes.
    """

    def __init__(self, most: tuple[int, int, float] = KEPT) -> None:
        self._most = most
        self._pid = current().engine_pid
        self._process = Path(f"/proc/{self._pid}")
        self._log = Path(current().log)
        self._before = (self.descriptors(), self.tasks(), self.megabytes())

    def descriptors(self) -> int:
        """Open files, sockets among them."""
        return len(list((self._process / "fd").iterdir()))

    def tasks(self) -> int:
        """asyncio's tasks that are not done; the engine's log tells them, when it is asked with SIGUSR1."""
        told = len(self._tellings())
        os.kill(self._pid, signal.SIGUSR1)
        end = time.monotonic() + 10
        while len(tellings := self._tellings()) == told:
            assert time.monotonic() < end, "the engine did not tell its tasks"
            time.sleep(0.005)
        return tellings[-1]

    def megabytes(self) -> float:
        """Resident memory."""
        return self._status("VmRSS") / 1024

    def peak(self) -> float:
        """The most megabytes that were ever resident (proc(5), VmHWM)."""
        return self._status("VmHWM") / 1024

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = (self._process / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kept(self) -> tuple[int, int, float]:
        """Descriptors, tasks and megabytes more than at the start."""
        descriptors, tasks, megabytes = self._before
        return self.descriptors() - descriptors, self.tasks() - tasks, self.megabytes() - megabytes

    def settled(self) -> tuple[int, int, float]:
        """What is kept, once it is no more than may be. AssertionError where it stays more."""
        end = time.monotonic() + _SETTLES_WITHIN
        while True:
            kept = self.kept()
            if all(more <= most for more, most in zip(kept, self._most, strict=True)):
                return kept
            assert time.monotonic() < end, f"kept {kept} descriptors, tasks and MB, at the most {self._most}"
            time.sleep(0.02)

    def say(self, row: str, *, lost: int, recovered: float | None = None, **more: object) -> None:
        """Print the row's line: bytes lost, seconds to recover, what is kept, and what else there is to tell.

        Raises AssertionError where more is kept than may be.
        """
        descriptors, tasks, megabytes = self.settled()
        took = "-" if recovered is None else f"{recovered:.2f} s"
        rest = "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in more.items())
        line = (
            f"{row:<42} lost {lost} B  recovered {took:>6}  "
            f"kept {descriptors:+d} descriptors {tasks:+d} tasks {megabytes:+.1f} MB  | {rest}"
        )
        SAID.append(line)
        print(f"\n{line}")

    def _tellings(self) -> list[int]:
        return [int(count) for count in re.findall(r" (\d+) tasks: .*\n", self._log.read_text())]

    def _status(self, name: str) -> int:
        lines = (self._process / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
