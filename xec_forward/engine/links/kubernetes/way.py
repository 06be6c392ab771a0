"""How a tunnel comes to its link: in the context, and the namespace, that were meant when it was opened.

The kubeconfig is read anew each time, so that a cluster with another address or certificate by now is found there, and
a new tunnel goes where kubectl would. A tunnel that lives stays with its own: another current context must not lead it
to another cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from functools import partial

from ....errors import ConfigError
from ....options import ClusterTarget
from ....spec import Endpoint, Resource
from ..base import Opening, Passing
from ..pool import Keep, Lease, Pool
from ..way import Place
from . import cluster, config, link
from .config import Context


class Way:
    """See `links.way.Way`.

    Args:
        target, resource, connect: where to.
        pool: where links come from.
    """

    def __init__(self, target: ClusterTarget, resource: Resource, connect: Endpoint, pool: Pool) -> None:
        self.place = Place()
        self._target = target
        self._resource = resource
        self._connect = connect
        self._pool = pool

    @property
    def target(self) -> ClusterTarget:
        """The cluster, with what is settled of it."""
        return self._target

    def keep(self) -> Keep:
        """See Way."""
        return cluster.keep(self._target, self._pool)

    async def settle(self) -> None:
        """See Way. A kubeconfig that is no good yet may be by the time it is needed."""
        with contextlib.suppress(ConfigError):
            self._settled(await self._read())

    async def acquire(self, opening: Opening) -> Lease:
        """See Way."""
        context = await self._read()
        key = link.identity(self._target, context, self._resource)
        dial = partial(link.dial, self._target, context, self._resource, self._connect, pool=self._pool)
        others = self._pool.has(key)
        lease = await self._pool.acquire(key, dial, opening)
        try:
            if others and not self.place.context and isinstance(lease.link, link.KubernetesLink):
                await lease.link.join(self._connect)
        except BaseException:
            lease.release()
            raise
        self._settled(context)
        return lease

    async def _read(self) -> Context:
        try:
            return await asyncio.to_thread(config.load, self._target)
        except ConfigError as error:
            if not self.place.context:
                raise
            # Whoever makes a cluster anew, under its old name, writes its file anew too.
            raise ConfigError(error.message, hop=error.hop, hint=error.hint) from Passing()

    def _settled(self, context: Context) -> None:
        self.place = Place(context.name, context.namespace)
        self._target = replace(self._target, context=context.name, namespace=context.namespace)
