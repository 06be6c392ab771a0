"""What is found out once, and what is not, of whether the system tells whose a connection is."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from xec_forward.engine import sock_diag
from xec_forward.engine.guard import Guard

# NLMSG_ERROR and ENOENT: of a socket that is not there, and of everything where the kernel lacks the module.
NOTHING_THERE = (2, struct.pack("=i", -errno.ENOENT))


@pytest.fixture(autouse=True)
def _unknown() -> Iterator[None]:
    sock_diag.tells_owners.cache_clear()
    yield
    sock_diag.tells_owners.cache_clear()


def connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def test_kernel_without_the_module_takes_nobody_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag._netlink, "ask", lambda request: NOTHING_THERE)
    client, served = connection()
    with client, served:
        ends = client.getsockname(), served.getsockname()
        assert sock_diag.tells_owners() is False
        assert sock_diag.query(*ends) is None
        guard = Guard.of((), "uid")
        assert guard.refuses(*ends) is None
        assert "not kept out" in guard.remark("127.0.0.1")


def test_want_of_descriptors_is_no_answer_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(request: bytes) -> tuple[int, bytes]:
        raise OSError(errno.EMFILE, "Too many open files")

    client, served = connection()
    with client, served:
        ends = client.getsockname(), served.getsockname()
        guard = Guard.of((), "uid")
        with monkeypatch.context() as patched:
            patched.setattr(sock_diag._netlink, "ask", fails)
            assert guard.refuses(*ends) is not None
        assert sock_diag.tells_owners() is True
        assert guard.refuses(*ends) is None
