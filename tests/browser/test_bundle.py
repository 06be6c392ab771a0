"""How the sidebar is built and shipped; and that everything goes on without it where there is no npm."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.browser.conftest import BUNDLE, ROOT, SOURCE

INSTALLED = "share/jupyter/labextensions/xec_forward"
# What is in a clone; the sidebar is not.
CLONED = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A tree as git has it."""
    root = tmp_path / "clone"
    root.mkdir()
    for name in CLONED:
        shutil.copy2(ROOT / name, root / name)
    shutil.copytree(SOURCE, root / "labextension", ignore=shutil.ignore_patterns("node_modules", "lib", "core"))
    shutil.copytree(
        ROOT / "xec_forward", root / "xec_forward", ignore=shutil.ignore_patterns("labextension", "__pycache__")
    )
    return root


def build(root: Path, target: str, path: str = "/nowhere") -> tuple[Path, str]:
    """Build a package as pip does, without npm; the file, and what was said."""
    out = root / "dist"
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)],
        cwd=root, env={"PATH": path, "HOME": str(root)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made,) = out.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return made, done.stdout + done.stderr


def names(wheel: Path) -> set[str]:
    """The files of a wheel, those of its data folder as they will be installed."""
    with zipfile.ZipFile(wheel) as archive:
        return {name.partition(".data/data/")[2] or name for name in archive.namelist()}


def test_clone_without_npm_makes_a_wheel_without_the_sidebar(clone: Path) -> None:
    wheel, said = build(clone, "wheel")
    assert "npm is not installed" in said
    assert "xec_forward/jupyter/bridge.py" in names(wheel)
    assert not any("labextension" in name for name in names(wheel))


def test_sidebar_that_cannot_be_built_is_left_out(clone: Path, tmp_path: Path) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\nexit 1\n")
    npm.chmod(0o755)
    wheel, said = build(clone, "wheel", f"{npm.parent}:/bin")
    assert "could not be built" in said
    assert not any("labextension" in name for name in names(wheel))


def test_wheel_puts_the_bundle_where_jupyterlab_looks_and_sdist_carries_it(
    bundle: Path, clone: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, clone / "xec_forward" / "labextension")
    built = {f"{INSTALLED}/{path.relative_to(BUNDLE)}" for path in bundle.rglob("*") if path.is_file()}
    wheel, said = build(clone, "wheel")
    assert "npm" not in said
    assert {name for name in names(wheel) if "labextension" in name} == built | {f"{INSTALLED}/install.json"}
    sdist, said = build(clone, "sdist")
    assert "npm" not in said
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert (unpacked / "labextension" / "src" / "index.ts").exists()
    again, said = build(unpacked, "wheel")
    assert "npm" not in said
    assert names(again) == names(wheel)


def test_model_keeps_its_promises() -> None:
    """The tests of labextension/src/model.ts, in their own runner."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm")
    if not (SOURCE / "node_modules" / "vitest").exists():
        subprocess.run([npm, "ci", "--ignore-scripts"], cwd=SOURCE, check=True, timeout=400, capture_output=True)
    done = subprocess.run([npm, "test"], cwd=SOURCE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lock_file_names_no_registry() -> None:
    text = (SOURCE / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert ".tgz" not in text
