"""What a test holds in its hand: a pod, a workload. Each call is carried out in the cluster's thread."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from .containerd import Address, Sandbox
from .controller import Workload
from .kinds import Body
from .objects import is_ready

if TYPE_CHECKING:
    from .cluster import Cluster

Result = TypeVar("Result")


class Pod:
    """A pod of the cluster, from the moment it is created; its methods may be called from any thread.

    Attributes:
        name, namespace, uid: as the API has them.
    """

    def __init__(self, cluster: Cluster, body: Body) -> None:
        self._cluster = cluster
        self.name: str = body["metadata"]["name"]
        self.namespace: str = body["metadata"]["namespace"]
        self.uid: str = body["metadata"]["uid"]

    @property
    def body(self) -> Body | None:
        """The pod as the API has it now; None once it is gone."""
        return copy.deepcopy(self._call(self._body))

    @property
    def connections(self) -> int:
        """Forwarded connections that are open to it now."""
        return self._call(lambda: len(sandbox.connections) if (sandbox := self._sandbox()) else 0)

    def set_ready(self, ready: bool) -> None:
        """Let it run, ready or not; one that was pending gets its node."""
        controller = self._cluster.state.controller
        self._call(lambda: controller.run_pod(self.namespace, self.name, ready=ready))

    def pending(self, message: str) -> None:
        """No node takes it: Pending and Unschedulable, with this message."""
        self._call(lambda: self._cluster.state.controller.pend_pod(self.namespace, self.name, message))

    def waiting(self, reason: str, message: str = "") -> None:
        """Its container does not start, on a node that has it: `ErrImagePull`, `CrashLoopBackOff`."""
        self._call(lambda: self._cluster.state.controller.hold_pod(self.namespace, self.name, reason, message))

    def fail(self, reason: str = "DeadlineExceeded") -> None:
        """It ends, phase Failed."""
        self._call(lambda: self._cluster.state.controller.end_pod(self.namespace, self.name, "Failed", reason))

    def succeed(self) -> None:
        """It ends, phase Succeeded."""
        self._call(lambda: self._cluster.state.controller.end_pod(self.namespace, self.name, "Succeeded", "Completed"))

    def serve(self, port: int, address: Address | None) -> None:
        """Lead new connections to a port elsewhere; None: nothing listens on it any more."""

        def change() -> None:
            if sandbox := self._sandbox():
                sandbox.serves.pop(port, None)
                if address is not None:
                    sandbox.serves[port] = address

        self._call(change)

    def relabel(self, labels: Mapping[str, str]) -> None:
        """Give it other labels, as `kubectl label` does."""
        self._call(lambda: self._cluster.state.controller.relabel_pod(self.namespace, self.name, labels))

    def lose_sandbox(self) -> Callable[[], None]:
        """Its sandbox dies on the node, which nobody hears of; call what is returned to have the node make another."""
        remake = self._call(lambda: self._cluster.state.controller.lose_sandbox(self.namespace, self.name))
        return lambda: self._call(remake)

    def delete(self) -> None:
        """Delete it, as DELETE does: it goes on for a moment, its owner replaces it. `wait_gone` sees the end."""
        self._call(lambda: self._cluster.state.controller.delete_pod(self.namespace, self.name))

    def wait_gone(self, timeout: float = 10.0) -> None:
        """Wait until the API has it no more. Raises TimeoutError."""
        self._cluster.wait(lambda: self._body() is None, timeout)

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until its Ready condition is True. Raises TimeoutError."""
        self._cluster.wait(self._is_ready, timeout)

    def _is_ready(self) -> bool:
        body = self._body()
        return body is not None and is_ready(body)

    def _body(self) -> Body | None:
        body = self._cluster.state.store.get("pods", self.namespace, self.name)
        return body if body and body["metadata"]["uid"] == self.uid else None

    def _sandbox(self) -> Sandbox | None:
        return self._cluster.state.controller.sandboxes.get(self.uid)

    def _call(self, act: Callable[[], Result]) -> Result:
        return self._cluster.call(act)

    def __repr__(self) -> str:
        return f"<pod {self.namespace}/{self.name}>"


class WorkloadHandle:
    """A Deployment, StatefulSet, ReplicaSet, DaemonSet or Job; its methods may be called from any thread.

    Attributes:
        name, namespace: as the API has them.
    """

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self._cluster = cluster
        self._workload = workload
        self.name = workload.name
        self.namespace = workload.namespace

    @property
    def pods(self) -> list[Pod]:
        """Its pods that are not being deleted, by name."""
        bodies = self._cluster.call(lambda: self._cluster.state.controller.pods_of(self._workload))
        return [Pod(self._cluster, body) for body in bodies]

    def scale_to_zero(self) -> None:
        """Delete its pods; no others take their place."""
        self._cluster.call(lambda: self._cluster.state.controller.scale_to_zero(self._workload))

    def replace_pod(self, pod: Pod | None = None, timeout: float = 10.0) -> Pod:
        """Delete a pod (its first), and wait for the one that takes its place to exist; it becomes ready later.

        Raises:
            TimeoutError: none came within `timeout` seconds.
        """
        before = self.pods
        pod = pod or before[0]
        known = {one.uid for one in before}
        pod.delete()
        controller = self._cluster.state.controller

        def fresh() -> list[Body]:
            return [one for one in controller.pods_of(self._workload) if one["metadata"]["uid"] not in known]

        self._cluster.wait(lambda: bool(fresh()), timeout)
        return Pod(self._cluster, self._cluster.call(fresh)[0])

    def __repr__(self) -> str:
        return f"<{self._workload.plural} {self.namespace}/{self.name}>"
