"""A proxy protocol's talk with a client before its bytes flow: what a splice needs of it. No I/O. `socks` has one."""

from __future__ import annotations

from typing import Protocol

from ..errors import ForwardError
from ..spec import Endpoint


class Progress(Protocol):
    """What a handshake made of some bytes.

    Attributes:
        send: bytes for the client.
        connect: where it wants to go, once that is known.
        rest: bytes behind the handshake, which belong to the far side.
        refused: why it is turned away (after `send`), or "".
    """

    @property
    def send(self) -> bytes: ...
    @property
    def connect(self) -> Endpoint | None: ...
    @property
    def rest(self) -> bytes: ...
    @property
    def refused(self) -> str: ...


class Handshake(Protocol):
    """A proxy protocol's talk with a client before its bytes flow; no I/O."""

    def receive(self, data: bytes) -> Progress: ...
    def accepted(self) -> bytes: ...
    def failed(self, error: ForwardError) -> bytes: ...
