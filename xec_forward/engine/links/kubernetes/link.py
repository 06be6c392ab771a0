"""The Kubernetes link: connections to the ports of the pod that a resource leads to at the moment (`leading`).

It is lost when there is no such pod any more, or when the API server is away: the tunnel redials.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable
from functools import partial

from ....errors import ClosedError, DeadlineError, ForwardError, LostError, PodGoneError
from ....options import ClusterTarget
from ....spec import Endpoint, Resource
from ..base import Channel, ChannelProtocol, HalfClose, Link, Opening
from ..pool import Lease, Pool
from . import cluster
from .api import Api
from .attempt import Attempt
from .config import Context
from .leading import Leading, answered
from .resolve import Choice, choose
from .watch import PASSING

# How long a connection waits for the pod that follows one that went, and for its way there, seconds: longer than an
# exec plugin may take, whose own words say more.
CHANNEL_DEADLINE = 28.0
# Seconds in which a connection that the pod's node could not make is lost, beside the way there and back: it takes 2 to
# 16 ms.
SETTLE = 0.25


def identity(target: ClusterTarget, context: Context, resource: Resource) -> Hashable:
    """What makes two links the same: the cluster, the namespace and the resource."""
    return (cluster.identity(target, context), context.namespace, resource)


async def dial(
    target: ClusterTarget, context: Context, resource: Resource, connect: Endpoint, opening: Opening, pool: Pool
) -> KubernetesLink:
    """Reach the API server, and find a ready pod; waits for one to become ready.

    Args:
        context: what the kubeconfig says of the target.
        connect: the port that is wanted first: one that there is not is refused before anything is waited for.
        opening: shown the steps "api" and "pod" (and those of SSH hosts), and what is waited for.
        pool: where the link to the API server comes from.

    Raises:
        ForwardError: those of the API server's link, and of `resolve.choose`.
    """
    lease = await cluster.acquire(target, opening, pool, context)
    try:
        assert isinstance(lease.link, cluster.ClusterLink)
        api = lease.link.api.within(context.namespace)
        with opening.step("pod"):
            choice = await choose(
                api, resource, [connect], waiting=lambda reason: opening.wait_for(reason.text, reason.hint)
            )
        return KubernetesLink(api, choice, lease)
    except BaseException:
        lease.release()
        raise


class KubernetesLink(Link):
    """A resource with a pod behind it. Made by `dial`.

    Args:
        api: requests to the API server, in the resource's namespace.
        choice: the pod to begin with.
        lease: the API server's link.
    """

    half_close = HalfClose.DEFERRED
    listens = False

    def __init__(self, api: Api, choice: Choice, lease: Lease) -> None:
        self.route = lease.link.route
        self.lost: asyncio.Future[ForwardError] = asyncio.get_running_loop().create_future()
        self._lease = lease
        self._attempts: set[Attempt] = set()
        self._ending: asyncio.Task[None] | None = None
        self._leading = Leading(api, choice, self.abort)
        lease.link.lost.add_done_callback(self._cluster_lost)

    # ---- links.base.Link ----

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """See Link. Returns before the pod has taken the connection; one that it refuses is lost soon after.

        Raises:
            ConfigError: the resource has no such port. LostError. DeadlineError: no pod has followed the last one.
            PodGoneError: none will.
        """
        attempt = Attempt(protocol, partial(self._open, connect), self._attempts.discard)
        self._attempts.add(attempt)
        try:
            await attempt.open()
        except BaseException:
            self._attempts.discard(attempt)
            raise
        return attempt

    async def _open(self, connect: Endpoint, protocol: ChannelProtocol) -> Channel:
        leading = self._leading
        try:
            async with asyncio.timeout(CHANNEL_DEADLINE):
                while True:
                    warm, port = await leading.pod(), await leading.port(connect)
                    if warm is not leading.warm:
                        continue
                    try:
                        return await warm.open_channel(port, protocol)
                    except PodGoneError as gone:
                        leading.gone(warm, gone.message)
                    except ClosedError:
                        if warm is leading.warm or self.lost.done():
                            raise  # else new connections go to another pod by now
                    except PASSING as error:
                        if warm.lost.done():
                            leading.warm_lost(warm, warm.lost)
                        if warm is not leading.warm and not answered(error):
                            continue  # others were refused; whether this one is too, the next pool tells
                        if warm.doomed is not None and not self.lost.done():
                            continue  # it waits for the next pod
                        if self.lost.done():  # its next one will do
                            raise LostError(error.message, hop=error.hop, hint=error.hint) from error
                        raise
        except ForwardError:
            raise  # a DeadlineError is a TimeoutError too, and says what was late
        except TimeoutError:
            raise self._late() from None

    async def join(self, connect: Endpoint) -> None:
        """A tunnel that is opened takes this link, which others have made. Raises as `dial`."""
        await self._leading.join(connect)

    def _late(self) -> DeadlineError:
        """What a connection has waited for in vain."""
        hop, within = str(self._leading.choice.resource), f"within {CHANNEL_DEADLINE:g} s"
        if not self._leading.leads:
            return DeadlineError(f"no pod was there {within}", hop=hop)
        trouble = self._leading.warm.dials.trouble
        why = f": {trouble.message}" if trouble is not None else ""
        hint = trouble.hint if trouble is not None else ""
        return DeadlineError(f"there was no port-forward to the pod {within}{why}", hop=hop, hint=hint)

    @property
    def settle(self) -> float:
        """See Link. What is far away takes as long as an upgrade took."""
        return SETTLE + self._leading.warm.dials.distance

    async def round_trip(self) -> float:
        """See Link: a SPDY PING, which the pod's node answers."""
        if self.lost.done():
            raise LostError("the link is gone", hop=self.route[-1])
        if not self._leading.leads:
            return 0.0  # between two pods; the succession has its own deadline
        return await self._leading.warm.ping()

    def behind(self, connect: Endpoint) -> str:
        """See Link."""
        if self._leading.why:
            return f"{self._leading.why}; waiting for another pod"
        with contextlib.suppress(ForwardError):
            return self._leading.choice.describe(connect)
        return ""

    async def close(self) -> None:
        """See Link. What clients sent before they left is given a moment to be taken."""
        self._lose(ClosedError("the link was closed", hop=self.route[-1]), in_order=True)
        if self._ending is not None:
            await self._ending

    def abort(self, reason: ForwardError | None = None) -> None:
        """See Link."""
        self._lose(reason or ClosedError("the link was closed", hop=self.route[-1]))

    # ---- the end ----

    def _cluster_lost(self, lost: asyncio.Future[ForwardError]) -> None:
        if not lost.cancelled():
            self._lose(lost.result())

    def _lose(self, error: ForwardError, *, in_order: bool = False) -> None:
        if self.lost.done():
            return
        self.lost.set_result(error)
        self._leading.end(None if in_order else error)
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        await self._leading.wait_closed()
        self._lease.release()
