"""A profile: a table of the project file, read by the rules of the line. Ground floor, no I/O.

    [tunnels.NAME]          NAME is a Python identifier: what the tunnel is called
    ssh = TARGET            or k8s = RESOURCE, or command = TEXT; for a cluster without a RESOURCE, its options alone
    forward = SPEC          or a list of them; of PORTs where it is a cluster; -R, -D and -L stand in front, as on the
                            line; left out, the line says what to open
    OPTION = VALUE          any option of the line by its name in Python: true for a switch, a list where the option may
                            be given again or takes commas

On the line `@NAME` stands for it, among the words and options of the line itself, which win: a SPEC in the place of
the file's `forward`, an option in the place of the file's. Relative paths are relative to the file's folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from ..errors import SpecError
from ..options import ClusterTarget, CommandTarget
from ..source import Source, SourceKind
from ..spec import Forward, check_name
from ..spec.words import quote
from .dialect import KUBERNETES, SSH, Dialect
from .flags import Flag, Section, example_of
from .reader import Entry, Reader

__all__ = ["BadKey", "Chosen", "Profile", "at_words", "read_profile"]

_KINDS = {"ssh": SSH, "command": SSH, "k8s": KUBERNETES}


class BadKey(Exception):
    """A key, or its value, is no good; "" where it is the whole table."""

    def __init__(self, key: str, error: SpecError) -> None:
        super().__init__(key, error)
        self.key = key
        self.error = error


@dataclass(frozen=True, slots=True)
class Profile:
    """A tunnel, or the way to several, as the project file has it.

    Attributes:
        place: the word of TARGET or RESOURCE; empty for a command, and for a cluster alone.
        forwards: the words of SPECs or PORTs.
        given: the options, by the dataclass they belong to and the field.
        sources: reference -> SOURCE.
    """

    name: str
    dialect: Dialect
    place: tuple[Entry, ...]
    forwards: tuple[Entry, ...]
    given: Mapping[Section, Mapping[str, Any]]
    sources: Mapping[str, Source]

    def reader(self, words: Sequence[str]) -> Reader:
        """The words of a line that has `@NAME` among others, gone through. Raises SpecError."""
        reader = Reader(words, self.dialect, given=self.given, sources=self.sources)
        reader.read()
        if self.place and reader.given.get(CommandTarget):
            raise SpecError(f"--command: @{self.name} names a host", hint="Leave one of them out")
        reader.entries = [*self.place, *(reader.entries or self.forwards)]
        return reader

    def called(self, name: str, forwards: tuple[Forward, ...]) -> str:
        """The name of what it opens: the one given, else its own; none where a forward brings one, or the line did."""
        if name or not self.forwards or (len(forwards) == 1 and forwards[0].name):
            return name
        return self.name


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a word `@NAME` stands for: a profile, or those of a group, whose name it then has."""

    profiles: tuple[Profile, ...]
    group: str = ""


def at_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names after @ on a line, and its other words. The value of an option is none."""
    names: list[str] = []
    rest: list[str] = []
    for place, word in enumerate(words):
        if word == "--":
            return names, [*rest, *words[place:]]
        if word.startswith("@") and not (rest and place and _takes_value(words[place - 1])):
            names.append(word[1:])
        else:
            rest.append(word)
    return names, rest


def _takes_value(word: str) -> bool:
    flag = SSH.flags.get(word) or KUBERNETES.flags.get(word)
    return word in (*SSH.words, *KUBERNETES.words) or (flag is not None and not flag.switch)


def read_profile(name: str, table: Mapping[str, object], folder: str) -> Profile:
    """Read a table.

    Args:
        name: as the file calls it.
        table: its keys and values.
        folder: what relative paths in it are relative to.

    Raises:
        BadKey: a key is unknown, or its value is none of this option. No value of a SOURCE option is repeated.
    """
    try:
        check_name(name)
    except SpecError as error:
        raise BadKey("", error) from None
    dialect = _dialect(table)
    reader = Reader((), dialect)
    flags = {flag.field: flag for flag in dialect.flags.values()}
    place: tuple[Entry, ...] = ()
    forwards: tuple[Entry, ...] = ()
    for key, value in table.items():
        try:
            if key == "forward":
                example = "5432" if dialect is KUBERNETES else '"pg.vpc:5432"'
                texts = _texts(key, value, example, several=True)
                forwards = tuple(_forward_entry(text, dialect) for text in texts)
            elif key in ("ssh", "k8s"):
                example = '"bastion"' if key == "ssh" else '"svc/postgres"'
                place = (_place_entry(_texts(key, value, example)[0], dialect),)
            elif key in flags:
                _option(reader, flags[key], value, folder)
            else:
                raise _unknown(key, [*_KINDS, "forward", *flags], dialect)
        except SpecError as error:
            raise BadKey(key, SpecError(error.message, hint=_in_toml(error.hint, key, flags.get(key)))) from None
    _check(place, forwards, dialect)
    given = {section: MappingProxyType(dict(options)) for section, options in reader.given.items()}
    return Profile(name, dialect, place, forwards, MappingProxyType(given), MappingProxyType(reader.sources))


def _dialect(table: Mapping[str, object]) -> Dialect:
    kinds = [key for key in _KINDS if key in table]
    if len(kinds) > 1:
        error = SpecError(f"{kinds[0]} and {kinds[1]} do not go together", hint="Leave one of them out")
        raise BadKey(kinds[1], error)
    if kinds:
        return _KINDS[kinds[0]]
    if any(flag.field in table for flag in KUBERNETES.flags.values() if flag.section is ClusterTarget):
        return KUBERNETES
    hint = 'Write ssh = "bastion", k8s = "svc/postgres" or command = "..." in it'
    raise BadKey("", SpecError("it says nothing of where to", hint=hint))


def _texts(key: str, value: object, example: str, *, kind: str = "a string", several: bool = False) -> list[str]:
    """A value, or each of a list, as the word it would be on the line. The value itself is never shown."""
    values = value if isinstance(value, list) and several else [value]
    hint = f"Write {key} = {example}"
    if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in values):
        wanted = f"{kind}, or a list of them," if several else kind
        raise SpecError(f"{key}: {wanted} is expected", hint=hint)
    if not values:
        raise SpecError(f"{key}: the list is empty", hint=f"{hint}, or leave {key} out")
    return [str(each) for each in values]


def _place_entry(text: str, dialect: Dialect) -> Entry:
    """TARGET, or RESOURCE. Raises SpecError."""
    option, _, selector = text.partition(" ")
    if dialect is KUBERNETES and option in dialect.words:
        entry = Entry(selector.strip(), option, "", 0)
    else:
        entry = Entry(text, "", "", 0)
        if len(text.split()) > 1:
            which = "RESOURCE and PORT" if dialect is KUBERNETES else "TARGET and SPEC"
            raise SpecError(f"{which} are two keys", hint="Write what follows the space as forward")
    if dialect is KUBERNETES:
        entry.resource()
    else:
        entry.target()
    return entry


def _forward_entry(text: str, dialect: Dialect) -> Entry:
    """SPEC or PORT. A PORT is read with its RESOURCE only. Raises SpecError."""
    option, _, word = text.partition(" ") if text.startswith("-") else ("", "", text)
    if option and (dialect is KUBERNETES or option not in dialect.words):
        forms = "5432 or 8080:http" if dialect is KUBERNETES else "pg.vpc:5432, -R 8080:localhost:3000 or -D 1080"
        raise SpecError(f"forward: {quote(text)} is no {dialect.word.split()[-1]}", hint=f"A form is {forms}")
    entry = Entry(word.strip(), option, "", 0)
    if dialect is SSH:
        entry.forward()
    return entry


def _check(place: tuple[Entry, ...], forwards: tuple[Entry, ...], dialect: Dialect) -> None:
    """The PORTs of a RESOURCE. Raises BadKey."""
    if dialect is SSH or not forwards:
        return
    if not place:
        error = SpecError("forward: a PORT, and no RESOURCE that has it", hint='Write k8s = "svc/postgres" in it')
        raise BadKey("forward", error)
    try:
        for entry in forwards:
            entry.port(place[0].resource())
    except SpecError as error:
        raise BadKey("forward", error) from None


def _option(reader: Reader, flag: Flag, value: object, folder: str) -> None:
    """Take over one option. Raises SpecError."""
    key = flag.field
    if flag.switch:
        if not isinstance(value, bool):
            raise SpecError(f"{key}: true or false is expected", hint=f"Write {key} = true")
        reader.given[flag.section][key] = value
        return
    if key == "control_persist" and isinstance(value, bool):
        value = "yes" if value else "no"
    kind = "a number" if flag.kind in (int, float) else "a string"
    texts = _texts(key, value, _example(flag), kind=kind, several=flag.kind is tuple or key == "proxy")
    for text in [",".join(texts)] if key == "proxy" else texts:
        reader.give(flag, key, _within(folder, flag, text))


def _example(flag: Flag) -> str:
    """A value of an option, as the file is written."""
    if flag.kind in (int, float):
        return example_of(flag)
    return '"env:NAME"' if flag.source else f'"{flag.metavar.split("|")[0]}"'


def _within(folder: str, flag: Flag, text: str) -> str:
    """A path of the file, seen from its folder."""
    front = f"{SourceKind.FILE}:" if flag.source else ""
    if not (flag.metavar == "FILE" or (front and text.startswith(front))):
        return text
    path = text.removeprefix(front)
    if not path.strip() or path.startswith(("/", "~", "$")) or (flag.field == "ssh_config" and path == "none"):
        return text
    return f"{front}{folder}/{path}"


def _unknown(key: str, known: list[str], dialect: Dialect) -> SpecError:
    other = SSH if dialect is KUBERNETES else KUBERNETES
    if key in [flag.field for flag in other.flags.values()]:
        return SpecError(f"{key} belongs to tunnels with {'k8s' if other is KUBERNETES else 'ssh'}")
    if key == "as":
        return SpecError("there is no key as", hint='Write name = "pg", or give the table that name')
    near = get_close_matches(key[:40], known, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}?" if near else "Its keys are ssh, k8s, command, forward, and the options' names"
    return SpecError(f"there is no key {quote(key)[1:-1]}", hint=hint)


def _in_toml(hint: str, key: str, flag: Flag | None) -> str:
    """A hint of the line's, as the file is written: `Write --hold 30` is `Write hold = 30` there."""
    if hint.startswith(f"Write {key} ") and not hint.startswith(f"Write {key} ="):
        value = hint.removeprefix(f"Write {key} ").split(", ")[0].strip("'")
        bare = flag is not None and flag.kind in (int, float) and value.replace(".", "").isdigit()
        return f"Write {key} = {value}" if bare else f'Write {key} = "{value}"'
    if flag is None and (found := re.fullmatch(r"Write (\S+)", hint)):
        return f'Write {key} = "{found[1]}"'
    return re.sub(
        r"(?<![\w-])--([a-z][a-z-]+) ([A-Z]+)", lambda option: f'{option[1].replace("-", "_")} = "{option[2]}"', hint
    )
