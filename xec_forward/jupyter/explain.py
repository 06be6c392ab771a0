"""What a cell's error had to do with a tunnel: one line below its traceback, and nothing where that is not sure.

An error is about a tunnel where it is one of connections, the tunnel was down while the cell ran, and either the error
or the calls that raised it name the tunnel's address; or where they name none at all, and the tunnel lost or refused
clients meanwhile. Also told is the mask of a connection string that was sent as a password.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..client.outages import Outage, Outages
from ..errors import ForwardError
from ..model import Counters, TunnelState

if TYPE_CHECKING:
    from types import FrameType

    from ..client.session import Session
    from ..client.tunnel import Tunnel

# What drivers say that have no ConnectionError in their chain.
_CONNECTION = re.compile(
    r"(?i)connection (was )?(refused|reset|aborted|closed|lost)|closed the connection|lost connection|broken pipe"
    r"|server disconnected|unexpected(ly)? eof|eof detected"
)
_LOGIN = re.compile(r"(?i)password authentication failed|access denied for user|wrongpass|authentication failed")
_PORT = re.compile(r"(?i)\bport\W{1,4}(\d{1,5})\b|[\w\]]:(\d{1,5})\b")
_MASK = "***"
# As much of an error as is looked at.
_ERRORS, _FRAMES, _LOCALS = 20, 100, 200
# How long the engine may take to tell what it knows, and that to be taken in, seconds.
_PATIENCE = 1.0


class Explainer:
    """Explains the errors of one shell's cells.

    Args:
        dsn_name: how the notebook calls a tunnel's connection string.
    """

    def __init__(self, dsn_name: Callable[[Tunnel], str]) -> None:
        self._dsn_name = dsn_name
        self._outages = Outages()

    def look(self, tunnels: Iterable[Tunnel]) -> dict[int, Counters]:
        """Follow the tunnels that there are; what has gone through each so far, by its number."""
        tunnels = list(tunnels)
        self._outages.watch(tunnels)
        return {tunnel.request.tunnel: tunnel.snapshot.counters for tunnel in tunnels}

    def explain(self, error: BaseException, session: Session, began: float, before: Mapping[int, Counters]) -> str:
        """The line about an error, "" where there is nothing to say.

        Args:
            began: when the cell did, seconds since the epoch.
            before: what had gone through each tunnel then.
        """
        chain = list(islice(_chain(error), _ERRORS))
        if isinstance(error, ForwardError) or not any(isinstance(each, Exception) for each in chain):
            return ""
        texts = [_text(each) for each in chain]
        if any(map(_LOGIN.search, texts)):
            return self._mask_sent(chain, session.listed())
        if not any(isinstance(each, ConnectionError | TimeoutError) for each in chain) and not any(
            map(_CONNECTION.search, texts)
        ):
            return ""
        self._catch_up(session)
        return "; ".join(self._causes(chain, texts, session, began, before))

    def _mask_sent(self, chain: Iterable[BaseException], tunnels: Iterable[Tunnel]) -> str:
        open_ones = {str(tunnel.local_port): tunnel for tunnel in tunnels if tunnel.local_port}
        for port in _ports_masked(chain):
            if port in open_ones:
                name = self._dsn_name(open_ones[port])
                return f"the password sent was {_MASK}, the mask of {name} in a text: use {name}.reveal() there"
        return ""

    def _catch_up(self, session: Session) -> None:
        """Have what the engine knows by now: a reset reaches a cell before the news of it."""
        try:
            session.refresh(_PATIENCE)
        except ForwardError:
            return  # it is gone or stuck, and this is told elsewhere
        taken = threading.Event()
        session.hand_over(taken.set)
        taken.wait(_PATIENCE)
        self._outages.watch(session.listed())

    def _causes(
        self,
        chain: list[BaseException],
        texts: list[str],
        session: Session,
        began: float,
        before: Mapping[int, Counters],
    ) -> Iterator[str]:
        ports = {int(first or second) for text in texts for first, second in _PORT.findall(text)}
        if not ports:
            ports = set(_ports_called(chain))
        serving = {tunnel.local_port for tunnel in session.listed() if tunnel.is_alive()}
        told: set[str] = set()
        for outage in reversed(self._outages.between(began, time.time())):
            snapshot = outage.last
            if snapshot.name in told or not outage.port:
                continue
            if snapshot.state is TunnelState.CLOSED and outage.port in serving:
                continue  # another one has its port by now
            tunnel = session.tunnels.get(snapshot.tunnel)
            now = tunnel.snapshot.counters if tunnel is not None else snapshot.counters
            if outage.port in ports or (
                not ports and _hit(outage, began, before.get(snapshot.tunnel, Counters()), now)
            ):
                told.add(snapshot.name)
                yield _said(outage)


def _hit(outage: Outage, began: float, before: Counters, now: Counters) -> bool:
    """Whether it lost clients while the cell ran, or refused some."""
    lost = outage.since >= began and (before.clients > 0 or outage.counters.clients_total > before.clients_total)
    return lost or now.refused > before.refused


def _said(outage: Outage) -> str:
    name, since = outage.last.name, _clock(outage.since)
    if outage.until is not None:
        return f"{name} was reconnecting {since}-{_clock(outage.until)}, run the cell again"
    match outage.last.state:
        case TunnelState.CLOSED:
            return f"{name} was closed at {_clock(outage.last.since)}, run its line again"
        case TunnelState.WAITING:
            return f"{name} has waited for a login since {since}: %forward --reconnect {name}, then run the cell again"
        case TunnelState.FAILED:
            return f"{name} has been down since {since}: %forward --reconnect {name}, then run the cell again"
        case _:
            return f"{name} has been reconnecting since {since}, run the cell again when %forward says ready"


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


# ---- what an error tells ----


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what led to it, and the errors that it carries as arguments, as requests and urllib3 do."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        context = None if each.__suppress_context__ else each.__context__
        waiting += [each.__cause__, context, *each.args, _attribute(each, "reason"), _attribute(each, "orig")]


def _attribute(error: BaseException, name: str) -> object:
    """None where it has no such attribute."""
    try:
        return getattr(error, name, None)
    except Exception:
        return None  # a property is another's code


def _text(error: BaseException) -> str:
    """What it says, and the address it was asked for (requests and httpx keep it beside)."""
    try:
        url = getattr(getattr(error, "request", None), "url", "")
        return f"{error} {url}"
    except Exception:
        return ""  # another's code


def _frames(chain: Iterable[BaseException]) -> Iterator[FrameType]:
    """The functions that were being called; not the cell itself, whose variables are the notebook's."""
    for error in chain:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_locals is not trace.tb_frame.f_globals:
                yield trace.tb_frame
            trace = trace.tb_next


def _variables(chain: Iterable[BaseException]) -> Iterator[dict[str, Any]]:
    for frame in islice(_frames(chain), _FRAMES):
        yield dict(islice(frame.f_locals.items(), _LOCALS))


def _ports_called(chain: Iterable[BaseException]) -> Iterator[int]:
    """The ports of the addresses that were being connected to."""
    for names in _variables(chain):
        for value in names.values():
            if type(value) is tuple and len(value) >= 2 and type(value[0]) is str and type(value[1]) is int:
                yield value[1]


def _ports_masked(chain: Iterable[BaseException]) -> Iterator[str]:
    """The ports of the addresses at which the mask was a password, as text."""
    for names in _variables(chain):
        for value in names.values():
            if type(value) is str and f":{_MASK}@" in value:
                found = re.search(re.escape(f":{_MASK}@") + r"[^/\s]*?:(\d+)", value)
                if found:
                    yield found[1]
            elif isinstance(value, dict) and value.get("password") == _MASK:
                yield str(value.get("port", ""))
