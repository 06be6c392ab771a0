"""The way to an API server that only an SSH host reaches: a door on our loopback that leads through the host.

TLS, its server name and the Host header stay the API server's own; only the address that is connected to is the
door's. The door has the same-user guard, and its clients a relay like any tunnel's: what the link loses is reset.
"""

from __future__ import annotations

import asyncio

from ....errors import LostError
from ....spec import Endpoint
from ...guard import Guard
from ...relay import Relay
from ..base import Link

# Seconds that a connection waits for the host to reach the API server.
PATIENCE = 20.0


class Approach:
    """Doors through one link, one for each place behind it. Ended by `close`.

    Args:
        link: leads to the SSH host.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._doors: dict[tuple[str, int], tuple[asyncio.Server, Relay]] = {}
        self._opening = asyncio.Lock()

    async def __call__(self, host: str, port: int) -> tuple[str, int]:
        """The local address that leads to `host` and `port` as the SSH host sees them."""
        async with self._opening:
            if (host, port) not in self._doors:
                relay = Relay(
                    Endpoint(host, port),
                    PATIENCE,
                    parked=lambda: None,
                    failed=lambda error: None,  # whoever connects sees the reset, and says what it was for
                    guard=Guard.of((), "uid"),
                )
                relay.attach(self._link)
                server = await asyncio.get_running_loop().create_server(relay.client, "127.0.0.1", 0)
                self._doors[host, port] = server, relay
            server, _ = self._doors[host, port]
            address: tuple[str, int] = server.sockets[0].getsockname()
            return address

    async def close(self) -> None:
        """End the doors and whatever goes through them; idempotent."""
        doors, self._doors = self._doors, {}
        for server, relay in doors.values():
            server.close()
            relay.detach(LostError("the way to the API server was closed"))
            await relay.close(grace=0.0)
