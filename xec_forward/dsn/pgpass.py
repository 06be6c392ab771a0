"""PostgreSQL's password file. Ground floor; `password_from_pgpass` reads the file, nothing else does.

The format and its rules: https://www.postgresql.org/docs/current/libpq-pgpass.html. A line is
`hostname:port:database:username:password`; `*` alone in a field matches anything; `\\` escapes `:` and `\\`;
the first line that matches counts; a file that others can read is ignored.
"""

from __future__ import annotations

import getpass
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from .connection_string import parse_template

_FIELD = re.compile(r"((?:[^:\\]|\\.|\\$)*)(?::|$)")


def password_for(template: str, far_host: str, far_port: int, path: str | os.PathLike[str] | None = None) -> str | None:
    """The password of a PostgreSQL template under the far host's name; None for other services and without a match.

    Args:
        template: the connection string asked for; a host in it is the far one and wins over `far_host`.
        far_host: the service's name as the last hop sees it ("" means localhost there).
        far_port: its port there.
        path: see `password_from_pgpass`.

    Raises:
        SpecError: the template is malformed.
    """
    parts = parse_template(template)
    if parts.scheme.partition("+")[0] != "postgresql":
        return None
    host, port = parts.host or far_host or "localhost", parts.port or far_port
    return password_from_pgpass(host, port, parts.database, parts.user, path)


def password_from_pgpass(
    host: str, port: int, database: str, user: str, path: str | os.PathLike[str] | None = None
) -> str | None:
    """Look a password up as libpq does.

    Args:
        host: the host as the file names it: for a tunnel the far host, not 127.0.0.1.
        port: the port as the file names it: the far one.
        database: "" means the one named like the user, as in libpq.
        user: "" means the operating system's user, as in libpq.
        path: the file; PGPASSFILE or `~/.pgpass` where it is None.

    Returns:
        The password, or None: no file, no line that matches, no regular file, or (POSIX) a file that others can use.
    """
    file = _default_path() if path is None else Path(path).expanduser()
    try:
        # The rights are those of the file that is read, whatever the name stands for a moment later.
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if not stat.S_ISREG(mode) or (os.name == "posix" and mode & 0o077):
                return None
            text = opened.read().decode("utf-8", "replace")
    except OSError:
        return None
    user = user or _system_user()
    wanted = (host, str(port), database or user, user)
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if not line or line.startswith("#"):
            continue
        raw = list(_fields(line))
        if len(raw) == 4 and all(
            field == "*" or _unescaped(field) == value for field, value in zip(raw, wanted, strict=True)
        ):
            rest = line[sum(len(field) + 1 for field in raw) :]
            # libpq ends the password too at a colon that is not escaped.
            found = _FIELD.match(rest)
            return (_unescaped(found[1]) if found else "") or None
    return None


def _fields(line: str) -> Iterator[str]:
    """The first four fields, still escaped; fewer where the line is too short. The rest is the password."""
    start = 0
    for _ in range(4):
        found = _FIELD.match(line, start)
        if not found or found.end() == found.end(1):
            return
        yield found[1]
        start = found.end()


def _unescaped(field: str) -> str:
    return re.sub(r"\\(.)", r"\1", field)


def _default_path() -> Path:
    if named := os.environ.get("PGPASSFILE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", "~"), "postgresql", "pgpass.conf").expanduser()
    return Path.home() / ".pgpass"


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""
