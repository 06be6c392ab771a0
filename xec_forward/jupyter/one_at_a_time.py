"""Those who want the same thing go one after the other: a line that two threads run at once opens one tunnel."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class OneAtATime:
    """Names, each of which one thread has at a time. A thread may take again what it has."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owners: dict[str, int] = {}

    @contextmanager
    def taking(self, names: Iterable[str]) -> Iterator[None]:
        """Wait until all of these are free, and have them meanwhile. Raises KeyboardInterrupt."""
        wanted, me = set(names), threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: all(self._owners.get(name, me) == me for name in wanted))
            taken = wanted - self._owners.keys()
            self._owners.update(dict.fromkeys(taken, me))
        try:
            yield
        finally:
            with self._changed:
                for name in taken:
                    del self._owners[name]
                self._changed.notify_all()
