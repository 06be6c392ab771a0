"""The words of a line, gone through once and sorted; `parser` says the rules. Ground floor, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from ..errors import SpecError
from ..options import SshTarget
from ..source import Source, SourceKind, parse_source
from ..spec import Forward, Kind, Resource, parse_forward, parse_port, parse_resource, parse_selector, parse_target
from ..spec.words import quote
from .dialect import KUBERNETES, Dialect
from .flags import Flag, Section, read_value

__all__ = ["Action", "Entry", "Reader"]


T = TypeVar("T")


class Action(StrEnum):
    """What a line asks for."""

    OPEN = "open"
    LIST = "list"
    CLOSE = "close"
    CLOSE_ALL = "close-all"
    RECONNECT = "reconnect"
    DOCTOR = "doctor"
    PANEL = "panel"
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Entry:
    """A word that is no option, or the argument of one that has its place among them (`Dialect.words`).

    Attributes:
        option: "" or that one.
        after: the SOURCE option whose unquoted rest this may be: then no error repeats it.
        place: its number on the line, for that error.
    """

    word: str
    option: str
    after: str
    place: int

    def forward(self) -> Forward:
        """Read as a SPEC. Raises SpecError."""
        kind = _FORWARDS.get(self.option, Kind.LOCAL)
        return self._read("SPEC", lambda word: parse_forward(word, kind=kind))

    def target(self) -> SshTarget:
        """Read as a TARGET. Raises SpecError."""
        return self._read("TARGET", parse_target)

    def resource(self) -> Resource:
        """Read as a RESOURCE, after -l as a label selector. Raises SpecError."""
        return self._read("RESOURCE", parse_selector if self.option else parse_resource)

    def port(self, resource: Resource) -> Forward:
        """Read as a PORT of a resource. Raises SpecError."""
        return self._read("PORT", lambda word: parse_port(word, resource))

    def _read(self, what: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(self.word)
        except SpecError as error:
            problem = error
        raise self._hidden(what) if self.after else problem

    def tunnel_name(self, option: str) -> str:
        """Read as the name of a tunnel, for `option`. Raises SpecError."""
        if self.word.isidentifier():
            return self.word
        if self.after:
            raise self._hidden("NAME")
        if self.word[:1] == "@" and self.word[1:].isidentifier():
            raise SpecError(f"{option} takes names of tunnels, without an @", hint=f"Write {option} {self.word[1:]}")
        raise SpecError(f"{quote(self.word)}: {option} takes names of tunnels", hint="%forward alone lists them")

    def _hidden(self, what: str) -> SpecError:
        return SpecError(
            f"word {self.place} is no {what} (not repeated here, since it follows {self.after})",
            hint=f"Quote a SOURCE that has spaces: {self.after} 'cmd:pass show db'",
        )


_FORWARDS = {"-L": Kind.LOCAL, "-R": Kind.REMOTE, "-D": Kind.DYNAMIC}
_ACTIONS = {f"--{action}": action for action in Action if action not in (Action.OPEN, Action.LIST, Action.HELP)}
_HELP = ("-h", "--help")


class Reader:
    """Goes through the words once, from left to right, and sorts them.

    Attributes:
        action: what the line asks for.
        entries: the words that are no option, and the arguments of those that have a place among them, in order.
        given: the options, by the dataclass they belong to and the field.
        sources: reference -> SOURCE.

    Args:
        given, sources: those of a profile; an option of the line takes the place of the profile's.
    """

    def __init__(
        self,
        words: Sequence[str],
        dialect: Dialect,
        *,
        listed: bool = False,
        given: Mapping[Section, Mapping[str, Any]] = MappingProxyType({}),
        sources: Mapping[str, Source] = MappingProxyType({}),
    ) -> None:
        self.action = Action.OPEN
        self.entries: list[Entry] = []
        self.given: dict[Section, dict[str, Any]] = {each: dict(given.get(each, {})) for each in dialect.sections}
        self.sources: dict[str, Source] = dict(sources)
        self._own: set[Flag] = set()
        self._words = list(words)
        self._next = 0
        self._dialect = dialect
        self._others = (*dialect.words, *dialect.ignored, *_ACTIONS, *_HELP)
        self._listed = listed
        self._after = ""
        self._ignored: list[str] = []

    def notes(self) -> tuple[str, ...]:
        """What was accepted and ignored, as a line for the card."""
        if not self._ignored:
            return ()
        return (f"{' '.join(dict.fromkeys(self._ignored))} ignored: a tunnel here runs beside the cells anyway",)

    def read(self) -> None:
        """Do it, once; it stops at the first --help. Raises SpecError."""
        only_words = False
        while self._next < len(self._words) and self.action is not Action.HELP:
            word = self._words[self._next]
            self._next += 1
            if only_words or not word.startswith("-") or word == "-":
                self.entries.append(Entry(word, "", self._after, self._next))
            elif word == "--":
                only_words = True
            elif word.startswith("--"):
                self._long(word)
            else:
                self._short(word)

    def _long(self, word: str) -> None:
        spelling, equals, value = word.partition("=")
        if spelling in _HELP and not equals:
            self.action = Action.HELP
        elif spelling in _ACTIONS:
            self._after = ""
            self._set_action(spelling)
            if equals:
                self.entries.append(Entry(value, "", "", self._next))
        elif spelling in self._dialect.words:
            self._placed(spelling, value if equals else None)
        elif flag := self._dialect.flags.get(spelling):
            self._flag(flag, spelling, value if equals else None)
        else:
            raise self._unknown(spelling)

    def _short(self, word: str) -> None:
        """A group of short options; the first that takes a value takes the group's rest, else the next word."""
        for position, letter in enumerate(word[1:], 2):
            spelling, rest = f"-{letter}", word[position:] or None
            if spelling in _HELP:
                self.action = Action.HELP
                return
            if spelling in self._dialect.ignored:
                self._after = ""
                self._ignored.append(spelling)
            elif spelling in self._dialect.words:
                self._placed(spelling, rest)
                return
            elif flag := self._dialect.flags.get(spelling):
                self._flag(flag, spelling, rest)
                return
            else:
                raise self._unknown(spelling)

    def _placed(self, spelling: str, value: str | None) -> None:
        """An option whose argument keeps its place among the words."""
        self._after = ""
        metavar = "app=api" if self._dialect is KUBERNETES else "SPEC"
        self.entries.append(Entry(self._value(spelling, metavar, value), spelling, "", self._next))

    def _flag(self, flag: Flag, spelling: str, value: str | None) -> None:
        self._after = ""
        if self._listed and flag.section in self._dialect.targets:
            what = "the cluster" if self._dialect is KUBERNETES else "TARGET"
            raise SpecError(f"{spelling} belongs to {what}", hint="Put it in the first line of the cell")
        given = self.given[flag.section]
        if flag.switch:
            if value is not None:
                raise SpecError(f"{spelling} takes no value", hint=f"Write {spelling} alone")
            given[flag.field] = True
            return
        self.give(flag, spelling, self._value(spelling, flag.metavar, value))

    def give(self, flag: Flag, spelling: str, text: str) -> None:
        """Take over the value of an option; one that may be given again is added to. Raises SpecError."""
        given = self.given[flag.section]
        if flag.source:
            source = parse_source(text, spelling)
            if source.kind is SourceKind.SECRET and self._dialect is not KUBERNETES:
                raise SpecError(
                    f"{spelling} secret: is read from a cluster, and {self._dialect.magic} leads to none",
                    hint="Give another SOURCE: env:NAME, keyring:SERVICE/USER, cmd:COMMAND, file:PATH or prompt",
                )
            self.sources[source.reference] = source
            given[flag.field] = source.reference
            # `--password cmd:pass show db` without quotes: the words after it are part of the SOURCE.
            self._after = "" if source.kind in (SourceKind.ENV, SourceKind.SECRET) else spelling
        elif flag.kind is tuple:
            more = read_value(flag, spelling, text)
            before = given.get(flag.field, ()) if flag in self._own else ()
            given[flag.field] = (*before, *(more if isinstance(more, tuple) else (more,)))
            self._own.add(flag)
        else:
            given[flag.field] = read_value(flag, spelling, text)

    def _value(self, spelling: str, metavar: str, value: str | None) -> str:
        if value is not None:
            return value
        if self._next < len(self._words):
            word = self._words[self._next]
            if not word.startswith("--") and word not in self._dialect.flags and word not in self._others:
                self._next += 1
                return word
        joined = f", or {spelling}=VALUE for one that begins with dashes" if spelling.startswith("--") else ""
        raise SpecError(f"{spelling} needs a value", hint=f"Write {spelling} {metavar}{joined}")

    def _set_action(self, spelling: str) -> None:
        if self._listed:
            magic = self._dialect.magic
            raise SpecError(f"{spelling} does not go in a list of SPECs", hint=f"Write {magic} {spelling}")
        if self.action is not Action.OPEN and self.action is not _ACTIONS[spelling]:
            raise SpecError(f"--{self.action} and {spelling} do not go together", hint="Give them in two lines")
        self.action = _ACTIONS[spelling]

    def _unknown(self, spelling: str) -> SpecError:
        if self._after:
            return SpecError(
                f"word {self._next} is no option (not repeated here, since it follows {self._after})",
                hint=f"Quote a SOURCE that has spaces: {self._after} 'cmd:pass show db'",
            )
        return self._dialect.unknown(spelling, self._others)
