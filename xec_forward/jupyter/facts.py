"""From a handle to what there is to tell of it now: the one way, for card, table, panel and sidebar."""

from __future__ import annotations

import math
import time

from ..client.tunnel import Tunnel
from ..render import Facts


def facts_of(tunnel: Tunnel) -> Facts:
    """A tunnel as it is, with its ttl and what moved through it lately."""
    now = time.monotonic()
    # A line that moves on by whole seconds is another one once a second at most.
    line = tunnel.history.line(math.ceil(now))
    return Facts(tunnel.snapshot, tunnel.request.options.ttl, tunnel.history.rate(now), line)
