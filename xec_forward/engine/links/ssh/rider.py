"""A link that rides somebody else's SSH connection: a live master at a control socket (PROTOCOL.mux of OpenSSH).

Whatever the login asked of a person in the terminal, a one-time code or the touch of a key, was asked there; here
nothing is. Each channel is a stdio forward on a control connection of its own, with our descriptors passed to the
master, which moves the bytes. One more connection is held open and watched: when it ends, the master is gone.

What the protocol does not tell, and what follows:

    why an open failed     OpenSSH's master says "Session open refused by peer" for a refused port, an unknown name and
                           a prohibited forward alike (the reason is printed where the master runs): RefusedError,
                           and the hint names the three. A master of ours says which (see master.py).
                           Its proxy mode would tell. But there a failed open whose client then leaves is fatal to
                           the master (chan_send_close2: "no remote_id"), and that is somebody's terminal.
    is the server alive    an alive check is answered by the master itself. A silent server is noticed by the master's
                           own ServerAliveInterval, or when a channel does not open.
    far half-close         after the far side's end OpenSSH's master drops what we still send (force_drain in its
                           channels.c). A master of ours does not.

Before 9.4 a stdio forward knows no unix sockets. Then the master is asked to listen for one on a socket of ours
(in a folder that only we can enter), and each channel connects there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable

from ....errors import (
    ClosedError,
    ConfigError,
    DeadlineError,
    ForwardError,
    LostError,
    NameNotFoundError,
    ProhibitedError,
    RefusedError,
    UnreachableError,
)
from ....spec import Endpoint
from ..base import Channel, ChannelProtocol, HalfClose, Link
from . import mux
from .control import peer_uid
from .dialogue import Dialogue, lost
from .passage import Passage

logger = logging.getLogger(__name__)

# A master that does not say hello within this is not alive, seconds.
HELLO_DEADLINE = 5.0
PING_DEADLINE = 10.0
CHANNEL_DEADLINE = 25.0
ALIVE_INTERVAL = 15.0
ALIVE_COUNT_MAX = 3
# How long a forward of ours may take to show that the far side refused it, seconds; before 9.4 nothing tells.
REFUSAL_GRACE = 0.5
_BUSY_PAUSE = 0.02
_ELSEWHERE = "The terminal in which the ssh master runs shows the reason; --control-master no makes our own connection"
_BY_CODE = {
    kind.code: kind
    for kind in (RefusedError, NameNotFoundError, UnreachableError, DeadlineError, ProhibitedError, LostError)
}


async def ride(
    path: str,
    host: str,
    route: tuple[str, ...],
    *,
    alive_interval: float = ALIVE_INTERVAL,
    alive_count_max: int = ALIVE_COUNT_MAX,
) -> MasterLink | None:
    """Ride the live master at a control socket.

    Args:
        path: the control socket, tokens expanded (see control_path).
        host: the target's name in messages.
        route: the names of the hops, the target last.
        alive_interval: seconds between alive checks of the master, 0 for none.
        alive_count_max: checks unanswered before the link counts as lost.

    Returns:
        The link, or None where no live master answers: nothing there, a stale socket, another kind of file, a
        program that speaks something else or nothing at all.

    Raises:
        ConfigError: the socket is another user's, or other users can connect to it.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISSOCK(status.st_mode):
        logger.warning("%s is no socket", path)
        return None
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"the control socket {path} belongs to another user",
            hop=host,
            hint="Remove it, or choose another --control-path",
        )
    if status.st_mode & 0o077:
        raise ConfigError(f"other users can use the control socket {path}", hop=host, hint=f"chmod 600 {path}")
    link = MasterLink(path, host, route)
    try:
        async with asyncio.timeout(HELLO_DEADLINE):
            await link.start(alive_interval, alive_count_max)
    except (OSError, TimeoutError, mux.MuxError, ForwardError) as error:
        link.abort()
        if isinstance(error, ConfigError):
            raise
        logger.info("no live master at %s: %r", path, error)
        return None
    except BaseException:
        link.abort()
        raise
    return link


class MasterLink(Link):
    """A link over a live master's connection; made by `ride`. `close` lets go of the master and never ends it.

    Attributes:
        pid: the master's process, as it says.
    """

    half_close = HalfClose.NOW
    listens = False  # a master listens for itself: what comes would never reach us

    def __init__(self, path: str, host: str, route: tuple[str, ...]) -> None:
        self.path = path
        self.host = host
        self.route = route
        self.lost: asyncio.Future[ForwardError] = asyncio.get_running_loop().create_future()
        self.pid = 0
        self._line: Dialogue | None = None
        self._passages: set[Passage] = set()
        self._alive: asyncio.Task[None] | None = None
        self._closing = False
        self._forwards: dict[str, mux.Forwarding] = {}
        self._proven: set[str] = set()
        self._folder = ""
        self._knows_paths: bool | None = None

    async def start(self, alive_interval: float, alive_count_max: int) -> None:
        """Connect and say hello. Raises OSError, MuxError or ForwardError; bounded by the caller."""
        self._line = await self._connect(self._gone)
        reply = await self._line.request(mux.AliveCheck)
        if not isinstance(reply, mux.Alive):
            raise mux.MuxError("an alive check was not answered by one")
        self.pid = reply.pid
        if alive_interval:
            self._alive = asyncio.get_running_loop().create_task(self._watch(alive_interval, alive_count_max))

    async def open_channel(
        self, connect: Endpoint, protocol: ChannelProtocol, origin: tuple[str, int] = ("", 0)
    ) -> Channel:
        """See Link. The master does not pass `origin` on. Why it refuses is told apart only by a master of ours."""
        self._check()
        passage: Passage | None = None
        try:
            async with asyncio.timeout(CHANNEL_DEADLINE):
                if connect.path and self._knows_paths is False:
                    passage = await self._open_by_forward(connect, protocol)
                else:
                    try:
                        passage = await self._open(connect, protocol)
                    except RefusedError:
                        if not connect.path or self._knows_paths:
                            raise
                        passage = await self._open_by_forward(connect, protocol)
                        self._knows_paths = False
        except DeadlineError:
            raise
        except TimeoutError:
            self._check()
            raise DeadlineError(
                f"no answer within {CHANNEL_DEADLINE:g} s, as seen from {self.host}", hop=str(connect)
            ) from None
        if connect.path and self._knows_paths is None:
            self._knows_paths = True
        asyncio.get_running_loop().call_soon(passage.release)
        return passage

    async def round_trip(self) -> float:
        """See Link. It is the master that answers, not the server behind it."""
        self._check()
        assert self._line is not None
        start = time.perf_counter()
        try:
            async with asyncio.timeout(PING_DEADLINE):
                await self._line.request(mux.AliveCheck)
        except TimeoutError:
            raise DeadlineError(f"the ssh master does not answer within {PING_DEADLINE:g} s", hop=self.host) from None
        except LostError:
            raise lost(self.host) from None
        return time.perf_counter() - start

    async def close(self) -> None:
        """See Link. The master lives on."""
        self._closing = True
        for passage in list(self._passages):
            passage.abort()
        if self._forwards and self._line is not None and not self.lost.done():
            self._withdraw()
            with contextlib.suppress(TimeoutError, LostError):
                async with asyncio.timeout(1):
                    await self._line.request(mux.AliveCheck)  # answered when they are done
        self.abort()

    def abort(self, reason: ForwardError | None = None) -> None:
        """See Link. The master lives on."""
        self._closing = True
        self._lose(reason or ClosedError("the link was closed", hop=self.host))

    # ---- the master ----

    def _check(self) -> None:
        if self._closing or self.lost.done():
            raise lost(self.host)

    def _gone(self) -> None:
        why = "the ssh master ended: it was closed, or its connection was lost"
        self._lose(lost(self.host, why))

    def _lose(self, error: ForwardError) -> None:
        if self._alive is not None:
            self._alive.cancel()
        if self._line is not None:
            self._withdraw()
            self._line.close()
        if not self.lost.done():
            self.lost.set_result(error)
        for passage in list(self._passages):
            passage.broken(error)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    async def _watch(self, interval: float, count_max: int) -> None:
        missed = 0
        answered = True

        def replied(answer: mux.Message | None) -> None:
            nonlocal missed, answered
            missed, answered = 0, True

        while True:
            await asyncio.sleep(interval)
            assert self._line is not None
            if answered:
                answered = False
                self._line.ask(mux.AliveCheck, replied)
            else:
                missed += 1
                if missed >= count_max:
                    self._lose(lost(self.host, "the ssh master no longer answers; is it stopped?"))
                    return

    def _confirm(self, alive: Callable[[], None]) -> None:
        if self._line is not None and not self._line.control.closed:
            self._line.ask(mux.AliveCheck, lambda reply: alive() if reply is not None else None)

    async def _connect(self, ended: Callable[[], None] | None = None) -> Dialogue:
        sock = await self._knock(self.path)
        try:
            uid = peer_uid(sock)
            if uid is not None and uid != os.geteuid():
                raise ConfigError(f"the master at {self.path} is another user's", hop=self.host)
            line = Dialogue(sock, ended)
        except BaseException:
            sock.close()
            raise
        try:
            await line.hello()
        except BaseException:
            line.close()
            raise
        return line

    async def _knock(self, path: str) -> socket.socket:
        """Connect to a unix socket. A listener with a full queue is asked again (connect says EAGAIN)."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            while True:
                try:
                    sock.connect(path)
                    return sock
                except (BlockingIOError, InterruptedError):
                    await asyncio.sleep(_BUSY_PAUSE)
        except BaseException:
            sock.close()
            raise

    # ---- channels ----

    async def _open(self, connect: Endpoint, protocol: ChannelProtocol) -> Passage:
        """A stdio forward with a pair of sockets for each direction."""
        try:
            line = await self._connect()
        except (LostError, mux.MuxError) as error:
            raise lost(self.host) from error
        except OSError as error:
            self._check()
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                # It was told to stop listening (ssh -O stop). What it carries goes on, but there is no more of it.
                self._lose(lost(self.host, "the ssh master takes no more channels"))
                self._check()
            raise lost(self.host, f"the ssh master at {self.path} cannot be reached: {error.strerror}") from error
        sockets: list[socket.socket] = []
        passage = Passage(protocol, self._confirm, self._passages.discard)
        try:
            sockets += socket.socketpair()
            sockets += socket.socketpair()
            reader, theirs_out, writer, theirs_in = sockets
            host, port = (
                (connect.path, mux.STREAM_LOCAL) if connect.path else (connect.host or "localhost", connect.port or 0)
            )
            reply = await line.request(
                lambda request: mux.NewStdioForward(request, host, port), theirs_in.detach(), theirs_out.detach()
            )
            if not isinstance(reply, mux.SessionOpened):
                raise self._refusal(reply, connect)
            self._check()
            sockets.clear()
            await passage.attach(reader, writer, line.control)
            self._check()
        except BaseException as error:
            for sock in sockets:
                sock.close()
            line.close()
            passage.discard()
            if isinstance(error, LostError):
                raise lost(self.host) from error
            raise
        line.failed = lambda failure: passage.broken(self._refusal(failure, connect))
        line.ended = passage.control_ended
        self._passages.add(passage)
        if line.control.closed:
            passage.control_ended()
        return passage

    def _refusal(self, reply: mux.Message, connect: Endpoint) -> ForwardError:
        far = str(connect)
        if isinstance(reply, mux.PermissionDenied):
            return ProhibitedError("the person at the ssh master did not allow it", hop=far, hint=_ELSEWHERE)
        if not isinstance(reply, mux.Failure):
            return lost(self.host, "the ssh master gave an answer that makes no sense")
        code, _, text = reply.reason.partition(" ")
        kind = _BY_CODE.get(code)
        if kind is not None:  # a master of ours; it knows unix sockets, too
            self._knows_paths = True
            return kind(text, hop=far)
        if "refused by peer" in reply.reason:
            return RefusedError(
                f"{self.host} did not open it: refused, an unknown name, or not allowed", hop=far, hint=_ELSEWHERE
            )
        return RefusedError(f"the ssh master did not open it: {reply.reason[:200]}", hop=far, hint=_ELSEWHERE)

    async def _open_by_forward(self, connect: Endpoint, protocol: ChannelProtocol) -> Passage:
        """Through a forward from a unix socket of ours, for a master that knows no other way to a far one.

        The first channel to a path waits a moment for a refusal. A later one is a refusal if it ends without a byte.
        """
        listener = await self._forward(connect)
        refused = RefusedError(
            f"nobody listens there, or {self.host} may not use it", hop=str(connect), hint="Check the socket's path"
        )
        try:
            sock = await self._knock(listener)
        except OSError as error:
            self._check()
            raise lost(self.host, f"the forward of the ssh master is gone: {error.strerror}") from error
        passage = Passage(protocol, self._confirm, self._passages.discard, refused)
        try:
            await passage.attach(sock, sock, None)
            self._check()
            self._passages.add(passage)
            if connect.path not in self._proven:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFUSAL_GRACE):
                        await passage.first
                if passage.refused:
                    raise refused
                passage.proven()
                self._proven.add(connect.path)
        except BaseException:
            passage.discard()
            raise
        return passage

    async def _forward(self, connect: Endpoint) -> str:
        """The socket at which the master listens for `connect`."""
        known = self._forwards.get(connect.path)
        if known is not None:
            return known.listen_host
        assert self._line is not None
        if not self._folder:
            self._folder = tempfile.mkdtemp(prefix="xec-forward-")
        path = os.path.join(self._folder, str(len(self._forwards)))
        forward = mux.Forwarding(mux.ForwardType.LOCAL, path, mux.STREAM_LOCAL, connect.path, mux.STREAM_LOCAL)
        self._forwards[connect.path] = forward
        try:
            reply = await self._line.request(lambda request: mux.OpenForward(request, forward))
        except LostError:
            raise lost(self.host) from None
        if not isinstance(reply, mux.Ok):
            del self._forwards[connect.path]
            raise self._refusal(reply, connect)
        return path

    def _withdraw(self) -> None:
        """Take back what the master does for us. Written before the connection closes, so it is read before its end."""
        forwards, self._forwards = self._forwards, {}
        for forward in forwards.values():
            assert self._line is not None
            if not self._line.control.closed:
                self._line.control.send(mux.CloseForward(0, forward))
