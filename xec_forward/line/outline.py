"""What a line is, before its expansions and its values are known. Ground floor, no I/O."""

from __future__ import annotations

from string import Formatter

from ..errors import SpecError
from .dialect import KUBERNETES, Dialect
from .flags import Flag
from .parser import split
from .reader import Action, Reader

__all__ = ["says_what_to_open"]


def says_what_to_open(text: str, dialect: Dialect) -> bool:
    """Whether the first line of a cell has a SPEC (a RESOURCE and a PORT, an @profile) on it.

    Then the cell is code, else a list. It is decided by the words as they are written: an `{expression}` is one word,
    whatever it becomes. False also for a line that cannot be read at all.
    """
    try:
        outline = _Outline(split(_expressions_masked(text)), dialect)
        outline.read()
    except SpecError:
        return False
    if outline.action is not Action.OPEN:
        return False
    plain = [entry for entry in outline.entries if not entry.option]
    if plain and plain[0].word.startswith("@"):
        return True
    if dialect is KUBERNETES:
        return len(outline.entries) > 1
    return len(plain) < len(outline.entries) or len(plain) > (0 if "command" in outline.flags else 1)


class _Outline(Reader):
    """Goes through the words without reading the values of options.

    Attributes:
        flags: the options that are given.
    """

    def __init__(self, words: list[str], dialect: Dialect) -> None:
        super().__init__(words, dialect)
        self.flags: set[str] = set()

    def _flag(self, flag: Flag, spelling: str, value: str | None) -> None:
        self.flags.add(flag.field)
        if not flag.switch:
            self._value(spelling, flag.metavar, value)


def _expressions_masked(text: str) -> str:
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        # A brace without its other one: IPython then takes the line as it is.
        return text
    return "".join(literal + ("" if name is None else "x") for literal, name, _, _ in parts)
