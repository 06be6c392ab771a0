"""A new link on request, waited for: `%forward --reconnect`.

A reconnection belongs to no call, so its questions (a passphrase, a password) go to nobody. Whoever asked for it
is there to answer: while they wait, such questions are theirs.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence

from ..errors import DeadlineError, ForwardError
from ..model import Ask, TunnelState
from .call import TICK, resolve
from .session import Session
from .tunnel import Tunnel
from .watcher import Watcher


def reconnect_all(session: Session, tunnels: Sequence[Tunnel], watcher: Watcher) -> None:
    """Drop the links of these tunnels, dial again, and wait until each is ready; open those that failed to open.

    Raises:
        ForwardError: one is not, the first; it goes on trying unless it failed for good. KeyboardInterrupt: likewise.
    """
    errors: list[ForwardError] = []
    unopened = [tunnel for tunnel in tunnels if tunnel.given_up and not tunnel.has_opened]
    try:
        _dial_again(session, [tunnel for tunnel in tunnels if tunnel not in unopened], watcher)
    except ForwardError as error:
        errors.append(error)
    for tunnel in unopened:
        try:
            session.open_again(tunnel, watcher)
        except ForwardError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _dial_again(session: Session, tunnels: Sequence[Tunnel], watcher: Watcher) -> None:
    questions: queue.SimpleQueue[Ask] = queue.SimpleQueue()
    with session.attended(questions):
        for tunnel in tunnels:
            if tunnel.given_up:
                session.open_again(tunnel, watcher)
            else:
                tunnel.reconnect()
        before = {tunnel.name: str(tunnel.error) for tunnel in tunnels}
        limit = max((tunnel.request.options.timeout for tunnel in tunnels), default=0.0)
        end = time.monotonic() + limit
        while waiting := [tunnel for tunnel in tunnels if not tunnel.settled()]:
            for tunnel in waiting:
                watcher.progress(tunnel.snapshot)
                if tunnel.state is TunnelState.RECONNECTING and str(tunnel.error) != before[tunnel.name]:
                    raise _still_trying(tunnel)
            try:
                question = questions.get(timeout=TICK)
            except queue.Empty:
                watcher.tick()
                if time.monotonic() > end:
                    raise _still_trying(waiting[0]) from None
            else:
                asked = time.monotonic()
                session.send(resolve(question, session.sources, watcher))
                end += time.monotonic() - asked


def _still_trying(tunnel: Tunnel) -> ForwardError:
    error = tunnel.error
    if error is None:
        return DeadlineError(f"not ready in time, but {tunnel.state}", hop=tunnel.name, hint="It goes on trying")
    hint = f"{error.hint.rstrip('.')}. It goes on trying" if error.hint else "It goes on trying"
    return type(error)(error.message, hop=error.hop, hint=hint)
