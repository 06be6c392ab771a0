"""What a press in the panel does, on a thread of its own.

A press has nobody to ask: a front-end takes questions of a running cell alone, and a widget would keep the answer. What
needs one is refused with the line that asks it in a cell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..client.tunnel import Tunnel
from .bridge_actions import Exchange

if TYPE_CHECKING:
    from .bridge import Request

ACTIONS = ("reconnect", "close", "doctor")


class Press:
    """One press of a tunnel's button; to `bridge_actions.Exchange` it is the request that it answers.

    Args:
        action: one of ACTIONS.
        done: called with what came of it, in text, on another thread.
    """

    def __init__(self, action: str, tunnel: Tunnel, done: Callable[[str], None]) -> None:
        self._action = action
        self._tunnel = tunnel
        self._done = done
        self._asked = False
        self._exchange = Exchange(action, cast("Request", self), dict)

    def start(self) -> None:
        """Begin. Returns at once."""
        threading.Thread(target=self._run, name=f"xec_forward panel {self._action}", daemon=True).start()

    def reply(self, **content: object) -> None:
        """It has ended; or it needs an answer, and there is none."""
        if content.get("status") == "question":
            self._asked = True
            self._exchange.answer(cast("Request", self), None)
        else:
            self._done(str(content.get("text", "")))

    def fail(self, text: str) -> None:
        """It cannot be done."""
        self._done(f"{text}. {in_a_cell(self._line())}" if self._asked else text)

    def _run(self) -> None:
        self._exchange.run([self._tunnel], ())

    def _line(self) -> str:
        if self._action == "reconnect":
            return f"%forward --reconnect {self._tunnel.name}"
        return f"%forward --doctor {self._tunnel.request.target.host}"


def in_a_cell(line: str) -> str:
    """What to do where a button cannot ask."""
    return f"A button cannot ask; a cell can: {line}"
