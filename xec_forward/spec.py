"""What the user asked for: SPEC words as frozen dataclasses. Ground floor, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The direction of a forward."""

    LOCAL = "local"
    REMOTE = "remote"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a forward: a TCP host and port, or the path of a unix socket.

    Attributes:
        host: a name or address; "" where none was written (the default interface, or the target itself).
        port: 0 means any free port, None means none was written; always None for a unix socket.
        path: the unix socket's path, "" for TCP.
    """

    host: str = ""
    port: int | None = None
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward, as written: which end listens, which end is connected to.

    Attributes:
        kind: local listens here; remote listens on the target; dynamic is a SOCKS proxy here.
        listen: where it listens. Port None: "the same as the far port if it can be bound, else any".
        connect: where its connections lead (None for dynamic). Host "" means the target itself.
        name: the name written in front (`pg=...`), or "".
        url: the connection string asked for (no password, no tunnel's host and port in it), or "".
    """

    kind: Kind
    listen: Endpoint
    connect: Endpoint | None
    name: str = ""
    url: str = ""
