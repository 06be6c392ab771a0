"""The first quarter of an hour in JupyterLab, as a person walks it: the panel's form, a query, a hung one, the end."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import shoot
from tests.browser.test_sidebar import Open, hung, row
from tests.peers.kernel import wait_until
from tests.peers.lab import Lab
from tests.peers.postgres import Postgres
from tests.peers.sshd import Sshd

__all__ = ["hung"]  # a fixture

OPTIONS = "--dsn postgresql://ana@/sales --password env:SALES_PASSWORD"
QUERY = "import psycopg\ndb = psycopg.connect({dsn})\nlen(db.execute(\"select repeat('x', 400000)\").fetchone()[0])"


def cells(page: Page) -> Locator:
    return page.locator(".jp-Notebook .jp-CodeCell")


def run(page: Page, code: str) -> Locator:
    """Type into the empty cell at the end, and run it; the cell. Below it there is another empty one."""
    editor = cells(page).last.locator(".cm-content")
    expect(editor).to_have_text("")
    count = cells(page).count()
    editor.click()
    expect(editor).to_be_focused()
    page.keyboard.insert_text(code)
    expect(editor.locator(".cm-line")).to_have_text(code.splitlines())
    page.keyboard.press("Shift+Enter")
    expect(cells(page)).to_have_count(count + 1)
    return cells(page).nth(count - 1)


def test_form_query_hung_query_and_close_all(
    lab: Lab, door: Sshd, postgres: Postgres, opened: Open, hung: Callable[[], bool]
) -> None:
    page = opened(lab.write_notebook("sales.ipynb", ""), panel=False)
    expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible()
    page.keyboard.press("Control+B")  # the file browser makes room
    expect(page.locator("#jp-left-stack")).to_be_hidden()
    sidebar = page.get_by_role("region", name="Tunnels", exact=True)
    # What to type is in the sidebar, and the sidebar behind its icon.
    page.get_by_title("Tunnels", exact=True).click()
    run(page, sidebar.locator("code").inner_text())
    section = page.get_by_role("region", name="Tunnels of sales.ipynb")
    expect(section).to_contain_text("No tunnel is open.")
    panel = run(page, section.locator("code").inner_text()).locator(".jp-OutputArea-output").first
    expect(panel).to_contain_text("no tunnel is open")

    # The form, in the order of its fields.
    spec = f"pg=0:{door.far()}:{postgres.port}"
    for field, text in (("Host", "bastion"), ("Ports", spec), ("Options", OPTIONS)):
        panel.get_by_label(field, exact=True).fill(text)
    panel.get_by_role("button", name="Open", exact=True).click()
    expect(panel).to_contain_text("opened; in a cell: pg, pg_dsn")
    expect(panel).to_contain_text("● ready")
    line = f"%forward bastion {spec} {OPTIONS}"
    expect(panel.locator("code")).to_have_text(line)
    expect(row(page, "pg")).to_contain_text("● ready")

    # A query with the name that the panel shows, and its bytes in both places.
    shown = re.search(r"in a cell: pg, (\w+)", panel.inner_text())
    assert shown
    before = cells(page).count()
    query = run(page, QUERY.format(dsn=shown[1]))
    expect(query.locator(".jp-OutputArea-executeResult")).to_contain_text("400000")
    for place in (panel, row(page, "pg")):
        expect(place).to_contain_text(re.compile(r"1 client now.*40\d kB received", re.DOTALL))
    # The line comes below, to be kept.
    expect(cells(page)).to_have_count(before + 2)
    kept = cells(page).nth(before)
    expect(kept.locator(".cm-content")).to_have_text(line)
    panel.scroll_into_view_if_needed()
    shoot(page, "panel")

    # A query that hangs; Close in the sidebar ends it there and then.
    stuck = run(page, "db.execute('select pg_sleep(300)')")
    wait_until(hung, "the query does not run")
    expect(stuck.locator(".jp-InputPrompt")).to_have_text("[*]:")
    query.evaluate("node => node.scrollIntoView()")
    shoot(page, "sidebar")
    sidebar.get_by_role("button", name="Close pg").click()
    expect(stuck.locator(".jp-OutputArea")).to_contain_text("OperationalError", timeout=5000)
    expect(row(page, "pg")).to_have_count(0)
    expect(panel).to_contain_text("no tunnel is open")

    # The kept line opens it again, and everything is closed from the palette.
    kept.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    expect(row(page, "pg")).to_contain_text("● ready")
    page.keyboard.press("Control+Shift+C")
    page.locator(".lm-CommandPalette-input").fill("Close All Tunnels")
    page.locator(".lm-CommandPalette-item", has_text="Close All Tunnels").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Close all").click()
    expect(row(page, "pg")).to_have_count(0)
    expect(sidebar).to_contain_text("No tunnel is open.")
    expect(panel).to_contain_text("no tunnel is open")
    expect(page.locator(".xf-Status-button")).to_have_text("⇄ no tunnels")
