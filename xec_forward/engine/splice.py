"""One client of a tunnel, spliced to a channel of its link.

The rules:

    arrives        it waits ("parked", up to `hold` seconds) until there is a link; its first chunk is kept and its
                   reading paused, so that a waiting client costs at most one chunk of memory
    opens          the far end has `within` seconds to answer, as a proxy's client has to say where it wants to go
    spliced        two independent pumps; each side's full buffer pauses the reading of the other (back-pressure)
    half-close     the end of one direction is passed on and the other goes on, as the link's `half_close` allows; where
                   passing it on would end the answer too, it waits until the client is gone altogether
    ends in order  when both directions have ended, or the channel closed in order: what was received is delivered
    breaks         link lost, channel broken, time over, tunnel closed: the client is reset (RST), because an EOF
                   would pass for a complete answer

A client's socket ends with a reset unless it is told otherwise (`peer`). What happens to one client touches no other.

A proxy's client first says where it wants to go (`Handshake`); it is told that it has arrived when its channel is
open, and why not when it cannot be opened.

A channel that the far side opened (remote forward) comes the other way round: the channel is there first, and the
near side is a connection that we make.
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, cast

from ..errors import DeadlineError, ForwardError, LostError, ProhibitedError
from . import descriptors
from .far import Far
from .links.base import Link
from .peer import Peer

if TYPE_CHECKING:
    from .relay import Relay

# A client is "moving" when bytes passed less than this many seconds ago.
QUIET = 0.25
BUFFER_LIMIT = 256 * 1024
# A deferred half-close: how often the client's socket is looked at, ever more slowly (the FIN of a close is here before
# the close is done), and, where the system does not tell whether it is gone, how long nothing must have moved before
# it counts as that; seconds.
FIRST_DEPARTURE_CHECK = 0.001
DEPARTURE_CHECK = 0.5
LONG_QUIET = 30.0
# How long a link that is gone may take to say so, after a channel on it could not be opened for that.
LOST_TOO = 0.5
# How long a client that is still sending is read (and ignored) after the far side has closed.
DRAIN = 1.0


class Phase(Enum):
    """Where a client is in its life."""

    ASKING = auto()  # says where it wants to go
    PARKED = auto()
    OPENING = auto()
    SPLICED = auto()
    ENDED = auto()


class Client(asyncio.Protocol):
    """One client: the near side (a transport), and the channel it is spliced to."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._near: asyncio.Transport | None = None
        self._peer: Peer | None = None
        self._handshake = relay.handshake() if relay.handshake is not None else None
        self._connect = relay.connect
        self.phase = Phase.PARKED if self._handshake is None else Phase.ASKING
        self._early: list[bytes] = []
        self.near_eof = False
        self._far: Far | None = None
        self.incoming: Far | None = None  # set where the channel was there first (remote forward)
        self._opening: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._held_until = 0.0  # on the loop's clock; 0 before it has waited for a link
        self._drain: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._moved = 0.0
        self._unsent = 0

    @property
    def lives(self) -> bool:
        """Whether it is there to be served, or on its way."""
        return self.phase is not Phase.ENDED

    # ---- the near side: called by the listener's transport ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport
        near = self._near = cast(asyncio.Transport, transport)
        peer = self._peer = Peer(near.get_extra_info("socket"))
        near.set_write_buffer_limits(high=BUFFER_LIMIT)
        relay = self._relay
        loop = asyncio.get_running_loop()
        if self.phase is Phase.ENDED:  # the far side left while we connected
            near.abort()
            return
        if peer.tcp and self.incoming is None:
            ends = peer.ends()
            rejection = relay.guard.refuses(*ends) if ends is not None else None
            if ends is None or rejection is not None:
                self.phase = Phase.ENDED
                near.abort()
                if rejection is not None:
                    relay.reject(rejection)
                return
        self._moved = loop.time()
        relay.clients.add(self)
        relay.clients_total += 1
        relay.last_client = time.time()
        if self.incoming is not None:
            self._spliced(self.incoming)
            self.incoming.channel.resume_reading()
        elif (refusal := relay.refuses() or descriptors.exhausted(peer.descriptor)) is not None:
            relay.refused += 1
            if refusal is not relay.refusal:  # that one is the tunnel's own state
                relay.tell_failed(refusal)
            self.reset(refusal)
        elif self.phase is Phase.ASKING:
            self._limit(relay.within)
        else:
            self.splice()

    def data_received(self, data: bytes) -> None:
        if self._far is not None and self.phase is Phase.SPLICED:
            self._count_up(len(data))
            self._far.channel.write(data)
        elif self.phase is Phase.ASKING:
            self._talk(data)
        elif self.phase is not Phase.ENDED:
            # uvloop ignores a pause asked for in connection_made: pause at the first chunk.
            self._early.append(data)
            if self._near is not None:
                self._near.pause_reading()

    def eof_received(self) -> bool:
        self.near_eof = True
        if self.phase in (Phase.ENDED, Phase.ASKING):
            return False
        if self._far is not None and self.phase is Phase.SPLICED:
            self._far.near_ended()
        return True  # the transport stays open for what the far side still sends

    def pause_writing(self) -> None:
        if self._far is not None:
            self._far.channel.pause_reading()

    def resume_writing(self) -> None:
        if self._far is not None:
            self._far.channel.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()
        self._relay.clients.discard(self)
        self._relay.last_client = time.time()
        for timer in (self._drain, self._leaving):
            if timer is not None:
                timer.cancel()
        if self._far is not None:
            self._far.near_lost()

    # ---- where to ----

    def _talk(self, data: bytes) -> None:
        """A proxy's client says where it wants to go."""
        assert self._handshake is not None
        assert self._near is not None
        progress = self._handshake.receive(data)
        if progress.send:
            self._near.write(progress.send)
        if progress.refused:
            self._relay.refused += 1
            self._relay.tell_failed(ProhibitedError(f"a client was turned away: {progress.refused}"))
            self.finish()
        elif progress.connect is not None:
            self._connect = progress.connect
            self.phase = Phase.PARKED
            if progress.rest:
                self.data_received(progress.rest)
            self.splice()

    # ---- the splice ----

    def splice(self) -> None:
        """Open a channel if there is a link and none is being opened; else stay parked."""
        relay = self._relay
        if self.phase is not Phase.PARKED:
            return
        if relay.link is None:
            self._hold()
            relay.wait_for_link()
        elif self._early and self.departed:
            self.reset(LostError("the client left"))
        else:
            self.phase = Phase.OPENING
            self._limit(relay.within)
            self._opening = asyncio.get_running_loop().create_task(self._open(relay.link))

    def _hold(self) -> None:
        """It may be parked for `hold` seconds in all, from the first time on."""
        now = asyncio.get_running_loop().time()
        self._held_until = self._held_until or now + self._relay.hold
        self._limit(max(0.0, self._held_until - now))

    def _limit(self, seconds: float) -> None:
        """Its phase may last so long."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(seconds, self._expire)

    async def _open(self, link: Link) -> None:
        relay = self._relay
        far = Far(self, link.half_close)
        origin = ("", 0)
        if self._peer is not None and self._peer.tcp:
            ends = self._peer.ends()
            if ends is None:
                self.reset(LostError("the client left"))
                return
            origin = ends[0]
        try:
            channel = await link.open_channel(self._connect, far, origin)
        except LostError as error:
            # Nothing of this client has been sent yet: it waits for the next link.
            if self.phase is Phase.OPENING:
                self.phase = Phase.PARKED
                self._hold()
                if relay.link is not link:
                    self.splice()
                elif not await _lost(link) and self.phase is Phase.PARKED and relay.link is link:
                    self.turn_away(error)
            return
        except ForwardError as error:
            self.turn_away(error)
            return
        if self.phase is not Phase.OPENING or self._near is None:
            channel.abort()
            return
        far.channel = channel
        if self._handshake is not None:
            self._near.write(self._handshake.accepted())
        self._spliced(far)

    def _spliced(self, far: Far) -> None:
        """Both sides are there: what came early goes first."""
        assert self._near is not None
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = self._opening = None  # a thousand quiet clients keep a thousand of each else
        self._far = far
        self.phase = Phase.SPLICED
        early, self._early = self._early, []
        for data in early:
            self._count_up(len(data))
            far.channel.write(data)
        if self.near_eof:
            far.near_ended()
        elif early and not far.paused:
            self._near.resume_reading()

    @property
    def departed(self) -> bool:
        """Whether it is known to have left altogether."""
        return self._peer is not None and self._peer.closed() is True

    def gone_for_good(self) -> bool:
        """Whether a client that sends no more has no use for an answer either.

        A socket that was closed altogether looks from here just like one that was half-closed. Where the system does
        not know, a long quiet has to do.
        """
        closed = self._peer.closed() if self._peer is not None else None
        if closed is not None:
            return closed
        return asyncio.get_running_loop().time() - self._moved >= LONG_QUIET

    def pass_end_when_gone(self, pause: float = FIRST_DEPARTURE_CHECK) -> None:
        """A deferred half-close: passed on when the client is gone for good, at the latest when the far side ends."""
        if self.phase is not Phase.SPLICED or self._far is None:
            return
        if self.gone_for_good():
            self._far.leave()
            self._break()  # one that is there after all must not take it for the end of its answer
            return
        next_pause = min(2 * pause, DEPARTURE_CHECK)
        self._leaving = asyncio.get_running_loop().call_later(pause, self.pass_end_when_gone, next_pause)

    # ---- ends ----

    def moving(self, now: float) -> bool:
        """Whether bytes passed a moment ago, or leave our buffer for a client that takes them."""
        unsent = self._near.get_write_buffer_size() if self._near is not None else 0
        if unsent != self._unsent:
            self._unsent = unsent
            self._moved = now
        return self.phase in (Phase.SPLICED, Phase.ENDED) and now - self._moved < QUIET

    def standstill(self) -> float:
        """Seconds since bytes passed; 0 while it has some to take yet."""
        if self._near is None or self._near.get_write_buffer_size():
            return 0.0
        return asyncio.get_running_loop().time() - self._moved

    def reset(self, error: ForwardError) -> None:
        """End both sides now; the client sees a reset (EOF on a unix socket)."""
        self._break()
        far = self._far or self.incoming
        if far is not None:
            far.channel.abort()

    def _break(self) -> None:
        self._end()
        if self._near is not None:
            if self._peer is not None and not self._near.is_closing():
                self._peer.end_with_reset()
            self._near.abort()

    def not_served(self, error: ForwardError) -> None:
        """Count it and say why; where its channel opens before the far end is reached, that is later."""
        self._relay.refused += 1
        self._relay.tell_failed(error)

    def tell(self, error: ForwardError) -> None:
        """Something is wrong with it that ends nothing."""
        self._relay.tell_failed(error)

    def turn_away(self, error: ForwardError) -> None:
        """This client cannot be served: a proxy's client is told why, any other is reset."""
        self.not_served(error)
        if self._handshake is None or self._near is None or self.phase is Phase.SPLICED:
            self.reset(error)
        else:
            self._near.write(self._handshake.failed(error))
            self.finish()

    def _expire(self) -> None:
        hold, within = self._relay.hold, self._relay.within
        if self.phase is Phase.PARKED:
            hint = "--hold S lets clients wait longer"
            self.turn_away(DeadlineError(f"a client waited {hold:g} s and was reset", hint=hint))
        elif self.phase is Phase.OPENING:
            hint = "--timeout S allows more time"
            self.turn_away(DeadlineError(f"no answer within {within:g} s", hop=str(self._connect), hint=hint))
        elif self.phase is Phase.ASKING:
            message = f"a client did not say within {within:g} s where it wants to go"
            self.turn_away(DeadlineError(message, hint="Does it speak SOCKS?"))

    def _end(self) -> None:
        self.phase = Phase.ENDED
        self._early.clear()
        if self._near is None:  # there will be no connection_lost
            self._relay.clients.discard(self)
        if self._expiry is not None:
            self._expiry.cancel()
        if self._opening is not None and self._opening is not asyncio.current_task():
            self._opening.cancel()

    # ---- called by the far side ----

    def pause_reading(self) -> None:
        if self._near is not None and not self._near.is_closing():
            self._near.pause_reading()

    def resume_reading(self) -> None:
        if self._near is not None and not self._near.is_closing():
            self._near.resume_reading()

    def deliver(self, data: bytes) -> None:
        """Bytes from the far side."""
        relay = self._relay
        if self._near is not None and self.phase is Phase.SPLICED:
            relay.bytes_down += len(data)
            self._moved = asyncio.get_running_loop().time()
            self._near.write(data)

    def far_ended(self) -> None:
        """The far side sends no more; the near side may still."""
        if self._near is None or self.phase is not Phase.SPLICED:
            return
        if self.near_eof:
            self.finish()
        elif self._near.can_write_eof():
            self._near.write_eof()

    def finish(self) -> None:
        """End in order: what was received is delivered, then FIN.

        A client that is still sending gets `DRAIN` seconds to take note: closing with its bytes unread would
        reset it, and a reset may overtake the end of the answer (RFC 1122 section 4.2.2.13).
        """
        if self.phase is Phase.ENDED:
            return
        self._end()
        if self._near is None or self._near.is_closing():
            return
        if self._peer is not None:
            self._peer.end_in_order()
        if self.near_eof or not self._near.can_write_eof():
            self._near.close()
        else:
            self._near.write_eof()
            self._near.resume_reading()
            self._drain = asyncio.get_running_loop().call_later(DRAIN, self._near.close)

    def _count_up(self, size: int) -> None:
        self._relay.bytes_up += size
        self._moved = asyncio.get_running_loop().time()


async def _lost(link: Link) -> bool:
    """Whether a link on which a channel was lost is gone too: it says so a moment later, if so."""
    await asyncio.wait([link.lost], timeout=LOST_TOO)
    return link.lost.done()
