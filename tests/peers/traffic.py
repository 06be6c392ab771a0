"""Clients that watch what happens to them while something breaks.

with Steady(port) as steady: ...       # round trips the whole time: one of the others, who must notice nothing
with Transfer(port) as transfer: ...   # bytes in flight through an echo: what comes back is whole, or is reset
"""

from __future__ import annotations

import hashlib
import select
import socket
import threading
import time
from types import TracebackType

# The longest round trip of a client beside a fault, seconds: much less than the fault lasts (a machine under load
# included).
UNTOUCHED = 0.5
# What a transfer sends, over and over: no two of its places look alike within a block.
_BLOCK = hashlib.shake_128(b"transfer").digest(1 << 20)
_PIECE = 64 * 1024


class Steady:
    """One connection to an echo, a byte there and back fifty times a second: each soon, and at the end still.

    Args:
        within: seconds that a round trip may take.

    Attributes:
        worst: the longest round trip, seconds.
        turns: how many there were.
        lost: bytes sent that did not come back.
    """

    def __init__(self, port: int, within: float = UNTOUCHED) -> None:
        self.worst = 0.0
        self.turns = 0
        self.lost = 0
        self._within = within
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            while not self._over.wait(0.02):
                start = time.monotonic()
                self._socket.sendall(b"!")
                self.lost += 1
                if self._socket.recv(1) != b"!":
                    raise EOFError("the connection ended")
                self.worst = max(self.worst, time.monotonic() - start)
                self.lost -= 1
                self.turns += 1
        except BaseException as error:
            self._failure = error

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        enough, end = self.turns + 2, time.monotonic() + 15
        while error is None and self._thread.is_alive() and self.turns < enough and time.monotonic() < end:
            self._over.wait(0.02)
        self._over.set()
        self._thread.join(15)
        self._socket.close()
        if error is None:
            assert self._failure is None, f"a client of another tunnel was touched: {self._failure!r}"
            assert self.turns >= enough, "a client of another tunnel hangs"
            assert self.worst < self._within, f"a client of another tunnel was held up for {self.worst:.2f} s"


class Transfer:
    """A connection to an echo that is kept full both ways, until it ends.

    Attributes:
        received: bytes that came back, each of them compared with what was sent.
        outcome: "" while it goes on, then "complete" (`finish` and everything came back), "reset", or what was wrong.
    """

    def __init__(self, port: int) -> None:
        self.received = 0
        self.outcome = ""
        self._sent = 0
        self._finishing = threading.Event()
        self._over = threading.Event()
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.setblocking(False)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def finish(self, timeout: float = 30.0) -> str:
        """Send no more, read to the end; the outcome."""
        self._finishing.set()
        return self.wait(timeout)

    @property
    def lost(self) -> int:
        """Bytes sent that have not come back."""
        return self._sent - self.received

    def wait(self, timeout: float) -> str:
        """The outcome, "" where there is none in time."""
        self._thread.join(timeout)
        return self.outcome

    def _run(self) -> None:
        try:
            self.outcome = self._pump()
        except ConnectionResetError:
            self.outcome = "reset"
        except BrokenPipeError:
            self.outcome = "reset"  # as the writer sees one that the reader was told of

    def _pump(self) -> str:
        half_closed = False
        while not self._over.is_set():
            writers = [] if half_closed else [self._socket]
            readable, writable, _ = select.select([self._socket], writers, [], 0.1)
            if readable:
                data = self._socket.recv(_PIECE)
                if not data:
                    whole = half_closed and self.received == self._sent
                    return "complete" if whole else f"an end after {self.received} of {self._sent} bytes"
                if data != _at(self.received, len(data)):
                    return f"other bytes than were sent, near {self.received}"
                self.received += len(data)
            if writable and self._finishing.is_set():
                self._socket.shutdown(socket.SHUT_WR)
                half_closed = True
            elif writable:
                self._sent += self._socket.send(_at(self._sent, _PIECE))
        return ""

    def __enter__(self) -> Transfer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(15)
        self._socket.close()


def _at(place: int, length: int) -> bytes:
    """The bytes that are sent at `place`."""
    start = place % len(_BLOCK)
    return (_BLOCK[start : start + length] + _BLOCK)[:length]
