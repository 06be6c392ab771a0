"""Any real cluster as a `Peer`: one namespace for each test, made at its beginning and removed at its end.

The pods run `programs` from a ConfigMap, on any image that has `python3`, which is pulled only where the node has it
not; nothing else is installed, and nothing outside the namespace is touched. The pods are such as the Pod Security
Standard "restricted" admits. Of the engine only the way to an API server is used: a proxy of any kind, a
tls-server-name and an exec plugin count here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

import xec_forward as xf
from xec_forward.engine.links.kubernetes.api import Api
from xec_forward.engine.links.kubernetes.credentials import Login
from xec_forward.options import ClusterTarget

from . import programs
from .peer import NUMBERS, UDP, Peer, pods_in, until

# The condition that a pod with `ready=False` waits for.
GATE = "xec-forward.test/ready"
_EVENTS = 10
_TRIES = 3
# Of each kind of workload: its name in objects, and its API group with the version.
_KINDS = {
    "deployment": ("Deployment", "apps/v1"),
    "statefulset": ("StatefulSet", "apps/v1"),
    "replicaset": ("ReplicaSet", "apps/v1"),
    "daemonset": ("DaemonSet", "apps/v1"),
    "job": ("Job", "batch/v1"),
}

Body = dict[str, Any]


class Refused(Exception):
    """The API server's answer is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text[:300]}")
        self.status = status


class Rest:
    """Requests to a cluster's API server, from a test. Made and used in one thread, outside of any event loop."""

    def __init__(self, kubeconfig: Path) -> None:
        self._runner = asyncio.Runner()
        try:
            self._api = self._runner.run(Api.open(ClusterTarget(kubeconfig=str(kubeconfig))))
            self._session = self._runner.run(_session())
        except BaseException:
            self._runner.close()
            raise

    def __call__(
        self, method: str, path: str, body: Body | None = None, *, content: str = "application/json", **params: str
    ) -> Body:
        """The answer. Raises Refused; xf.ForwardError: there was none."""
        return self._runner.run(self._ask(method, path, body, content, params))

    async def _ask(self, method: str, path: str, body: Body | None, content: str, params: Mapping[str, str]) -> Body:
        async def exchange(login: Login) -> Body:
            where = await self._api._where(login, path, params)
            where["headers"] += [("Accept", "application/json"), ("Content-Type", content)]
            async with self._session.request(method, json=body, **where) as answer:
                if answer.status >= 300:
                    raise Refused(answer.status, await answer.text())
                found: Body = await answer.json()
                return found

        return await self._api._with_login(exchange)

    def close(self) -> None:
        """End it; idempotent."""
        with self._runner:
            self._runner.run(self._session.close())
            self._runner.run(self._api.close())


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


class RealPeer(Peer):
    """A namespace of a real cluster, used as a context.

    Args:
        image: has `python3`.
    """

    patience = 120.0

    def __init__(self, kubeconfig: Path, image: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = f"xec-forward-test-{secrets.token_hex(4)}"
        self.rest = Rest(kubeconfig)
        self._image = image

    def __enter__(self) -> RealPeer:
        try:
            self.distance = self._measure()
            self.rest("POST", "/api/v1/namespaces", namespace(self.namespace))
            self._create("/api/v1", "configmaps", script())
            # Pods are refused until the controller has made it.
            until(self._has_account, self.patience)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _measure(self) -> float:
        """The seconds of a request over a connection that is there, as a rule."""
        taken = []
        for _ in range(5):
            began = time.monotonic()
            self.rest("GET", "/version")
            taken.append(time.monotonic() - began)
        return statistics.median(taken)

    def _has_account(self) -> bool:
        with contextlib.suppress(Refused):
            return bool(self.rest("GET", f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default"))
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the namespace. Where that fails, it is told, but in the place of no other failure."""
        try:
            self._remove()
        except Exception as failure:
            told = f"the namespace {self.namespace} could not be removed: {type(failure).__name__} {failure}"
            if error is None:
                raise AssertionError(told) from failure
            error.add_note(told)
        finally:
            self.rest.close()

    def _remove(self) -> None:
        """Begin its deletion, which is asked for again where the answer got lost."""
        for left in reversed(range(_TRIES)):
            try:
                self.rest("DELETE", f"/api/v1/namespaces/{self.namespace}")
            except Refused as refused:
                if refused.status == 404:  # never made, or gone already
                    return
                if refused.status < 500 or not left:
                    raise
            except (OSError, xf.ForwardError, aiohttp.ClientError):
                if not left:
                    raise
            else:
                return

    # ---- Peer ----

    def add_pod(self, name: str, *, ready: bool = True) -> None:
        self._create("/api/v1", "pods", pod(name, self._image, gated=not ready))
        self._until(name, lambda: self._runs(name) if not ready else self._ready(name) == 1)

    def set_ready(self, name: str) -> None:
        condition = {"type": GATE, "status": "True"}
        self.rest(
            "PATCH",
            f"/api/v1/namespaces/{self.namespace}/pods/{name}/status",
            {"status": {"conditions": [condition]}},
            content="application/strategic-merge-patch+json",
        )

    def add_workload(self, kind: str, name: str, *, pods: int = 1) -> None:
        self._create(f"/apis/{_KINDS[kind][1]}", f"{kind}s", workload(kind, name, self._image, pods))
        self._until(name, lambda: self._ready(name) >= pods)

    def add_service(self, name: str, *ports: Mapping[str, Any], headless: bool = False) -> None:
        self._create("/api/v1", "services", service(name, ports, headless=headless))

    def pods(self, name: str) -> dict[str, tuple[str, bool]]:
        found = self.rest("GET", f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=f"app={name}")
        return pods_in(found["items"])

    def delete_pod(self, name: str) -> None:
        self.rest("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{name}")

    def explain(self, name: str) -> str:
        """Its pods, and the last events of the namespace: why a pod cannot be made is said of what makes it."""
        where = f"/api/v1/namespaces/{self.namespace}"
        pods = [_in_short(each) for each in self.rest("GET", f"{where}/pods", labelSelector=f"app={name}")["items"]]
        events = self.rest("GET", f"{where}/events")["items"]
        events.sort(key=lambda event: event["metadata"]["creationTimestamp"])
        told = [
            f"{event['involvedObject'].get('kind')}/{event['involvedObject'].get('name')}: {event.get('message')}"
            for event in events[-_EVENTS:]
        ]
        return "\n  ".join(["", *(pods or ["no pod"]), *told])

    def _until(self, name: str, condition: Callable[[], bool]) -> None:
        """Wait for it. Raises AssertionError, with what is known of the pods."""
        try:
            until(condition, self.patience)
        except AssertionError:
            raise AssertionError(f"{name} was not there within {self.patience:g} s:{self.explain(name)}") from None

    def _create(self, group: str, plural: str, body: Body) -> None:
        self.rest("POST", f"{group}/namespaces/{self.namespace}/{plural}", body)

    def _ready(self, name: str) -> int:
        time.sleep(0.2)  # a real cluster takes seconds, and is not to be asked a hundred times in each
        return sum(ready for _, ready in self.pods(name).values())

    def _runs(self, name: str) -> bool:
        time.sleep(0.2)
        found = self.rest("GET", f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        return bool(found["status"].get("phase") == "Running")


def _in_short(pod: Body) -> str:
    """A pod's state in one line."""
    status = pod.get("status", {})
    words = [f"pod/{pod['metadata']['name']} is {status.get('phase')}"]
    words += [f"{one['type']}: {one['message']}" for one in status.get("conditions") or () if one.get("message")]
    for container in status.get("containerStatuses") or ():
        for state, details in container.get("state", {}).items():
            words.append(
                f"{container['name']} {state} {details.get('reason', '')} {details.get('message', '')}".strip()
            )
    return "; ".join(words)


# ---- the objects ----

# What the Pod Security Standard "restricted" wants of a pod, and of each of its containers.
RESTRICTED_POD: Body = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED_CONTAINER: Body = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def namespace(name: str) -> Body:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def script() -> Body:
    """The ConfigMap that the pods run."""
    text = Path(programs.__file__).read_text()
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "programs"}, "data": {"programs.py": text}}


def pod(name: str, image: str, *, gated: bool) -> Body:
    spec = _spec(image)
    if gated:
        spec["readinessGates"] = [{"conditionType": GATE}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def workload(kind: str, name: str, image: str, pods: int) -> Body:
    labels = {"app": name}
    template: Body = {"metadata": {"labels": labels}, "spec": _spec(image)}
    spec: Body = {"template": template}
    if kind == "job":
        template["spec"]["restartPolicy"] = "Never"
    else:
        spec["selector"] = {"matchLabels": labels}
    if kind in ("deployment", "statefulset", "replicaset"):
        spec["replicas"] = pods
    if kind == "statefulset":
        spec["serviceName"] = name
    name_in_objects, group = _KINDS[kind]
    return {"apiVersion": group, "kind": name_in_objects, "metadata": {"name": name}, "spec": spec}


def service(name: str, ports: tuple[Mapping[str, Any], ...], *, headless: bool) -> Body:
    spec: Body = {"selector": {"app": name}, "ports": [dict(port) for port in ports]}
    if headless:
        spec["clusterIP"] = "None"
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _spec(image: str) -> Body:
    ports: list[Body] = [{"name": name, "containerPort": number} for name, number in NUMBERS.items()]
    ports.append({"name": "dns", "containerPort": UDP, "protocol": "UDP"})
    container = {
        "name": "programs",
        "image": image,
        # Else a tag of `latest` is pulled Always, also where the image was loaded into the node by hand.
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/programs/programs.py", "pod"],
        "ports": ports,
        "readinessProbe": {"tcpSocket": {"port": NUMBERS["silent"]}, "periodSeconds": 1},
        "securityContext": RESTRICTED_CONTAINER,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "volumeMounts": [{"name": "programs", "mountPath": "/programs"}],
    }
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": RESTRICTED_POD,
        "containers": [container],
        "volumes": [{"name": "programs", "configMap": {"name": "programs"}}],
    }
