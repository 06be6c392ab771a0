"""Several tunnels opened together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

from .tunnel import Tunnel

_PORTS = (attrgetter("local_port"), attrgetter("remote_port"))
_NAMES = (attrgetter("name"), attrgetter("remote_port_name"))


class ForwardGroup(Mapping[str, Tunnel]):
    """Tunnels by name, and by port: `group["pg"]`, `group[5432]`, `group.pg`. Closes as one.

    A port is the local one, or the far one where no tunnel listens on it here; a Kubernetes port also by its name,
    where no tunnel is called so.
    """

    def __init__(self, tunnels: Sequence[Tunnel]) -> None:
        self._tunnels = list(tunnels)

    def __getitem__(self, key: str | int) -> Tunnel:
        if isinstance(key, str):
            found = (tunnel for name in _NAMES for tunnel in self._tunnels if key and name(tunnel) == key)
        else:
            found = (tunnel for port in _PORTS for tunnel in self._tunnels if key and port(tunnel) == key)
        for tunnel in found:
            return tunnel
        raise KeyError(key)

    def __getattr__(self, name: str) -> Tunnel:
        # Not for `_tunnels` itself, which a copy asks for before it is there.
        if not name.startswith("_"):
            try:
                return self[name]
            except KeyError:
                pass
        raise AttributeError(f"the group has no tunnel {name}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self if name.isidentifier())]

    def __iter__(self) -> Iterator[str]:
        return (tunnel.name for tunnel in self._tunnels)

    def __len__(self) -> int:
        return len(self._tunnels)

    def __repr__(self) -> str:
        return f"<ForwardGroup {', '.join(f'{tunnel.name} {tunnel.state}' for tunnel in self._tunnels)}>"

    def close_all(self) -> None:
        """Close every tunnel of the group, side by side."""
        if self._tunnels:
            self._tunnels[0].session.close(self._tunnels)

    async def aclose_all(self) -> None:
        """`close_all` for coroutines."""
        if self._tunnels:
            await self._tunnels[0].session.aclose(self._tunnels)

    def wait_ready(self, timeout: float = 30.0) -> ForwardGroup:
        """Wait until every tunnel is ready; see Tunnel.wait_ready.

        Args:
            timeout: seconds, for all of them together.
        """
        end = time.monotonic() + timeout
        for tunnel in self._tunnels:
            tunnel.wait_ready(max(0.0, end - time.monotonic()))
        return self

    async def await_ready(self, timeout: float = 30.0) -> ForwardGroup:
        """`wait_ready` for coroutines."""
        return await asyncio.to_thread(self.wait_ready, timeout)

    def __enter__(self) -> ForwardGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_all()

    async def __aenter__(self) -> ForwardGroup:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose_all()
