"""A thread on which things are done in their turn."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

Work = Callable[[], object]


class Turns:
    """Does what it is given on a daemon thread, one after the other; what fails is logged, and disturbs nothing.

    The thread lives from the first thing there is to do until `end`. Thread-safe.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, work: Work) -> None:
        """Have this done in its turn. Returns at once."""
        with self._lock:
            self._work.put(work)
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                pass  # Python is ending, and starts none any more
            else:
                self._thread = thread
                return
            self._work.put(None)
        self._run()

    def end(self, within: float = 0.0) -> None:
        """End the thread once what waits is done, and wait for that so long, seconds. What comes later begins anew."""
        with self._lock:
            thread = self._thread
            if thread is not None:
                self._work.put(None)
        if thread is not None and within and thread is not threading.current_thread():
            thread.join(within)

    def _run(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                with self._lock:
                    if self._work.empty():
                        self._thread = None
                        return
                continue
            try:
                work()
            except BaseException:  # sys.exit() in a handler would end the thread, and with it every other one
                logger.exception("a handler failed")
