"""What to say of an object that is not there: what the user may have meant, from what they may see.

Each look is one request, all at once and within a short time of their own. A look that is refused says nothing.
"""

from __future__ import annotations

import asyncio
from difflib import get_close_matches

from ....errors import ForwardError, NameNotFoundError
from ....spec import Resource, ResourceKind
from .objects import Object, path
from .watch import Api, is_absent

# Seconds for all the looks together, and how many names are asked for and shown.
_LOOK = 3.0
_MOST = 500
_SHOWN = 8
# A bare name is a pod's, and often meant one of these.
_ALSO = (ResourceKind.SERVICE, ResourceKind.DEPLOYMENT, ResourceKind.STATEFUL_SET, ResourceKind.POD)


async def not_found(api: Api, resource: Resource) -> NameNotFoundError:
    """The error for an object that the namespace has not: with the fix, and the names that do exist, nearest first."""
    kind, name, namespace = resource.kind, resource.name, api.namespace
    others = [other for other in _ALSO if other is not kind]
    anywhere = {"fieldSelector": f"metadata.name={name}", "limit": "20"}
    looks = [
        asyncio.create_task(_look(api, f"/api/v1/namespaces/{namespace}")),
        asyncio.create_task(_look(api, path(kind, namespace), limit=str(_MOST))),
        asyncio.create_task(_look(api, path(kind), **anywhere)),
        *(asyncio.create_task(_look(api, path(other, namespace, name))) for other in others),
    ]
    try:
        await asyncio.wait(looks, timeout=_LOOK)
    finally:
        for look in looks:
            look.cancel()
        seen = await asyncio.gather(*looks, return_exceptions=True)
    space, here, elsewhere, *also = [each if isinstance(each, dict) else None for each in seen]
    if space == {}:
        return await _no_namespace(api)
    meant = [other for other, found in zip(others, also, strict=True) if found]
    spaces = sorted({str(item["metadata"]["namespace"]) for item in _items(elsewhere)} - {namespace})
    names = nearest(name, [str(item["metadata"]["name"]) for item in _items(here)])
    if meant:
        hint = f"Write {meant[0]}/{name}, which exists"
    elif spaces:
        hint = f"Write -n {spaces[0]}, where it is" + (f"; also in {_listed(spaces[1:])}" if spaces[1:] else "")
    elif names:
        hint = f"Those there are: {_listed(names)}"
    else:
        hint = f"The namespace has no {kind.word} at all; name another with -n" if here else "Check it, and -n"
    return NameNotFoundError(
        f"there is no {kind.word} {name} in the namespace {namespace}", hop=str(resource), hint=hint
    )


async def check_namespace(api: Api) -> None:
    """Raises NameNotFoundError where the namespace itself is known not to be there: a list of it is just empty."""
    if await _look(api, f"/api/v1/namespaces/{api.namespace}") == {}:
        raise await _no_namespace(api)


async def _no_namespace(api: Api) -> NameNotFoundError:
    """The namespace itself is not there."""
    try:
        async with asyncio.timeout(_LOOK):
            found = await _look(api, "/api/v1/namespaces", limit=str(_MOST))
    except TimeoutError:
        found = None
    names = nearest(api.namespace, [str(item["metadata"]["name"]) for item in _items(found)])
    hint = f"Write -n {names[0]}; those there are: {_listed(names)}" if names else "Name one that exists with -n"
    return NameNotFoundError(f"there is no namespace {api.namespace}", hop=f"-n {api.namespace}", hint=hint)


async def _look(api: Api, where: str, **params: str) -> Object | None:
    """What is there; {} where nothing is, None where that cannot be told."""
    try:
        return await api.get(where, **params)
    except ForwardError as error:
        return {} if is_absent(error) else None


def _items(found: Object | None) -> list[Object]:
    return list((found or {}).get("items") or ())


def nearest(name: str, names: list[str]) -> list[str]:
    """Names, those likeliest meant first: that begin with it, that resemble it, the rest."""
    first = sorted(each for each in names if each.startswith(f"{name}-"))
    close = get_close_matches(name, names, n=_SHOWN, cutoff=0.5)
    return list(dict.fromkeys([*first, *close, *sorted(names)]))


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
