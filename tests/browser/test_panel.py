"""The panel, `%forward --panel`, as JupyterLab and Notebook 7 show it and press its buttons."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import LOADS_WITHIN
from tests.browser.test_sidebar import forward
from tests.peers.lab import Lab
from tests.peers.services import Services
from tests.peers.sshd import Sshd

# Long after everything that is waited for here.
SLEEPS = "import time\nprint('begun')\ntime.sleep(120)"


@pytest.mark.parametrize("place", ["lab/tree", "notebooks"], ids=["jupyterlab", "notebook 7"])
def test_close_works_while_a_cell_sleeps_in(place: str, lab: Lab, door: Sshd, services: Services, page: Page) -> None:
    line = forward(door, services.echo, "echo")
    name = lab.write_notebook("panel.ipynb", f"%load_ext xec_forward\n{line}", "%forward --panel", SLEEPS)
    page.goto(lab.url(f"{place}/{name}"), timeout=LOADS_WITHIN)
    page.wait_for_function("window.jupyterapp && window.jupyterapp.restored.then(() => true)", timeout=LOADS_WITHIN)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for()
    cells = page.locator(".jp-Notebook .jp-CodeCell")
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
