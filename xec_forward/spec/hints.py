"""The nearest word that fits, for the hint of an error. Ground floor, no I/O.

It guesses readings of a malformed word, the likeliest first; whoever asks tries each with the real parser and
shows the first that passes. So a hint is always a form that works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..services import port_for_service
from .names import is_address
from .words import MASK, redact

__all__ = ["bracketed", "dynamic", "is_ipv6", "local", "remote", "target", "url"]

_LONGEST = 100  # no guessing about words that nobody typed
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[\w.-]+)?")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(.*)", re.DOTALL)


def is_ipv6(text: str) -> bool:
    """Whether it is an IPv6 address, with or without a zone (RFC 4007, 11)."""
    return ":" in text and _IPV6.fullmatch(text) is not None and is_address(text)


def bracketed(text: str) -> Iterator[str]:
    """Readings of a word in which an IPv6 address lacks its brackets."""
    if text.count(":") < 2 or "[" in text or len(text) > _LONGEST or re.fullmatch("[0-9]+::[0-9]+", text):
        return
    colons = [place for place, character in enumerate(text) if character == ":"]
    fronts = [-1, *colons[:2]]
    if re.match("(?!2[0-9]{3}:)[0-9]+:", text):
        # The first group is likelier a port: addresses in use start with 2001 and its like, or with letters.
        fronts = [colons[0], -1, colons[1]]
    for front in fronts:
        head, rest = text[: front + 1], text[front + 1 :]
        address, _, port = rest.rpartition(":")
        if is_ipv6(address) and port:
            yield f"{head}[{address}]:{port}"
        if is_ipv6(rest):
            yield f"{head}[{rest}]"


def url(word: str) -> Iterator[str]:
    """Readings of a URL; its user-info stays masked."""
    found = _URL.fullmatch(redact(word)) if len(word) <= _LONGEST else None
    if found is None:
        return
    scheme, rest = found.groups()
    user = f"{MASK}@" if rest.startswith(f"{MASK}@") else ""
    rest = rest.removeprefix(user)
    host = re.split("[/?#]", rest)[0]
    tail = rest[len(host) :]
    for address in bracketed(host):
        yield f"{scheme}{user}{address}{tail}"
    if not host or host.startswith(":"):
        yield f"{scheme}{user}pg.vpc{host}{tail}"
    yield host  # an unknown scheme: a plain SPEC needs none


def local(word: str) -> Iterator[str]:
    """Readings of a local SPEC without its name."""
    if _URL.fullmatch(word):
        yield from url(word)
        return
    yield from _both(word)
    match word.rpartition("@")[2].split(":"):
        case [path] if path.startswith("/"):
            yield f"0:{path}"
        case [host]:
            yield f"{host.strip('[]')}:{port_for_service(host) or 5432}"
        case [near, port]:
            yield f"{near}:{port}:{near}"
            yield f"{near or 0}:localhost:{port}"
            yield f"{near}:0:{port}"
            yield f"{near}:{port_for_service(near) or 5432}"


def remote(word: str) -> Iterator[str]:
    """Readings of the argument of -R without its name."""
    yield from _both(word)
    match word.rpartition("@")[2].split(":"):
        case [port]:
            yield f"{port}:localhost:{port}"
        case [near, port]:
            yield f"{near or 0}:localhost:{port}"
            yield f"0:{near}:{port}"


def dynamic(word: str) -> Iterator[str]:
    """Readings of the argument of -D without its name."""
    if len(word) <= _LONGEST:
        yield from bracketed(word)
        yield from (part for part in word.split(":") if part.isdigit())


def target(word: str) -> Iterator[str]:
    """Readings of a TARGET without its user."""
    if len(word) <= _LONGEST:
        yield from bracketed(word)
        yield word.strip("[]: ")


def _both(word: str) -> Iterator[str]:
    """What -L and -R have in common."""
    if len(word) > _LONGEST:
        return
    word = word.rpartition("@")[2]
    yield word
    for address in bracketed(word):
        yield address
        yield f"{address}:5432"
    match word.split(":"):
        case [first, second, third]:
            yield f"{second}:{first}:{third}"
            yield f"{word}:{second}"
            yield f"{first}:{second or 'localhost'}:{third or first}"
            yield f"{first}:{second}:{first}"
        case [*_, first, second, third]:
            yield f"{first}:{second}:{third}"
    yield word.replace("[", "").replace("]", "")
