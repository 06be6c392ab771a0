"""The sidebar in a real JupyterLab: what a person sees of the tunnels, and does with them while a cell hangs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import change_theme, kernel_ready, shoot, show
from tests.peers.interrogator import Interrogator
from tests.peers.kernel import wait_until
from tests.peers.lab import Lab, LabKernel
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd

Open = Callable[..., Page]

HUNG = "select count(*) from pg_stat_activity where query = 'select pg_sleep(300)'"
END_HUNG = "select pg_terminate_backend(pid) from pg_stat_activity where query = 'select pg_sleep(300)'"
QUERY = "import psycopg\npsycopg.connect(pg_dsn).execute('select pg_sleep(300)')"


def forward(door: Sshd, port: int, name: str, options: str = "") -> str:
    return f"%forward bastion 0:{door.far()}:{port} --as {name} {options}"


def sales(door: Sshd, postgres: Postgres) -> str:
    return forward(door, postgres.port, "pg", "--dsn postgresql://ana@/sales --password env:SALES_PASSWORD")


def row(page: Page, name: str) -> Locator:
    """The row of a tunnel."""
    return page.locator(f'.xf-Row[data-tunnel="{name}"]')


@pytest.fixture
def hung(postgres: Postgres) -> Iterator[Callable[[], bool]]:
    """Whether the query hangs; PostgreSQL itself would run it to its end."""
    yield lambda: postgres.sql(HUNG) == [(1,)]
    postgres.sql(END_HUNG)


def test_close_works_while_the_cell_hangs_in_a_query_which_then_ends_with_its_error(
    lab: Lab, door: Sshd, postgres: Postgres, opened: Open, hung: Callable[[], bool]
) -> None:
    notebook = lab.write_notebook("query.ipynb", f"%load_ext xec_forward\n{sales(door, postgres)}", QUERY)
    page = opened(notebook)
    kernel_ready(page)
    page.locator(".jp-Notebook .jp-CodeCell").first.click()
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("ready")
    expect(row(page, "pg")).to_contain_text("● ready")
    page.keyboard.press("Shift+Enter")
    wait_until(hung, "the query does not run")
    expect(row(page, "pg")).to_contain_text("1 client now, 1 in all")
    shoot(page, "hung-query")
    start = time.monotonic()
    page.get_by_role("button", name="Close pg").click()
    page.locator(".jp-OutputArea-output", has_text="OperationalError").first.wait_for(timeout=2000)
    assert time.monotonic() - start < 2
    expect(row(page, "pg")).to_have_count(0)


def test_kernel_whose_notebook_is_open_nowhere_is_shown_live(
    kernel: LabKernel, door: Sshd, services: Services, opened: Open
) -> None:
    page = opened()
    section = page.get_by_role("region", name="Tunnels of orders.ipynb")
    expect(section).to_contain_text("No tunnel is open.")
    status = page.locator(".xf-Status-button")
    expect(status).to_have_text("⇄ no tunnels")
    kernel.run(forward(door, services.echo, "echo", "--ttl 1h"))
    expect(status).to_have_text("⇄ 1 tunnel")
    echo = row(page, "echo")
    port = kernel.run("print(echo.local_port)").strip()
    expect(echo).to_contain_text(f"127.0.0.1:{port} → bastion → {door.far()}:{services.echo}")
    expect(echo).to_contain_text("closes in 59 min")
    talk = "import socket\ns = socket.create_connection(('127.0.0.1', echo.local_port))\ns.sendall(b'x' * 60_000)"
    kernel.run(talk)
    expect(echo).to_contain_text("60 kB sent, 60 kB received")
    # The words are those of the card.
    card = kernel.run("from xec_forward.render import Card\nprint(Card(echo.snapshot).plain())")
    for line in echo.locator(".xf-Row-how").inner_text().splitlines():
        assert line in card
    expect(echo.get_by_role("img", name="traffic of the last 30 seconds")).to_be_visible()
    kernel.run("s.close()\necho.close()")
    expect(echo).to_have_count(0)
    expect(page.locator(".xf-Heard")).to_have_text("echo is closed")
    expect(status).to_have_text("⇄ no tunnels")


def test_reload_restart_death_and_shutdown_are_survived(
    kernel: LabKernel, lab: Lab, door: Sshd, services: Services, opened: Open
) -> None:
    line = forward(door, services.echo, "echo")
    kernel.run(line)
    page = opened()
    expect(row(page, "echo")).to_contain_text("ready")
    begun = kernel.begin("import time\ntime.sleep(60)")
    page.reload()
    page.wait_for_function("window.jupyterapp && window.jupyterapp.restored.then(() => true)")
    show(page)
    expect(row(page, "echo")).to_contain_text("ready")
    kernel.interrupt()
    assert kernel.wait(begun)["ename"] == "KeyboardInterrupt"
    kernel.restart()
    expect(row(page, "echo")).to_have_count(0)
    expect(page.locator(".xf-Panel")).to_contain_text("No kernel has tunnels")
    kernel.run(f"%load_ext xec_forward\n{line}")
    expect(row(page, "echo")).to_contain_text("ready")
    kernel.start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")  # the server then starts another
    expect(row(page, "echo")).to_have_count(0)
    kernel.wait_for_ready()
    kernel.run(f"%load_ext xec_forward\n{line}")
    expect(row(page, "echo")).to_contain_text("ready")
    kernel.shut_down()
    page.evaluate("window.jupyterapp.serviceManager.sessions.refreshRunning()")
    page.evaluate("window.jupyterapp.serviceManager.kernels.refreshRunning()")
    expect(page.get_by_role("region", name="Tunnels of orders.ipynb")).to_have_count(0)


def test_kernel_without_the_extension_is_asked_once_and_shown_when_it_has_it(lab: Lab, opened: Open) -> None:
    other = lab.start_kernel("plain.ipynb")
    before = lab.log().count("UNKNOWN CONTROL MESSAGE")
    page = opened()
    expect(page.locator(".xf-Panel")).to_contain_text("No kernel has tunnels")
    wait_until(lambda: lab.log().count("UNKNOWN CONTROL MESSAGE") == before + 1, "it was not asked")
    other.run("%load_ext xec_forward")
    expect(page.get_by_role("region", name="Tunnels of plain.ipynb")).to_be_visible()
    assert lab.log().count("UNKNOWN CONTROL MESSAGE") == before + 1
    other.shut_down()


def test_nothing_is_asked_before_the_panel_is_seen(lab: Lab, opened: Open) -> None:
    other = lab.start_kernel("plain.ipynb")
    before = lab.log().count("UNKNOWN CONTROL MESSAGE")
    page = opened(panel=False)
    other.run("1 + 1")
    assert lab.log().count("UNKNOWN CONTROL MESSAGE") == before
    expect(page.locator(".xf-Status-button")).to_be_hidden()
    other.shut_down()


def test_waiting_tunnel_asks_for_its_passphrase_in_a_dialog(
    kernel: LabKernel, door: Sshd, services: Services, opened: Open
) -> None:
    config = door.folder / "ssh_config"
    with config.open("a") as file:
        file.write(door.config("vault", IdentityFile=door.encrypted_key()))
    kernel.run(f"%forward vault 0:{door.far()}:{services.echo} --as echo", answer=PASSPHRASE)
    kernel.run("import os\nfrom xec_forward.client.session import current\nos.kill(current().engine_pid, 9)")
    page = opened()
    echo = row(page, "echo")
    expect(echo).to_contain_text("waiting")
    shoot(page, "waiting")
    page.get_by_role("button", name="Reconnect echo").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("assphrase")
    shoot(page, "question")
    page.keyboard.type(PASSPHRASE)
    page.keyboard.press("Enter")
    expect(echo).to_contain_text("● ready")
    assert PASSPHRASE not in page.content()


def test_waiting_tunnel_asks_for_its_code_in_a_dialog(
    kernel: LabKernel, door: Sshd, services: Services, opened: Open, tmp_path: Path
) -> None:
    with Interrogator(tmp_path, [("Code: ", True)], ["123456"]) as office:
        config = office.write_config(tmp_path / "ssh_config").read_text().replace("Host bastion", "Host office")
        with (door.folder / "ssh_config").open("a") as file:
            file.write(config)
        kernel.run(f"%forward office 0:127.0.0.1:{services.echo} --as echo", answer="123456")
        page = opened()
        echo = row(page, "echo")
        expect(echo).to_contain_text("● ready")
        office.restart()
        expect(echo).to_contain_text("⏸ waiting")
        expect(echo.locator(".xf-Row-age")).to_have_text(re.compile(r"^for \d+ s$"))
        page.get_by_role("button", name="Reconnect echo").click()
        page.get_by_role("dialog").get_by_label("Code").fill("123456")
        page.keyboard.press("Enter")
        expect(echo).to_contain_text("● ready")


def test_doctor_copy_and_keyboard(kernel: LabKernel, door: Sshd, services: Services, opened: Open) -> None:
    kernel.run(f"{forward(door, services.echo, 'echo')}\n{forward(door, services.hang, 'last', '--no-check')}")
    page = opened()
    page.get_by_role("button", name="Doctor: echo").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("all is well")
    shoot(page, "doctor")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Copy address of echo").click()
    port = kernel.run("print(echo.local_port)").strip()
    assert page.evaluate("navigator.clipboard.readText()") == f"127.0.0.1:{port}"
    page.get_by_role("button", name="Close echo").focus()
    labels = []
    for _ in range(5):
        labels.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        page.keyboard.press("Tab")
    assert labels == ["Close echo", "Reconnect echo", "Copy address of echo", "Doctor: echo", "Close last"]
    page.get_by_role("button", name="Close echo").focus()
    page.keyboard.press("Enter")
    expect(row(page, "echo")).to_have_count(0)
    expect(page.get_by_role("button", name="Close last")).to_be_focused()


def test_notebook_7_has_it_too(lab: Lab, door: Sshd, services: Services, page: Page) -> None:
    kernel = lab.start_kernel(lab.write_notebook("seven.ipynb", "1 + 1"))
    kernel.run(f"%load_ext xec_forward\n{forward(door, services.echo, 'echo')}")
    page.goto(lab.url("notebooks/seven.ipynb"))
    page.wait_for_function("window.jupyterapp && window.jupyterapp.restored.then(() => true)")
    page.get_by_role("menuitem", name="View").click()
    page.locator(".lm-Menu-item", has_text="Right Sidebar").hover()
    page.locator(".lm-Menu-item", has_text="Show Tunnels").click()
    expect(row(page, "echo")).to_contain_text("● ready")
    shoot(page, "notebook-7")
    page.get_by_role("button", name="Close echo").click()
    expect(row(page, "echo")).to_have_count(0)
    assert kernel.run("import xec_forward as xf\nprint(list(xf.tunnels))") == "[]\n"
    kernel.shut_down()


def test_light_and_dark(
    kernel: LabKernel, lab: Lab, door: Sshd, postgres: Postgres, services: Services, opened: Open
) -> None:
    # Of several one may fail and stay, to be mended.
    lines = f"cache=0:{door.far()}:{services.echo} --lazy\nweb={door.far()}:{services.refused}"
    kernel.run(f"%%forward bastion\n{lines}")
    query = (
        "import psycopg\ndb = psycopg.connect(pg_dsn)\ndb.execute(\"select repeat('x', 400000)\").fetchone()[0][:20]"
    )
    page = opened(lab.write_notebook("orders.ipynb", sales(door, postgres), query))
    page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
    kernel_ready(page)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    expect(row(page, "pg")).to_contain_text("kB received")
    expect(row(page, "pg").get_by_role("img")).to_be_visible()
    expect(row(page, "web")).to_contain_text("✗ failed")
    expect(row(page, "web")).to_contain_text("ECONNREFUSED")
    # It holds no port any more.
    expect(row(page, "web")).not_to_contain_text("local port")
    page.locator(".jp-Notebook .jp-CodeCell").first.evaluate("node => node.scrollIntoView()")
    colours = []
    for theme in ("light", "dark"):
        change_theme(page, theme)
        shoot(page, theme)
        colours.append(row(page, "pg").evaluate("node => getComputedStyle(node).color"))
    assert colours[0] != colours[1]
