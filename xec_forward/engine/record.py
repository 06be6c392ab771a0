"""What a tunnel has become: its state, its last error, its opening's steps, and the snapshots made of them.

The supervisor (`tunnel`) moves it; whoever subscribed is told. Two equal snapshots in a row are told once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from ..errors import ForwardError
from ..model import Changed, Fault, Open, Snapshot, TunnelState
from ..spec import Endpoint, Kind
from .front import Front
from .links.base import Link
from .links.way import Place
from .opening import Asker, CallOpening

logger = logging.getLogger(__name__)


class Record:
    """One tunnel's state and history.

    Args:
        request: what was asked for.
        front: its near end, which knows where it listens and counts its clients.
        report: told of every change.
        asker: puts the questions of its openings.
        log: the engine's log file, for the snapshots.

    Attributes:
        state, error, opened_at: see Snapshot (`opened`).
        opening: the opening in progress, or the last one.
        notes: what the user should know, beside what front and link say.
        reconnects: how often the link was lost.
        place: see `links.way.Way`.
    """

    def __init__(self, request: Open, front: Front, report: Callable[[Changed], None], asker: Asker, log: str) -> None:
        self.state = TunnelState.IDLE
        self.error: Fault | None = None
        self.opened_at = 0.0
        self.reconnects = 0
        self.place = Place()
        self.notes: list[str] = []
        self.opening = CallOpening(request.call, asker, self.tell)
        self._request = request
        self._front = front
        self._report = report
        self._asker = asker
        self._log = log
        self._since = time.time()
        self._route: tuple[str, ...] = (request.target.host,)
        self._link: Link | None = None
        self._reported: Snapshot | None = None

    def snapshot(self) -> Snapshot:
        """What a user may see of this tunnel now."""
        bound, connect = self._front.bound, self._request.forward.connect
        near, far = bound or Endpoint(), connect or Endpoint()
        if self._request.forward.kind is Kind.REMOTE:
            near, far = far, near
        remarks = (self._link.remark, self._link.behind(connect) if connect else "") if self._link is not None else ()
        return Snapshot(
            tunnel=self._request.tunnel,
            name=self._request.name,
            kind=self._request.forward.kind,
            state=self.state,
            route=self._route,
            listen=str(bound) if bound is not None else "",
            local_host=near.host,
            local_port=near.port or 0,
            connect=str(connect) if connect is not None else "",
            remote_host=far.host,
            remote_port=far.port or 0,
            since=self._since,
            opened=self.opened_at,
            steps=tuple(self.opening.steps),
            step_since=self.opening.step_since,
            waiting=self.opening.waiting if self.opening.current else "",
            counters=self._front.relay.counters(self.reconnects),
            error=self.error,
            notes=tuple(filter(None, (*self._front.notes, *self.notes, *remarks))),
            log=self._log,
            serial=time.monotonic_ns(),
            context=self.place.context,
            namespace=self.place.namespace,
        )

    def tell(self, event: str = "", *, again: bool = False) -> None:
        """Report the snapshot where it has changed, with an event, or `again` all the same."""
        snapshot = self.snapshot()
        seen = msgspec.structs.replace(snapshot, serial=0)
        if event or again or seen != self._reported:
            self._reported = seen
            self._report(Changed(snapshot, event))

    def move(self, state: TunnelState, event: str = "", error: ForwardError | None = None) -> None:
        """Enter a state; to be ready clears the error."""
        self.state = state
        self._since = time.time()
        if error is not None:
            self.error = Fault.of(error)
        elif state is TunnelState.READY:
            self.error = None
            self.opened_at = self.opened_at or self._since
        self.tell(event)

    def linked(self, link: Link) -> None:
        """The tunnel has this link now; the names of its last one stay in sight while there is none."""
        self._link = link
        self._route = link.route

    def begin(self) -> CallOpening:
        """An opening that no call waits for: a reconnection."""
        self.opening = CallOpening(0, self._asker, self.tell)
        return self.opening

    def failed(self, error: ForwardError, event: str = "") -> None:
        """Something went wrong that changes no state."""
        self.error = Fault.of(error)
        self.tell(event)

    def client_failed(self, error: ForwardError) -> None:
        """One client could not be served; the others and the tunnel are untouched."""
        self.failed(error, "error")

    def client_rejected(self, error: ForwardError) -> None:
        """Somebody who may not be a client was turned away."""
        logger.warning("%s: %s", self._request.name, error.message)
        self.failed(error, "rejected")
