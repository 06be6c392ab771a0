"""JupyterLab in headless Chromium, with the sidebar from this tree; behind its kernels a real sshd and PostgreSQL.

Screenshots are kept in the folder `artifacts/browser` of the repository, which git ignores; a failed test adds one.
Those of docs/sidebar.md go to the folder that XEC_FORWARD_SCREENSHOTS names, where it is set: `make screenshots`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.peers import lab as peer
from tests.peers.lab import Lab, LabKernel
from tests.peers.postgres import Postgres
from tests.peers.sshd import Sshd
from tests.peers.sshd import missing as sshd_missing

playwright = pytest.importorskip("playwright.sync_api", reason="playwright")

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "labextension"
BUNDLE = ROOT / "xec_forward" / "labextension"
SHOTS = ROOT / "artifacts" / "browser"
# The pictures of docs/sidebar.md.
PAGE_SHOTS = ("sidebar", "panel", "dark")
# A page's first load on a busy machine.
LOADS_WITHIN = 60_000.0
# Anything else that a page is waited for, milliseconds.
HAPPENS_WITHIN = 15_000.0

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


def chromium() -> str:
    """Where Chromium is, or ""."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), "")


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The built extension; built here where it is missing or older than its source."""
    source = [*SOURCE.glob("*.json"), *(SOURCE / "src").iterdir(), *(SOURCE / "style").iterdir()]
    built = BUNDLE / "package.json"
    if built.exists() and built.stat().st_mtime >= max(path.stat().st_mtime for path in source):
        return BUNDLE
    if shutil.which("npm") is None:
        pytest.skip("npm, to build the sidebar")
    if not (SOURCE / "node_modules").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=SOURCE, check=True, timeout=400, capture_output=True)
    subprocess.run(["npm", "run", "build"], cwd=SOURCE, check=True, timeout=120, capture_output=True)
    return BUNDLE


@pytest.fixture(scope="package")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real OpenSSH sshd, which the kernels know as `bastion`."""
    if missing := sshd_missing():
        pytest.skip(missing)
    with Sshd(tmp_path_factory.mktemp("bastion")) as running:
        running.write_config(running.folder / "ssh_config")
        yield running


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Path, door: Sshd, postgres: Postgres) -> Iterator[Lab]:
    """One JupyterLab for all tests."""
    if missing := peer.missing():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("lab")
    extensions = folder / "labextensions"
    extensions.mkdir()
    (extensions / "xec_forward").symlink_to(bundle)
    env = {
        "XEC_FORWARD_SSH_CONFIG": str(door.folder / "ssh_config"),
        "XEC_FORWARD_STATE": str(folder / "state"),
        "SALES_PASSWORD": postgres.password,
    }
    with Lab(folder, extensions, env) as running:
        yield running


@pytest.fixture
def lab(server: Lab) -> Iterator[Lab]:
    """The server, without any kernel before and after."""
    yield server
    server.shut_down_kernels()


@pytest.fixture
def kernel(lab: Lab) -> Iterator[LabKernel]:
    """A kernel that has loaded the extension; its notebook, orders.ipynb, is open nowhere."""
    running = lab.start_kernel("orders.ipynb")
    running.run("%load_ext xec_forward")
    yield running
    running.shut_down()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One Chromium."""
    path = chromium()
    if not path:
        pytest.skip("chromium (Debian: chromium)")
    with sync_playwright() as playwright:
        # As root it runs without a sandbox of its own, and /dev/shm is small in a container.
        arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of its own; what went wrong in it can be seen afterwards."""
    expect.set_options(timeout=HAPPENS_WITHIN)
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(HAPPENS_WITHIN)
    opened = context.new_page()
    opened.on("pageerror", lambda error: print(f"page: {error}"))
    yield opened
    if request.node.stash.get(_FAILED, False):
        shoot(opened, f"failed-{request.node.name}")
    context.close()


def shoot(page: Page, name: str) -> None:
    """Keep a picture of the page."""
    named = os.environ.get("XEC_FORWARD_SCREENSHOTS")
    folder = ROOT / named if named and name in PAGE_SHOTS else SHOTS
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


@pytest.fixture
def opened(page: Page, lab: Lab) -> Callable[..., Page]:
    """Opens JupyterLab, with the panel shown unless told otherwise."""

    def open(notebook: str = "", *, panel: bool = True) -> Page:
        # A workspace of its own: what another test had open stays closed.
        workspace = f"lab/workspaces/{uuid.uuid4().hex}"
        load(page, lab.url(f"{workspace}/tree/{notebook}" if notebook else workspace))
        if panel:
            show(page)
        return page

    return open


def load(page: Page, url: str) -> None:
    """Open a page of JupyterLab's or Notebook 7's, and wait for its parts."""
    page.goto(url, timeout=LOADS_WITHIN)
    page.wait_for_function("window.jupyterapp && window.jupyterapp.restored.then(() => true)", timeout=LOADS_WITHIN)


def kernel_ready(page: Page) -> None:
    """Wait until the notebook in front has its kernel; a cell that is run before is skipped without a word."""
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for(timeout=LOADS_WITHIN)
    page.wait_for_function(
        """() => {
          const context = window.jupyterapp.shell.currentWidget?.sessionContext;
          return context?.isReady && context.session?.kernel?.connectionStatus === 'connected';
        }""",
        timeout=LOADS_WITHIN,
    )


def show(page: Page) -> None:
    """Show the panel by its command."""
    page.evaluate("window.jupyterapp.commands.execute('xec_forward:show')")
    page.get_by_role("region", name="Tunnels", exact=True).wait_for()


def change_theme(page: Page, theme: str) -> None:
    """Change JupyterLab's theme to `light` or `dark`."""
    named = f"{{ theme: 'JupyterLab {theme.title()}' }}"
    page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {named})")
    page.wait_for_function(
        f"document.body.dataset.jpThemeLight === '{str(theme == 'light').lower()}'", timeout=HAPPENS_WITHIN
    )
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
