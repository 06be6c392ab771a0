"""The project file: `xec_forward.toml`, or `[tool.xec_forward]` in pyproject.toml, found upwards from where we work.

    [tunnels.NAME]      see `line.profile`
    [groups]
    NAME = ["sales", "cache"]       tunnels, and other groups

The nearest folder that has one of the two counts, and in it xec_forward.toml first. What is wrong in it is one line
with the file, the line and the fix; only what is asked for is looked at, so that a slip in one table spoils no other.

A SOURCE of the file may run a program, so a file that anybody could have written is refused.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import ConfigError, SpecError
from ..line import BadKey, Chosen, Profile, read_profile
from ..spec.words import quote

FILE = "xec_forward.toml"
PYPROJECT = "pyproject.toml"
_TOOL = ("tool", "xec_forward")
_KEYS = ("tunnels", "groups")
_LARGEST = 1 << 20  # bytes; nobody writes that many tunnels
_SHOWN = 12  # names in a hint


@dataclass(frozen=True, slots=True)
class Project:
    """A project file that was read.

    Attributes:
        path: where it is.
        text: all of it, to tell the lines of what is wrong.
        root: the keys of the table that is ours; () for xec_forward.toml.
        tunnels, groups: what stands in it, not checked yet.
    """

    path: Path
    text: str
    root: tuple[str, ...]
    tunnels: Mapping[str, object]
    groups: Mapping[str, object]

    @property
    def names(self) -> list[str]:
        """What may follow an @: tunnels, then groups, each in the order of the file."""
        return list(dict.fromkeys([*self.tunnels, *self.groups]))

    def choose(self, name: str) -> Chosen:
        """What `@NAME` stands for. Raises ConfigError."""
        if name not in self.groups:
            return Chosen((self._profile(name),))
        found: dict[str, Profile | None] = {}
        self._gather(name, (), found)
        return Chosen(tuple(profile for profile in found.values() if profile is not None), group=name)

    def _gather(self, group: str, within: tuple[str, ...], found: dict[str, Profile | None]) -> None:
        """Add the profiles of a group, those of its groups in their places; each once.

        Args:
            within: the groups around it.
            found: by name; a group that was gone through has None.
        """
        if group in within:
            way = " -> ".join([*within[within.index(group) :], group])
            raise self._error(("groups", within[-1]), f"the groups lead in a circle: {way}", "Take one of them out")
        if group in self.tunnels:
            hint = "Give one of them another name"
            raise self._error(("groups", group), f"{group} is a tunnel and a group", hint)
        names = self.groups[group]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise self._error(("groups", group), f"{group}: a list of names is expected", f'Write {group} = ["sales"]')
        if not group.isidentifier():
            raise self._error(("groups", group), f"{quote(group)} is no name in Python", "Give the group such a name")
        for name in names:
            if name in self.groups:
                if name not in found:
                    self._gather(name, (*within, group), found)
            elif name not in self.tunnels:
                raise self._error(("groups", group), f"{group}: there is no {quote(name)[1:-1]}", self._near(name))
            elif name not in found:
                found[name] = self._profile(name)
        found[group] = None

    def _profile(self, name: str) -> Profile:
        if name not in self.tunnels:
            raise ConfigError(
                f"there is no tunnel or group {quote(name)[1:-1]}", hop=shown(self.path), hint=self._near(name, "@")
            )
        table = self.tunnels[name]
        if not isinstance(table, dict):
            hint = f'Write [tunnels.{name}] and ssh = "bastion" below it'
            raise self._error(("tunnels", name), f"{quote(name)[1:-1]} is no table", hint)
        try:
            return read_profile(name, table, str(self.path.parent))
        except BadKey as bad:
            problem = bad
        keys = ("tunnels", name, *([problem.key] if problem.key else []))
        where = "" if problem.key else f"{quote(name)[1:-1]}: "
        raise self._error(keys, f"{where}{problem.error.message}", problem.error.hint)

    def _near(self, name: str, mark: str = "") -> str:
        near = get_close_matches(name[:100], self.names, n=2, cutoff=0.5)
        if near:
            return f"Did you mean {' or '.join(mark + each for each in near)}?"
        few = ", ".join(mark + each for each in self.names[:_SHOWN])
        return f"It has {few}" if few else "It has none: write [tunnels.NAME] into it"

    def _error(self, keys: tuple[str, ...], message: str, hint: str = "") -> ConfigError:
        return _error(self.path, message, hint, line_of(self.text, (*self.root, *keys)))


def choose(name: str) -> Chosen:
    """What `@NAME` stands for, by the project file of the working folder.

    Raises:
        ConfigError: there is no such file, no such name in it, or what it says is no good.
    """
    if not name:
        raise SpecError("after @ a name is expected", hint="Write @sales, as the project file calls it")
    project = find()
    if project is not None:
        return project.choose(name)
    message = f"@{quote(name)[1:-1]}: there is no {FILE} here or above, and no [tool.xec_forward] in a {PYPROJECT}"
    raise ConfigError(message, hint=f"Write {FILE} with [tunnels.{name if name.isidentifier() else 'sales'}] in it")


def find(folder: Path | None = None) -> Project | None:
    """The project file of a folder, the working folder unless told; None where there is none. Raises ConfigError."""
    try:
        folder = (folder or Path.cwd()).absolute()
    except FileNotFoundError:
        return None  # the working folder has been deleted
    for above in (folder, *folder.parents):
        if (project := _read(above / FILE, ())) or (project := _read(above / PYPROJECT, _TOOL)):
            return project
    return None


def _read(path: Path, root: tuple[str, ...]) -> Project | None:
    """The project of a file, None where it is not there, or says nothing of us."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError as error:
        if root:
            return None  # a pyproject.toml that is not for us to read
        raise _error(path, f"cannot be read: {error.strerror or type(error).__name__}") from None
    if root and root[-1].encode() not in data:
        return None
    if len(data) > _LARGEST:
        raise _error(path, "is too large for a project file")
    try:
        text = data.decode()
        document: Any = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise _error(path, "this is no UTF-8", "Save it as UTF-8", data[: error.start].count(b"\n") + 1) from None
    except tomllib.TOMLDecodeError as error:
        raise _syntax(path, data.decode(), str(error)) from None
    except RecursionError:
        raise _error(path, "is nested too deeply") from None
    for key in root:
        document = document.get(key) if isinstance(document, dict) else None
    if document is None:
        return None
    _refuse_strangers(path)
    return _project(path, text, root, document)


def _project(path: Path, text: str, root: tuple[str, ...], document: object) -> Project:
    """The two tables of a file. Raises ConfigError."""
    if not isinstance(document, dict):
        hint = "Write [tool.xec_forward.tunnels.NAME]"
        raise _error(path, "tool.xec_forward is no table", hint, line_of(text, root))
    tables: dict[str, Mapping[str, object]] = {key: {} for key in _KEYS}
    front = "".join(f"{key}." for key in root)
    for key, value in document.items():
        line = line_of(text, (*root, key))
        if key not in _KEYS:
            near = get_close_matches(key[:40], _KEYS, n=1)
            name = near[0] if near else "tunnels"
            form = f"[{front}{name}]" if name == "groups" else f"[{front}{name}.NAME]"
            raise _error(path, f"there is no key {quote(key)[1:-1]}", f"Write {form}", line)
        if not isinstance(value, dict):
            form = f"[{front}groups]" if key == "groups" else f"[{front}tunnels.NAME]"
            raise _error(path, f"{key} is no table", f"Write {form}", line)
        tables[key] = value
    return Project(path, text, root, tables["tunnels"], tables["groups"])


def _refuse_strangers(path: Path) -> None:
    """A file that anybody may write to, or may have put where it is."""
    try:
        file, folder = path.stat(), path.parent.stat()
    except OSError:
        return  # gone since it was read
    stranger = bool(folder.st_mode & stat.S_IWOTH) and file.st_uid not in (0, os.getuid())
    if file.st_mode & stat.S_IWOTH or stranger:
        hint = f"Run chmod o-w {shown(path)}" if file.st_mode & stat.S_IWOTH else "Move it to a folder of your own"
        raise _error(path, "anybody could have written it", hint)


def _syntax(path: Path, text: str, said: str) -> ConfigError:
    """tomllib's words are not repeated, but for what tells a name that stands twice: its place is what counts."""
    found = re.search(r"at line (\d+), column (\d+)", said)
    line, column = (int(found[1]), int(found[2])) if found else (text.count("\n") + 1, 0)
    if said.startswith("Cannot"):
        return _error(path, "a key or a table stands twice", "Leave one of them out", line)
    hint = 'A value stands in quotes: password = "env:NAME"'
    where = f"column {column}: " if column else ""
    return _error(path, f"{where}this is no TOML", hint, line)


def _error(path: Path, message: str, hint: str = "", line: int = 0) -> ConfigError:
    return ConfigError(message, hop=f"{shown(path)} line {line}" if line else shown(path), hint=hint)


def shown(path: Path) -> str:
    """A path as a message shows it."""
    text, home = str(path), os.path.expanduser("~")
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text


_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[\s*({_DOTTED})\s*\]")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """The number of the line in which a key stands; of the nearest table around it where it has none; 1 at the least.

    tomllib tells no places. This reads headers and keys, a line each; a key within braces is found by its name.
    """
    best, deepest = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.match(line):
            here = table = _parts(header[1])
        elif key := _KEY.match(line):
            here = (*table, *_parts(key[1]))
        else:
            continue
        depth = len(here) if here == keys[: len(here)] else 0
        if depth and depth < len(keys) and re.search(rf"(?<![\w-]){re.escape(keys[-1])}[\"']?\s*=", line):
            depth = len(keys)  # sales = { ssh = "bastion", hold = "x" }
        elif here[: len(keys)] == keys:
            depth = len(keys)  # [tunnels.sales] where `tunnels` is looked for
        if depth > deepest:
            best, deepest = number, depth
    return best


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))
