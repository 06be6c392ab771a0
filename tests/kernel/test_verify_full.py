"""A database that proves who it is: its certificate is for the far name, and so is the password in .pgpass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.certificate import self_signed
from tests.peers.kernel import Kernel, missing
from tests.peers.postgres import Postgres, missing_for_tls, postgres_server
from tests.peers.sshd import Sshd


@pytest.fixture
def secured(bastion: Sshd, tmp_path: Path) -> Iterator[Postgres]:
    """A PostgreSQL with a certificate for the name that the bastion knows it by; `ca.pem` holds its authority."""
    if absent := missing_for_tls():
        pytest.skip(absent)
    certificate = self_signed(bastion.far())
    (tmp_path / "ca.pem").write_text(certificate[0])
    with postgres_server(tcp=True, certificate=certificate) as running:
        yield running


@pytest.fixture
def kernel(bastion: Sshd, secured: Postgres, tmp_path: Path) -> Iterator[Kernel]:
    """A kernel whose .pgpass has the password under both names by which the far end is called here."""
    if absent := missing():
        pytest.skip(absent)
    (tmp_path / "kernel").mkdir()
    password = secured.password.replace("\\", "\\\\").replace(":", "\\:")
    passwords = tmp_path / "pgpass"
    passwords.touch(0o600)
    # Under the far end's port: that of the tunnel's near end is another.
    passwords.write_text(
        "".join(f"{host}:{secured.port}:sales:ana:{password}\n" for host in (bastion.far(), "127.0.0.1"))
    )
    env = {"XEC_FORWARD_SSH_CONFIG": os.environ["XEC_FORWARD_SSH_CONFIG"], "PGPASSFILE": str(passwords)}
    with Kernel(tmp_path / "kernel", env, "%load_ext xec_forward\nimport psycopg, sqlalchemy") as running:
        yield running


ASK = "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()"


def line(far: str, server: Postgres, folder: Path) -> str:
    template = f"postgresql://ana@/sales?sslmode=verify-full&sslrootcert={folder}/ca.pem"
    return f"%forward bastion pg=0:{far}:{server.port} --dsn '{template}'"


def test_certificate_is_checked_against_the_far_name_and_the_password_found_under_it(
    kernel: Kernel, bastion: Sshd, secured: Postgres, tmp_path: Path
) -> None:
    kernel.run(line(bastion.far(), secured, tmp_path)).ok()
    assert kernel.value(f"psycopg.connect(pg_dsn).execute('{ASK}').fetchall()") == [["ana", True]]
    engine = f"pg.engine().connect().execute(sqlalchemy.text('{ASK}')).fetchall()"
    assert kernel.value(f"[tuple(row) for row in {engine}]") == [["ana", True]]


def test_certificate_for_another_name_is_refused(
    kernel: Kernel, bastion: Sshd, secured: Postgres, tmp_path: Path
) -> None:
    kernel.run(line("127.0.0.1", secured, tmp_path)).ok()
    for code in ("psycopg.connect(pg_dsn)", "pg.engine().connect()"):
        done = kernel.run(code)
        assert done.error is not None
        assert done.error.name == "OperationalError"
        assert "does not match host name" in done.error.value
        assert secured.password not in done.text
