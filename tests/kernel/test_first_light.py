"""One line opens a private PostgreSQL through a real bastion, in a real kernel."""

from __future__ import annotations

import re
import sys
import urllib.parse

import pytest

from tests.peers.kernel import Kernel, Result
from tests.peers.ports import port_free
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd

HEAVY = ("asyncssh", "aiohttp", "ipywidgets", "kubernetes_asyncio", "sqlalchemy", "pandas", "uvloop", "cryptography")


def _secrets(postgres: Postgres) -> list[str]:
    return [postgres.password, urllib.parse.quote(postgres.password, safe="")]


def _open(kernel: Kernel, bastion: Sshd, postgres: Postgres, options: str = "--as pg") -> Result:
    return kernel.run(
        f"%forward bastion 0:{bastion.far()}:{postgres.port} {options} "
        "--dsn 'postgresql://ana@/sales' --password env:SALES_PASSWORD"
    )


def _cards(result: Result) -> int:
    shown = [display.text for display in result.displays] + [str((result.result or {}).get("text/plain", ""))]
    return sum(text.count(" -> bastion -> ") for text in [*shown, result.stdout])


def test_one_line_gives_rows_by_psycopg_and_by_pandas(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> None:
    postgres.sql("create table if not exists orders as select generate_series(1, 17) as id")
    postgres.sql("grant select on orders to public")
    done = _open(kernel, bastion, postgres).ok()
    card = done.displays[-1].text.splitlines()
    assert card[0].startswith("pg  ready  127.0.0.1:")
    assert f" -> bastion -> {bastion.far()}:{postgres.port}  " in card[0]
    assert " s (ssh " in card[0]
    assert card[0].endswith("postgresql ok)")
    assert card[1] == "  names: pg, pg_dsn"

    rows = kernel.run(
        "import psycopg\nprint(psycopg.connect(pg_dsn).execute('select count(*) from orders').fetchone())"
    )
    assert rows.ok().stdout == "(17,)\n"
    frame = kernel.run("import pandas as pd\npd.read_sql('select count(*) as n from orders', pg.engine())", 60).ok()
    assert frame.result is not None
    assert "17" in frame.result["text/plain"]

    shown = kernel.run("print(pg_dsn, repr(pg_dsn), f'{pg_dsn}', pg)\npg_dsn").ok()
    assert "postgresql://ana:***@127.0.0.1:" in shown.stdout
    for result in (done, rows, frame, shown):
        for secret in _secrets(postgres):
            assert secret not in result.text
    assert kernel.value("pg_dsn.reveal()").startswith(
        f"postgresql://ana:{urllib.parse.quote(postgres.password, safe='')}@127.0.0.1:"
    )


def test_card_is_shown_once_wherever_the_line_stands(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> None:
    line = f"%forward bastion 0:{bastion.far()}:{postgres.port} --as pg --dsn postgresql://ana@/sales"
    for cell in (
        line,
        f"{line}\nx = 1",
        f"x = {line}",
        f"x = {line}\nx",
        f"{line}\npg",
        f"for i in range(1):\n    {line}",
    ):
        result = kernel.run(cell).ok()
        assert _cards(result) == 1, cell
        assert result.result is None, cell
    later = kernel.run("pg").ok()
    assert _cards(later) == 1
    assert later.displays[0].text.startswith("pg  ready  ")
    assert "text/html" in later.displays[0].data
    assert kernel.value("x is pg and _ is pg")
    assert _cards(kernel.run(f"{line} --quiet").ok()) == 0


def test_default_name_is_the_far_hosts_and_overwrites_nothing(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    name = bastion.far().partition(".")[0]
    if name == "localhost":
        pytest.skip("a mount namespace, for names that only the bastion knows")
    first = kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo}").ok()
    assert first.displays[0].text.startswith(f"{name}  ready")
    assert "add --dsn" in first.displays[0].text
    assert "names: pg\n" in first.displays[0].text
    # Another target takes another name, and so does one whose name the user has used.
    second = kernel.run(f"%forward bastion 0:{bastion.far()}:{services.reply}").ok()
    assert second.displays[0].text.startswith("pg_2  ready")
    assert "this one is pg_2" in second.displays[0].text
    kernel.run(f"bastion_{services.source} = 'mine'").ok()
    third = kernel.run(f"%forward bastion 0:127.0.0.1:{services.source}").ok()
    assert third.displays[0].text.startswith(f"bastion_{services.source}_2  ready")
    assert kernel.value(f"(pg.state, pg_2.state, bastion_{services.source})") == ("ready", "ready", "mine")


def test_several_specs_share_one_connection_and_make_a_group(
    kernel: Kernel, bastion: Sshd, services: Services, postgres: Postgres
) -> None:
    far = bastion.far()
    line = f"%forward bastion a=0:{far}:{services.echo} b=0:{far}:{services.refused} c=0:{far}:{postgres.port}"
    done = kernel.run(f"group = {line} --as trio --dsn postgresql://ana@/sales").ok()
    assert bastion.connections() == 1
    heads = {line.split()[0]: line.split()[1] for line in done.displays[0].text.splitlines() if line[0] != " "}
    assert heads == {"a": "ready", "b": "failed", "c": "ready"}
    errors = [line for line in done.displays[0].text.splitlines() if "ECONNREFUSED" in line]
    assert len(errors) == 1
    assert kernel.value("(list(group), group is trio, trio['b'].state, a.is_alive())") == (
        ["a", "b", "c"],
        True,
        "failed",
        True,
    )
    assert "failed" in kernel.run("%forward").ok().displays[0].text
    kernel.run("%forward --close trio").ok()
    assert kernel.value("[n for n in ('a', 'b', 'c', 'c_dsn', 'trio') if n in globals()]") == []


def test_list_form_opens_each_line_with_its_own_options(
    kernel: Kernel, bastion: Sshd, services: Services, postgres: Postgres
) -> None:
    far = bastion.far()
    cell = (
        "%%forward bastion --as both\n"
        f"sales=postgresql://ana@{far}:{postgres.port}/sales --password env:SALES_PASSWORD --env\n"
        "\n# a comment\n"
        f"echo=0:{far}:{services.echo}   # another\n"
    )
    done = kernel.run(cell).ok()
    assert _cards(done) == 2
    assert bastion.connections() == 1
    code = "import psycopg, os\nprint(psycopg.connect(sales_dsn).execute('select 1').fetchone(), os.environ['PGHOST'])"
    assert kernel.run(code).ok().stdout == "(1,) 127.0.0.1\n"
    assert kernel.value("sorted(both)") == ["echo", "sales"]
    bad = kernel.run("%%forward bastion\nsales=oops")
    assert bad.error is not None
    assert bad.error.traceback.startswith("ESPEC line 2: ")
    assert kernel.run(f"%%forward bastion 0:{far}:{services.echo}\nprint(1)").ok().stdout == "1\n"


def test_env_is_set_and_put_back(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> None:
    kernel.run("import os\nos.environ['PGHOST'] = 'old.example'").ok()
    done = _open(kernel, bastion, postgres, "--as pg --env").ok()
    assert "environment: PGHOST, PGPORT, PGUSER, PGDATABASE" in done.displays[0].text
    look = "[os.environ.get(n) for n in ('PGHOST', 'PGPORT', 'PGUSER', 'PGDATABASE', 'PGPASSWORD')]"
    assert kernel.value(f"{look}[0:1] + {look}[2:] + [os.environ['PGPORT'] == str(pg.local_port)]") == [
        "127.0.0.1",
        "ana",
        "sales",
        None,
        True,
    ]
    kernel.run("pg.close()").ok()
    assert kernel.value(look) == ["old.example", None, None, None, None]


@pytest.mark.parametrize("close", ["%forward --close pg", "pg.close()", "%forward --close-all", "xf.close_all()"])
def test_names_go_whichever_way_the_tunnel_is_closed(
    kernel: Kernel, bastion: Sshd, postgres: Postgres, close: str
) -> None:
    _open(kernel, bastion, postgres).ok()
    port = kernel.value("pg.local_port")
    kernel.run(f"import xec_forward as xf\nkept = pg\nmine = pg_dsn\n{close}").ok()
    assert kernel.value("('pg' in globals(), 'pg_dsn' in globals(), kept.state)") == (False, False, "closed")
    assert port_free(port)
    assert "no tunnels" in kernel.run("%forward").ok().displays[0].text


def test_closing_an_unknown_name_says_the_nearest(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as sales").ok()
    done = kernel.run("%forward --close salse")
    assert done.error is not None
    assert done.error.traceback == "ECONFIG there is no tunnel named salse. Did you mean sales?"
    assert kernel.value("sales.state") == "ready"


def test_target_made_in_python_is_used_as_it_is(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(
        f"import xec_forward as xf\njump = xf.ssh('bastion')\nport = {services.echo}\nfar = '{bastion.far()}'"
    ).ok()
    done = kernel.run("%forward $jump 0:{far}:$port --as echo").ok()
    assert f"-> {bastion.far()}:{services.echo}" in done.displays[0].text
    in_function = "def f(hop):\n    return get_ipython().run_line_magic('forward', f'{hop} 0:{far}:{port} --as e2')\n"
    local = "def g(hop, p):\n    %forward $hop 0:{far}:$p --as e3\n    return e3.state\n"
    assert kernel.run(f"{local}print(g(jump, port))").ok().stdout == "ready\n"
    assert kernel.run(f"{in_function}print(f('bastion').state)").ok().stdout == "ready\n"


def test_table_shows_counters_and_reconnect_waits_until_ready(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo").ok()
    talk = (
        "import socket\n"
        "with socket.create_connection(('127.0.0.1', echo.local_port), 5) as s:\n"
        "    s.sendall(b'x' * 5000); n = 0\n"
        "    while n < 5000: n += len(s.recv(5000))\n"
    )
    kernel.run(talk).ok()
    table = kernel.run("%forward").ok().displays[0]
    assert "5.0 kB" in table.text
    assert "<table" in table.html
    again = kernel.run("%forward --reconnect echo").ok()
    assert again.displays[-1].text.startswith("echo  ready")
    kernel.run(talk).ok()


def test_table_and_card_show_what_moved_lately(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo").ok()
    talk = (
        "import socket\n"
        "with socket.create_connection(('127.0.0.1', echo.local_port), 5) as s:\n"
        "    s.sendall(b'x' * 60_000); n = 0\n"
        "    while n < 60_000: n += len(s.recv(60_000))\n"
    )
    shown = kernel.run(f"{talk}%forward\necho").ok().displays
    assert [each.text.split()[0] for each in shown] == ["name", "echo"]
    for each in shown:
        assert re.search(r"\d kB/s \S*█", each.text), each.text
        assert "kB/s" in each.html
        assert "<svg" in each.html


def test_help_and_docstring_tell_the_forms(kernel: Kernel) -> None:
    assert "--server-alive-interval" in kernel.run("%forward --help").ok().stdout
    assert "%%forward" in kernel.run("print(get_ipython().find_line_magic('forward').__doc__)").ok().stdout


def test_kernel_stays_light(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    look = f"sorted(m for m in {HEAVY!r} if m in __import__('sys').modules)"
    assert kernel.value(look) == []
    kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo").ok()
    kernel.run("%forward").ok()
    kernel.run("%forward --close echo").ok()
    assert kernel.value(look) == []


def test_loading_the_extension_imports_next_to_nothing(tmp_path: object) -> None:
    import subprocess

    code = (
        "import sys, threading\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        # The background thread's own imports are not what the line waits for.
        "threading.Thread.start = lambda self: None\n"
        "before = set(sys.modules)\n"
        "import time; start = time.perf_counter()\n"
        "shell.extension_manager.load_extension('xec_forward')\n"
        "took = time.perf_counter() - start\n"
        "print(*sorted(set(sys.modules) - before))\n"
        "print(took)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded, took = done.stdout.splitlines()
    ours = {name for name in loaded.split() if name.startswith("xec_forward")}
    rooms = ("extension", "magics", "bridge", "cell_scope", "completion")
    assert ours == {"xec_forward", "xec_forward.jupyter", *(f"xec_forward.jupyter.{room}" for room in rooms)}
    assert not {"msgspec", "asyncio.subprocess", *HEAVY} & set(loaded.split())
    assert float(took) < 0.1  # 30 ms is the bench's to hold, on a quiet machine


def test_extension_can_be_loaded_twice_and_unloaded(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run("%load_ext xec_forward").ok()
    kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo").ok()
    port, engine = kernel.value("(echo.local_port, echo.session.engine_pid)")
    kernel.run("%unload_ext xec_forward").ok()
    assert port_free(port)
    assert kernel.value(f"('echo' in globals(), __import__('os').path.exists('/proc/{engine}'))") == (False, False)
    gone = kernel.run("%forward")
    assert "not found" in gone.text
    kernel.run("%load_ext xec_forward").ok()
    kernel.run(f"%forward bastion {port}:{bastion.far()}:{services.echo} --as echo").ok()
    assert kernel.value("echo.state") == "ready"
