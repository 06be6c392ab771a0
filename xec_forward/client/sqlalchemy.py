"""A SQLAlchemy engine over a tunnel, for `Tunnel.engine()`. SQLAlchemy itself is imported at the first use.

A string cannot survive sleep, rotation or restarts; this engine does: a connection that a lost link has reset is
noticed before it is handed out (`pool_pre_ping`), and the password's SOURCE is asked anew for each connection.
The engine's URL holds no password, so nothing that displays it can show one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..dsn import SECRET_KEYS, ConnectionString, Parts, taken_apart
from ..errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

# scheme -> drivers as (SQLAlchemy's name, module, what to install), the best first
_DRIVERS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "postgresql": (
        ("psycopg", "psycopg", "'psycopg[binary]'"),
        ("psycopg2", "psycopg2", "psycopg2-binary"),
        ("pg8000", "pg8000", "pg8000"),
    ),
    "mysql": (
        ("mysqldb", "MySQLdb", "mysqlclient"),
        ("pymysql", "pymysql", "pymysql"),
        ("mysqlconnector", "mysql.connector", "mysql-connector-python"),
    ),
    "mssql": (("pymssql", "pymssql", "pymssql"), ("pyodbc", "pyodbc", "pyodbc")),
    "oracle": (("oracledb", "oracledb", "oracledb"),),
    "clickhouse": (
        ("connect", "clickhouse_connect", "clickhouse-connect"),
        ("http", "clickhouse_sqlalchemy", "clickhouse-sqlalchemy"),
    ),
}
_DRIVERS["mariadb"] = _DRIVERS["mysql"]
# The one that installs everywhere without a compiler is the one to suggest.
_SUGGESTED = {"mysql": "pymysql", "mariadb": "pymysql"}


def make_engine(dsn: str, resolve_password: Callable[[], str | None], **kw: Any) -> Engine:
    """A SQLAlchemy engine for a connection string, with a driver that is installed. Opens no connection yet.

    Args:
        dsn: where to connect, as `dsn.make` makes it: host and port are the tunnel's. A driver named in it
            (`postgresql+psycopg2://`) is used; a password in it serves where `resolve_password` gives None.
        resolve_password: called for each new connection, in the thread that connects; None means no password.
        kw: for `sqlalchemy.create_engine`; `pool_pre_ping` is true unless told.

    Raises:
        ConfigError: SQLAlchemy or a driver is missing (the hint is the line that installs it), or it has no
            dialect for this scheme.
    """
    text = ConnectionString(dsn).reveal()
    parts = taken_apart(text)
    driver = _driver(parts)
    try:
        import sqlalchemy
        from sqlalchemy import event
    except ImportError:
        raise ConfigError("SQLAlchemy is not installed", hint="%pip install sqlalchemy") from None
    query = {key: value for key, value in parts.parameters if key.lower() not in SECRET_KEYS}
    host, port = parts.host or None, parts.port
    if parts.host.startswith("/") and parts.base == "postgresql":
        # A unix socket's directory: SQLAlchemy takes it from the query, together with the port.
        query = {"host": parts.host, "port": str(parts.port), **query}
        host, port = None, None
    url = sqlalchemy.URL.create(
        f"{parts.base}+{driver}", parts.user or None, None, host, port, parts.database or None, query
    )
    try:
        engine = sqlalchemy.create_engine(url, **{"pool_pre_ping": True, **kw})
    except sqlalchemy.exc.NoSuchModuleError:
        raise ConfigError(f"SQLAlchemy has no dialect {url.drivername}") from None
    except ImportError as error:
        raise ConfigError(
            f"the driver {driver} is not installed", hint=f"%pip install {error.name or driver}"
        ) from None

    @event.listens_for(engine, "do_connect")
    def _give_password(dialect: Any, record: Any, arguments: list[Any], named: dict[str, Any]) -> None:
        password = resolve_password()
        if password is None:
            password = parts.password or None
        if password is None:
            return
        # Each dialect has its own name for it (password, passwd, PWD= in a string): let it say.
        fresh_arguments, fresh = dialect.create_connect_args(url.set(password=password))
        arguments[:] = fresh_arguments
        for key, value in fresh.items():
            # What was there may be the user's own connect_args.
            named.setdefault(key, value)
        for key in ("password", "passwd"):
            if key in fresh:
                named[key] = fresh[key]

    return engine


def _driver(parts: Parts) -> str:
    base, _, asked = parts.scheme.partition("+")
    known = _DRIVERS.get(base)
    if known is None:
        raise ConfigError(f"SQLAlchemy has no dialect for {base or 'this connection string'}")
    choices = [choice for choice in known if choice[0] == asked] if asked else known
    for name, module, _ in choices:
        try:
            importlib.import_module(module)
        except ImportError:  # not installed, or (psycopg without a libpq) not usable
            continue
        return name
    if asked and not choices:
        return asked  # one we know nothing of: SQLAlchemy says whether it does
    packages = [package for _, _, package in choices]
    wanted = _SUGGESTED[base] if _SUGGESTED.get(base) in packages else packages[0]
    raise ConfigError(f"no driver for {base} is installed", hint=f"%pip install {wanted}")
