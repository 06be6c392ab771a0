"""Defaults for the options of every line, read by its own rules; they hold where neither it nor its profile says
otherwise. Ground floor, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

from ..errors import SpecError
from ..options import ClusterTarget, Service, SshTarget, Target, TunnelOptions
from ..source import Source, SourceKind, parse_source
from ..spec import Kind
from .dialect import SSH
from .flags import CLUSTER_FLAGS, FLAGS, Flag, Section, read_value
from .parser import Line

__all__ = ["Defaults", "read_default", "read_defaults"]

# These say which tunnel it is: there is no default for them.
OF_ONE = ("name", "dsn", "command")
# These are for a SOCKS proxy, and wrong for anything else.
_OF_SOCKS = ("socks_user", "socks_password", "set_proxy_env")

T = TypeVar("T", SshTarget, ClusterTarget, TunnelOptions, Service)


def flags_with_default() -> dict[str, Flag]:
    """The options that can have a default, by the name they have in Python; `proxy` is of both kinds of target."""
    flags = dict.fromkeys([*FLAGS.values(), *CLUSTER_FLAGS.values()])
    return {flag.field: flag for flag in flags if flag.field not in OF_ONE}


def read_default(flag: Flag, value: object) -> tuple[object, Source | None]:
    """A value as a file of settings has it: text as on the line, a number, True or False, a list.

    Returns:
        The option's value, and the SOURCE that it refers to.

    Raises:
        SpecError: it is no value of this option. What could be a secret is not repeated.
    """
    name = flag.field
    if flag.switch:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"  # from a command line
        if not isinstance(value, bool):
            raise SpecError(f"{name}: True or False is expected")
        return value, None
    if name == "control_persist" and isinstance(value, bool):
        value = "yes" if value else "no"
    several = flag.kind is tuple or name == "proxy"
    values = list(value) if several and isinstance(value, Sequence | set) and not isinstance(value, str) else [value]
    if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in values):
        raise SpecError(f"{name}: {'text, or a list of it,' if several else 'text or a number'} is expected")
    texts = [",".join(map(str, values))] if name == "proxy" else list(map(str, values))
    if flag.source:
        source = parse_source(texts[0], name)
        return source.reference, source
    try:
        if flag.kind is not tuple:
            return read_value(flag, name, texts[0]), None
        found: list[object] = []
        for text in texts:
            more = read_value(flag, name, text)
            found += more if isinstance(more, tuple) else [more]
        return tuple(found), None
    except SpecError as error:
        problem = error
    raise SpecError(problem.message, hint=re.sub(f"Write {name} (.*)", f"Write {name} = \\1", problem.hint))


def read_defaults(values: Mapping[str, object]) -> Defaults:
    """The defaults that there are. Raises SpecError."""
    flags = flags_with_default()
    given: dict[str, object] = {}
    sources: dict[str, Source] = {}
    for name, value in values.items():
        given[name], source = read_default(flags[name], value)
        if source is not None:
            sources[source.reference] = source
    return Defaults(MappingProxyType(given), MappingProxyType(sources))


@dataclass(frozen=True, slots=True)
class Defaults:
    """Defaults for lines.

    Attributes:
        given: option -> value.
        sources: reference -> SOURCE.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)

    def applied(self, line: Line, made: Collection[Target] = ()) -> Line:
        """A line that is to open or to examine something, with the defaults in it.

        Args:
            made: targets made in Python, which are used as they are.
        """
        if not self.given:
            return line
        target = line.target
        if isinstance(target, SshTarget | ClusterTarget) and target not in made:
            target = self._target(target, line)
        return replace(
            line,
            target=target,
            tunnel=self._filled(line.tunnel, TunnelOptions, line),
            service=self._filled(line.service, Service, line),
            sources={**self.sources, **line.sources},
            members=tuple(self.applied(member, made) for member in line.members),
        )

    def _target(self, target: SshTarget | ClusterTarget, line: Line) -> SshTarget | ClusterTarget:
        if isinstance(target, ClusterTarget):
            return self._filled(target, ClusterTarget, line)
        filled = self._filled(target, SshTarget, line)
        # What its word says: ana@bastion:2222.
        own = {name: value for name in ("username", "port") if (value := getattr(target, name))}
        if any(hop.host == target.host for hop in filled.proxy):
            own["proxy"] = target.proxy
        return replace(filled, **own)

    def _filled(self, options: T, section: Section, line: Line) -> T:
        names = {each.name for each in fields(section)} & set(self.given)
        wanted = {name for name in names if (section, name) not in line.said and self._fits(name, line)}
        return replace(options, **{name: self.given[name] for name in wanted})

    def _fits(self, name: str, line: Line) -> bool:
        if name in _OF_SOCKS:
            return bool(line.forwards) and all(forward.kind is Kind.DYNAMIC for forward in line.forwards)
        source = self.sources.get(self.given[name]) if isinstance(self.given[name], str) else None
        return source is None or source.kind is not SourceKind.SECRET or line.dialect is not SSH
