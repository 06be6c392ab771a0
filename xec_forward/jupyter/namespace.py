"""Names in the notebook and variables in its environment: given with a tunnel, taken back when it closes.

A name is *ours* as long as it holds the very object that was put there; anything else in it belongs to the user
and is neither overwritten nor removed. A tunnel may be closed on any thread.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING

from ..client.group import ForwardGroup
from ..client.tunnel import Tunnel
from ..dsn import ConnectionString
from ..errors import ConfigError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# What stands behind a handle's name for its connection string.
SUFFIXES = ("dsn", "url")

_NOTHING = object()


@dataclass(slots=True)
class _Name:
    """Who has a name: the last one's object is in it. `before` is what it goes back to."""

    before: object = _NOTHING
    layers: list[tuple[int, object]] = field(default_factory=list)


class Namespace:
    """The names given out in one shell. Owners are tunnels (or a group, or a cell's loan), by identity."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._lock = RLock()
        self._names: dict[str, _Name] = {}

    def holds(self, name: str) -> bool:
        """Whether there is anything under a name, ours or not."""
        return name in self._shell.user_ns

    def free(self, base: str, taken: Iterable[str] = (), mine: Iterable[object] = ()) -> str:
        """`base`, or `base_2` and so on: the first that no other tunnel has and that would overwrite nothing.

        Args:
            taken: names of other tunnels.
            mine: objects that may be replaced.
        """
        others, owners = set(taken), [id(each) for each in mine]
        return next(
            name
            for number in itertools.count(1)
            if (name := base if number == 1 else f"{base}_{number}") not in others and self._would_fit(name, owners)
        )

    def _would_fit(self, name: str, mine: list[int]) -> bool:
        for each in (name, *(f"{name}_{suffix}" for suffix in SUFFIXES)):
            if each not in self._shell.user_ns:
                continue
            value, given = self._shell.user_ns[each], self._names.get(each, _Name())
            owners = [owner for owner, layer in given.layers if layer is value]
            if not any(owner in mine for owner in owners):
                return False
        return True

    def require(self, name: str, *, force: bool) -> None:
        """Check that an explicit name may be given: it holds nothing, or something of our kind.

        Raises:
            ConfigError: it holds another kind of object, and `force` is not given.
        """
        if force:
            return
        kinds: Mapping[str, type | tuple[type, ...]] = {
            name: (Tunnel, ForwardGroup),
            **{f"{name}_{suffix}": ConnectionString for suffix in SUFFIXES},
        }
        for each, kind in kinds.items():
            value = self._shell.user_ns.get(each)
            if value is not None and not isinstance(value, kind):
                raise ConfigError(
                    f"the name {each} holds an object of type {type(value).__name__}",
                    hint="Choose another name with --as, or add --force to replace it",
                )

    def give(self, owner: object, values: Mapping[str, object], *, aside: bool = False) -> None:
        """Put objects under names of the notebook, in the place of what this owner had given before.

        Args:
            aside: what the names held is only put aside, and is back when they are taken back. Otherwise a name that
                changes hands is its new owner's alone.
        """
        with self._lock:
            self.take_back(owner)
            for name, value in values.items():
                held = self._shell.user_ns.get(name, _NOTHING)
                given = self._names.get(name)
                if not aside:
                    given = _Name()
                elif given is None or given.layers[-1][1] is not held:
                    given = _Name(held)
                given.layers.append((id(owner), value))
                self._names[name] = given
            self._shell.push(dict(values), interactive=True)  # type: ignore[no-untyped-call]

    def take_back(self, owner: object) -> None:
        """Remove what is still there of what was given for this owner. Idempotent."""
        with self._lock:
            for name, given in list(self._names.items()):
                kept = [layer for layer in given.layers if layer[0] != id(owner)]
                if len(kept) == len(given.layers):
                    continue
                ours, last = given.layers[-1][1], given.before
                given.layers = kept
                if kept:
                    last = kept[-1][1]
                else:
                    del self._names[name]
                if last is _NOTHING:
                    self._shell.drop_by_id({name: ours})  # type: ignore[no-untyped-call]
                elif self._shell.user_ns.get(name, _NOTHING) is ours:
                    self._shell.user_ns[name] = last


class Environment:
    """Environment variables set for tunnels; the last one set for counts.

    A variable that the user has changed since is left alone.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._before: dict[str, str | None] = {}
        self._layers: dict[str, list[tuple[int, str]]] = {}

    def set(self, owner: object, variables: Mapping[str, str]) -> None:
        """Set variables, in the place of what was set for this owner before."""
        with self._lock:
            self.put_back(owner)
            for name, value in variables.items():
                layers = self._layers.setdefault(name, [])
                if not layers:
                    self._before[name] = os.environ.get(name)
                layers.append((id(owner), value))
                os.environ[name] = value

    def put_back(self, owner: object) -> None:
        """Undo what was set for this owner: the one before it counts again, or the value before all of them."""
        with self._lock:
            for name, layers in list(self._layers.items()):
                kept = [layer for layer in layers if layer[0] != id(owner)]
                if len(kept) == len(layers):
                    continue
                ours = os.environ.get(name) == layers[-1][1]
                before = kept[-1][1] if kept else self._before[name]
                if kept:
                    self._layers[name] = kept
                else:
                    del self._layers[name], self._before[name]
                if not ours:
                    continue
                if before is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = before
