"""What happens in the cluster: pods come, become ready and go, and slices and workloads follow them.

The part of the scheduler, the kubelet and the controllers, in the order and at the pace that was recorded of a
Deployment's pod being deleted and replaced.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import objects
from .containerd import Address, Sandbox, Timing
from .kinds import Body
from .objects import ServicePorts, Template
from .store import Store, now

_CREATING = ("ContainerCreating", "")  # why a container waits before its pod has a sandbox


@dataclass(slots=True)
class Workload:
    """Something that keeps a number of pods.

    Attributes:
        plural: its kind, `deployments`; its pods belong to `owner`, which for a Deployment is its ReplicaSet.
    """

    plural: str
    namespace: str
    name: str
    template: Template
    owner: Body


class Controller:
    """The cluster behind its API. Used on the server's event loop only."""

    def __init__(self, store: Store, timing: Timing) -> None:
        self.store = store
        self.timing = timing
        self.sandboxes: dict[str, Sandbox] = {}  # by the pod's uid, while it is on a node
        self._serves: dict[str, Mapping[int, Address]] = {}
        self._workloads: dict[str, Workload] = {}  # by its owner's uid
        self._timers: set[asyncio.TimerHandle] = set()
        self._addresses = itertools.count(2)
        self.add_namespace("default")

    def close(self) -> None:
        """Nothing more happens."""
        for timer in self._timers:
            timer.cancel()
        for sandbox in self.sandboxes.values():
            sandbox.close()

    def add_namespace(self, name: str) -> None:
        """Add a namespace; nothing where it exists."""
        if self.store.get("namespaces", "", name) is None:
            labels = {"kubernetes.io/metadata.name": name}
            self.store.add("namespaces", {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Active"}})

    # Pods

    def add_pod(self, name: str, namespace: str, template: Template, *, ready: bool, owner: Body | None = None) -> Body:
        """Add a pod that runs on the node."""
        body = self._add_bare_pod(name, namespace, template, owner)
        return self.run_pod(namespace, name, ready=ready) or body

    def run_pod(self, namespace: str, name: str, *, ready: bool) -> Body | None:
        """Let a pod run on the node, ready or not; nothing where it is gone."""
        return self._settle(namespace, name, "Running", ready=ready)

    def pend_pod(self, namespace: str, name: str, message: str) -> None:
        """Take a pod off its node: none takes it, for the reason in `message`."""
        body = self._pod(namespace, name)
        body["spec"].pop("nodeName", None)
        body["status"] = objects.pending_status(message)
        if sandbox := self.sandboxes.pop(body["metadata"]["uid"], None):
            sandbox.close()
        self._put_pod(body)

    def hold_pod(self, namespace: str, name: str, reason: str, message: str) -> None:
        """Keep a pod's container from starting: it has a node and a sandbox, and nothing listens in it."""
        self._settle(namespace, name, "Pending", waiting=(reason, message))

    def end_pod(self, namespace: str, name: str, phase: str, reason: str) -> None:
        """Let a pod's containers end for good: `Failed` or `Succeeded`."""
        self._settle(namespace, name, phase, reason=reason)

    def relabel_pod(self, namespace: str, name: str, labels: Mapping[str, str]) -> None:
        """Give a pod other labels."""
        body = self._pod(namespace, name)
        body["metadata"]["labels"] = dict(labels)
        self._put_pod(body)

    def lose_sandbox(self, namespace: str, name: str) -> Callable[[], None]:
        """A pod's sandbox dies; what is returned makes another. The API server hears of neither."""
        uid = self._pod(namespace, name)["metadata"]["uid"]
        self.sandboxes[uid].close()
        return lambda: self.sandboxes.update({uid: Sandbox(self._serves[uid], self.timing)})

    def delete_pod(self, namespace: str, name: str) -> Body | None:
        """Start a pod's deletion, as DELETE does, and let its owner replace it; None where there is no such pod."""
        found = self.store.get("pods", namespace, name)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return found
        body = copy.deepcopy(found)
        body["metadata"] |= {"deletionTimestamp": now(1.0), "deletionGracePeriodSeconds": 1}
        body = self.store.put("pods", body)
        uid = body["metadata"]["uid"]
        workload = self._workload_of(body)
        self._later(self.timing.endpoints, self.follow, namespace)
        if workload and workload.plural != "statefulsets":
            self._later(self.timing.endpoints / 2, self._replace, workload, name)
        if sandbox := self.sandboxes.get(uid):
            self._later(self.timing.stop, sandbox.stop)
            self._later(self.timing.sandbox, self._terminate, namespace, name, uid)
        self._later(self.timing.removal if sandbox else 0.0, self._remove, namespace, name, uid)
        return body

    def _add_bare_pod(self, name: str, namespace: str, template: Template, owner: Body | None) -> Body:
        self.add_namespace(namespace)
        meta = objects.metadata(name, namespace, template.labels, owner)
        status: Body = {"phase": "Pending", "qosClass": "BestEffort"}
        body = self.store.add("pods", {"metadata": meta, "spec": template.spec(), "status": status})
        self._serves[body["metadata"]["uid"]] = template.serves
        return body

    def _settle(
        self,
        namespace: str,
        name: str,
        phase: str,
        *,
        ready: bool = False,
        waiting: tuple[str, str] | None = None,
        reason: str = "",
    ) -> Body | None:
        if self.store.get("pods", namespace, name) is None:
            return None  # deleted before it was to change
        body = self._pod(namespace, name)
        uid = body["metadata"]["uid"]
        sandbox = self.sandboxes.setdefault(uid, Sandbox(self._serves[uid], self.timing))
        address = "" if waiting == _CREATING else body["status"].get("podIP") or self._next_address("10.88")
        body["spec"]["nodeName"] = objects.NODE
        body["status"] = objects.pod_status(phase, ready, address, waiting=waiting, reason=reason)
        if phase == "Running":
            sandbox.running = True
        else:
            sandbox.stop()
        return self._put_pod(body)

    def _terminate(self, namespace: str, name: str, uid: str) -> None:
        self.sandboxes[uid].close()
        self._settle(namespace, name, "Failed")

    def _remove(self, namespace: str, name: str, uid: str) -> None:
        body = self._pod(namespace, name)
        if body["metadata"]["uid"] != uid:
            return
        # The sandbox stays known for the upgrades that outlive the pod.
        self.store.delete("pods", namespace, name)
        self.follow(namespace)
        workload = self._workload_of(body)
        if workload and workload.plural == "statefulsets":
            self._replace(workload, name)

    def _pod(self, namespace: str, name: str) -> Body:
        found = self.store.get("pods", namespace, name)
        if found is None:
            raise KeyError(f"pod {name} in {namespace}")
        return copy.deepcopy(found)

    def _put_pod(self, body: Body) -> Body:
        body = self.store.put("pods", body)
        self.follow(body["metadata"]["namespace"])
        return body

    # Workloads

    def add_workload(self, plural: str, name: str, namespace: str, count: int, template: Template) -> Workload:
        """Add a Deployment, StatefulSet, ReplicaSet, DaemonSet or Job with ready pods of the template."""
        self.add_namespace(namespace)
        labels = dict(template.labels) or {"app": name}
        if plural == "jobs":
            labels |= {"job-name": name, "batch.kubernetes.io/job-name": name}
        template = Template(labels, template.ports, template.serves)
        owner = self.store.add(plural, objects.workload(plural, name, namespace, count, template, labels))
        if plural == "deployments":
            generation = objects.random_suffix(9)
            labels |= {"pod-template-hash": generation}
            template = Template(labels, template.ports, template.serves)
            body = objects.workload("replicasets", f"{name}-{generation}", namespace, count, template, labels)
            body["metadata"] = objects.metadata(f"{name}-{generation}", namespace, labels, owner)
            owner = self.store.add("replicasets", body)
        workload = Workload(plural, namespace, name, template, owner)
        self._workloads[owner["metadata"]["uid"]] = workload
        for index in range(count):
            self.add_pod(self._pod_name(workload, index), namespace, template, ready=True, owner=owner)
        self.follow(namespace)
        return workload

    def scale_to_zero(self, workload: Workload) -> None:
        """Delete a workload's pods; no others take their place."""
        for plural, name in _bodies_of(workload):
            body = copy.deepcopy(self.store.get(plural, workload.namespace, name)) or {}
            self.store.put(plural, body | {"spec": body["spec"] | {"replicas": 0}})
        for pod in self.pods_of(workload):
            self.delete_pod(workload.namespace, _name(pod))

    def pods_of(self, workload: Workload) -> list[Body]:
        """Its pods that are not being deleted."""
        return [
            pod
            for pod in self.store.of_kind("pods", workload.namespace)
            if self._workload_of(pod) is workload and "deletionTimestamp" not in pod["metadata"]
        ]

    def _workload_of(self, pod: Body) -> Workload | None:
        owners = pod["metadata"].get("ownerReferences", [])
        return self._workloads.get(owners[0]["uid"]) if owners else None

    def _replace(self, workload: Workload, name: str) -> None:
        body = self.store.get(workload.plural, workload.namespace, workload.name)
        if body is not None and body["spec"].get("replicas") == 0:
            return
        if workload.plural != "statefulsets":
            name = self._pod_name(workload, 0)
        self._add_bare_pod(name, workload.namespace, workload.template, workload.owner)
        self._settle(workload.namespace, name, "Pending", waiting=_CREATING)
        self._later(self.timing.start, lambda: self.run_pod(workload.namespace, name, ready=True))

    def _pod_name(self, workload: Workload, index: int) -> str:
        suffix = str(index) if workload.plural == "statefulsets" else objects.random_suffix()
        return f"{workload.owner['metadata']['name']}-{suffix}"

    # Services

    def add_service(
        self, name: str, namespace: str, selector: Mapping[str, str] | None, ports: ServicePorts, *, headless: bool
    ) -> None:
        """Add a Service; with a selector it has an EndpointSlice, which follows the pods."""
        self.add_namespace(namespace)
        address = "None" if headless else self._next_address("10.96")
        self.store.add("services", objects.service(name, namespace, selector, ports, address))
        self.follow(namespace)

    def change_service(self, name: str, namespace: str, spec: Body) -> None:
        """Change fields of a Service's spec."""
        body = copy.deepcopy(self.store.get("services", namespace, name))
        if body is None:
            raise KeyError(f"service {name} in {namespace}")
        body["spec"] |= spec
        self.store.put("services", body)
        self.follow(namespace)

    def add_endpoint_slice(self, service: str, namespace: str, pods: Sequence[str], addresses: Sequence[str]) -> None:
        """Add a slice by hand, to a service without a selector: of pods, of bare addresses, or both."""
        body = self.store.get("services", namespace, service)
        if body is None:
            raise KeyError(f"service {service} in {namespace}")
        found = [self._pod(namespace, name) for name in pods]
        endpoints = [objects.endpoint(pod) for pod in found]
        endpoints += [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
        name = f"{service}-{objects.random_suffix()}"
        ports = objects.slice_ports(body, found)
        self.store.add("endpointslices", objects.endpoint_slice(name, body, endpoints, ports, "staff"))

    def follow(self, namespace: str) -> None:
        """Bring the slices and the workloads' status up to the pods."""
        pods = self.store.of_kind("pods", namespace)
        for service in self.store.of_kind("services", namespace):
            if wanted := service["spec"].get("selector"):
                matching = [
                    pod
                    for pod in pods
                    if wanted.items() <= pod["metadata"].get("labels", {}).items()
                    and pod["status"]["phase"] in ("Pending", "Running")
                    and "podIP" in pod["status"]
                ]
                self._follow_service(service, matching)
        for workload in self._workloads.values():
            if workload.namespace == namespace:
                self._follow_workload(workload)

    def _follow_service(self, service: Body, pods: list[Body]) -> None:
        uid = service["metadata"]["uid"]
        slices = self.store.of_kind("endpointslices", service["metadata"]["namespace"])
        current = next((one for one in slices if one["metadata"]["ownerReferences"][0]["uid"] == uid), None)
        name = current["metadata"]["name"] if current else f"{service['metadata']['name']}-{objects.random_suffix()}"
        endpoints, ports = [objects.endpoint(pod) for pod in pods], objects.slice_ports(service, pods)
        if current is None:
            body = objects.endpoint_slice(name, service, endpoints, ports, objects.MANAGED_BY)
            self.store.add("endpointslices", body)
        elif (current["endpoints"], current["ports"]) != (endpoints, ports):
            self.store.put("endpointslices", current | {"endpoints": endpoints, "ports": ports})

    def _follow_workload(self, workload: Workload) -> None:
        pods = self.pods_of(workload)
        for plural, name in _bodies_of(workload):
            body = self.store.get(plural, workload.namespace, name)
            status = objects.workload_status(plural, len(pods), sum(map(objects.is_ready, pods)))
            if body is not None and body["status"] != status:
                self.store.put(plural, body | {"status": status})

    def _next_address(self, network: str) -> str:
        number = next(self._addresses)
        return f"{network}.{number >> 8}.{number & 255}"

    def _later(self, delay: float, act: Callable[..., object], *args: object) -> None:
        def run() -> None:
            self._timers.discard(timer)
            act(*args)

        timer = asyncio.get_running_loop().call_later(delay, run)
        self._timers.add(timer)


def _bodies_of(workload: Workload) -> set[tuple[str, str]]:
    """Kind and name of what the API has of it: a Deployment has a ReplicaSet."""
    return {(workload.plural, workload.name), (_owner_plural(workload), _name(workload.owner))}


def _owner_plural(workload: Workload) -> str:
    return "replicasets" if workload.plural == "deployments" else workload.plural


def _name(body: Body) -> str:
    name: str = body["metadata"]["name"]
    return name
