"""Is a tunnel well? Its stages one by one; the far end's by one channel and one hello of its scheme's protocol.

    postgresql   SSLRequest, answered by S, N or E       (PostgreSQL documentation, "Message Formats")
    mysql        the server greets: version 10 or error  (MySQL internals, "Protocol::Handshake")
    redis        PING, answered by +, - or any RESP type (redis.io, "RESP protocol spec")
    http         HEAD /, answered by HTTP/               (RFC 9112 section 4)

Other schemes count as good when the channel opens. Nothing is logged in to and nothing is changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from ..errors import ClosedError, DeadlineError, ForwardError, LostError, RefusedError
from ..model import Fault, Health, Snapshot, Stage, TunnelState
from ..services import fragile
from ..spec import Endpoint, Kind
from .front import Front
from .links.base import Channel, Link

# Seconds a service has for its first bytes.
HELLO_TIMEOUT = 5.0
# Seconds that a look at a service of no known protocol lasts at least. It may be greeting whoever came, and some are
# undone by a client that leaves meanwhile, as debugpy is, which listens at other ports than its usual one too.
STAY = 0.25
_ENOUGH = 4096


class Hello(NamedTuple):
    """What to say (empty: the server speaks first), and whether an answer's first bytes are the protocol's."""

    say: bytes
    good: Callable[[bytes], bool]


def _mysql(data: bytes) -> bool:
    return len(data) >= 5 and data[3] == 0 and data[4] in (10, 255)


_HELLOS: dict[str, Hello] = {
    "postgresql": Hello((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"), lambda data: data[:1] in b"SNE"),
    "mysql": Hello(b"", _mysql),
    "redis": Hello(b"PING\r\n", lambda data: data[:1] in b"+-$:*"),
    "http": Hello(
        b"HEAD / HTTP/1.1\r\nHost: %b\r\nUser-Agent: xec_forward\r\nConnection: close\r\n\r\n",
        lambda data: data[:5] == b"HTTP/",
    ),
}


# What is said of a service that is not looked at.
UNTRIED = "not tried: a debugger may take nobody after a client that only looks"


def untried(connect: Endpoint, scheme: str) -> bool:
    """Whether a look could be the last that is seen of the service."""
    return not scheme and fragile(connect.port, connect.port_name)


class Probe:
    """One channel to the far service, for a look at it. Implements links.base.ChannelProtocol.

    >>> async with Probe(connect, "postgresql") as probe:  # doctest: +SKIP
    ...     await probe.open(link)
    ...     outcome = await probe.hello()
    """

    def __init__(self, connect: Endpoint, scheme: str = "") -> None:
        self.scheme = scheme if scheme in _HELLOS else ""
        self._connect = connect
        self._channel: Channel | None = None
        self._opened = 0.0
        self._data = b""
        self._answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        # A sign that the far end was reached (None), or why it was not.
        self._settled: asyncio.Future[ForwardError | None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Probe:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave in order; where no hello was to be said, `STAY` after the channel opened (or with its link)."""
        self._answered.cancel()
        if self._channel is None:
            return
        if self.scheme:
            self._leave(self._channel)
        else:
            asyncio.get_running_loop().call_at(self._opened + STAY, self._leave, self._channel)

    def _leave(self, channel: Channel) -> None:
        if len(self._data) < _ENOUGH:
            channel.close()
        else:
            channel.abort()  # it has more to say, which in order would have to be taken first

    async def stay(self) -> None:
        """For who closes the link next: wait until it may be left."""
        if self._channel is not None and not self.scheme:
            await asyncio.sleep(self._opened + STAY - asyncio.get_running_loop().time())

    async def open(self, link: Link) -> None:
        """Open the channel. Raises what `Link.open_channel` raises; where the link is lost, what it is lost for.

        Where a link opens channels before the far end was reached, and no hello is to follow that would tell, a refusal
        is waited for; a service that speaks first ends the wait.
        """
        try:
            self._channel = await link.open_channel(self._connect, self)
        except LostError:
            # A client waits for the next link; who looks at this one wants to know what it is lost for.
            if link.lost.done() and not isinstance(link.lost.result(), ClosedError):
                raise link.lost.result() from link.lost.result().__cause__
            raise
        self._opened = asyncio.get_running_loop().time()
        if link.settle and not self.scheme:
            await asyncio.wait([self._settled], timeout=link.settle)
            if self._settled.done() and (error := self._settled.result()) is not None:
                raise error

    async def hello(self) -> str:
        """Say the scheme's hello.

        Returns:
            "ok", or a few words on what was seen in the place of it.

        Raises:
            RefusedError: the service closed the connection without a byte.
            LostError: the link was lost.
        """
        assert self._channel is not None
        plan = _HELLOS[self.scheme]
        say = plan.say % str(self._connect).encode() if self.scheme == "http" else plan.say
        if say:
            self._channel.write(say)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                good = await self._answered
        except TimeoutError:
            return f"no answer in {HELLO_TIMEOUT:g} s"
        if good:
            return "ok"
        if not self._data:
            raise RefusedError(
                f"it took the connection and closed it without a {self.scheme} hello",
                hop=str(self._connect),
                hint="Is the service behind that port up? --no-check opens the tunnel all the same",
            )
        return f"does not speak {self.scheme}"

    def _answer(self, value: bool) -> None:
        if not self._answered.done():
            self._answered.set_result(value)

    def data_received(self, data: bytes) -> None:
        self._settle(None)
        self._data = (self._data + data)[:_ENOUGH]
        if self._channel is not None and len(self._data) == _ENOUGH:
            self._channel.pause_reading()
        if not self.scheme:
            return
        if _HELLOS[self.scheme].good(self._data):
            self._answer(True)
        elif len(self._data) >= 8:
            self._answer(False)

    def _settle(self, error: ForwardError | None) -> None:
        if not self._settled.done():
            self._settled.set_result(error)

    def eof_received(self) -> None:
        self._settle(None)
        self._answer(False)

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        why = error if error is None or isinstance(error, ForwardError) else LostError(str(error))
        self._settle(why)
        if why is not None and not self._answered.done():
            self._answered.set_exception(why)
            self._answered.exception()  # looked at: nobody may be waiting for it
        self._answer(False)


async def examine(
    front: Front, link: Link | None, connect: Endpoint | None, scheme: str, snapshot: Snapshot, *, timeout: float
) -> Health:
    """The health of a tunnel, stage by stage: listener, link, target, and the protocol's hello.

    A remote forward's listener stands behind the link.

    Args:
        front: the tunnel's near end.
        link: the tunnel's, None where it has none.
        connect: the far end, None where there is none to try (a SOCKS proxy, a remote forward).
        timeout: seconds that all of it may take.

    Returns:
        The stages that were reached, the last with its error's code where it failed, and what went wrong. A lazy tunnel
        that has no link, because nobody came, is well: its stage says `idle`.
    """
    remote = snapshot.kind is Kind.REMOTE
    stages: list[Stage] = []
    trying, start = "listener", time.monotonic()

    def passed(outcome: str = "ok") -> None:
        stages.append(Stage(trying, _milliseconds(time.monotonic() - start), outcome))

    def failed(error: ForwardError) -> Health:
        return Health(False, (*stages, Stage(trying, None, error.code)), Fault.of(error))

    try:
        async with asyncio.timeout(timeout):
            if not remote:
                if (trouble := front.trouble()) is not None:
                    return failed(trouble)
                passed()
            trying = "link"
            if link is None:
                idle = snapshot.state is TunnelState.IDLE
                error = None if idle else snapshot.error or Fault.of(LostError("there is none", hop=snapshot.route[-1]))
                return Health(idle, (*stages, Stage(trying, None, snapshot.state)), error)
            stages.append(Stage(trying, _milliseconds(await link.round_trip())))
            if remote:
                trying, start = "listener", time.monotonic()
                if (trouble := front.trouble()) is not None:
                    return failed(trouble)
                passed()
            if connect is None:
                return Health(True, tuple(stages))
            if untried(connect, scheme):
                return Health(True, (*stages, Stage("target", None, "not tried")))
            async with Probe(connect, scheme) as probe:
                trying, start = "target", time.monotonic()
                await probe.open(link)
                passed()
                if probe.scheme:
                    trying, start = probe.scheme, time.monotonic()
                    passed(await probe.hello())
    except (TimeoutError, ForwardError) as caught:
        late = DeadlineError("the health check took too long", hop=snapshot.route[-1])
        return failed(caught if isinstance(caught, ForwardError) else late)
    return Health(all(stage.outcome == "ok" for stage in stages), tuple(stages))


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
