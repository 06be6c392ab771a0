"""The doctor's way from a resource to a port of a pod: the same as an opening's, with a look at each stage.

    resource     it is there; else the names that are
    pods         how many it has
    readiness    how many are ready, and why the others are not; nothing is waited for
    port         which port of which pod is meant
    forward      an upgrade to it, and which protocol it took

What comes back is a link with that pod behind it, for a look at the service.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from ....errors import ForwardError, UnreachableError
from ....spec import Endpoint, Resource, ResourceKind
from ..base import Channel, ChannelProtocol, HalfClose, Link
from ..chart import Chart
from .api import Api
from .dial import Dialler
from .link import SETTLE
from .missing import check_namespace
from .objects import Pod, path
from .ports import ServicePorts
from .reasons import Reason, why_unready
from .resolve import Choice, choose
from .selection import Selection, newest_first, select
from .upgrade import Kind, Upgrade
from .warm import Warm
from .watch import snapshots

_SHOWN = 5  # pods that are not ready

_PROTOCOLS = {
    Kind.TUNNEL: "SPDY/3.1 in a WebSocket",
    Kind.V4: "v4.channel.k8s.io, the older protocol: an upgrade for each connection",
    Kind.RAW: "SPDY/3.1, without a WebSocket",
}


@contextlib.asynccontextmanager
async def port_forward(api: Api, connect: Endpoint, chart: Chart) -> AsyncIterator[Link]:
    """A link to the port of a pod that `connect` leads to, each stage of the way in `chart`; closed at the end.

    Raises:
        ForwardError: the stage that failed runs still, for `Chart.failed`.
    """
    name, resource = str(connect), Resource.of(connect.host)
    try:
        selection = await _resource(api, resource, name, chart)
        await _pods(api, selection, name, chart)
        choice = await _port(api, selection, connect, name, chart)
        chart.begin(name, "forward")
        dial, port, loop = Dialler(api, choice.namespace, choice.pod), choice.port(connect), asyncio.get_running_loop()
        start = loop.time()
        upgrade = await dial(port)
        chart.passed(f"the API server takes {_PROTOCOLS[upgrade.kind]}")
    except ForwardError as error:
        if error.hop == str(resource):
            error.hop = name  # which heads the stages
        raise
    link = _PodLink(_Dial(dial, upgrade), choice.pod, port, settle=SETTLE + loop.time() - start)
    try:
        yield link
        await link.close()
    finally:
        link.abort()


async def _resource(api: Api, resource: Resource, name: str, chart: Chart) -> Selection:
    """Which pods it stands for. A label selector is no object, and so no stage."""
    if resource.kind is ResourceKind.SELECTOR:
        return await select(api, resource)
    chart.begin(name, "resource")
    selection = await select(api, resource)
    text = f"the {resource.kind.word} is there"
    if isinstance(selection.ports, ServicePorts):
        ports = selection.ports.service.spec.ports or ()
        listed = ", ".join(f"{port.port} ({port.name})" if port.name else str(port.port) for port in ports)
        kind = "headless" if selection.ports.service.headless else selection.ports.service.spec.type
        text = f"{text}: {kind}, {f'ports {listed}' if len(ports) != 1 else f'port {listed}'}"
    chart.passed(text, *([f"its pods are those with {selection.selector}"] if selection.selector else ()))
    return selection


async def _pods(api: Api, selection: Selection, name: str, chart: Chart) -> None:
    """How many pods there are, and how many of them are ready."""
    chart.begin(name, "pods")
    where, selector = path(ResourceKind.POD, api.namespace), selection.selector
    async with contextlib.aclosing(snapshots(api, where, name=selection.name, selector=selector)) as states:
        pods = newest_first(selection.of(await anext(states)))
    if not pods and selection.resource.kind is ResourceKind.SELECTOR:
        await check_namespace(api)
    live = [pod for pod in pods if pod.live]
    if not live:
        raise _failure(selection.why(pods), name)
    ended = len(pods) - len(live)
    chart.passed(_number(live) + (f", and {ended} that {'has' if ended == 1 else 'have'} ended" if ended else ""))
    chart.begin(name, "readiness")
    ready = [pod for pod in live if pod.ready]
    others = [why_unready(pod).text for pod in live if not pod.ready]
    lines = [*others[:_SHOWN], *([f"and {len(others) - _SHOWN} more"] if len(others) > _SHOWN else ())]
    if not ready:
        raise _failure(selection.why(pods), name)
    chart.passed(f"{len(ready)} of {len(live)}", *lines)


def _number(pods: Sequence[Pod]) -> str:
    return f"one: {pods[0].name}" if len(pods) == 1 else str(len(pods))


def _failure(reason: Reason, name: str) -> ForwardError:
    """An opening would wait for this."""
    return UnreachableError(reason.text, hop=name, hint=reason.hint)


async def _port(api: Api, selection: Selection, connect: Endpoint, name: str, chart: Chart) -> Choice:
    """The pod that is chosen, as an opening chooses it, and its port."""

    def waiting(reason: Reason) -> None:
        raise _failure(reason, name)  # the last ready one went in this moment

    chart.begin(name, "port")
    choice = await choose(api, selection.resource, [connect], waiting=waiting)
    details = []
    if isinstance(selection.ports, ServicePorts) and not selection.ports.service.headless:
        for port in selection.ports.service.spec.ports or ():
            if connect.port_name in ("", port.name) and connect.port in (None, port.port) and port.protocol == "TCP":
                details.append(f"the service's port {port.port} leads to targetPort {port.target_port or port.port}")
                break
    chart.passed(choice.describe(connect), *details)
    return choice


class _Dial:
    """Upgrades to one pod, the first of which was made already. Implements warm.Dial."""

    def __init__(self, dial: Dialler, first: Upgrade) -> None:
        self._dial = dial
        self._first: Upgrade | None = first

    async def __call__(self, port: int) -> Upgrade:
        first, self._first = self._first, None
        return first if first is not None else await self._dial(port)

    async def reach(self) -> None:
        await self._dial.reach()

    def abort(self) -> None:
        """End the first one, where nobody has taken it."""
        if self._first is not None:
            self._first.abort()


class _PodLink(Link):
    """One port of one pod; it does not look for another pod.

    Args:
        settle: see Link; what is far away takes as long as its upgrade took.
    """

    half_close = HalfClose.DEFERRED
    listens = False

    def __init__(self, dial: _Dial, pod: str, port: int, *, settle: float) -> None:
        self.route = (f"pod/{pod}",)
        self._settle = settle
        self._dial = dial
        self._port = port
        self._warm = Warm(dial, pod, spare=0)
        self.lost = self._warm.lost

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """See Link."""
        return await self._warm.open_channel(self._port, protocol)

    @property
    def settle(self) -> float:
        """See Link."""
        return self._settle

    async def round_trip(self) -> float:
        """See Link."""
        return await self._warm.ping()

    async def close(self) -> None:
        """See Link."""
        self._dial.abort()
        await self._warm.close()

    def abort(self, reason: ForwardError | None = None) -> None:
        """See Link."""
        self._dial.abort()
        self._warm.abort(reason)
