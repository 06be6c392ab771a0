"""`%forward --panel`: its buttons and its form, driven by a front-end's messages, while cells run and hang."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from tests.kernel.test_bridge import Frontend as Sidebar
from tests.kernel.test_nobody_there import Machine, machine
from tests.peers.ipykernels import both_ipykernels, only_ipykernel_6
from tests.peers.kernel import Kernel, Running, wait_until
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd
from tests.peers.widgets import VIEW, Frontend

__all__ = ["machine"]  # a fixture

PANEL = "%forward --panel"
# What a person takes for at once, seconds.
AT_ONCE = 0.25

ASKED = "answer in the field below this panel"
REFUSED = "To be asked, show the panel anew, or run this in a cell: "
WAITS = "While a cell runs, these buttons wait for its end"
ENGINE = "__import__('xec_forward.client.session', fromlist=['current']).current().engine_pid"
OPENS = "[t.name for t in __import__('threading').enumerate() if t.name == 'xec_forward panel open']"
THREADS = "[t.name for t in __import__('threading').enumerate() if t.name == 'xec_forward panel']"


@pytest.fixture
def frontend(kernel: Kernel) -> Iterator[Frontend]:
    """A front-end that shows widgets, with a subshell for them as JupyterLab has."""
    with Frontend(kernel) as running:
        yield running


def opened(kernel: Kernel, bastion: Sshd, port: int, name: str, options: str = "") -> None:
    kernel.run(f"%forward bastion 0:{bastion.far()}:{port} --as {name} {options}").ok()


def panel(kernel: Kernel, frontend: Frontend) -> None:
    """Show it; somebody is there to press its buttons."""
    kernel.run(PANEL, allow_stdin=True).ok()
    frontend.until(lambda: "Open a tunnel" in frontend.text(), "the panel is not shown")


def begun(kernel: Kernel, code: str) -> Running:
    """A cell that has come as far as its own code."""
    running = kernel.start(f"print('begun', flush=True)\n{code}")
    running.until(lambda result: "begun" in result.stdout)
    return running


def says(frontend: Frontend, text: str, within: float = 10.0) -> float:
    return frontend.until(lambda: text in frontend.text(), f"{text!r} is not shown", within)


def talk(kernel: Kernel, name: str, count: int = 60_000) -> None:
    """Send so much to an echo service, and take it back."""
    kernel.run(
        "import socket\n"
        f"with socket.create_connection(('127.0.0.1', {name}.local_port), 5) as s:\n"
        f"    s.sendall(b'x' * {count}); left = {count}\n"
        "    while left: left -= len(s.recv(left))"
    ).ok()


def test_row_says_what_the_card_says_and_the_names_to_use(
    kernel: Kernel, bastion: Sshd, postgres: Postgres, frontend: Frontend
) -> None:
    opened(kernel, bastion, postgres.port, "pg", "--dsn postgresql://ana@/sales --password env:SALES_PASSWORD --ttl 1h")
    panel(kernel, frontend)
    port = kernel.value("pg.local_port")
    text = frontend.text()
    assert f"pg  ● ready  127.0.0.1:{port} → bastion → {bastion.far()}:{postgres.port}" in text
    assert re.search(r"since \d\d:\d\d:\d\d, closes at", text)
    assert "names: pg, pg_dsn" in text
    kernel.run("import psycopg\npsycopg.connect(pg_dsn).execute('select 1')").ok()
    frontend.until(lambda: "1 in all, " in frontend.text(), "the client is not shown")
    kernel.run("_ = repr(pg_dsn)").ok()
    frontend.listen(1)
    assert postgres.password not in "".join(frontend.heard)


def test_bytes_are_seen_to_move_and_nothing_is_sent_when_nothing_does(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    opened(kernel, bastion, services.echo, "echo")
    panel(kernel, frontend)
    talk(kernel, "echo")
    says(frontend, "60 kB sent, 60 kB received")
    frontend.until(lambda: "kB/s" in frontend.text(), "no rate is shown")
    assert '<svg role="img"' in json.dumps(frontend.models).replace('\\"', '"')
    frontend.updates.clear()
    frontend.listen(5)
    assert len(frontend.updates) <= 11  # the drawing moves on, at most twice a second
    frontend.until(lambda: "<svg" not in json.dumps(frontend.models), "the drawing stays", 40)
    frontend.updates.clear()
    frontend.listen(3)
    assert frontend.updates == []


BUSY = {
    "sleeps": "import time\ntime.sleep(30)",
    "burns": "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: sum(range(1000))",
    "waits for a socket": "s.recv(1)",
}


@pytest.mark.parametrize("code", BUSY.values(), ids=BUSY.keys())
def test_close_works_at_once_while_a_cell(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend, code: str
) -> None:
    if frontend.subshell is None:
        pytest.skip("subshells (ipykernel 7)")
    opened(kernel, bastion, services.hang, "hang", "--no-check")
    opened(kernel, bastion, services.echo, "echo")
    panel(kernel, frontend)
    port = int(kernel.value("echo.local_port"))
    connect = "import socket\ns = socket.create_connection(('127.0.0.1', hang.local_port))\ns.sendall(b'x')"
    running = begun(kernel, f"{connect}\n{code}")
    start = time.monotonic()
    frontend.press("Close echo")
    wait_until(lambda: refused(port), "the port is still held")
    took = time.monotonic() - start
    print(f"close: {1000 * took:.0f} ms")
    assert took < AT_ONCE
    frontend.until(lambda: "echo  " not in frontend.text(), "the row stays")
    kernel.interrupt()
    running.wait()


def test_close_ends_a_query_that_hangs_in_its_driver(
    kernel: Kernel, bastion: Sshd, postgres: Postgres, frontend: Frontend
) -> None:
    if frontend.subshell is None:
        pytest.skip("subshells (ipykernel 7)")
    opened(kernel, bastion, postgres.port, "pg", "--dsn postgresql://ana@/sales --password env:SALES_PASSWORD")
    panel(kernel, frontend)
    running = begun(kernel, "import psycopg\npsycopg.connect(pg_dsn).execute('select pg_sleep(60)')")
    hung = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)'"
    wait_until(lambda: postgres.sql(hung) == [(1,)], "the query does not run")
    frontend.press("Close pg")
    result = running.wait(10)
    assert result.error is not None
    assert result.error.name == "OperationalError"
    frontend.until(lambda: "no tunnel is open" in frontend.text(), "the row stays")


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_front_end_without_subshells_is_told_that_buttons_wait(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    with Frontend(kernel, subshell=False) as frontend:
        opened(kernel, bastion, services.echo, "echo")
        panel(kernel, frontend)
        running = begun(kernel, "import time\ntime.sleep(2)")
        frontend.press("Close echo")
        frontend.listen(1)
        assert "echo  " in frontend.text()
        assert f"{WAITS}, unless the front-end uses subshells" in frontend.text()
        running.wait()
        says(frontend, "no tunnel is open")
        says(frontend, f"{WAITS}: this front-end")


def test_front_end_with_subshells_is_told_so_until_its_first_press(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    if frontend.subshell is None:
        pytest.skip("subshells (ipykernel 7)")
    opened(kernel, bastion, services.echo, "echo")
    panel(kernel, frontend)
    assert f"{WAITS}, unless the front-end uses subshells" in frontend.text()
    frontend.press("Close echo")
    frontend.until(lambda: WAITS not in frontend.text(), "the note stays")


@only_ipykernel_6
def test_kernel_without_subshells_says_at_once_that_buttons_wait(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    opened(kernel, bastion, services.echo, "echo")
    panel(kernel, frontend)
    assert f"{WAITS}: this kernel" in frontend.text()
    running = begun(kernel, "import time\ntime.sleep(2)")
    frontend.press("Close echo")
    running.wait()
    says(frontend, "no tunnel is open")


def test_reconnect_and_doctor(kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend) -> None:
    opened(kernel, bastion, services.echo, "echo")
    panel(kernel, frontend)
    frontend.press("Drop the link of echo, keep its port, dial again")
    frontend.until(lambda: kernel.value("echo.stats.reconnects") == 1, "it did not reconnect")
    frontend.press("Examine echo")
    says(frontend, "all is well")
    assert "host key" in frontend.text()
    frontend.press("Hide")
    frontend.until(lambda: "host key" not in frontend.text(), "the findings stay")


def wants_passphrase(bastion: Sshd) -> None:
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())


def waiting(kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend) -> None:
    """A tunnel `echo` that waits for its passphrase, in a panel."""
    wants_passphrase(bastion)
    kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo", answers=[PASSPHRASE]).ok()
    panel(kernel, frontend)
    kernel.run(f"import os\nos.kill({ENGINE}, 9)").ok()
    says(frontend, "⏸ waiting")


@both_ipykernels
def test_form_asks_in_the_field_below_its_cell(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    wants_passphrase(bastion)
    bastion.known_hosts.write_text("")
    with Frontend(kernel, same=True) as frontend:
        running = kernel.start(PANEL, allow_stdin=True)
        running.wait().ok()
        frontend.until(lambda: "Open a tunnel" in frontend.text(), "the panel is not shown")
        frontend.type("Host", "bastion")
        frontend.type("Ports", f"echo=0:{bastion.far()}:{services.echo}")
        frontend.type("Options", "--dsn redis://ana@/0 --password prompt --no-check")
        frontend.press("Open")
        prompt, hidden, cell = kernel.asked()
        assert (prompt.startswith("Password of echo at "), hidden, cell) == (True, True, running.message)
        says(frontend, ASKED)
        kernel.client.input("hunter2")
        assert kernel.asked() == ("Accept it? [yes/no] ", False, running.message)
        says(frontend, f"key fingerprint is {bastion.fingerprint()}.")
        kernel.client.input("yes")
        prompt, hidden, cell = kernel.asked()
        assert ("assphrase" in prompt, hidden, cell) == (True, True, running.message)
        kernel.client.input(PASSPHRASE)
        says(frontend, "opened; in a cell: echo, echo_dsn")
        assert ASKED not in frontend.text()
        assert kernel.value("'hunter2' in echo_dsn.reveal()")
        heard = "".join(frontend.heard) + kernel.log()
        assert PASSPHRASE not in heard
        assert "hunter2" not in heard
        # A cell's own questions go their own way.
        assert "'mine'" in str(kernel.run("input('?')", answers=["mine"]).ok().result)


def test_reconnect_asks_in_the_field_while_a_cell_runs(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    with Frontend(kernel, same=True) as frontend:
        if frontend.subshell is None:
            pytest.skip("subshells (ipykernel 7)")
        waiting(kernel, bastion, services, frontend)
        running = begun(kernel, "import time\ntime.sleep(30)")
        frontend.press("Reconnect")
        assert "assphrase" in kernel.asked()[0]
        kernel.client.input("wrong")
        assert "assphrase" in kernel.asked()[0]
        kernel.client.input(PASSPHRASE)
        says(frontend, "● ready")
        kernel.interrupt()
        running.wait()


def test_cell_that_asks_has_the_field_and_its_answer(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    with Frontend(kernel, same=True) as frontend:
        waiting(kernel, bastion, services, frontend)
        frontend.press("Reconnect")
        kernel.asked()
        assert "'mine'" in str(kernel.run("input('?')", answers=["mine"]).ok().result)
        says(frontend, f"{REFUSED}%forward --reconnect echo")


def test_who_asks_last_is_the_one_to_answer(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    with Frontend(kernel, same=True) as frontend:
        waiting(kernel, bastion, services, frontend)
        frontend.press("Reconnect")
        kernel.asked()
        sidebar = Sidebar(kernel)
        asked = sidebar.ask("reconnect", tunnel=sidebar.tunnel("echo")["tunnel"])
        assert asked["status"] == "question"
        says(frontend, REFUSED)
        assert sidebar.ask("answer", question=asked["question"], value=PASSPHRASE)["status"] == "ok"
        sidebar.close()


def test_closed_tunnel_and_closed_panel_take_their_questions_back(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    wants_passphrase(bastion)
    with Frontend(kernel, same=True) as frontend:
        panel(kernel, frontend)
        frontend.type("Host", "bastion")
        frontend.type("Ports", f"echo=0:{bastion.far()}:{services.echo}")
        frontend.press("Open")
        kernel.asked()
        says(frontend, ASKED)
        says(frontend, "echo  ")
        frontend.press("Close echo")
        frontend.until(lambda: ASKED not in frontend.text(), "it is still asked")
        says(frontend, "no tunnel is open")
        frontend.press("Open")
        kernel.asked()
        frontend.press("Close panel")
        says(frontend, "This panel is closed")
        wait_until(lambda: kernel.value(OPENS) == [], "it is still asked")
        assert "'mine'" in str(kernel.run("input('?')", answers=["mine"]).ok().result)


def test_other_page_is_not_asked_and_told_of_the_line_that_can(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    waiting(kernel, bastion, services, frontend)
    assert frontend.find("Reconnect")["button_style"] == "primary"
    frontend.press("Reconnect")
    says(frontend, f"{REFUSED}%forward --reconnect echo")
    assert "EAUTH bastion: " in frontend.text()
    kernel.run("%forward --reconnect echo", answers=[PASSPHRASE]).ok()
    says(frontend, "● ready")
    frontend.type("Host", "bastion")
    frontend.type("Ports", f"0:{bastion.far()}:{services.hang}")
    frontend.type("Options", "--passphrase prompt")
    frontend.press("Open")
    line = f"%forward bastion 0:{bastion.far()}:{services.hang} --passphrase prompt"
    says(frontend, f"{REFUSED}{line}")
    assert PASSPHRASE not in "".join(frontend.heard) + kernel.log()


def test_form_of_another_page_is_refused_too(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    wants_passphrase(bastion)
    panel(kernel, frontend)
    frontend.type("Host", "bastion")
    frontend.type("Ports", f"{bastion.far()}:{services.echo}")
    frontend.press("Open")
    says(frontend, f"{REFUSED}%forward bastion ")
    assert "EAUTH bastion: " in frontend.text()
    says(frontend, "no tunnel is open")
    bastion.write_config(bastion.folder.parent / "ssh_config")
    bastion.known_hosts.write_text("")
    frontend.press("Open")
    says(frontend, "EHOSTKEY bastion: ")
    assert bastion.fingerprint() in frontend.text()
    assert bastion.known_hosts.read_text() == ""


def test_form_opens_and_writes_the_line(kernel: Kernel, bastion: Sshd, postgres: Postgres, frontend: Frontend) -> None:
    panel(kernel, frontend)
    frontend.type("Host", "bastion")
    frontend.type("Ports", f"pg=0:{bastion.far()}:{postgres.port}")
    frontend.type("Options", "--dsn postgresql://ana@/sales --password env:SALES_PASSWORD")
    frontend.press("Open")
    says(frontend, "opened; in a cell: pg, pg_dsn")
    line = (
        f"%forward bastion pg=0:{bastion.far()}:{postgres.port} "
        "--dsn postgresql://ana@/sales --password env:SALES_PASSWORD"
    )
    assert line in frontend.text()
    rows = kernel.run("import psycopg\npsycopg.connect(pg_dsn).execute('select 6*7').fetchall()").ok()
    assert "(42,)" in str(rows.result)
    again = kernel.run(line).ok()
    assert "reused" in again.displays[0].text
    frontend.listen(1)
    assert postgres.password not in "".join(frontend.heard)


def test_spaces_in_quotes_are_written_as_they_were_typed(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    panel(kernel, frontend)
    frontend.type("Host", " bastion ")
    frontend.type("Ports", f"echo=0:{bastion.far()}:{services.echo}")
    frontend.type("Options", "--no-check --dsn http://ana@/ --password 'cmd:echo  a   b'")
    frontend.press("Open")
    says(frontend, "opened; in a cell: echo, echo_url")
    line = f"%forward bastion echo=0:{bastion.far()}:{services.echo} "
    assert f"{line}--no-check --dsn http://ana@/ --password 'cmd:echo  a   b'" in frontend.text()


def test_form_takes_profiles_and_configured_defaults_as_a_cell_does(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    (kernel.folder / "xec_forward.toml").write_text(
        f'[tunnels.echo]\nssh = "bastion"\nforward = "0:{bastion.far()}:{services.echo}"\n'
    )
    kernel.run("%config ForwardMagics.ttl = 3600").ok()
    panel(kernel, frontend)
    frontend.type("Host", "@echo")
    frontend.press("Open")
    says(frontend, "opened; in a cell: echo")
    says(frontend, "closes at")
    assert "%forward @echo" in frontend.text()


def test_written_lines_come_with_the_next_cell_that_is_run(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    panel(kernel, frontend)
    frontend.type("Host", "bastion")
    frontend.type("Ports", f"echo=0:{bastion.far()}:{services.echo}")
    frontend.press("Open")
    says(frontend, "opened; in a cell: echo")
    frontend.type("Ports", f"hang=0:{bastion.far()}:{services.hang}")
    frontend.type("Options", "--no-check")
    frontend.press("Open")
    says(frontend, "opened; in a cell: hang")
    reply = kernel.client.execute_interactive("pass", timeout=30, output_hook=lambda message: None)
    texts = [each["text"] for each in reply["content"]["payload"] if each["source"] == "set_next_input"]
    lines = (f"echo=0:{bastion.far()}:{services.echo}", f"hang=0:{bastion.far()}:{services.hang} --no-check")
    assert texts == ["\n".join(f"%forward bastion {line}" for line in lines)]
    # A cell has taken these: they come no second time.
    frontend.type("Ports", f"again=0:{bastion.far()}:{services.echo}")
    frontend.press("Open")
    says(frontend, "opened; in a cell: again")
    assert "echo=0" not in frontend.text()


def test_form_opens_a_kubernetes_line_or_says_why_not(kernel: Kernel, frontend: Frontend) -> None:
    panel(kernel, frontend)
    frontend.type("Through", 1)
    frontend.until(lambda: "Resource" in str(frontend.models), "the form has no resource")
    frontend.type("Resource", "svc/postgres")
    frontend.type("Ports", "5432")
    frontend.type("Options", "--kubeconfig /nowhere")
    frontend.press("Open")
    says(frontend, "ECONFIG")
    # What opened nothing is not worth keeping.
    assert "%k8s_forward" not in frontend.text()


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("Options", "--password hunter2"),
        ("Options", "--pasword hunter2"),
        ("Options", "--dsn postgresql://ana:hunter2@/sales"),
        ("Ports", "postgresql://ana:hunter2@pg.vpc/sales"),
        ("Ports", "ana:hunter2@pg.vpc:5432"),
        ("Host", "ssh://ana:hunter2@bastion"),
        ("Host", "ana:hunter2@bastion"),
        ("Options", "--password 'cmd:hunter2"),
    ],
)
def test_secret_typed_into_the_form_does_not_stay_there(
    kernel: Kernel, frontend: Frontend, field: str, typed: str
) -> None:
    panel(kernel, frontend)
    frontend.listen(0.5)
    frontend.type(field, typed)
    says(frontend, "ESPEC")
    frontend.until(lambda: frontend.find(field)["value"] == "", "the field keeps it")
    frontend.press("Open")
    frontend.listen(1)
    assert "hunter2" not in "".join(frontend.heard) + kernel.log()


def test_nothing_is_opened_without_what_was_refused_in_the_same_click(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    panel(kernel, frontend)
    frontend.type("Host", "bastion")
    frontend.type("Ports", f"echo=0:{bastion.far()}:{services.echo}")
    frontend.type("Options", "--dsn redis://ana@/0 --password hunter2")
    frontend.press("Open")
    says(frontend, "ESPEC --password takes the place a secret comes from")
    frontend.listen(0.5)
    assert "no tunnel is open" in frontend.text()
    frontend.press("Open")
    says(frontend, "opened; in a cell: echo")


def test_form_says_which_field_is_to_be_filled_in(kernel: Kernel, frontend: Frontend) -> None:
    panel(kernel, frontend)
    frontend.press("Open")
    says(frontend, "ESPEC nothing says what to open. Fill in Host and Ports")
    frontend.type("Host", "bastion")
    frontend.press("Open")
    says(frontend, "a SPEC is missing: nothing says what to open. Fill in Ports")
    frontend.type("Through", 1)
    frontend.until(lambda: "Resource" in str(frontend.models), "the form has no resource")
    frontend.type("Resource", "svc/postgres")
    frontend.press("Open")
    says(frontend, "svc/postgres: a PORT is missing. Fill in Ports")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--close pg", "ESPEC"),
        ("--doctor", "ESPEC the form opens tunnels"),
        ("--as $name", "$name and {expression} are a cell's"),
        ("--as 1", "ESPEC"),
    ],
)
def test_malformed_form_is_one_line_and_keeps_what_was_typed(
    kernel: Kernel, frontend: Frontend, options: str, said: str
) -> None:
    panel(kernel, frontend)
    frontend.type("Host", "bastion")
    frontend.type("Ports", "5432")
    frontend.type("Options", options)
    frontend.press("Open")
    says(frontend, said)
    assert frontend.find("Options")["value"] == options
    assert "no tunnel is open" in frontend.text()


def test_closed_panel_is_static_and_updates_no_more(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    opened(kernel, bastion, services.echo, "echo")
    panel(kernel, frontend)
    assert kernel.value(THREADS) == ["xec_forward panel"]
    frontend.press("Close panel")
    says(frontend, "This panel is closed; %forward --panel opens another")
    assert "echo" in frontend.text()
    wait_until(lambda: kernel.value(THREADS) == [], "its thread runs on")
    assert [model["_view_name"] for model in frontend.shown(frontend.root)] == ["VBoxView", "HTMLView"]
    # These two, with a layout each and a style.
    frontend.until(lambda: len(frontend.models) <= 5, "its widgets stay")
    frontend.listen(0.5)
    frontend.updates.clear()
    talk(kernel, "echo")
    frontend.listen(1.5)
    assert frontend.updates == []


def test_another_panel_takes_the_place_of_the_first(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    opened(kernel, bastion, services.echo, "echo")
    panel(kernel, frontend)
    first = frontend.root
    kernel.run(PANEL, allow_stdin=True).ok()
    frontend.until(lambda: len(list(frontend.shown(first))) == 2, "the first one goes on")
    wait_until(lambda: len(kernel.value(THREADS)) == 1, "two threads run")


def test_display_has_html_and_text_for_places_without_widgets(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    opened(kernel, bastion, services.echo, "echo")
    shown = kernel.run(PANEL, allow_stdin=True).ok().displays[0]
    assert VIEW in shown.data
    assert "echo" in shown.text
    assert "<table" in shown.html
    # Nobody can press a button.
    shown = kernel.run(PANEL).ok().displays[0]
    assert VIEW not in shown.data
    assert "echo" in shown.text
    assert "<table" in shown.html


def test_table_below_the_panel_is_folded_and_follows_the_tunnels_but_no_counter(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    shown = kernel.run(PANEL, allow_stdin=True).ok()
    frontend.until(lambda: "Open a tunnel" in frontend.text(), "the panel is not shown")
    folded = shown.displays[1]
    assert folded.html.startswith("<details>")
    assert "no tunnels" in folded.html
    running = kernel.start("import time\nwhile True: time.sleep(0.05)")
    frontend.type("Host", "bastion")
    frontend.type("Ports", f"echo=0:{bastion.far()}:{services.echo}")
    frontend.press("Open")
    says(frontend, "opened; in a cell: echo")
    kernel.interrupt()
    running.wait()
    frontend.until(lambda: "ready" in frontend.displayed[-1], "the table stays as it was")
    count = len(frontend.displayed)
    talk(kernel, "echo")
    says(frontend, "60 kB sent, 60 kB received")
    frontend.listen(1)
    assert len(frontend.displayed) == count
    kernel.run("echo.close()").ok()
    frontend.until(lambda: "no tunnels" in frontend.displayed[-1], "the table has the closed one")


def test_without_ipywidgets_the_table_says_what_brings_the_panel(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    kernel.run(
        "import importlib.util, sys\n"
        "assert not any(name.split('.')[0] == 'ipywidgets' for name in sys.modules)\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'ipywidgets': raise ModuleNotFoundError(name)\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'ipywidgets' else real(name, *a)\n"
        "sys.meta_path.insert(0, Gone())"
    ).ok()
    opened(kernel, bastion, services.echo, "echo")
    shown = kernel.run(PANEL, allow_stdin=True).ok().displays[0]
    assert VIEW not in shown.data
    assert shown.text.splitlines()[-1] == "The panel needs ipywidgets: %pip install ipywidgets"
    assert "%pip install ipywidgets" in shown.html


@pytest.mark.parametrize("program", ["nbconvert", "papermill"])
def test_saved_notebook_has_the_panel_as_html_and_text_and_no_secret(
    machine: Machine, bastion: Sshd, postgres: Postgres, program: str
) -> None:
    path = machine.notebook(
        "%load_ext xec_forward",
        f"%forward bastion 0:{bastion.far()}:{postgres.port} --as pg --dsn postgresql://ana@/sales "
        "--password env:SALES_PASSWORD",
        PANEL,
        "import psycopg\npsycopg.connect(pg_dsn).execute('select 6*7').fetchall()",
        "pg",
        "pg_dsn",
        "%forward",
        PANEL,
    )
    if program == "nbconvert":
        done = machine.run("nbconvert", "--to", "notebook", "--execute", "--output", "done.ipynb", str(path))
    else:
        done = machine.run("papermill", "--no-progress-bar", str(path), str(machine.folder / "done.ipynb"))
    assert done.returncode == 0, done.stderr
    text = (machine.folder / "done.ipynb").read_text()
    assert postgres.password not in json.dumps(json.loads(text), ensure_ascii=False)
    saved = json.loads(text)["cells"][2]["outputs"][0]["data"]
    assert "".join(saved["text/plain"]).splitlines()[1].startswith("pg    ready")
    assert "<table" in "".join(saved["text/html"])
    done = machine.run("nbconvert", "--to", "html", str(machine.folder / "done.ipynb"))
    assert done.returncode == 0, done.stderr
    page = (machine.folder / "done.html").read_text()
    assert postgres.password not in page
    assert page.count(f"{bastion.far()}:{postgres.port}") >= 4
