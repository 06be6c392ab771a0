"""Clusters made in Python: `k8s()`, and the port-forwards of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, TypedDict, Unpack, overload

from ..diagnosis import Diagnosis
from ..dsn import parse_template, template_for
from ..errors import ForwardError, SpecError
from ..model import Far
from ..options import ClusterTarget
from ..spec import (
    Endpoint,
    Forward,
    Kind,
    Resource,
    ResourceKind,
    check_name,
    check_port_name,
    default_name,
    parse_resource,
    parse_selector,
)
from .group import ForwardGroup
from .session import Session, current
from .targets import Ssh, hops, prepare_tunnel, together
from .tunnel import Opening, Tunnel
from .wanted import OptionArguments, Secret, Wanted, check_names, check_port, read_settings


class PortArguments(OptionArguments, total=False):
    """What leads to one port of a resource: an entry of `forwards`.

    Keys:
        local_port: where to listen; 0 for any free port; left out: the far port if it can be bound, else any.
        remote_port: the far port, by number or by name: the service's, or the container's.
        name: its name in the registry; left out: the resource's, with the port where there are several.
        dsn: the template of its connection string, without a password.
        password: the service's: a SOURCE (also `secret:NAME/KEY`), a callable, or the secret itself.

    The other keys are options of the tunnel (`options.TunnelOptions`); times are seconds.
    """

    local_port: int
    remote_port: int | str
    name: str
    dsn: str
    password: Secret


class ResourceArguments(TypedDict, total=False):
    """What says where a port-forward leads: exactly one of them.

    Keys:
        pod, service, deployment, statefulset, replicaset, daemonset, job: its name.
        selector: a label selector, `app=api,tier!=cache`.
        resource: any of these as a line has it: `svc/postgres`.
    """

    pod: str
    service: str
    deployment: str
    statefulset: str
    replicaset: str
    daemonset: str
    job: str
    selector: str
    resource: str


class PortForwardArguments(ResourceArguments, PortArguments, total=False):
    """What `port_forward()` takes for one port."""


class PortForwardsArguments(ResourceArguments, OptionArguments, total=False):
    """What `port_forward()` takes beside `forwards`: the options hold for all that say nothing else."""

    exit_on_failure: bool


_KINDS = {kind.word: kind for kind in ResourceKind}
_WHERE = (*_KINDS, "resource")
_OWN = ("local_port", "remote_port", "name", "dsn", "password")
_OPTIONS = tuple(OptionArguments.__annotations__)


class Cluster:
    """A Kubernetes cluster, not yet asked for anything. Tunnels to equal resources of equal clusters share a link."""

    def __init__(self, target: ClusterTarget) -> None:
        self.target = target

    def __repr__(self) -> str:
        return f"<Cluster {' '.join(filter(None, (self.target.host, self.target.namespace)))}>"

    @overload
    def port_forward(self, **arguments: Unpack[PortForwardArguments]) -> Tunnel: ...

    @overload
    def port_forward(
        self, *, forwards: Sequence[PortArguments], **arguments: Unpack[PortForwardsArguments]
    ) -> ForwardGroup: ...

    def port_forward(
        self, *, forwards: Sequence[PortArguments] | None = None, **arguments: Any
    ) -> Tunnel | ForwardGroup:
        """Open a tunnel to a port of a resource, or a group to several; returns when it is ready.

        Args:
            forwards: several ports of one resource, served by the same pod: the arguments of each (PortArguments). One
                that fails is marked failed and stays in the group, unless all fail, or `exit_on_failure` says so.
            arguments: see ResourceArguments and PortArguments.

        Raises:
            ForwardError: see `errors`; nothing is left half-open. KeyboardInterrupt likewise.

        >>> db = xf.k8s(context="prod").port_forward(service="postgres", remote_port=5432)  # doctest: +SKIP
        """
        session, tunnels, all_or_none = self._prepare(forwards, arguments)
        if forwards is None:
            session.open(tunnels[0])
            return tunnels[0]
        return together(session, tunnels, session.open_all(tunnels), exit_on_failure=all_or_none)

    @overload
    def aport_forward(self, **arguments: Unpack[PortForwardArguments]) -> Opening[Tunnel]: ...

    @overload
    def aport_forward(
        self, *, forwards: Sequence[PortArguments], **arguments: Unpack[PortForwardsArguments]
    ) -> Opening[ForwardGroup]: ...

    def aport_forward(
        self, *, forwards: Sequence[PortArguments] | None = None, **arguments: Any
    ) -> Opening[Tunnel] | Opening[ForwardGroup]:
        """`port_forward` for coroutines: await it, or use it as `async with`."""

        async def open_one() -> Tunnel:
            session, tunnels, _ = self._prepare(None, arguments)
            await session.aopen(tunnels[0])
            return tunnels[0]

        async def open_all() -> ForwardGroup:
            session, tunnels, all_or_none = self._prepare(forwards, arguments)
            errors = await session.aopen_all(tunnels)
            return await asyncio.to_thread(together, session, tunnels, errors, exit_on_failure=all_or_none)

        return Opening(open_one) if forwards is None else Opening(open_all)

    def doctor(self, **arguments: Unpack[PortForwardArguments]) -> Diagnosis:
        """Examine each stage of the way to the API server, and to the port that `port_forward` would lead to.

        Nothing is opened, bound or changed, nothing is waited for, and nobody is asked. It ends within `timeout`
        seconds (30).

        Args:
            arguments: see ResourceArguments and PortArguments; without any of a resource, the way to the cluster alone.

        Raises:
            SpecError: an argument is no good. EngineError. What else is wrong, the diagnosis tells.

        >>> print(xf.k8s(context="prod").doctor(service="postgres", remote_port=5432))  # doctest: +SKIP
        """
        far, timeout = _far_ends(arguments)
        return Diagnosis(current().examine(self.target, far, timeout))

    async def adoctor(self, **arguments: Unpack[PortForwardArguments]) -> Diagnosis:
        """`doctor` for coroutines."""
        far, timeout = _far_ends(arguments)
        return Diagnosis(await current().aexamine(self.target, far, timeout))

    def _prepare(
        self, forwards: Sequence[PortArguments] | None, arguments: Mapping[str, Any]
    ) -> tuple[Session, list[Tunnel], bool]:
        """Handles yet to be opened, and whether one that fails closes them all. Raises SpecError, LimitError."""
        known = (*_WHERE, *_OPTIONS, *(_OWN if forwards is None else ("exit_on_failure",)))
        check_names(arguments, known, "port_forward()")
        given = dict(arguments)
        all_or_none = given.pop("exit_on_failure", False)
        resource = _resource({name: given.pop(name) for name in _WHERE if name in given})
        for entry in forwards or ():
            check_names(entry, (*_OWN, *_OPTIONS), "an entry of forwards")
        entries: list[dict[str, Any]] = [given] if forwards is None else [{**given, **one} for one in forwards]
        if not entries:
            raise SpecError("forwards is empty", hint='port_forward(..., forwards=[{"remote_port": 8080}])')
        session = current()
        wanted = [_wanted(resource, one, session) for one in entries]
        several = sum(not each.forward.name for each in wanted) > 1
        tunnels: list[Tunnel] = []
        try:
            for each in wanted:
                name = default_name(each.forward, self.target.host, several=several)
                way = (self.target, each.forward, each.options, each.dsn, each.password)
                tunnels.append(prepare_tunnel(*way, name)[1])
        except ForwardError:
            for tunnel in tunnels:
                session.forget(tunnel)
            raise
        return session, tunnels, all_or_none


def k8s(
    *,
    context: str = "",
    namespace: str = "",
    kubeconfig: str | PathLike[str] = "",
    proxy: Ssh | str | Iterable[Ssh | str] | None = None,
) -> Cluster:
    """A Kubernetes cluster to forward ports from: a context of the kubeconfig.

    Args:
        context: the context; the current one unless told.
        namespace: the namespace; the context's own unless told, else default.
        kubeconfig: the file to read in the place of $KUBECONFIG or ~/.kube/config.
        proxy: the SSH hosts to go through to the API server, in order: a target, `user@jump`, or several of them.

    Raises:
        SpecError: an argument is malformed. Nothing is read or dialled yet.
    """
    return Cluster(ClusterTarget(str(namespace), str(context), fspath(kubeconfig), hops(proxy)))


def _far_ends(arguments: Mapping[str, Any]) -> tuple[list[Far], float]:
    """What `doctor` is to examine in the cluster, and in how many seconds. Raises SpecError."""
    check_names(arguments, (*_WHERE, *_OWN, *_OPTIONS), "doctor()")
    session = current()
    if not set(arguments) - {"timeout"}:
        return [], read_settings(arguments, session.sources.add)[0].timeout
    given = dict(arguments)
    resource = _resource({name: given.pop(name) for name in _WHERE if name in given})
    wanted = _wanted(resource, given, session)
    template = template_for(wanted.forward, wanted.dsn)
    return [Far(wanted.forward, parse_template(template).base if template else "")], wanted.options.timeout


def _resource(given: Mapping[str, Any]) -> Resource:
    """What exactly one of the keywords names. Raises SpecError."""
    if len(given) != 1:
        what = f"{' and '.join(given)} are given" if given else "what to lead to is missing"
        raise SpecError(what, hint='port_forward(service="postgres", remote_port=5432), or one of ' + ", ".join(_WHERE))
    ((word, value),) = given.items()
    text = str(value or "")
    if word == "resource":
        return Resource.of(text)
    if word == ResourceKind.SELECTOR.word:
        return parse_selector(text)
    return parse_resource(f"{_KINDS[word]}/{text}")


def _wanted(resource: Resource, arguments: Mapping[str, Any], session: Session) -> Wanted:
    """What one entry asks for. Raises SpecError."""
    options, dsn = read_settings(arguments, session.sources.add)
    name = str(arguments.get("name") or "")
    local, far = arguments.get("local_port"), arguments.get("remote_port")
    check_port("local_port", local)
    if far is None or far == "":
        raise SpecError("remote_port is missing", hint='port_forward(service="postgres", remote_port=5432)')
    if isinstance(far, str):
        listen = Endpoint(port=local or 0)
        connect = Endpoint(str(resource), port_name=check_port_name(far, "remote_port"))
    else:
        check_port("remote_port", far, lowest=1)
        listen, connect = Endpoint(port=local), Endpoint(str(resource), far)
    forward = Forward(Kind.LOCAL, listen, connect, check_name(name) if name else "")
    return Wanted(forward, options, dsn, arguments.get("password"))
