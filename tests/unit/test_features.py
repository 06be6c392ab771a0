"""docs/features.md names only ids and tests that exist, each id once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "features.md"
FIRST_LIGHT = (
    "S1 S3 S4 S6 S7 S8 S9 S14 S15 S16 S17 S18 S19 S20 S26 S46 S47 S58 S59 S61 S64 S65 S66 S72 S73 S74 S75 "
    "N1 N2 N5 N8 N10 N12 N14 N15 N16 N17 P2 P6"
)


def _rows() -> list[tuple[str, str]]:
    """The id of each row, and what stands in its last column."""
    rows = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| id |"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 3, line
            rows.append((cells[0], cells[2]))
    return rows


def _tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_names_tests_that_exist() -> None:
    for row, cell in _rows():
        named = re.findall(r"`([^`]+)`", cell)
        assert named, f"{row} names no test"
        assert re.sub(r"`[^`]+`|[, ]", "", cell) == "", f"{row}: tests alone stand in the last column"
        for name in named:
            file, _, test = name.partition("::")
            assert (ROOT / file).is_file(), f"{row}: {file}"
            if file.endswith(".ipynb"):
                assert not test, f"{row}: a notebook is one test"
            else:
                assert test.startswith("test_"), f"{row}: {name}"
                assert test in _tests(ROOT / file), f"{row}: {name}"


def test_every_id_stands_once_and_none_of_first_light_is_missing() -> None:
    ids = [row for row, _ in _rows()]
    assert [row for row in ids if not re.fullmatch(r"[SNP][1-9]\d?", row)] == []
    assert sorted({row for row in ids if ids.count(row) > 1}) == []
    assert [row for row in FIRST_LIGHT.split() if row not in ids] == []


def test_changelog_names_only_ids_that_are_built() -> None:
    built = {row for row, _ in _rows()}
    said: set[str] = set()
    for group in re.findall(r"\(((?:[SNP]\d+[-, ]*)+)\)", (ROOT / "CHANGELOG.md").read_text()):
        for part in group.split(","):
            first, _, last = part.strip().partition("-")
            kind, low = first[0], int(first[1:])
            said |= {f"{kind}{number}" for number in range(low, int(last[1:] if last else low) + 1)}
    assert sorted(said - built) == []
