"""Ports and unix sockets that the server listens on for us (RFC 4254 section 7; streamlocal-forward@openssh.com).

The server says only yes or no: not why it refuses, and not on which interface it really listens. OpenSSH with
`GatewayPorts no` takes a request for every interface and quietly listens on its loopback alone, with `yes` it takes one
for its loopback and listens on every interface; so the listener is tried from the server's own side, at the address
that we reached it by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import asyncssh

from ....errors import DeadlineError, ForwardError, LostError, ProhibitedError, RefusedError
from ....spec import Endpoint
from ..base import Accept, Admit, HalfClose, Link, RemoteListener
from . import packets
from .stream import Stream

LISTEN_DEADLINE = 25.0
# What a wide request asks for: every interface, both families (RFC 4254 section 7.1).
EVERYWHERE = ""
LOOPBACK = "localhost"


class Incoming(Stream):
    """A channel that the server opened: whoever listens says at once who receives its bytes."""

    def __init__(
        self,
        accept: Accept,
        round_trip: Callable[[], float],
        why_lost: Callable[[Exception | None], ForwardError],
    ) -> None:
        super().__init__(None, round_trip, why_lost)
        self._accept = accept

    def connection_made(self, channel: Any) -> None:
        super().connection_made(channel)
        self.attach(self._accept(self, HalfClose.NOW))
        asyncio.get_running_loop().call_soon(self.release)


class SshListener(RemoteListener):
    """A listener of the server's. `close` has it stop; what it has accepted goes on."""

    def __init__(self, listener: asyncssh.SSHListener, listen: Endpoint) -> None:
        self.listen = listen
        self._listener = listener

    async def close(self) -> None:
        self._listener.close()
        try:
            async with asyncio.timeout(1.0):
                await self._listener.wait_closed()
        except TimeoutError:
            pass


async def listen(
    connection: asyncssh.SSHClientConnection,
    wanted: Endpoint,
    make: Callable[[], Incoming],
    admit: Admit,
    host: str,
    address: str,
) -> SshListener:
    """Have the server listen.

    Args:
        wanted: a port (0 or None for any) or a path.
        make: makes the channel's side for each connection that comes.
        admit: says whether one may, by the originator that the server tells; else its channel is refused.
        host: the server's name in messages.
        address: the interface asked for: EVERYWHERE, LOOPBACK or one of the server's.

    Raises:
        ProhibitedError: the server says no. LostError, DeadlineError.
    """

    async def admitted(origin: str, port: int) -> Incoming:
        if not admit(origin):
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not from this address")
        return make()

    sizes: dict[str, Any] = {"encoding": None, "window": packets.WINDOW, "max_pktsize": packets.PACKET}
    try:
        async with asyncio.timeout(LISTEN_DEADLINE):
            if wanted.path:
                unix = await connection.create_unix_server(cast(Any, make), wanted.path, **sizes)
                return SshListener(unix, wanted)
            listener = await connection.create_server(cast(Any, admitted), address, wanted.port or 0, **sizes)
    except asyncssh.ChannelListenError as error:
        raise _refused(wanted, host) from error
    except TimeoutError:
        raise DeadlineError(f"no answer within {LISTEN_DEADLINE:g} s to the request to listen", hop=host) from None
    except (OSError, asyncssh.Error) as error:
        raise LostError(f"the connection is gone: {error}", hop=host) from error
    return SshListener(listener, Endpoint(wanted.host, listener.get_port()))


def address_of(wanted: Endpoint, *, wide: bool) -> str:
    """The interface to ask for: loopback where nothing is said, as ssh does."""
    if wanted.host == "*" or (wide and not wanted.host):
        return EVERYWHERE
    return wanted.host or LOOPBACK


def _refused(wanted: Endpoint, host: str) -> ForwardError:
    if wanted.path:
        where = wanted.path
        hint = "Is there a file of that name already, or does its sshd_config forbid it (AllowStreamLocalForwarding)?"
    elif wanted.port:
        where = f"port {wanted.port}" if not wanted.host else str(wanted)
        low = ", below 1024 without being root" if wanted.port < 1024 else ""
        hint = (
            f"The port may be taken there{low}, or its sshd_config forbids it (AllowTcpForwarding, PermitListen); "
            "0 in the place of the port takes any free one"
        )
    else:
        where = "any port"
        hint = "Its sshd_config may forbid it (AllowTcpForwarding, PermitListen), or the key's options there"
    return ProhibitedError(f"does not listen on {where} for us; it does not say why", hop=host, hint=hint)


class Looker:
    """A channel to the listener we asked for, opened and dropped: is it reachable at that address?"""

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, error: Exception | None) -> None: ...


async def refuses(link: Link, address: str, port: int) -> bool:
    """Whether nobody listens at an address of the server's own, as seen from there."""
    try:
        channel = await link.open_channel(Endpoint(address, port), Looker())
    except RefusedError:
        return True
    except ForwardError:
        return False  # it cannot be told
    channel.abort()
    return False
