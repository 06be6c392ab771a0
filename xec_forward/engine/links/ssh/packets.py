"""Faster packets for asyncssh; the one file that touches its private attributes.

Measured (docs/design.md): asyncssh copies the rest of its input buffer twice for each packet, sends an empty
SSH_MSG_IGNORE before each packet whatever the cipher, and tops up a channel's window only when half of it is gone.
None of its code is replaced here; it is given

    quick ACKs          sshd leaves Nagle's algorithm (RFC 896) on for a connection without a session, so that the
                        second of two small packets waits for our delayed ACK, 40 ms: at each greeting of a MySQL,
                        at each answer written in two pieces, and through `ssh -L` too. Linux can be told to
                        acknowledge at once (TCP_QUICKACK, tcp(7)), from packet to packet;
    an input buffer     that advances instead of copying;
    a send function     that leaves out those IGNOREs under an AEAD cipher: they defend CBC against chosen plain
                        text (RFC 4251 section 9.3.1), where each packet's IV is the last block before it;
    a window            topped up each eighth, by what was delivered and no more, and grown from 2 MiB to 8 MiB
                        while more than half of it arrives per round trip. (16 MiB makes sshd burn CPU.)

All that rests on details of asyncssh, so it is used only where the version is one we know and a self-test on the
real classes passes; elsewhere asyncssh works as it comes.
"""

from __future__ import annotations

import functools
import logging
import socket
import time
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

import asyncssh
from asyncssh import compression
from asyncssh.channel import SSHTCPChannel, SSHUNIXChannel
from asyncssh.compression import Compressor
from asyncssh.connection import SSHClientConnection
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST, MSG_DEBUG, MSG_IGNORE
from asyncssh.packet import SSHPacket, UInt32

logger = logging.getLogger(__name__)

FIRST_KNOWN, FIRST_UNKNOWN = (2, 22), (2, 25)
WINDOW = 2 * 1024 * 1024
LARGEST_WINDOW = 8 * 1024 * 1024
PACKET = 32 * 1024
# What comes in bigger pieces is acknowledged by TCP itself, every other segment.
SMALL = 8 * 1024
AEAD = frozenset(
    {"aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"},
)

RawChannel = SSHTCPChannel[bytes] | SSHUNIXChannel[bytes]


class InputBuffer:
    """What asyncssh does with its input (`+=`, `[:n]`, `[n:]`, `find`, truth), without copying the rest.

    `buffer = buffer[n:]` advances and gives the same object: right only for one who drops the old value, as
    asyncssh does (the self-test would notice).
    """

    __slots__ = ("_acknowledge", "_at", "_data")

    def __init__(self, acknowledge: Callable[[], None] | None = None) -> None:
        self._data = b""
        self._at = 0
        self._acknowledge = acknowledge

    def __len__(self) -> int:
        return len(self._data) - self._at

    def __iadd__(self, data: bytes) -> InputBuffer:
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0
        if self._acknowledge is not None and len(data) < SMALL:
            self._acknowledge()
        return self

    def __getitem__(self, part: slice) -> bytes | InputBuffer:
        start = self._at + (part.start or 0)
        if part.stop is None:
            self._at = min(start, len(self._data))
            return self
        return self._data[start : self._at + part.stop]

    def find(self, wanted: bytes, start: int, end: int) -> int:
        """As bytes.find, from the place we are at."""
        found = self._data.find(wanted, self._at + start, self._at + end)
        return found if found < 0 else found - self._at


class Window:
    """The receive window of one channel.

    Args:
        channel: just opened with a window of WINDOW bytes.
        round_trip: the link's shortest known round trip in seconds, 0 while it is unknown.
    """

    def __init__(self, channel: RawChannel, round_trip: Callable[[], float]) -> None:
        self.size = WINDOW
        self._channel = channel
        self._round_trip = round_trip
        self._due = 0
        self._arrived = 0
        self._since = time.monotonic()
        self._eager = usable()
        if self._eager:
            # asyncssh itself tops up when less than half of this is left, by all that is gone, delivered or not:
            # with a slow reader its buffer would grow without limit. Of nothing, never less than half is left.
            channel._init_recv_window = 0

    def delivered(self, size: int) -> None:
        """So many bytes left the channel's buffer."""
        self._due += size
        if self._eager and self._due >= self.size >> 3:
            self._top_up()

    def _top_up(self) -> None:
        self._arrived += self._due
        elapsed, round_trip = time.monotonic() - self._since, self._round_trip()
        if round_trip and elapsed >= round_trip:
            if self._arrived * round_trip > elapsed * self.size / 2 and self.size < LARGEST_WINDOW:
                self._due += self.size
                self.size *= 2
            self._arrived = 0
            self._since += elapsed
        channel, due = self._channel, self._due
        self._due = 0
        channel._recv_window += due
        channel.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(due))


def quicken(connection: SSHClientConnection) -> None:
    """Give a connection, before its first byte, the input buffer and the send function."""
    if usable():
        _quicken(connection)


_level: ContextVar[int] = ContextVar("compression level", default=zlib.Z_DEFAULT_COMPRESSION)


class _Deflate(Compressor):
    """As asyncssh's own compressor, at the level of the connection it is made for.

    Each key exchange makes a new one, called from the connection's transport and so in the context that the
    connection was made in: there the level is found again.
    """

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(_level.get())

    def compress(self, data: bytes) -> bytes:
        return self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def set_compression_level(level: int) -> None:
    """Compress at this level on the connections made from here on in this context (RFC 4253 section 6.2).

    It governs what we send. What the server sends it compresses as it likes.
    """
    if usable():
        for name in (b"zlib@openssh.com", b"zlib"):
            compression._cmp_compressors[name] = _Deflate
        _level.set(level)


def on_connection_close(channel: RawChannel, told: Callable[[], None]) -> None:
    """Call `told` before `channel` ends because its connection does.

    asyncssh reports the end of a connection in order (the server was shut down) to a channel in the same way as
    the channel's own end in order; for a tunnel's client the one is a broken answer and the other a whole one.
    """
    original = channel.process_connection_close

    def process_connection_close(error: Exception | None) -> None:
        told()
        original(error)

    channel.process_connection_close = process_connection_close  # type: ignore[method-assign,assignment]


async def ping(connection: SSHClientConnection) -> None:
    """Send keepalive@openssh.com and wait for the reply, which says "unknown" and is as good as any."""
    await connection._make_global_request(b"keepalive@openssh.com")


def open_channels(connection: SSHClientConnection) -> int:
    """How many channels the connection has in its table, half-open ones included."""
    return len(connection._channels)


@functools.cache
def usable() -> bool:
    """Whether this asyncssh is one whose packets we may quicken; says so once in the log."""
    reason = _unknown_version() or _self_test()
    if reason:
        logger.warning("asyncssh %s: stock packet path, %s", asyncssh.__version__, reason)
    else:
        logger.info("asyncssh %s: lean packet path", asyncssh.__version__)
    return not reason


def _quicken(connection: SSHClientConnection) -> None:
    send = connection.send_packet
    info = connection.get_extra_info

    def send_packet(pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype == MSG_IGNORE and info("send_cipher") in AEAD:
            return
        send(pkttype, *args, handler=handler)

    connection.send_packet = send_packet  # type: ignore[method-assign]
    connection._inpbuf = cast(bytes, InputBuffer(_acknowledger(connection)))


def _acknowledger(connection: SSHClientConnection) -> Callable[[], None] | None:
    """What has the system acknowledge at once; None for a connection without a socket of its own, or not on Linux."""
    sock = connection.get_extra_info("socket")
    option = getattr(socket, "TCP_QUICKACK", None)
    if sock is None or option is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None

    def acknowledge() -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)
        except OSError:  # a connection that has just ended
            pass

    return acknowledge


def _unknown_version() -> str:
    version = tuple(int(part) for part in asyncssh.__version__.split(".")[:2])
    return "" if FIRST_KNOWN <= version < FIRST_UNKNOWN else "its version is not one we know"


def _self_test() -> str:
    """Put the three changes to work on asyncssh's own methods; "" or what did not work."""
    try:
        for test in (_test_receive, _test_send, _test_window):
            if not test():
                return f"{test.__name__.strip('_')} failed"
    except Exception as error:  # whatever an unknown asyncssh may raise
        return f"the self-test failed: {error!r}"
    return ""


def _bare(kind: type[Any], **attributes: object) -> Any:
    """An instance that was never initialised, with only these attributes: any other that the code needs is an error."""
    bare = object.__new__(kind)
    for name, value in attributes.items():
        setattr(bare, name, value)
    return bare


def _test_receive() -> bool:
    seen: list[bytes] = []

    def see(pkttype: int, seq: int, packet: SSHPacket) -> bool:
        seen.append(packet.get_remaining_payload())
        return True

    connection = _bare(
        SSHClientConnection,
        **dict.fromkeys(("_transport", "_recv_encryption", "_decompressor", "_kex", "_auth"), None),
        **dict.fromkeys(("_auth_complete", "_decompress_after_auth", "_strict_kex", "_auth_final"), False),
        _extra={},
        _inpbuf=b"",
        _packet=b"",
        _pktlen=0,
        _recv_seq=0,
        _recv_blocksize=8,
        _recv_macsize=0,
        _max_recv_pktlen=1 << 18,
        log_received_packet=lambda *_: None,
        process_packet=see,
    )
    connection._recv_handler = connection._recv_pkthdr
    _quicken(connection)
    bodies = [bytes([number]) * (11 + 8 * number) for number in range(5)]  # with 4 bytes of padding a multiple of 8
    stream = b"".join(UInt32(len(body) + 6) + bytes([4, MSG_DEBUG]) + body + bytes(4) for body in bodies)
    for start, end in ((0, 3), (3, 40), (40, 41), (41, len(stream))):
        connection.data_received(stream[start:end])
    return seen == bodies and not connection._inpbuf and isinstance(connection._inpbuf, InputBuffer)


def _test_send() -> bool:
    sent: list[bytes] = []
    connection = _bare(
        SSHClientConnection,
        **dict.fromkeys(("_transport", "_compressor", "_rekey_seconds"), None),
        **dict.fromkeys(("_auth_complete", "_kex_complete"), True),
        _extra={"send_cipher": "aes128-gcm@openssh.com"},
        _rekey_bytes=1 << 30,
        _rekey_bytes_sent=0,
        _send_seq=7,
        _send_enchdrlen=5,
        _send_blocksize=16,
        _compress_after_auth=False,
        _strict_kex=False,
        _send_encryption=_bare(_Plain),
        _send=sent.append,
        log_sent_packet=lambda *_: None,
    )
    _quicken(connection)
    connection.send_packet(MSG_CHANNEL_DATA, UInt32(0), UInt32(0))
    return len(sent) == 1 and connection._send_seq == 8


class _Plain:
    """A cipher that does nothing."""

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        return header + packet, b""


def _test_window() -> bool:
    sent: list[tuple[int, bytes]] = []
    channel = _bare(
        SSHTCPChannel,
        _encoding=None,
        _session=None,
        _logger=_bare(_Quiet),
        _recv_window=0,
        _init_recv_window=WINDOW,
        send_packet=lambda pkttype, *args: sent.append((pkttype, b"".join(args))),
    )
    channel._deliver_data(b"data", None)
    topped_up = sent == [(MSG_CHANNEL_WINDOW_ADJUST, UInt32(WINDOW))] and channel._recv_window == WINDOW
    channel._init_recv_window, channel._recv_window = 0, 0
    channel._deliver_data(b"data", None)
    return topped_up and len(sent) == 1 and channel._recv_window == 0


class _Quiet:
    """A logger that says nothing."""

    def debug2(self, *_: object) -> None:
        pass
