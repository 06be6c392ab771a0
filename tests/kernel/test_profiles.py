"""`%forward @NAME`: profiles of the project file in a real kernel, against a real sshd, PostgreSQL and a cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import kernel as peer
from tests.peers.kernel import Kernel, Result
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.demo.cluster import Cluster

SECRET = "hunter2-s3cret"


@pytest.fixture
def project(tmp_path: Path, bastion: Sshd, postgres: Postgres, services: Services, cluster: Cluster) -> Path:
    """A project file in a folder above the kernel's."""
    cluster.add_deployment("api", ports={"echo": 7000}, serves={7000: ("127.0.0.1", services.echo)})
    path = tmp_path / "xec_forward.toml"
    path.write_text(f"""\
[tunnels.sales]
ssh = "bastion"
forward = "0:{bastion.far()}:{postgres.port}"
dsn = "postgresql://{postgres.user}@/{postgres.database}"
password = "env:SALES_PASSWORD"

[tunnels.echo]
k8s = "deploy/api"
forward = ":echo"
no_check = true

[tunnels.office]
ssh = "bastion"
no_check = true

[tunnels.bad]
ssh = "bastion"
forward = "5432"
password = "{SECRET}"

[groups]
analytics = ["sales", "echo"]
""")
    return path


@pytest.fixture
def kernel(tmp_path: Path, project: Path, postgres: Postgres, cluster: Cluster) -> Iterator[Kernel]:
    """A kernel that has run `%load_ext xec_forward`, in a folder below that of the project file."""
    if missing := peer.missing():
        pytest.skip(missing)
    folder = tmp_path / "kernel"
    folder.mkdir()
    env = {
        "XEC_FORWARD_SSH_CONFIG": os.environ["XEC_FORWARD_SSH_CONFIG"],
        "XEC_FORWARD_STATE": os.environ["XEC_FORWARD_STATE"],
        "KUBECONFIG": str(cluster.kubeconfig),
        "SALES_PASSWORD": postgres.password,
    }
    with Kernel(folder, env, "%load_ext xec_forward") as running:
        yield running


def echoes(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"ping")
        assert client.recv(4, socket.MSG_WAITALL) == b"ping"


def refused(result: Result) -> str:
    assert result.error is not None
    assert "\n" not in result.error.value
    assert SECRET not in result.text
    return result.error.value


def test_profile_gives_the_tunnel_and_its_connection_string(kernel: Kernel, postgres: Postgres) -> None:
    done = kernel.run("%forward @sales").ok()
    assert done.displays[-1].text.startswith("sales  ready  127.0.0.1:")
    assert postgres.password not in done.text
    query = "import psycopg\nprint(psycopg.connect(sales_dsn).execute('select 6 * 7').fetchone())"
    assert kernel.run(query).ok().stdout == "(42,)\n"
    assert "reused, up" in kernel.run("%forward @sales").ok().displays[-1].text


def test_options_on_the_line_win(kernel: Kernel) -> None:
    kernel.run("%forward @sales --lazy --as db").ok()
    assert kernel.value("(db.state, 'sales' in globals())") == ("idle", False)


def test_either_magic_opens_either_kind_and_the_changed_line_replaces(kernel: Kernel) -> None:
    kernel.run("%k8s_forward @sales --no-check").ok()
    kernel.run("%forward @echo").ok()
    echoes(kernel.value("echo.local_port"))
    kernel.run("%forward @echo --hold 5").ok()
    assert kernel.value("sorted(__import__('xec_forward').tunnels)") == ["echo", "sales"]


def test_group_is_one_handle_with_the_name_of_the_group(kernel: Kernel) -> None:
    done = kernel.run("%forward @analytics").ok()
    assert "sales  ready" in done.text
    assert "echo  ready" in done.text
    assert kernel.value("(list(analytics), analytics.sales is sales, analytics['echo'] is echo)") == (
        ["sales", "echo"],
        True,
        True,
    )
    echoes(kernel.value("echo.local_port"))
    kernel.run("%forward --close analytics").ok()
    assert kernel.value("[name for name in ('analytics', 'sales', 'echo', 'sales_dsn') if name in globals()]") == []
    kernel.run("both = %forward @echo @sales --lazy").ok()
    assert kernel.value("(list(both), 'analytics' in globals())") == (["echo", "sales"], False)


def test_target_of_a_profile_serves_the_specs_of_the_line(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(f"%forward @office one=0:{bastion.far()}:{services.echo}").ok()
    echoes(kernel.value("one.local_port"))


def test_profile_in_a_cell_of_code_is_open_for_the_cell(kernel: Kernel) -> None:
    done = kernel.run("%%forward @analytics --quiet\nprint(sales.state, echo.state)").ok()
    assert done.stdout == "ready ready\n"
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0


def test_dry_run_of_a_group_opens_nothing(kernel: Kernel) -> None:
    text = kernel.run("%forward @analytics --dry-run").ok().displays[-1].text
    assert "sales  would be opened  127.0.0.1:0 (or any free port) -> " in text
    assert "-> deploy/api:echo" in text
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0


def test_what_is_wrong_is_one_line_with_file_and_line_and_no_secret(kernel: Kernel, project: Path) -> None:
    line = project.read_text().splitlines().index(f'password = "{SECRET}"') + 1
    assert refused(kernel.run("%forward @bad")).startswith(f"ECONFIG {project} line {line}: password takes the place")
    assert refused(kernel.run("%forward @sals")).endswith("there is no tunnel or group sals. Did you mean @sales?")
    assert refused(kernel.run("%forward @analytics 5432")).startswith("ESPEC a SPEC stands beside several profiles")
    project.write_text(f"[tunnels.sales]\nssh = 'a'\npassword = {SECRET}\n")
    assert refused(kernel.run("%forward @sales")).startswith(f"ECONFIG {project} line 3: column ")
    assert SECRET not in kernel.run("%tb").text
    project.unlink()
    assert refused(kernel.run("%forward @sales")).startswith("ECONFIG @sales: there is no xec_forward.toml here")
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0
