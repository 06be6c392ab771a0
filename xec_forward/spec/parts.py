"""The parts that a SPEC and a TARGET are made of: hosts, ports, addresses in brackets. Ground floor, no I/O."""

from __future__ import annotations

import re

from ..services import port_for_service
from .hints import is_ipv6
from .names import is_address
from .words import holds_password, quote

__all__ = [
    "URL",
    "Malformed",
    "check_characters",
    "password_in",
    "read_authority",
    "read_host",
    "read_port",
    "split_colons",
]

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
"""Scheme, authority, path, query, fragment (RFC 3986, appendix B)."""


class Malformed(Exception):
    """Why a word does not fit; `parse_forward` and `parse_target` make the SpecError of it."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def check_characters(word: str) -> None:
    """A word of any kind is not empty and has only characters that can be seen."""
    if not word:
        raise Malformed("a word is empty")
    if any(character.isspace() for character in word):
        raise Malformed("it holds white space")
    if not word.isprintable():
        raise Malformed("it holds a control character")


def split_colons(text: str) -> list[str]:
    """Split at the colons that are not inside brackets; brackets stay."""
    parts, start = [], 0
    while True:
        if text.startswith("[", start):
            end = text.find("]", start) + 1
            if not end:
                raise Malformed("a bracket is not closed")
            if end < len(text) and text[end] != ":":
                raise Malformed("after a bracket only a colon and a port may follow")
        else:
            colon = text.find(":", start)
            end = len(text) if colon < 0 else colon
        parts.append(text[start:end])
        if end == len(text):
            return parts
        start = end + 1


_HOST = re.compile(r"(?!-)[\w-]+(?:\.[\w-]+)*\.?")


def read_host(text: str, what: str, *, hidden: bool = False) -> str:
    """A host; `hidden` where a slip may have put a part of a password in its place."""
    if not text:
        raise Malformed(f"{what} is missing")
    reason = f"{what} is malformed" if hidden else f"{quote(text)} stands where {what} is expected"
    if text.startswith("["):
        if not is_ipv6(text[1:-1]):
            raise Malformed(f"{reason}: brackets hold an IPv6 address")
        return text[1:-1]
    if re.fullmatch("[0-9.]+", text):
        if not is_address(text):
            raise Malformed(f"{reason}: it is neither a name nor an IPv4 address")
    elif len(text) > 253 or not _HOST.fullmatch(text):
        raise Malformed(f"{reason}: it is no host name")
    return text


def read_port(text: str, what: str, lowest: int, *, hidden: bool = False) -> int:
    """A port by number, or by its service's name; `hidden` as for `read_host`."""
    if not text:
        raise Malformed(f"{what} is missing")
    named = port_for_service(text)
    if named is not None:
        return named
    if not re.fullmatch("[0-9]{1,5}", text) or not lowest <= int(text) <= 65535:
        reason = f"{what} is malformed" if hidden else f"{quote(text)} stands where {what} is expected"
        raise Malformed(f"{reason}: a number from {lowest} to 65535, or a service's name")
    return int(text)


def read_authority(text: str, what: str, *, hidden: bool) -> tuple[str, int | None]:
    """HOST [":" PORT]."""
    parts = split_colons(text)
    if len(parts) > 2:
        raise Malformed("too many colons")
    host = read_host(parts[0], what, hidden=hidden)
    return host, read_port(parts[1], "the port", 1, hidden=hidden) if len(parts) == 2 else None


def password_in(url: str) -> bool:
    """Whether a URL holds a password, in its user-info or its query, also one with characters it should escape."""
    matched = URL.match(url)
    if matched is None:
        return False
    _, place, path, query, fragment = matched.groups()
    user, at, _ = place.rpartition("@")
    if at:
        return ":" in user or holds_password(query or "")
    # An unescaped / ? or # in the password ended the authority early: `//ana:pa/ss@pg.vpc`, `//ana:12/34@pg.vpc`.
    slipped = ":" in place and "@" in f"{path}{query or ''}{fragment or ''}"
    return slipped or holds_password(query or "")
