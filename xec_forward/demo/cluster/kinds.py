"""The kinds of objects that the API server knows: their names, and where each one lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]  # an object as the API's JSON has it


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of `kubectl api-resources`."""

    plural: str
    name: str
    group_version: str = "v1"
    namespaced: bool = True
    short: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ("get", "list", "watch")

    @property
    def group(self) -> str:
        """The API group; "" for the core."""
        return self.group_version.rpartition("/")[0]


KINDS = {
    kind.plural: kind
    for kind in (
        Kind("namespaces", "Namespace", namespaced=False, short=("ns",)),
        Kind("pods", "Pod", short=("po",), verbs=("delete", "get", "list", "watch")),
        Kind("services", "Service", short=("svc",)),
        Kind("secrets", "Secret"),
        Kind("deployments", "Deployment", "apps/v1", short=("deploy",)),
        Kind("replicasets", "ReplicaSet", "apps/v1", short=("rs",)),
        Kind("statefulsets", "StatefulSet", "apps/v1", short=("sts",)),
        Kind("daemonsets", "DaemonSet", "apps/v1", short=("ds",)),
        Kind("jobs", "Job", "batch/v1"),
        Kind("endpointslices", "EndpointSlice", "discovery.k8s.io/v1"),
    )
}
GROUP_VERSIONS = ("apps/v1", "batch/v1", "discovery.k8s.io/v1", "authorization.k8s.io/v1")
