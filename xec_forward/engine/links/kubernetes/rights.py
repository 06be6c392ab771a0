"""What a port-forward needs of RBAC, and whether the user may: asked verb by verb, by SelfSubjectAccessReview.

    pods/portforward    `create`; up to 1.34 `get` will do too, by which a WebSocket is asked for (an upgrade by POST
                        needs `create` alone, from every server)
    the resource        `get`
    pods                of a pod `get`; of everything else `list`. `watch` only saves asking again each second

A review creates nothing: its answer is all there is of it ("Authorization Overview", "Checking API access").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ....errors import ForwardError, RbacError
from ....spec import Resource, ResourceKind
from ..chart import Chart, Halt
from .api import Api
from .failures import Answer

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
# From this minor version on a WebSocket needs `create` beside `get`.
_CREATE = 35


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource; `spare` says why one can do without it, "" where one cannot."""

    verb: str
    resource: str
    subresource: str = ""
    group: str = ""
    name: str = ""
    spare: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f"/{self.subresource}" if self.subresource else "")


def needed(resources: Iterable[Resource]) -> list[Right]:
    """What resolution needs, each once; of these kinds, in a namespace."""
    found: list[Right] = []
    for resource in resources:
        kind, watch = resource.kind, "they are asked for again each second instead"
        if kind is ResourceKind.POD:
            found += [Right("get", "pods", name=resource.name)]
            found += [
                Right("list", "pods", spare="the one pod is asked for instead"),
                Right("watch", "pods", spare=watch),
            ]
            continue
        if kind is not ResourceKind.SELECTOR:
            found.append(Right("get", f"{kind.word}s", group=_GROUPS.get(kind, "apps"), name=resource.name))
        found += [Right("list", "pods"), Right("watch", "pods", spare=watch)]
    unspared = {(right.verb, right.resource) for right in found if not right.spare}
    return list(
        dict.fromkeys(right for right in found if not (right.spare and (right.verb, right.resource) in unspared))
    )


_GROUPS = {ResourceKind.SERVICE: "", ResourceKind.JOB: "batch"}


async def examine(api: Api, user: str, resources: Sequence[Resource], minor: int | None, chart: Chart) -> None:
    """The stage "permission": a tick or a cross for each right.

    Args:
        user: as whom the server takes us, for messages.
        minor: of the server's version, None where it is not known.

    Raises:
        Halt: something is not allowed that a port-forward cannot do without.
        ForwardError: the API server does not answer.
    """
    chart.begin(api.server, "permission")
    # A role may be for pods of certain names; of other resources the pod's name is not known yet.
    pods = [resource.name for resource in resources if resource.kind is ResourceKind.POD]
    pod = pods[0] if len(pods) == len(resources) == 1 else ""
    get, create = (Right(verb, "pods", "portforward", name=pod) for verb in ("get", "create"))
    try:
        allowed = {right: await _ask(api, right) for right in [get, create, *needed(resources)]}
    except ForwardError as error:
        # A review may be refused itself: then what needs the right will tell.
        if not isinstance(error.__cause__, Answer) or error.__cause__.status not in (403, 404, 405):
            raise
        chart.skipped(api.server, "permission", f"the API server does not say: {error.message}")
        return
    lacking: list[Right] = []
    lines: list[str] = []
    for right, may in allowed.items():
        spare = right.spare
        if right is get and allowed[create]:
            spare = "an upgrade by POST needs create alone"
        elif right is create and allowed[get] and minor is not None and minor < _CREATE:
            spare = f"servers before 1.{_CREATE} ask for get alone"
        elif right is get and minor is not None and minor >= _CREATE:
            spare = "create alone would do"
        if not may and not spare:
            lacking.append(right)
        lines.append(f"✓ {right}" if may else f"✗ {right}" + (f": {spare}" if spare else ""))
    if not lacking:
        chart.passed(f"{user} may do what is needed in the namespace {api.namespace}", *lines)
        return
    named = ", ".join(dict.fromkeys(map(str, lacking)))
    message = f"{user} may not {named} in the namespace {api.namespace}"
    hint = f"Ask whoever runs the cluster for a Role in {api.namespace} that allows: {named}"
    chart.failed(RbacError(message, hop=api.server, hint=hint), *lines)
    raise Halt


async def _ask(api: Api, right: Right) -> bool:
    asked = {
        "namespace": api.namespace,
        "verb": right.verb,
        "group": right.group,
        "resource": right.resource,
        "subresource": right.subresource,
        "name": right.name,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }
    return (await api.post(_REVIEWS, review)).get("status", {}).get("allowed") is True
