"""A line in which `@NAME` may stand for a profile of the project file: read here, it is an ordinary line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..line import SSH, Chosen, Dialect, Line, parse_line

if TYPE_CHECKING:
    from ..options import ClusterTarget, SshTarget


def read_line(
    words: Sequence[str],
    targets: Mapping[str, SshTarget | ClusterTarget] = MappingProxyType({}),
    dialect: Dialect = SSH,
    *,
    head: bool = False,
) -> Line:
    """`line.parse_line`, with the profiles of the working folder's project file.

    Raises:
        SpecError: see there. ConfigError: the project file is not there, or what it says of a name is no good.
    """
    return parse_line(words, targets, dialect, head=head, profiles=_choose)


def _choose(name: str) -> Chosen:
    # Only now: most lines name no profile, and tomllib takes a moment.
    from .project import choose

    return choose(name)
