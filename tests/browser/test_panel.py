"""The panel, `%forward --panel`, as JupyterLab and Notebook 7 show it and press its buttons."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import kernel_ready, load, shoot
from tests.browser.test_sidebar import forward, sales
from tests.peers.kernel import wait_until
from tests.peers.lab import Lab
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd

CELLS = ".jp-Notebook .jp-CodeCell"
# Long after everything that is waited for here.
SLEEPS = "import time\nprint('begun')\ntime.sleep(120)"


def tree(name: str) -> str:
    """A notebook in JupyterLab, by itself: a workspace that was used opens what it had open, too."""
    return f"lab/workspaces/{uuid.uuid4().hex}/tree/{name}"


@pytest.mark.parametrize("place", ["lab", "notebooks"], ids=["jupyterlab", "notebook 7"])
def test_close_works_while_a_cell_sleeps_in(place: str, lab: Lab, door: Sshd, services: Services, page: Page) -> None:
    line = forward(door, services.echo, "echo")
    name = lab.write_notebook(f"panel-{place}.ipynb", f"%load_ext xec_forward\n{line}", "%forward --panel", SLEEPS)
    load(page, lab.url(tree(name) if place == "lab" else f"{place}/{name}"))
    cells = page.locator(CELLS)
    kernel_ready(page)
    cells.first.click()
    page.keyboard.press("Shift+Enter")
    expect(cells.nth(0)).to_contain_text("● ready")
    page.keyboard.press("Shift+Enter")
    panel = cells.nth(1).locator(".jp-OutputArea")
    expect(panel).to_contain_text("● ready")
    page.keyboard.press("Shift+Enter")
    running = cells.nth(2).locator(".jp-InputPrompt")
    expect(cells.nth(2).locator(".jp-OutputArea")).to_contain_text("begun")
    panel.get_by_role("button", name="Close", exact=True).click()
    expect(panel).to_contain_text("no tunnel is open")
    expect(running).to_have_text("[*]:")


def test_saved_panel_unfolds_to_its_table_without_the_kernel(
    lab: Lab, door: Sshd, postgres: Postgres, page: Page
) -> None:
    name = lab.write_notebook("saved.ipynb", f"%load_ext xec_forward\n{sales(door, postgres)}", "%forward --panel")
    load(page, lab.url(tree(name)))
    cells = page.locator(CELLS)
    kernel_ready(page)
    cells.first.click()
    for cell in (cells.nth(0), cells.nth(1)):
        page.keyboard.press("Shift+Enter")
        expect(cell.locator(".jp-OutputArea")).to_contain_text("● ready")
    expect(cells.nth(1).get_by_text("● ready")).to_have_count(2)  # the row, and the folded table
    expect(cells.nth(1).get_by_text("● ready").nth(1)).to_be_hidden()
    page.keyboard.press("Control+s")
    path = lab.folder / "notebooks" / name
    wait_until(lambda: "<details>" in path.read_text(), "the notebook was not saved")
    assert postgres.password not in path.read_text()

    lab.shut_down_kernels()
    page.goto("about:blank")
    load(page, lab.url(tree(name)))
    cells = page.locator(CELLS)
    summary = cells.nth(1).locator("summary")
    expect(cells.nth(1).get_by_text("● ready")).to_be_hidden()
    summary.click()
    expect(cells.nth(1).get_by_text("● ready")).to_be_visible()


def test_form_asks_below_the_panel_and_no_answer_is_saved(
    lab: Lab, door: Sshd, services: Services, page: Page, tmp_path: Path
) -> None:
    records = tmp_path / "known_hosts"
    with (door.folder / "ssh_config").open("a") as file:
        file.write(door.config("fort", IdentityFile=door.encrypted_key(), UserKnownHostsFile=records))
    name = lab.write_notebook("asks.ipynb", "%load_ext xec_forward\n%forward --panel")
    load(page, lab.url(tree(name)))
    cells = page.locator(CELLS)
    kernel_ready(page)
    page.evaluate("window.jupyterapp.commands.execute('@jupyter-widgets/jupyterlab-manager:saveWidgetState')")
    cells.first.click()
    page.keyboard.press("Shift+Enter")
    output = cells.first.locator(".jp-OutputArea")
    panel, question = output.locator(".jp-OutputArea-output").first, output.locator(".jp-Stdin")
    panel.get_by_label("Host", exact=True).fill("fort")
    panel.get_by_label("Ports", exact=True).fill(f"echo=0:{door.far()}:{services.echo}")
    panel.get_by_role("button", name="Open", exact=True).click()
    expect(panel).to_contain_text(f"key fingerprint is {door.fingerprint()}")
    expect(question).to_contain_text("Accept it? [yes/no]")
    shoot(page, "panel-asks")
    page.keyboard.type("yes")
    page.keyboard.press("Enter")
    expect(question.last).to_contain_text("Passphrase for ")
    expect(question.last.locator("input")).to_be_focused()
    page.keyboard.type(PASSPHRASE)
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("opened; in a cell: echo")
    expect(panel).to_contain_text("● ready")
    shoot(page, "panel-answered")
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    saved = lab.folder / "notebooks" / name
    wait_until(lambda: "vnd.jupyter.widget-state+json" in saved.read_text(), "the widgets were not saved")
    assert "in a cell: echo" in saved.read_text()
    assert PASSPHRASE not in saved.read_text()
