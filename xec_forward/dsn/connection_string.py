"""Connection strings: real to libraries, masked to readers. Ground floor, no I/O.

    make("postgresql://ana@/sales", host="127.0.0.1", port=49211, password=...)
        -> postgresql://ana:***@127.0.0.1:49211/sales         (shown)

A *template* is what the user writes with `--dsn` or as a SPEC: scheme, user, database and parameters. A host and
port in it are the far ones; the string that is made leads to the tunnel. It never holds a password.

URL syntax: RFC 3986. PostgreSQL's URL and key=value forms: its manual, "Connection Strings" (libpq). Escapes of
the key=value form: a value in single quotes, with ' and \\ behind a backslash.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import SupportsIndex
from urllib.parse import quote, unquote

from ..errors import ConfigError, SpecError
from ..services import PORTS, scheme_for_name, scheme_for_port
from ..source import SOURCE_FORMS
from ..spec import Forward, Kind, Resource
from .urls import MASK, SCHEME, SECRET_KEYS, Parts, conninfo_of, masked, query_of, suffix, taken_apart

__all__ = ["ConnectionString", "Secret", "make", "parse_template", "suffix", "template_for"]

PASSWORD_HINT = f"Leave it out and give --password SOURCE: {SOURCE_FORMS}"

_PG_SOCKET = re.compile(r"(.*)/\.s\.PGSQL\.(\d+)")
_PG_VARIABLES = {
    "hostaddr": "PGHOSTADDR",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "channel_binding": "PGCHANNELBINDING",
    "application_name": "PGAPPNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "options": "PGOPTIONS",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}


class Secret(str):
    """A password among `ConnectionString.params`: masked in a repr and in an f-string.

    `str()` and `print()` give the real text, because psycopg and psycopg2 call `str()` on what they are given.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'"

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def reveal(self) -> str:
        """The real text, as a plain `str`."""
        return str.__str__(self)


class ConnectionString(str):
    """A connection string whose characters are real and whose display is masked.

    Libraries that take a string read its characters. `print`, `repr`, `str`, f-strings, `%` and `.format` show
    `***` in the place of the password; so a text built from it needs `reveal()`. What still leaks is listed in
    docs/connection-strings.md. Equality and hash are those of the real text; copies and pickles keep the class,
    and a pickle holds the real text.

    >>> dsn = ConnectionString("postgresql://ana:s3cret@127.0.0.1:5432/sales")
    >>> print(dsn)
    postgresql://ana:***@127.0.0.1:5432/sales
    """

    __slots__ = ()

    def __new__(cls, text: str) -> ConnectionString:
        # str.__new__ would take the masked display of another ConnectionString.
        return super().__new__(cls, str.__str__(text))

    def __str__(self) -> str:
        return masked(str.__str__(self))

    def __repr__(self) -> str:
        return repr(masked(str.__str__(self)))

    def __format__(self, spec: str) -> str:
        return format(masked(str.__str__(self)), spec)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[object, ...]:
        return (type(self), (str.__str__(self),))

    def reveal(self) -> str:
        """The real text, as a plain `str`."""
        return str.__str__(self)

    @property
    def scheme(self) -> str:
        """The scheme without a driver: `postgresql`, `redis`."""
        return taken_apart(self.reveal()).base

    def sqlalchemy(self, driver: str) -> ConnectionString:
        """The same with a driver named, as SQLAlchemy's URLs have it: `postgresql+psycopg://...`.

        Args:
            driver: `psycopg`, `psycopg2`, `pymysql`...; "" for none.

        Raises:
            ConfigError: it is not a URL.
        """
        found = SCHEME.fullmatch(self.reveal())
        if not found:
            raise ConfigError("only a URL can name a SQLAlchemy driver")
        base = found[1].partition("+")[0]
        return ConnectionString(f"{base}+{driver}://{found[2]}" if driver else f"{base}://{found[2]}")

    @property
    def libpq(self) -> ConnectionString:
        """PostgreSQL's key=value form: `host=127.0.0.1 port=5432 user=ana dbname=sales`.

        Raises:
            ConfigError: the service is not PostgreSQL.
        """
        if self.scheme != "postgresql":
            raise ConfigError(f"the key=value form is PostgreSQL's, and this is {self.scheme or 'something else'}")
        # str() of a Secret is its real text.
        return ConnectionString(conninfo_of((key, str(value)) for key, value in self.params.items()))

    @property
    def env(self) -> dict[str, str]:
        """The environment variables by which the service's own programs find it. Never a password."""
        parts = taken_apart(self.reveal())
        port = "" if parts.port is None else str(parts.port)
        match parts.base:
            case "postgresql":
                named = {"PGHOST": parts.host, "PGPORT": port, "PGUSER": parts.user, "PGDATABASE": parts.database}
                named |= {_PG_VARIABLES[key]: value for key, value in parts.parameters if key in _PG_VARIABLES}
            case "mysql" | "mariadb":
                named = {"MYSQL_HOST": parts.host, "MYSQL_TCP_PORT": port}
                named["MYSQL_UNIX_PORT"] = dict(parts.parameters).get("unix_socket", "")
            case "redis" | "rediss" | "unix":
                named = {"REDIS_URL": self._without_password()}
            case "mongodb":
                named = {"MONGODB_URI": self._without_password()}
            case "mssql":
                named = {"SQLCMDSERVER": f"tcp:{parts.host},{port}", "SQLCMDUSER": parts.user}
                named["SQLCMDDBNAME"] = parts.database
            case "cassandra":
                named = {"CQLSH_HOST": parts.host, "CQLSH_PORT": port}
            case _:
                named = {}
        return {name: value for name, value in named.items() if value}

    @property
    def params(self) -> dict[str, object]:
        """Keyword arguments for the usual driver: `psycopg.connect(**pg_dsn.params)`.

        The database is `dbname` for PostgreSQL, `db` for redis, else `database`; the login name `username` for
        redis and MongoDB, else `user`. The password is a `Secret`: real to the driver, masked in the dict's display.
        """
        parts = taken_apart(self.reveal())
        base = "redis" if parts.base in ("rediss", "unix") else parts.base
        user = "username" if base in ("redis", "mongodb") else "user"
        named: dict[str, object] = {"host": parts.host, "port": parts.port, user: parts.user}
        if parts.base == "unix":
            named["unix_socket_path"] = unquote(parts.path)
        elif suffix(base) == "url":
            named["path"] = parts.path
        elif base == "redis":
            named["db"] = int(parts.database) if parts.database.isdecimal() else parts.database
        else:
            named["dbname" if base == "postgresql" else "database"] = parts.database
        named["password"] = Secret(parts.password)
        for key, value in parts.parameters:
            named[key] = Secret(value) if key.lower() in SECRET_KEYS else value
        return {key: value for key, value in named.items() if value not in ("", None)}

    def _without_password(self) -> str:
        parts = taken_apart(self.reveal())
        query = query_of(pair for pair in parts.parameters if pair[0].lower() not in SECRET_KEYS)
        return replace(parts, password="", query=query).url


def template_for(forward: Forward, dsn_option: str = "") -> str:
    """The template a forward asks for: `--dsn`, else its URL, else the scheme that its far port suggests, else "".

    A Kubernetes port is known by its number or by its name.
    """
    if dsn_option or forward.url:
        return dsn_option or forward.url
    if forward.kind is Kind.DYNAMIC:
        return "socks5h://"
    if forward.kind is Kind.REMOTE or forward.connect is None:
        return ""
    socket = _PG_SOCKET.fullmatch(forward.connect.path)
    port = int(socket[2]) if socket else forward.connect.port
    scheme = scheme_for_port(port) if port else scheme_for_name(forward.connect.port_name)
    return f"{scheme}://" if scheme else ""


def parse_template(template: str, scheme: str = "") -> Parts:
    """Take a template apart.

    Args:
        template: a URL; `ana@/sales` and "" too where `scheme` says what it is; a bare scheme.
        scheme: the scheme of a template without one.

    Raises:
        SpecError: it is no URL, or it holds a password. The text never repeats the template.
    """
    text = template.strip()
    if not SCHEME.fullmatch(text):
        if scheme:
            text = f"{scheme}://{text.removeprefix('//')}"
        elif text.lower() in PORTS:
            text = f"{text}://"
        else:
            raise SpecError("the connection string is not a URL", hint="Write it as postgresql://USER@/DATABASE")
    parts = taken_apart(text)
    if parts.password or any(key.lower() in SECRET_KEYS for key, _ in parts.parameters):
        raise SpecError("the connection string holds a password", hint=PASSWORD_HINT)
    _, *behind = re.split("[/?#]", text.partition("://")[2], maxsplit=1)
    if suffix(parts.scheme) == "dsn" and "@" in "".join(behind):
        # ana:12/34@host reads as host "ana", port 12: the rest of a password would be shown.
        raise SpecError(
            "the connection string has an @ behind its host",
            hint=f"Write %40 for it; if it belongs to a password: {PASSWORD_HINT[0].lower()}{PASSWORD_HINT[1:]}",
        )
    return parts


def make(
    template: str, *, host: str, port: int, scheme: str = "", password: str | None = None, far_host: str = ""
) -> ConnectionString:
    """The connection string that leads through a tunnel.

    Args:
        template: see `parse_template`.
        host: where the tunnel listens: an address, or (beginning with a slash) its unix socket's path, or the
            directory of PostgreSQL's socket together with `port`.
        port: the tunnel's port.
        scheme: the scheme of a template without one.
        password: the service's password.
        far_host: the far host's name. With it, or with a host in the template, `sslmode=verify-full` (or a
            `hostaddr` in the template) makes `host=FAR hostaddr=127.0.0.1`, so that PostgreSQL's clients check
            the certificate against the real name.

    Raises:
        SpecError: see `parse_template`.
        ConfigError: no string of this scheme can lead to that unix socket.
    """
    parts = replace(parse_template(template, scheme), password=password or "")
    if suffix(parts.scheme) == "url":
        if host.startswith("/"):
            raise ConfigError("no URL leads to a unix socket", hop=host, hint="Listen on a port")
        return ConnectionString(replace(parts, host=_reachable(host), port=port).url)
    parameters = [pair for pair in parts.parameters if pair[0] not in ("host", "port", "hostaddr", "unix_socket")]
    path = "/" + quote(parts.database, safe="") if parts.database else parts.path
    if parts.base == "mongodb":
        path = path or "/"
        if "directconnection" not in (key.lower() for key, _ in parameters):
            # Else the driver would go on to the addresses that the replica set tells it: far ones.
            parameters.append(("directConnection", "true"))
    if host.startswith("/"):
        return ConnectionString(_through_socket(replace(parts, path=path), host, port, parameters).url)
    # A RESOURCE is no name that a certificate could be for.
    name, address = parts.host or ("" if Resource.stands_in(far_host) else far_host), _reachable(host)
    wants_name = any(pair == ("sslmode", "verify-full") or pair[0] == "hostaddr" for pair in parts.parameters)
    if parts.base == "postgresql" and wants_name and name and not name.startswith("/"):
        parameters.insert(0, ("hostaddr", address))
        address = name
    return ConnectionString(replace(parts, host=address, port=port, path=path, query=query_of(parameters)).url)


def _reachable(host: str) -> str:
    """The address at which a listener is reached: for a wildcard, loopback."""
    return {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _through_socket(parts: Parts, path: str, port: int, parameters: list[tuple[str, str]]) -> Parts:
    if parts.base == "postgresql":
        # libpq takes the directory and makes the name itself: DIRECTORY/.s.PGSQL.PORT
        socket = _PG_SOCKET.fullmatch(path)
        directory, number = (socket[1], int(socket[2])) if socket else (path, port)
        if not number:
            raise ConfigError(
                "PostgreSQL's clients cannot use a socket of this name",
                hop=path,
                hint="End its path with /.s.PGSQL.5432",
            )
        query = query_of([("host", directory), ("port", str(number)), *parameters])
        return replace(parts, host="", port=None, path=parts.path or "/", query=query)
    if parts.base in ("mysql", "mariadb"):
        query = query_of([("unix_socket", path), *parameters])
        return replace(parts, host="", port=None, path=parts.path or "/", query=query)
    if parts.base == "redis":
        number_of = [("db", parts.database)] if parts.database else []
        query = query_of([*number_of, *parameters])
        return replace(parts, scheme="unix", host="", port=None, path=quote(path), query=query)
    if parts.base == "mongodb":
        return replace(parts, host=path, port=None, query=query_of(parameters))
    raise ConfigError(f"no {parts.base} connection string leads to a unix socket", hop=path, hint="Listen on a port")
