"""Local forwards that a client of our master asked for (`ssh -O forward -L`): listeners that lead into a link."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from typing import Any

from ....errors import BindPermissionError, ConfigError, ForwardError, PortInUseError
from ....spec import Endpoint
from ...guard import Guard
from ...peer import RESET_ON_CLOSE
from ..base import Link
from . import mux
from .stdio import Stdio

_BACKLOG = 128
# How long nobody is taken after one could not be, seconds.
_PAUSE = 0.25

logger = logging.getLogger(__name__)


class Forwards:
    """Listeners by the values they were asked for with.

    Args:
        link: where their clients are led to.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._guard = Guard.of((), "uid")
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[mux.Forwarding, list[socket.socket]] = {}
        self._clients: set[Stdio] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, forward: mux.Forwarding) -> None:
        """Listen; what is already open is left as it is.

        Raises:
            ConfigError: a forward of another kind, or one that other machines could use.
            PortInUseError, BindPermissionError, LimitError: it cannot be bound.
        """
        if forward in self._listeners:
            return
        if forward.kind != mux.ForwardType.LOCAL or not forward.connect_host or not forward.connect_port:
            raise ConfigError("this master serves local forwards only")
        if forward.listen_port == mux.STREAM_LOCAL:
            listeners = [_listen_at(forward.listen_host)]
        else:
            if remark := self._guard.remark("127.0.0.1"):  # this master listens on loopback alone
                logger.warning("local port %s: %s", forward.listen_port, remark)
            listeners = _listen_on(forward.listen_host, forward.listen_port)
        self._listeners[forward] = listeners
        for listener in listeners:
            self._listen(listener, forward)

    def _listen(self, listener: socket.socket, forward: mux.Forwarding) -> None:
        if listener in self._listeners.get(forward, ()):  # still
            self._loop.add_reader(listener, self._accept, listener, forward)

    def cancel(self, forward: mux.Forwarding) -> None:
        """Listen no longer; clients that are served go on. Raises ConfigError for a forward that is not open."""
        listeners = self._listeners.pop(forward, None)
        if listeners is None:
            raise ConfigError("there is no such forward")
        for listener in listeners:
            self._loop.remove_reader(listener)
            listener.close()
        if forward.listen_port == mux.STREAM_LOCAL:
            with contextlib.suppress(OSError):
                os.unlink(forward.listen_host)

    def close(self) -> None:
        """End all of it, the clients too."""
        for forward in list(self._listeners):
            self.cancel(forward)
        for task in self._tasks:
            task.cancel()
        for client in list(self._clients):
            client.abort()
        self._clients.clear()

    def _accept(self, listener: socket.socket, forward: mux.Forwarding) -> None:
        try:
            client, peer = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors left: the next try would fail at once, and the next
            logger.warning("a forward of the master cannot accept: %s", error)
            self._loop.remove_reader(listener)
            self._loop.call_later(_PAUSE, self._listen, listener, forward)
            return
        own = client.getsockname()
        rejection = self._guard.refuses(peer[:2], own[:2]) if isinstance(peer, tuple) else None
        if rejection is not None:
            logger.warning("%s", rejection)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
            return
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sink = os.dup(client.fileno())
        except OSError:
            client.close()
            return
        stdio = Stdio(client.detach(), sink, lambda error: self._clients.discard(stdio))
        self._clients.add(stdio)
        task = self._loop.create_task(self._serve(stdio, peer, forward))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stdio: Stdio, peer: Any, forward: mux.Forwarding) -> None:
        path = forward.connect_port == mux.STREAM_LOCAL
        connect = Endpoint(path=forward.connect_host) if path else Endpoint(forward.connect_host, forward.connect_port)
        origin = (peer[0], peer[1]) if isinstance(peer, tuple) else ("", 0)
        try:
            channel = await self._link.open_channel(connect, stdio, origin)
        except ForwardError:
            self._clients.discard(stdio)
            stdio.abort()
            return
        stdio.begin(channel)


def _listen_on(host: str, port: int) -> list[socket.socket]:
    """127.0.0.1 unless another loopback address was named."""
    address = "127.0.0.1" if host in ("", "localhost") else host
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        if not ipaddress.ip_address(address).is_loopback:
            raise ValueError
    except ValueError:
        raise ConfigError("this master listens on loopback addresses only") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _failure(error) from None
    return [listener]


def _listen_at(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before it listens
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _failure(error) from None
    return listener


def _failure(error: OSError) -> ForwardError:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError("the local end is taken")
    if error.errno in (errno.EACCES, errno.EPERM):
        return BindPermissionError("this account may not listen there")
    return ConfigError(f"cannot listen: {error.strerror}")
