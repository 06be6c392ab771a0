"""Connection strings as plain text: taken apart, put together, masked. Ground floor, no I/O.

`dsn` is the room for users of connection strings; this one knows their two grammars: URLs (RFC 3986, and what
PostgreSQL's manual says of its own under "Connection URIs"), and PostgreSQL's key=value form, where a value may
stand in single quotes and has ' and \\ behind a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

MASK = "***"
SECRET_KEYS = ("password", "passwd", "pwd", "pass", "sslpassword", "tlscertificatekeyfilepassword")

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_QUERY_WORD = re.compile(r"([?&;])([^=?&;#]+)=([^&;#]+)")
_CONNINFO = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'?|(?:[^\s\\]|\\.)*)", re.DOTALL)
_WEB = ("http", "https", "ws", "wss")
_PATH = "/%:@!$&'()*+,;=~"  # besides letters, digits, "-._~": RFC 3986, pchar
_SOCKS = ("socks5h", "socks5", "socks4", "socks4a")


@dataclass(frozen=True, slots=True)
class Parts:
    """A connection string taken apart.

    Attributes:
        scheme: in lower case, as it is to be used: `postgresql`, also for `postgres://`.
        user, password, host: decoded; "" where they are not written.
        path: as written, with its slash.
        query: as written, without its question mark.
    """

    scheme: str
    user: str = ""
    password: str = field(default="", repr=False)
    host: str = ""
    port: int | None = None
    path: str = field(default="", repr=False)
    query: str = field(default="", repr=False)

    @property
    def base(self) -> str:
        """The scheme without a driver."""
        return self.scheme.partition("+")[0]

    @property
    def database(self) -> str:
        """The path without its slash, decoded."""
        return unquote(self.path.removeprefix("/"))

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """The query's keys and values in order, decoded."""
        pairs = (word.partition("=") for word in self.query.split("&") if word)
        return tuple((unquote(key), unquote(value)) for key, _, value in pairs)

    @property
    def url(self) -> str:
        """Put together again, everything percent-encoded that must be."""
        login = quote(self.user, safe="") + (":" + quote(self.password, safe="") if self.password else "")
        place = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="*,")
        place += "" if self.port is None else f":{self.port}"
        # Path and query are kept as written; what no URL may hold is encoded.
        path, query = quote(self.path, safe=_PATH), quote(self.query, safe=_PATH + "?")
        return f"{self.scheme}://{login}{'@' if login else ''}{place}{path}{'?' if query else ''}{query}"


def query_of(parameters: Iterable[tuple[str, str]]) -> str:
    """Keys and values as a query."""
    return "&".join(f"{quote(key, safe='')}={quote(value, safe='/:,')}" for key, value in parameters)


def suffix(scheme: str) -> str:
    """What the injected name ends with: "url" for HTTP and SOCKS, else "dsn"."""
    return "url" if scheme.lower() in (*_WEB, *_SOCKS) else "dsn"


def taken_apart(text: str) -> Parts:
    """A URL's or a key=value string's parts; a Parts without a scheme where it is neither."""
    if found := SCHEME.fullmatch(text):
        return _url_parts(found[1].lower(), found[2])
    named = dict(_conninfo_words(text))
    known = ("host", "port", "user", "dbname", "password")
    digits = named.get("port", "")
    return Parts(
        scheme="postgresql" if named else "",
        user=named.get("user", ""),
        password=named.get("password", ""),
        host=named.get("host", ""),
        port=int(digits) if digits.isdecimal() else None,
        path="/" + quote(named["dbname"], safe="") if "dbname" in named else "",
        query=query_of(pair for pair in named.items() if pair[0] not in known),
    )


def _url_parts(scheme: str, rest: str) -> Parts:
    name, plus, driver = scheme.partition("+")
    if (name, driver) == ("mongodb", "srv"):
        scheme = "mongodb"  # a DNS query that only the far side could answer; a tunnel leads to one server
    elif name == "postgres":
        scheme = f"postgresql{plus}{driver}"
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    place, slash, path = rest.partition("/")
    path = slash + path
    login, _, place = place.rpartition("@")
    user, _, password = login.partition(":")
    address = re.fullmatch(r"\[([^]]*)\](?::(\d+))?|([^:]*)(?::(\d+))?", place)
    host = unquote((address[1] or address[3] or "") if address else "")
    digits = (address[2] or address[4] or "") if address else ""
    if address is None and "@" in path + query + fragment:
        password = password or MASK  # ana:p/w@host: what should be a port is the beginning of a password
    if scheme.startswith("postgresql"):
        # libpq's URLs may say these in the query too, and must for a unix socket.
        named = dict(Parts("", query=query).parameters)
        host, user = host or named.get("host", ""), user or quote(named.get("user", ""), safe="")
        digits = digits or named.get("port", "")
        if not path.strip("/") and "dbname" in named:
            path = "/" + quote(named["dbname"], safe="")
        moved = ("host", "port", "user", "dbname")
        query = "&".join(word for word in query.split("&") if unquote(word.partition("=")[0]) not in moved)
    port = int(digits) if digits.isdecimal() else None
    return Parts(scheme, unquote(user), unquote(password), host, port, path, query)


def conninfo_of(words: Iterable[tuple[str, str]]) -> str:
    """PostgreSQL's key=value form."""
    return " ".join(f"{key}={_conninfo_value(value)}" for key, value in words)


def _conninfo_words(text: str) -> Iterator[tuple[str, str]]:
    for found in _CONNINFO.finditer(text):
        value = found[2][1:].removesuffix("'") if found[2].startswith("'") else found[2]
        yield found[1], re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)


def _conninfo_value(value: str) -> str:
    if re.fullmatch(r"[^\s'\\]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def masked(text: str) -> str:
    """The text with every password in it replaced by `***`; rather too much of it than too little."""
    found = SCHEME.fullmatch(text)
    if not found:
        return _CONNINFO.sub(
            lambda word: f"{word[1]}={MASK}" if word[2] and word[1].lower() in SECRET_KEYS else word[0], text
        )
    scheme, rest = found[1], found[2]
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    if suffix(scheme) == "url" and ("@" in place or re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", place)):
        login, at, _ = place.rpartition("@")
    else:
        # Made by `make`, the only @ ends the login; a string written by hand may have a raw one, or a / before it.
        login, at, _ = rest.rpartition("@")
    user, colon, password = login.partition(":")
    if at and password:
        rest = f"{user}{colon}{MASK}@{rest[len(login) + 1 :]}"
    return f"{scheme}://" + _QUERY_WORD.sub(
        lambda word: f"{word[1]}{word[2]}={MASK}" if unquote(word[2]).lower() in SECRET_KEYS else word[0], rest
    )
