"""The input field below a cell that has ended, for what the panel's buttons have to ask.

JupyterLab and Notebook 7 listen to a cell's request as long as the cell is there, and put a question under it (an
`input_request` of the kernel, whose parent that request is) also when the cell has ended. The field is the one that
`input` and `getpass` have: what is typed goes to the kernel alone, and dots are what the notebook keeps of a secret.

The kernel has one socket for all answers, which a cell that runs may want at any time. Whoever asks first has it; a
cell does not wait for a field of ours, which then goes unanswered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..client.watcher import NOBODY, NobodyAnswers

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# How long a person may take for an answer, seconds.
PATIENCE = 180.0
# How often a question looks whether it is still wanted, seconds.
TICK = 0.1
# With each cell JupyterLab's notebooks send which cells were deleted; front-ends that do not may show no question of a
# cell that has ended.
_LISTENS_ON = "deletedCells"
_ASK = "_input_request"


class InputField:
    """The field below the cell that runs now, until `close`.

    Args:
        shell: its kernel allows stdin.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._kernel: Any = shell.kernel  # type: ignore[attr-defined]
        self._one = threading.Lock()
        self._cells = 0
        self._closed = False
        self._original = getattr(self._kernel, _ASK)
        self._ident, self._parent = self._asked_from()
        self._in_place = self._of_a_cell
        setattr(self._kernel, _ASK, self._in_place)

    def close(self) -> None:
        """Ask nothing any more; a question that is asked goes unanswered."""
        self._closed = True
        # Until it has let go of the socket. (If it is a cell that has it, nothing of ours is there to wait for.)
        if self._one.acquire(timeout=10 * TICK):
            self._one.release()
        if getattr(self._kernel, _ASK) is self._in_place:
            setattr(self._kernel, _ASK, self._original)

    def reaches(self, message: Mapping[str, Any]) -> bool:
        """Whether the page that sent this message shows the field: a reloaded one has forgotten the cell's request."""
        sender = (message.get("header") or {}).get("session")
        return _LISTENS_ON in self._parent.get("metadata", {}) and sender == self._parent["header"]["session"]

    def ask(self, prompt: str, *, echo: bool, wanted: Callable[[], bool]) -> str:
        """Put a question of one line to the person; not on the kernel's own threads.

        Args:
            wanted: whether the answer still is.

        Raises:
            NobodyAnswers: nobody does, in time.
        """
        import zmq

        with self._turn(wanted) as over:
            kernel, socket = self._kernel, self._kernel.stdin_socket
            content = {"prompt": prompt, "password": not echo}
            sent = kernel.session.send(socket, "input_request", content, self._parent, ident=self._ident)
            while not over():
                if not socket.poll(1000 * TICK, zmq.POLLIN):
                    continue
                _, reply = kernel.session.recv(socket, zmq.NOBLOCK)
                if reply is not None and _answers(reply, sent):
                    return str(reply["content"].get("value", ""))
        raise NobodyAnswers(NOBODY)

    # ---- the one socket ----

    def _of_a_cell(self, *args: Any, **keywords: Any) -> Any:
        """A cell asks: `input`, `getpass`."""
        self._cells += 1
        try:
            with self._one:
                return self._original(*args, **keywords)
        finally:
            self._cells -= 1

    @contextmanager
    def _turn(self, wanted: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
        """Have the socket; what is given tells whether that is over. Raises NobodyAnswers."""
        end = time.monotonic() + PATIENCE

        def over() -> bool:
            return self._closed or time.monotonic() > end or not wanted()

        while not self._one.acquire(timeout=TICK):
            if over():
                raise NobodyAnswers(NOBODY)
        try:
            yield lambda: self._cells > 0 or over()
        finally:
            self._one.release()

    def _asked_from(self) -> tuple[Any, Mapping[str, Any]]:
        """What a question of the cell that runs is addressed with: ipykernel says it where it would send one."""
        seen: list[tuple[Any, Mapping[str, Any]]] = []

        def note(prompt: str, ident: Any, parent: Mapping[str, Any], password: bool = False) -> str:
            seen.append((ident, parent))
            return ""

        setattr(self._kernel, _ASK, note)
        try:
            self._kernel.raw_input("")
        finally:
            setattr(self._kernel, _ASK, self._original)
        return seen[0]


def _answers(reply: Mapping[str, Any], sent: Mapping[str, Any]) -> bool:
    """Whether it is the answer to what was sent, not a late one to an earlier question; not all front-ends tell."""
    return (reply.get("parent_header") or {}).get("msg_id") in (None, sent["header"]["msg_id"])
