"""What may be written at a place of a line, for completion. Files are read; nothing else is waited for.

TARGET, --proxy        hosts of ssh_config;  @ the profiles and groups of the project file
RESOURCE, PORT         kinds, then what the cluster has
options                those that are not given yet; their values: choices, SOURCEs, files, contexts, namespaces
--close, --reconnect   the tunnels and groups that are open
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import ForwardError
from ..line import KUBERNETES, SSH, Profile
from ..line.flags import Flag
from ..model import Listing
from ..options import ClusterTarget
from ..services import PORTS
from ..source import SourceKind
from ..spec import Resource, ResourceKind, parse_resource, parse_selector, parse_target
from .completion_cluster import ClusterNames
from .completion_hosts import hosts
from .completion_place import ACTIONS, NAMING, Place, find, place_in

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..client.project import Project

_MOST_FILES = 2000
# What a shell, and IPython's expansion, would take for something else.
_SPECIAL = re.compile(r"([\s'\"\\#$&;()<>|*?`{}])")


@dataclass(frozen=True, slots=True)
class Words:
    """What may stand in the place of `fragment`, the end of what is written; `kind` is shown beside it."""

    fragment: str
    words: Iterable[str]
    kind: str = "value"


@dataclass(frozen=True, slots=True)
class _Around:
    """What else decides: the project file, the one profile of the line, and the first line of the cell."""

    project: Project | None
    profile: Profile | None
    head: Place | None


class Vocabulary:
    """All that a shell's lines may be completed with."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._cluster = ClusterNames()

    def at(self, text: str, line: int, column: int) -> Words | None:
        """What may be written at a place of a cell; None where it is not ours, or where nothing is known of it."""
        written = find(text, line, column)
        if written is None:
            return None
        project = _project() if "@" in (written.head or "") + written.text else None
        head = place_in(f"{written.head} ", written.dialect) if written.head is not None else None
        names = head.profiles if head is not None else (place_in(written.text, written.dialect) or Place(SSH)).profiles
        profile = _profile(project, names[0]) if len(names) == 1 else None
        if head is not None and _opens(head, profile, project):
            return None  # the cell is code
        # Either magic opens a profile of either kind.
        dialect = profile.dialect if profile is not None else written.dialect
        place = place_in(written.text, dialect, listed=head is not None)
        found = self._words(place, _Around(project, profile, head)) if place is not None else None
        # Quotes or backslashes within what would be replaced: better nothing than half a word.
        return found if found is not None and place is not None and place.raw.endswith(found.fragment) else None

    def _words(self, place: Place, around: _Around) -> Words | None:
        if place.flag is not None:
            return self._value(place, place.flag, around)
        if place.naming or place.after in NAMING:
            return Words(place.value, self._open(), "instance") if not place.value.startswith("-") else None
        if place.after:
            return None
        if place.value.startswith("-") and not place.only_words:
            return Words(place.value, _options(place), "param")
        if place.value.startswith("@"):
            return None if place.listed else Words(place.value, _profiles(around.project), "instance")
        return self._resource(place, around) if place.dialect is KUBERNETES else self._target(place, around)

    # ---- words that are no option ----

    def _target(self, place: Place, around: _Around) -> Words | None:
        if place.listed or place.words or "command" in place.given:
            return None
        known = hosts(_file(place, around))
        if "@" in place.value:
            return Words(place.value.rpartition("@")[2], known)
        return Words(place.value, [*known, *(_profiles(_project()) if not place.value else ())])

    def _resource(self, place: Place, around: _Around) -> Words | None:
        cluster, words = self._cluster_of(place, around)
        if cluster is None:
            return None
        resource = _resource_of(place, words, around)
        if resource is None and words:
            return None  # a RESOURCE that is none
        if resource is not None:
            fragment = re.split("[:=]", place.value)[-1]
            return Words(fragment, self._cluster.get(cluster, Listing.PORTS, str(resource)))
        kind, slash, name = place.value.partition("/")
        if slash:
            try:
                which = parse_resource(f"{kind}/x").kind
            except ForwardError:
                return None
            return Words(name, self._cluster.get(cluster, Listing.NAMES, which))
        kinds = [f"{each}/" for each in ResourceKind if each is not ResourceKind.SELECTOR]
        if place.value:
            # A bare name is a pod's.
            return Words(kind, [*kinds, *self._cluster.get(cluster, Listing.NAMES, ResourceKind.POD)])
        return Words("", [*kinds, *(_profiles(_project()) if not place.listed else ())])

    def _cluster_of(self, place: Place, around: _Around) -> tuple[ClusterTarget | None, list[str]]:
        """The cluster of the line, None where that cannot be told yet; and its words behind it."""
        words = [word for word in place.words if not word.startswith("@")]
        before = [*(around.head.words if around.head is not None else ()), *words]
        if before and before[0].startswith("$"):
            made = getattr(self._shell.user_ns.get(before[0][1:]), "target", None)
            return (made if isinstance(made, ClusterTarget) else None), [word for word in words if word != before[0]]
        given = dict(around.profile.given.get(ClusterTarget, {})) if around.profile is not None else {}
        for source in (around.head, place):
            given |= {key: value for key, value in (source.given if source else {}).items() if key in _OF_CLUSTERS}
        if isinstance(hops := given.get("proxy"), str):
            try:
                given["proxy"] = tuple(map(parse_target, hops.split(",")))
            except ForwardError:
                return None, words
        return ClusterTarget(**given), words

    def _open(self) -> list[str]:
        """The names of what is open."""
        from ..client.group import ForwardGroup
        from ..client.registry import tunnels

        space = self._shell.user_ns.items()
        groups = [name for name, value in space if isinstance(value, ForwardGroup) and not name.startswith("_")]
        return [*tunnels, *groups]

    # ---- values of options ----

    def _value(self, place: Place, flag: Flag, around: _Around) -> Words | None:
        if flag.source:
            return _source(place)
        if flag.field == "proxy":
            return Words(re.split("[,@]", place.value)[-1], hosts(_file(place, around)))
        if flag.field in ("namespace", "context"):
            cluster, _ = self._cluster_of(place, around)
            what = Listing.NAMESPACES if flag.field == "namespace" else Listing.CONTEXTS
            return Words(place.value, self._cluster.get(cluster, what)) if cluster is not None else None
        if flag.metavar in ("FILE", "PATH"):
            return _files(place, place.value)
        if flag.metavar == "URL":
            return Words(place.value, [f"{scheme}://" for scheme in PORTS])
        if flag.metavar == "1-9":
            return Words(place.value, map(str, range(1, 10)))
        choices = [choice for choice in flag.metavar.split("|") if choice.islower()]
        return Words(place.value, choices) if choices else None


_OF_CLUSTERS = tuple(flag.field for flag in KUBERNETES.flags.values() if flag.section is ClusterTarget)


def _opens(head: Place, profile: Profile | None, project: Project | None) -> bool:
    """Whether the first line of a cell opens something by itself, so that the cell is code."""
    if head.profiles and (profile is None or profile.forwards):
        return project is not None
    words = [word for word in head.words if not word.startswith(("@", "$") if head.dialect is KUBERNETES else "@")]
    target = 1 if head.dialect is SSH and profile is None and "command" not in head.given else 0
    return len(words) > target or bool(head.after) or head.spec


def _resource_of(place: Place, words: list[str], around: _Around) -> Resource | None:
    """What the PORTs of the line are ports of, None where that is yet to come."""
    try:
        if place.selector:
            return parse_selector(place.selector)
        if around.profile is not None and around.profile.place:
            return around.profile.place[0].resource()
        return parse_resource(words[0]) if words else None
    except ForwardError:
        return None


def _options(place: Place) -> Iterator[str]:
    """The options that are not given yet; in a line of a list those of the target are in its first line."""
    flags = dict.fromkeys(place.dialect.flags.values())
    for flag in flags:
        again = flag.kind is tuple or not place.switches.intersection(flag.spellings)
        if again and not (place.listed and flag.section in place.dialect.targets):
            yield from (flag.spellings if not place.value.startswith("--") else flag.spellings[-1:])
    yield from place.dialect.words
    if not place.listed:
        yield from ACTIONS


def _source(place: Place) -> Words | None:
    kind, colon, value = place.value.partition(":")
    if not colon:
        kinds = [each for each in SourceKind if each is not SourceKind.SECRET or place.dialect is KUBERNETES]
        return Words(kind, [each if each is SourceKind.PROMPT else f"{each}:" for each in kinds])
    if kind == SourceKind.ENV:
        return Words(value, sorted(os.environ))
    return _files(place, value) if kind == SourceKind.FILE else None


def _files(place: Place, value: str) -> Words:
    """The files and folders that a path may go on with."""
    folder, name = os.path.split(value)
    found: list[str] = []
    try:
        with os.scandir(os.path.expandvars(os.path.expanduser(folder)) or ".") as entries:
            for entry in islice(entries, _MOST_FILES):
                if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
                    found.append(f"{entry.name}/" if entry.is_dir() else entry.name)
    except OSError:
        pass
    quoted = any(quote in place.raw for quote in "'\"")
    return Words(name, sorted(each if quoted else _SPECIAL.sub(r"\\\1", each) for each in found), "path")


def _file(place: Place, around: _Around) -> str:
    """The ssh_config that -F names."""
    given = around.head.given if around.head is not None else {}
    return place.given.get("ssh_config") or given.get("ssh_config", "")


def _project() -> Project | None:
    from ..client.project import find as find_project

    try:
        return find_project()
    except ForwardError:
        return None


def _profiles(project: Project | None) -> list[str]:
    return [f"@{name}" for name in project.names] if project is not None else []


def _profile(project: Project | None, name: str) -> Profile | None:
    """The profile of that name, None where it is a group's, or no good."""
    try:
        chosen = project.choose(name) if project is not None else None
    except ForwardError:
        return None
    return chosen.profiles[0] if chosen is not None and not chosen.group else None
