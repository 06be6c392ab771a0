"""Run by a machine: nbconvert, papermill and nbval. Nothing is asked; what fails fails in one line; text is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html import escape
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, PASSWORD, PASSWORD_USER, Sshd

TIMEOUT = 120


@pytest.fixture
def machine(tmp_path: Path, bastion: Sshd, postgres: Postgres) -> Machine:
    """Runs notebooks with programs, against the bastion."""
    return Machine(tmp_path, postgres.password)


class Machine:
    """Programs that run notebooks, in a home of their own."""

    def __init__(self, folder: Path, password: str) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir()
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        self.env.update(HOME=str(home), IPYTHONDIR=str(home / ".ipython"), JUPYTER_PREFER_ENV_PATH="1")
        self.env.update(SALES_PASSWORD=password, NO_COLOR="1")

    def notebook(self, *cells: str) -> Path:
        """A notebook of these cells."""
        import nbformat
        from nbformat.v4 import new_code_cell, new_notebook

        path = self.folder / "run.ipynb"
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(
            new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}), path
        )
        return path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this Python's."""
        package = "nbval" if arguments[0] == "pytest" else arguments[0]
        if find_spec(package) is None:
            pytest.skip(package)
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )


def _line_of(text: str, start: str) -> str:
    return next((line for line in text.splitlines() if start in line), "")


def test_nbconvert_keeps_the_card_as_text_and_html(machine: Machine, bastion: Sshd, postgres: Postgres) -> None:
    path = machine.notebook(
        "%load_ext xec_forward",
        f"%forward bastion 0:{bastion.far()}:{postgres.port} --as pg --dsn postgresql://ana@/sales "
        "--password env:SALES_PASSWORD",
        "import psycopg\npsycopg.connect(pg_dsn).execute('select 6*7').fetchall()",
    )
    done = machine.run("nbconvert", "--to", "notebook", "--execute", "--output", "done.ipynb", str(path))
    assert done.returncode == 0, done.stderr
    text = (machine.folder / "done.ipynb").read_text()
    assert postgres.password not in json.dumps(json.loads(text), ensure_ascii=False)
    outputs = [cell["outputs"] for cell in json.loads(text)["cells"]]
    assert "".join(outputs[1][0]["data"]["text/plain"]).startswith("pg  ready")
    assert "<b>pg</b>" in "".join(outputs[1][0]["data"]["text/html"])
    assert "(42,)" in "".join(outputs[2][0]["data"]["text/plain"])


@pytest.mark.parametrize("program", ["nbconvert", "papermill"])
def test_notebook_page_and_logs_have_none_of_the_secrets(
    machine: Machine, bastion: Sshd, postgres: Postgres, services: Services, program: str
) -> None:
    if not bastion.passwords:
        pytest.skip("root and mount namespaces, for an account with a password")
    secrets = {
        "KEY_PASSPHRASE": PASSPHRASE,
        "LOGIN": PASSWORD,
        "PROXY": "pr@xy:/ %41?",
        "SALES_PASSWORD": postgres.password,
    }
    machine.env |= secrets
    hosts = bastion.config(IdentityFile=bastion.encrypted_key())
    hosts += bastion.config("office", User=PASSWORD_USER, IdentityFile="none")
    (bastion.folder.parent / "ssh_config").write_text(hosts)
    key = "--passphrase env:KEY_PASSPHRASE"
    path = machine.notebook(
        "%load_ext xec_forward",
        f"%forward bastion 0:{bastion.far()}:{postgres.port} --as pg --dsn postgresql://ana@/sales "
        f"--password env:SALES_PASSWORD --env {key}",
        f"%forward bastion -D 0 --as proxy --socks-user ana --socks-password env:PROXY {key}",
        f"%forward office 0:{bastion.far()}:{services.echo} --as echo --ssh-password env:LOGIN",
        "import psycopg\npsycopg.connect(pg_dsn).execute('select 6*7').fetchall()",
        "import os, socks\n"
        f"client = socks.create_connection(({bastion.far()!r}, {services.echo}), proxy_type=socks.SOCKS5, "
        "proxy_addr='127.0.0.1', proxy_port=proxy.local_port, proxy_username='ana', "
        "proxy_password=os.environ['PROXY'])\nclient.sendall(b'ping')\nclient.recv(4, socks.socket.MSG_WAITALL)",
        "pg",
        "pg_dsn",
        "[proxy, proxy.proxies, proxy.url, vars(proxy), pg.engine(), pg.request, echo.request]",
        "print(pg_dsn, f'{proxy.url}', repr(pg), pg.dsn())",
        "%forward",
        "%forward --panel",
        "%forward --doctor bastion " + key,
        "%forward --help",
    )
    if program == "nbconvert":
        done = machine.run("nbconvert", "--to", "notebook", "--execute", "--output", "done.ipynb", str(path))
    else:
        done = machine.run("papermill", "--no-progress-bar", "--log-output", str(path), "done.ipynb")
    assert done.returncode == 0, done.stderr
    page = machine.run("nbconvert", "--to", "html", "done.ipynb")
    assert page.returncode == 0, page.stderr
    saved = (machine.folder / "done.ipynb").read_text()
    written = [done.stdout, done.stderr, saved, json.dumps(json.loads(saved), ensure_ascii=False)]
    written.append((machine.folder / "done.html").read_text())
    logs = [each for each in Path(machine.env["XEC_FORWARD_STATE"]).rglob("*.log") if each.is_file()]
    assert logs
    written += [each.read_text(errors="replace") for each in logs]
    for name, secret in secrets.items():
        for form in (secret, quote(secret, safe=""), quote(secret), escape(secret), json.dumps(secret)[1:-1]):
            assert not any(form in text for text in written), name


@pytest.mark.parametrize("program", ["nbconvert", "papermill"])
def test_failure_is_one_line_in_the_log_and_a_bad_exit(machine: Machine, bastion: Sshd, program: str) -> None:
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())
    path = machine.notebook("%load_ext xec_forward", "%forward bastion 5432 --as pg", "print('never')")
    if program == "nbconvert":
        done = machine.run("nbconvert", "--to", "notebook", "--execute", "--output", "done.ipynb", str(path))
    else:
        done = machine.run("papermill", "--no-progress-bar", str(path), str(machine.folder / "done.ipynb"))
    assert done.returncode != 0
    line = _line_of(done.stderr, "EAUTH bastion: ")
    assert "nobody is here to answer" in line
    assert "ssh-add" in line
    assert "run_line_magic" not in done.stderr


def test_malformed_line_is_in_papermills_log(machine: Machine) -> None:
    path = machine.notebook("%load_ext xec_forward", "%forward bastion 5432:pg.vpc --as pg")
    done = machine.run("papermill", "--no-progress-bar", str(path), str(machine.folder / "done.ipynb"))
    assert done.returncode != 0
    assert "5432:pg.vpc" in _line_of(done.stderr, "ESPEC ")


def test_nbval_runs_it_without_asking(machine: Machine, bastion: Sshd, services: Services) -> None:
    good = machine.notebook(
        "%load_ext xec_forward",
        f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo",
        "%forward --close echo",
    )
    done = machine.run("pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", str(good))
    assert done.returncode == 0, done.stdout
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())
    done = machine.run("pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", str(good))
    assert done.returncode != 0
    assert "EAUTH bastion: " in done.stdout


def test_unknown_host_key_is_refused_without_asking(machine: Machine, bastion: Sshd) -> None:
    bastion.known_hosts.write_text("")
    path = machine.notebook("%load_ext xec_forward", "%forward bastion 5432 --as pg")
    done = machine.run("nbconvert", "--to", "notebook", "--execute", "--output", "done.ipynb", str(path))
    assert done.returncode != 0
    assert bastion.fingerprint() in _line_of(done.stderr, "EHOSTKEY bastion: ")
    assert bastion.known_hosts.read_text() == ""
