"""What every tunnel of the engine shares, handed to each by the manager."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..model import Changed, Open
from .links.base import Dial
from .links.pool import Pool
from .listener import Binder
from .opening import Asker

if TYPE_CHECKING:
    from .tunnel import Tunnel


class Route(Protocol):
    """What identifies the link a request wants, and how to dial it; `own`: no master is ridden."""

    def __call__(self, request: Open, *, own: bool = False) -> tuple[Hashable, Dial]: ...


@dataclass(frozen=True, slots=True)
class House:
    """The pool of links, and the manager's ears.

    Attributes:
        pool: where links come from.
        binder: binds listeners.
        asker: puts the questions of openings.
        report: told of every change.
        route: which link a request wants.
        bound: called when a port was bound.
        expired: called when a tunnel's own time is over.
        log: the engine's log file.
    """

    pool: Pool
    binder: Binder
    asker: Asker
    report: Callable[[Changed], None]
    route: Route
    bound: Callable[[], None]
    expired: Callable[[Tunnel], None]
    log: str
