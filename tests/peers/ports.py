"""Ports for the peers, so that none of them is taken for another.

A peer listens on 127.0.0.1. The same number on ::1 stays free, and the system gives it to whoever asks for any
port there: an sshd that was asked to listen on `localhost:0` takes it, says yes, and who then connects to
127.0.0.1 at that number meets the peer.
"""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def port_free(port: int) -> bool:
    """Whether 127.0.0.1:`port` can be bound, as a server would."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def claim(port: int) -> socket.socket:
    """Hold `port` on ::1, where nobody answers, until the socket is closed.

    Without IPv6, or where somebody has it already, the socket holds nothing.
    """
    held = socket.socket(socket.AF_INET6)
    try:
        held.bind(("::1", port))
    except OSError:
        held.close()
    return held
