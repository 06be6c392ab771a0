"""The far services that tunnels lead to: one process, one listener for each way a service can behave.

    echo      sends back what it receives, and its end
    source    reads a line with a number N, answers N bytes (see `pattern`), ends
    reply     reads to the end of the stream, then answers its length and sha256 as one line
    paced     the same, reading no more than PACE bytes a second
    hang      reads everything, answers nothing, never ends
    deaf      never reads
    reset     reads once, then resets the connection
    refused   a port that is held and on which nobody listens

Each TCP service listens on 127.0.0.1; echo and reply also on unix sockets where a folder is given. The
process ends when its standard input does, so it never outlives the test: `python services.py [FOLDER]`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

PACE = 25_000_000  # bytes a second
_IDLE = 120.0  # seconds a service waits on a silent client before it gives up
_BLOCK = 64 * 1024


def pattern(length: int) -> Iterator[bytes]:
    """The bytes that `source` sends, in blocks that differ by their place in the stream."""
    filler = hashlib.shake_128(b"xec_forward").digest(_BLOCK - 8)
    for number in range(-(-length // _BLOCK)):
        block = struct.pack(">Q", number) + filler
        yield block[: length - number * _BLOCK]


def pattern_digest(length: int) -> str:
    """The sha256 of `pattern(length)` as hex."""
    digest = hashlib.sha256()
    for block in pattern(length):
        digest.update(block)
    return digest.hexdigest()


def _echo(client: socket.socket) -> None:
    while data := client.recv(_BLOCK):
        client.sendall(data)


def _source(client: socket.socket) -> None:
    line = b""
    while not line.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            return
        line += byte
    for block in pattern(int(line)):
        client.sendall(block)


def _reply(client: socket.socket, pace: float = math.inf) -> None:
    digest, length, start = hashlib.sha256(), 0, time.monotonic()
    while data := client.recv(4 * _BLOCK):
        digest.update(data)
        length += len(data)
        if (early := start + length / pace - time.monotonic()) > 0:
            time.sleep(early)
    client.sendall(f"{length} {digest.hexdigest()}\n".encode())


def _paced(client: socket.socket) -> None:
    _reply(client, PACE)


def _hang(client: socket.socket) -> None:
    client.settimeout(None)
    while client.recv(_BLOCK):
        pass
    threading.Event().wait()


def _deaf(client: socket.socket) -> None:
    threading.Event().wait()


def _reset(client: socket.socket) -> None:
    client.recv(_BLOCK)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


_BEHAVIOURS: dict[str, Callable[[socket.socket], None]] = {
    "echo": _echo,
    "source": _source,
    "reply": _reply,
    "paced": _paced,
    "hang": _hang,
    "deaf": _deaf,
    "reset": _reset,
}


def _serve(listener: socket.socket, behave: Callable[[socket.socket], None]) -> None:
    def one(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(_IDLE)
            behave(client)

    while True:
        client, _ = listener.accept()
        threading.Thread(target=one, args=(client,), daemon=True).start()


def _main(folder: str) -> None:
    addresses: dict[str, int | str] = {}
    for name, behave in _BEHAVIOURS.items():
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        addresses[name] = listener.getsockname()[1]
        threading.Thread(target=_serve, args=(listener, behave), daemon=True).start()
        if folder and name in ("echo", "reply"):
            path = os.path.join(folder, f"{name}.sock")
            unix = socket.socket(socket.AF_UNIX)
            unix.bind(path)
            unix.listen(1024)
            os.chmod(path, 0o666)
            addresses[f"{name}_path"] = path
            threading.Thread(target=_serve, args=(unix, behave), daemon=True).start()
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    addresses["refused"] = held.getsockname()[1]
    print(json.dumps(addresses), flush=True)
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


class Services:
    """The services, running while the context is open.

    Attributes:
        echo, source, reply, paced, hang, deaf, reset, refused: ports on 127.0.0.1.
        echo_path, reply_path: unix sockets, "" where no folder was given.
    """

    echo: int
    source: int
    reply: int
    paced: int
    hang: int
    deaf: int
    reset: int
    refused: int
    echo_path: str = ""
    reply_path: str = ""

    def __init__(self, folder: Path | None = None) -> None:
        from tests.peers.ports import claim  # not above: this file is a program, too, that has no packages

        self._claims: list[socket.socket] = []
        self._process = subprocess.Popen(
            [sys.executable, "-S", __file__, str(folder or "")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError("the services did not start")
        for name, value in json.loads(line).items():
            setattr(self, name, value)
            if isinstance(value, int):
                self._claims.append(claim(value))

    @property
    def pid(self) -> int:
        """The process that runs them."""
        return self._process.pid

    def close(self) -> None:
        """End the process, and every connection with it."""
        for held in self._claims:
            held.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def __enter__(self) -> Services:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


if __name__ == "__main__":
    _main(sys.argv[1] if len(sys.argv) > 1 else "")
