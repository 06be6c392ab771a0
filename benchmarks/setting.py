"""What the benchmarks share: one sshd, far services, `ssh -L` as the peer, and a table of results with limits."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.peers.ports import free_port
from tests.peers.services import Services
from tests.peers.sshd import Sshd


class Setting:
    """A bastion and its far services; `XEC_FORWARD_SSH_CONFIG` names the bastion's ssh_config."""

    def __init__(self, bastion: Sshd, services: Services, config: Path) -> None:
        self.bastion = bastion
        self.services = services
        self.config = config

    @contextlib.contextmanager
    def ssh_forward(self, far_port: int, *options: str) -> Iterator[tuple[int, int]]:
        """`ssh -L` to a far port: its local port and its process id."""
        port = free_port()
        process = subprocess.Popen(
            ["ssh", "-F", self.config, *options, "-N", "-L", f"127.0.0.1:{port}:pg.vpc:{far_port}", "bastion"],
            stdin=subprocess.DEVNULL,
        )
        try:
            end = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.02)
            yield port, process.pid
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def setting() -> Iterator[Setting]:
    """A fresh bastion and services, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="xec-bench-") as name:
        folder = Path(name)
        (folder / "bastion").mkdir()
        with Sshd(folder / "bastion") as bastion, Services() as services:
            config = bastion.write_config(folder / "ssh_config")
            os.environ["XEC_FORWARD_SSH_CONFIG"] = str(config)
            os.environ["XEC_FORWARD_STATE"] = str(folder / "state")
            os.environ.pop("SSH_AUTH_SOCK", None)
            yield Setting(bastion, services, config)


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds() -> float:
    """The same for this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def pairs(count: int, first: Callable[[], float], second: Callable[[], float]) -> list[tuple[float, float]]:
    """Measure two things in turn, `count` times; which goes first alternates."""
    found = []
    for number in range(count):
        if number % 2:
            b = second()
            found.append((first(), b))
        else:
            a = first()
            found.append((a, second()))
    return found


def ratio(found: Sequence[tuple[float, float]]) -> float:
    """The median of first / second over pairs."""
    return statistics.median(a / b for a, b in found)


class Verdicts:
    """Prints one line a measurement, with its limit, and remembers whether all were met."""

    def __init__(self) -> None:
        self.met = True

    def at_least(self, what: str, value: float, limit: float, detail: str = "") -> None:
        self._say(what, value, f">= {limit:g}", value >= limit, detail)

    def at_most(self, what: str, value: float, limit: float, detail: str = "") -> None:
        self._say(what, value, f"<= {limit:g}", value <= limit, detail)

    def _say(self, what: str, value: float, limit: str, met: bool, detail: str) -> None:
        self.met &= met
        print(f"{'met   ' if met else 'MISSED'}  {what:<52} {value:8.2f}  (wanted {limit})  {detail}", flush=True)

    def exit(self) -> None:
        """End the script; non-zero where a limit was missed."""
        raise SystemExit(0 if self.met else 1)
