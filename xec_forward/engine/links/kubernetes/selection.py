"""Which pods a resource stands for, read from the API: by labels, by owner, or by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ....errors import ConfigError, ForwardError, NameNotFoundError, PodGoneError
from ....spec import Resource, ResourceKind
from . import reasons
from .missing import not_found
from .objects import EndpointSlice, Object, Pod, Service, Workload, labels, path, read, slices_of, slices_path
from .ports import PodPorts, Ports, ServicePorts, names_in
from .reasons import Reason
from .watch import Api, is_absent


@dataclass(frozen=True, slots=True)
class Selection:
    """The pods of a resource.

    Attributes:
        resource: what they are the pods of.
        ports: how the resource's ports are found.
        selector: the labels of its pods, or "".
        names: the names of its pods where only these count.
        workload: what makes them, where that is what was named.
        pod: the pod as it was, where one was named.
        remade: the pod that was named will come, or come back, under its name.
        slices: the labels of the EndpointSlices that alone say which its pods are, or "".
    """

    resource: Resource
    ports: Ports
    selector: str = ""
    names: frozenset[str] | None = None
    workload: Workload | None = None
    pod: Pod | None = None
    remade: bool = False
    slices: str = ""

    @property
    def name(self) -> str:
        """The pod's name where there is but one."""
        return next(iter(self.names)) if self.names is not None and len(self.names) == 1 else ""

    def by_slices(self, objects: Mapping[str, Object], namespace: str) -> Selection:
        """The same, of a service without a selector, as these EndpointSlices have it now."""
        assert isinstance(self.ports, ServicePorts)
        slices = tuple(read(EndpointSlice, each) for each in objects.values())
        return replace(self, ports=replace(self.ports, slices=slices), names=frozenset(names_in(slices, namespace)))

    def of(self, objects: Mapping[str, Object]) -> list[Pod]:
        """Its pods among those of a list."""
        if self.names is not None:
            return [read(Pod, objects[name]) for name in self.names if name in objects]
        return [pod for pod in (read(Pod, each) for each in objects.values()) if self._owns(pod)]

    def _owns(self, pod: Pod) -> bool:
        """Labels may match the pods of somebody else, such as those of a job with the same `app`."""
        if self.workload is None or pod.owner is None:
            return True
        if self.resource.kind is ResourceKind.DEPLOYMENT:
            # Through a replicaset, whose name is the deployment's and a hash.
            return pod.owner.kind == "ReplicaSet" and pod.owner.name.rpartition("-")[0] == self.resource.name
        return pod.owner.uid == self.workload.metadata.uid

    def why(self, pods: Iterable[Pod]) -> Reason:
        """What is waited for, with none of these pods ready.

        Raises:
            PodGoneError: waiting would not mend it.
        """
        known = newest_first(pods)
        live = [pod for pod in known if pod.live]
        if live:
            return reasons.why_unready(live[0])
        hop = str(self.resource)
        if self.workload is not None:
            none = reasons.why_none(self.workload, self.resource.kind, hop)
            return reasons.why_unready(known[0]) if known else none
        if self.resource.kind is ResourceKind.POD:
            if not self.remade:
                raise self._gone(known)
            absent = Reason(f"{hop} is not there yet; its statefulset makes it")
            return reasons.why_unready(known[0]) if known else absent
        if known and all(pod.finished and not reasons.replaced(pod) for pod in known):
            raise PodGoneError(reasons.ended(known[0]), hop=hop, hint="Nothing replaces it; start another")
        if known:
            return reasons.why_unready(known[0])
        if self.selector:
            hint = "kubectl get pods --show-labels lists those there are"
            return Reason(f"no pod has the labels {self.selector}", hint)
        if not self.names:
            return Reason("no EndpointSlice of it names a pod at the moment")
        return Reason(f"the pods that its EndpointSlices name are not there: {', '.join(sorted(self.names))}")

    def _gone(self, known: list[Pod]) -> PodGoneError:
        """The pod that was named, now ending or not there any more."""
        last = known or ([self.pod] if self.pod else [])
        if last:
            return reasons.gone(last[0])
        return PodGoneError("the pod was deleted", hop=str(self.resource))


def newest_first(pods: Iterable[Pod]) -> list[Pod]:
    """Pods in the order in which they are thought of."""
    return sorted(pods, key=lambda pod: (pod.metadata.creation_timestamp or "", pod.name), reverse=True)


async def select(api: Api, resource: Resource, *, known: bool = False) -> Selection:
    """Ask the API which pods a resource stands for.

    Args:
        known: the resource is a pod that has been in use: where it is not there, it was deleted.

    Raises:
        NameNotFoundError: there is no such object; the hint names those there are.
        ConfigError: it leads to no pods by its nature.
        PodGoneError: see `known`.
        ForwardError: what the API raises.
    """
    kind, name = resource.kind, resource.name
    if kind is ResourceKind.SELECTOR:
        return Selection(resource, PodPorts(resource), selector=name)
    try:
        found = await api.get(path(kind, api.namespace, name))
    except NameNotFoundError as error:
        if not is_absent(error):
            raise
        if kind is ResourceKind.POD:
            return await _absent(api, resource, known, error)
        raise await not_found(api, resource) from error
    if kind is ResourceKind.POD:
        pod = read(Pod, found)
        remade = pod.owner is not None and pod.owner.kind == "StatefulSet"
        return Selection(resource, PodPorts(resource), names=frozenset({name}), pod=pod, remade=remade)
    if kind is ResourceKind.SERVICE:
        return await _of_service(api, resource, read(Service, found))
    workload = read(Workload, found)
    return Selection(resource, PodPorts(resource), selector=str(workload.spec.selector), workload=workload)


async def _absent(api: Api, resource: Resource, known: bool, error: NameNotFoundError) -> Selection:
    """A pod that is not there may be one that a statefulset is about to make: `web-0` of `sts/web`."""
    stem, _, ordinal = resource.name.rpartition("-")
    if stem and ordinal.isdecimal():
        with contextlib.suppress(ForwardError):
            spec = read(Workload, await api.get(path(ResourceKind.STATEFUL_SET, api.namespace, stem))).spec
            start = spec.ordinals.start if spec.ordinals else 0
            if start <= int(ordinal) < start + (spec.replicas or 0):
                return Selection(resource, PodPorts(resource), names=frozenset({resource.name}), remade=True)
    if known:
        hint = "Name what makes it, such as deploy/NAME, and the pod that replaces it is found"
        raise PodGoneError("the pod was deleted", hop=str(resource), hint=hint) from error
    raise await not_found(api, resource) from error


async def _of_service(api: Api, resource: Resource, service: Service) -> Selection:
    hop = str(resource)
    if service.spec.type == "ExternalName":
        host = service.spec.external_name
        raise ConfigError(
            f"the service is only a name for {host} outside the cluster, and has no pods",
            hop=hop,
            hint=f"Forward to {host} by another way, such as a bastion",
        )
    if service.spec.selector:
        return Selection(resource, ServicePorts(service), selector=labels(service.spec.selector))
    wanted = slices_of(resource.name)
    found = await api.get(slices_path(api.namespace), labelSelector=wanted)
    slices = tuple(read(EndpointSlice, item) for item in found.get("items") or ())
    names = names_in(slices, api.namespace)
    if not names:
        raise ConfigError(
            "the service has no selector, and no EndpointSlice of it names a pod",
            hop=hop,
            hint="Name the pod, or what makes it: deploy/NAME",
        )
    return Selection(resource, ServicePorts(service, slices), names=frozenset(names), slices=wanted)
