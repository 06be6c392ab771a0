"""A tunnel that a line opened: what was wanted, what it gave the notebook, and the password that was typed for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..client.lines import Wanted
from ..client.tunnel import Tunnel
from ..errors import ConfigError
from ..model import TunnelState
from ..render import Card
from .facts import facts_of

if TYPE_CHECKING:
    from .cell_scope import Cell


class KeptPassword:
    """A password that a person typed, for the life of a tunnel; its repr shows nothing."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "KeptPassword(***)"

    def __call__(self) -> str:
        if not self._secret:
            raise ConfigError("the password typed for this tunnel is gone with it", hint="Run the line again")
        return self._secret

    def clear(self) -> None:
        """Forget it."""
        self._secret = ""


@dataclass(slots=True, eq=False)
class Opened:
    """A tunnel that a line opened, or that it lends to a cell.

    Attributes:
        cell: the one that it closes with.
        nameless: it failed to open; its names come when it is there after all.
    """

    wanted: Wanted
    tunnel: Tunnel
    password: KeptPassword | None = None
    names: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    cell: Cell | None = None
    nameless: bool = False

    @property
    def reusable(self) -> bool:
        return not self.tunnel.state.ended and self.tunnel.state is not TunnelState.FAILED

    def card(self, *, reused: bool = False, fresh: bool = False) -> Card:
        """Its card as it is now."""
        return Card(facts_of(self.tunnel), self.names, self.variables, self.remarks, reused, fresh)
