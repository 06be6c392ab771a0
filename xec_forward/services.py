"""Which protocol speaks on which port, and what to do with it: the table of docs/surface.md. Ground floor, no I/O.

A fixed table and not /etc/services: that file differs between machines, and lacks most of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = [
    "HINTS",
    "PORTS",
    "SCHEMES",
    "fragile",
    "hint_for_port",
    "port_for_scheme",
    "port_for_service",
    "scheme_for_name",
    "scheme_for_port",
]

SCHEMES: Mapping[int, str] = MappingProxyType(
    {
        5432: "postgresql",
        6432: "postgresql",  # PgBouncer
        5439: "postgresql",  # Redshift
        26257: "postgresql",  # CockroachDB
        3306: "mysql",
        1433: "mssql",
        1521: "oracle",
        6379: "redis",
        27017: "mongodb",
        9200: "http",  # Elasticsearch, OpenSearch
        80: "http",
        3000: "http",
        8000: "http",
        8080: "http",
        9090: "http",  # Prometheus
        443: "https",
        8443: "https",
        8123: "clickhouse",
        9042: "cassandra",
    }
)
"""Far port -> scheme of the connection string."""

PORTS: Mapping[str, int] = MappingProxyType(
    {
        "postgresql": 5432,
        "postgres": 5432,  # libpq takes both spellings (PostgreSQL manual, 34.1.1.2 Connection URIs)
        "mysql": 3306,
        "mariadb": 3306,
        "mssql": 1433,
        "oracle": 1521,
        "redis": 6379,
        "rediss": 6379,
        "mongodb": 27017,
        "http": 80,
        "https": 443,
        "clickhouse": 8123,
        "cassandra": 9042,
    }
)
"""Scheme -> its own port."""

HINTS: Mapping[int, str] = MappingProxyType(
    {
        # VS Code's launch.json (Python debugging, "Remote attach"); other DAP clients take the same two values.
        5678: 'attach with debugpy: {{"type": "debugpy", "request": "attach", '
        '"connect": {{"host": "{host}", "port": {port}}}}}',
        # Node.js, "Debugging Node.js": Chrome itself only looks at port 9229 of localhost.
        9229: "attach with node inspect {address}, or chrome://inspect with {address} under Configure",
        2345: "attach with dlv connect {address}",
        9090: "metrics: http://{address}/metrics",
    }
)
"""Far port -> what to do with it, where no connection string tells; see `hint_for_port`."""

# What people call these ports in a pod, in the place of their numbers.
_HINT_NAMES: Mapping[str, int] = MappingProxyType(
    {"debugpy": 5678, "inspect": 9229, "dlv": 2345, "delve": 2345, "metrics": 9090}
)

# Debuggers that a connection which only looks may undo. Delve ends with its first client (dlv-exec(1),
# --accept-multiclient), as does gdbserver, often at that port too. debugpy lets nobody in any more once a client left
# in the very moment in which it writes to it (adapter/sessions.py, `report_sockets`, in the thread that accepts).
_FRAGILE = frozenset({2345, 5678})

# Names of the services registry (IANA) that differ from the scheme's, as people write them after a host.
_SERVICES: Mapping[str, int] = MappingProxyType({"ssh": 22, "ms-sql-s": 1433, "elasticsearch": 9200})


def scheme_for_port(port: int) -> str:
    """The scheme usually spoken on a far port, "" where none is known."""
    return SCHEMES.get(port, "")


def scheme_for_name(name: str) -> str:
    """The scheme that a Kubernetes port's name tells, "" where it tells none.

    People name ports after the protocol, with a suffix after a dash (`http-web`: Istio, "Protocol Selection") or with
    `tcp-` in front.

    >>> scheme_for_name("postgres"), scheme_for_name("tcp-redis"), scheme_for_name("http-web"), scheme_for_name("x")
    ('postgresql', 'redis', 'http', '')
    """
    name = name.removeprefix("tcp-")
    for protocol in (name, name.partition("-")[0]):
        if port := port_for_service(protocol):
            # Schemes that share a port with another one go by their own names.
            return protocol if protocol in PORTS and protocol != "postgres" else SCHEMES.get(port, "")
    return ""


def hint_for_port(port: int | None, name: str, host: str, local_port: int) -> str:
    """What to do with a tunnel to a debugger's or a metrics port, in one line; "" where the port tells nothing.

    Args:
        port: the far port; None where it is known by name only.
        name: the far port's name, "" for none.
        host: where the tunnel listens, and `local_port`.

    >>> hint_for_port(9090, "", "127.0.0.1", 19090)
    'metrics: http://127.0.0.1:19090/metrics'
    """
    hint = HINTS.get(port or _HINT_NAMES.get(name, 0), "")
    address = f"[{host}]:{local_port}" if ":" in host else f"{host}:{local_port}"
    return hint.format(host=host, port=local_port, address=address)


def fragile(port: int | None, name: str) -> bool:
    """Whether a connection that only looks may be the last that a service takes: a debugger's port.

    Args:
        port: the far port; None where it is known by name only.
        name: the far port's name, "" for none.

    >>> fragile(2345, ""), fragile(None, "debugpy"), fragile(9229, "")
    (True, True, False)
    """
    return (port or _HINT_NAMES.get(name)) in _FRAGILE


def port_for_scheme(scheme: str) -> int | None:
    """The port of a URL's scheme, None where it is not known.

    A driver after a plus, as SQLAlchemy writes it (`postgresql+psycopg`), changes nothing. `mongodb+srv`
    has no port: it stands for a DNS query that only the far side could answer.
    """
    base, _, driver = scheme.lower().partition("+")
    return None if driver == "srv" else PORTS.get(base)


def port_for_service(name: str) -> int | None:
    """The port that a service name stands for, as in `pg.vpc:postgresql`; None where it is not known."""
    name = name.lower()
    return PORTS.get(name, _SERVICES.get(name))
