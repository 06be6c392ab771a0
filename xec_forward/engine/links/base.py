"""The contract between a tunnel and whatever carries its bytes.

A *link* is a live transport to a target. It opens *channels*: byte streams to an endpoint as seen from the
target, driven like an asyncio transport and protocol pair, so that the relay has one form for both its sides.

The far side of a channel ends in one of three ways, and the relay tells them apart:

    eof_received()            the peer half-closed; the other direction goes on
    connection_lost(None)     the channel ended in order
    connection_lost(error)    it broke: the link is gone, or the peer reset it
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol

from ...errors import ConfigError, ForwardError
from ...spec import Endpoint


class HalfClose(StrEnum):
    """What a link does with `write_eof` while the peer may still be sending."""

    NOW = "now"  # passed on at once (SSH: RFC 4254 section 5.3)
    DEFERRED = "deferred"  # would end the answer too: the relay passes it on when the peer has finished
    NONE = "none"  # there is no such thing on this link


class ChannelProtocol(Protocol):
    """What a channel calls; the shape of asyncio.Protocol."""

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, error: Exception | None) -> None: ...


class Channel(Protocol):
    """One open stream; the shape of asyncio.Transport. Nothing here blocks or raises."""

    def write(self, data: bytes) -> None: ...
    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def close(self) -> None:
        """End in order once what was written has gone out."""

    def abort(self) -> None:
        """End now; what was not sent is dropped."""


# Told of a channel that the far side opened, and of its link's half-close; answers with the channel's protocol.
Accept = Callable[["Channel", HalfClose], ChannelProtocol]
# Asked before that, by where the far side says that somebody has come from, whether there is to be a channel.
Admit = Callable[[str], bool]


class RemoteListener(ABC):
    """A port (or unix socket) that the target listens on for us.

    Attributes:
        listen: where it listens, with the port the server chose where 0 was asked for.
        remark: what the user should know, such as an interface narrower than the one asked for; or "".
    """

    listen: Endpoint
    remark: str = ""

    @abstractmethod
    async def close(self) -> None:
        """Have the target stop listening; idempotent. Channels that are open stay."""


class Link(ABC):
    """A live transport to a target.

    Attributes:
        half_close: see HalfClose.
        route: the hops' names in order, the target itself last.
        lost: resolved with the reason once the link is gone, also after `close` (then with ClosedError).
        persist: seconds that it outlives its last tunnel; infinity: as long as the engine.
        remark: what the user should know about it, or "".
        listens: whether its target can listen for us (`listen`).
        in_use: somebody outside the pool uses it too, and it is not to be closed yet.
    """

    persist: float = 0.0
    remark: str = ""
    listens: bool = True
    in_use: bool = False
    half_close: HalfClose
    route: tuple[str, ...]
    lost: asyncio.Future[ForwardError]

    @abstractmethod
    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """Open a stream to `connect` as seen from the target.

        Cancelling it leaves nothing open on either side. No data reaches `protocol` before it has returned
        and the caller has run on to its next await.

        Args:
            connect: TCP (host "" means localhost as seen from the target) or a unix socket's path.
            protocol: receives what comes back.
            origin: the client's address and port, for the peer's logs.

        Raises:
            RefusedError, NameNotFoundError, UnreachableError, DeadlineError, ProhibitedError, LostError.
        """

    async def listen(self, listen: Endpoint, accept: Accept, admit: Admit, *, wide: bool = False) -> RemoteListener:
        """Have the target listen for us.

        Args:
            listen: host "" means the target's loopback, or every interface where `wide`; port 0 or None any port.
            accept: called for each channel that comes.
            admit: asked first, with the client's address; of a unix socket's clients nobody is asked.
            wide: ask for an interface that other machines can reach.

        Raises:
            ProhibitedError: the target does not listen for us (it does not say whether the port is taken).
            ConfigError: this kind of link cannot do it. LostError.
        """
        raise ConfigError("this kind of target cannot listen for us", hop=self.route[-1])

    @abstractmethod
    async def round_trip(self) -> float:
        """Ask the peer for a sign of life; the seconds it took. Raises LostError or DeadlineError."""

    @abstractmethod
    async def close(self) -> None:
        """End in order, within a second or two; idempotent."""

    @abstractmethod
    def abort(self, reason: ForwardError | None = None) -> None:
        """End now, without waiting for the peer; idempotent.

        Args:
            reason: what `lost` is to say; ClosedError where it is left out.
        """

    @property
    def settle(self) -> float:
        """Where channels open before the far end was reached: seconds in which one that was refused is lost."""
        return 0.0

    def behind(self, connect: Endpoint) -> str:
        """What stands behind a far end at the moment, where that is not its own name (a pod of a service); or ""."""
        return ""


class Opening(Protocol):
    """What a link being dialled may say to, and ask of, whoever waits for it.

    Attributes:
        connect_within: seconds that a connection may take to come about before the dial is to fail. Short where another
            try follows: it starts afresh, where TCP repeats what an outage swallowed ever more rarely.
        remaining: seconds until whoever waits gives up; infinity where that was not said.
    """

    @property
    def connect_within(self) -> float: ...

    @property
    def remaining(self) -> float: ...

    def step(self, name: str) -> AbstractContextManager[None]:
        """Time a part of the opening; shown live, and on the card."""

    def wait_for(self, what: str, hint: str = "") -> None:
        """Say what the step in progress waits for: shown live, and the error's text and hint where time runs out."""

    async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
        """Have a SOURCE resolved (`source`), or a question put to a person (`prompt`).

        Args:
            kind: passphrase, password, host-key; as in model.Ask.

        Raises:
            Unanswered: nobody is there to answer, or the SOURCE could not be resolved; its text says why.
        """


class Passing(Exception):
    """The cause of a refusal that may pass by itself, where to be asked again harms nobody.

    A cluster whose API server has just started knows no roles and no tokens yet. (An SSH login that is refused again
    and again locks accounts: its refusal is none of these.)
    """


class Unanswered(Exception):
    """`Opening.ask` has no answer. Its text is one line for the user; `person` is true where a person was asked for."""

    def __init__(self, why: str, *, person: bool) -> None:
        super().__init__(why)
        self.person = person


Dial = Callable[[Opening], Awaitable[Link]]
