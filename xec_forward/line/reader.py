"""The words of a `%forward` line, gone through once and sorted; `line` says the rules. Ground floor, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..errors import SpecError
from ..options import CommandTarget, Service, SshTarget, TunnelOptions
from ..source import Source, SourceKind, parse_source
from ..spec import Forward, Kind, parse_forward, parse_target
from ..spec.words import quote
from .flags import FLAGS, Flag, Section, read_value, unknown

__all__ = ["Action", "Entry", "Reader"]


class Action(StrEnum):
    """What a line asks for."""

    OPEN = "open"
    LIST = "list"
    CLOSE = "close"
    CLOSE_ALL = "close-all"
    RECONNECT = "reconnect"
    DOCTOR = "doctor"
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Entry:
    """A word that is no option, or the argument of -L, -R or -D.

    Attributes:
        option: "" or one of the three.
        after: the SOURCE option whose unquoted rest this may be: then no error repeats it.
        place: its number on the line, for that error.
    """

    word: str
    option: str
    after: str
    place: int

    def forward(self) -> Forward:
        """Read as a SPEC. Raises SpecError."""
        try:
            return parse_forward(self.word, kind=_FORWARDS.get(self.option, Kind.LOCAL))
        except SpecError as error:
            problem = error
        raise self._hidden("SPEC") if self.after else problem

    def target(self) -> SshTarget:
        """Read as a TARGET. Raises SpecError."""
        try:
            return parse_target(self.word)
        except SpecError as error:
            problem = error
        raise self._hidden("TARGET") if self.after else problem

    def tunnel_name(self, option: str) -> str:
        """Read as the name of a tunnel, for `option`. Raises SpecError."""
        if self.word.isidentifier():
            return self.word
        if self.after:
            raise self._hidden("NAME")
        raise SpecError(f"{quote(self.word)}: {option} takes names of tunnels", hint="%forward alone lists them")

    def _hidden(self, what: str) -> SpecError:
        return SpecError(
            f"word {self.place} is no {what} (not repeated here, since it follows {self.after})",
            hint=f"Quote a SOURCE that has spaces: {self.after} 'cmd:pass show db'",
        )


SECTIONS: tuple[Section, ...] = (Service, TunnelOptions, SshTarget, CommandTarget)
_FORWARDS = {"-L": Kind.LOCAL, "-R": Kind.REMOTE, "-D": Kind.DYNAMIC}
_IGNORED = ("-N", "-T", "-f")
_ACTIONS = {f"--{action}": action for action in (Action.CLOSE, Action.CLOSE_ALL, Action.RECONNECT, Action.DOCTOR)}
_HELP = ("-h", "--help")
_OTHERS = (*_FORWARDS, *_IGNORED, *_ACTIONS, *_HELP)


class Reader:
    """Goes through the words once, from left to right, and sorts them.

    Attributes:
        action: what the line asks for.
        entries: the words that are no option, and the arguments of -L, -R and -D, in order.
        given: the options, by the dataclass they belong to and the field.
        sources: reference -> SOURCE.
    """

    def __init__(self, words: Sequence[str], *, listed: bool = False) -> None:
        self.action = Action.OPEN
        self.entries: list[Entry] = []
        self.given: dict[Section, dict[str, Any]] = {section: {} for section in SECTIONS}
        self.sources: dict[str, Source] = {}
        self._words = list(words)
        self._next = 0
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
        elif flag := FLAGS.get(spelling):
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
            if spelling in _IGNORED:
                self._after = ""
                self._ignored.append(spelling)
            elif spelling in _FORWARDS:
                self._after = ""
                value = self._value(spelling, "SPEC", rest)
                self.entries.append(Entry(value, spelling, "", self._next))
                return
            elif flag := FLAGS.get(spelling):
                self._flag(flag, spelling, rest)
                return
            else:
                raise self._unknown(spelling)

    def _flag(self, flag: Flag, spelling: str, value: str | None) -> None:
        self._after = ""
        if self._listed and flag.section in (SshTarget, CommandTarget):
            raise SpecError(f"{spelling} belongs to TARGET", hint="Put it in the first line of the cell")
        given = self.given[flag.section]
        if flag.switch:
            if value is not None:
                raise SpecError(f"{spelling} takes no value", hint=f"Write {spelling} alone")
            given[flag.field] = True
            return
        text = self._value(spelling, flag.metavar, value)
        if flag.source:
            source = parse_source(text, spelling)
            self.sources[source.reference] = source
            given[flag.field] = source.reference
            # `--password cmd:pass show db` without quotes: the words after it are part of the SOURCE.
            self._after = "" if source.kind is SourceKind.ENV else spelling
        elif flag.kind is tuple:
            more = read_value(flag, spelling, text)
            given[flag.field] = (*given.get(flag.field, ()), *(more if isinstance(more, tuple) else (more,)))
        else:
            given[flag.field] = read_value(flag, spelling, text)

    def _value(self, spelling: str, metavar: str, value: str | None) -> str:
        if value is not None:
            return value
        if self._next < len(self._words):
            word = self._words[self._next]
            if not word.startswith("--") and word not in FLAGS and word not in _OTHERS:
                self._next += 1
                return word
        joined = f", or {spelling}=VALUE for one that begins with dashes" if spelling.startswith("--") else ""
        raise SpecError(f"{spelling} needs a value", hint=f"Write {spelling} {metavar}{joined}")

    def _set_action(self, spelling: str) -> None:
        if self._listed:
            raise SpecError(f"{spelling} does not go in a list of SPECs", hint=f"Write %forward {spelling}")
        if self.action is not Action.OPEN and self.action is not _ACTIONS[spelling]:
            raise SpecError(f"--{self.action} and {spelling} do not go together", hint="Give them in two lines")
        self.action = _ACTIONS[spelling]

    def _unknown(self, spelling: str) -> SpecError:
        if self._after:
            return SpecError(
                f"word {self._next} is no option (not repeated here, since it follows {self._after})",
                hint=f"Quote a SOURCE that has spaces: {self._after} 'cmd:pass show db'",
            )
        return unknown(spelling, _OTHERS)
