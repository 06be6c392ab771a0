"""What a cell's error had to do with a tunnel: one line below its traceback, and nothing where that is not sure.

An error is about a tunnel where it is one of connections, the tunnel was down while the cell ran, and either the error
or the calls that raised it name the tunnel's address; or where they name none at all, and the tunnel lost or refused
clients meanwhile. A port alone is the tunnel's too, one with another host beside it is not. Also told is the mask of a
connection string that was sent as a password, and the name that went with its tunnel.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from ..client.outages import Outage, Outages
from ..errors import ForwardError
from ..model import Counters, Snapshot, TunnelState
from .clues import Address, called, chain_of, masked, named, text_of

if TYPE_CHECKING:
    from ..client.session import Session
    from ..client.tunnel import Tunnel

# What drivers say that have no ConnectionError in their chain.
_CONNECTION = re.compile(
    r"(?i)connection (was )?(refused|reset|aborted|closed|lost)|closed the connection|lost connection|broken pipe"
    r"|server disconnected|unexpected(ly)? eof|eof detected"
)
_LOGIN = re.compile(r"(?i)password authentication failed|access denied for user|wrongpass|authentication failed")
# As many errors of a chain as are looked at.
_ERRORS = 20
# How long the engine may take to tell what it knows, seconds.
_PATIENCE = 1.0
# Names of this machine, for a tunnel that listens on loopback or everywhere.
_HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")


class Explainer:
    """Explains the errors of one shell's cells.

    Args:
        dsn_name: how the notebook calls a tunnel's connection string.
        gone_with: the last of the tunnel that a name of the notebook went with.
    """

    def __init__(self, dsn_name: Callable[[Tunnel], str], gone_with: Callable[[str], Snapshot | None]) -> None:
        self._dsn_name = dsn_name
        self._gone_with = gone_with
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
        if isinstance(error, NameError):
            return self._name_gone(error)
        chain = list(islice(chain_of(error), _ERRORS))
        if isinstance(error, ForwardError) or not any(isinstance(each, Exception) for each in chain):
            return ""
        texts = [text_of(each) for each in chain]
        if any(map(_LOGIN.search, texts)):
            return self._mask_sent(chain, session.listed())
        if not any(isinstance(each, ConnectionError | TimeoutError) for each in chain) and not any(
            map(_CONNECTION.search, texts)
        ):
            return ""
        self._catch_up(session)
        return "; ".join(self._causes(chain, texts, session, began, before))

    def _name_gone(self, error: NameError) -> str:
        last = self._gone_with(error.name or "")
        return (
            f"{error.name} went with its tunnel, which {_closed(last)}, run its line again" if last is not None else ""
        )

    def _mask_sent(self, chain: Iterable[BaseException], tunnels: Iterable[Tunnel]) -> str:
        open_ones = list(tunnels)
        for address in masked(chain):
            for tunnel in open_ones:
                if _leads_to(address, tunnel.local_host, tunnel.local_port):
                    name = self._dsn_name(tunnel)
                    return f"the password sent was ***, the mask of {name} in a text: use {name}.reveal() there"
        return ""

    def _catch_up(self, session: Session) -> None:
        """Have what the engine knows by now: a reset reaches a cell before the news of it."""
        try:
            session.refresh(_PATIENCE)
        except ForwardError:
            return  # it is gone or stuck, and this is told elsewhere
        self._outages.watch(session.listed())

    def _causes(
        self,
        chain: list[BaseException],
        texts: list[str],
        session: Session,
        began: float,
        before: Mapping[int, Counters],
    ) -> Iterator[str]:
        addresses = {address for text in texts for address in named(text)} or set(called(chain))
        serving = {tunnel.local_port for tunnel in session.listed() if tunnel.is_alive()}
        told: set[str] = set()
        for outage in reversed(self._outages.between(began, time.time())):
            snapshot = outage.last
            if snapshot.name in told or not outage.port:
                continue
            if snapshot.state is TunnelState.CLOSED and outage.port in serving:
                continue  # another one has its port by now
            tunnel = session.tunnels.get(snapshot.tunnel)
            now = tunnel.snapshot if tunnel is not None else snapshot
            if addresses:
                meant = any(_leads_to(address, outage.host, outage.port) for address in addresses)
            else:
                meant = _hit(outage, began, _counted(before, now, began), now.counters)
            if meant:
                told.add(snapshot.name)
                yield _said(outage)


def _leads_to(address: Address, host: str, port: int) -> bool:
    """Whether clients of an address come to a listener, as far as the address tells."""
    names = _HERE if host in ("", "*", *_HERE) else (host,)
    return address[1] == port and (not address[0] or address[0].lower() in names)


def _counted(before: Mapping[int, Counters], now: Snapshot, began: float) -> Counters:
    """What had gone through a tunnel when the cell began; one that had been closed by then has counted no more."""
    unknown = Counters() if now.opened >= began else now.counters
    return before.get(now.tunnel, unknown)


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
            return f"{name} {_closed(outage.last)}, run its line again"
        case TunnelState.WAITING:
            return f"{name} has waited for a login since {since}: %forward --reconnect {name}, then run the cell again"
        case TunnelState.FAILED:
            return f"{name} has been down since {since}: %forward --reconnect {name}, then run the cell again"
        case _:
            return f"{name} has been reconnecting since {since}, run the cell again when %forward says ready"


def _closed(last: Snapshot) -> str:
    """That it was closed, and why where nobody did it."""
    _, by_itself, why = (last.error.message if last.error is not None else "").partition("closed, because ")
    return f"was closed at {_clock(last.since)}" + (f" ({why})" if by_itself else "")


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
