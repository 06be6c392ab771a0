"""The Kubernetes link: the pod that a resource leads to at the moment, and connections to its ports.

chosen   a ready pod (`resolve`); the tunnels to one resource share it, and its warm upgrades
going    it terminates, or its node says that it is gone: new connections wait for the next pod, those in use may
         end by themselves, and what ends of them now is reset, because an EOF would pass for a complete answer
lost     nobody has followed it and nothing is carried any more, or the API server is away: the tunnel redials
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Hashable
from functools import partial

from ....errors import AuthenticationError, ClosedError, DeadlineError, ForwardError, LostError, PodGoneError
from ....options import ClusterTarget
from ....spec import Endpoint, Resource
from ..base import Channel, ChannelProtocol, HalfClose, Link, Opening
from ..pool import Lease, Pool
from . import cluster
from .api import Api
from .attempt import Attempt
from .config import Context
from .dial import Dialler
from .failures import Answer
from .follow import Follow
from .reasons import Reason
from .resolve import Choice, choose
from .warm import Warm
from .watch import PASSING

# How long a connection waits for the pod that follows one that went, and for its way there: longer than an exec plugin
# may take, whose own words say more. How long a link waits on which nothing is carried; seconds.
CHANNEL_DEADLINE = 28.0
SUCCESSION = 2.0
# Seconds in which a connection that the pod's node could not make is lost, beside the way there and back: it takes 2 to
# 16 ms.
SETTLE = 0.25

logger = logging.getLogger(__name__)


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


def _answered(error: ForwardError) -> bool:
    """Whether the API server is there, and refuses."""
    return isinstance(error.__cause__, Answer)


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
        self._api = api
        self._lease = lease
        self._attempts: set[Attempt] = set()
        self._retired: set[Warm] = set()
        self._there = asyncio.Event()  # a pod is there to lead to
        self._choosing = asyncio.Lock()
        self._succession: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._use(choice)
        lease.link.lost.add_done_callback(self._cluster_lost)

    # ---- links.base.Link ----

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """See Link. Returns before the pod has taken the connection; one that it refuses is lost soon after.

        Raises:
            ConfigError: the resource has no such port. LostError. DeadlineError: no pod has followed the last one.
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
        try:
            async with asyncio.timeout(CHANNEL_DEADLINE):
                while True:
                    await self._there.wait()
                    self._check()
                    if not self._follow.ready:
                        await self._reconsider()
                    warm = self._warm
                    try:
                        return await warm.open_channel(self._choice.port(connect), protocol)
                    except PodGoneError as gone:
                        self._gone(warm, gone.message)
                    except PASSING as error:
                        if warm.lost.done():
                            self._warm_lost(warm, warm.lost)
                        if warm is not self._warm and not _answered(error):
                            continue  # others were refused; whether this one is too, the next pool tells
                        if self.lost.done():  # its next one will do
                            raise LostError(error.message, hop=error.hop, hint=error.hint) from error
                        raise
        except ForwardError:
            raise  # a DeadlineError is a TimeoutError too, and says what was late
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> DeadlineError:
        """What a connection has waited for in vain."""
        hop, within = str(self._choice.resource), f"within {CHANNEL_DEADLINE:g} s"
        if not self._there.is_set():
            return DeadlineError(f"no pod was there {within}", hop=hop)
        trouble = self._warm.trouble
        why = f": {trouble.message}" if trouble is not None else ""
        hint = trouble.hint if trouble is not None else ""
        return DeadlineError(f"there was no port-forward to the pod {within}{why}", hop=hop, hint=hint)

    @property
    def settle(self) -> float:
        """See Link. What is far away takes as long as an upgrade took."""
        return SETTLE + self._warm.distance

    async def round_trip(self) -> float:
        """See Link: a SPDY PING, which the pod's node answers."""
        self._check()
        if not self._there.is_set():
            return 0.0  # between two pods; the succession has its own deadline
        return await self._warm.ping()

    def behind(self, connect: Endpoint) -> str:
        """See Link."""
        if self._follow.reason:
            return f"{self._follow.reason}; waiting for another pod"
        with contextlib.suppress(ForwardError):
            return self._choice.describe(connect)
        return ""

    async def close(self) -> None:
        """See Link. What clients sent before they left is given a moment to be taken."""
        if not self.lost.done():
            self._lose(ClosedError("the link was closed", hop=self.route[-1]), in_order=True)
        if self._ending is not None:
            await self._ending

    def abort(self, reason: ForwardError | None = None) -> None:
        """See Link."""
        self._lose(reason or ClosedError("the link was closed", hop=self.route[-1]))

    # ---- from pod to pod ----

    def _use(self, choice: Choice) -> None:
        self._choice = choice
        # Each knows its own pod, and may speak of it when another is in use already.
        self._warm = self._pool_of(choice)
        self._follow = Follow(self._api, choice, partial(self._going, choice))
        self._there.set()

    def _pool_of(self, choice: Choice) -> Warm:
        warm = Warm(Dialler(self._api, choice.namespace, choice.pod), choice.pod)
        warm.lost.add_done_callback(lambda lost: self._warm_lost(warm, lost))
        return warm

    def _going(self, choice: Choice, reason: str) -> None:
        if choice is self._choice:
            self._gone(self._warm, reason)

    def _warm_lost(self, warm: Warm, lost: asyncio.Future[ForwardError]) -> None:
        self._retired.discard(warm)
        if lost.cancelled() or warm is not self._warm:
            return
        error = lost.result()
        if isinstance(error, PodGoneError):
            self._gone(warm, error.message)
        elif _answered(error) and not isinstance(error, AuthenticationError):
            # The API server is there, and refuses: asked by another link, and at once, it would say the same.
            self._warm = self._pool_of(self._choice)
        elif self._there.is_set():
            self._lose(error)

    async def _reconsider(self) -> None:
        """The pod is not ready at the moment: another one may be. Connections in use stay where they are."""
        async with self._choosing:
            follow, warm = self._follow, self._warm
            if follow.ready or follow.reason:
                return
            choice = await choose(self._api, self._choice.resource, prefer=self._choice.pod)
            if choice.uid != self._choice.uid and self._follow is follow and not self.lost.done():
                follow.close()
                self._retired.add(warm)
                self._use(choice)
                warm.retire()

    def _gone(self, warm: Warm, reason: str) -> None:
        """A pod goes, or has gone."""
        if warm is not self._warm or not self._there.is_set() or self.lost.done():
            return
        logger.info("%s: %s", self._choice.resource, reason)
        self._there.clear()
        self._follow.close()
        self._follow.reason = self._follow.reason or reason
        # No PodGoneError: what was sent to this pod may have been heard, and is not to be sent again (`attempt`).
        warm.doom(LostError(reason, hop=str(self._choice.resource)))
        self._succession = asyncio.get_running_loop().create_task(self._succeed(warm, reason))

    async def _succeed(self, warm: Warm, reason: str) -> None:
        """Find the pod that follows, for as long as the last one carries something, and SUCCESSION seconds at least."""
        last = Reason("")

        def waiting(why: Reason) -> None:
            nonlocal last
            last = why

        loop = asyncio.get_running_loop()
        began = loop.time()
        search = asyncio.ensure_future(choose(self._api, self._choice.resource, waiting=waiting))
        try:
            while not search.done() and (loop.time() - began < SUCCESSION or warm.carries):
                await asyncio.wait([search], timeout=0.1)
            if not search.done():
                raise LostError(f"{reason}; {last or 'no other pod is ready'}", hop=str(self._choice.resource))
            choice = search.result()
        except ForwardError as error:
            self._lose(error)
            return
        finally:
            search.cancel()
        self._retired.add(warm)
        self._use(choice)
        warm.retire()

    # ---- the end ----

    def _check(self) -> None:
        if self.lost.done():
            raise LostError("the link is gone", hop=self.route[-1])

    def _cluster_lost(self, lost: asyncio.Future[ForwardError]) -> None:
        if not lost.cancelled():
            self._lose(lost.result())

    def _lose(self, error: ForwardError, *, in_order: bool = False) -> None:
        if self.lost.done():
            return
        self.lost.set_result(error)
        self._there.set()  # whoever waits for a pod learns that there is none
        self._follow.close()
        if self._succession is not None and self._succession is not asyncio.current_task():
            self._succession.cancel()
        warms = [self._warm, *self._retired]
        if not in_order:
            for warm in warms:
                warm.abort(error)
        self._ending = asyncio.get_running_loop().create_task(self._end(warms))

    async def _end(self, warms: list[Warm]) -> None:
        await asyncio.gather(self._follow.wait_closed(), *(warm.close() for warm in warms))
        self._lease.release()
