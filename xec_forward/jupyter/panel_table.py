"""The tunnels as a table beside the panel, for a notebook that is opened without its kernel.

JupyterLab prefers the widgets of a display even where no kernel is left to fill them, and shows an error in their
place. So the table is a display of its own: folded, so that nobody sees the rows twice, and brought up to date when a
tunnel comes, goes or changes its state. What merely counts on is not worth a message: a kernel takes each for activity.
"""

from __future__ import annotations

from html import escape
from typing import Any

from ..client.session import Session
from ..render import Table
from .facts import facts_of

_TITLE = "The tunnels as a table, for this notebook without its kernel"


class FoldedTable:
    """The table below one panel."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shown = self._essence()
        self._display: Any = None

    def display(self) -> None:
        """Show it in the cell that runs."""
        from IPython.display import display

        self._display = display(self._bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Bring it up to date where a tunnel came, went or changed its state."""
        essence = self._essence()
        if self._display is not None and essence != self._shown:
            self._shown = essence
            self._display.update(self._bundle(), raw=True)

    def _essence(self) -> list[tuple[object, ...]]:
        snapshots = [tunnel.snapshot for tunnel in self._session.listed()]
        return [(each.tunnel, each.state, each.way, str(each.error)) for each in snapshots]

    def _bundle(self) -> dict[str, str]:
        table = Table(tuple(map(facts_of, self._session.listed())))
        summary = f'<summary style="cursor:pointer;opacity:.75">{escape(_TITLE)}</summary>'
        # As text the panel's own display has the table.
        return {"text/html": f"<details>{summary}{table.html()}</details>", "text/plain": "(%forward shows it anew)"}
