"""One tunnel in the panel: its card, its buttons, and what a press came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets  # type: ignore[import-untyped]

from ..client.tunnel import Tunnel
from ..model import TunnelState
from ..render import Card, Facts, block
from .input_field import InputField
from .panel_press import ACTIONS, Press

if TYPE_CHECKING:
    from .opened import Opened

# Between two tunnels; seen on light and on dark.
_RULE = "1px solid rgba(128, 128, 128, .35)"
_LABELS = {"reconnect": "Reconnect", "close": "Close", "doctor": "Doctor"}
_TIPS = {"reconnect": "Drop the link of {}, keep its port, dial again", "close": "Close {}", "doctor": "Examine {}"}


class Row:
    """One tunnel.

    Args:
        heard: called with each press, on the thread that hears it; gives where who pressed can be asked.

    Attributes:
        box: the widget of all of it.
    """

    def __init__(self, tunnel: Tunnel, heard: Callable[[], InputField | None]) -> None:
        self._tunnel = tunnel
        self._heard = heard
        self._busy: set[str] = set()
        self._card = widgets.HTML(layout=widgets.Layout(flex="1 1 24em", min_width="0"))
        self._buttons = {action: self._button(action) for action in ACTIONS}
        self._said = widgets.HTML(layout=widgets.Layout(flex="1 1 0", min_width="0", overflow="auto"))
        self._hide = widgets.Button(description="Hide", layout=widgets.Layout(width="auto", flex="0 0 auto"))
        self._hide.on_click(lambda _: self._say(""))
        buttons = widgets.HBox([*self._buttons.values()], layout=widgets.Layout(flex="0 0 auto"))
        head = widgets.HBox([self._card, buttons], layout=widgets.Layout(flex_flow="row wrap"))
        self._result = widgets.HBox([self._said, self._hide], layout=widgets.Layout(display="none"))
        below = widgets.Layout(padding="4px 0 6px", border_bottom=_RULE)
        self.box = widgets.VBox([head, self._result], layout=below)
        self._parts = [head, buttons, self._card, self._said, self._result, self.box]

    @property
    def widgets(self) -> list[Any]:
        """Those that a person uses."""
        return [*self._buttons.values(), self._hide]

    def update(self, facts: Facts, opened: Opened | None) -> None:
        """Show how it is; what says the same is not sent."""
        about = (opened.names, opened.variables, opened.remarks) if opened is not None else ((), (), ())
        self._card.value = Card(facts, *about, now=time.time(), lasting=True).html()
        # The one that is wanted next.
        waits = facts.snapshot.state is TunnelState.WAITING
        self._buttons["reconnect"].button_style = "primary" if waits else ""

    def close(self) -> None:
        """Take its widgets away."""
        discard([*self.widgets, *self._parts])

    def _button(self, action: str) -> Any:
        button = widgets.Button(
            description=_LABELS[action],
            tooltip=_TIPS[action].format(self._tunnel.name),
            layout=widgets.Layout(width="auto"),
        )
        button.on_click(lambda _: self._press(action))
        return button

    def _press(self, action: str) -> None:
        """On the thread that hears the front-end, which must not wait."""
        field = self._heard()
        if action in self._busy:
            return
        self._busy.add(action)
        Press(action, self._tunnel, field, self._say, lambda text: self._done(action, text)).start()

    def _done(self, action: str, text: str) -> None:
        self._busy.discard(action)
        self._say(text)

    def _say(self, text: str) -> None:
        said = block(escape(text)) if text else ""
        # Findings have columns, which are not to break: they scroll.
        self._said.value = f'<div style="width:max-content">{said}</div>' if "\n" in text else said
        self._result.layout.display = "" if text else "none"


def discard(parts: Iterable[Any]) -> None:
    """Take widgets away, with the layouts and styles that they have to themselves."""
    for widget in parts:
        for each in (widget, widget.layout, getattr(widget, "style", None)):
            if each is not None:
                each.close()
