"""The kernel's side of the JupyterLab sidebar, which works while a cell hangs.

In      a request on the control channel, whose thread is free whatever a cell does: `xec_forward_request`, with an
        `action`. It is answered by `xec_forward_reply` on the same channel, at once or when the action has ended:
        by then other requests have been taken.
Out     iopub messages without a parent, under a comm id of their own. They need no comm to be open, so they come
        whether or not the notebook is. A kernel counts each of them as activity: one is sent when something changed,
        at most twice a second, and only once somebody has asked.

    list                 changes are told from then on
    close      tunnel    its clients are reset, its port is free; for several at once, a list of them
    reconnect  tunnel    it is ready again
    doctor     tunnel    `text`: what was found
    answer     question, value (None: no answer)

    every reply has `status`: ok, with `tunnels` (`Facts.json`) and `now`; error, with the `text` of one line; or
    question, with `question`, `text` and `echo`: what the action needs to know from a person. The answer is another
    request, and its reply the next of these three.

A secret crosses here in an `answer` alone. Nothing but the standard library is imported with this module.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .bridge_actions import Exchange

logger = logging.getLogger(__name__)

REQUEST = "xec_forward_request"
REPLY = "xec_forward_reply"
COMM = "xec_forward"
# The shortest time between two messages that nobody asked for, seconds.
PAUSE = 0.5
# For so long after it was asked for, changes are told, seconds; the first one after it says that it is the last.
LEASE = 600.0
# How many actions may be under way at once: each has a thread of its own, so that none waits for another.
MAX_ACTIONS = 16

_SESSION = "xec_forward.client.session"
_ACTIONS = ("close", "reconnect", "doctor")


def install(shell: InteractiveShell) -> None:
    """Let this kernel answer the sidebar; a shell without a kernel, or another kernel than ipykernel, is left alone."""
    kernel = getattr(shell, "kernel", None)
    handlers = getattr(kernel, "control_handlers", None)
    if handlers is None or getattr(kernel, "control_thread", None) is None or REQUEST in handlers:
        return
    # ipykernel 7.0 loses what another thread sends.
    if getattr(sys.modules.get("ipykernel"), "version_info", (0, 0))[:2] == (7, 0):
        return
    bridge = Bridge(kernel)
    handlers[REQUEST] = bridge.handle
    # A front-end that has asked before there was somebody to answer asks again.
    bridge.publish({"loaded": True})


def remove(shell: InteractiveShell) -> None:
    """Undo `install`. Idempotent."""
    handlers = getattr(getattr(shell, "kernel", None), "control_handlers", {})
    handle = handlers.pop(REQUEST, None)
    if handle is not None:
        handle.__self__.end()


class Request:
    """One request; `reply` may be called from any thread, once."""

    def __init__(self, kernel: Any, stream: Any, ident: Any, message: Mapping[str, Any]) -> None:
        self._kernel = kernel
        self._stream = stream
        self._ident = ident
        self._header = message["header"]

    def reply(self, **content: Any) -> None:
        """Send the answer. A stream belongs to the thread of its loop: the control thread."""
        content.setdefault("status", "ok")
        send = self._kernel.session.send
        if threading.current_thread() is self._kernel.control_thread:
            send(self._stream, REPLY, content, parent=self._header, ident=self._ident)
        else:
            loop = self._kernel.control_thread.io_loop
            loop.add_callback(send, self._stream, REPLY, content, parent=self._header, ident=self._ident)

    def fail(self, text: str) -> None:
        """Answer that it cannot be done, in one line."""
        self.reply(status="error", text=text)


class Bridge:
    """What one kernel answers, and tells.

    Args:
        kernel: an IPythonKernel.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._lock = threading.Lock()
        self._until = 0.0
        self._teller: threading.Thread | None = None
        self._ended = threading.Event()
        self._places = threading.BoundedSemaphore(MAX_ACTIONS)
        self._under_way: dict[int, Exchange] = {}

    def end(self) -> None:
        """Tell that nobody answers here any more, and then nothing. Actions under way end by themselves."""
        self._ended.set()
        self.publish({"loaded": False})

    # ---- requests: on the control thread, which must not wait ----

    def handle(self, stream: Any, ident: Any, message: Mapping[str, Any]) -> None:
        """Take a request."""
        request, content = Request(self._kernel, stream, ident, message), message["content"]
        action = content.get("action")
        if action == "list":
            self._subscribe()
            request.reply(**self._state())
        elif action == "answer":
            exchange = self._under_way.get(content.get("question", 0))
            if exchange is None:
                request.fail("nobody waits for this answer any more")
            else:
                exchange.answer(request, content.get("value"))
        elif action in _ACTIONS:
            self._begin(action, content.get("tunnel"), request)
        else:
            request.fail(f"there is no action {action}")

    def _begin(self, action: str, number: object, request: Request) -> None:
        known, wanted = self._tunnels(), number if isinstance(number, list) else [number]
        tunnels = [known[each] for each in wanted if each in known]
        if not tunnels:
            request.fail("there is no such tunnel any more")
        elif not self._places.acquire(blocking=False):
            request.fail(f"{MAX_ACTIONS} actions are under way; wait until one has ended")
        else:
            threading.Thread(
                target=self._run, args=(action, tunnels, request), name=f"xec_forward {action}", daemon=True
            ).start()

    def _run(self, action: str, tunnels: list[Any], request: Request) -> None:
        from .bridge_actions import Exchange

        exchange = Exchange(action, request, self._state)
        self._under_way[exchange.number] = exchange
        try:
            exchange.run(tunnels)
        finally:
            del self._under_way[exchange.number]
            self._places.release()

    # ---- what there is ----

    def _tunnels(self) -> Mapping[object, Any]:
        """The open tunnels by number; none before the first line has loaded the client."""
        current: Callable[[], Any] | None = getattr(sys.modules.get(_SESSION), "current", None)
        return dict(current().tunnels) if current is not None else {}

    def _state(self) -> dict[str, Any]:
        tunnels = self._tunnels()
        if not tunnels:
            return {"tunnels": [], "now": time.time()}
        from .facts import facts_of

        return {"tunnels": [facts_of(tunnel).json() for tunnel in tunnels.values()], "now": time.time()}

    # ---- what is told ----

    def publish(self, data: Mapping[str, Any]) -> None:
        """Send a message that belongs to no cell; from any thread."""
        content = {"comm_id": COMM, "data": dict(data)}
        self._kernel.session.send(self._kernel.iopub_socket, "comm_msg", content, parent={})

    def _subscribe(self) -> None:
        with self._lock:
            self._until = time.monotonic() + LEASE
            if self._teller is None and not self._ended.is_set():
                self._teller = threading.Thread(target=self._tell, name="xec_forward bridge", daemon=True)
                self._teller.start()

    def _tell(self) -> None:
        try:
            self._tell_changes()
        except Exception:
            # The kernel is ending, and its sockets are gone. If it is not, who asks next has them told again.
            logger.debug("the sidebar could not be told", exc_info=True)
        finally:
            with self._lock:
                if self._teller is threading.current_thread():
                    self._teller = None

    def _tell_changes(self) -> None:
        told = _essence(self._state())
        while not self._ended.wait(PAUSE):
            state = self._state()
            essence = _essence(state)
            if essence == told:
                continue
            told = essence
            with self._lock:
                last = time.monotonic() > self._until
                if last:
                    # Who asks from here on needs another.
                    self._teller = None
            self.publish({**state, "last": last})
            if last:
                return


def _essence(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What makes a change: the line would, just by moving on."""
    return [{name: value for name, value in row.items() if name != "line"} for row in state["tunnels"]]
