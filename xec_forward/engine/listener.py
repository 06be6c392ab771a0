"""Bind and hold: the local end of a tunnel. There is no probing; what is bound is what is listened on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import BindPermissionError, ConfigError, ForwardError, LostError, NameNotFoundError, PortInUseError
from ..options import TunnelOptions
from ..spec import Endpoint, is_address, is_loopback
from .neighbours import Holder

BACKLOG = 512
# How many ports --auto-port tries.
AUTO_PORTS = 10
# How long a port is waited for that an engine of ours still holds although its kernel is gone, seconds.
INHERIT = 3.0


@dataclass(slots=True)
class Listener:
    """A bound local end. `serve` accepts; `close` unbinds, and returns when the port is free."""

    sockets: list[socket.socket]
    host: str
    port: int
    path: str = ""
    notes: list[str] = field(default_factory=list)
    inode: tuple[int, int] = (0, 0)  # of a unix socket: its device and number
    _servers: list[asyncio.Server] = field(default_factory=list)

    def __str__(self) -> str:
        return str(Endpoint(self.host, self.port or None, self.path))

    async def serve(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Accept clients from now on."""
        loop = asyncio.get_running_loop()
        for sock in self.sockets:
            if self.path:
                self._servers.append(await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG))
            else:
                self._servers.append(await loop.create_server(factory, sock=sock, backlog=BACKLOG))

    def trouble(self) -> ForwardError | None:
        """Why nobody can come to it any more, or None."""
        deaf = any(not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in self.sockets)
        if deaf or not self._servers:
            return LostError("it does not listen", hop=str(self), hint="Open the tunnel again")
        if self.path and not self._leads_here():
            return LostError("the socket's file is gone", hop=self.path, hint="Open the tunnel again")
        return None

    def _leads_here(self) -> bool:
        """Whether what lies at the path of a unix socket is the one that was bound there."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.inode

    async def close(self) -> None:
        """Stop accepting and unbind. Clients already accepted are not touched."""
        for server in self._servers:
            server.close()
        if self.path:
            with contextlib.suppress(OSError):  # somebody removed it, or made the folder read-only
                os.unlink(self.path)
        try:
            # uvloop closes the descriptor in the next turns of the loop; "closed" means that the port is free.
            for _ in range(10):
                await asyncio.sleep(0)
        finally:
            for sock in self.sockets:
                sock.close()


class Binder:
    """Binds listeners, and knows whom to name when a port is taken.

    Args:
        ours: the name of this engine's own tunnel that holds a port, or "".
        neighbour: another engine of ours that holds it, or None.
    """

    def __init__(self, ours: Callable[[int], str], neighbour: Callable[[int], Holder | None]) -> None:
        self._ours = ours
        self._neighbour = neighbour

    async def bind(self, listen: Endpoint, connect: Endpoint | None, options: TunnelOptions) -> Listener:
        """Bind as docs/surface.md says: a written port is taken or refused, an unwritten one is the far port or any.

        With `auto_port` either is counted up while it is taken, ten ports in all; what is bound is kept, so that no
        other program comes in between.

        Raises:
            PortInUseError, BindPermissionError, NameNotFoundError.
            ConfigError: the address is not this machine's, or is wide without `gateway_ports`.
        """
        if listen.path:
            return _bind_unix(listen.path)
        addresses = await _addresses(listen.host or options.local_interface, wide=options.gateway_ports)
        preferred = connect.port if connect is not None and connect.port else 0
        if options.auto_port and (first := preferred if listen.port is None else listen.port):
            return await self._bind_counting_up(addresses, first)
        if listen.port is not None:
            return await self._bind_patiently(addresses, listen.port)
        try:
            return await self._bind_patiently(addresses, preferred)
        except (PortInUseError, BindPermissionError) as error:
            listener = _bind(addresses, 0)
            why = "needs more rights" if isinstance(error, BindPermissionError) else f"is {error.message}"
            listener.notes.append(f"local port {listener.port}, because {preferred} {why}")
            return listener

    async def _bind_counting_up(self, addresses: list[tuple[int, str]], first: int) -> Listener:
        """The first of ten ports that is not taken. Only that moves it on: a port that needs more rights is refused."""
        last = min(first + AUTO_PORTS, 65536) - 1
        for port in range(first, last + 1):
            try:
                listener = await self._bind_patiently(addresses, port) if port == first else _bind(addresses, port)
            except PortInUseError:
                continue
            if port != first:
                taken = f"{first} is" if port == first + 1 else f"{first} to {port - 1} are"
                listener.notes.append(f"local port {port}, because {taken} taken")
            return listener
        hop = f"{Endpoint(addresses[0][1], first)}-{last}"
        hint = "Write 0 in the place of the local port for any free one"
        raise PortInUseError("No available ports found", hop=hop, hint=hint)

    async def _bind_patiently(self, addresses: list[tuple[int, str]], port: int) -> Listener:
        loop = asyncio.get_running_loop()
        end = loop.time() + INHERIT
        while True:
            try:
                return _bind(addresses, port)
            except PortInUseError:
                own = self._ours(port)
                holder = None if own else self._neighbour(port)
                if holder is None or holder.kernel_alive or loop.time() >= end:
                    raise _taken(addresses[0][1], port, own, holder) from None
            await asyncio.sleep(0.05)


def _taken(host: str, port: int, own: str, holder: Holder | None) -> ForwardError:
    hop = str(Endpoint(host, port))
    any_port = f"write 0 in the place of {port} for any free port, or add --auto-port"
    if own:
        return PortInUseError(
            f"held by the tunnel {own} of this kernel",
            hop=hop,
            hint=f"%forward --close {own} frees it, or {any_port}",
        )
    if holder is not None:
        owner = f"of {holder.notebook}" if holder.notebook else f"of the Python process {holder.kernel}"
        return PortInUseError(
            f"held by the tunnel {holder.tunnel} {owner}", hop=hop, hint=f"Close it there, or {any_port}"
        )
    return PortInUseError("taken by another program", hop=hop, hint=f"End it, or {any_port}")


async def _addresses(host: str, *, wide: bool) -> list[tuple[int, str]]:
    """The (family, address) pairs to listen on."""
    if host == "*":
        host = ""
    elif host == "localhost":
        host = "127.0.0.1"  # never two listeners of which one may be somebody else's
    elif not host and not wide:
        host = "127.0.0.1"
    if not host:
        found = [(int(socket.AF_INET), "0.0.0.0")]
        if socket.has_dualstack_ipv6():
            found.append((int(socket.AF_INET6), "::"))
    elif is_address(host):
        found = [(int(socket.AF_INET6 if ":" in host else socket.AF_INET), host)]
    else:
        try:
            answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror:
            hint = "Leave the interface out for 127.0.0.1"
            raise NameNotFoundError("the local interface does not resolve", hop=host, hint=hint) from None
        found = list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in answers))
    if not wide:
        for _, address in found:
            if not is_loopback(address):
                raise ConfigError(
                    "other machines could reach this address", hop=address, hint="--gateway-ports permits it"
                )
    return found


def _bind(addresses: list[tuple[int, str]], port: int) -> Listener:
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            # Listening at once makes the claim exclusive: a bound port without a listener can be bound twice.
            sock.listen(BACKLOG)
            port = port or sock.getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        hop = str(Endpoint(address, port))
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError("taken", hop=hop) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise BindPermissionError(
                "the system does not let this account listen there",
                hop=hop,
                hint=f"Choose a port above 1023, such as {port + 8000 if port < 1024 else port + 1}",
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            hint = "Leave the interface out for 127.0.0.1"
            raise ConfigError("not an address of this machine", hop=hop, hint=hint) from None
        raise ConfigError(f"cannot listen: {error.strerror}", hop=hop, hint="Choose another address or port") from None
    return Listener(sockets, addresses[0][1], port)


def _bind_unix(path: str) -> Listener:
    """Bind an owner-only unix socket; a stale one (nobody listens) is replaced, any other file is left alone.

    A folder that is not there is made, owner-only; one in which others may put another socket in the place of this is
    remarked on.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.path.dirname(path) or "."
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.settimeout(0.5)
                    if probe.connect_ex(path) == errno.ECONNREFUSED:
                        os.unlink(path)
        except FileNotFoundError:
            pass
        before = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError("taken", hop=path, hint="Remove the file, or choose another path") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise BindPermissionError(
                "this account may not make a socket there", hop=path, hint="Choose a path in a folder of your own"
            ) from None
        hint = "Choose another path"
        raise ConfigError(f"cannot listen: {error.strerror or error}", hop=path, hint=hint) from None
    rights, bound = os.stat(folder), os.stat(path)
    listener = Listener([sock], "", 0, path, inode=(bound.st_dev, bound.st_ino))
    others = rights.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not rights.st_mode & stat.S_ISVTX
    if others or rights.st_uid not in (0, os.getuid()):
        listener.notes.append(
            f"other users may put a socket of theirs in the place of this one: {folder} is theirs too"
        )
    return listener
