"""A cluster's API server as a link of the pool: shared by the port-forwards to its pods, with its credentials.

It opens no channels of its own. It is lost when the SSH host that it is reached through is; an API server that
restarts is not lost, only its answers are late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import replace
from functools import partial

from ....errors import ClosedError, ConfigError, ForwardError
from ....options import ClusterTarget, SshTarget
from ....spec import Endpoint
from .. import ssh
from ..base import Channel, ChannelProtocol, HalfClose, Link, Opening
from ..pool import Keep, Lease, Pool
from . import config
from .api import Api
from .approach import Approach
from .config import Context

# How long the API's connections and the token are kept after the last port-forward, seconds.
LINGER = 60.0


def identity(target: ClusterTarget, context: Context) -> Hashable:
    """What makes two API servers the same, whatever the namespace."""
    return ("cluster", target.proxy, config.identity(target, context))


async def acquire(target: ClusterTarget, opening: Opening, pool: Pool, context: Context | None = None) -> Lease:
    """A lease on the API server's link.

    Args:
        context: what the kubeconfig says of the target; read now where it is left out.

    Raises:
        ForwardError: ConfigError for the kubeconfig, or those of `dial`.
    """
    if context is None:
        context = await asyncio.to_thread(config.load, target)
    return await pool.acquire(identity(target, context), partial(dial, target, context, pool=pool), opening)


async def dial(target: ClusterTarget, context: Context, opening: Opening, pool: Pool) -> ClusterLink:
    """Log in, and reach the API server (over its SSH hosts, where it has any).

    Raises:
        ForwardError: those of an SSH host, or those of a login.
    """
    lease: Lease | None = None
    approach: Approach | None = None
    if target.proxy:
        host = _last_host(target)
        lease = await pool.acquire(ssh.identity(host), partial(ssh.dial, host, pool=pool), opening)
        approach = Approach(lease.link)
    try:
        with opening.step("api"):
            api = await Api.open(target, via=approach, context=context, patience=opening.remaining)
    except BaseException:
        if approach is not None:
            await approach.close()
        if lease is not None:
            lease.release()
        raise
    return ClusterLink(api, lease, approach)


def keep(target: ClusterTarget, pool: Pool) -> Keep:
    """Keep what the login of the SSH hosts learned (a passphrase), also while there is no link."""
    return pool.keep(ssh.identity(_last_host(target))) if target.proxy else Keep("cluster", lambda: None)


def _last_host(target: ClusterTarget) -> SshTarget:
    """The SSH host that reaches the API server: of a chain, in which each goes through those before it."""
    *before, last = target.proxy
    return replace(last, proxy=tuple(before))


class ClusterLink(Link):
    """An API server that was reached. Made by `dial`.

    Args:
        api: makes the requests.
        lease: the SSH host that it is reached through; approach: the way through it.
    """

    half_close = HalfClose.NONE
    listens = False

    def __init__(self, api: Api, lease: Lease | None, approach: Approach | None) -> None:
        self.api = api
        api.outcome = self._used
        self.route = (*(lease.link.route if lease is not None else ()), api.name)
        self.lost: asyncio.Future[ForwardError] = asyncio.get_running_loop().create_future()
        self._lease = lease
        self._approach = approach
        self._ending: asyncio.Task[None] | None = None
        if lease is not None:
            lease.link.lost.add_done_callback(lambda lost: self.abort(lost.result()))

    def _used(self, answered: bool) -> None:
        """One that answers is kept for a while; one that does not is made anew by who tries again."""
        self.persist = LINGER if answered else 0.0

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """See Link. There are none: they lead to pods."""
        raise ConfigError("an API server has no channels", hop=self.api.name)

    async def round_trip(self) -> float:
        """See Link. An API server that is away for a while is not lost, so only a host in between is asked."""
        if self._lease is not None:
            return await self._lease.link.round_trip()
        return 0.0

    async def close(self) -> None:
        """See Link."""
        self.abort()
        if self._ending is not None:
            await self._ending

    def abort(self, reason: ForwardError | None = None) -> None:
        """See Link."""
        if not self.lost.done():
            self.lost.set_result(reason or ClosedError("the link was closed", hop=self.api.name))
            self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        await self.api.close()
        if self._approach is not None:
            await self._approach.close()
        if self._lease is not None:
            self._lease.release()


def api_of(link: Link, namespace: str) -> Api:
    """The requests to a cluster that was reached, seen from a namespace."""
    assert isinstance(link, ClusterLink)
    return link.api.within(namespace)


async def read_secret(link: Link, namespace: str, name: str, key: str) -> str:
    """One value of a Secret, as text. Raises as `Api.read_secret`; ConfigError where it is no text."""
    api = api_of(link, namespace)
    value = await api.read_secret(api.namespace, name, key)
    try:
        return value.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{key} of the secret {api.namespace}/{name} is no text", hop=api.server) from None
