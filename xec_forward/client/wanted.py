"""The arguments of `forward()` and its like: keywords, as a call or an entry of a list has them; what they mean."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from ..errors import SpecError
from ..line.flags import Flag, Section, flags_of, networks, read_value, require_addresses
from ..options import TunnelOptions
from ..source import Source
from ..spec import Endpoint, Forward, Kind, refuse_password

Secret = str | Source | Callable[[], str] | None


class OptionArguments(TypedDict, total=False):
    """The options of a tunnel (`options.TunnelOptions`), as keywords; times are seconds."""

    local_interface: str
    gateway_ports: bool
    allowed_ips: str | Iterable[str]
    auto_port: bool
    guard: Literal["uid", "off"]
    no_check: bool
    hold: float
    timeout: float
    lazy: bool
    retry_initial: bool
    retry_delay: float
    max_retries: int | None
    ttl: float
    idle: float
    max_connections: int


class ForwardArguments(OptionArguments, total=False):
    """What `forward()` takes, and each entry of `forward_multiple()`; every one may be left out.

    Keys:
        type: local (the default), remote or dynamic.
        local_port: where to listen; 0 for any free port; left out: the far port if it can be bound, else any.
            For a remote forward: the port on this side that the far one leads to.
        local_host: the interface to listen on; for a remote forward the host that the far port leads to. A path is a
            unix socket.
        remote_host: resolved at the far side; left out: the target itself. A path is a unix socket there.
        remote_port: the far port; for a remote forward the port that the target listens on, 0 for any.
        name: its name in the registry; left out: made from the far host.
        dsn: the template of its connection string, without a password.
        password: the service's: a SOURCE, a callable, or the secret itself.
        socks_password: of a SOCKS proxy with a `socks_user`, likewise.

    The other keys are options of the tunnel (`options.TunnelOptions`); times are seconds.
    """

    type: Literal["local", "remote", "dynamic"]
    local_port: int
    local_host: str
    remote_host: str
    remote_port: int
    name: str
    dsn: str
    password: Secret
    socks_user: str
    socks_password: Secret


_OPTIONS = tuple(field.name for field in fields(TunnelOptions))
_OWN = ("type", "local_port", "local_host", "remote_host", "remote_port", "name", "dsn", "password")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A forward as asked for in Python."""

    forward: Forward
    options: TunnelOptions
    dsn: str
    password: Secret


def read(arguments: Mapping[str, Any], keep: Callable[[Secret], str]) -> Wanted:
    """What the keywords ask for.

    Args:
        arguments: as ForwardArguments.
        keep: keeps a secret or the way to one, and gives its reference.

    Raises:
        SpecError: one is unknown, malformed, or missing.
    """
    check_names(arguments, (*_OWN, *_OPTIONS), "forward()")
    options, dsn = read_settings(arguments, keep)
    forward = _forward(arguments)
    if options.allowed_ips:
        require_addresses([forward], "allowed_ips")
    return Wanted(forward, options, dsn, arguments.get("password"))


def read_settings(arguments: Mapping[str, Any], keep: Callable[[Secret], str]) -> tuple[TunnelOptions, str]:
    """The options among the keywords, and the template of the connection string; see `read`."""
    dsn = str(arguments.get("dsn") or "")
    if dsn:
        refuse_password(dsn, fix="give password= a SOURCE, a callable or the secret itself")
    options = {key: value for key, value in arguments.items() if key in _OPTIONS}
    if "socks_password" in options:
        options["socks_password"] = keep(options["socks_password"])
    return TunnelOptions(**read_options(TunnelOptions, options)), dsn


def read_options(section: Section, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options, checked: what a line takes as text is taken as text here too (`ttl="10m"`).

    Raises:
        SpecError: one is of another type, or out of its limits.
    """
    flags = flags_of(section)
    # None says "unless told" where it is what an option is unless told.
    unsaid = {field.name for field in fields(section) if field.default is None}
    return {
        name: _option(flags[name], value) if name in flags and not (value is None and name in unsaid) else value
        for name, value in given.items()
    }


def _option(flag: Flag, value: Any) -> Any:
    if flag.field == "allowed_ips":
        return networks([value] if isinstance(value, str) else value, "allowed_ips=")
    if flag.source or flag.kind is tuple or flag.field == "proxy":
        return value  # references, and what the caller has put together
    if isinstance(value, str) and flag.kind is not bool:
        return read_value(flag, f"{flag.field}=", value) if value or flag.kind is not str else value
    if flag.kind is bool and isinstance(value, bool):
        return value
    if flag.kind in (int, float) and isinstance(value, int if flag.kind is int else int | float):
        most = float("inf") if flag.metavar.startswith("D") else flag.most
        if not isinstance(value, bool) and flag.least <= value <= most:
            return value
    kind = {bool: "True or False", int: "a whole number", float: "a number of seconds"}.get(flag.kind, "a text")
    limits = f" from {flag.least:g} to {flag.most:.0f}" if flag.kind in (int, float) else ""
    raise SpecError(f"{flag.field}= is {value!r:.60}: {kind}{limits} is expected")


def _forward(arguments: Mapping[str, Any]) -> Forward:
    kind_name, name = arguments.get("type", "local"), str(arguments.get("name") or "")
    try:
        kind = Kind(kind_name)
    except ValueError:
        raise SpecError(f"type is {kind_name!r}, not local, remote or dynamic") from None
    for what in ("local_port", "remote_port"):
        check_port(what, arguments.get(what))
    near = _endpoint(arguments.get("local_host"), arguments.get("local_port"))
    far = _endpoint(arguments.get("remote_host"), arguments.get("remote_port"))
    match kind:
        case Kind.LOCAL:
            if not far.port and not far.path:
                raise SpecError("remote_port is missing", hint="forward(remote_host=..., remote_port=5432)")
            return Forward(kind, near, far, name)
        case Kind.REMOTE:
            if not near.port and not near.path:
                raise SpecError(
                    "local_port is missing", hint='forward(type="remote", remote_port=8080, local_port=3000)'
                )
            return Forward(kind, far, near, name)
        case Kind.DYNAMIC:
            return Forward(kind, near, None, name)


def check_port(what: str, port: object, lowest: int = 0) -> None:
    """Raise SpecError for what is neither a port's number nor None."""
    if port is not None and not (type(port) is int and lowest <= port <= 65535):
        raise SpecError(f"{what} is {port!r:.60}, not a port from {lowest} to 65535")


def _endpoint(host: object, port: int | None) -> Endpoint:
    """A path in the place of a host is a unix socket, which has no port."""
    where = str(host or "")
    return Endpoint(path=where) if where.startswith("/") else Endpoint(where, port)


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise SpecError for an option that is not known; the nearest one is the hint."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise SpecError(f"{where} has no option {name}", hint=f"Did you mean {near[0]}?" if near else "")
