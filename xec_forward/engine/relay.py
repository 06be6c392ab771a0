"""The clients of one tunnel: parked, spliced to channels of its link, turned away, ended together.

What happens to each client is told in `splice`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from ..errors import ClosedError, DeadlineError, ForwardError, LimitError, LostError, NameNotFoundError, RefusedError
from ..model import Counters
from ..spec import Endpoint
from .far import Far
from .guard import OPEN_TO_ALL, Guard
from .handshake import Handshake
from .links.base import Channel, ChannelProtocol, HalfClose, Link
from .splice import Client, Phase

# How often a parked client's socket is looked at; a paused transport notices no departure (uvloop, asyncio).
DEPARTURE_CHECK = 1.0


class Relay:
    """All clients of one tunnel. Has a link (`attach`), or parks (`detach`), or turns clients away (`refuse`).

    Args:
        connect: where each client's channel leads, as seen from the target.
        hold: seconds a client is parked.
        within: seconds that the far end of a client may take to answer, and a proxy's client to say where to.
        parked: called when a client begins to wait, so that the supervisor tries sooner.
        failed: called with the error when one client could not be served.
        rejected: called with the error when the guard turned somebody away.
        guard: who may be a client.
        handshake: makes the talk in which a proxy's client says where it wants to go; without it all go to `connect`.
        most: how many clients there may be at once, 0 for any number.
    """

    def __init__(
        self,
        connect: Endpoint,
        hold: float,
        *,
        within: float = 30.0,
        parked: Callable[[], None],
        failed: Callable[[ForwardError], None],
        rejected: Callable[[ForwardError], None] = lambda error: None,
        guard: Guard = OPEN_TO_ALL,
        handshake: Callable[[], Handshake] | None = None,
        most: int = 0,
    ) -> None:
        self.connect = connect
        self.hold = hold
        self.within = within
        self.link: Link | None = None
        self.refusal: ForwardError | None = None
        self.clients: set[Client] = set()
        self.clients_total = 0
        self.last_client = time.time()  # when the last one came or went
        self.bytes_up = 0
        self.bytes_down = 0
        self.refused = 0
        self.rejected = 0
        self.guard = guard
        self.handshake = handshake
        self.most = most
        self.tell_failed = failed
        self._tell_rejected = rejected
        self._tell_parked = parked
        self._watch: asyncio.Task[None] | None = None
        self._connecting: set[asyncio.Task[None]] = set()

    def client(self) -> asyncio.Protocol:
        """The protocol factory of the listener."""
        return Client(self)

    def admits(self, origin: str) -> bool:
        """Whether somebody who came to the far side (remote forward) from this address may become a client."""
        rejection = self.guard.outside(origin)
        if rejection is not None:
            self.reject(rejection)
        return rejection is None

    def accept(self, channel: Channel, half_close: HalfClose) -> ChannelProtocol:
        """The far side opened a channel (remote forward): connect it to `connect` on this side."""
        client = Client(self)
        far = Far(client, half_close)
        far.channel = channel
        client.incoming = far
        client.phase = Phase.OPENING
        channel.pause_reading()
        self.clients.add(client)
        task = asyncio.get_running_loop().create_task(self._connect_near(client, self.refuses()))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return far

    async def _connect_near(self, client: Client, refusal: ForwardError | None) -> None:
        try:
            if refusal is not None:
                raise refusal
            async with asyncio.timeout(self.within):
                await self._reach(client)
        except (OSError, ForwardError) as caught:
            error = near_failure(caught, self.connect)
            self.refused += 1
            self.tell_failed(error)
            client.reset(error)
        except BaseException:
            client.reset(ClosedError("the tunnel was closed"))
            raise

    async def _reach(self, client: Client) -> None:
        """Connect to the service on this side: at the first of its addresses that answers, else the first's error."""
        loop = asyncio.get_running_loop()
        if self.connect.path:
            sock = await _connected(socket.AF_UNIX, self.connect.path)
            await loop.create_unix_connection(lambda: client, sock=sock)
            return
        host, port = self.connect.host or "localhost", self.connect.port or 0
        # One by one: asyncio's error for several addresses has lost its kind, and uvloop tells the protocol of the
        # end of each try.
        first: OSError | None = None
        for family, _, _, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                sock = await _connected(family, address)
            except OSError as error:
                first = first or error
            else:
                await loop.create_connection(lambda: client, sock=sock)
                return
        raise first or OSError(f"{host} has no address")

    def refuses(self) -> ForwardError | None:
        """Why the client that has just come is turned away, or None."""
        if self.refusal is None and self.most and sum(client.lives for client in self.clients) > self.most:
            return LimitError(
                f"there are {self.most} clients already, the most allowed", hint="--max-connections N allows more"
            )
        return self.refusal

    def reject(self, error: ForwardError) -> None:
        """The guard turned somebody away, who is no client and never becomes one."""
        self.rejected += 1
        self._tell_rejected(error)

    def counters(self, reconnects: int = 0) -> Counters:
        """What went through so far."""
        return Counters(
            clients=len(self.clients),
            parked=self.parked_clients,
            clients_total=self.clients_total,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            refused=self.refused,
            rejected=self.rejected,
            reconnects=reconnects,
        )

    @property
    def parked_clients(self) -> int:
        """How many wait for a link."""
        return sum(client.phase is Phase.PARKED for client in self.clients)

    def attach(self, link: Link) -> None:
        """The link is up: parked clients are spliced, new ones at once."""
        self.link = link
        self.refusal = None
        for client in list(self.clients):
            client.splice()

    def detach(self, error: ForwardError) -> None:
        """The link is gone: the clients it carried are reset, new ones are parked."""
        self.link = None
        for client in list(self.clients):
            if client.phase is Phase.SPLICED:
                client.reset(error)

    def refuse(self, error: ForwardError) -> None:
        """Nothing will come soon: every client, waiting or new, is reset at once."""
        self.link = None
        self.refusal = error
        self.abort(error)

    def park(self) -> None:
        """A link may come again: clients are parked in the place of being turned away."""
        self.refusal = None

    def abort(self, error: ForwardError) -> None:
        """Reset every client now."""
        for client in list(self.clients):
            client.reset(error)

    async def close(self, grace: float = 2.0) -> None:
        """Reset at once the clients on which nothing moves, let the others finish for up to `grace` seconds."""
        error = ClosedError("the tunnel was closed")
        self.refusal = error
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        while True:
            for client in list(self.clients):
                if not client.moving(loop.time()):
                    client.reset(error)
            if not self.clients or loop.time() >= end:
                break
            await asyncio.sleep(0.05)
        self.abort(error)
        for task in (self._watch, *self._connecting):
            if task is not None:
                task.cancel()

    def wait_for_link(self) -> None:
        """A client waits: have the supervisor try sooner, and look each second whether the client has left."""
        self._tell_parked()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._watch_departures())

    async def _watch_departures(self) -> None:
        while self.parked_clients:
            await asyncio.sleep(DEPARTURE_CHECK)
            for client in list(self.clients):
                if client.phase is Phase.PARKED and client.departed:
                    client.reset(LostError("the client left"))


async def _connected(family: int, address: Any) -> socket.socket:
    """A socket that is connected to `address`, in the form of its family."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def near_failure(error: OSError | ForwardError, connect: Endpoint) -> ForwardError:
    """Why a service on this side could not be reached, in our words."""
    if isinstance(error, ForwardError):
        return error
    hop = str(connect)
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return RefusedError("nobody listens there, on this side", hop=hop, hint="Start the service")
    if isinstance(error, TimeoutError):
        return DeadlineError("no answer, on this side", hop=hop)
    if isinstance(error, socket.gaierror):
        return NameNotFoundError("the name does not resolve, on this side", hop=hop)
    return LostError(f"cannot connect, on this side: {error.strerror or error}", hop=hop)
