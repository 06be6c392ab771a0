"""Owns the tunnels of this engine, and what they share: the pool of links, the ports' names, the record for other
engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from ..errors import ClosedError
from ..model import Browse, Changed, Health, Look, Open, Outlook, ReadSecret, Snapshot
from ..spec import Resource
from .house import House
from .links import command, ssh
from .links.pool import Pool
from .links.way import Direct, Way
from .listener import Binder
from .monitor import Monitor
from .neighbours import Neighbours
from .opening import Asker, CallOpening
from .tunnel import Tunnel


class Manager:
    """The tunnels by the number the client gave them."""

    def __init__(self, neighbours: Neighbours, asker: Asker, report: Callable[[Changed], None], log: str) -> None:
        self._tunnels: dict[int, Tunnel] = {}
        self._neighbours = neighbours
        self._pool = Pool()
        binder = Binder(self._name_of_port, neighbours.holder)
        self._house = House(self._pool, binder, asker, report, self._route, self._publish, self._expired, log)
        self._ending: set[asyncio.Task[None]] = set()
        self._monitor = Monitor(lambda: self._pool.links, self._hurry)
        self._monitor.start()

    async def open(self, request: Open) -> Snapshot:
        """Open a tunnel; returns when it is ready. Cancelled or failed, it leaves nothing behind."""
        tunnel = Tunnel(request, self._house)
        self._tunnels[request.tunnel] = tunnel
        try:
            await asyncio.shield(tunnel.opened)
        except BaseException:
            await self._drop(tunnel, grace=0.0)
            raise
        return tunnel.snapshot()

    async def close(self, numbers: Iterable[int], grace: float = 2.0) -> tuple[Snapshot, ...]:
        """Close these tunnels side by side; one that is not there is closed already."""
        tunnels = [self._tunnels[number] for number in numbers if number in self._tunnels]
        await asyncio.gather(*(self._drop(tunnel, grace) for tunnel in tunnels))
        return tuple(tunnel.snapshot() for tunnel in tunnels)

    async def close_all(self, grace: float = 2.0) -> None:
        """Close every tunnel and every link."""
        await self._monitor.close()
        await self.close(list(self._tunnels), grace)
        await self._pool.close()
        self._neighbours.close()

    async def reconnect(self, number: int) -> Snapshot:
        """Drop the tunnel's link and dial again."""
        tunnel = self._find(number)
        await tunnel.reconnect()
        return tunnel.snapshot()

    async def check(self, number: int) -> Health:
        """Look at each stage of a tunnel."""
        return await self._find(number).check()

    async def look(self, request: Look) -> Outlook:
        """What the configuration says about a target; nothing is dialled."""
        if request.cluster is not None:
            from .links import kubernetes

            return await kubernetes.look(request.cluster)
        assert request.ssh is not None
        return await asyncio.to_thread(ssh.look, request.ssh)

    async def secret(self, request: ReadSecret) -> str:
        """One entry of a Kubernetes Secret."""
        from .links import kubernetes

        opening = CallOpening(request.call, self._house.asker, lambda: None)
        target, tunnel = request.cluster, self._tunnels.get(request.tunnel)
        if tunnel is not None and tunnel.place.context:
            target = replace(target, context=tunnel.place.context, namespace=tunnel.place.namespace)
        return await kubernetes.secret(target, request.name, request.key, opening=opening, pool=self._pool)

    async def browse(self, request: Browse) -> tuple[str, ...]:
        """Names in a cluster, for completion."""
        from .links import kubernetes

        opening = CallOpening(request.call, self._house.asker, lambda: None)
        return await kubernetes.browse(request, opening=opening, pool=self._pool)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """All tunnels, in the order of their opening."""
        return tuple(tunnel.snapshot() for tunnel in self._tunnels.values())

    def _find(self, number: int) -> Tunnel:
        try:
            return self._tunnels[number]
        except KeyError:
            raise ClosedError("the tunnel is closed", hint="Open it again") from None

    async def _drop(self, tunnel: Tunnel, grace: float) -> None:
        await tunnel.close(grace)
        self._tunnels.pop(tunnel.request.tunnel, None)
        self._publish()

    def _hurry(self) -> None:
        self._pool.dial_anew()
        for tunnel in self._tunnels.values():
            tunnel.hurry()

    def _expired(self, tunnel: Tunnel) -> None:
        """A tunnel's own time is over."""
        task = asyncio.get_running_loop().create_task(self._drop(tunnel, grace=2.0))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _route(self, request: Open, *, own: bool = False) -> Way:
        """How a request comes to its link; `own`: no master is ridden."""
        if request.command is not None:
            text = request.command.command
            # Sooner than the tunnel's own deadline, whose message cannot say what the command said.
            limit = min(command.LISTEN_DEADLINE, request.options.timeout * 0.85)
            return Direct(command.identity(text), partial(command.dial, text, timeout=limit), self._pool)
        if request.cluster is not None:
            assert request.forward.connect is not None
            connect = request.forward.connect
            # Imported when the first cluster is wanted: 0.6 s that no SSH tunnel needs.
            from .links import kubernetes

            return kubernetes.Way(request.cluster, Resource.of(connect.host), connect, self._pool)
        assert request.ssh is not None
        target = replace(request.ssh, control_master="no") if own else request.ssh
        key = ssh.identity(target)
        if request.ssh.control_master == "no":  # a connection of its own
            key = (key, request.tunnel)
        return Direct(key, partial(ssh.dial, target, pool=self._pool), self._pool)

    def _name_of_port(self, port: int) -> str:
        return next((tunnel.name for tunnel in self._tunnels.values() if tunnel.port == port), "")

    def _publish(self) -> None:
        self._neighbours.publish({tunnel.port: tunnel.name for tunnel in self._tunnels.values() if tunnel.port})
