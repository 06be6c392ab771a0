"""Card, table, panel and sidebar are legible in light and dark: in JupyterLab, nbconvert's HTML, VS Code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import change_theme, kernel_ready, shoot
from tests.browser.contrast import illegible
from tests.browser.test_sidebar import Open, row
from tests.peers.lab import Lab
from tests.peers.services import Services
from tests.peers.sshd import Sshd

THEMES = ("light", "dark")
# What VS Code defines in an output, of its own themes.
VSCODE = {
    "light": {"editor-background": "#ffffff", "foreground": "#3b3b3b", "editor-font-family": "'Fira Code', monospace"},
    "dark": {"editor-background": "#1f1f1f", "foreground": "#cccccc", "editor-font-family": "'Fira Code', monospace"},
}


def cells(door: Sshd, services: Services) -> list[str]:
    """A card of a tunnel that is ready and of one that has failed, the table, the panel."""
    specs = f"echo=0:{door.far()}:{services.echo}\nweb=0:{door.far()}:{services.refused}"
    return ["%load_ext xec_forward", f"%%forward bastion\n{specs}", "%forward", "%forward --panel"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory, door: Sshd, services: Services) -> Path:
    """A notebook that a machine has run."""
    folder = tmp_path_factory.mktemp("executed")
    made = [nbformat.v4.new_code_cell(cell) for cell in cells(door, services)]  # type: ignore[no-untyped-call]
    path = folder / "tunnels.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)  # type: ignore[no-untyped-call]
    convert(path, "--to", "notebook", "--execute", "--inplace", door=door)
    return path


def convert(path: Path, *options: str, door: Sshd) -> None:
    """Run nbconvert."""
    env = {**os.environ, "XEC_FORWARD_SSH_CONFIG": str(door.folder / "ssh_config")}
    env |= {"XEC_FORWARD_STATE": str(path.parent / "state"), "IPYTHONDIR": str(path.parent / "ipython")}
    command = [sys.executable, "-m", "nbconvert", *options, str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_jupyterlab(lab: Lab, door: Sshd, services: Services, opened: Open) -> None:
    page = opened(lab.write_notebook("themes.ipynb", *cells(door, services)))
    kernel_ready(page)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    panel = page.locator(".jp-OutputArea-output", has_text="Open a tunnel")
    expect(panel).to_contain_text("● ready")
    expect(row(page, "web")).to_contain_text("✗ failed")
    for theme in THEMES:
        change_theme(page, theme)
        shoot(page, f"themes-{theme}")
        for output in page.locator(".jp-OutputArea-output").all():
            assert illegible(output) == []
        assert illegible(page.locator(".xf-Panel")) == []


@pytest.mark.parametrize("theme", THEMES)
def test_nbconvert(theme: str, executed: Path, door: Sshd, page: Page) -> None:
    convert(executed, "--to", "html", f"--HTMLExporter.theme={theme}", f"--output={theme}", door=door)
    page.route("http**", lambda route: route.abort())  # MathJax and its like
    page.goto(executed.with_name(f"{theme}.html").as_uri())
    outputs = page.locator(".jp-OutputArea-output")
    expect(outputs).to_have_count(3)
    shoot(page, f"nbconvert-{theme}")
    for output in outputs.all():
        expect(output).to_contain_text("● ready")
        assert illegible(output) == []


@pytest.mark.parametrize("theme", THEMES)
def test_vs_code(theme: str, executed: Path, page: Page) -> None:
    notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    shown = [output["data"]["text/html"] for cell in notebook.cells for output in cell.outputs]
    assert len(shown) == 3
    variables = "".join(f"--vscode-{name}: {value};" for name, value in VSCODE[theme].items())
    body = "background: var(--vscode-editor-background); color: var(--vscode-foreground)"
    sections = "".join(f"<section>{html}</section>" for html in shown)
    page.set_content(f"<style>:root {{{variables}}} body {{{body}}}</style>{sections}")
    shoot(page, f"vscode-{theme}")
    for section in page.locator("section").all():
        expect(section).to_contain_text("● ready")
        assert illegible(section) == []
        name = section.get_by_text("echo", exact=True).first
        assert "Fira Code" in name.evaluate("node => getComputedStyle(node).fontFamily")
