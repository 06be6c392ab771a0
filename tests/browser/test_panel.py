"""The panel, `%forward --panel`, as JupyterLab and Notebook 7 show it and press its buttons."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import LOADS_WITHIN
from tests.browser.test_sidebar import forward, sales
from tests.peers.kernel import wait_until
from tests.peers.lab import Lab
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd

# Long after everything that is waited for here.
SLEEPS = "import time\nprint('begun')\ntime.sleep(120)"


def load(page: Page, url: str) -> Locator:
    """Open a notebook; its cells."""
    page.goto(url, timeout=LOADS_WITHIN)
    page.wait_for_function("window.jupyterapp && window.jupyterapp.restored.then(() => true)", timeout=LOADS_WITHIN)
    return page.locator(".jp-Notebook .jp-CodeCell")


@pytest.mark.parametrize("place", ["lab/tree", "notebooks"], ids=["jupyterlab", "notebook 7"])
def test_close_works_while_a_cell_sleeps_in(place: str, lab: Lab, door: Sshd, services: Services, page: Page) -> None:
    line = forward(door, services.echo, "echo")
    name = lab.write_notebook("panel.ipynb", f"%load_ext xec_forward\n{line}", "%forward --panel", SLEEPS)
    cells = load(page, lab.url(f"{place}/{name}"))
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for()
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
    cells = load(page, lab.url(f"lab/tree/{name}"))
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for()
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
    cells = load(page, lab.url(f"lab/tree/{name}?reset"))
    summary = cells.nth(1).locator("summary")
    expect(cells.nth(1).get_by_text("● ready")).to_be_hidden()
    summary.click()
    expect(cells.nth(1).get_by_text("● ready")).to_be_visible()
