"""A master of our own: other programs share one of our links at a control socket (PROTOCOL.mux of OpenSSH).

A second kernel's rider and the real ssh find here what they find at `ssh -M`:

    ssh -S PATH -O check | exit | stop          ssh -S PATH -W HOST:PORT          ssh -S PATH -O forward -L ...

Sessions are refused ("this master only forwards": it never executes anything), and so are remote and dynamic
forwards. What differs for the better: a refusal begins with the code of our errors, so that a rider of ours can tell
them apart, and a far end that has finished sending may still receive.

The socket is made as ssh makes it: bound under another name, owner-only before it listens, then linked to its own
name, so that nobody finds it half made and a live master is never replaced. Only processes of the same user (and
root) are let in. Its folder ought to be the user's own, as ssh_config(5) says.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import socket
import stat
from collections.abc import Callable, Coroutine

from ....errors import BindPermissionError, ConfigError, ForwardError, LostError, PortInUseError
from ....spec import Endpoint
from ..base import Link
from . import mux
from .control import Control, peer_uid
from .control_path import SUN_PATH, TEMPORARY
from .forwards import Forwards
from .stdio import Stdio

logger = logging.getLogger(__name__)

BACKLOG = 64
# So many clients at once; each costs three descriptors.
MOST_CLIENTS = 256
# A client that has not said hello by then is none, seconds.
HELLO_DEADLINE = 10.0
_PAUSE = 0.5


class Master:
    """Serves a link at a control socket, from `start` until it is closed, told to exit, or the link is lost.

    Args:
        link: whose channels are given out; it stays its owner's, and is not closed here.
        path: the control socket, tokens expanded.
        host: the target's name in messages.

    Attributes:
        ended: resolved when the master has ended, for whatever reason; the socket is gone by then.
    """

    def __init__(self, link: Link, path: str, host: str) -> None:
        self.link = link
        self.path = path
        self.host = host
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._inode = 0
        self._passengers: set[_Passenger] = set()
        self._forwards = Forwards(link)
        self._resume: asyncio.TimerHandle | None = None
        link.lost.add_done_callback(self._link_lost)

    async def start(self) -> None:
        """Listen.

        A socket at which nobody listens any more is replaced, if it is ours.

        Raises:
            PortInUseError: a live master, or another file, is there.
            BindPermissionError, ConfigError: the socket cannot be made there.
        """
        if len(os.fsencode(self.path)) + TEMPORARY >= SUN_PATH:
            raise ConfigError(
                f"the control path {self.path} is too long for a master", hop=self.host, hint="%C is a short form"
            )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            self._place(listener)
        except OSError as error:
            listener.close()
            if isinstance(error, ForwardError):
                raise
            if error.errno in (errno.EACCES, errno.EPERM):
                raise BindPermissionError("this account may not make a socket there", hop=self.path) from None
            raise ConfigError(
                f"the control socket {self.path} cannot be made: {error.strerror}",
                hop=self.host,
                hint="The folder of the control path must exist",
            ) from None
        self._listener = listener
        self._loop.add_reader(listener, self._accept)

    async def close(self) -> None:
        """End now: the socket, and every channel that was given out; idempotent. The link stays."""
        self.abort()

    def abort(self) -> None:
        """The same, for one who cannot wait."""
        self.link.lost.remove_done_callback(self._link_lost)
        self.stop_listening()
        self._forwards.close()
        for passenger in list(self._passengers):
            passenger.end()
        if not self.ended.done():
            self.ended.set_result(None)

    def stop_listening(self) -> None:
        """Remove the socket and take no new clients; those that are served go on."""
        listener, self._listener = self._listener, None
        if self._resume is not None:
            self._resume.cancel()
        if listener is None:
            return
        self._loop.remove_reader(listener)
        listener.close()
        try:
            if os.lstat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except OSError:
            pass

    @property
    def clients(self) -> int:
        """How many control connections there are."""
        return len(self._passengers)

    def _place(self, listener: socket.socket) -> None:
        temporary = f"{self.path}.{secrets.token_hex((TEMPORARY - 1) // 2)}"
        listener.bind(temporary)
        try:
            os.chmod(temporary, 0o600)
            listener.listen(BACKLOG)
            try:
                os.link(temporary, self.path)
            except FileExistsError:
                if not self._remove_stale():
                    raise PortInUseError(
                        "a live master, or another file, is there",
                        hop=self.path,
                        hint="--control-master auto rides a live master",
                    ) from None
                os.link(temporary, self.path)
            self._inode = os.lstat(self.path).st_ino
        finally:
            os.unlink(temporary)

    def _remove_stale(self) -> bool:
        """Remove a socket of ours at which nobody listens."""
        status = os.lstat(self.path)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(self.path) != errno.ECONNREFUSED:
                return False
        if os.lstat(self.path).st_ino != status.st_ino:
            return False  # another master was quicker
        os.unlink(self.path)
        return True

    def _link_lost(self, _lost: asyncio.Future[ForwardError]) -> None:
        self.abort()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors left: the next try would fail at once, and the next
            logger.warning("the master %s cannot accept: %s", self.path, error)
            self._pause()
            return
        uid = peer_uid(client)
        if uid not in (None, 0, os.geteuid()):
            logger.warning("the master %s refused user %s", self.path, uid)
            client.close()
        elif len(self._passengers) >= MOST_CLIENTS:
            client.close()
            self._pause()
        else:
            self._passengers.add(_Passenger(self, client, self._forwards, self._passengers.discard))

    def _pause(self) -> None:
        assert self._listener is not None
        self._loop.remove_reader(self._listener)

        def resume() -> None:
            if self._listener is not None:
                self._loop.add_reader(self._listener, self._accept)

        self._resume = self._loop.call_later(_PAUSE, resume)


class _Passenger:
    """One control connection."""

    def __init__(
        self, master: Master, sock: socket.socket, forwards: Forwards, forget: Callable[[_Passenger], None]
    ) -> None:
        self._master = master
        self._forwards = forwards
        self._forget = forget
        self._greeted = False
        self._stdio: Stdio | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._request = 0
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(HELLO_DEADLINE, self.end)
        self._control = Control(sock, self._received, self._gone, master=True)
        self._control.send(mux.Hello())

    def end(self) -> None:
        """End at once; idempotent."""
        self._control.close()
        self._gone(abort=True)

    def _gone(self, *, abort: bool = False) -> None:
        self._deadline.cancel()
        for task in list(self._tasks):
            task.cancel()
        stdio, self._stdio = self._stdio, None
        if stdio is not None:
            if abort:
                stdio.abort()
            else:
                stdio.hang_up()
        self._forget(self)

    def _received(self, message: mux.Message, passed: list[int]) -> None:
        if isinstance(message, mux.NewStdioForward) and self._greeted and len(passed) == message.descriptors:
            self._forward_stdio(message, passed)
            return
        for descriptor in passed:
            os.close(descriptor)
        if isinstance(message, mux.Hello):
            if self._greeted or message.version != mux.VERSION:
                self.end()
            self._greeted = True
            self._deadline.cancel()
        elif not self._greeted:
            self.end()
        else:
            self._answer(message)

    def _answer(self, message: mux.Message) -> None:
        send, master = self._control.send, self._master
        match message:
            case mux.AliveCheck(request):
                send(mux.Alive(request, os.getpid()))
            case mux.Terminate(request):
                send(mux.Ok(request))
                master.abort()
            case mux.StopListening(request):
                master.stop_listening()
                send(mux.Ok(request))
            case mux.OpenForward() | mux.CloseForward():
                self._spawn(self._change_forwards(message))
            case mux.NewSession(request):
                send(mux.Failure(request, "this master only forwards: it runs no shell and no command"))
            case mux.NewStdioForward(request):
                send(mux.Failure(request, "did not receive file descriptors"))
            case mux.Unknown(_, request):
                send(mux.Failure(request, "unsupported request"))
            case _:
                self.end()  # a reply, from a client

    async def _change_forwards(self, message: mux.OpenForward | mux.CloseForward) -> None:
        try:
            if isinstance(message, mux.OpenForward):
                await self._forwards.open(message.forward)
            else:
                self._forwards.cancel(message.forward)
        except ForwardError as error:
            self._control.send(mux.Failure(message.request, reason(error)))
        else:
            self._control.send(mux.Ok(message.request))

    def _forward_stdio(self, message: mux.NewStdioForward, passed: list[int]) -> None:
        if self._opening is not None:
            for descriptor in passed:
                os.close(descriptor)
            self._control.send(mux.Failure(message.request, "one forward for each connection"))
            return
        source, sink = passed
        try:
            stdio = self._stdio = Stdio(source, sink, self._stdio_ended)
        except OSError as error:
            self._control.send(mux.Failure(message.request, f"the descriptors cannot be used: {error.strerror}"))
            return
        self._request = message.request
        self._opening = self._spawn(self._open(message, stdio))

    async def _open(self, message: mux.NewStdioForward, stdio: Stdio) -> None:
        path = message.port == mux.STREAM_LOCAL
        connect = Endpoint(path=message.host) if path else Endpoint(message.host, message.port)
        try:
            channel = await self._master.link.open_channel(connect, stdio)
        except ForwardError as error:
            stdio.abort()
            self._stdio = self._opening = None
            self._control.send(mux.Failure(message.request, reason(error)))
            return
        self._control.send(mux.SessionOpened(message.request, 0))
        stdio.begin(channel)

    def _stdio_ended(self, error: Exception | None) -> None:
        self._stdio = None
        if error is not None:
            # Behind "session opened" ssh expects nothing, and rightly takes it for a failure.
            broken = error if isinstance(error, ForwardError) else LostError(str(error) or "the channel broke")
            self._control.send(mux.Failure(self._request, reason(broken)))
            self.end()
        else:
            # The sink is closed in this same turn, right after this call; the control connection after it.
            self._loop.call_soon(self.end)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def reason(error: ForwardError) -> str:
    """A refusal as text: the code of our errors first, by which a rider of ours knows it again."""
    return f"{error.code} {error.message}"
