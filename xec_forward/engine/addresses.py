"""Tells when the machine's own addresses change.

On Linux the kernel says so (rtnetlink(7), the groups for addresses of both families). Elsewhere nobody does without a
helper program: there the address that packets to the outside would leave from is looked at now and then, by a
connected datagram socket, which sends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from types import TracebackType

# linux/rtnetlink.h: the groups' bits, and the messages of a new address and one that was taken away.
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
# linux/netlink.h, linux/if_addr.h: the sizes of nlmsghdr and ifaddrmsg, and the attribute that is the address.
_HEADER, _IFADDRMSG = 16, 8
_IFA_ADDRESS = 1
# How often the outer address is looked at where the system does not tell, seconds.
LOOK = 5.0
# For documentation (RFC 5737), so nobody is there.
_OUTSIDE = ("192.0.2.1", 9)


class Addresses:
    """Calls `changed` when an address of this machine has come or gone, while the context is open."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._outer = ""
        self._known: set[tuple[int, bytes]] = set()

    def __enter__(self) -> Addresses:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._listen()
        if self._socket is None:
            self._outer = _outer_address()
            self._look_later()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()

    def _listen(self) -> None:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            sock.setblocking(False)
            sock.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        except OSError:
            sock.close()
            raise
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._read)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: more changes than there was room for
            self._changed()
            return
        # netlink(7): messages one after another, each with its length and type first, aligned to 4 bytes.
        changed = False
        while len(data) >= _HEADER:
            length, kind = struct.unpack_from("=IH", data)
            if kind in (_RTM_NEWADDR, _RTM_DELADDR):
                changed = self._differs(kind, data[_HEADER:length]) or changed
            data = data[(length + 3 & ~3) or len(data) :]
        if changed:
            self._changed()

    def _differs(self, kind: int, body: bytes) -> bool:
        """Whether this says something new: a router's advertisements announce the same address again and again."""
        address = _address_of(body)
        if kind == _RTM_DELADDR:
            self._known.discard(address)
        elif address in self._known:
            return False
        else:
            self._known.add(address)
        return True

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        outer = _outer_address()
        if outer != self._outer:
            self._outer = outer
            self._changed()
        self._look_later()


def _address_of(body: bytes) -> tuple[int, bytes]:
    """The interface's index and the address that an ifaddrmsg with its attributes (rtnetlink(7)) is about."""
    if len(body) < _IFADDRMSG:
        return 0, b""
    (index,) = struct.unpack_from("=I", body, 4)
    attributes = body[_IFADDRMSG:]
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == _IFA_ADDRESS:
            return index, attributes[4:length]
        attributes = attributes[(length + 3 & ~3) or len(attributes) :]
    return index, b""


def _outer_address() -> str:
    """The address that a packet to the outside would leave from; "" without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(_OUTSIDE)
            return str(sock.getsockname()[0])
        except OSError:
            return ""
