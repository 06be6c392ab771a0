"""The SSH link: one connection that is up, the channels it opens, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

import asyncssh

from ....errors import ClosedError, DeadlineError, ForwardError, LostError
from ....spec import Endpoint, is_address, is_loopback
from ..base import Accept, Admit, Channel, ChannelProtocol, HalfClose, Link, RemoteListener
from ..pool import Lease
from . import failures, packets, remote
from .stream import Stream

if TYPE_CHECKING:
    from .master import Master

CHANNEL_DEADLINE = 25.0
PING_DEADLINE = 10.0
CLOSE_DEADLINE = 1.0


class SshLink(Link):
    """A live SSH connection.

    Args:
        host: the hop's name in messages.
        route: the names of all hops, this one last.
    """

    half_close = HalfClose.NOW

    def __init__(self, host: str, route: tuple[str, ...]) -> None:
        self.host = host
        self.route = route
        self.lost: asyncio.Future[ForwardError] = asyncio.get_running_loop().create_future()
        self.round_trip_floor = 0.0
        self.master: Master | None = None
        self._parent: Lease | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def in_use(self) -> bool:  # type: ignore[override]
        """Other programs use it through the master's socket."""
        return self.master is not None and self.master.clients > 0

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """See Link. An answer that has not come within CHANNEL_DEADLINE seconds is a DeadlineError."""
        connection = self._connection
        if connection is None or self.lost.done() or self._closing:
            raise LostError("the connection is gone", hop=self.host)
        stream = Stream(protocol, lambda: self.round_trip_floor, self._why_lost)
        opening: Coroutine[Any, Any, tuple[Any, Any]]
        if connect.path:
            opening = connection.create_unix_connection(
                lambda: cast(Any, stream),
                connect.path,
                encoding=None,
                window=packets.WINDOW,
                max_pktsize=packets.PACKET,
            )
        else:
            opening = connection.create_connection(
                lambda: stream,
                connect.host or "localhost",
                connect.port or 0,
                *origin,
                encoding=None,
                window=packets.WINDOW,
                max_pktsize=packets.PACKET,
            )
        # A task of its own: an open that was sent cannot be taken back, so after a cancellation it waits for the
        # answer in our place and closes what was opened.
        task = self._spawn(opening)
        try:
            async with asyncio.timeout(CHANNEL_DEADLINE):
                await asyncio.shield(task)
        except asyncssh.ChannelOpenError as error:
            if self.lost.done() or self._closing:
                raise LostError("the connection is gone", hop=self.host) from error
            raise failures.refusal(error, connect, self.host) from error
        except TimeoutError:
            task.add_done_callback(_discard)
            text = f"no answer within {CHANNEL_DEADLINE:g} s, as seen from {self.host}"
            raise DeadlineError(text, hop=str(connect), hint="A firewall may be between the two") from None
        except asyncio.CancelledError:
            task.add_done_callback(_discard)
            raise
        except Exception as error:  # the connection broke at this very moment
            raise self._why_lost(error) from error
        asyncio.get_running_loop().call_soon(stream.release)
        return stream

    async def listen(self, listen: Endpoint, accept: Accept, admit: Admit, *, wide: bool = False) -> RemoteListener:
        """See Link. A server that listens more narrowly, or more widely, than it was asked to is remarked on."""
        connection = self._connection
        if connection is None or self.lost.done() or self._closing:
            raise LostError("the connection is gone", hop=self.host)
        looking, seen = True, False

        def begin(channel: Channel, half_close: HalfClose) -> ChannelProtocol:
            nonlocal seen
            if looking:
                seen = True
                asyncio.get_running_loop().call_soon(channel.abort)
                return remote.Looker()
            return accept(channel, half_close)

        def make() -> remote.Incoming:
            return remote.Incoming(begin, lambda: self.round_trip_floor, self._why_lost)

        address = remote.address_of(listen, wide=wide)
        listener = await remote.listen(
            connection, listen, make, lambda origin: looking or admit(origin), self.host, address
        )
        own = str((connection.get_extra_info("peername") or ("",))[0])
        outer = own if address in (remote.EVERYWHERE, remote.LOOPBACK) else address
        if not listen.path and is_address(outer) and not is_loopback(outer):
            refused = await remote.refuses(self, outer, listener.listen.port or 0)
            if refused and address != remote.LOOPBACK:
                listener.remark = f"{self.host} listens on its loopback alone (GatewayPorts no, in its sshd_config)"
            elif seen and address == remote.LOOPBACK:
                listener.remark = f"{self.host} listens on every interface (GatewayPorts yes, in its sshd_config)"
        looking = False
        return listener

    async def round_trip(self) -> float:
        """See Link."""
        if self._connection is None or self.lost.done():
            raise LostError("the connection is gone", hop=self.host)
        start = time.perf_counter()
        try:
            async with asyncio.timeout(PING_DEADLINE):
                await packets.ping(self._connection)
        except TimeoutError:
            raise DeadlineError(f"no answer within {PING_DEADLINE:g} s", hop=self.host) from None
        if self.lost.done():
            raise LostError("the connection is gone", hop=self.host)
        seconds = time.perf_counter() - start
        self.round_trip_floor = min(self.round_trip_floor or seconds, seconds)
        return seconds

    async def close(self) -> None:
        """See Link."""
        self._closing = True
        if self.master is not None:
            await self.master.close()
        connection = self._connection
        try:
            if connection is not None and not self.lost.done():
                connection.close()
                async with asyncio.timeout(CLOSE_DEADLINE):
                    await connection.wait_closed()
        except TimeoutError:
            pass
        finally:
            self.abort()

    def abort(self, reason: ForwardError | None = None) -> None:
        """See Link."""
        self._closing = True
        if not self.lost.done():
            self.lost.set_result(reason or ClosedError("the link was closed", hop=self.host))
        if self._connection is not None:
            self._connection.abort()
        parent, self._parent = self._parent, None
        if parent is not None:
            parent.release()

    def made(self, connection: asyncssh.SSHClientConnection) -> None:
        """The connection has begun."""
        self._connection = connection
        packets.quicken(connection)

    def ready(self, parent: Lease | None) -> None:
        """The login is done.

        Learns the round trip: twice, since the first answer waits for the server to settle.

        Args:
            parent: the lease on the link that this one goes through, given back when this one has ended.
        """
        self._parent = parent

        async def measure() -> None:
            try:
                await self.round_trip()
                await self.round_trip()
            except (LostError, DeadlineError):
                pass

        self._spawn(measure())

    def gone(self, error: Exception | None) -> None:
        """The connection has ended."""
        if not self.lost.done():
            self.lost.set_result(self._why_lost(error))

    @property
    def ciphers(self) -> tuple[str, str]:
        """The ciphers in use, up and down; empty before the key exchange."""
        connection = self._connection
        if connection is None:
            return "", ""
        return connection.get_extra_info("send_cipher", ""), connection.get_extra_info("recv_cipher", "")

    def open_channels(self) -> int:
        """How many channels the connection has, half-open ones included."""
        return packets.open_channels(self._connection) if self._connection is not None else 0

    def _why_lost(self, error: Exception | None) -> ForwardError:
        if self.lost.done():
            return self.lost.result()
        if self._closing:
            return ClosedError("the link was closed", hop=self.host)
        return failures.loss(error, self.host)

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _discard(task: asyncio.Task[Any]) -> None:
    """Close a channel that nobody wants any more."""
    if not task.cancelled() and task.exception() is None:
        task.result()[0].abort()
