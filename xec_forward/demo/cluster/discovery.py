"""The documents by which a client finds out what the API server has: versions, groups, resources."""

from __future__ import annotations

from .kinds import GROUP_VERSIONS, KINDS, Body, Kind


def version(name: str) -> Body:
    """`/version` of a server of that minor version, "1.36"."""
    major, _, minor = name.partition(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"v{name}.0",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "gc",
        "platform": "linux/amd64",
    }


def core_versions(address: str) -> Body:
    """`/api`."""
    route = {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [route]}


def groups() -> Body:
    """`/apis`."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in GROUP_VERSIONS]}


def resources(group_version: str) -> Body | None:
    """`/api/v1`, `/apis/apps/v1` and so on; None for a group that is not here."""
    found = [_resource(kind) for kind in KINDS.values() if kind.group_version == group_version]
    if group_version == "v1":
        verbs = ["create", "get"]
        found.append(
            {"name": "pods/portforward", "singularName": "", "namespaced": True, "kind": "PodPortForwardOptions"}
        )
        found[-1]["verbs"] = verbs
    elif group_version == "authorization.k8s.io/v1":
        review = {"name": "selfsubjectaccessreviews", "singularName": "selfsubjectaccessreview", "namespaced": False}
        found.append(review | {"kind": "SelfSubjectAccessReview", "verbs": ["create"]})
    if not found:
        return None
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": found}


def _group(group_version: str) -> Body:
    name, _, number = group_version.rpartition("/")
    entry = {"groupVersion": group_version, "version": number}
    return {"name": name, "versions": [entry], "preferredVersion": entry}


def _resource(kind: Kind) -> Body:
    row: Body = {
        "name": kind.plural,
        "singularName": kind.name.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.name,
        "verbs": list(kind.verbs),
    }
    return row | {"shortNames": list(kind.short)} if kind.short else row
