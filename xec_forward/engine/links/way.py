"""How a tunnel comes to its link, the first time and after each loss."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, Protocol

from .base import Dial, Opening
from .pool import Keep, Lease, Pool


class Place(NamedTuple):
    """Where in a cluster a tunnel leads: the context and the namespace; "" where there are none, or none known yet."""

    context: str = ""
    namespace: str = ""


class Way(Protocol):
    """One tunnel's way to its link.

    Attributes:
        place: what of a kubeconfig's meaning is settled for the tunnel's life.
    """

    place: Place

    def keep(self) -> Keep:
        """Keep what the login learned (a passphrase) for the next dial, until that is released."""

    async def settle(self) -> None:
        """Settle where it leads, as the configuration has it now, though nothing is dialled yet."""

    async def acquire(self, opening: Opening) -> Lease:
        """A lease on the link; dials where there is none. Raises ForwardError."""


class Direct:
    """The way of what is known by its words alone: an SSH host, a command.

    Args:
        key: what identifies the link; dial: how to make one.
        pool: where links come from.
    """

    place = Place()

    def __init__(self, key: Hashable, dial: Dial, pool: Pool) -> None:
        self._key = key
        self._dial = dial
        self._pool = pool

    def keep(self) -> Keep:
        """See Way."""
        return self._pool.keep(self._key)

    async def settle(self) -> None:
        """See Way."""

    async def acquire(self, opening: Opening) -> Lease:
        """See Way."""
        return await self._pool.acquire(self._key, self._dial, opening)
