"""Ask Linux about one TCP socket of this machine: who owns it, and whether its owner has closed it.

One netlink query (NETLINK_SOCK_DIAG, `struct inet_diag_req_v2` of linux/inet_diag.h; sock_diag(7)): exact,
unprivileged, a few microseconds. Elsewhere than on Linux `query` answers None: "cannot be told".
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import socket
import struct
import sys
from typing import NamedTuple

from ..spec import is_loopback

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, pid
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = b"\xff" * 8


class Owner(NamedTuple):
    """The owner of a socket. `inode` 0: no process has it open any more (fully closed, or gone)."""

    uid: int
    inode: int


GONE = Owner(-1, 0)


def _address(host: str, family: int) -> bytes:
    if family == socket.AF_INET:
        return socket.inet_aton(host) + bytes(12)
    return ipaddress.IPv6Address(host.partition("%")[0]).packed


def _unmapped(end: tuple[str, int]) -> tuple[str, int]:
    """`::ffff:127.0.0.1` is what a dual-stack listener says of a client whose own socket is IPv4."""
    host = end[0]
    return (host[7:], end[1]) if host.lower().startswith("::ffff:") and "." in host else end


class _Netlink:
    """One netlink socket for every question, for as long as the process lives.

    Kept, because where no descriptor is left is exactly where a stranger's connections may have taken them.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """One request of NETLINK_SOCK_DIAG, and the kind and body of its answer. Raises OSError."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        length = _HEADER.size + len(request)
        header = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0)
        self._socket.sendto(header + request, (0, 0))
        # The answer is there when sendto returns; one of an earlier question, which was given up, may precede it.
        while True:
            answer = self._socket.recv(4096)
            _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            if sequence == self._sequence:
                return kind, answer[_HEADER.size :]


_netlink = _Netlink()


@functools.cache
def tells_owners() -> bool:
    """Whether this system tells whose a connection on loopback is. Asked once, of a listener of our own.

    (A Linux without the module answers as it does for a socket that is not there.) Raises OSError where no file may be
    opened any more to find out with.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        with socket.create_server(("127.0.0.1", 0), backlog=1) as ours:
            own = ours.getsockname()
            return _look(own, own) == Owner(os.geteuid(), os.fstat(ours.fileno()).st_ino)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return False


def query(local: tuple[str, int], remote: tuple[str, int]) -> Owner | None:
    """The owner of the TCP socket whose own end is `local` and whose peer is `remote`.

    For a client of ours, `local` is the address we see as its peer name, `remote` our own.

    Returns:
        The owner, `GONE` where no such socket is left, None where it cannot be told (not Linux, no netlink, a socket
        of another host or network namespace).
    """
    local, remote = _unmapped(local), _unmapped(remote)
    if not is_loopback(local[0].partition("%")[0]) and local[0] != remote[0]:
        return None
    try:
        return _look(local, remote) if tells_owners() else None
    except OSError:
        return None


def _look(local: tuple[str, int], remote: tuple[str, int]) -> Owner | None:
    """What netlink says of the socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    request = (
        struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, _ALL_STATES)
        + struct.pack("!HH", local[1], remote[1])
        + _address(local[0], family)
        + _address(remote[0], family)
        + struct.pack("=I", 0)
        + _NO_COOKIE
    )
    kind, answer = _netlink.ask(request)
    if kind == _NLMSG_ERROR:
        (number,) = struct.unpack_from("=i", answer)
        return GONE if number == -errno.ENOENT else None
    # struct inet_diag_msg: 4 bytes, the 48 bytes of inet_diag_sockid, expires, rqueue, wqueue, uid, inode
    uid, inode = struct.unpack_from("=II", answer, 4 + 48 + 12)
    return Owner(uid, inode)
