"""The house's arrows (docs/design.md): who may import whom. Read from the source, so that lazy imports count too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import xec_forward

ROOT = Path(xec_forward.__file__).parent
ROOMS = ("engine", "client", "jupyter", "demo")
# What each room may import beside itself and the ground floor.
MAY_IMPORT: dict[str, set[str]] = {
    "ground": set(),
    "engine": set(),
    "client": set(),
    "jupyter": {"client"},
    # The demo starts servers of its own and drives a kernel; it needs nothing of the engine.
    "demo": set(),
}
# Libraries a room must not use, at the top of a file or anywhere in it.
NOT_IN: dict[str, set[str]] = {
    "ground": {"asyncssh", "IPython", "ipykernel", "asyncio", "socket", "traitlets"},
    "client": {"asyncssh", "IPython", "ipykernel", "uvloop"},
    "jupyter": {"asyncssh", "uvloop", "asyncio", "socket"},
    "engine": {"IPython", "ipykernel", "traitlets"},
}
# Standing at the door, these wire rooms together.
DOORS = {"__init__.py", "__main__.py", "cli.py"}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] in ROOMS else "ground"


def imports(path: Path) -> set[str]:
    """Absolute names of the modules a file imports, wherever in it."""
    package = ("xec_forward", *path.relative_to(ROOT).parts[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def files() -> list[Path]:
    return [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if not (path.parent == ROOT and path.name in DOORS) and "labextension" not in path.parts
    ]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "xec_forward" and len(parts) > 1 and parts[1] in ROOMS:
            assert parts[1] == room or parts[1] in MAY_IMPORT[room], f"{room} imports {name}"
        assert parts[0] not in NOT_IN.get(room, set()), f"{room} imports {name}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_one_room_of_at_most_500_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
    assert ast.get_docstring(ast.parse(path.read_text())), "says what lives here"
