"""The chosen pod, watched for as long as connections lead to it.

The pod itself is watched, and not its service's EndpointSlice: its deletionTimestamp is there first (530 ms against
551 ms in the recorded deletion), it says why, and it serves every kind of resource.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from ....spec import ResourceKind
from . import reasons
from .objects import Object, Pod, path, read
from .resolve import Choice
from .watch import Api, snapshots

# Between two looks where watching is forbidden, seconds: it goes on for as long as the tunnel.
_POLL = 5.0

logger = logging.getLogger(__name__)


class Follow:
    """Watches a pod until it goes. Starts at once; an API server that is away for a while is waited for.

    A pod goes when its deletion begins, when it completes or fails, and when another has taken its name: `going` is
    then called once with the reason, and nothing more comes. Its connections should be reset: the cluster will end
    them as if they were complete.

    Losing readiness is no going. It flaps, connections in use live on, and there may be no better pod; but a new
    connection should first ask `choose` again with `prefer`, which leaves the pod only for one that is ready.

    Attributes:
        reason: why it goes, or "".
        ready: whether it was ready when last seen.
    """

    def __init__(self, api: Api, choice: Choice, going: Callable[[str], None]) -> None:
        self.reason = ""
        self.ready = True
        self._api = api
        self._choice = choice
        self._going = going
        self._task = asyncio.create_task(self._watch(), name=f"follow pod/{choice.pod}")

    def close(self) -> None:
        """Stop watching; idempotent."""
        self._task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing of it is left."""
        await asyncio.wait([self._task])

    async def _watch(self) -> None:
        try:
            pods = path(ResourceKind.POD, self._choice.namespace)
            async with aclosing(snapshots(self._api, pods, name=self._choice.pod, patient=True, poll=_POLL)) as states:
                async for objects in states:
                    self.reason = self._see(objects.get(self._choice.pod))
                    if self.reason:
                        break
            self._going(self.reason)
        except Exception:
            logger.exception("the watch of pod/%s has ended", self._choice.pod)

    def _see(self, found: Object | None) -> str:
        """Why the pod goes, or ""."""
        if found is None:
            return f"pod/{self._choice.pod} was deleted"
        pod = read(Pod, found)
        if pod.metadata.uid != self._choice.uid:
            return f"pod/{self._choice.pod} was replaced"
        self.ready = pod.ready
        return reasons.going(pod)
