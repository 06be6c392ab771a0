"""A cluster to test against, in the few words that the tests need; here the embedded one. `real` has any other.

Every pod runs `programs`, and its labels are `app: NAME`, NAME being the workload's or its own.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xec_forward as xf
from tests.peers.program import Program
from xec_forward.demo.cluster import Cluster
from xec_forward.demo.cluster.handles import Pod

from . import programs

NUMBERS = {name: number for name, (number, _) in programs.PORTS.items()}
# A port that no pod listens on, and one that is declared for UDP.
REFUSED, UDP = 9, 5353


class Programs(Program):
    """`programs` as a process of this machine, used as a context.

    Attributes:
        serves: the real address behind each of a pod's ports.
    """

    def __init__(self) -> None:
        super().__init__([sys.executable, "-S", programs.__file__])
        told: dict[str, int] = json.loads(self.told)
        self.serves = {int(port): ("127.0.0.1", real) for port, real in told.items()}


class Peer(ABC):
    """A cluster, with an empty namespace for one test.

    Attributes:
        kubeconfig, namespace: how to reach it.
        patience: seconds that a pod may take to become ready.
        distance: seconds of a request to its API server, as measured; 0 where it is next door.
    """

    kubeconfig: Path
    namespace: str
    patience: float
    distance: float = 0.0

    def cluster(self, **arguments: Any) -> xf.Cluster:
        """The cluster as a user has it."""
        return xf.k8s(kubeconfig=self.kubeconfig, namespace=self.namespace, **arguments)

    def within(self, seconds: float) -> float:
        """A bound that holds for a cluster next door, for this one: with the time of twenty requests more."""
        return round(seconds + 20 * self.distance, 1)

    def explain(self, name: str) -> str:
        """What is known of the pods with the label `app: NAME`, for a wait that was in vain."""
        return str(self.pods(name))

    @abstractmethod
    def add_pod(self, name: str, *, ready: bool = True) -> None:
        """Add a pod; returns once it is ready, or runs without being so."""

    @abstractmethod
    def set_ready(self, name: str) -> None:
        """Let a pod that was added with `ready=False` be ready."""

    @abstractmethod
    def add_workload(self, kind: str, name: str, *, pods: int = 1) -> None:
        """Add a `deployment`, `statefulset`, `replicaset`, `daemonset` or `job`; returns once its pods are ready."""

    @abstractmethod
    def add_service(self, name: str, *ports: Mapping[str, Any], headless: bool = False) -> None:
        """Add a service of the pods with the label `app: NAME`; the ports as the API has them."""

    @abstractmethod
    def pods(self, name: str) -> dict[str, tuple[str, bool]]:
        """By uid the pods with the label `app: NAME` that are not being deleted: the name, and whether it is ready."""

    @abstractmethod
    def delete_pod(self, name: str) -> None:
        """Begin a pod's deletion."""

    def replacement(self, name: str, before: Mapping[str, object]) -> str:
        """Wait for a ready pod of `app: NAME` that is none of those `before`; its name."""
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            for uid, (pod, ready) in self.pods(name).items():
                if ready and uid not in before:
                    return pod
            time.sleep(0.02)
        raise TimeoutError(f"no other pod of {name} was ready within {self.patience:g} s: {self.explain(name)}")


class EmbeddedPeer(Peer):
    """The API server of `xec_forward.demo.cluster`.

    Attributes:
        embedded: how it is steered.
        alone: the pods that were added by name.
    """

    namespace = "default"
    patience = 10.0

    def __init__(self, cluster: Cluster, serves: Mapping[int, tuple[str, int]]) -> None:
        self.embedded = cluster
        self.kubeconfig = cluster.kubeconfig
        self._serves = serves
        self.alone: dict[str, Pod] = {}

    def add_pod(self, name: str, *, ready: bool = True) -> None:
        labels = {"app": name}
        self.alone[name] = self.embedded.add_pod(name, labels=labels, **self.template(), ready=ready)

    def set_ready(self, name: str) -> None:
        self.alone[name].set_ready(True)

    def add_workload(self, kind: str, name: str, *, pods: int = 1) -> None:
        self.embedded.add_workload(f"{kind}s", name, pods=pods, **self.template())

    def add_service(self, name: str, *ports: Mapping[str, Any], headless: bool = False) -> None:
        self.embedded.add_service(name, selector={"app": name}, ports=ports, headless=headless)

    def pods(self, name: str) -> dict[str, tuple[str, bool]]:
        return self.embedded.call(lambda: self._pods(name))

    def delete_pod(self, name: str) -> None:
        controller = self.embedded.state.controller
        self.embedded.call(lambda: controller.delete_pod(self.namespace, name))

    def _pods(self, name: str) -> dict[str, tuple[str, bool]]:
        return pods_in(
            pod
            for pod in self.embedded.state.store.of_kind("pods", self.namespace)
            if pod["metadata"].get("labels", {}).get("app") == name
        )

    def template(self) -> dict[str, Any]:
        """Ports and what they serve, as `Cluster.add_workload` takes them."""
        return {"ports": {**NUMBERS, "dns": (UDP, "UDP")}, "serves": self._serves}


def pods_in(bodies: Any) -> dict[str, tuple[str, bool]]:
    """What `Peer.pods` says of pods as the API has them."""
    found = {}
    for body in bodies:
        meta, conditions = body["metadata"], body.get("status", {}).get("conditions") or ()
        if "deletionTimestamp" not in meta:
            ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
            found[meta["uid"]] = (meta["name"], ready)
    return found


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait for a condition. Raises AssertionError at the deadline."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.01)
