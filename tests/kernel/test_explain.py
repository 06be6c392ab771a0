"""An error that came from a tunnel is explained below its traceback; no other is."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.peers.ipykernels import both_ipykernels
from tests.peers.kernel import Kernel, Result
from tests.peers.ports import free_port
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd

CLOCK = r"\d\d:\d\d:\d\d"
DSN = "--dsn postgresql://ana@/sales --password env:SALES_PASSWORD"


def _said(result: Result) -> str:
    """The line below the traceback."""
    assert result.error is not None
    return result.displays[-1].text if result.displays else ""


TELL = """
import threading, time
def tell(tunnel):
    end = time.monotonic() + 20
    while tunnel is not None and not tunnel.stats.clients and time.monotonic() < end:
        time.sleep(0.01)
    print("begun", flush=True)
"""


def _while_hanging(kernel: Kernel, bastion: Sshd, cell: str, client_of: str, *, up: bool = True) -> Result:
    """Run a cell that hangs in a call, and take the bastion away once the tunnel has a client (None: at once)."""
    kernel.run(TELL).ok()
    running = kernel.start(f"threading.Thread(target=tell, args=({client_of},)).start()\n{cell}")
    running.until(lambda result: "begun" in result.stdout)
    if up:
        bastion.restart()
    else:
        bastion.stop()
    return running.wait(20)


@pytest.mark.parametrize("up", [True, False], ids=["back at once", "gone"])
@both_ipykernels
def test_query_that_a_lost_link_has_reset(kernel: Kernel, bastion: Sshd, postgres: Postgres, up: bool) -> None:
    kernel.run(f"%forward bastion pg=0:{bastion.far()}:{postgres.port} {DSN}").ok()
    kernel.run("import psycopg\nclient = psycopg.connect(pg_dsn)").ok()
    done = _while_hanging(kernel, bastion, "client.execute('select pg_sleep(30)')", "pg", up=up)
    assert done.error is not None
    assert done.error.name == "OperationalError"
    pattern = rf"pg (was reconnecting {CLOCK}-{CLOCK}, run the cell again|has been reconnecting since {CLOCK}, run .*)"
    assert re.fullmatch(pattern, _said(done)), done
    if not up:
        bastion.start()


def test_plain_socket_that_a_lost_link_has_reset(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(f"%forward bastion e=0:{bastion.far()}:{services.echo}").ok()
    connect = "import socket\nc = socket.create_connection(('127.0.0.1', e.local_port))"
    cell = f"{connect}\nc.sendall(b'x')\nc.recv(1)\nc.recv(1)"
    done = _while_hanging(kernel, bastion, cell, "e")
    assert done.error is not None
    assert done.error.name == "ConnectionResetError"
    assert _said(done).startswith("e ")
    assert "reconnecting" in _said(done)


def test_request_that_a_lost_link_has_reset(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(f"%forward bastion e=0:{bastion.far()}:{services.hang} --no-check").ok()
    cell = "import requests\nrequests.get(f'http://127.0.0.1:{e.local_port}/', timeout=20)"
    done = _while_hanging(kernel, bastion, cell, "e")
    assert done.error is not None
    assert done.error.name == "ConnectionError"
    assert "reconnecting" in _said(done)


@pytest.mark.parametrize(
    "call",
    [
        "requests.get(f'http://127.0.0.1:{port}/', timeout=5)",
        "socket.create_connection(('127.0.0.1', port), timeout=5)",
        "psycopg.connect(f'postgresql://ana@127.0.0.1:{port}/sales')",
    ],
    ids=["requests", "socket", "psycopg"],
)
def test_port_of_a_closed_tunnel(kernel: Kernel, bastion: Sshd, services: Services, call: str) -> None:
    kernel.run(f"import psycopg, requests, socket\n%forward bastion e=0:{bastion.far()}:{services.echo}").ok()
    kernel.run("port = e.local_port").ok()
    done = kernel.run(f"e.close()\n{call}")
    assert re.fullmatch(rf"e was closed at {CLOCK}, run its line again", _said(done))
    assert done.error is not None
    assert "e was closed" not in done.error.traceback
    # In the cells after it too; but not of a port that it never had.
    assert "e was closed at" in _said(kernel.run(call))
    other = free_port()
    assert _said(kernel.run(f"port = {other}\n{call}")) == ""


def test_closed_tunnel_whose_port_another_one_has_is_not_blamed(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    port = free_port()
    kernel.run(f"%forward bastion e={port}:{bastion.far()}:{services.echo}\ne.close()").ok()
    kernel.run(f"%forward bastion f={port}:{bastion.far()}:{services.echo}").ok()
    done = kernel.run(f"raise ConnectionRefusedError('127.0.0.1:{port} refused')")
    assert _said(done) == ""


def test_tunnel_that_was_closed_before_the_cell_is_not_blamed_for_what_names_no_address(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    kernel.run(f"%forward bastion e=0:{bastion.far()}:{services.refused} --no-check").ok()
    refused = "import socket\nc = socket.create_connection(('127.0.0.1', e.local_port))\nc.recv(1)"
    assert kernel.run(refused).error is not None
    kernel.run("e.close()").ok()
    kernel.run(f"%forward bastion f=0:{bastion.far()}:{services.echo}").ok()
    for cell in (
        f"c = socket.create_connection(('127.0.0.1', {services.reset}))\nc.sendall(b'x')\nc.recv(1)",
        "raise TimeoutError('the read operation timed out')",
        "raise ConnectionResetError(104, 'Connection reset by peer')",
    ):
        assert _said(kernel.run(cell)) == "", cell


def test_port_of_another_host_is_not_the_tunnels(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(f"import psycopg, requests, socket\n%forward bastion e=0:{bastion.far()}:{services.echo}").ok()
    kernel.run("import urllib.request\nport = e.local_port").ok()
    kernel.run("e.close()").ok()
    for call in (
        "socket.create_connection(('127.0.0.9', port), timeout=5)",
        "urllib.request.urlopen(f'http://127.0.0.9:{port}/', timeout=5)",
        "requests.get(f'http://127.0.0.9:{port}/', timeout=5)",
        "psycopg.connect(f'postgresql://ana@127.0.0.9:{port}/sales')",
        "raise ConnectionError(f'peer db.example:{port} is down')",
        "raise TimeoutError(f'at 12:{port} it timed out')",
    ):
        done = kernel.run(call)
        assert done.error is not None
        assert _said(done) == "", call
    for call in (
        "urllib.request.urlopen(f'http://localhost:{port}/', timeout=5)",
        "psycopg.connect(f'postgresql://ana@localhost:{port}/sales')",
        "raise ConnectionError(f'nobody listens on port {port}')",
    ):
        assert re.fullmatch(rf"e was closed at {CLOCK}, run its line again", _said(kernel.run(call))), call


def test_tunnel_that_waits_for_a_login_since_its_engine_died(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    bastion.write_config(Path(os.environ["XEC_FORWARD_SSH_CONFIG"]), IdentityFile=bastion.encrypted_key())
    kernel.run(f"%forward bastion e=0:{bastion.far()}:{services.echo}", answers=[PASSPHRASE]).ok()
    os.kill(kernel.value("e.session.engine_pid"), signal.SIGKILL)
    wait = "while e.state != 'waiting' and time.monotonic() < end: time.sleep(0.01)"
    kernel.run(f"import time\nend = time.monotonic() + 20\n{wait}").ok()
    done = kernel.run("import socket\nsocket.create_connection(('127.0.0.1', e.local_port)).recv(1)")
    said = rf"e has waited for a login since {CLOCK}: %forward --reconnect e, then run the cell again"
    assert re.fullmatch(said, _said(done)), done


def test_name_that_went_with_its_tunnel(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    far = f"{bastion.far()}:{services.echo}"
    kernel.run(f"import time\nkept = %forward bastion 0:{far} --as e --dsn redis:// --ttl 1").ok()
    kernel.run(
        "end = time.monotonic() + 20\nwhile kept.state != 'closed' and time.monotonic() < end: time.sleep(0.01)"
    ).ok()
    why = rf"went with its tunnel, which was closed at {CLOCK} \(its ttl of 1 s is over\), run its line again"
    assert re.fullmatch(f"e {why}", _said(kernel.run("e")))
    assert re.fullmatch(f"e_dsn {why}", _said(kernel.run("def f(): return e_dsn\nf()")))
    assert _said(kernel.run("other")) == ""
    kernel.run(f"%forward bastion 0:{far} --as e").ok()
    kernel.run("e.close()").ok()
    assert re.fullmatch(rf"e went .* was closed at {CLOCK}, run its line again", _said(kernel.run("e")))
    kernel.run(f"%forward bastion 0:{far} --as e\ndel e").ok()
    assert _said(kernel.run("e")) == ""


def test_errors_of_other_kinds_and_places_are_not_explained(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(f"%forward bastion e=0:{bastion.far()}:{services.echo}").ok()
    port = free_port()
    for cell in (
        "e.close()\n1 / 0",
        f"import requests\nrequests.get('http://127.0.0.1:{port}/', timeout=5)",
        f"import socket\nsocket.create_connection(('127.0.0.1', {port}))",
        "raise ConnectionResetError(104, 'Connection reset by peer')",
        "raise ConnectionResetError('db.example:5432: reset')",
    ):
        done = kernel.run(cell)
        assert done.error is not None
        assert _said(done) == "", cell


def test_reset_elsewhere_is_not_blamed_on_a_tunnel_that_nobody_used(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    kernel.run(f"%forward bastion e=0:{bastion.far()}:{services.echo}").ok()
    cell = (
        "import time\nend = time.monotonic() + 10\n"
        "while e.state != 'reconnecting' and not e.stats.reconnects and time.monotonic() < end: time.sleep(0.01)\n"
        "raise ConnectionResetError(104, 'Connection reset by peer')"
    )
    done = _while_hanging(kernel, bastion, cell, "None")
    assert done.error is not None
    assert _said(done) == ""


def test_stuck_engine_holds_no_cell_up(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(f"%forward bastion e=0:{bastion.far()}:{services.echo}").ok()
    engine = kernel.value("__import__('xec_forward.client.session', fromlist=['current']).current().engine_pid")
    os.kill(engine, signal.SIGSTOP)
    try:
        done = kernel.run(f"raise ConnectionRefusedError('127.0.0.1:{free_port()} refused')")
    finally:
        os.kill(engine, signal.SIGCONT)
    assert done.error is not None
    assert done.error.name == "ConnectionRefusedError"
    assert _said(done) == ""
    assert done.seconds < 5
    assert kernel.value("e.health_check().ok")


@both_ipykernels
def test_mask_that_was_sent_as_a_password(kernel: Kernel, bastion: Sshd, postgres: Postgres) -> None:
    kernel.run(f"import psycopg\n%forward bastion pg=0:{bastion.far()}:{postgres.port} {DSN}").ok()
    said = "the password sent was ***, the mask of pg_dsn in a text: use pg_dsn.reveal() there"
    done = kernel.run("psycopg.connect(f'{pg_dsn}?connect_timeout=5')")
    assert _said(done) == said
    pool = "sqlalchemy.create_engine(f'{pg_dsn}'.replace('postgresql:', 'postgresql+psycopg:')).connect()"
    assert _said(kernel.run(f"import sqlalchemy\n{pool}")) == said
    wrong = kernel.run("psycopg.connect(pg_dsn, password='wrong')")
    assert wrong.error is not None
    assert "password authentication failed" in wrong.error.value
    assert _said(wrong) == ""


def test_mask_is_named_as_the_notebook_names_it(
    kernel: Kernel, bastion: Sshd, postgres: Postgres, services: Services
) -> None:
    kernel.run(f"import psycopg\n%forward bastion pg=0:{bastion.far()}:{services.echo}").ok()
    far = f"{bastion.far()}:{postgres.port}"
    done = kernel.run(f"%%forward bastion pg=0:{far} {DSN}\nassert pg.name == 'pg_2'\npsycopg.connect(f'{{pg_dsn}}')")
    assert _said(done).endswith("the mask of pg_dsn in a text: use pg_dsn.reveal() there")
    kernel.run("import xec_forward as xf\nhost = xf.ssh('bastion')").ok()
    end = f"remote_host={bastion.far()!r}, remote_port={postgres.port}"
    kernel.run(f"handle = host.forward({end}, local_port=0, name='mine')").ok()
    text = "f'postgresql://ana:***@127.0.0.1:{handle.local_port}/sales'"
    assert "use mine.url.reveal() there" in _said(kernel.run(f"psycopg.connect({text})"))


@both_ipykernels
def test_code_with_a_top_level_await_and_a_cell_with_its_own_tunnel(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    cell = (
        f"%%forward bastion e=0:{bastion.far()}:{services.echo}\n"
        "import asyncio\nreader, writer = await asyncio.open_connection('127.0.0.1', e.local_port)\n"
        "writer.write(b'x')\nawait reader.read(1)\nprint('begun', flush=True)\nawait reader.read(1)"
    )
    running = kernel.start(cell)
    running.until(lambda result: "begun" in result.stdout)
    bastion.restart()
    done = running.wait(20)
    assert done.error is not None
    assert "reconnecting" in _said(done)
    assert "closed" not in _said(done)
