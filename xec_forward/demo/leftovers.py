"""What the demo started, and whether any of it is left: processes, ports, temporary files.

`Witness` looks at the kernel and its children while they run; `report` looks for the same things afterwards. It
asks the system, not the code under test.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_Identity = tuple[int, float]  # pid and start time: a number alone may have been given out again


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for: what it was, whether it is gone, and the words for it."""

    gone: bool
    text: str


class Witness:
    """Remembers every process, listening port and folder it is shown."""

    def __init__(self) -> None:
        self._processes: dict[_Identity, str] = {}
        self._ports: dict[tuple[str, int], None] = {}
        self._folders: list[Path] = []

    def folder(self, path: Path) -> None:
        """Remember a folder."""
        self._folders.append(path)

    def process(self, pid: int, name: str) -> None:
        """Remember a process and the TCP ports it listens on."""
        try:
            process = psutil.Process(pid)
            self._processes.setdefault((pid, process.create_time()), name)
            self._listening(process)
        except psutil.Error:
            pass

    def kernel(self, pid: int) -> None:
        """Remember a kernel, its children (the engine is one), and the ports the children listen on."""
        try:
            kernel = psutil.Process(pid)
            self._processes.setdefault((pid, kernel.create_time()), "kernel")
            children = kernel.children(recursive=True)
        except psutil.Error:
            return
        for child in children:
            try:
                name = "engine" if "xec_forward.engine" in " ".join(child.cmdline()) else child.name()
                self._processes.setdefault((child.pid, child.create_time()), name)
                self._listening(child)
            except psutil.Error:
                continue

    @property
    def saw_tunnel(self) -> bool:
        """An engine was seen, and a port it listened on."""
        return "engine" in self._processes.values() and bool(self._ports)

    def findings(self, timeout: float = 5.0) -> list[Finding]:
        """Look for everything again, giving it `timeout` seconds in all to go away."""
        deadline = time.monotonic() + timeout
        found: list[Finding] = []
        for (pid, born), name in self._processes.items():
            gone = _until(lambda pid=pid, born=born: not _alive(pid, born), deadline)
            found.append(Finding(gone, f"{name} (process {pid})  {'gone' if gone else 'STILL RUNS'}"))
        for host, port in self._ports:
            free = _until(lambda host=host, port=port: _can_bind(host, port), deadline)
            found.append(Finding(free, f"port {host}:{port}  {'free' if free else 'STILL TAKEN'}"))
        for folder in self._folders:
            gone = _until(lambda folder=folder: not folder.exists(), deadline)
            found.append(Finding(gone, f"{folder}  {'removed' if gone else 'STILL THERE'}"))
        return found

    def _listening(self, process: psutil.Process) -> None:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                self._ports.setdefault((connection.laddr.ip, connection.laddr.port))


def files_in(folder: Path) -> list[Path]:
    """Everything in `folder` that is not a folder, at any depth."""
    return [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]


def _until(condition: object, deadline: float) -> bool:
    assert callable(condition)
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _alive(pid: int, born: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _can_bind(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As every server does: only a live listener counts, not the wait of an old connection.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno not in (errno.EADDRINUSE, errno.EACCES)
        return True
