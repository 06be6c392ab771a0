"""The chosen pod, watched for as long as connections lead to it; and a service, for as long as anybody goes by it.

The pod itself is watched, and not its service's EndpointSlice: its deletionTimestamp is there first (530 ms against
551 ms in the recorded deletion), it says why, and it serves every kind of resource.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing

from ....spec import ResourceKind
from . import reasons
from .objects import EndpointSlice, Object, Pod, Service, path, read, slices_of, slices_path
from .ports import ServicePorts
from .resolve import Choice
from .watch import Api, snapshots

# Between two looks where watching is forbidden, seconds: it goes on for as long as the tunnel.
_POLL = 5.0
# The same for a service, which is also looked at whenever a tunnel to it is opened.
_SELDOM = 30.0

logger = logging.getLogger(__name__)


def _ignore() -> None:
    pass


class Follow:
    """Watches a pod until it goes. Starts at once; an API server that is away for a while is waited for.

    A pod goes when its deletion begins, when it completes or fails, and when another has taken its name: `going` is
    then called once with the reason, and nothing more comes. Its connections should be reset: the cluster will end
    them as if they were complete.

    Losing readiness is no going. It flaps, connections in use live on, and there may be no better pod; but a new
    connection should first ask `choose` again with `prefer`, which leaves the pod only for one that is ready.

    Attributes:
        reason: why it goes, or "".
        ready: whether it was ready when last seen.

    Args:
        relabelled: called when it has other labels, and so may be no longer one of those that were asked for.
    """

    def __init__(
        self, api: Api, choice: Choice, going: Callable[[str], None], relabelled: Callable[[], None] = _ignore
    ) -> None:
        self.reason = ""
        self.ready = True
        self._api = api
        self._choice = choice
        self._going = going
        self._relabelled = relabelled
        self._labels = choice.labels
        self._task = asyncio.create_task(self._watch(), name=f"follow pod/{choice.pod}")

    def close(self) -> None:
        """Stop watching; idempotent."""
        self._task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing of it is left."""
        await asyncio.wait([self._task])

    async def _watch(self) -> None:
        try:
            pods = path(ResourceKind.POD, self._choice.namespace)
            async with aclosing(snapshots(self._api, pods, name=self._choice.pod, patient=True, poll=_POLL)) as states:
                async for objects in states:
                    self.reason = self._see(objects.get(self._choice.pod))
                    if self.reason:
                        break
            self._going(self.reason)
        except Exception:
            logger.exception("the watch of pod/%s has ended", self._choice.pod)

    def _see(self, found: Object | None) -> str:
        """Why the pod goes, or ""."""
        if found is None:
            return f"pod/{self._choice.pod} was deleted"
        pod = read(Pod, found)
        if pod.metadata.uid != self._choice.uid:
            return f"pod/{self._choice.pod} was replaced"
        self.ready = pod.ready
        if pod.metadata.labels != self._labels:
            self._labels = pod.metadata.labels
            self._relabelled()
        return reasons.going(pod)


class Heed:
    """Watches a service; where it has no selector, its EndpointSlices too. Starts at once.

    Args:
        known: the service as it was when a pod was chosen by it.
        changed: called when it may lead elsewhere.
    """

    def __init__(self, api: Api, known: ServicePorts, changed: Callable[[], None]) -> None:
        self._api = api
        self._name = known.service.metadata.name
        self._changed = changed
        self._spec = known.service.spec
        self._slices = known.slices
        self._tasks = [asyncio.create_task(self._logged(self._watch), name=f"heed svc/{self._name}")]

    def close(self) -> None:
        """Stop watching; idempotent."""
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing of it is left."""
        await asyncio.wait(self._tasks)

    async def _logged(self, watch: Callable[[], Awaitable[None]]) -> None:
        try:
            await watch()
        except Exception:
            logger.exception("the watch of svc/%s has ended", self._name)

    async def _watch(self) -> None:
        services = path(ResourceKind.SERVICE, self._api.namespace)
        async with aclosing(snapshots(self._api, services, name=self._name, patient=True, poll=_SELDOM)) as states:
            async for objects in states:
                found = objects.get(self._name)
                if found is None:
                    continue  # it may come back, and the pod is there
                spec = read(Service, found).spec
                if spec != self._spec:
                    self._spec = spec
                    self._changed()
                if not spec.selector and len(self._tasks) == 1:
                    watch = self._logged(self._watch_slices)
                    self._tasks.append(asyncio.create_task(watch, name=f"heed the slices of svc/{self._name}"))

    async def _watch_slices(self) -> None:
        where = slices_path(self._api.namespace)
        async with aclosing(
            snapshots(self._api, where, selector=slices_of(self._name), patient=True, poll=_SELDOM)
        ) as states:
            async for objects in states:
                slices = tuple(read(EndpointSlice, each) for each in objects.values())
                if _lead(slices) != _lead(self._slices):
                    self._slices = slices
                    self._changed()


def _lead(slices: Iterable[EndpointSlice]) -> dict[str, object]:
    """Where slices lead, by their names."""
    return {each.metadata.name: (each.endpoints, each.ports) for each in slices}
