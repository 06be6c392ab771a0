"""A local port for a program that is not ours: one that is free, and then who listens on it.

It cannot be bound and held for somebody else, so what listens there is looked at before it is trusted. On Linux the
kernel is asked (`sock_diag`): a connection as a probe would use up a program that serves one, and may even meet
itself, because a free port may be picked as the connection's own. Elsewhere a connection it is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import NamedTuple

from ..sock_diag import GONE, Owner, query

# Where a program may listen: the loopback addresses, each with its family's unspecified one.
_HOSTS = {"127.0.0.1": "0.0.0.0", "::1": "::"}

# Ports given out and not given back: the system may name one again before its program has bound it.
_reserved: set[int] = set()


class Found(NamedTuple):
    """Somebody listens at `host`; `owner` is None where it cannot be told who."""

    host: str
    owner: Owner | None


def reserve() -> int:
    """A port of 127.0.0.1 that is free now, and that nobody else in this process was given."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        if port not in _reserved:
            _reserved.add(port)
            return port


def give_back(port: int) -> None:
    """The port is no longer wanted; idempotent."""
    _reserved.discard(port)


def listener(host: str, port: int) -> Owner | None:
    """Who listens at a loopback address: `GONE` for nobody, None where it cannot be told."""
    return query((host, port), (_HOSTS[host], 0))


async def find_listener(port: int) -> Found | None:
    """Who listens on the port, on 127.0.0.1 or else on ::1."""
    for host in _HOSTS:
        owner = listener(host, port)
        if owner is not None:
            if owner != GONE:
                return Found(host, owner)
        elif await _answers(host, port):
            return Found(host, None)
    return None


def met_itself(transport: asyncio.BaseTransport) -> bool:
    """Whether a connection is to itself (TCP's simultaneous open: its source port is its destination)."""
    own, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    return own is not None and own == peer


def is_of_group(inode: int, group: int) -> bool:
    """Whether a process of the group has the socket open (proc(5): /proc/PID/stat, /proc/PID/fd). Reads files."""
    link = f"socket:[{inode}]"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group and any(_target(one) == link for one in (process / "fd").iterdir()):
                return True
        except (OSError, IndexError, ValueError):  # it ended as we looked, or is another user's
            continue
    return False


async def _answers(host: str, port: int) -> bool:
    """Whether a connection can be made, and not to itself."""
    try:
        async with asyncio.timeout(1.0):
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
    except OSError:
        return False
    itself = met_itself(transport)
    transport.abort()
    return not itself


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
