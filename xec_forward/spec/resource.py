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

__all__ = ["Resource", "ResourceKind", "parse_resource", "parse_selector"]


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

# RFC 1123 subdomain, which the names of all these kinds are.
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Resource:
    """What a port-forward leads to; `name` is the selector's text where the kind is SELECTOR."""

    kind: ResourceKind
    name: str

    def __str__(self) -> str:
        return f"-l {self.name}" if self.kind is ResourceKind.SELECTOR else f"{self.kind}/{self.name}"

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
    if not slash:
        kind_name, name = "pod", word
    kind = _KINDS.get(kind_name.lower())
    if kind is None:
        near = get_close_matches(kind_name.lower()[:40], _KINDS, n=1, cutoff=0.5)
        kinds = ", ".join(list(ResourceKind)[:-1])
        hint = f"Write {near[0] if near else 'svc'}/{name or 'NAME'}; the kinds are {kinds}"
        raise SpecError(f"{quote(word)}: there is no kind {quote(kind_name)} that leads to pods", hint=hint)
    if not _NAME.fullmatch(name):
        if not slash and re.fullmatch(r"[\w.,=!()/ -]*=[\w.,=!()/ -]*", word):
            raise SpecError(f"{quote(word)} is no resource", hint=f"A label selector is written -l {word}")
        raise SpecError(
            f"{quote(word)}: {'a name is missing' if not name else 'that is no name of a resource'}",
            hint="Write svc/postgres, deploy/api, or a pod's name",
        )
    return Resource(kind, name)


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
