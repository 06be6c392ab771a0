"""A real cluster's answers (tests/data/k8s-wire/rest), and an API server's client that gives them."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from xec_forward.engine.links.kubernetes.failures import Answer
from xec_forward.engine.links.kubernetes.reasons import Reason
from xec_forward.engine.links.kubernetes.resolve import Choice, choose
from xec_forward.errors import ForwardError, NameNotFoundError, RbacError
from xec_forward.spec import Endpoint, Resource

REST = Path(__file__).parent.parent / "data" / "k8s-wire" / "rest"
CORE, APPS = "/api/v1", "/apis/apps/v1"
HERE = "/namespaces/default"
PODS = f"{CORE}{HERE}/pods"
PLURALS = ("namespaces", "pods", "services", "deployments", "statefulsets", "jobs", "endpointslices")
Body = dict[str, Any]


def recorded(name: str, **changes: Any) -> Body:
    """An answer of the real cluster; `spec__replicas=0` changes a field of it."""
    body: Body = json.loads((REST / f"{name}.json").read_text())
    for place, value in changes.items():
        *path, last = place.split("__")
        where = body
        for step in path:
            where = where[step]
        where[last] = value
    return body


def events(name: str) -> list[tuple[float, Body]]:
    """A recorded watch: milliseconds, event."""
    lines = [json.loads(each) for each in (REST / f"{name}.jsonl").read_text().splitlines()]
    return [(each["t"], each["event"]) for each in lines if "event" in each]


class Recording:
    """Answers with recorded objects, and refuses as the API server does.

    Attributes:
        watches: what each watch tells in turn, an exception at the end if it is one; then silence.
        forbidden: verb and path that the user may not use.
        asked: each request.
    """

    namespace = "default"

    def __init__(self, *objects: tuple[str, Body]) -> None:
        self.objects = dict([(f"{CORE}{HERE}", {"metadata": {"name": "default"}}), *objects])
        self.watches: list[list[Body | Exception]] = []
        self.forbidden: set[tuple[str, str]] = set()
        self.failures: list[ForwardError] = []
        self.asked: list[str] = []

    async def get(self, path: str, **params: str) -> Body:
        self.asked.append(path)
        if self.failures:
            raise self.failures.pop(0)
        is_list = path.rpartition("/")[2] in PLURALS
        if ("list" if is_list else "get", path) in self.forbidden:
            raise RbacError("ana may not do it")
        if is_list:
            return {"metadata": {"resourceVersion": "7"}, "items": self._listed(path, params)}
        if path not in self.objects:
            kind, name = path.split("/")[-2:]
            status = recorded("status-404-pod", details={"name": name, "kind": kind})
            raise NameNotFoundError("there is no such object") from Answer(404, json.dumps(status).encode())
        return copy.deepcopy(self.objects[path])

    def _listed(self, path: str, params: dict[str, str]) -> list[Body]:
        place, _, plural = path.rpartition("/")
        named = params.get("fieldSelector", "").removeprefix("metadata.name=")
        wanted = dict(each.split("=") for each in params.get("labelSelector", "").split(",") if each)
        return [
            copy.deepcopy(body)
            for where, body in self.objects.items()
            if where.startswith(place)
            and where.split("/")[-2] == plural
            and named in ("", body["metadata"]["name"])
            and wanted.items() <= body["metadata"].get("labels", {}).items()
        ]

    async def watch(self, path: str, *, resource_version: str, **params: str) -> AsyncGenerator[Body, None]:
        self.asked.append(f"watch {path} from {resource_version}")
        if ("watch", path) in self.forbidden:
            raise RbacError("ana may not watch")
        for event in self.watches.pop(0) if self.watches else []:
            if isinstance(event, Exception):
                raise event
            yield event
        await asyncio.Event().wait()


def pod_at(body: Body) -> tuple[str, Body]:
    return f"{PODS}/{body['metadata']['name']}", body


def service_at(body: Body) -> tuple[str, Body]:
    return f"{CORE}{HERE}/services/{body['metadata']['name']}", body


def deployment() -> Recording:
    """The recorded deployment `dep`, its service and its two pods."""
    pods = [pod_at(body) for body in recorded("pod-list-dep")["items"]]
    workload = (f"{APPS}{HERE}/deployments/dep", recorded("deployment"))
    return Recording(workload, service_at(recorded("service-dep")), *pods)


async def chosen(api: Recording, word: str, *ports: int | str, prefer: str = "") -> Choice:
    """What `choose` answers without waiting."""
    async with asyncio.timeout(5):
        return await choose(api, Resource.of(word), endpoints(word, *ports), prefer=prefer, waiting=_unexpected)


def _unexpected(reason: Reason) -> None:
    raise AssertionError(f"waits: {reason}")


def endpoints(word: str, *ports: int | str) -> list[Endpoint]:
    return [
        Endpoint(host=word, port_name=port) if isinstance(port, str) else Endpoint(host=word, port=port)
        for port in ports
    ]


def unready(body: Body) -> None:
    condition = next(each for each in body["status"]["conditions"] if each["type"] == "Ready")
    condition["status"] = "False"
