"""Names in a cluster, for completion: what the engine has said lately. Nobody waits for them.

The engine is asked in a thread, and the next Tab has the answer; it counts for 30 s. No engine is started for it, and
the engine runs no program and logs in nowhere for it, unless a tunnel to that cluster is open (`Browse` in the engine).
A cluster that does not answer is asked again after those 30 s, and delays nobody meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

from ..client.configured import KUBECONFIG_VARIABLE
from ..client.session import current
from ..errors import ForwardError
from ..model import Listing
from ..options import ClusterTarget

_FRESH = 30.0  # seconds
_MOST_ASKING = 4  # threads
_MOST_KNOWN = 100  # lists

Key = tuple[str, str, ClusterTarget, Listing, str]


class ClusterNames:
    """Lists of names by cluster and kind, each with the time of its answer."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[float, tuple[str, ...]]] = {}
        self._asking: set[Key] = set()
        self._lock = threading.Lock()

    def get(self, cluster: ClusterTarget, what: Listing, of: str = "") -> tuple[str, ...]:
        """What is known; has it asked where that is nothing, or old. Returns at once.

        Raises:
            OSError: the working folder is gone.
        """
        if what is Listing.CONTEXTS:
            cluster = ClusterTarget(kubeconfig=cluster.kubeconfig)
        elif what is Listing.NAMESPACES:
            cluster = replace(cluster, namespace="")
        # Relative paths are meant from the working folder.
        key = (os.environ.get(KUBECONFIG_VARIABLE, ""), os.getcwd(), cluster, what, of)
        with self._lock:
            when, names = self._known.get(key, (0.0, ()))
            old = not when or time.monotonic() - when > _FRESH
            if old and key not in self._asking and len(self._asking) < _MOST_ASKING and current().engine_pid:
                self._asking.add(key)
                threading.Thread(target=self._ask, args=(key,), name="xec_forward names", daemon=True).start()
        return names

    def _ask(self, key: Key) -> None:
        """In a thread, which ends with the call: that has a deadline."""
        *_, cluster, what, of = key
        names: tuple[str, ...] = ()
        try:
            names = current().browse(cluster, what, of)
        except (ForwardError, OSError):
            pass  # there is nobody to tell: the line itself will say it
        finally:
            with self._lock:
                self._asking.discard(key)
                self._known.pop(key, None)
                while len(self._known) >= _MOST_KNOWN:
                    del self._known[next(iter(self._known))]
                self._known[key] = (time.monotonic(), names)
