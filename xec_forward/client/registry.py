"""What is open in this process: `xf.tunnels` and `xf.close_all()`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import SpecError
from .session import MAX_TUNNELS, current
from .tunnel import Tunnel


class Tunnels(Mapping[str, Tunnel]):
    """The open tunnels by name, in the order of their opening; a view, always up to date."""

    def __getitem__(self, name: str) -> Tunnel:
        for tunnel in current().listed():
            if tunnel.name == name:
                return tunnel
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter([tunnel.name for tunnel in current().listed()])

    def __len__(self) -> int:
        return len(current().tunnels)

    @property
    def limit(self) -> int:
        """How many may be open at once; the next is refused with LimitError. 50 unless set.

        Raises:
            SpecError: what it is set to is no whole number from 1.
        """
        return current().max_tunnels

    @limit.setter
    def limit(self, most: int) -> None:
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            hint = f"xf.tunnels.limit = {MAX_TUNNELS} is what it is unless set"
            raise SpecError(f"the limit of tunnels is {most!r:.60}, not a whole number from 1", hint=hint)
        current().max_tunnels = most

    def __repr__(self) -> str:
        return f"<Tunnels {', '.join(self) or 'none'}>"


tunnels = Tunnels()


def close_all() -> None:
    """Close every tunnel of this process."""
    session = current()
    session.close(session.listed())


async def aclose_all() -> None:
    """`close_all` for coroutines."""
    session = current()
    await session.aclose(session.listed())
