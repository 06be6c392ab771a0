"""The objects of one list, as they are and as they change: list, then watch ("Kubernetes API Concepts", "Efficient
detection of changes").

A watch that ends in order goes on where it stopped; one whose version has expired (410) or that broke begins with a new
list. Where the user may not watch, the list is asked for again and again, and where they may not list, the one object.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from ....errors import (
    DeadlineError,
    ForwardError,
    LostError,
    NameNotFoundError,
    RbacError,
    RefusedError,
    UnreachableError,
)
from .api import Expired
from .failures import Answer
from .objects import Object

# The pause after a failure, seconds; doubled up to the longest, with jitter.
FIRST, LONGEST = 0.25, 5.0
# A server ends a watch after this long, seconds, and one that is silent for longer than that is dead.
WATCH, GRACE = 60, 15.0
# Between two looks where watching is forbidden, seconds.
POLL = 1.0
# What a restart of the API server, or of the way to it, looks like.
PASSING = (LostError, UnreachableError, RefusedError, DeadlineError)


class Api(Protocol):
    """What resolution needs of the API server's client."""

    @property
    def namespace(self) -> str: ...

    async def get(self, path: str, **params: str) -> Object: ...

    def watch(self, path: str, *, resource_version: str, **params: str) -> AsyncGenerator[dict[str, Any], None]: ...


def is_absent(error: ForwardError) -> bool:
    """Whether the API server itself says that it has no such object (the server's own name may not resolve either)."""
    return isinstance(error.__cause__, Answer) and error.__cause__.status == 404 and "name" in error.__cause__.details


def _ignore(error: ForwardError) -> None:
    pass


async def snapshots(
    api: Api,
    path: str,
    *,
    name: str = "",
    selector: str = "",
    patient: bool = False,
    poll: float = POLL,
    troubled: Callable[[ForwardError], None] = _ignore,
) -> AsyncGenerator[dict[str, Object], None]:
    """All the objects of a list by name, at once and after each change; endless. Close it (`aclosing`).

    What it yields is one mapping, changed in place.

    Args:
        path: of the list.
        name: only the object of that name; then permission to get it is enough.
        selector: only those with these labels.
        patient: every error passes, also the first; else the first list's errors are raised, and later on those
            that a restart of the server does not explain.
        poll: seconds between two looks where watching is forbidden.
        troubled: told of each error that is waited out.

    Raises:
        ForwardError: what the API raises, see `patient`.
    """
    selection = {"labelSelector": selector} if selector else {}
    if name:
        selection["fieldSelector"] = f"metadata.name={name}"
    passing: tuple[type[ForwardError], ...] = (ForwardError,) if patient else ()
    watching, pause = True, FIRST
    while True:
        try:
            objects, version = await _list(api, path, name, selection)
        except passing as error:
            troubled(error)
            pause = await _back_off(pause)
            continue
        passing = passing or PASSING
        yield objects
        if not watching or not version:
            await asyncio.sleep(poll)
            continue
        try:
            async with aclosing(_changes(api, path, objects, version, selection)) as changes:
                async for changed in changes:
                    pause = FIRST
                    yield changed
        except Expired:
            pause = await _back_off(pause)
        except RbacError:
            watching = False
        except passing as error:
            troubled(error)
            pause = await _back_off(pause)


async def _list(api: Api, path: str, name: str, selection: dict[str, str]) -> tuple[dict[str, Object], str]:
    """The objects by name, and the version to watch from; "" where only one object may be asked for."""
    try:
        found = await api.get(path, **selection)
    except RbacError:
        if not name:
            raise
        try:
            return {name: await api.get(f"{path}/{name}")}, ""
        except NameNotFoundError as error:
            if not is_absent(error):
                raise
            return {}, ""
    objects = {item["metadata"]["name"]: item for item in found.get("items") or ()}
    return objects, str(found["metadata"]["resourceVersion"])


async def _changes(
    api: Api, path: str, objects: dict[str, Object], version: str, selection: dict[str, str]
) -> AsyncGenerator[dict[str, Object], None]:
    """The objects after each change; from one watch to the next."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        events = api.watch(
            path, resource_version=version, allowWatchBookmarks="true", timeoutSeconds=str(WATCH), **selection
        )
        async with aclosing(events):
            while True:
                try:
                    async with asyncio.timeout(WATCH + GRACE):
                        event = await anext(events)
                except StopAsyncIteration:
                    break
                except ForwardError:
                    raise  # a DeadlineError is a TimeoutError too
                except TimeoutError:
                    raise LostError("the API server's watch has fallen silent") from None
                changed = event["object"]
                version = str(changed["metadata"]["resourceVersion"])
                if event["type"] == "BOOKMARK":
                    continue
                if event["type"] == "DELETED":
                    objects.pop(changed["metadata"]["name"], None)
                else:
                    objects[changed["metadata"]["name"]] = changed
                yield objects
        if loop.time() - began < 1.0:
            # Something on the way cuts watches short: no hurry with the next.
            await asyncio.sleep(FIRST * 2)


async def _back_off(pause: float) -> float:
    """Wait; the next pause."""
    await asyncio.sleep(pause * random.uniform(0.7, 1.0))
    return min(pause * 2, LONGEST)
