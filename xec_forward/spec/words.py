"""How a word of the line may be shown in an error: quoted, on one line, without what could be secret.

Ground floor, no I/O. What is hidden: the user-info of a URL or of `user:password@host`, the values of query
parameters that carry passwords, and whatever stands where a URL's port should and is no number.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["holds_password", "quote", "redact", "shorten"]

MASK = "***"
_LONGEST = 80

_FRONT = re.compile(r"(?:[^\W\d]\w*=)?[A-Za-z][A-Za-z0-9+.-]*://")
_AUTHORITY = re.compile(r"([^/?#\[\]:]*):([^/?#]*)")
_NO_PASSWORD = re.compile("[^:]*:[0-9]{0,5}|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:]*")  # a port, or bare IPv6
_SEPARATOR = re.compile(r"([&;])")
_SECRET_KEY = re.compile(r"pass(?!file)|pwd|secret|token", re.IGNORECASE)


def holds_password(query: str) -> bool:
    """Whether a URL's query carries a password, as libpq's `?password=` does (PostgreSQL manual, 34.1.2)."""
    return any(_secret(parameter) for parameter in _SEPARATOR.split(query))


def redact(word: str) -> str:
    """The word without user-info and without passwords in a query.

    >>> redact("sales=postgresql://ana:secret@pg.vpc/sales")
    'sales=postgresql://***@pg.vpc/sales'
    """
    found = _FRONT.match(word)
    front, rest = (found.group(), word[found.end() :]) if found else ("", word)
    # The last @, not the first: an unescaped password may hold any of / ? # and @.
    _, at, rest = rest.rpartition("@")
    if at:
        rest = f"{MASK}@{rest}"
    elif front and (port := _AUTHORITY.match(rest)) and not _NO_PASSWORD.fullmatch(port[0]):
        # `postgresql://ana:secret/sales`: the host was forgotten, and this is the password.
        rest = f"{port[1]}:{MASK}{rest[port.end() :]}"
    head, mark, query = rest.partition("?")
    if mark:
        query = "".join(
            part.partition("=")[0] + f"={MASK}" if _secret(part) else part for part in _SEPARATOR.split(query)
        )
    return front + head + mark + query


def shorten(text: str) -> str:
    """The text, cut in its middle where it is longer than an error's line can carry."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]}…{text[-19:]}"


def quote(word: str) -> str:
    """The word as an error shows it: redacted, shortened, in quotes, control characters escaped."""
    return repr(shorten(redact(word)))


def _secret(parameter: str) -> bool:
    key, equals, _ = parameter.partition("=")
    return bool(equals) and _SECRET_KEY.search(unquote(key)) is not None
