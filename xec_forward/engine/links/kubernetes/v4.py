"""The older protocol of port-forward, `v4.channel.k8s.io`: one connection on one WebSocket, for API servers up to 1.30.

The first byte of a message is its channel: 0 data, 1 error text. The first message of each from the server begins with
the port (2 bytes, little endian), which says nothing new. There is no half-close and no second connection: the end of
the WebSocket is the end of the connection, with status 1000 in every case, so that the text alone tells a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ....errors import ForwardError, LostError, PodGoneError
from ..base import ChannelProtocol
from . import endings
from .pulse import Pulse
from .session import Owner
from .stream import DRAIN_DEADLINE
from .websocket import NORMAL, WebSocketUpgrade

_DATA, _ERROR = 0, 1
_PORT_SIZE = 2
# What the pod may still say after its client has ended its side; over SPDY the node gives it as long.
_LAST_SECOND = 1.0


class V4Session:
    """The session of one WebSocket, and the channel on it. Nothing is read before there is one.

    Args:
        upgrade: a pipe that nobody reads yet.
        pod: the pod's name, for messages.
        owner: is told of its end.
    """

    def __init__(self, upgrade: WebSocketUpgrade, pod: str, owner: Owner) -> None:
        self.port = upgrade.port
        self._upgrade = upgrade
        self._hop = f"{pod}:{upgrade.port}"
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._protocol: ChannelProtocol | None = None
        self._channel = -1  # of the message that is coming; -1 between two
        self._to_skip = {_DATA: _PORT_SIZE, _ERROR: _PORT_SIZE}
        self._gathered: list[bytes] = []
        self._text = bytearray()
        self._ended = False  # by us
        self.over = False
        self._timer: asyncio.TimerHandle | None = None
        self._pulse = Pulse(self._send_pings, self._dead, width=1)
        upgrade.pause_reading()
        upgrade.ponged = self._ponged

    # Carrier

    @property
    def live(self) -> bool:
        return self._protocol is not None

    @property
    def draining(self) -> bool:
        return False

    @property
    def suspect(self) -> bool:
        return self._pulse.overdue

    def open_channel(self, port: int, protocol: ChannelProtocol) -> V4Session:
        assert port == self.port
        assert self._protocol is None
        self._protocol = protocol
        self._loop.call_soon(self._begin)
        return self

    def retire(self) -> None:
        if self._protocol is None and not self.over:
            self._upgrade.close()
            self._end(None)

    # base.Channel

    def write(self, data: bytes) -> None:
        if data and not self._ended:
            self._pulse.wrote()
            self._upgrade.write(bytes((_DATA,)), data)

    def write_eof(self) -> None:
        """There is no half-close: the end is told a second later, so that an answer on its way still comes."""
        if not self._ended:
            self._ended = True
            self._timer = self._loop.call_later(_LAST_SECOND, self._close)

    def pause_reading(self) -> None:
        self._upgrade.pause_reading()
        self._pulse.pause()

    def resume_reading(self) -> None:
        self._upgrade.resume_reading()
        self._pulse.resume()

    def close(self) -> None:
        self._ended = True
        self._close()

    def abort(self, error: ForwardError | None = None) -> None:
        self._ended = True
        self._upgrade.abort()
        self._loop.call_soon(self._end, error)

    # the upgrade's side

    def data_received(self, data: bytes, end: bool) -> None:
        self._pulse.heard()
        if self._channel < 0 and data:
            self._channel = data[0]
            data = data[1:]
        skip = min(self._to_skip.get(self._channel, 0), len(data))
        if skip:
            self._to_skip[self._channel] -= skip
            data = data[skip:]
        if data and self._channel == _DATA:
            self._gathered.append(data)
        elif self._channel == _ERROR:
            self._text += data[: endings.LARGEST_TEXT - len(self._text)]
        if end:
            self._channel = -1

    def chunk_received(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered and self._protocol is not None:
            self._protocol.data_received(b"".join(gathered))

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._pulse.heard()
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, error: ForwardError) -> None:
        self.chunk_received()
        if self._text:
            error = endings.explain(self._text.decode("utf-8", "replace"), self.port, self._hop)
            if isinstance(error, PodGoneError):
                self._owner.gone(error)
        elif self._owner.doomed is not None:
            error = self._owner.doomed
        elif self._ended or self._upgrade.close_code == NORMAL:
            self._end(None)
            return
        self._end(error)

    # its own

    def _begin(self) -> None:
        self._upgrade.start(self)
        self._upgrade.resume_reading()

    def _close(self) -> None:
        self._upgrade.close(DRAIN_DEADLINE)

    def _send_pings(self, ids: Sequence[int]) -> None:
        for number in ids:
            self._upgrade.ping(b"%d" % number)

    def _ponged(self, payload: bytes) -> None:
        if payload.isdigit():
            self._pulse.answered(int(payload))

    def _dead(self) -> None:
        self._upgrade.abort()
        self._end(LostError("the API server does not answer", hop=self._hop))

    def _end(self, error: ForwardError | None) -> None:
        if self.over:
            return
        self.over = True
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._pulse.stop()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(error)
        # Of the API server it says nothing: one connection has ended, as it had to.
        self._owner.over(self, None)
