"""The socket of a client: its two ends, whether it has been closed at the other one, and how it is to end at ours.

SO_LINGER 0 is set when the client arrives and cleared only by an orderly end: even a killed engine resets its
clients. Unix sockets have no reset; they end with EOF. (TCP_NODELAY is set by the event loop, asyncio's and uvloop's.)
"""

from __future__ import annotations

import socket
import struct
import sys

from .sock_diag import Owner, query

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
ORDERLY_CLOSE = struct.pack("ii", 0, 0)

_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_TCP_CLOSE = 7  # include/net/tcp_states.h of Linux

Ends = tuple[tuple[str, int], tuple[str, int]]


class Peer:
    """The other end of a client's socket."""

    __slots__ = ("_ends", "_orderly", "_socket", "tcp")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._ends: Ends | None = None
        self._orderly = True
        self.tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        self.end_with_reset()

    @property
    def descriptor(self) -> int:
        """Our end's number."""
        return self._socket.fileno()

    def ends(self) -> Ends | None:
        """The addresses of a TCP client and of our end; None where it had gone before they were asked for."""
        if self._ends is None:
            try:
                peer, own = self._socket.getpeername(), self._socket.getsockname()
            except OSError:
                return None
            self._ends = (peer[0], peer[1]), (own[0], own[1])
        return self._ends

    def closed(self) -> bool | None:
        """Whether it has been closed altogether (a half-closed one still waits for its answer); None: not to be told.

        Of clients of other hosts the system knows a reset alone, and of unix sockets a write fails soon enough.
        """
        if not self.tcp:
            return None
        ends = self.ends()
        if ends is None:
            return True
        owner: Owner | None = query(*ends)
        if owner is not None:
            return owner.inode == 0
        return self._was_reset() or None

    def _was_reset(self) -> bool:
        """Whether the client has reset the connection, as far as the system tells (Linux does)."""
        if _TCP_INFO is None:
            return False
        # Asked for its name, uvloop's socket says what it said before. The first byte of struct tcp_info is the state.
        return self._socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] == _TCP_CLOSE

    def end_with_reset(self) -> None:
        """From now on its end is a reset."""
        if self.tcp and self._orderly:
            self._orderly = False
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    def end_in_order(self) -> None:
        """From now on its end is a FIN, after what was sent."""
        if self.tcp and not self._orderly:
            self._orderly = True
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ORDERLY_CLOSE)
