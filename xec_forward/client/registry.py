"""What is open in this process: `xf.tunnels` and `xf.close_all()`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .session import current
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
        """How many may be open at once; the next is refused with LimitError. 50 unless set."""
        return current().max_tunnels

    @limit.setter
    def limit(self, most: int) -> None:
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
