"""What the sidebar is sent: a tunnel as plain JSON, made for display. No secret can be in it: none is in a Snapshot."""

from __future__ import annotations

from typing import Any

from ..client.history import History
from ..client.tunnel import Tunnel
from ..errors import from_code
from ..model import Fault, Health, TunnelState
from ..render import SIGNS, size

# Below this nothing worth a word moves, bytes per second.
_SLOWEST = 1.0
_NOT_OPEN = (TunnelState.FAILED, TunnelState.CLOSING, TunnelState.CLOSED)


def shown(tunnel: Tunnel, history: History, now: float) -> dict[str, Any]:
    """One tunnel.

    Args:
        now: the moment, seconds of `time.monotonic`.

    Returns:
        state, sign: the word, and the sign that goes with it; open: whether it counts as open.
        way: listener, hops, far end; address: where clients connect.
        clients, parked, clients_total: now, waiting for the link, and in all.
        sent, received, rate: as text; rate is "" while nothing moves.
        line: bytes in each of the last 30 seconds, both ways together.
        error, hint: the last error without its hint, and that; both "" where there is none.
        since, opened, closes: seconds since the epoch: when it entered its state, first became ready, and will be
            closed by its ttl; 0 where there is no such time.
    """
    snapshot, counters = tunnel.snapshot, tunnel.snapshot.counters
    rate, ttl = history.rate(now), tunnel.request.options.ttl
    error, hint = _said(snapshot.error)
    return {
        "tunnel": snapshot.tunnel,
        "name": snapshot.name,
        "kind": str(snapshot.kind.value),
        "state": str(snapshot.state),
        "sign": SIGNS[snapshot.state],
        "open": snapshot.state not in _NOT_OPEN,
        "way": list(snapshot.way),
        "address": snapshot.listen,
        "clients": counters.clients,
        "parked": counters.parked,
        "clients_total": counters.clients_total,
        "sent": size(counters.bytes_up),
        "received": size(counters.bytes_down),
        "rate": f"{size(round(rate))}/s" if rate >= _SLOWEST else "",
        "line": list(history.line(now)),
        "error": error,
        "hint": hint,
        "notes": list(snapshot.notes),
        "since": snapshot.since,
        "opened": snapshot.opened,
        "closes": snapshot.opened + ttl if ttl and snapshot.opened else 0.0,
    }


def health_text(health: Health) -> str:
    """A health check, a line a stage."""
    lines = []
    for stage in health.stages:
        time = "" if stage.milliseconds is None else f"{stage.milliseconds:.0f} ms"
        lines.append(f"{stage.name:<13}{time:>8}  {stage.outcome}".rstrip())
    return "\n".join([*lines, str(health.error) if health.error is not None else "all is well"])


def _said(fault: Fault | None) -> tuple[str, str]:
    if fault is None:
        return "", ""
    return str(from_code(fault.kind, fault.message, hop=fault.hop)), fault.hint
