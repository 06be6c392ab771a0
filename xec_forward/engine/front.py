"""A tunnel's near end: what it holds while links come and go, and what it does with each link.

LocalFront    a bound listener here, a relay that splices its clients to channels (local and dynamic)
RemoteFront   a listener that the target is asked for on each new link, a relay that connects what comes (remote)
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..errors import ForwardError, LostError
from ..options import TunnelOptions
from ..spec import Endpoint, Forward
from .links.base import Link, RemoteListener
from .listener import Binder, Listener
from .relay import Relay

_NOT_YET = LostError("it does not listen yet")


class Front(ABC):
    """The near end of one tunnel.

    Attributes:
        relay: its clients.
        bound: where it listens, None before that.
        notes: what the user should know about it, while it is held.
    """

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.bound: Endpoint | None = None
        self.notes: list[str] = []

    @abstractmethod
    async def bind(self) -> None:
        """Take what is held for life, before any link. Raises ForwardError."""

    @abstractmethod
    async def serve(self) -> None:
        """Take clients from now on, whether or not there is a link."""

    @abstractmethod
    async def attach(self, link: Link) -> None:
        """There is a link. Raises ForwardError where the tunnel cannot work over it."""

    @abstractmethod
    def detach(self, error: ForwardError) -> None:
        """The link is gone."""

    @abstractmethod
    def trouble(self) -> ForwardError | None:
        """Why nobody can come, as far as that is known without anybody who does; or None."""

    @abstractmethod
    async def unbind(self) -> None:
        """Stop listening; clients are the relay's to end."""


class LocalFront(Front):
    """A listener on this side, bound for life."""

    def __init__(self, forward: Forward, options: TunnelOptions, relay: Relay, binder: Binder) -> None:
        super().__init__(relay)
        self._forward = forward
        self._options = options
        self._binder = binder
        self._listener: Listener | None = None
        self._serving = False

    async def bind(self) -> None:
        self._listener = await self._binder.bind(self._forward.listen, self._forward.connect, self._options)
        self.bound = Endpoint(self._listener.host, self._listener.port or None, self._listener.path)
        remark = "" if self._listener.path else self.relay.guard.remark(self._listener.host)
        self.notes = [*self._listener.notes, *([remark] if remark else [])]

    async def serve(self) -> None:
        if self._listener is not None and not self._serving:
            self._serving = True
            await self._listener.serve(self.relay.client)

    def trouble(self) -> ForwardError | None:
        return self._listener.trouble() if self._listener is not None else _NOT_YET

    async def attach(self, link: Link) -> None:
        self.relay.attach(link)

    def detach(self, error: ForwardError) -> None:
        self.relay.detach(error)

    async def unbind(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()
        self.bound, self.notes = None, []


class RemoteFront(Front):
    """A listener on the target, asked for again on each new link."""

    def __init__(self, forward: Forward, options: TunnelOptions, relay: Relay) -> None:
        super().__init__(relay)
        self._wide = options.gateway_ports
        self._wanted = forward.listen
        self._listener: RemoteListener | None = None
        self._trouble: ForwardError | None = _NOT_YET

    async def bind(self) -> None:
        """Nothing is held on this side."""

    async def serve(self) -> None:
        """Clients come with the link."""

    async def attach(self, link: Link) -> None:
        relay = self.relay
        try:
            self._listener = await link.listen(self._wanted, relay.accept, relay.admits, wide=self._wide)
        except ForwardError as error:
            self._trouble = error
            raise
        self._trouble = None
        # A port that the server chose is asked for again after a reconnect: others have been told of it.
        self.bound = self._wanted = self._listener.listen
        self.notes = [self._listener.remark] if self._listener.remark else []

    def trouble(self) -> ForwardError | None:
        return self._trouble

    def detach(self, error: ForwardError) -> None:
        self._listener, self._trouble = None, error
        self.relay.detach(error)

    async def unbind(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()
        self.bound, self.notes = None, []
