"""The Kubernetes link: port-forwards to pods, through the API server of a cluster.

To the API server:
    cluster        the API server as a link of its own, shared, through SSH hosts where it has any (`approach`)
    config         the kubeconfig: which context, and what it says of cluster, user and namespace
    credentials    who we are to the cluster: tokens and certificates, renewed in time; `plugin` runs exec plugins
    api            requests: get, post, watch, upgrade (`raw`: by hand, also through a proxy; `body`: a refusal's)
    proxy          a proxy that is reached by TLS or SOCKS5; `environment`: the proxy that the environment names
    dialled        a connection to either, while it is nobody's yet
    failures       what went wrong, in our words
    browse         names, for completion
To a pod:
    resolve        a ready pod of a resource; `selection`, `objects`, `ports` and `missing` are its parts
    watch, follow  what changes; whether the chosen pod goes
    reasons        why there is no pod yet, or none any more
    link           the link; `way`: how a tunnel comes to one, in the context it was opened in
    leading        from pod to pod: when it moves on, and when there is none any more
Into the pod:
    dial           which protocol a server takes; `upgrade` and `websocket` are the pipes
    warm           the upgrades to one pod, kept warm; `pulse` sees whether they live
    session        SPDY/3.1 over one upgrade, `stream` one connection on it, `v4` the older protocol
    endings        how a connection ended
    attempt        a connection that begins anew where its pod had gone before it took anything
For the doctor:
    examine        the way to the API server, `examine_port` to a port of a pod; `rights`: what RBAC must allow
"""

from __future__ import annotations

import asyncio

from ....model import Outlook
from ....options import ClusterTarget
from ..base import Opening
from ..pool import Pool
from . import cluster, config
from .browse import browse
from .way import Way

__all__ = ["Way", "browse", "look", "secret"]


async def look(target: ClusterTarget) -> Outlook:
    """Which context and namespace the kubeconfig means by a target now. Nothing is dialled. Raises ConfigError."""
    context = await asyncio.to_thread(config.load, target)
    hops = (host.host for host in target.proxy)
    return Outlook((*hops, context.name), context=context.name, namespace=context.namespace)


async def secret(target: ClusterTarget, name: str, key: str, *, opening: Opening, pool: Pool) -> str:
    """One value of a Kubernetes Secret in the target's namespace, as text.

    Raises:
        ForwardError: those of the API server's link and of `Api.read_secret`. ConfigError: it is no text.
    """
    context = await asyncio.to_thread(config.load, target)
    lease = await cluster.acquire(target, opening, pool, context)
    try:
        return await cluster.read_secret(lease.link, context.namespace, name, key)
    finally:
        lease.release()
