"""The API server's objects, with a log of their changes: what gets, lists and watches read.

Every change has a resourceVersion, one counter for all, as in etcd. A watch goes on from one of them while the
log still holds it.
"""

from __future__ import annotations

import asyncio
import copy
import datetime
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from .kinds import KINDS, Body
from .selectors import Selector

_LOG_LENGTH = 4096


class Expired(Exception):
    """The log does not reach back to that resourceVersion."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log. `before` is the object as it was, None where it is new."""

    version: int
    type: str
    plural: str
    body: Body
    before: Body | None


class Store:
    """Objects by kind, namespace and name. Used on the server's event loop only."""

    def __init__(self) -> None:
        self.version = 0
        self._objects: dict[tuple[str, str, str], Body] = {}
        self._log: deque[Change] = deque(maxlen=_LOG_LENGTH)
        self._forgotten = 0
        self._changed = asyncio.Event()

    def get(self, plural: str, namespace: str, name: str) -> Body | None:
        """The object as it is now, to read; None where there is none."""
        return self._objects.get((plural, namespace, name))

    def of_kind(self, plural: str, namespace: str = "") -> list[Body]:
        """The objects of a kind in a namespace ("": in all), by name."""
        return [
            body
            for (kind, where, _), body in sorted(self._objects.items())
            if kind == plural and namespace in ("", where)
        ]

    def add(self, plural: str, body: Body) -> Body:
        """Keep a new object: its identity and time of birth are written into it. Replaces one of its name."""
        body["metadata"].setdefault("uid", str(uuid.uuid4()))
        body["metadata"].setdefault("creationTimestamp", now())
        return self.put(plural, body)

    def put(self, plural: str, body: Body) -> Body:
        """Keep what an object has become; the object that is kept now, to read."""
        kind = KINDS[plural]
        body = {"kind": kind.name, "apiVersion": kind.group_version, **copy.deepcopy(body)}
        key = (plural, body["metadata"].get("namespace", ""), body["metadata"]["name"])
        before = self._objects.get(key)
        self._objects[key] = self._record("MODIFIED" if before else "ADDED", plural, body, before)
        return body

    def delete(self, plural: str, namespace: str, name: str) -> None:
        """Drop an object; nothing where it is gone already."""
        if body := self._objects.pop((plural, namespace, name), None):
            self._record("DELETED", plural, copy.deepcopy(body), body)

    def forget(self) -> None:
        """Compact the log: a watch from any resourceVersion before this moment is answered 410."""
        self._log.clear()
        self._forgotten = self.version

    def since(self, version: int, plural: str, namespace: str, picks: Selector) -> list[Change]:
        """The changes after `version` to what `picks`, as its watcher sees them: what ceases to match is DELETED.

        Raises:
            Expired: the log does not reach back to `version`.
        """
        if version < self._oldest:
            raise Expired
        seen = []
        for change in self._log:
            here = change.plural == plural and namespace in ("", change.body["metadata"].get("namespace", ""))
            if change.version <= version or not here:
                continue
            matched = change.before is not None and picks(change.before)
            matches = change.type != "DELETED" and picks(change.body)
            if matches or matched:
                kind = "MODIFIED" if matches and matched else "ADDED" if matches else "DELETED"
                seen.append(Change(change.version, kind, plural, change.body, change.before))
        return seen

    async def changed(self, timeout: float) -> None:
        """Wait for the next change, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()

    @property
    def _oldest(self) -> int:
        """The oldest resourceVersion from which a watch can go on."""
        return self._log[0].version - 1 if len(self._log) == _LOG_LENGTH else self._forgotten

    def _record(self, kind: str, plural: str, body: Body, before: Body | None) -> Body:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self._log.append(Change(self.version, kind, plural, body, before))
        self._changed.set()
        self._changed = asyncio.Event()
        return body


def now(delay: float = 0.0) -> str:
    """The time in `delay` seconds, as the API writes it."""
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=delay)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
