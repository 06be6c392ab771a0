"""Names in a cluster, for completion: contexts, namespaces, what leads to pods, and ports.

Nobody has asked for anything yet, so little is done for it: one request, at most `_MOST` names, within `_LIMIT`
seconds. Where asking would run a program (an exec plugin, which may open a browser) or log in to an SSH host, the
cluster is asked only while a tunnel to it is open; else the answer is nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from ....errors import DeadlineError, ForwardError
from ....model import Browse, Listing
from ....options import ClusterTarget
from ....spec import Resource, ResourceKind
from ..base import Opening
from ..pool import Pool
from . import cluster, config
from .api import Api
from .config import Context
from .objects import Pod, Service, path, read

_LIMIT = 4.0  # seconds for all of it
_MOST = 500  # names
_PROGRAMS = ("exec", "auth-provider")


async def browse(request: Browse, *, opening: Opening, pool: Pool) -> tuple[str, ...]:
    """What `request` asks for: contexts, namespaces and names in their order, ports as the object has them.

    Raises:
        ForwardError: those of the API server's link and of a request. ConfigError: the kubeconfig is no good.
        DeadlineError: there was no answer in time.
    """
    target = request.cluster
    if request.what is Listing.CONTEXTS:
        return tuple((await asyncio.to_thread(config.contexts, target))[:_MOST])
    context = await asyncio.to_thread(config.load, target)
    if not pool.has(cluster.identity(target, context)) and _asks_more(target, context):
        return ()
    try:
        async with asyncio.timeout(_LIMIT):
            lease = await cluster.acquire(target, opening, pool, context)
            try:
                return tuple(await _names(cluster.api_of(lease.link, context.namespace), request))[:_MOST]
            finally:
                lease.release()
    except ForwardError:
        raise  # a DeadlineError is a TimeoutError too
    except TimeoutError as error:
        raise DeadlineError(f"no answer within {_LIMIT:g} s", hop=target.host) from error


def _asks_more(target: ClusterTarget, context: Context) -> bool:
    """Whether reaching the cluster takes more than a request."""
    return bool(target.proxy) or any(context.user.get(key) for key in _PROGRAMS)


async def _names(api: Api, request: Browse) -> Iterable[str]:
    limit = str(_MOST)
    if request.what is Listing.NAMESPACES:
        return _sorted(await api.get("/api/v1/namespaces", limit=limit))
    if request.what is Listing.NAMES:
        return _sorted(await api.get(path(ResourceKind(request.of), api.namespace), limit=limit))
    return dict.fromkeys(await _ports(api, Resource.of(request.of)))


def _sorted(found: dict[str, Any]) -> list[str]:
    return sorted(str(item["metadata"]["name"]) for item in found.get("items") or ())


async def _ports(api: Api, resource: Resource) -> list[str]:
    """The TCP ports of a resource, each by its number and its name."""
    if resource.kind is ResourceKind.SELECTOR:
        found = await api.get(path(ResourceKind.POD, api.namespace), labelSelector=resource.name, limit="1")
        pods = [read(Pod, item) for item in found.get("items") or ()]
        return [word for pod in pods for word in _words_of(pod)]
    found = await api.get(path(resource.kind, api.namespace, resource.name))
    if resource.kind is ResourceKind.SERVICE:
        ports = read(Service, found).spec.ports or ()
        return [word for port in ports if port.protocol == "TCP" for word in (str(port.port), port.name) if word]
    if resource.kind is ResourceKind.POD:
        return _words_of(read(Pod, found))
    # What makes pods has a template of them.
    template = (found.get("spec") or {}).get("template") or {}
    return _words_of(read(Pod, {"metadata": {}, "spec": template.get("spec") or {}}))


def _words_of(pod: Pod) -> list[str]:
    ports = [port for port in pod.ports() if port.protocol == "TCP"]
    return [word for port in ports for word in (str(port.container_port), port.name) if word]
