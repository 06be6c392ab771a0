"""From a resource to one ready pod, as kubectl where it is right.

Of the ready pods the newest is chosen; one that is in use is kept for as long as it is ready, or lives while no other
is ready. Which pods a resource stands for is in `selection`, which port of the pod in `ports`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from ....errors import ConfigError
from ....spec import Endpoint, Resource, ResourceKind
from .missing import check_namespace
from .objects import Pod, path, slices_path
from .ports import Ports, ServicePorts
from .reasons import Reason
from .selection import Selection, newest_first, select
from .watch import Api, snapshots


@dataclass(frozen=True, slots=True)
class Choice:
    """The pod that a resource leads to. All the ports of one resource are of one choice.

    Attributes:
        resource: what was asked for.
        namespace, pod, uid: the pod.
    """

    resource: Resource
    namespace: str
    pod: str
    uid: str
    _object: Pod = field(repr=False, compare=False)
    _ports: Ports = field(repr=False, compare=False)

    @property
    def labels(self) -> dict[str, str] | None:
        """The pod's, when it was chosen."""
        return self._object.metadata.labels

    @property
    def service(self) -> ServicePorts | None:
        """The service that it was found by, as it was then."""
        return self._ports if isinstance(self._ports, ServicePorts) else None

    def port(self, endpoint: Endpoint) -> int:
        """The pod's port for an endpoint's number or name.

        Raises:
            ConfigError: there is no such port, or it is not TCP; the hint names those there are.
        """
        return self._ports.find(self._object, endpoint).number

    def describe(self, endpoint: Endpoint) -> str:
        """Where an endpoint leads: `pod/web-7d9f-abc:8080 (http)`. Raises as `port`."""
        number, note = self._ports.find(self._object, endpoint)
        return f"pod/{self.pod}:{number}" + (f" ({note})" if note else "")


def _ignore(reason: Reason) -> None:
    pass


async def choose(
    api: Api,
    resource: Resource,
    endpoints: Sequence[Endpoint] = (),
    *,
    prefer: str = "",
    avoid: str = "",
    waiting: Callable[[Reason], None] = _ignore,
) -> Choice:
    """A ready pod of the resource; waits, without end, for one to become ready. Bound it with `asyncio.timeout`.

        last = Reason("the API server has not answered")
        try:
            async with asyncio.timeout(30):
                choice = await choose(api, resource, waiting=tell)      # `tell` keeps the last reason
        except TimeoutError:
            raise last.late(30, str(resource)) from None

    Args:
        endpoints: the ports that will be wanted: one that cannot be is refused before anything is waited for.
        prefer: the name of the pod in use: chosen again if it is ready, or runs while no other is ready.
        avoid: the uid of a pod that is chosen only where no other is ready.
        waiting: told what is waited for, whenever that changes.

    Raises:
        NameNotFoundError: there is no such object; the hint names those there are.
        ConfigError: the resource leads to no pods by its nature, or has no such port.
        PodGoneError: the pod that was named has ended or is going, a workload is scaled to zero, a job has ended.
        RbacError, AuthenticationError, LostError, UnreachableError, RefusedError, DeadlineError: from the API.
    """
    selection = await select(api, resource, known=prefer == resource.name)
    for endpoint in endpoints:
        selection.ports.check(endpoint)
    last = Reason("")

    def tell(reason: Reason) -> None:
        nonlocal last
        if reason != last:
            last = reason
            waiting(reason)

    ready = partial(_ready, api, endpoints=endpoints, prefer=prefer, avoid=avoid, tell=tell)
    return await (_by_slices(api, selection, ready) if selection.slices else ready(selection))


async def _by_slices(api: Api, selection: Selection, ready: Callable[[Selection], Awaitable[Choice]]) -> Choice:
    """A ready pod of those that slices name which somebody writes by hand: begun anew whenever they change."""
    choosing: asyncio.Future[Choice] | None = None
    async with aclosing(snapshots(api, slices_path(api.namespace), selector=selection.slices)) as states:
        changed = asyncio.ensure_future(anext(states))
        try:
            while True:
                selection = selection.by_slices(await changed, api.namespace)
                changed = asyncio.ensure_future(anext(states))
                choosing = asyncio.ensure_future(ready(selection))
                await asyncio.wait([choosing, changed], return_when=asyncio.FIRST_COMPLETED)
                if choosing.done():
                    return choosing.result()
                choosing.cancel()
                await asyncio.wait([choosing])
        finally:
            left = [each for each in (changed, choosing) if each is not None]
            for each in left:
                each.cancel()
            await asyncio.wait(left)


async def _ready(
    api: Api,
    selection: Selection,
    *,
    endpoints: Sequence[Endpoint],
    prefer: str,
    avoid: str,
    tell: Callable[[Reason], None],
) -> Choice:
    """A ready pod of the selection, once there is one; see `choose`."""
    resource = selection.resource

    def settle(pods: Sequence[Pod]) -> Choice | None:
        chosen = _with_ports(selection.ports, _ranked(pods, prefer, avoid), endpoints)
        if chosen is not None:
            return Choice(resource, api.namespace, chosen.name, chosen.metadata.uid, chosen, selection.ports)
        _with_ports(selection.ports, [pod for pod in pods if pod.live], endpoints)
        tell(selection.why(pods))
        return None

    if selection.pod is not None and (choice := settle([selection.pod])):
        return choice
    pods_path = path(ResourceKind.POD, api.namespace)
    fresh = True
    async with aclosing(
        snapshots(
            api,
            pods_path,
            name=selection.name,
            selector=selection.selector,
            troubled=lambda error: tell(Reason(error.message, error.hint)),
        )
    ) as states:
        async for objects in states:
            pods = selection.of(objects)
            if selection.workload is not None and not fresh and not any(pod.live for pod in pods):
                selection = await select(api, resource)  # deleted meanwhile, scaled to zero, completed?
            if fresh and not pods and resource.kind is ResourceKind.SELECTOR:
                await check_namespace(api)
            fresh = False
            if choice := settle(pods):
                return choice
    raise AssertionError("snapshots are endless")


def _ranked(pods: Iterable[Pod], prefer: str, avoid: str) -> list[Pod]:
    """The pods that will do, best first: the one in use if it is ready, the newest ready; else the one in use."""
    known = newest_first(pods)
    ready = [pod for pod in known if pod.ready]
    ready.sort(key=lambda pod: (pod.name != prefer, pod.metadata.uid == avoid))
    return ready or [pod for pod in known if pod.name == prefer and pod.running]


def _with_ports(ports: Ports, pods: Sequence[Pod], endpoints: Sequence[Endpoint]) -> Pod | None:
    """The first pod with all these ports; raises the first one's ConfigError where none has them."""
    failure: ConfigError | None = None
    for pod in pods:
        try:
            for endpoint in endpoints:
                ports.find(pod, endpoint)
        except ConfigError as error:
            failure = failure or error
        else:
            return pod
    if failure is not None:
        raise failure
    return None
