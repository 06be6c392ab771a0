"""What the buttons of sidebar and panel do: close, reconnect, doctor; each on its own thread, with a person to ask."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..client.doctor import SilentStages
from ..client.reconnecting import reconnect_all
from ..client.tunnel import Tunnel
from ..client.watcher import NOBODY, NobodyAnswers, question_text
from ..diagnosis import Diagnosis
from ..errors import ForwardError
from ..model import Ask, Far, Health
from .input_field import PATIENCE

logger = logging.getLogger(__name__)

_numbers = itertools.count(1)
# Questions of a reconnection belong to no call: one at a time has somebody to answer them.
_one_at_a_time = threading.Lock()
# Those that reconnect, the one that waits for its turn included.
_reconnecting: list[Exchange] = []


class Pressed(Protocol):
    """The press of a button, as who does what it says sees it: the sidebar's request, the panel's `Press`."""

    def reply(self, **content: Any) -> None:
        """What came of it (`text`); or a question (`status` "question", with `text` and `echo`)."""

    def fail(self, text: str) -> None:
        """It cannot be done, in one line."""


class Exchange:
    """One action, and whoever asked for it.

    A question is the reply to the last request, and its answer another request. So it reaches the one front-end
    that can answer, and what is typed there is published to nobody.

    Args:
        state: gives the tunnels as they are; with the reply they need not be asked for again.
    """

    def __init__(self, action: str, request: Pressed, state: Callable[[], Mapping[str, Any]]) -> None:
        self.number = next(_numbers)
        self._action = action
        self._request = request
        self._state = state
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._asking = False

    def run(self, tunnels: Sequence[Tunnel]) -> None:
        """Do it, and reply. Never raises.

        Args:
            tunnels: one; to close, several.
        """
        try:
            match self._action:
                case "close":
                    tunnels[0].session.close(tunnels)
                    text = ""
                case "reconnect":
                    self._reconnect(tunnels[0])
                    text = ""
                case _:
                    text = self._examine(tunnels[0])
        except ForwardError as error:
            self._request.fail(str(error))
        except Exception as error:
            logger.exception("%s failed", self._action)
            self._request.fail(f"{self._action} failed unexpectedly: {type(error).__name__}")
        else:
            self._request.reply(text=text, **self._state())

    # ---- questions ----

    def ask(self, text: str, *, echo: bool) -> str:
        """Put a question to the person who pressed the button. Raises NobodyAnswers."""
        self._asking = True
        self._request.reply(status="question", question=self.number, text=text, echo=echo)
        try:
            value = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            value = None
        finally:
            self._asking = False
        if value is None:
            raise NobodyAnswers(NOBODY)
        return value

    def answer(self, request: Pressed, value: str | None) -> None:
        """The answer; what comes next is told to this request. On the control thread."""
        if not self._asking:
            request.fail("nobody waits for this answer any more")
            return
        self._asking = False
        self._request = request
        self._answers.put(value)

    @property
    def asking(self) -> bool:
        """Whether an answer is waited for."""
        return self._asking

    def give_up(self) -> None:
        """Nobody will answer: a front-end that was reloaded has forgotten the question."""
        if self._asking:
            self._asking = False
            self._answers.put(None)

    # ---- actions ----

    def _reconnect(self, tunnel: Tunnel) -> None:
        for other in list(_reconnecting):
            # A person who presses here does not look there.
            other.give_up()
        _reconnecting.append(self)
        try:
            with _one_at_a_time:
                self._reconnect_now(tunnel)
        finally:
            _reconnecting.remove(self)

    def _reconnect_now(self, tunnel: Tunnel) -> None:
        watcher = _Asking(self, tunnel.snapshot.route[-1] if tunnel.snapshot.route else tunnel.name)
        reconnect_all(tunnel.session, [tunnel], watcher)

    def _examine(self, tunnel: Tunnel) -> str:
        """Each stage of the way; of a `--command`, which shows nothing of its way, what the engine can try."""
        request = tunnel.request
        target = request.ssh or request.cluster
        if target is None:
            return _health_text(tunnel.health_check())
        watcher = _Asking(self, target.host)
        far = (Far(request.forward, request.scheme),)
        return Diagnosis(tunnel.session.examine(target, far, request.options.timeout, watcher)).plain()


class _Asking(SilentStages):
    """A watcher whose questions go to the front-end."""

    def __init__(self, exchange: Exchange, where: str) -> None:
        super().__init__(where)
        self._exchange = exchange

    def ask(self, question: Ask) -> str:
        return self._exchange.ask(question_text(question, self.where), echo=question.echo)


def _health_text(health: Health) -> str:
    """A health check, a line a stage."""
    lines = []
    for stage in health.stages:
        time = "" if stage.milliseconds is None else f"{stage.milliseconds:.0f} ms"
        lines.append(f"{stage.name:<13}{time:>8}  {stage.outcome}".rstrip())
    if health.error is not None:
        lines.append(str(health.error))
    elif health.ok:
        lines.append("all is well")
    return "\n".join(lines)
