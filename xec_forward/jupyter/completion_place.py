"""Where on a line of a magic the cursor stands: what is being written there, and what the line says so far.

The text before the cursor is read by the rules of `line`, as far as it goes: a line that is still being written is
rarely a good one, and nothing here raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..line import KUBERNETES, SSH, Action, Dialect
from ..line.flags import Flag

__all__ = ["ACTIONS", "NAMING", "Place", "Text", "find", "place_in", "words_of"]

# `x = %forward ...`, or alone; %%forward begins a cell.
_MAGIC = re.compile(r"\s*(?:[^\W\d][^%='\"#]*=\s*)?(%%?)(k8s_forward|forward)(?=\s)")
ACTIONS = tuple(f"--{action}" for action in Action if action not in (Action.OPEN, Action.LIST))
NAMING = (f"--{Action.CLOSE}", f"--{Action.RECONNECT}")


@dataclass(frozen=True, slots=True)
class Text:
    """The text of one line of a magic, up to the cursor.

    Attributes:
        head: the first line of the cell, where this is a line below it; else None.
    """

    dialect: Dialect
    text: str
    head: str | None = None


@dataclass(slots=True)
class Place:
    """What is being written, and what stands before it.

    Attributes:
        value: what of it is there, without its quotes; raw: with them.
        flag: the option whose value it is; None where it is none's.
        after: the option with a place among the words (`-l`), or the action on names, that it belongs to; else "".
        words: the words before it that are no option: TARGET, SPECs.
        given: the options before it, by field, with the last value.
        selector: the label selector after -l.
        spec: whether -L, -R or -D stands before it.
        switches: the spellings of all options before it.
    """

    dialect: Dialect
    listed: bool = False
    value: str = ""
    raw: str = ""
    flag: Flag | None = None
    after: str = ""
    words: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    selector: str = ""
    spec: bool = False
    switches: set[str] = field(default_factory=set)
    only_words: bool = False

    @property
    def naming(self) -> bool:
        """Whether names of tunnels are written: those of --close and --reconnect."""
        return any(option in self.switches for option in NAMING)

    @property
    def profiles(self) -> list[str]:
        """The names after @ before it."""
        return [word[1:] for word in self.words if word.startswith("@")]


def find(text: str, line: int, column: int) -> Text | None:
    """The line of a magic that the cursor is on, None where it is on another."""
    lines = text.split("\n")
    if line >= len(lines):
        return None
    first = next((number for number, each in enumerate(lines) if each.strip()), 0)
    before = lines[line][:column]
    head = _MAGIC.match(lines[first])
    if head is not None and head[1] == "%%" and line > first:
        return Text(_dialect(head[2]), before, head=lines[first][head.end() :])
    # IPython joins lines that end with a backslash.
    while line > first and lines[line - 1].endswith("\\"):
        line -= 1
        before = f"{lines[line][:-1]} {before}"
    found = _MAGIC.match(before)
    if found is None or (found[1] == "%%" and line != first):
        return None
    return Text(_dialect(found[2]), before[found.end() :])


def _dialect(magic: str) -> Dialect:
    return next(dialect for dialect in (SSH, KUBERNETES) if dialect.magic == f"%{magic}")


def place_in(text: str, dialect: Dialect, *, listed: bool = False) -> Place | None:
    """Where a line ends that is still being written; None in a comment."""
    words = words_of(text)
    if words is None:
        return None
    *before, (value, raw) = words
    place = Place(dialect, listed, value, raw)
    pending: Flag | str = ""
    for word, _ in before:
        pending = _take(place, word, pending)
    if isinstance(pending, Flag):
        place.flag = pending
    elif pending:
        place.after = pending
    elif place.only_words or not value.startswith("-"):
        pass
    elif value.startswith("--"):
        spelling, equals, rest = value.partition("=")
        if equals:
            place.flag, place.value = dialect.flags.get(spelling), rest
            place.after = spelling
    elif (short := dialect.flags.get(value[:2])) is not None and not short.switch and len(value) > 2:
        place.flag, place.value = short, value[2:]
    return place


def _take(place: Place, word: str, pending: Flag | str) -> Flag | str:
    """Account for a word; what the next one is the value of."""
    if isinstance(pending, Flag):
        place.given[pending.field] = word
    elif pending:
        place.spec = True
        if place.dialect is KUBERNETES:
            place.selector = word
    elif place.only_words or not word.startswith("-") or word == "-":
        place.words.append(word)
    elif word == "--":
        place.only_words = True
    else:
        return _option(place, word)
    return ""


def _option(place: Place, word: str) -> Flag | str:
    spelling, equals, value = word.partition("=")
    rest = value if equals else None
    if not word.startswith("--"):
        # Of `-NTi key` the last letter counts; of `-ikey` the first has the rest.
        spelling, rest = word[:2], word[2:] or None
        while rest and (spelling in place.dialect.ignored or _is_switch(place, spelling)):
            place.switches.add(spelling)
            spelling, rest = f"-{rest[0]}", rest[1:] or None
    place.switches.add(spelling)
    flag = place.dialect.flags.get(spelling)
    if flag is not None and not flag.switch:
        if rest is None:
            return flag
        place.given[flag.field] = rest
    elif spelling in place.dialect.words and rest is None:
        return spelling
    elif spelling in place.dialect.words:
        _take(place, rest or "", spelling)
    elif flag is not None:
        place.given[flag.field] = ""
    return ""


def _is_switch(place: Place, spelling: str) -> bool:
    flag = place.dialect.flags.get(spelling)
    return flag is not None and flag.switch


def words_of(text: str) -> list[tuple[str, str]] | None:
    """The words of a text, each without its quotes and with them; the last is the one being written, perhaps "".

    None where the text ends in a comment.
    """
    words: list[tuple[str, str]] = []
    value = raw = quoted = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if not quoted and character.isspace():
            if raw:
                words.append((value, raw))
            value = raw = ""
            continue
        if character == "#" and not raw:
            return None
        raw += character
        following = text[position : position + 1]
        # Between "..." a backslash is one, but before a quote or another (POSIX.1-2017, Shell Command Language, 2.2.3).
        if character == "\\" and following and (not quoted or (quoted == '"' and following in '"\\')):
            raw += following
            value += following
            position += 1
        elif character == quoted:
            quoted = ""
        elif not quoted and character in "'\"":
            quoted = character
        else:
            value += character
    return [*words, (value, raw)]
