"""One end of a control connection: packets and descriptors over a unix socket, the same for rider and master.

The socket is driven by the loop's reader and writer callbacks and not by a transport, since only a plain socket
can pass descriptors (SCM_RIGHTS).
"""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable

from .mux import Decoder, Message, MuxError, encode

logger = logging.getLogger(__name__)

_BLOCK = 64 * 1024
# A peer that does not read its replies has lost them, bytes.
_LONGEST_QUEUE = 1024 * 1024
# A peer that passes descriptors nobody asked for is no friend.
_MOST_DESCRIPTORS = 3
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def peer_uid(sock: socket.socket) -> int | None:
    """The user at the other end of a unix socket, None where the system does not tell."""
    if sys.platform == "linux":
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", credentials)[1])
    if sys.platform == "darwin":  # struct xucred of sys/ucred.h, by LOCAL_PEERCRED of SOL_LOCAL
        credentials = sock.getsockopt(0, 1, 76)
        return int(struct.unpack_from("=II", credentials)[1])
    return None


class Control:
    """A control connection. Owns its socket, and each descriptor that it was given or that came.

    Args:
        sock: connected; becomes non-blocking.
        received: called with each message, and the descriptors that came with it (now the caller's).
        ended: called once, when the peer has closed or is malformed; not after `close`.
        master: whether this is the master's side.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[Message, list[int]], None],
        ended: Callable[[], None],
        *,
        master: bool = False,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._received = received
        self._ended = ended
        self._decoder = Decoder(master=master)
        self._descriptors: list[int] = []
        self._queue: deque[tuple[bytes, int]] = deque()
        self._queued = 0
        self._writing = False
        self._loop = asyncio.get_running_loop()
        self.closed = False
        self._loop.add_reader(sock, self.read)

    def send(self, message: Message, *descriptors: int) -> None:
        """Send soon. The descriptors are closed once they are sent, or when the connection ends before.

        Raises:
            MuxError: there is no such packet; the descriptors are closed.
        """
        try:
            packet = encode(message)
        except MuxError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        self._put(packet, -1)
        for descriptor in descriptors:
            self._put(b"\0", descriptor)
        if not self._writing:
            self._write()

    def read(self) -> None:
        """Take what has arrived; called by the loop, and by one who cannot wait for it."""
        if self.closed:
            return
        try:
            data = self._receive()
            if data is None:
                return
            messages = self._decoder.feed(data)
        except (OSError, MuxError) as error:
            logger.info("a control connection broke: %s", error)
            data, messages = b"", []
        for message in messages:
            count = getattr(message, "descriptors", 0)
            passed, self._descriptors = self._descriptors[:count], self._descriptors[count:]
            self._received(message, passed)
            if self.closed:
                return
        if not data:
            self.close()
            self._ended()

    def close(self) -> None:
        """End at once; idempotent. What was not sent is dropped."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket)
        self._stop_writing()
        self._socket.close()
        for descriptor in (*self._descriptors, *(one for _, one in self._queue)):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptors.clear()
        self._queue.clear()

    def _receive(self) -> bytes | None:
        """What has come, b"" at the end, None for nothing yet. Raises OSError."""
        room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(_BLOCK, room, _CLOSE_ON_EXEC)
        except (BlockingIOError, InterruptedError):
            return None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                came = array.array("i")
                came.frombytes(content[: len(content) - len(content) % came.itemsize])
                for descriptor in came:
                    os.set_inheritable(descriptor, False)
                    self._descriptors.append(descriptor)
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > _MOST_DESCRIPTORS:
            raise OSError("it passed more descriptors than it announced")
        return data

    def _put(self, data: bytes, descriptor: int) -> None:
        if self.closed:
            if descriptor >= 0:
                os.close(descriptor)
            return
        self._queue.append((data, descriptor))
        self._queued += len(data)

    def _write(self) -> None:
        try:
            while self._queue:
                data, descriptor = self._queue[0]
                if descriptor >= 0:
                    sent = socket.send_fds(self._socket, [data], [descriptor])
                    os.close(descriptor)
                else:
                    sent = self._socket.send(data)
                self._queued -= sent
                if sent < len(data):
                    self._queue[0] = (data[sent:], -1)
                else:
                    self._queue.popleft()
        except (BlockingIOError, InterruptedError):
            if self._queued > _LONGEST_QUEUE:
                self._loop.call_soon(self._break)
            elif not self._writing:
                self._writing = True
                self._loop.add_writer(self._socket, self._write)
            return
        except OSError:
            # The peer is gone; what it said last is still to be read, and the end after it.
            for _, descriptor in self._queue:
                if descriptor >= 0:
                    os.close(descriptor)
            self._queue.clear()
            self._queued = 0
        self._stop_writing()

    def _break(self) -> None:
        if not self.closed:
            self.close()
            self._ended()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)
