"""Several tunnels opened together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .tunnel import Tunnel


class ForwardGroup(Mapping[str, Tunnel]):
    """Tunnels by name, and by port: `group["pg"]`, `group[5432]`, `group.pg`. Closes as one."""

    def __init__(self, tunnels: Sequence[Tunnel]) -> None:
        self._tunnels = list(tunnels)

    def __getitem__(self, key: str | int) -> Tunnel:
        for tunnel in self._tunnels:
            if key in (tunnel.name, tunnel.local_port, tunnel.remote_port):
                return tunnel
        raise KeyError(key)

    def __getattr__(self, name: str) -> Tunnel:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

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
        """Wait until every tunnel is ready; see Tunnel.wait_ready."""
        for tunnel in self._tunnels:
            tunnel.wait_ready(timeout)
        return self

    def __enter__(self) -> ForwardGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_all()
