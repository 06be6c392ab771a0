"""Several calls waited for as one: the specs of a line open side by side, and any of them may ask a person.

They share one inbox. Waiting for one after the other would not do: the first may wait for a link that another
one dials, whose question would then never be put to anybody.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Sequence

from ..errors import EngineError, ForwardError
from ..model import Cancel, Done, Failed, Message, Report
from .call import PUT_BACK, TICK, Call
from .sources import Sources
from .watcher import Watcher

Inbox = queue.SimpleQueue["tuple[TogetherCall, Report | ForwardError]"]


class TogetherCall(Call):
    """One of several calls with a common inbox."""

    def __init__(self, number: int, limit: float, send: Callable[[Message], None], inbox: Inbox) -> None:
        super().__init__(number, limit, send)
        self._inbox = inbox

    def deliver(self, message: Report | ForwardError) -> None:
        self._inbox.put((self, message))


def wait_together(
    calls: Sequence[TogetherCall],
    inbox: Inbox,
    send: Callable[[Message], None],
    sources: Sources,
    watcher: Watcher,
) -> dict[int, Done | ForwardError]:
    """Wait for the end of all of them: each call's number with its answer or its error.

    Raises:
        KeyboardInterrupt: once the engine has put back what was under way.
    """
    results: dict[int, Done | ForwardError] = {}
    try:
        while len(results) < len(calls):
            waiting = [call for call in calls if call.number not in results]
            try:
                call, message = inbox.get(timeout=TICK)
            except queue.Empty:
                watcher.tick()
                for call in waiting:
                    try:
                        call.check_deadline()
                    except EngineError as error:
                        results[call.number] = error
                continue
            try:
                taken = call.take(message, watcher)
                if isinstance(taken, Done):
                    results[call.number] = taken
                elif taken is not None:
                    send(call.resolve(taken, sources, watcher))
                    for other in waiting:
                        other.extend()
            except ForwardError as error:
                results[call.number] = error
    except KeyboardInterrupt:
        _cancel([call for call in calls if call.number not in results], inbox, send)
        raise
    return results


def _cancel(calls: list[TogetherCall], inbox: Inbox, send: Callable[[Message], None]) -> None:
    numbers = {call.number for call in calls}
    with contextlib.suppress(EngineError, queue.Empty):
        for number in numbers:
            send(Cancel(number))
        end = time.monotonic() + PUT_BACK
        while numbers and (left := end - time.monotonic()) > 0:
            call, message = inbox.get(timeout=left)
            if isinstance(message, Done | Failed | ForwardError):
                numbers.discard(call.number)
