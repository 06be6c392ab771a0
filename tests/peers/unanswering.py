"""A port that answers no connection, as behind a firewall that drops packets: its backlog is full.

with Unanswering() as target:
    ...                # connect to target.port: neither accepted nor refused
    target.answer()    # from now on an echo; who still repeats his SYN is served (after 1, 3, 7 s)
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from types import TracebackType


class Unanswering:
    """`port` of 127.0.0.1, or of another address of this machine, while the context is open. Raises OSError."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family)
        self._listener.bind((host, port))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        # One that is never accepted fills the backlog; the next is the proof.
        self._filler = socket.create_connection((host, self.port), 5)
        with socket.socket(family) as probe:
            probe.settimeout(0.2)
            assert probe.connect_ex((host, self.port)) == errno.EAGAIN, "the backlog is not full"

    def answer(self) -> None:
        """Accept whoever comes, and send back what they send."""
        self._filler.close()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._echo, args=(client,), daemon=True).start()

    def _echo(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                client.sendall(data)

    def __enter__(self) -> Unanswering:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._filler.close()
