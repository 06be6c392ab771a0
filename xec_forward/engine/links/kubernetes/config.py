"""The kubeconfig: from a ClusterTarget to one context with its cluster and its user.

Files are found and merged by kubectl's rules ("Organizing Cluster Access Using kubeconfig Files"): `--kubeconfig`
alone, else the list in KUBECONFIG, else ~/.kube/config; files of a list that are not there are skipped; the first file
to name a context, a cluster, a user or the current context wins, and what later files say of it is left aside. Relative
paths are relative to the file that holds them. Where there is no file at all, and a pod's own service account is,
that is the context (`in-cluster`).

Everything here reads files: call it in a thread. The texts of these files are secrets; an error shows names and places.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ....errors import ConfigError
from ....options import ClusterTarget

DEFAULT_FILE = "~/.kube/config"
IN_CLUSTER = "in-cluster"
# Where a pod finds its service account ("Accessing the Kubernetes API from a Pod").
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_LARGEST = 16 << 20  # bytes of a kubeconfig; those of a thousand clusters have three
_SHOWN = 12  # names in a hint
_PATHS = {"clusters": ("certificate-authority",), "users": ("client-certificate", "client-key", "tokenFile")}
# The files whose content a connection is made with; that of a token is read again from time to time.
_LASTING = ("certificate-authority", "client-certificate", "client-key")
# Of this process alone: what a secret's digest is could be looked up otherwise.
_DIGEST_KEY = os.urandom(32)

Section = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """One context of a kubeconfig; paths in it are absolute.

    Attributes:
        name: the context's name, `in-cluster` for a pod's own service account.
        namespace: the one asked for, else the context's own, else default.
        cluster: its entry: server, certificate-authority, proxy-url, tls-server-name and the like.
        user: its entry: token, exec, client-certificate and the like. Holds secrets.
        user_name: the name of that entry, for messages.
        file: where the user's entry was read from, for messages.
        state: what the two entries say, and the dates of the certificates that they name; without their secrets.
    """

    name: str
    namespace: str
    cluster: Section = field(repr=False)
    user: Section = field(repr=False)
    user_name: str
    file: str
    state: Hashable = field(default=(), repr=False)


@dataclass(slots=True)
class Kubeconfig:
    """The files of a list, merged. Each entry comes with the file that it was read from.

    Attributes:
        files: those that were read, in order.
        current: the name of the current context, or "".
    """

    files: tuple[str, ...]
    current: str = ""
    contexts: dict[str, tuple[Section, str]] = field(default_factory=dict, repr=False)
    clusters: dict[str, tuple[Section, str]] = field(default_factory=dict, repr=False)
    users: dict[str, tuple[Section, str]] = field(default_factory=dict, repr=False)


def identity(target: ClusterTarget, context: Context) -> Hashable:
    """What makes two clusters the same, whatever the namespace: the files, the context, and what it says by now.

    Whatever the target was written like: the current context is another one as soon as somebody says so.
    """
    return (_named(target), context.name, context.state)


def load(target: ClusterTarget) -> Context:
    """The context that `target` means. Reads files.

    Raises:
        ConfigError: no kubeconfig, one that cannot be read, or no such context, cluster or user in it.
    """
    files = _existing(target)
    if not files and not target.kubeconfig and os.environ.get("KUBERNETES_SERVICE_HOST"):
        if target.context not in ("", IN_CLUSTER):
            hint = "Leave --context out to use the pod's service account, or name a file with --kubeconfig"
            raise ConfigError(f"there is no kubeconfig, and so no context {target.context}", hop=target.host, hint=hint)
        return _in_cluster(target)
    if not files:
        where = ", ".join(map(shown, _named(target)))
        hint = "Name one with --kubeconfig FILE, or in KUBECONFIG"
        raise ConfigError(f"there is no kubeconfig: looked for {where}", hop=target.host, hint=hint)
    return choose(read(files, hop=target.host), target)


def contexts(target: ClusterTarget) -> list[str]:
    """The names of the contexts that there are; none where there is no kubeconfig. Reads files. Raises ConfigError."""
    return sorted(read(_existing(target), hop=target.host).contexts)


def read(files: tuple[str, ...], *, hop: str) -> Kubeconfig:
    """Read and merge files that exist. Raises ConfigError with the file and the place in it."""
    merged = Kubeconfig(files)
    for file in files:
        document = _parse(file, hop)
        merged.current = merged.current or str(document.get("current-context") or "")
        _merge(merged.contexts, document, "contexts", "context", file, hop)
        _merge(merged.clusters, document, "clusters", "cluster", file, hop)
        _merge(merged.users, document, "users", "user", file, hop)
    return merged


def choose(merged: Kubeconfig, target: ClusterTarget) -> Context:
    """One context with the entries that it names. Raises ConfigError, which names those that there are."""
    where = ", ".join(map(shown, merged.files))
    name = target.context or merged.current
    if not name:
        hint = f"Name one with --context: {_list(merged.contexts)}" if merged.contexts else ""
        raise ConfigError(f"no current context is set in {where}", hop=target.host, hint=hint)
    context, file = _find(merged.contexts, "context", name, where, target.host)
    cluster_name, user_name = str(context.get("cluster") or ""), str(context.get("user") or "")
    if not cluster_name:
        raise ConfigError(f"the context {name} names no cluster", hop=name, hint=f"Add cluster: to it in {shown(file)}")
    cluster, cluster_file = _find(merged.clusters, "cluster", cluster_name, where, name)
    if not cluster.get("server"):
        hint = f"Add server: https://HOST:PORT to it in {shown(cluster_file)}"
        raise ConfigError(f"the cluster {cluster_name} names no server", hop=name, hint=hint)
    user: Section = {}
    if user_name:
        user, file = _find(merged.users, "user", user_name, where, name)
    return Context(
        name=name,
        namespace=target.namespace or str(context.get("namespace") or "") or "default",
        cluster=cluster,
        user=user,
        user_name=user_name,
        file=file,
        state=_state(cluster, user),
    )


def shown(path: str | Path) -> str:
    """A path as a message shows it."""
    text, home = str(path), os.path.expanduser("~")
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text


def _named(target: ClusterTarget) -> tuple[str, ...]:
    """The files to look for, whether or not they exist."""
    if target.kubeconfig:
        names = [target.kubeconfig]
    elif target.files:
        names = list(target.files)
    else:
        names = [name for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name] or [DEFAULT_FILE]
    return tuple(dict.fromkeys(os.path.abspath(os.path.expanduser(name)) for name in names))


def _existing(target: ClusterTarget) -> tuple[str, ...]:
    return tuple(name for name in _named(target) if os.path.exists(name))


def _in_cluster(target: ClusterTarget) -> Context:
    """The service account of the pod that we run in, in the form of a kubeconfig's context."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT") or "443"
    token, authority = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt"
    if not token.exists():
        hint = "Is automountServiceAccountToken off for this pod? Else name a kubeconfig with --kubeconfig FILE"
        raise ConfigError(f"this pod has no service account token at {token}", hop=IN_CLUSTER, hint=hint)
    try:
        namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        namespace = ""
    cluster = {
        "server": f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        "certificate-authority": str(authority),
    }
    user = {"tokenFile": str(token)}
    return Context(
        name=IN_CLUSTER,
        namespace=target.namespace or namespace or "default",
        cluster=cluster,
        user=user,
        user_name="the pod's service account",
        file=str(token),
        state=_state(cluster, user),
    )


def _state(cluster: Section, user: Section) -> Hashable:
    """See `Context.state`."""
    said = json.dumps([cluster, user], sort_keys=True, default=str).encode()
    parts: list[Hashable] = [hashlib.blake2b(said, key=_DIGEST_KEY).digest()]
    for path in (str(entry[key]) for entry in (cluster, user) for key in _LASTING if entry.get(key)):
        try:
            status = os.stat(path)
        except OSError:
            parts.append(path)
        else:
            parts.append((path, status.st_mtime_ns, status.st_size))
    return tuple(parts)


def _parse(file: str, hop: str) -> dict[str, Any]:
    hint = "Mend it, or name another file with --kubeconfig FILE"
    try:
        with open(file, "rb") as stream:
            text = stream.read(_LARGEST + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{shown(file)} cannot be read: {reason}", hop=hop, hint=hint) from error
    if len(text) > _LARGEST:
        raise ConfigError(f"{shown(file)} is too large for a kubeconfig", hop=hop, hint=hint)
    try:
        # libyaml's loader is ten times as fast, and not built in everywhere.
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # The parser's own words may quote the line, and the line may hold a token: only the place is said.
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{shown(file)}{place}: this is not valid YAML", hop=hop, hint=hint) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{shown(file)} is not a kubeconfig: it holds no mapping", hop=hop, hint=hint)
    return document


def _merge(
    into: dict[str, tuple[Section, str]], document: Section, section: str, key: str, file: str, hop: str
) -> None:
    """Take over the entries of one section whose names are not there yet."""
    entries = document.get(section) or []
    hint = "Mend it, or name another file with --kubeconfig FILE"
    if not isinstance(entries, list):
        raise ConfigError(f"{shown(file)}: {section} is not a list", hop=hop, hint=hint)
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or entry.get("name") is None:
            raise ConfigError(f"{shown(file)}: entry {number} of {section} has no name", hop=hop, hint=hint)
        name = str(entry["name"])
        value = entry.get(key) or {}
        if not isinstance(value, dict):
            raise ConfigError(f"{shown(file)}: {key} of {name} in {section} is no mapping", hop=hop, hint=hint)
        into.setdefault(name, (_absolute(value, section, file), file))


def _absolute(entry: Section, section: str, file: str) -> Section:
    """The entry with paths that do not depend on the file that it stands in."""
    folder = os.path.dirname(file)
    resolved = dict(entry)
    for key in _PATHS.get(section, ()):
        if entry.get(key):
            resolved[key] = os.path.join(folder, os.path.expanduser(str(entry[key])))
    program = entry.get("exec")
    if section == "users" and isinstance(program, dict) and "/" in str(program.get("command") or ""):
        resolved["exec"] = {**program, "command": os.path.join(folder, str(program["command"]))}
    return resolved


def _find(
    entries: Mapping[str, tuple[Section, str]], kind: str, name: str, where: str, hop: str
) -> tuple[Section, str]:
    if name in entries:
        return entries[name]
    near = get_close_matches(name[:100], entries, n=1, cutoff=0.5)
    hints = [f"The nearest is {near[0]}"] if near else []
    hints.append(f"there are {_list(entries)}" if entries else f"there is no {kind} at all")
    hint = "; ".join(hints)
    raise ConfigError(f"there is no {kind} {name} in {where}", hop=hop, hint=hint[0].upper() + hint[1:])


def _list(names: Mapping[str, object]) -> str:
    few = sorted(names)[:_SHOWN]
    more = len(names) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")
