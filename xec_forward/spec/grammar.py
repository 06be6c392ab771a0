"""What the user asked for: SPEC words and TARGETs as frozen dataclasses. Ground floor, no I/O.

    SPEC    = [NAME "="] (LOCAL | URL)         plain, or after -L
            | [NAME "="] REMOTE                after -R
            | [NAME "="] [BIND ":"] PORT       after -D; port 0: any free one
    LOCAL   = [LISTEN ":"] HOST ":" PORT       LISTEN left out: the far port if it can be bound, else any
            | LISTEN ":" PATH
            | PORT                             that port of the target itself
    REMOTE  = LISTEN ":" HOST ":" PORT         it listens on the target; HOST and PORT are seen from here
            | LISTEN ":" PATH
    LISTEN  = [BIND ":"] PORT | PATH           port 0: any free one
    BIND    = HOST | "*" | ""                  the last two are the wildcard, as in ssh
    URL     = SCHEME "://" [USER "@"] HOST [":" PORT] ["/" ...] ["?" ...]     no password
    TARGET  = [USER "@"] HOST [":" PORT]       HOST may be an alias of ssh_config
            | "ssh://" [USER "@"] HOST [":" PORT] ["/"]
    HOST    = a name | an IPv4 address | "[" IPv6 address "]"
    PORT    = 1 to 65535, or a service's name (`services`)
    PATH    = an absolute path without : and @, of a unix socket
    NAME    = a Python identifier

It is the grammar of `ssh -L`, `-R` and `-D` (OpenSSH's ssh(1)) and of RFC 3986 section 3 for URLs. Every word
that does not fit is a SpecError: it quotes the word (user-info never), says what was expected, and hints at
the nearest form that fits.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from urllib.parse import unquote

from ..errors import SpecError
from ..options import SshTarget
from ..services import PORTS, port_for_scheme
from ..source import SOURCE_FORMS
from . import hints
from .names import first_label, identifier, is_address, path_label
from .parts import URL, Malformed, check_characters, password_in, read_authority, read_host, read_port, split_colons
from .resource import Resource
from .words import MASK, quote, redact, shorten

__all__ = [
    "Endpoint",
    "Forward",
    "Kind",
    "check_name",
    "default_name",
    "parse_forward",
    "parse_target",
    "refuse_password",
]


class Kind(StrEnum):
    """The direction of a forward."""

    LOCAL = "local"
    REMOTE = "remote"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a forward: a TCP host and port, or the path of a unix socket.

    Attributes:
        host: a name or address, "*" for the wildcard; "" where none was written (the default interface, or
            the target itself).
        port: 0 means any free port, None means none was written; always None for a unix socket.
        path: the unix socket's path, "" for TCP.
        port_name: the port's name in the place of its number, of a Kubernetes service or container; else "".
    """

    host: str = ""
    port: int | None = None
    path: str = ""
    port_name: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = self.port_name or self.port
        return host if port is None else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward, as written: which end listens, which end is connected to.

    Attributes:
        kind: local listens here; remote listens on the target; dynamic is a SOCKS proxy here.
        listen: where it listens. Port None: "the same as the far port if it can be bound, else any".
        connect: where its connections lead (None for dynamic). Host "" means the target itself.
        name: the name written in front (`pg=...`), or "".
        url: the URL it was written as, with the far host and without a password, or "".
    """

    kind: Kind
    listen: Endpoint
    connect: Endpoint | None
    name: str = ""
    url: str = ""


def parse_forward(word: str, *, kind: Kind = Kind.LOCAL) -> Forward:
    """Read a SPEC.

    >>> parse_forward("pg=5432:pg.vpc:5432").connect
    Endpoint(host='pg.vpc', port=5432, path='', port_name='')

    Args:
        word: one word of the line.
        kind: LOCAL for a plain SPEC or the argument of -L, REMOTE for that of -R, DYNAMIC for that of -D.

    Raises:
        SpecError: the word is malformed.
    """
    try:
        return _forward(word, kind)
    except Malformed as error:
        bad = error
    # Raised out here, so that no inner exception with other text hangs on it.
    raise _error(word, bad, bad.hint or _mend(word, kind))


def parse_target(word: str) -> SshTarget:
    """Read a TARGET: an alias of ssh_config, `[user@]host[:port]`, or an `ssh://` URL.

    Raises:
        SpecError: the word is malformed, or holds a password.
    """
    try:
        return _target(word)
    except Malformed as error:
        bad = error
    raise _error(word, bad, bad.hint or _mend_target(word))


def refuse_password(url: str, *, fix: str) -> None:
    """Check that a URL holds no password, neither in its user-info nor in its query.

    Args:
        url: as typed.
        fix: for the hint, the option that says it instead (`--password`), or in Python's calls a phrase.

    Raises:
        SpecError: it holds one; the error repeats neither it nor the user.
    """
    if password_in(url):
        hint = _instead(fix) if fix.startswith("-") else f"Leave it out and {fix}"
        raise _error(url, Malformed("a URL here holds no password"), hint)


def check_name(name: str) -> str:
    """A NAME as Python will see it (identifiers are NFKC-normalised: Language Reference, 2.3).

    Raises:
        SpecError: it is no identifier, or a keyword.
    """
    try:
        return _name(name)
    except Malformed as error:
        bad = error
    raise _error(name, bad, bad.hint)


def default_name(forward: Forward, target_host: str, *, several: bool = False) -> str:
    """The name of a forward that has none written: always an identifier, never a keyword or a builtin.

    The far host's first label; a RESOURCE's name, with the port behind it where it is one of `several`; `socks` for
    a proxy; `remote_PORT` for a remote forward; `TARGET_PORT` where the far side is an address, the target itself,
    or a unix socket.

    Args:
        forward: what was asked for; a name written in front of it wins.
        target_host: the host of its target, as written.
        several: other ports of the same RESOURCE are opened with it, and have no name either.
    """
    if forward.name:
        return forward.name
    if forward.kind is Kind.DYNAMIC or forward.connect is None:
        return "socks"
    listen, connect = forward.listen, forward.connect
    if forward.kind is Kind.REMOTE:
        return identifier(f"remote_{listen.port or connect.port or path_label(listen.path or connect.path)}")
    if Resource.stands_in(connect.host):
        label = Resource.of(connect.host).label
        return identifier(f"{label}_{connect.port_name or connect.port}" if several else label)
    if not connect.path and connect.host not in ("", "localhost") and not is_address(connect.host):
        return identifier(first_label(connect.host))
    target = first_label(target_host)
    return identifier(f"{target}_{connect.port or listen.port or path_label(connect.path)}")


def _error(word: str, bad: Malformed, hint: str) -> SpecError:
    return SpecError(f"{quote(word)}: {bad.reason}", hint=hint)


# Forwards

_NAMED = re.compile(r"([^=:/?#@\[\]]*)=(.*)", re.DOTALL)
_OPTION = {Kind.LOCAL: "", Kind.REMOTE: "-R ", Kind.DYNAMIC: "-D "}
_FORMS = {
    Kind.LOCAL: "Write it as 5432:pg.vpc:5432, pg.vpc:5432, 5432 or postgresql://ana@pg.vpc/sales",
    Kind.REMOTE: "Write it as -R 8080:localhost:3000",
    Kind.DYNAMIC: "Write it as -D 1080, or -D 0 for any free port",
}


def _forward(word: str, kind: Kind) -> Forward:
    check_characters(word)
    named = _NAMED.fullmatch(word)
    rest = named[2] if named else word
    url = URL.fullmatch(rest)
    if "@" in word and not url:
        # Said before any part is quoted: they may be a user and a password.
        raise Malformed("a SPEC has no user: the login stands in TARGET, the service's user in a URL or --dsn")
    name = _name(named[1]) if named else ""
    if not rest:
        raise Malformed("nothing stands after the name")
    if url:
        if kind is not Kind.LOCAL:
            raise Malformed(f"{_OPTION[kind]}takes no URL")
        return Forward(kind, Endpoint(), _url(url), name, rest)
    if re.search(":[A-Za-z][A-Za-z0-9+.-]*://", rest):
        raise Malformed("a URL stands alone", "Write 15432:pg.vpc:5432 --dsn URL for a local port of its own")
    if any(hints.bracketed(rest)):
        raise Malformed("an IPv6 address stands in brackets")
    parts = split_colons(rest)
    if kind is Kind.DYNAMIC:
        if len(parts) > 2:
            raise Malformed("a SOCKS proxy takes only a port, or an address and a port")
        return Forward(kind, _listen(parts, kind), None, name)
    if len(parts) == 1:
        return Forward(kind, Endpoint(), _lone(parts[0], kind), name)
    far = "far" if kind is Kind.LOCAL else "near"
    if parts[-1].startswith("/"):
        front, connect = parts[:-1], Endpoint(path=parts[-1])
    else:
        front, connect = parts[:-2], Endpoint(port=read_port(parts[-1], f"the {far} port", 1))
        connect = Endpoint(read_host(parts[-2], f"the {far} host"), connect.port)
    if not front and kind is Kind.REMOTE:
        raise Malformed("the port to listen on at the target is missing")
    return Forward(kind, _listen(front, kind) if front else Endpoint(), connect, name)


def _lone(part: str, kind: Kind) -> Endpoint:
    """A SPEC of one part: a port of the target itself."""
    if kind is Kind.REMOTE:
        raise Malformed("a remote forward says the target's port, then a host and a port of this side")
    if part.startswith("/"):
        raise Malformed("a unix socket says both sides")
    if not re.fullmatch("[0-9]+", part):
        raise Malformed("a port is expected, or a host and a port")
    return Endpoint(port=read_port(part, "the far port", 1))


def _listen(parts: list[str], kind: Kind) -> Endpoint:
    side = "the target's" if kind is Kind.REMOTE else "the local"
    if len(parts) == 1 and parts[0].startswith("/") and kind is not Kind.DYNAMIC:
        return Endpoint(path=parts[0])
    if len(parts) > 2:
        raise Malformed("too many colons")
    port = read_port(parts[-1], f"{side} port", 0)
    if len(parts) == 1:
        return Endpoint(port=port)
    return Endpoint("*" if parts[0] in ("", "*") else read_host(parts[0], f"{side} address"), port)


def _url(url: re.Match[str]) -> Endpoint:
    """The far end that a URL names. No part of it is quoted but the scheme."""
    scheme, place, path, query, fragment = url.groups()
    if password_in(url.group()):
        raise Malformed("a URL here holds no password", _instead("--password"))
    own_port = port_for_scheme(scheme)
    if own_port is None:
        if scheme.lower() == "ssh":
            raise Malformed("ssh:// is a TARGET, not a SPEC", "Write TARGET first: %forward ssh://ana@bastion 5432")
        near = get_close_matches(scheme[:40].lower(), PORTS, n=1)
        known = ", ".join(sorted(PORTS))
        raise Malformed(f"the scheme {shorten(scheme)} is not one of {known}", f"Write {near[0]}://" if near else "")
    if fragment is not None:
        raise Malformed("a URL here has no fragment", "Write %23 where a # is meant")
    if "@" in f"{path}{query or ''}":
        raise Malformed("an @ stands behind the host", "Write %40 where one is meant")
    host, port = read_authority(place.rpartition("@")[2], "the far host", hidden=True)
    return Endpoint(host, port or own_port)


def _instead(option: str) -> str:
    return f"Leave it out and add {option} SOURCE: {SOURCE_FORMS}"


# Targets


def _target(word: str) -> SshTarget:
    check_characters(word)
    url = URL.fullmatch(word)
    text = word
    if url is not None:
        if url[1].lower() != "ssh":
            raise Malformed("a TARGET is an SSH host", "TARGET comes first, then the SPEC: %forward bastion SPEC")
        if password_in(word):
            raise Malformed("a TARGET holds no password", _instead("--ssh-password"))
        if url[3] not in ("", "/") or url[4] is not None or url[5] is not None:
            raise Malformed("an ssh:// URL ends after the port", "Write ssh://user@host:port")
        text = url[2]
    user, at, rest = text.rpartition("@")
    if ":" in user:
        raise Malformed("a TARGET holds no password", _instead("--ssh-password"))
    if url is not None:
        user = unquote(user)
    if at and (not re.fullmatch(r"(?!-)[^\s:]+", user) or not user.isprintable()):
        raise Malformed("the user in front of the @ is missing or malformed", "Write it as user@host")
    if any(hints.bracketed(rest)):
        raise Malformed("an IPv6 address stands in brackets")
    host, port = read_authority(rest, "the host", hidden=bool(at))
    return SshTarget(host, username=user, port=port)


def _name(text: str) -> str:
    name = unicodedata.normalize("NFKC", text)
    if not name:
        raise Malformed("the name in front of the = is missing", "Write it as pg=pg.vpc:5432")
    if not name.isidentifier():
        raise Malformed("a NAME is a Python identifier", f"Name it {identifier(redact(name))}")
    if keyword.iskeyword(name):
        raise Malformed(f"{name} is a word of Python itself", f"Name it {name}_")
    return name


# Hints

_READINGS: dict[Kind, Callable[[str], Iterator[str]]] = {
    Kind.LOCAL: hints.local,
    Kind.REMOTE: hints.remote,
    Kind.DYNAMIC: hints.dynamic,
}


def _mend(word: str, kind: Kind) -> str:
    """The nearest SPEC that fits, as a hint; the general forms where none is near."""
    name, rest = "", "".join(word.split())
    # With an @ it may be user-info and no name: then only what follows the @ is kept.
    named = None if "@" in rest and "://" not in rest else _NAMED.fullmatch(rest)
    if named and named[1].isidentifier():
        name, rest = f"{named[1]}=", named[2]
    for reading in _READINGS[kind](rest):
        try:
            _forward(name + reading, kind)
        except Malformed:
            continue
        return f"Write {_OPTION[kind]}{name}{reading}"
    url = URL.match(rest)
    if url and kind is Kind.LOCAL:
        if port_for_scheme(url[1]) is None:
            return "Write HOST:PORT, and --dsn URL where a connection string is wanted"
        return "Write it as postgresql://ana@pg.vpc:5432/sales; a password goes to --password SOURCE"
    return _FORMS[kind]


def _mend_target(word: str) -> str:
    """The same for a TARGET."""
    user, _, rest = word.rpartition("@")
    for reading in hints.target(rest):
        try:
            _target(reading)
        except Malformed:
            continue
        return f"Write {MASK}@{reading}" if user else f"Write {reading}"
    try:
        _forward(word, Kind.LOCAL)
    except Malformed:
        return "Write an alias of ssh_config, user@host:port or ssh://user@host:port"
    return f"TARGET comes first, then the SPEC: %forward bastion {quote(word)[1:-1]}"
