"""The panel's form: host, ports and options, written as the line that opens the same in a cell, and opened.

A widget's value is saved with the notebook. So a field in which a secret may have been typed is emptied as soon as it
is heard of, and the line refuses it as a cell would.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets  # type: ignore[import-untyped]
import traitlets

from ..client.lines import lines_of
from ..client.offer import offer
from ..client.profiles import read_line
from ..client.session import Session
from ..client.watcher import NobodyAnswers
from ..errors import ForwardError, SpecError
from ..line import KUBERNETES, SSH, Action, Dialect, Line, split
from ..model import Snapshot
from ..render import Card, block
from .configuration import defaulted, values_of
from .input_field import InputField
from .live import LiveWatcher
from .magics import ForwardMagics
from .openings import Openings
from .panel_press import ask, in_a_cell, under_way
from .panel_row import discard

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

logger = logging.getLogger(__name__)

_KINDS = {"SSH host": SSH, "Kubernetes": KUBERNETES}
# Of each field its name, an example, and the words with which its text alone would be a line.
_FIELDS = {
    "SSH host": (
        ("Host", "bastion, or user@host:port", ""),
        ("Ports", "5432:pg.vpc:5432 (local port:host:port), or postgresql://ana@pg.vpc/sales", "host"),
        ("Options", "may be empty; --as pg --dsn postgresql://ana@/sales --password env:PGPASSWORD", "host"),
    ),
    "Kubernetes": (
        ("Resource", "svc/postgres, deploy/api, or a pod's name", ""),
        ("Ports", "5432, or 15432:5432 (local port:its port)", "svc/x"),
        ("Options", "may be empty; -n production --password secret:postgres/password", "svc/x 80"),
    ),
}
# Where a line that is refused may hold a secret: at an option for one (misspelt, too), or between a user and an @.
_MAY_BE_SECRET = re.compile(r"pas|pw|secret|dsn|token|:(?!//)[^@\s]*@", re.IGNORECASE)


class Field(widgets.Text):  # type: ignore[misc]
    """A line of text that is heard of when it is left, and repeated to no other front-end."""

    value = traitlets.CUnicode("", help="What is typed.").tag(sync=True, echo_update=False)


class Form:
    """The form.

    Args:
        heard: called with each press, on the thread that hears it; gives where who pressed can be asked.

    Attributes:
        box: the widget of all of it.
    """

    def __init__(
        self, shell: InteractiveShell, openings: Openings, session: Session, heard: Callable[[], InputField | None]
    ) -> None:
        self._shell = shell
        self._openings = openings
        self._session = session
        self._heard = heard
        self._opening = threading.Lock()
        # A refusal that has emptied a field, until it was certainly seen; the lines to keep that no cell has taken.
        self._refusal = ""
        self._kept = ""
        self._kind = widgets.Dropdown(options=list(_KINDS), description="Through", layout=_wide("16em"))
        self._fields = [Field(continuous_update=False, layout=_wide("52em")) for _ in _FIELDS["SSH host"]]
        self._button = widgets.Button(description="Open", tooltip="Open it, and write the line that does the same")
        self._written = widgets.HTML()
        self._said = widgets.HTML()
        self._title = widgets.HTML(block("<b>Open a tunnel</b>"))
        parts = [self._title, self._kind, *self._fields, self._button, self._said, self._written]
        self.box = widgets.VBox(parts, layout=widgets.Layout(padding="8px 0"))
        self._label()
        self._kind.observe(lambda _: self._label(), names="value")
        for field in self._fields:
            field.observe(self._typed, names="value")
        self._button.on_click(lambda _: self._press())

    @property
    def widgets(self) -> list[Any]:
        """Those that a person uses."""
        return [self._kind, *self._fields, self._button]

    def close(self) -> None:
        """Take its widgets away."""
        discard([*self.widgets, self._written, self._said, self._title, self.box])

    @property
    def _dialect(self) -> Dialect:
        return _KINDS[self._kind.value]

    def _label(self) -> None:
        for field, (name, example, _) in zip(self._fields, _FIELDS[self._kind.value], strict=True):
            field.description, field.placeholder = name, example

    # ---- what is typed ----

    def _typed(self, change: Any) -> None:
        """A field was left. What is refused by itself and may be a secret does not stay in it."""
        if change["new"]:
            self._refusal = ""
        if not _MAY_BE_SECRET.search(change["new"]):
            return
        _, _, before = _FIELDS[self._kind.value][self._fields.index(change["owner"])]
        try:
            self._line([before, change["new"]])
        except ForwardError as error:
            change["owner"].value = ""
            self._refusal = str(error)
            self._say(self._refusal)

    def _line(self, texts: Iterable[str]) -> Line:
        """The line that the texts of fields make, with the defaults that a cell has. Raises SpecError, ConfigError."""
        line = read_line(split(" ".join(texts)), dialect=self._dialect)
        if line.action is not Action.OPEN:
            raise SpecError("the form opens tunnels, and does nothing else", hint="Leave the other options out")
        magics = self._shell.magics_manager.registry.get(ForwardMagics.__name__)
        return defaulted(line, values_of(magics), magics.refused, ()) if isinstance(magics, ForwardMagics) else line

    # ---- opening ----

    def _press(self) -> None:
        """On the thread that hears the front-end, which must not wait."""
        field = self._heard()
        self._written.value = ""
        if self._refusal:
            # A click on the button is what made the person leave the field: nothing is opened without what it held.
            self._say(self._refusal)
            self._refusal = ""
            return
        texts = [text for field in self._fields if (text := " ".join(field.value.splitlines()).strip())]
        try:
            if not texts:
                raise SpecError("nothing says what to open", hint=f"Fill in {self._fields[0].description} and Ports")
            if any(mark in text for text in texts for mark in "${"):
                raise SpecError("$name and {expression} are a cell's", hint="Write them out, or run the line in a cell")
            line = self._line(texts)
        except ForwardError as error:
            self._forget_secrets()
            self._say_error(error)
            return
        written = " ".join([self._dialect.magic, *texts])
        if self._opening.acquire(blocking=False):
            under_way("opening", self._say)
            watcher = _Asking(self._shell, line, self._session, field, self._say)
            arguments = (line, written, watcher)
            threading.Thread(target=self._run, args=arguments, name="xec_forward panel open", daemon=True).start()
        else:
            self._say("another one is being opened; its Close ends that")

    def _forget_secrets(self) -> None:
        for field in self._fields:
            if _MAY_BE_SECRET.search(field.value):
                field.value = ""

    def _run(self, line: Line, written: str, watcher: _Asking) -> None:
        try:
            cards = self._open(line, watcher)
        except ForwardError as error:
            offer(error, line)
            self._say_error(error, in_a_cell(written) if watcher.unanswered else "")
        except Exception as error:
            logger.exception("opening from the panel failed")
            self._say(f"it failed unexpectedly: {type(error).__name__}")
        else:
            self._write(written)
            names = ", ".join(name for card in cards for name in card.names)
            self._say(f"opened; in a cell: {names}" if names else "opened")
        finally:
            self._opening.release()

    def _open(self, line: Line, watcher: LiveWatcher) -> list[Card]:
        if line.service.dry_run:
            raise SpecError("--dry-run opens nothing", hint="Run the line in a cell to see what it would do")
        return self._openings.open(lines_of(self._session, line), line.service, watcher)[0]

    # ---- showing ----

    def _write(self, line: str) -> None:
        """The line, for the person to keep; with those before it, where no cell was run since."""
        payloads: Any = self._shell.payload_manager
        waiting = [each.get("text") for each in payloads.read_payload()]
        self._kept = f"{self._kept}\n{line}" if self._kept in waiting else line
        what = "The line to keep in a cell; most front-ends put it below the next cell that you run:"
        self._written.value = block(f"{escape(what)}\n<code>{escape(self._kept)}</code>")
        self._shell.set_next_input(self._kept)

    def _say_error(self, error: ForwardError, more: str = "") -> None:
        if "is missing" in error.message and not self._fields[1].value.strip():
            # The hint is for who writes a line.
            error.hint = f"Fill in {self._fields[1].description}"
        self._say(f"{error}. {more}" if more else str(error))

    def _say(self, text: str) -> None:
        self._said.value = block(escape(text)) if text else ""


class _Asking(LiveWatcher):
    """Draws nothing, since the opening has a row of its own, and asks who pressed the button.

    Attributes:
        unanswered: whether a question was.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        line: Line,
        session: Session,
        field: InputField | None,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(shell, getattr(line.target, "host", ""), quiet=True)
        self._session = session
        self._field = field
        self._say = say
        self._begun: set[int] = set()
        self.unanswered = False

    def progress(self, snapshot: Snapshot) -> None:
        self._begun.add(snapshot.tunnel)

    def pose(self, prompt: str, *, echo: bool) -> str:
        """Ask below the panel. Raises NobodyAnswers."""
        try:
            return ask(self._field, prompt, echo=echo, say=self._say, wanted=self._wanted)
        except NobodyAnswers:
            self.unanswered = True
            raise
        finally:
            under_way("opening", self._say)

    def _wanted(self) -> bool:
        """Closed meanwhile, by its button, say, it needs no answer."""
        return not self._begun or any(number in self._session.tunnels for number in self._begun)


def _wide(width: str) -> Any:
    return widgets.Layout(width="auto", max_width=width)
