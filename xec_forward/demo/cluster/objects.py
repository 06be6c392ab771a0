"""The bodies of objects, as a real API server writes them, without what nobody here reads."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .containerd import Address
from .kinds import KINDS, Body
from .store import now

NODE = "127.0.0.1"
IMAGE = "registry.example/demo:1"
MANAGED_BY = "endpointslice-controller.k8s.io"

ContainerPorts = Mapping[str, "int | tuple[int, str]"]
ServicePorts = Sequence["int | Mapping[str, int | str]"]


@dataclass(frozen=True, slots=True)
class Template:
    """What a workload's pods are made from.

    Attributes:
        labels: of the pods.
        ports: named container ports; a protocol other than TCP is written `(5353, "UDP")`.
        serves: the real address behind each port.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    ports: ContainerPorts = field(default_factory=dict)
    serves: Mapping[int, Address] = field(default_factory=dict)

    def spec(self) -> Body:
        """The pods' spec, without a node."""
        ports = []
        for name, port in self.ports.items():
            number, protocol = (port, "TCP") if isinstance(port, int) else port
            ports.append({"name": name, "containerPort": number, "protocol": protocol})
        return {
            "containers": [{"name": "c", "image": IMAGE, "ports": ports, "resources": {}}],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 1,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "schedulerName": "default-scheduler",
        }


def random_suffix(length: int = 5) -> str:
    """The random end of a generated name."""
    return "".join(secrets.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(length))


def metadata(name: str, namespace: str, labels: Mapping[str, str] | None = None, owner: Body | None = None) -> Body:
    """An object's metadata; `owner` is the object that it belongs to."""
    body: Body = {"name": name, "namespace": namespace}
    if labels:
        body["labels"] = dict(labels)
    if owner:
        body["ownerReferences"] = [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return body


def pod_status(
    phase: str, ready: bool, address: str, *, waiting: tuple[str, str] | None = None, reason: str = ""
) -> Body:
    """The status of a pod on a node.

    Args:
        address: its IP, "" before it has a sandbox.
        waiting: why its container does not run: reason and message.
        reason: why it has ended.
    """
    unready = {} if ready else {"reason": "ContainersNotReady", "message": "containers with unready status: [c]"}
    if phase in ("Failed", "Succeeded"):
        unready = {"reason": "PodFailed" if phase == "Failed" else "PodCompleted"}
        state: Body = {"terminated": {"exitCode": 143 if phase == "Failed" else 0, "reason": "Error"}}
    elif waiting:
        state = {"waiting": {"reason": waiting[0], "message": waiting[1]}}
    else:
        state = {"running": {"startedAt": now()}}
    status: Body = {
        "phase": phase,
        "conditions": [
            _condition("PodReadyToStartContainers", phase not in ("Failed", "Succeeded")),
            _condition("Initialized", True),
            _condition("Ready", ready, **unready),
            _condition("ContainersReady", ready, **unready),
            _condition("PodScheduled", True),
        ],
        "hostIP": NODE,
        "startTime": now(),
        "containerStatuses": [
            {"name": "c", "state": state, "lastState": {}, "ready": ready, "restartCount": 0, "image": IMAGE}
        ],
        "qosClass": "BestEffort",
    }
    if address:
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    if reason:
        status |= {"reason": reason, "message": reason}
    return status


def pending_status(message: str) -> Body:
    """The status of a pod that no node takes."""
    condition = _condition("PodScheduled", False, reason="Unschedulable", message=message)
    return {"phase": "Pending", "conditions": [condition], "qosClass": "BestEffort"}


def _condition(kind: str, holds: bool, **why: str) -> Body:
    return {"type": kind, "status": str(holds), "lastProbeTime": None, "lastTransitionTime": now(), **why}


def is_ready(pod: Body) -> bool:
    """Its Ready condition is True."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def service(name: str, namespace: str, selector: Mapping[str, str] | None, ports: ServicePorts, address: str) -> Body:
    """A Service; `address` is its cluster IP, "None" for a headless one. A port is a number or the API's own fields."""
    rows: list[Body] = []
    for port in ports:
        row: Body = {"protocol": "TCP", **({"port": port} if isinstance(port, int) else port)}
        rows.append({"targetPort": row["port"], **row})
    spec: Body = {"ports": rows, "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP"}
    if selector:
        spec["selector"] = dict(selector)
    return {
        "metadata": metadata(name, namespace),
        "spec": spec | {"sessionAffinity": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"},
        "status": {"loadBalancer": {}},
    }


def endpoint(pod: Body) -> Body:
    """A pod's row in an EndpointSlice."""
    terminating = "deletionTimestamp" in pod["metadata"]
    ready = is_ready(pod)
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready and not terminating, "serving": ready, "terminating": terminating},
        "targetRef": {
            "kind": "Pod",
            "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
        },
        "nodeName": NODE,
    }


def endpoint_slice(name: str, service_body: Body, endpoints: list[Body], ports: list[Body], managed_by: str) -> Body:
    """An EndpointSlice of a service."""
    owner = service_body["metadata"]
    labels = {"endpointslice.kubernetes.io/managed-by": managed_by, "kubernetes.io/service-name": owner["name"]}
    if service_body["spec"]["clusterIP"] == "None":
        labels["service.kubernetes.io/headless"] = ""
    return {
        "metadata": metadata(name, owner["namespace"], labels, service_body),
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }


def slice_ports(service_body: Body, pods: Sequence[Body]) -> list[Body]:
    """A service's ports as its endpoints have them: a named targetPort is looked up in the first pod that has it."""
    ports = []
    for row in service_body["spec"]["ports"]:
        number = row["targetPort"]
        if isinstance(number, str):
            number = next((found for pod in pods if (found := _container_port(pod, row))), None)
        if number is not None:
            ports.append({"name": row.get("name", ""), "protocol": row["protocol"], "port": number})
    return ports


def _container_port(pod: Body, row: Body) -> int | None:
    for container in pod["spec"]["containers"]:
        for port in container["ports"]:
            if (port["name"], port["protocol"]) == (row["targetPort"], row["protocol"]):
                number: int = port["containerPort"]
                return number
    return None


def workload(plural: str, name: str, namespace: str, count: int, template: Template, labels: Mapping[str, str]) -> Body:
    """A Deployment, ReplicaSet, StatefulSet, DaemonSet or Job; `labels` select its pods."""
    spec: Body = {
        "selector": {"matchLabels": dict(labels)},
        "template": {"metadata": {"labels": dict(template.labels)}, "spec": template.spec()},
    }
    if plural == "jobs":
        spec |= {"parallelism": count, "completions": count}
    elif plural != "daemonsets":
        spec["replicas"] = count
    if plural == "statefulsets":
        spec["serviceName"] = name
    return {
        "kind": KINDS[plural].name,
        "apiVersion": KINDS[plural].group_version,
        "metadata": metadata(name, namespace),
        "spec": spec,
        "status": {},
    }


def workload_status(plural: str, count: int, ready: int) -> Body:
    """What a workload says of its pods."""
    if plural == "jobs":
        return {"active": count, "ready": ready}
    if plural == "daemonsets":
        return {"desiredNumberScheduled": count, "currentNumberScheduled": count, "numberReady": ready}
    return {"observedGeneration": 1, "replicas": count, "readyReplicas": ready, "availableReplicas": ready}


def secret(name: str, namespace: str, data: Mapping[str, bytes]) -> Body:
    """A Secret; its values are base64, as the API has them."""
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": metadata(name, namespace), "data": encoded, "type": "Opaque"}
