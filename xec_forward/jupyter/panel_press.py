"""What a press in the panel does, on a thread of its own, and how it asks.

What needs an answer asks it in the input field below the panel's cell: a widget would keep what is typed, and a
notebook with it. Where the front-end shows none, it is refused with the line that asks in a cell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..client.tunnel import Tunnel
from ..client.watcher import NOBODY, NobodyAnswers
from .bridge_actions import Exchange
from .input_field import InputField

ACTIONS = ("reconnect", "close", "doctor")
_ANSWER_BELOW = "The login asks something: answer in the field below this panel"


class Press:
    """One press of a tunnel's button; a `bridge_actions.Pressed`.

    Args:
        action: one of ACTIONS.
        field: where who pressed can be asked.
        say: shows how things stand, in text; called on another thread.
        done: called with what came of it, likewise.
    """

    def __init__(
        self,
        action: str,
        tunnel: Tunnel,
        field: InputField | None,
        say: Callable[[str], None],
        done: Callable[[str], None],
    ) -> None:
        self._action = action
        self._tunnel = tunnel
        self._field = field
        self._say = say
        self._done = done
        self._unanswered = False
        self._exchange = Exchange(action, self, dict)

    def start(self) -> None:
        """Begin. Returns at once."""
        under_way(self._action, self._say)
        threading.Thread(target=self._run, name=f"xec_forward panel {self._action}", daemon=True).start()

    def reply(self, **content: Any) -> None:
        """It has ended; or it needs an answer."""
        if content.get("status") == "question":
            self._answer(str(content["text"]), echo=bool(content["echo"]))
        else:
            self._done(str(content.get("text", "")))

    def fail(self, text: str) -> None:
        """It cannot be done."""
        self._done(f"{text}. {in_a_cell(self._line())}" if self._unanswered else text)

    def _run(self) -> None:
        self._exchange.run([self._tunnel])

    def _answer(self, text: str, *, echo: bool) -> None:
        value = None
        try:
            value = ask(self._field, text, echo=echo, say=self._say, wanted=lambda: self._exchange.asking)
        except NobodyAnswers:
            self._unanswered = True
        under_way(self._action, self._say)
        if self._exchange.asking:
            self._exchange.answer(self, value)

    def _line(self) -> str:
        if self._action == "reconnect":
            return f"%forward --reconnect {self._tunnel.name}"
        return f"%forward --doctor {self._tunnel.request.target.host}"


def ask(
    field: InputField | None, text: str, *, echo: bool, say: Callable[[str], None], wanted: Callable[[], bool]
) -> str:
    """Put a question to who pressed a button.

    Args:
        text: one line or several; the field has room for the last one.
        say: shows the others, and where to look.
        wanted: whether the answer still is.

    Raises:
        NobodyAnswers: they do not, or cannot.
    """
    if field is None:
        raise NobodyAnswers(NOBODY)
    *before, last = text.split("\n")
    say("\n".join([*before, _ANSWER_BELOW]))
    return field.ask(last, echo=echo, wanted=wanted)


def under_way(action: str, say: Callable[[str], None]) -> None:
    """What is said as long as there is nothing else to say."""
    say(f"{action}...")


def in_a_cell(line: str) -> str:
    """What to do where there is no field, or nobody looked at it."""
    return f"To be asked, show the panel anew, or run this in a cell: {line}"
