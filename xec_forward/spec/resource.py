"""RESOURCE: what a Kubernetes port-forward leads to. Ground floor, no I/O.

    RESOURCE = KIND "/" NAME | NAME            a bare name is a pod's, as in kubectl
             | SELECTOR                        after -l or --selector: a label selector
    KIND     = pod svc deploy sts rs ds job, and kubectl's other names of them: pods, po, service, services, ...

Written out again (`str`) it is the short form that names the far end everywhere: `svc/postgres`, `-l app=api`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from ..errors import SpecError
from .words import quote

__all__ = ["Resource", "ResourceKind", "parse_resource", "parse_selector", "resource_word"]


class ResourceKind(StrEnum):
    """The kinds that lead to pods, by kubectl's short names."""

    POD = "pod"
    SERVICE = "svc"
    DEPLOYMENT = "deploy"
    STATEFUL_SET = "sts"
    REPLICA_SET = "rs"
    DAEMON_SET = "ds"
    JOB = "job"
    SELECTOR = "-l"

    @property
    def word(self) -> str:
        """The kind in a sentence: `service`, `statefulset`."""
        return _WORDS[self]


_WORDS = {
    ResourceKind.POD: "pod",
    ResourceKind.SERVICE: "service",
    ResourceKind.DEPLOYMENT: "deployment",
    ResourceKind.STATEFUL_SET: "statefulset",
    ResourceKind.REPLICA_SET: "replicaset",
    ResourceKind.DAEMON_SET: "daemonset",
    ResourceKind.JOB: "job",
    ResourceKind.SELECTOR: "selector",
}

# As `kubectl api-resources` lists them: singular, plural, short.
_KINDS = {
    name: kind
    for kind, names in {
        ResourceKind.POD: "pod pods po",
        ResourceKind.SERVICE: "service services svc",
        ResourceKind.DEPLOYMENT: "deployment deployments deploy deployment.apps deployments.apps",
        ResourceKind.STATEFUL_SET: "statefulset statefulsets sts statefulset.apps statefulsets.apps",
        ResourceKind.REPLICA_SET: "replicaset replicasets rs replicaset.apps replicasets.apps",
        ResourceKind.DAEMON_SET: "daemonset daemonsets ds daemonset.apps daemonsets.apps",
        ResourceKind.JOB: "job jobs job.batch jobs.batch",
    }.items()
    for name in names.split()
}

_FORMS = "Write svc/postgres, deploy/api, or a pod's name"

# RFC 1123 subdomain, which the names of all these kinds are.
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


# A selector's first requirement: its key, and its value where it has one.
_FIRST = re.compile(r"\s*!?\s*([\w./-]+)\s*(?:==?\s*([\w.-]+))?")


@dataclass(frozen=True, slots=True)
class Resource:
    """What a port-forward leads to; `name` is the selector's text where the kind is SELECTOR."""

    kind: ResourceKind
    name: str

    def __str__(self) -> str:
        return f"-l {self.name}" if self.kind is ResourceKind.SELECTOR else f"{self.kind}/{self.name}"

    @property
    def label(self) -> str:
        """What tells it from others in a name: its name; of a selector the first value, or the first key.

        >>> Resource.of("-l app.kubernetes.io/name=api,tier!=cache").label
        'api'
        """
        if self.kind is not ResourceKind.SELECTOR:
            return self.name
        found = _FIRST.match(self.name)
        return (found[2] or found[1].rpartition("/")[2]) if found else self.name

    @classmethod
    def stands_in(cls, host: str) -> bool:
        """Whether the host of an endpoint is a RESOURCE: no host name has a slash, or a space."""
        return "/" in host or host.startswith("-l ")

    @classmethod
    def of(cls, text: str) -> Resource:
        """What `str` wrote; raises SpecError."""
        if text.startswith("-l "):
            return parse_selector(text[3:])
        return parse_resource(text)


def parse_resource(word: str) -> Resource:
    """Read KIND/NAME, or a pod's NAME.

    >>> str(parse_resource("services/postgres")), str(parse_resource("web-0"))
    ('svc/postgres', 'pod/web-0')

    Raises:
        SpecError: it is neither.
    """
    kind_name, slash, name = word.partition("/")
    if "@" in word or "://" in word:
        # Said before any part is quoted: they may be a user and a password.
        hint = "Write svc/postgres 5432 --dsn URL" if "://" in word else _FORMS
        raise SpecError(f"{quote(word)} stands where a RESOURCE is expected", hint=hint)
    if not slash:
        kind_name, name = "pod", word
        if word.lower() in _KINDS:
            hint = f"Write {word.lower()}/NAME; a pod that is named so is pod/{word.lower()}"
            raise SpecError(f"{quote(word)}: a name is missing", hint=hint)
    kind = _KINDS.get(kind_name.lower())
    if kind is not None and _NAME.fullmatch(name):
        return Resource(kind, name)
    fix = _mend(word)
    if kind is None and slash:
        near = get_close_matches(kind_name.lower()[:40], _KINDS, n=1, cutoff=0.5)
        kinds = ", ".join(list(ResourceKind)[:-1])
        hint = fix or f"Write {near[0] if near else 'svc'}/{_plain(name) or 'NAME'}; the kinds are {kinds}"
        raise SpecError(f"{quote(word)}: there is no kind {quote(kind_name)} that leads to pods", hint=hint)
    raise SpecError(
        f"{quote(word)}: {'a name is missing' if not name else 'that is no name of a resource'}",
        hint=fix or _FORMS,
    )


def resource_word(word: str) -> str:
    """The word as `str` writes it where it is KIND/NAME, else ""."""
    kind, slash, name = word.partition("/")
    if slash and kind.lower() in _KINDS and _NAME.fullmatch(name):
        return f"{_KINDS[kind.lower()]}/{name}"
    return ""


def _mend(word: str) -> str:
    """The nearest form that fits, for the hint; "" where none is near."""
    front, equals, rest = word.partition("=")
    resource, colon, port = rest.partition(":") if equals else word.partition(":")
    if found := resource_word(resource):
        # NAME= stands before a PORT, and a PORT is a word of its own.
        port = port if re.fullmatch("[a-z0-9:-]+", port) else "5432"
        return f"Write {found} {f'{front}=' if front.isidentifier() else ''}{port}" if equals or colon else ""
    if re.fullmatch(r"[\w.,=!()/ -]*=[\w.,=!()/ -]*", word) and not (equals and front.isidentifier() and "/" in rest):
        return f"A label selector is written -l {word if ' ' not in word else repr(word)}"
    lower = resource_word(word.lower()) or (f"pod/{word.lower()}" if _NAME.fullmatch(word.lower()) else "")
    return f"Write {lower}: such names are in lower case" if lower and word != word.lower() else ""


def _plain(name: str) -> str:
    """A name as a hint may repeat it."""
    return name if _NAME.fullmatch(name) else ""


# Set-based and equality-based requirements (Kubernetes documentation, "Labels and Selectors").
_SELECTOR = re.compile(r"[\w./!=, ()-]+")


def parse_selector(text: str) -> Resource:
    """Read a label selector, `app=api,tier!=cache`. The API server has the last word on it.

    Raises:
        SpecError: it holds characters that no selector has.
    """
    text = text.strip()
    if not text or not _SELECTOR.fullmatch(text):
        raise SpecError(f"-l {quote(text)} is no label selector", hint="Write -l app=api, or -l 'app=api,tier!=cache'")
    return Resource(ResourceKind.SELECTOR, text)
