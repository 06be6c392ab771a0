"""The flags of the line, made from the dataclasses of `options`: spelling, type, and how a value is read.

Ground floor, no I/O. A value that could be a secret is never part of an error.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import get_type_hints

from ..dsn import parse_template
from ..errors import SpecError
from ..options import ClusterTarget, CommandTarget, Service, SshTarget, TunnelOptions
from ..source import SOURCE_FORMS
from ..spec import Forward, check_name, parse_target
from ..spec.hints import is_ipv6
from ..spec.parts import Malformed, read_host
from ..spec.words import holds_password, quote

__all__ = [
    "CLUSTER_FLAGS",
    "FLAGS",
    "Flag",
    "Section",
    "duration",
    "example_of",
    "flags_of",
    "networks",
    "read_value",
    "require_addresses",
]

Section = type[SshTarget] | type[CommandTarget] | type[ClusterTarget] | type[TunnelOptions] | type[Service]


@dataclass(frozen=True, slots=True)
class Flag:
    """One option as it stands on the line.

    Attributes:
        section: the dataclass it is a field of; `field` is the field's name.
        spellings: the short ones, then the long one.
        kind: the field's type: bool for a switch, tuple for one that may be given again.
        metavar: what stands for its value; it also says how the value is read.
        least, most: the limits of a number.
    """

    section: Section
    field: str
    spellings: tuple[str, ...]
    kind: type
    metavar: str
    help: str
    least: float
    most: float

    @property
    def long(self) -> str:
        return self.spellings[-1]

    @property
    def switch(self) -> bool:
        return self.kind is bool

    @property
    def source(self) -> bool:
        """Whether its value is a SOURCE."""
        return self.metavar == "SOURCE"


_KINDS: dict[object, type] = {
    str: str,
    bool: bool,
    float: float,
    int: int,
    int | None: int,
    float | None: float,
    tuple[str, ...]: tuple,
    tuple[SshTarget, ...]: str,
}


def _flags(*sections: Section, without: tuple[str, ...] = ()) -> Mapping[str, Flag]:
    found: dict[str, Flag] = {}
    for section in sections:
        types = get_type_hints(section)
        for each in fields(section):
            if "help" not in each.metadata or each.name in without:  # SshTarget.host: the TARGET itself
                continue
            meta = each.metadata
            long = meta["flag"] or "--" + each.name.replace("_", "-")
            spellings = (*meta["short"], long)
            kind = _KINDS[types[each.name]]
            flag = Flag(section, each.name, spellings, kind, meta["metavar"], meta["help"], meta["least"], meta["most"])
            found.update(dict.fromkeys(spellings, flag))
    return MappingProxyType(found)


FLAGS = _flags(Service, TunnelOptions, SshTarget, CommandTarget)
"""Those of %forward: spelling -> flag, in the order of the reference."""

# A cluster leads to ports of pods: there is no SOCKS proxy.
_OF_SOCKS = ("socks_user", "socks_password", "set_proxy_env")
CLUSTER_FLAGS = _flags(Service, TunnelOptions, ClusterTarget, without=_OF_SOCKS)
"""Those of %k8s_forward."""


def flags_of(section: Section) -> dict[str, Flag]:
    """The options of one dataclass, by the field's name."""
    return {flag.field: flag for flag in (*FLAGS.values(), *CLUSTER_FLAGS.values()) if flag.section is section}


def read_value(flag: Flag, spelling: str, text: str) -> object:
    """The value of a flag that is no switch and no SOURCE.

    Args:
        spelling: the flag as it was typed, for the error.

    Raises:
        SpecError: the text is no value of this flag.
    """
    if not text.isprintable():
        raise SpecError(f"{spelling}: its value holds a control character")
    if not text:
        raise SpecError(f"{spelling} needs a value", hint=f"Write {spelling} {flag.metavar}")
    if flag.field == "allowed_ips":
        return networks(text.split(","), spelling)
    if flag.field == "proxy":
        return tuple(parse_target(hop) for hop in text.split(","))
    if flag.field == "control_persist" and text in _PERSIST:
        return _PERSIST[text]
    if flag.kind in (int, float):
        return _number(flag, spelling, text)
    if flag.metavar == "URL":
        return _template(spelling, text)
    if flag.field == "name":
        return check_name(text)
    if flag.field == "local_interface":
        return _interface(spelling, text)
    if flag.field == "username" and not re.fullmatch(r"(?!-)[^\s:]+", text):
        # Not repeated: `-l ana:secret` is a slip that happens.
        raise SpecError(f"{spelling} takes a login name, without a colon", hint=f"Write {spelling} ana")
    choices = flag.metavar.split("|")
    if len(choices) > 1 and text not in choices:
        near = get_close_matches(text[:40], choices, n=1)
        raise SpecError(
            f"{spelling} {quote(text)}: {', '.join(choices[:-1])} or {choices[-1]} is expected",
            hint=f"Write {spelling} {near[0] if near else choices[0]}",
        )
    return text


def _number(flag: Flag, spelling: str, text: str) -> int | float:
    if flag.metavar.startswith("D"):
        return duration(text, spelling)
    whole = flag.kind is int
    pattern = r"[0-9]{1,9}" if whole else r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}"
    wanted = "a whole number" if whole else "a number of seconds"
    if not re.fullmatch(pattern, text) or not flag.least <= float(text) <= flag.most:
        limits = f"from {flag.least:g} to {flag.most:.0f}"
        hint = f"Write {spelling} {example_of(flag)}"
        raise SpecError(f"{spelling} {quote(text)}: {wanted} {limits} is expected", hint=hint)
    return int(text) if whole else float(text)


def example_of(flag: Flag) -> str:
    """A number that is a value of this flag."""
    return {"PORT": "22", "N": "3"}.get(flag.metavar, "90" if flag.metavar.startswith("D") else "30")


def networks(words: Iterable[str], what: str) -> tuple[str, ...]:
    """Addresses and networks, checked: `10.0.0.7`, `10.1.0.0/16`, `fd00::/8`.

    Raises:
        SpecError: one is neither.
    """
    found = []
    for word in words:
        try:
            found.append(str(ipaddress.ip_network(str(word).strip(), strict=False)))
        except ValueError:
            hint = f"Write {what} 127.0.0.1,10.1.0.0/16"
            raise SpecError(f"{what} {quote(str(word))}: an address or a network is expected", hint=hint) from None
    return tuple(found)


def require_addresses(forwards: Iterable[Forward], what: str) -> None:
    """Check that clients of these forwards come from an address, where `allowed_ips` is to judge it.

    Args:
        what: the option as it was given, for the error.

    Raises:
        SpecError: one listens on a unix socket.
    """
    for forward in forwards:
        if forward.listen.path:
            raise SpecError(
                f"{what} does not go with {quote(forward.listen.path)}: who uses a unix socket has no address",
                hint="Leave it out: the rights of the file say who may connect",
            )


def duration(text: str, what: str) -> float:
    """Seconds from `90`, `90s`, `10m`, `1h30m`, `2d`.

    Args:
        text: as typed.
        what: the option, for the error.

    Raises:
        SpecError: it is no duration.
    """
    found = _DURATION.fullmatch(text)
    if not found or not text:
        raise SpecError(f"{what} {quote(text)}: a duration is expected", hint=f"Write {what} 90s, 10m or 1h30m")
    return sum(float(count) * unit for count, unit in zip(found.groups("0"), (86400, 3600, 60, 1), strict=True))


# ssh_config(5): yes and 0 both mean "for ever"; ours ends with the kernel.
_PERSIST = {"yes": float("inf"), "true": float("inf"), "no": 0.0, "false": 0.0}
_DURATION = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d{1,3})?)s?)?")


def _template(spelling: str, text: str) -> str:
    if re.search(r"(?i)(?:pass(?!file)\w{0,40}|pwd)\s{0,40}=", text) or holds_password(text.partition("?")[2]):
        raise SpecError(
            f"{spelling}: the connection string holds a password",
            hint=f"Leave it out and add --password SOURCE: {SOURCE_FORMS}",
        )
    if not re.search("[:/@]", text) and text.lower() not in ("http", "https"):
        raise SpecError(
            f"{spelling}: the connection string is not a URL", hint="Write it as postgresql://USER@/DATABASE"
        )
    try:
        parse_template(text, "postgresql")
    except SpecError as error:
        message, hint = error.message, error.hint
    else:
        return text
    raise SpecError(f"{spelling}: {message}", hint=hint)


def _interface(spelling: str, text: str) -> str:
    if text == "*" or is_ipv6(text):
        return text
    try:
        return read_host(text, "an address")
    except Malformed:
        pass
    raise SpecError(
        f"{spelling} {quote(text)}: an address of this machine is expected", hint=f"Write {spelling} 127.0.0.1"
    )
