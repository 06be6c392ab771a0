"""The API's objects as far as resolution reads them: pods, services, EndpointSlices, and what makes pods.

Fields have the names of the Kubernetes API reference, in our spelling; what is not named here is skipped. An object
comes as the API's JSON and is read by `read`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ....errors import UnreachableError
from ....spec import ResourceKind

Object = dict[str, Any]  # as the API's JSON has it

_GROUPS = {
    ResourceKind.POD: "/api/v1",
    ResourceKind.SERVICE: "/api/v1",
    ResourceKind.DEPLOYMENT: "/apis/apps/v1",
    ResourceKind.STATEFUL_SET: "/apis/apps/v1",
    ResourceKind.REPLICA_SET: "/apis/apps/v1",
    ResourceKind.DAEMON_SET: "/apis/apps/v1",
    ResourceKind.JOB: "/apis/batch/v1",
}


def path(kind: ResourceKind, namespace: str = "", name: str = "") -> str:
    """Where the API has objects of a kind: one, those of a namespace, or those of all namespaces."""
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{_GROUPS[kind]}{where}/{kind.word}s" + (f"/{name}" if name else "")


def slices_path(namespace: str) -> str:
    """Where the API has the EndpointSlices of a namespace."""
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def slices_of(service: str) -> str:
    """The labels of a service's EndpointSlices."""
    return f"kubernetes.io/service-name={service}"


class Owner(msgspec.Struct, rename="camel", frozen=True):
    """An ownerReference."""

    kind: str
    name: str
    uid: str
    controller: bool = False


class Meta(msgspec.Struct, rename="camel", frozen=True):
    """An object's metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    owner_references: list[Owner] | None = None


class ContainerPort(msgspec.Struct, rename="camel", frozen=True):
    """A port that a container declares."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(msgspec.Struct, rename="camel", frozen=True):
    """A container of a pod; an init container with restartPolicy Always is a sidecar."""

    name: str = ""
    ports: list[ContainerPort] | None = None
    restart_policy: str = ""


class PodSpec(msgspec.Struct, rename="camel", frozen=True):
    """What a pod is to be."""

    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class Condition(msgspec.Struct, frozen=True):
    """A condition in an object's status."""

    type: str
    status: str
    reason: str | None = None
    message: str | None = None


class Waiting(msgspec.Struct, frozen=True):
    """A container that does not run yet."""

    reason: str = ""
    message: str = ""


class Terminated(msgspec.Struct, rename="camel", frozen=True):
    """A container that has ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""


class ContainerState(msgspec.Struct, frozen=True):
    """One of the two, or neither where the container runs."""

    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, rename="camel", frozen=True):
    """How a container is."""

    name: str
    ready: bool = False
    state: ContainerState | None = None
    last_state: ContainerState | None = None


class PodStatus(msgspec.Struct, rename="camel", frozen=True):
    """How a pod is."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    conditions: list[Condition] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    container_statuses: list[ContainerStatus] | None = None


class Pod(msgspec.Struct, frozen=True):
    """A pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def terminating(self) -> bool:
        """It is being deleted: what is open now ends within its grace period."""
        return self.metadata.deletion_timestamp is not None

    @property
    def finished(self) -> bool:
        """It has completed or failed, for good."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def live(self) -> bool:
        """It is, or may become, ready."""
        return not self.terminating and not self.finished

    @property
    def running(self) -> bool:
        """Connections to it can be opened, ready or not."""
        return self.live and self.status.phase == "Running"

    @property
    def ready(self) -> bool:
        """Running, and its condition Ready is True."""
        condition = self.condition("Ready")
        return self.running and condition is not None and condition.status == "True"

    @property
    def owner(self) -> Owner | None:
        """What made it and would replace it."""
        return next((owner for owner in self.metadata.owner_references or () if owner.controller), None)

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((condition for condition in self.status.conditions or () if condition.type == kind), None)

    def ports(self) -> list[ContainerPort]:
        """The ports that its containers declare, those of sidecars after the others'."""
        sidecars = [each for each in self.spec.init_containers or () if each.restart_policy == "Always"]
        return [port for each in [*(self.spec.containers or ()), *sidecars] for port in each.ports or ()]


class ServicePort(msgspec.Struct, rename="camel", frozen=True):
    """A port of a service."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str = 0


class ServiceSpec(msgspec.Struct, rename="camel", frozen=True):
    """What a service is to be."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    external_name: str = ""
    selector: dict[str, str] | None = None
    ports: list[ServicePort] | None = None


class Service(msgspec.Struct, frozen=True):
    """A service."""

    metadata: Meta
    spec: ServiceSpec = ServiceSpec()

    @property
    def headless(self) -> bool:
        """Its name leads to the pods' own addresses."""
        return self.spec.cluster_ip == "None"


class Requirement(msgspec.Struct, frozen=True):
    """One of a selector's matchExpressions."""

    key: str
    operator: str
    values: list[str] | None = None


class Selector(msgspec.Struct, rename="camel", frozen=True):
    """A workload's label selector."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Requirement] | None = None

    def __str__(self) -> str:
        """As the API takes it: `app=web,tier in (a,b),!old`."""
        parts = [labels(self.match_labels or {})] if self.match_labels else []
        for each in self.match_expressions or ():
            values = f"({','.join(each.values or ())})"
            match each.operator:
                case "In":
                    parts.append(f"{each.key} in {values}")
                case "NotIn":
                    parts.append(f"{each.key} notin {values}")
                case "Exists":
                    parts.append(each.key)
                case "DoesNotExist":
                    parts.append(f"!{each.key}")
        return ",".join(parts)


class Ordinals(msgspec.Struct, frozen=True):
    """How a statefulset numbers its pods."""

    start: int = 0


class WorkloadSpec(msgspec.Struct, rename="camel", frozen=True):
    """What a workload is to be."""

    selector: Selector = Selector()
    replicas: int | None = None
    suspend: bool | None = None
    ordinals: Ordinals | None = None


class WorkloadStatus(msgspec.Struct, rename="camel", frozen=True):
    """How a workload is."""

    conditions: list[Condition] | None = None
    desired_number_scheduled: int | None = None


class Workload(msgspec.Struct, frozen=True):
    """What makes pods: a deployment, replicaset, statefulset, daemonset or job."""

    metadata: Meta
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()

    def holds(self, kind: str) -> Condition | None:
        """The condition of that type where it is true."""
        found = (each for each in self.status.conditions or () if each.type == kind and each.status == "True")
        return next(found, None)


class TargetRef(msgspec.Struct, frozen=True):
    """The object behind an endpoint."""

    kind: str = ""
    name: str = ""
    namespace: str = ""


class SliceEndpoint(msgspec.Struct, rename="camel", frozen=True):
    """One endpoint of an EndpointSlice."""

    target_ref: TargetRef | None = None


class SlicePort(msgspec.Struct, frozen=True):
    """A port of all the endpoints of an EndpointSlice."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = "TCP"


class EndpointSlice(msgspec.Struct, frozen=True):
    """A part of a service's endpoints."""

    metadata: Meta
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


T = TypeVar("T", bound=msgspec.Struct)


def read(kind: type[T], found: Object) -> T:
    """The object that the API's JSON describes.

    Raises:
        UnreachableError: it is none; something else answers in the API server's place.
    """
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise UnreachableError(
            f"what answers as the API server sends no {kind.__name__}: {error}",
            hint="Check the server's address in the kubeconfig",
        ) from error


def labels(wanted: dict[str, str]) -> str:
    """Labels as a selector: `app=web,tier=front`."""
    return ",".join(f"{key}={value}" for key, value in wanted.items())
