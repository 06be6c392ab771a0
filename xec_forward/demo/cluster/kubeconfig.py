"""Kubeconfig files for the cluster, in the shapes that users have: tokens, certificates, plugins, several contexts."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Context:
    """One context of a kubeconfig, with a cluster and a user of its own under the same name.

    Attributes:
        name: of the three of them.
        namespace: the context's, "" for none.
        user: whose credentials: a user of the cluster, as RBAC knows it.
        auth: "token", "certificate", "token-file", "none", or the user's entry itself (`{"exec": ...}`).
        cluster: what to add to the cluster's entry or to change in it (`{"proxy-url": ...}`).
    """

    name: str = "demo"
    namespace: str = "default"
    user: str = "admin"
    auth: str | Mapping[str, Any] = "token"
    cluster: Mapping[str, Any] = field(default_factory=dict)


def document(
    contexts: Sequence[tuple[Context, Mapping[str, Any]]], server: str, authority: bytes, current: str | None
) -> dict[str, Any]:
    """A kubeconfig: contexts, each with its user's entry; `current` None is the first, "" sets none."""
    entry = {"server": server, "certificate-authority-data": encoded(authority)}
    rows = []
    for context, _ in contexts:
        row = {"cluster": context.name, "user": context.name}
        rows.append(
            {"name": context.name, "context": row | ({"namespace": context.namespace} if context.namespace else {})}
        )
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": contexts[0][0].name if current is None else current,
        "clusters": [
            {"name": context.name, "cluster": _without_none({**entry, **context.cluster})} for context, _ in contexts
        ],
        "users": [{"name": context.name, "user": dict(user)} for context, user in contexts],
        "contexts": rows,
    }


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a kubeconfig; JSON is YAML too."""
    write_private(path, json.dumps(content, indent=2) + "\n")


def encoded(text: bytes) -> str:
    """base64, as `...-data` fields have it."""
    return base64.b64encode(text).decode()


def _without_none(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}
