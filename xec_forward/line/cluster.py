"""RESOURCE PORT ... and the cluster they are in, from the words of a `%k8s_forward` line. Ground floor, no I/O."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import SpecError
from ..options import ClusterTarget, SshTarget
from ..spec import Forward
from .dialect import KUBERNETES
from .reader import Entry, Reader

__all__ = ["read_cluster", "read_ports"]


def read_cluster(reader: Reader, targets: Mapping[str, SshTarget | ClusterTarget]) -> tuple[ClusterTarget, list[Entry]]:
    """The cluster, from the options or as it was made in Python, and the other words. Raises SpecError."""
    given = reader.given[ClusterTarget]
    first = next((entry for entry in reader.entries if not entry.option), None)
    made = targets.get(first.word) if first is not None else None
    if made is None:
        return ClusterTarget(**given), reader.entries
    if not isinstance(made, ClusterTarget):
        raise SpecError("an SSH host stands where a RESOURCE is expected", hint="Write --proxy in front of it")
    if given:
        names = ", ".join(f"--{name}" for name in given)
        raise SpecError(f"{names}: a cluster made in Python is used as it is", hint="Give it to xf.k8s(...) instead")
    return made, [entry for entry in reader.entries if entry is not first]


def read_ports(entries: list[Entry]) -> tuple[Forward, ...]:
    """RESOURCE PORT ..., or PORT ... and a selector after -l; nothing where there is nothing. Raises SpecError."""
    plain = [entry for entry in entries if not entry.option]
    selectors = [entry for entry in entries if entry.option]
    if len(selectors) > 1:
        raise SpecError("-l is given twice", hint="Write -l app=api,tier=web: a comma means and")
    if not plain and not selectors:
        return ()
    leading = selectors[0] if selectors else plain.pop(0)
    resource = leading.resource()
    if selectors and plain and "/" in plain[0].word and not plain[0].after:
        raise SpecError("-l and a RESOURCE both say where to", hint="Leave one of them out")
    if not plain:
        raise SpecError(f"{resource}: a PORT is missing", hint=f"Write {KUBERNETES.magic} {resource} 5432")
    return tuple(entry.port(resource) for entry in plain)
