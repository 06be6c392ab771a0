"""A cell whose first line opens tunnels for its code, and nothing of them is left after it, however it ends."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.kernel.test_terminal import Terminal
from tests.peers.ipykernels import both_ipykernels
from tests.peers.kernel import Kernel, wait_until
from tests.peers.ports import free_port, port_free
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.demo.cluster import Cluster

OPEN = "list(__import__('xec_forward').tunnels)"
# Asks through the tunnel `e`, whose far end is an echo service.
ASK = """
import socket
def ask(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"ping")
        return client.recv(4, socket.MSG_WAITALL)
"""


@pytest.fixture
def head(kernel: Kernel, bastion: Sshd, services: Services) -> str:
    """The first line of a cell that gets the tunnel `e` to an echo service."""
    kernel.run(ASK).ok()
    return f"%%forward bastion e=0:{bastion.far()}:{services.echo}"


@both_ipykernels
def test_tunnel_lives_for_its_cell(kernel: Kernel, head: str) -> None:
    done = kernel.run(f"{head}\nport = e.local_port\nprint(ask(port), e.state)\n6 * 7").ok()
    assert done.stdout == "b'ping' ready\n"
    assert done.displays[-1].text.startswith("e  ready  127.0.0.1:")
    assert done.result is not None
    assert done.result["text/plain"] == "42"
    assert kernel.value(OPEN) == []
    assert kernel.value("['e' in globals(), 'e_url' in globals()]") == [False, False]
    assert port_free(kernel.value("port"))
    # A second and a third time: nothing is left that would be reused, or be in the way.
    for _ in range(2):
        assert kernel.run(f"{head}\nprint(ask(e.local_port))").ok().stdout == "b'ping'\n"


@both_ipykernels
def test_it_is_closed_when_the_code_raises_and_the_traceback_has_the_lines_of_the_cell(
    kernel: Kernel, head: str
) -> None:
    done = kernel.run(f"{head}\nport = e.local_port\n\nprint(ask(port))\n1 / 0")
    assert done.error is not None
    assert done.error.name == "ZeroDivisionError"
    assert "----> 5 1 / 0" in done.error.traceback
    assert done.stdout == "b'ping'\n"
    assert kernel.value(OPEN) == []
    assert port_free(kernel.value("port"))


@pytest.mark.parametrize("wait", ["time.sleep(60)", "while True: await asyncio.sleep(0.05)"], ids=["sync", "await"])
@both_ipykernels
def test_it_is_closed_when_the_cell_is_interrupted(kernel: Kernel, head: str, wait: str) -> None:
    running = kernel.start(f"{head}\nimport asyncio, time\nport = e.local_port\nprint('in', flush=True)\n{wait}")
    running.until(lambda result: "in" in result.stdout)
    kernel.signal(signal.SIGINT)
    assert running.wait(10).error is not None
    assert kernel.value(OPEN) == []
    assert port_free(kernel.value("port"))


def test_it_is_closed_when_its_error_cannot_be_explained(kernel: Kernel, head: str) -> None:
    kernel.run(
        "class Odd(ConnectionError):\n"
        "    @property\n"
        "    def reason(self): raise RuntimeError('no reason')\n"
        "class Worse(ConnectionError):\n"
        "    @property\n"
        "    def args(self): raise RuntimeError('no arguments')"
    ).ok()
    for name in ("Odd", "Worse"):
        done = kernel.run(f"{head}\nport = e.local_port\nraise {name}('refused')")
        assert done.error is not None
        assert done.error.name == name
        assert "no reason" not in done.text
        assert kernel.value(f"[{OPEN}, 'e' in globals()]") == [[], False]
        assert port_free(kernel.value("port"))


@both_ipykernels
def test_it_is_closed_when_the_explanation_is_interrupted(kernel: Kernel, head: str) -> None:
    kernel.run(
        "import time\n"
        "class Slow(ConnectionError):\n"
        "    @property\n"
        "    def orig(self):\n"
        "        print('explaining', flush=True)\n"
        "        time.sleep(60)"
    ).ok()
    running = kernel.start(f"{head}\nport = e.local_port\nraise Slow('refused')")
    running.until(lambda result: "explaining" in result.stdout)
    kernel.signal(signal.SIGINT)
    done = running.wait(10)
    assert done.error is not None
    assert done.error.name == "Slow"
    assert kernel.value(f"[{OPEN}, 'e' in globals()]") == [[], False]
    assert port_free(kernel.value("port"))


@both_ipykernels
def test_code_with_a_top_level_await(kernel: Kernel, head: str) -> None:
    code = (
        "import asyncio\nawait asyncio.sleep(0.01)\n"
        "print(await asyncio.to_thread(ask, e.local_port))\nawait asyncio.sleep(0, 42)"
    )
    done = kernel.run(f"{head}\n{code}").ok()
    assert done.stdout == "b'ping'\n"
    assert done.result is not None
    assert done.result["text/plain"] == "42"
    assert kernel.value(OPEN) == []
    failed = kernel.run(f"{head}\nimport asyncio\nawait asyncio.sleep(0)\n1 / 0")
    assert failed.error is not None
    assert "----> 4 1 / 0" in failed.error.traceback
    assert kernel.value(OPEN) == []


def test_code_that_does_not_compile_opens_nothing(kernel: Kernel, head: str, bastion: Sshd) -> None:
    done = kernel.run(f"{head}\nprint('never'\n")
    assert done.error is not None
    assert done.error.name == "SyntaxError"
    assert done.displays == []
    assert bastion.connections() == 0


def test_opening_that_fails_runs_no_code(kernel: Kernel, head: str, bastion: Sshd, services: Services) -> None:
    done = kernel.run(f"%%forward bastion 0:{bastion.far()}:{services.refused} --as x\nprint('never')")
    assert done.error is not None
    assert done.error.traceback.startswith("ECONNREFUSED ")
    assert len(done.error.traceback.splitlines()) == 1
    assert done.stdout == ""
    assert kernel.value(OPEN) == []


@both_ipykernels
def test_names_and_environment_are_as_they_were(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> None:
    kernel.run(
        "import os, psycopg\n"
        "pg, pg_dsn, kept = [1, 2], 'mine', 'before'\n"
        "os.environ['PGHOST'] = 'old.example'\n"
        "names = set(globals())"
    ).ok()
    cell = (
        f"%%forward bastion 0:{bastion.far()}:{postgres.port} --as pg --env --dsn postgresql://ana@/sales "
        "--password env:SALES_PASSWORD\n"
        "kept = psycopg.connect(pg_dsn).execute('select 6 * 7').fetchone()[0]\n"
        "seen = [type(pg).__name__, os.environ['PGHOST'], os.environ['PGDATABASE']]\n"
    )
    kernel.run(cell).ok()
    assert kernel.value("[kept, seen]") == [42, ["Tunnel", "127.0.0.1", "sales"]]
    assert kernel.value("[pg, pg_dsn, os.environ['PGHOST'], 'PGDATABASE' in os.environ]") == [
        [1, 2],
        "mine",
        "old.example",
        False,
    ]
    assert kernel.value("sorted(n for n in set(globals()) - names if n[0] != '_')") == ["names", "seen"]
    # What the code itself put there stays.
    kernel.run(cell + "pg = 'new'\ndel pg_dsn").ok()
    assert kernel.value("[pg, 'pg_dsn' in globals()]") == ["new", False]


def test_proxy_variables_are_put_back(kernel: Kernel, bastion: Sshd) -> None:
    kernel.run("import os\nos.environ['ALL_PROXY'] = 'http://old:1'\nos.environ.pop('NO_PROXY', None)").ok()
    done = kernel.run(
        "%%forward bastion -D 0 --set-proxy-env\nprint(os.environ['ALL_PROXY'], 'NO_PROXY' in os.environ)"
    )
    assert done.ok().stdout.startswith("socks5h://127.0.0.1:")
    assert done.stdout.endswith(" True\n")
    assert kernel.value("[os.environ['ALL_PROXY'], 'NO_PROXY' in os.environ]") == ["http://old:1", False]


def test_keep_leaves_it_open_for_the_kernel(kernel: Kernel, head: str) -> None:
    assert kernel.run(f"{head} --keep\nprint(ask(e.local_port))").ok().stdout == "b'ping'\n"
    assert kernel.value("[e.state, ask(e.local_port).decode()]") == ["ready", "ping"]
    # And a cell that would have the same one uses it, and leaves it.
    again = kernel.run(f"{head}\nprint(ask(e.local_port))").ok()
    assert "reused" in again.displays[0].text
    assert kernel.value("[e.state, ask(e.local_port).decode()]") == ["ready", "ping"]


def test_tunnel_that_is_open_already_is_used_and_stays(kernel: Kernel, head: str) -> None:
    head += " --dsn http --no-check"
    kernel.run(f"mine = {head[1:]}\nurl = e_url").ok()
    done = kernel.run(f"{head}\nprint(e is mine, ask(e.local_port))\ne = 'changed'").ok()
    assert done.stdout == "True b'ping'\n"
    assert "reused" in done.displays[0].text
    assert kernel.value("[mine.state, e, e_url is url]") == ["ready", "changed", True]
    kernel.run(f"e = mine\n{head[1:]}\nmine.close()").ok()
    assert kernel.value("['e' in globals(), 'e_url' in globals()]") == [False, False]


def test_line_in_the_code_keeps_the_tunnel_of_the_cell(kernel: Kernel, head: str) -> None:
    done = kernel.run(f"{head}\n{head[1:]}\nport = e.local_port").ok()
    assert "reused" in done.displays[1].text
    assert kernel.value("[e.state, e.local_port == port, ask(port).decode()]") == ["ready", True, "ping"]


def test_other_tunnel_of_the_same_name_is_only_hidden(
    kernel: Kernel, head: str, bastion: Sshd, services: Services
) -> None:
    kernel.run(f"%forward bastion e=0:{bastion.far()}:{services.reply}\nmine = e").ok()
    done = kernel.run(f"{head}\nprint(e is mine, ask(e.local_port))").ok()
    assert done.stdout == "False b'ping'\n"
    assert "e is another open tunnel too: this one is e_2 in the table" in done.displays[0].text
    assert kernel.value("[e is mine, mine.state]") == [True, "ready"]
    # One that closes meanwhile is not put back.
    kernel.run(f"{head}\nmine.close()").ok()
    assert kernel.value("'e' in globals()") is False


def test_several_specs_are_a_group_for_the_cell(kernel: Kernel, head: str, bastion: Sshd, services: Services) -> None:
    line = f"{head} r=0:{bastion.far()}:{services.reply} --as both"
    assert kernel.run(f"{line}\nprint(list(both), both.e is e)").ok().stdout == "['e', 'r'] True\n"
    assert kernel.value(f"[{OPEN}, 'both' in globals(), 'r' in globals()]") == [[], False, False]
    gone = kernel.run("%forward --close both")
    assert gone.error is not None
    assert "there is no tunnel named both" in gone.error.value


@both_ipykernels
def test_cells_in_cells_and_magics_in_the_code(kernel: Kernel, head: str, bastion: Sshd, services: Services) -> None:
    second = f"%%forward bastion f=0:{bastion.far()}:{services.echo}"
    code = "print(ask(e.local_port), ask(f.local_port))\n!echo from the shell\nwhere = %pwd\ne?\nwhere[:1]"
    cell = f"{head}\n\n{second}\n{code}"
    done = kernel.run(cell).ok()
    assert "b'ping' b'ping'" in done.stdout
    assert "from the shell" in done.stdout
    assert done.result is not None
    assert done.result["text/plain"] == "'/'"
    assert kernel.value(OPEN) == []
    nested = kernel.run(f"{head}\n%%bash\necho hello from bash").ok()
    assert "hello from bash" in nested.stdout
    timed = kernel.run(f"%%time\n{head}\nprint(ask(e.local_port))").ok()
    assert "b'ping'" in timed.stdout
    # An inner cell of its own ends before the outer one does.
    captured = kernel.run(f"{head}\nget_ipython().run_cell({second + chr(10) + 'pass'!r})\nprint({OPEN})").ok()
    assert "['e']" in captured.stdout
    assert kernel.value(OPEN) == []
    silent = kernel.client.execute(f"{head}\nport = e.local_port", silent=True)
    assert silent
    assert kernel.value(f"[{OPEN}, isinstance(port, int)]") == [[], True]


def test_list_of_specs_is_a_list_still(kernel: Kernel, head: str, bastion: Sshd, services: Services) -> None:
    kernel.run(f"%%forward bastion\na=0:{bastion.far()}:{services.echo}\n").ok()
    assert kernel.value("a.state") == "ready"
    kernel.run(f"{head}\n%%forward bastion\nb=0:{bastion.far()}:{services.reply}\n").ok()
    assert kernel.value(OPEN) == ["a", "b"]


def test_what_cannot_be_for_a_cell_is_one_line(kernel: Kernel, head: str, bastion: Sshd, services: Services) -> None:
    for cell, said in (
        (f"{head}\n# nothing", "the cell has no code"),
        (f"{head} --dry-run\nprint('never')", "--dry-run opens nothing"),
        (f"{head} --hold soon\nprint('never')", "--hold 'soon'"),
        ("spec = '0:x:1'\nget_ipython().run_cell('%%forward bastion $spec x\\nprint(1)').raise_error()", ""),
    ):
        done = kernel.run(cell)
        assert done.error is not None, cell
        assert said in done.error.value
        assert "never" not in done.stdout
    assert kernel.value(OPEN) == []


def test_expansions_are_words_of_the_line(kernel: Kernel, head: str, bastion: Sshd, services: Services) -> None:
    kernel.run(
        f"import xec_forward as xf\nhost = xf.ssh('bastion')\nfar, port = {bastion.far()!r}, {services.echo}"
    ).ok()
    done = kernel.run("%%forward {host if True else None} e=0:$far:{port + 0}\nprint(ask(e.local_port))").ok()
    assert done.stdout == "b'ping'\n"
    assert kernel.value(OPEN) == []


def test_exported_script_runs_the_code_too(kernel: Kernel, head: str) -> None:
    line = head.removeprefix("%%forward ")
    call = f"get_ipython().run_cell_magic('forward', {line!r}, {'port = e.local_port; print(ask(port))'!r})"
    assert kernel.run(f"{call}\nprint({OPEN})").ok().stdout == "b'ping'\n[]\n"
    failed = kernel.run(call.replace("print(", "1 / 0, print("))
    assert failed.error is not None
    assert failed.error.name == "ZeroDivisionError"
    assert kernel.value(f"[{OPEN}, 'e' in globals()]") == [[], False]


def test_connection_left_open_is_reset_with_the_cell(kernel: Kernel, head: str) -> None:
    kernel.run(f"{head}\nclient = socket.create_connection(('127.0.0.1', e.local_port), timeout=10)").ok()
    done = kernel.run("client.recv(1)")
    assert done.error is not None
    assert done.error.name == "ConnectionResetError"


def test_unloading_in_the_cell_leaves_nothing(kernel: Kernel, head: str) -> None:
    kernel.run("e = 'mine'").ok()
    kernel.run(f"{head}\n%unload_ext xec_forward").ok()
    assert kernel.value("e") == "mine"
    missing = kernel.run(f"{head}\nprint(1)")
    assert "not found" in missing.text


@pytest.mark.parametrize("how", ["nbclient", "papermill"])
def test_notebook_runner_shows_the_value_and_the_error(
    bastion: Sshd, services: Services, tmp_path: Path, how: str
) -> None:
    import nbformat

    notebook = nbformat.v4.new_notebook()
    head = f"%%forward bastion e=0:{bastion.far()}:{services.echo}"
    cells = [
        "%load_ext xec_forward",
        f"{head}\nimport asyncio\nawait asyncio.sleep(0)\ne.state",
        f"{OPEN}",
        f"{head}\n1 / 0",
    ]
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "python3"}
    path = tmp_path / "scope.ipynb"
    nbformat.write(notebook, path)
    error: BaseException | None = None
    try:
        if how == "nbclient":
            from nbclient import NotebookClient

            NotebookClient(notebook, timeout=60).execute()
        else:
            import papermill  # type: ignore[import-untyped]

            papermill.execute_notebook(path, path, progress_bar=False, log_output=False)
    except Exception as raised:
        error = raised
    assert "ZeroDivisionError" in str(error)
    ran = notebook if how == "nbclient" else nbformat.read(path, 4)
    cells_run = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert "ready" in str(cells_run[1].outputs[-1]["data"]["text/plain"])
    assert cells_run[2].outputs[-1]["data"]["text/plain"] == "[]"


def test_port_of_a_cell_can_be_had_again_at_once(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    port = free_port()
    kernel.run(ASK).ok()
    for _ in range(3):
        cell = f"%%forward bastion e={port}:{bastion.far()}:{services.echo}\nprint(ask({port}))"
        assert kernel.run(cell).ok().stdout == "b'ping'\n"
        wait_until(lambda: port_free(port), "the port is held")


def test_terminal_reads_the_code_to_its_blank_line(
    tmp_path: Path, bastion: Sshd, postgres: Postgres, services: Services
) -> None:
    terminal = Terminal(tmp_path, postgres.password)
    try:
        head = f"%%forward bastion e=0:{bastion.far()}:{services.echo}"
        for line in (head, "import asyncio", "port = e.local_port", "await asyncio.sleep(0, e.state)", ""):
            terminal.start(line)
            terminal.child.expect_exact("...: ")
        terminal.child.sendline("")
        shown = terminal.end()
        assert "e  ready  127.0.0.1:" in shown
        assert re.search(r"Out\[\d+\]: (<TunnelState.READY: )?'ready'", shown)
        assert f"open {[]}" in terminal.run(f"print('open', {OPEN})")
        found = re.search(r"port (\d+)", terminal.run("print('port', port)"))
        assert found
        assert port_free(int(found[1]))
    finally:
        terminal.child.close(force=True)


def test_ports_of_a_cluster_live_for_their_cell(tmp_path: Path, cluster: Cluster, services: Services) -> None:
    cluster.add_deployment("api", ports={"echo": 7000}, serves={7000: ("127.0.0.1", services.echo)})
    folder = tmp_path / "kernel"
    folder.mkdir()
    env = {"KUBECONFIG": str(cluster.kubeconfig), "XEC_FORWARD_STATE": os.environ["XEC_FORWARD_STATE"]}
    with Kernel(folder, env, "%load_ext xec_forward") as kernel:
        kernel.run(ASK).ok()
        done = kernel.run("%%k8s_forward deploy/api :7000\nprint(ask(api.local_port))\nport = api.local_port").ok()
        assert done.stdout == "b'ping'\n"
        assert kernel.value(f"[{OPEN}, 'api' in globals()]") == [[], False]
        assert port_free(kernel.value("port"))
        kernel.run("%%k8s_forward\ndeploy/api :7000").ok()
        assert kernel.value("api.state") == "ready"


def test_stuck_engine_holds_no_end_of_a_cell_up_and_closes_when_it_can(kernel: Kernel, head: str) -> None:
    code = "import os, signal\nengine = e.session.engine_pid\nport = e.local_port\nos.kill(engine, signal.SIGSTOP)"
    done = kernel.run(f"{head}\n{code}").ok()
    assert done.seconds < 4  # the opening, too
    said = "xec_forward: EENGINE the engine does not answer, and e could not be closed yet. "
    assert done.stderr == f"{said}Restart the kernel, or end the engine process\n"
    assert kernel.value("'e' in globals()") is False
    kernel.run("os.kill(engine, signal.SIGCONT)").ok()
    port = kernel.value("port")
    wait_until(lambda: port_free(port), "the port is still held")
    wait_until(lambda: kernel.value(OPEN) == [], "it is still listed")
