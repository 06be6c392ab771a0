"""The doctor: what is wrong with the way to a target, stage by stage, and the one thing to do about it.

The way to the host, or to the cluster, is the link's to examine (`links.ssh.examine`, `links.kubernetes.examine`);
here is what lies behind it: whether the host may forward there, the far name, the far port (of a pod: whether anything
listens), the protocol's hello. The connection is its own: tunnels and the pool's links stay untouched, nothing is
bound, nothing is recorded, and it ends within its deadline whatever the peers do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module

from ..errors import DeadlineError, ForwardError, LostError, RefusedError, UnreachableError
from ..model import Examination, Examine, Far, Finding
from ..services import scheme_for_port
from ..spec import Endpoint, Kind, Resource
from .health import UNTRIED, Probe, untried
from .links import ssh
from .links.base import Link
from .links.chart import CHANNEL, Chart, Halt, channel
from .links.ssh.examine import Resolve


async def examine(request: Examine, source: Resolve, found: Callable[[Finding], None]) -> Examination:
    """Examine the way to a target, and the far ends behind it.

    Args:
        request: where to, and how long all of it may take.
        source: resolves a SOURCE that the login needs. Raises links.base.Unanswered.
        found: told of each stage when it begins and when it has ended.

    Returns:
        The findings. What fails is among them; nothing is raised but CancelledError, and that leaves nothing open.
    """
    chart = Chart(found, request.timeout)
    left = list(request.far)
    try:
        async with asyncio.timeout(request.timeout) as deadline, _way(request, chart, source) as examine_far:
            while left:
                await examine_far(left.pop(0))
    except Halt:
        pass
    except ForwardError as error:
        chart.failed(error)
    except TimeoutError:
        if not deadline.expired():
            raise
        if chart.stage:
            hint = "Is the network, or the VPN, up? --timeout S allows more time"
            chart.failed(DeadlineError(f"no answer; the {request.timeout:g} s for all stages are over", hint=hint))
    for far in left:
        chart.skipped(_name(far), "all", "not reached")
    return chart.examination()


@contextlib.asynccontextmanager
async def _way(request: Examine, chart: Chart, source: Resolve) -> AsyncIterator[Callable[[Far], Awaitable[None]]]:
    """The way to the target, gone; what examines a far end behind it. Raises ForwardError, Halt."""
    if request.cluster is None:
        assert request.ssh is not None
        async with ssh.examined(request.ssh, chart, source) as link:
            yield lambda far: _examine_far(far, link, chart)
        return
    # Its libraries take a moment, for which no tunnel is to wait.
    await asyncio.to_thread(import_module, f"{__package__}.links.kubernetes.examine_port")
    from .links.kubernetes.examine import examined
    from .links.kubernetes.examine_port import port_forward

    ends = [far.forward.connect for far in request.far if far.forward.connect is not None]
    resources = [Resource.of(end.host) for end in ends]
    async with examined(request.cluster, list(dict.fromkeys(resources)), chart, source) as api:
        yield lambda far: _examine_pod(far, lambda connect: port_forward(api, connect, chart), chart)


def _name(far: Far) -> str:
    """How the findings call a far end."""
    return str(far.forward.connect or "SOCKS")


async def _examine_far(far: Far, link: Link, chart: Chart) -> None:
    """One forward. Its failure is its own: others go over the same link.

    Raises:
        LostError: the link is gone.
    """
    forward, host = far.forward, link.route[-1]
    connect = forward.connect or Endpoint()
    try:
        if forward.kind is Kind.DYNAMIC:
            chart.skipped(_name(far), "forwarding", "not examined: where a SOCKS proxy leads, its clients say")
        elif forward.kind is Kind.REMOTE:
            chart.skipped(_name(far), "forwarding", f"not examined: that would have {host} listen at {forward.listen}")
            await _examine_local(connect, _name(far), chart)
        else:
            await _examine_service(connect, far.scheme, link, chart)
    except LostError:
        raise
    except ForwardError as error:
        chart.failed(error)


async def _examine_service(connect: Endpoint, scheme: str, link: Link, chart: Chart) -> None:
    name = str(connect)
    if untried(connect, scheme):
        chart.skipped(name, "far port", UNTRIED)
        return
    async with Probe(connect, scheme or scheme_for_port(connect.port or 0)) as probe:
        port = "far socket" if connect.path else "far port"
        await channel(chart, name, link, connect, probe.open(link), name="far name", port=port)
        chart.passed(f"somebody listens, as seen from {link.route[-1]}")
        await _hello(probe, name, chart)
        await probe.stay()


async def _examine_pod(
    far: Far, forward: Callable[[Endpoint], AbstractAsyncContextManager[Link]], chart: Chart
) -> None:
    """One port of a resource. Its failure is its own."""
    connect, name = far.forward.connect or Endpoint(), _name(far)
    try:
        async with forward(connect) as link:
            if untried(connect, far.scheme):
                chart.skipped(name, "listening", UNTRIED)
                return
            chart.begin(name, "listening")
            async with Probe(connect) as probe:
                await probe.open(link)
                chart.passed(f"{link.route[-1]} takes a connection")
                await probe.stay()
            # Another connection: this one was held open until it was sure not to be refused.
            async with Probe(connect, far.scheme or scheme_for_port(connect.port or 0)) as probe:
                if probe.scheme:
                    await probe.open(link)
                    await _hello(probe, name, chart)
    except ForwardError as error:
        chart.failed(error)


async def _hello(probe: Probe, name: str, chart: Chart) -> None:
    """The hello of the scheme that the service should speak, where it has one. Raises RefusedError, LostError."""
    if not probe.scheme:
        return
    chart.begin(name, probe.scheme)
    outcome = await probe.hello()
    if outcome == "ok":
        chart.passed("the service says hello")
        return
    hint = f"Check the port, and whether a {probe.scheme} service is behind it; --dsn SCHEME://... says another one"
    raise RefusedError(outcome, hop=name, hint=hint)


async def _examine_local(connect: Endpoint, name: str, chart: Chart) -> None:
    """The near end of a remote forward: a service of ours."""
    where = Endpoint(connect.host or "localhost", connect.port) if not connect.path else connect
    seconds = chart.limit(CHANNEL)
    chart.begin(name, "local port")
    try:
        async with asyncio.timeout(seconds):
            if where.path:
                _, writer = await asyncio.open_unix_connection(where.path)
            else:
                _, writer = await asyncio.open_connection(where.host, where.port)
    except TimeoutError as error:
        hint = "Is the service running, and no firewall in between?"
        raise DeadlineError(f"no answer within {seconds:.1f} s, from here", hop=name, hint=hint) from error
    except ConnectionRefusedError as error:
        raise RefusedError("refused, from here", hop=name, hint="Start the service, or check its port") from error
    except OSError as error:
        raise UnreachableError(f"cannot be reached from here: {error.strerror or error}", hop=name) from error
    chart.passed("somebody listens, here")
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
