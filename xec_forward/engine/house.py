"""What every tunnel of the engine shares, handed to each by the manager."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..model import Changed, Open
from .links.pool import Pool
from .links.way import Way
from .listener import Binder
from .opening import Asker

if TYPE_CHECKING:
    from .tunnel import Tunnel


class Route(Protocol):
    """How a request comes to its link; `own`: no master is ridden."""

    def __call__(self, request: Open, *, own: bool = False) -> Way: ...


@dataclass(frozen=True, slots=True)
class House:
    """The pool of links, and the manager's ears.

    Attributes:
        pool: where links come from.
        binder: binds listeners.
        asker: puts the questions of openings.
        report: told of every change.
        route: how a request comes to its link.
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
