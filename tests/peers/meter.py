"""A TCP relay in front of a server that counts the bytes each way: what compression saves on the wire.

with Meter(sshd.port) as meter:
    ...                                # connect to meter.port
    print(meter.up, meter.down)
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Meter:
    """Relays 127.0.0.1:`port` to 127.0.0.1:`to`, and counts.

    Attributes:
        port: where it listens.
        up, down: bytes from clients to the server, and back.
    """

    def __init__(self, to: int) -> None:
        self.up = self.down = 0
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to), 10)
                server.settimeout(None)
                self._sockets += [client, server]
                for one, other, up in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pump, args=(one, other, up), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                with self._lock:
                    self.up += len(data) if up else 0
                    self.down += 0 if up else len(data)
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
