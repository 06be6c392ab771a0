"""`%forward --panel`: the tunnels of this kernel with buttons, and a form that opens one.

Made of ipywidgets' own widgets, which are imported only here and in its parts:

    panel_row     one tunnel: its card, its buttons, what a press came to
    panel_form    host, ports and options, and the line that is written of them
    panel_press   what a press does, on a thread of its own, and how it asks
    panel_table   the table below it, for a notebook that is opened without its kernel

Everything in a widget is saved with the notebook: nothing but what a card shows is put into one, and what a person
types into the form is taken out again where it could be a secret. Beside the widgets the display holds the table as
HTML and text, for places that have no widgets; where nobody is there to press a button it is all that is shown.

A thread looks at the tunnels twice a second and sends what has become another text; nothing is sent while nothing
changes. It ends with the panel.
"""

from __future__ import annotations

import logging
import threading
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..client.session import Session
from ..client.tunnel import Tunnel
from ..render import Table, block
from .extension import session_for
from .facts import facts_of
from .input_field import InputField
from .openings import Openings
from .panel_table import FoldedTable

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

logger = logging.getLogger(__name__)

# The shortest time between two updates, seconds.
PAUSE = 0.5

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WAITS = "While a cell runs, these buttons wait for its end{}. JupyterLab's sidebar Tunnels does not wait"
_KERNEL = ": this kernel takes one after the other"
_FRONT_END = ": this front-end sends them one after the other"
# Before the first press there is no telling.
_PERHAPS = ", unless the front-end uses subshells, as JupyterLab does"
_open: WeakKeyDictionary[Openings, Panel] = WeakKeyDictionary()


def show(shell: InteractiveShell, openings: Openings) -> None:
    """Show the panel, in the place of the one that was shown before; where there can be none, the table."""
    session = session_for(shell)
    if session.tunnels:
        session.refresh()
    end(openings)
    if getattr(shell, "kernel", None) is None:
        print(_table(session).plain())
    elif find_spec("ipywidgets") is None:
        _display(_table(session), "The panel needs ipywidgets: %pip install ipywidgets")
    elif not shell.kernel._allow_stdin:  # type: ignore[attr-defined]
        # Run by a machine: nobody presses a button, and what is saved is to stand by itself.
        _display(_table(session), "")
    else:
        panel = _open[openings] = Panel(shell, openings, session)
        panel.display()


def end(openings: Openings) -> None:
    """End the panel that is shown, if there is one: its last state stays in its place. Idempotent."""
    panel = _open.pop(openings, None)
    if panel is not None:
        panel.end()


class Panel:
    """One panel, from its display to its end.

    Attributes:
        box: the widget that is displayed.
    """

    def __init__(self, shell: InteractiveShell, openings: Openings, session: Session) -> None:
        import ipywidgets as widgets  # type: ignore[import-untyped]

        from .panel_form import Form
        from .panel_row import Row

        self._shell = shell
        self._openings = openings
        self._session = session
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._make_row = Row
        self._rows: dict[Tunnel, Row] = {}
        self._table = FoldedTable(session)
        self._none = widgets.HTML(block("no tunnel is open"))
        self._list = widgets.VBox([self._none])
        self._field = InputField(shell)
        self._note = widgets.HTML()
        self._form = Form(shell, openings, session, self._heard)
        self._close = widgets.Button(
            description="Close panel",
            tooltip="The tunnels stay open",
            layout=widgets.Layout(width="auto", align_self="flex-start"),
        )
        self._close.on_click(lambda _: end(openings))
        self.box = widgets.VBox([self._list, self._form.box, self._note, self._close])
        answer_beside_cells([*self._form.widgets, self._close])
        self._supports = bool(getattr(shell.kernel, "_supports_kernel_subshells", False))  # type: ignore[attr-defined]
        self._note.value = block(escape(_WAITS.format(_PERHAPS if self._supports else _KERNEL)))
        self.update()

    def display(self) -> None:
        """Show it in the cell that runs, and keep it up to date."""
        from IPython.display import display

        table = _table(self._session)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        bundle = {_WIDGET_VIEW: view, "text/html": table.html(), "text/plain": table.plain()}
        display(bundle, raw=True)  # type: ignore[no-untyped-call]
        self._table.display()
        threading.Thread(target=self._follow, name="xec_forward panel", daemon=True).start()

    def update(self) -> None:
        """Bring every row up to date; what says the same is not sent."""
        with self._lock:
            if self._ended.is_set():
                return
            tunnels = self._session.listed()
            gone = [self._rows.pop(tunnel) for tunnel in list(self._rows) if tunnel not in tunnels]
            new = [tunnel for tunnel in tunnels if tunnel not in self._rows]
            for tunnel in new:
                self._rows[tunnel] = self._make_row(tunnel, self._heard)
                answer_beside_cells(self._rows[tunnel].widgets)
            for tunnel, row in self._rows.items():
                opened = self._openings.find(tunnel)
                row.update(facts_of(tunnel), opened)
            if gone or new:
                self._list.children = [row.box for row in self._rows.values()] or [self._none]
            for row in gone:
                row.close()
            self._table.update()

    def end(self) -> None:
        """Update no more; how things stand now stays, as HTML alone. Idempotent."""
        import ipywidgets as widgets

        from .panel_row import discard

        with self._lock:
            if self._ended.is_set():
                return
            self._ended.set()
            self._field.close()
            self._table.update()
            left = _table(self._session).html()
            self.box.children = [widgets.HTML(left + block("This panel is closed; %forward --panel opens another"))]
            for row in self._rows.values():
                row.close()
            self._form.close()
            discard([self._none, self._list, self._note, self._close])

    def _heard(self) -> InputField | None:
        """A button was pressed: where its person can be asked. The message tells the page, and if by a subshell."""
        message = self._shell.kernel.get_parent("shell")  # type: ignore[attr-defined]
        if self._supports:
            beside = (message.get("header") or {}).get("subshell_id")
            self._note.value = "" if beside else block(escape(_WAITS.format(_FRONT_END)))
        return self._field if self._field.reaches(message) else None

    def _follow(self) -> None:
        while not self._ended.wait(PAUSE):
            try:
                self.update()
            except Exception:
                # The kernel is ending, and its sockets are gone.
                logger.debug("the panel could not be brought up to date", exc_info=True)
                return


def answer_beside_cells(widgets: list[Any]) -> None:
    """Let these widgets be heard while a cell runs.

    ipykernel 7.4 hands a widget's message to the thread that last sent one of its own, which is the cell's; the
    front-end's own choice is a subshell. ipykernel up to 7.3 leaves it to the front-end, and 6 has none.
    """
    for widget in widgets:
        if hasattr(widget.comm, "_reply_subshell_for"):
            widget.comm._reply_subshell_for = lambda data, default: default


def _table(session: Session) -> Table:
    return Table(tuple(map(facts_of, session.listed())))


def _display(table: Table, remark: str) -> None:
    from IPython.display import display

    html, plain = table.html(), table.plain()
    if remark:
        html, plain = html + block(escape(remark)), f"{plain}\n{remark}"
    display({"text/html": html, "text/plain": plain}, raw=True)  # type: ignore[no-untyped-call]
