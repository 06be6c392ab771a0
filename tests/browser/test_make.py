"""What `make` does about the sidebar: `make lab` builds what is missing, `make demo` never waits for node."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import ROOT
from tests.browser.test_bundle import clone

__all__ = ["clone"]  # a fixture

BUNDLE = "xec_forward/labextension/package.json"
# Says what it is called with; what its build leaves is the bundle.
NPM = f"""#!/bin/sh
echo "npm $*" >> "$CALLS"
case "$*" in *build*) mkdir -p ../xec_forward/labextension && echo {{}} > ../{BUNDLE};; esac
"""
PYTHON = '#!/bin/sh\necho "python $*" >> "$CALLS"\n'


class Tree:
    """A clone whose virtual environment is there already; npm and its Python say what they are called with.

    Args:
        root: the clone.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._calls = root / "calls"
        shutil.copy2(ROOT / "Makefile", root)
        for path, script in ((root / "bin" / "npm", NPM), (root / ".venv" / "bin" / "python", PYTHON)):
            path.parent.mkdir(parents=True)
            path.write_text(script)
            path.chmod(0o755)
        for stamp in (".python", ".demo", ".lab"):
            (root / ".venv" / stamp).touch()

    def run(self, *command: str) -> str:
        """Run a program here; what it printed."""
        env = {"PATH": f"{self.root / 'bin'}:/usr/bin:/bin", "HOME": str(self.root), "CALLS": str(self._calls)}
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def calls(self) -> list[str]:
        """What was called since this was asked for last."""
        said = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.write_text("")
        return said


@pytest.fixture
def tree(clone: Path) -> Tree:
    if shutil.which("make") is None:
        pytest.skip("make")
    return Tree(clone)


def test_make_lab_builds_what_is_missing_once(tree: Tree) -> None:
    lab = "python -m xec_forward demo --lab"
    tree.run("make", "lab")
    assert tree.calls() == ["npm ci --ignore-scripts --silent", "npm run --silent build", lab]
    linked = tree.root / ".venv" / "share" / "jupyter" / "labextensions" / "xec_forward"
    assert linked.resolve() == (tree.root / BUNDLE).parent
    tree.run("make", "lab")
    assert tree.calls() == [lab]


def test_make_demo_never_waits_for_node(tree: Tree) -> None:
    tree.run("make", "demo")
    assert tree.calls() == ["python -m xec_forward demo"]
    assert "npm" not in tree.run("make", "--dry-run", "--always-make", "demo")
    # What that names is an editable installation, whose build hook leaves npm alone too.
    tree.run(sys.executable, "-m", "hatchling", "build", "-t", "wheel:editable", "--hooks-only")
    assert tree.calls() == []
