"""OpenSSH's multiplexing protocol as bytes: messages to packets and back, no I/O.

The source is PROTOCOL.mux of OpenSSH (version 4, the only one since 5.x). A packet is a length and a body; a body
begins with its type, and in all but the hello a request's number follows:

    uint32 length | uint32 type | uint32 request | ...

Both peers say hello first. Descriptors travel beside the stream (SCM_RIGHTS): each is one message with a single
zero byte, right behind the packet that announces it (`descriptors` says how many). Those bytes are no packet:
a decoder on the master's side consumes them and gives the message out only when the last one has come.

mux.c knows more than PROTOCOL.mux says: the port of a unix socket is -2 (PORT_STREAMLOCAL of its channels.h) in a
stdio forward too, since 9.4; the port there is a number, not a string.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

VERSION = 4
# What mux.c takes at most (CHANNEL_MUX_MAX_PACKET).
LARGEST_PACKET = 256 * 1024
# In the place of a port: the host is the path of a unix socket.
STREAM_LOCAL = 0xFFFFFFFE
_UINT32 = struct.Struct(">I")


class MuxError(ValueError):
    """What came is not this protocol."""


class Type(IntEnum):
    """Packet types. Those of a client begin with C, those of a master with S in PROTOCOL.mux."""

    HELLO = 0x00000001
    NEW_SESSION = 0x10000002
    ALIVE_CHECK = 0x10000004
    TERMINATE = 0x10000005
    OPEN_FORWARD = 0x10000006
    CLOSE_FORWARD = 0x10000007
    NEW_STDIO_FORWARD = 0x10000008
    STOP_LISTENING = 0x10000009
    OK = 0x80000001
    PERMISSION_DENIED = 0x80000002
    FAILURE = 0x80000003
    EXIT_MESSAGE = 0x80000004
    ALIVE = 0x80000005
    SESSION_OPENED = 0x80000006
    REMOTE_PORT = 0x80000007
    TTY_ALLOCATION_FAILED = 0x80000008


class ForwardType(IntEnum):
    """What kind of forward a client asks for."""

    LOCAL = 1
    REMOTE = 2
    DYNAMIC = 3


@dataclass(frozen=True, slots=True)
class Hello:
    """The first packet of each peer. No extension of it concerns us."""

    type: ClassVar[int] = Type.HELLO
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class NewSession:
    """A shell or a command is wanted; what exactly is of no interest here. Three descriptors follow."""

    type: ClassVar[int] = Type.NEW_SESSION
    descriptors: ClassVar[int] = 3
    request: int


@dataclass(frozen=True, slots=True)
class AliveCheck:
    """Are you there?"""

    type: ClassVar[int] = Type.ALIVE_CHECK
    request: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """End, and every connection with you."""

    type: ClassVar[int] = Type.TERMINATE
    request: int


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A forward, from where to where; the port STREAM_LOCAL makes a host the path of a unix socket."""

    kind: int
    listen_host: str
    listen_port: int
    connect_host: str
    connect_port: int


@dataclass(frozen=True, slots=True)
class OpenForward:
    """Listen, and forward what comes."""

    type: ClassVar[int] = Type.OPEN_FORWARD
    request: int
    forward: Forwarding


@dataclass(frozen=True, slots=True)
class CloseForward:
    """No longer; the forward is named by its values."""

    type: ClassVar[int] = Type.CLOSE_FORWARD
    request: int
    forward: Forwarding


@dataclass(frozen=True, slots=True)
class NewStdioForward:
    """Connect two descriptors, one to read from and one to write to, with `host` and `port`."""

    type: ClassVar[int] = Type.NEW_STDIO_FORWARD
    descriptors: ClassVar[int] = 2
    request: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class StopListening:
    """Take no new clients, remove the socket."""

    type: ClassVar[int] = Type.STOP_LISTENING
    request: int


@dataclass(frozen=True, slots=True)
class Ok:
    type: ClassVar[int] = Type.OK
    request: int


@dataclass(frozen=True, slots=True)
class PermissionDenied:
    type: ClassVar[int] = Type.PERMISSION_DENIED
    request: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    type: ClassVar[int] = Type.FAILURE
    request: int
    reason: str


@dataclass(frozen=True, slots=True)
class ExitMessage:
    """A session ended. `session` and not the request is its number."""

    type: ClassVar[int] = Type.EXIT_MESSAGE
    session: int
    value: int


@dataclass(frozen=True, slots=True)
class Alive:
    type: ClassVar[int] = Type.ALIVE
    request: int
    pid: int


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session or a stdio forward is up."""

    type: ClassVar[int] = Type.SESSION_OPENED
    request: int
    session: int


@dataclass(frozen=True, slots=True)
class RemotePort:
    """The port that the server chose."""

    type: ClassVar[int] = Type.REMOTE_PORT
    request: int
    port: int


@dataclass(frozen=True, slots=True)
class TtyAllocationFailed:
    type: ClassVar[int] = Type.TTY_ALLOCATION_FAILED
    session: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """A packet of a type that is not in this list; `request` is what stands where requests have their number."""

    type: int
    request: int


Message = (
    Hello
    | NewSession
    | AliveCheck
    | Terminate
    | OpenForward
    | CloseForward
    | NewStdioForward
    | StopListening
    | Ok
    | PermissionDenied
    | Failure
    | ExitMessage
    | Alive
    | SessionOpened
    | RemotePort
    | TtyAllocationFailed
    | Unknown
)


def encode(message: Message) -> bytes:
    """The packet of `message`, its length in front. Raises MuxError for one that no peer would take."""
    body: list[bytes] = [_uint32(message.type)]
    match message:
        case Hello(version):
            body.append(_uint32(version))
        case NewSession(request):  # reserved, four switches off, no escape character, no terminal, no command
            body += [_uint32(request), _string(""), bytes(16), _uint32(0xFFFFFFFF), _string(""), _string("")]
        case OpenForward(request, forward) | CloseForward(request, forward):
            body += [
                _uint32(request),
                _uint32(forward.kind),
                _string(forward.listen_host),
                _uint32(forward.listen_port),
                _string(forward.connect_host),
                _uint32(forward.connect_port),
            ]
        case NewStdioForward(request, host, port):
            body += [_uint32(request), _string(""), _string(host), _uint32(port)]
        case PermissionDenied(request, reason) | Failure(request, reason):
            body += [_uint32(request), _string(reason)]
        case (
            ExitMessage(number, value) | Alive(number, value) | SessionOpened(number, value) | RemotePort(number, value)
        ):
            body += [_uint32(number), _uint32(value)]
        case TtyAllocationFailed(number):
            body.append(_uint32(number))
        case _:
            body.append(_uint32(message.request))
    packet = b"".join(body)
    if len(packet) > LARGEST_PACKET:
        raise MuxError(f"a packet of {len(packet)} bytes is too long")
    return _uint32(len(packet)) + packet


class Decoder:
    """Bytes to messages. Keeps at most one packet, and never more than LARGEST_PACKET bytes of it.

    Args:
        master: whether this is the master's side, to which descriptors are passed.
    """

    def __init__(self, *, master: bool = False) -> None:
        self._master = master
        self._data = bytearray()
        self._announcing: Message | None = None
        self._due = 0
        self._failed = False

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete with `data`. Raises MuxError, from then on always."""
        if self._failed:
            raise MuxError("the stream was malformed before")
        self._data += data
        messages: list[Message] = []
        at = 0
        try:
            while True:
                if self._announcing is not None:
                    at = self._markers(at)
                    if self._due:
                        break
                    messages.append(self._announcing)
                    self._announcing = None
                if len(self._data) - at < 4:
                    break
                (length,) = _UINT32.unpack_from(self._data, at)
                if not 4 <= length <= LARGEST_PACKET:
                    raise MuxError(f"a packet of {length} bytes")
                if len(self._data) - at < 4 + length:
                    break
                message = decode(bytes(self._data[at + 4 : at + 4 + length]))
                at += 4 + length
                if self._master and isinstance(message, NewSession | NewStdioForward):
                    self._announcing, self._due = message, message.descriptors
                else:
                    messages.append(message)
        except MuxError:
            self._failed = True
            self._data.clear()
            raise
        del self._data[:at]
        return messages

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their packet."""
        return len(self._data)

    def _markers(self, at: int) -> int:
        """Consume the bytes that carried descriptors; where the stream goes on."""
        end = min(len(self._data), at + self._due)
        if any(self._data[at:end]):
            raise MuxError("a descriptor was announced and did not come")
        self._due -= end - at
        return end


def decode(body: bytes) -> Message:
    """One packet without its length. What follows the known fields is ignored. Raises MuxError."""
    fields = _Fields(body)
    kind = fields.uint32()
    match kind:
        case Type.HELLO:
            return Hello(fields.uint32())
        case Type.NEW_SESSION:
            return NewSession(fields.uint32())
        case Type.ALIVE_CHECK:
            return AliveCheck(fields.uint32())
        case Type.TERMINATE:
            return Terminate(fields.uint32())
        case Type.OPEN_FORWARD:
            return OpenForward(fields.uint32(), fields.forwarding())
        case Type.CLOSE_FORWARD:
            return CloseForward(fields.uint32(), fields.forwarding())
        case Type.NEW_STDIO_FORWARD:
            request, _reserved = fields.uint32(), fields.string()
            return NewStdioForward(request, fields.string(), fields.port())
        case Type.STOP_LISTENING:
            return StopListening(fields.uint32())
        case Type.OK:
            return Ok(fields.uint32())
        case Type.PERMISSION_DENIED:
            return PermissionDenied(fields.uint32(), fields.text())
        case Type.FAILURE:
            return Failure(fields.uint32(), fields.text())
        case Type.EXIT_MESSAGE:
            return ExitMessage(fields.uint32(), fields.uint32())
        case Type.ALIVE:
            return Alive(fields.uint32(), fields.uint32())
        case Type.SESSION_OPENED:
            return SessionOpened(fields.uint32(), fields.uint32())
        case Type.REMOTE_PORT:
            return RemotePort(fields.uint32(), fields.uint32())
        case Type.TTY_ALLOCATION_FAILED:
            return TtyAllocationFailed(fields.uint32())
        case _:
            return Unknown(kind, fields.uint32())


class _Fields:
    """The fields of one packet, in order."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def uint32(self) -> int:
        return int(_UINT32.unpack(self._take(4))[0])

    def port(self) -> int:
        port = self.uint32()
        if port > 65535 and port != STREAM_LOCAL:
            raise MuxError(f"{port} is no port")
        return port

    def raw(self) -> bytes:
        return self._take(self.uint32())

    def string(self) -> str:
        """A name or a path: bytes of the system, as os.fsdecode gives them; a zero byte ends none of them."""
        data = self.raw()
        if b"\0" in data:
            raise MuxError("a zero byte in a name")
        return data.decode("utf-8", "surrogateescape")

    def text(self) -> str:
        """Something to be read by a person."""
        return self.raw().decode("utf-8", "replace")

    def forwarding(self) -> Forwarding:
        return Forwarding(self.uint32(), self.string(), self.port(), self.string(), self.port())

    def _take(self, size: int) -> bytes:
        data = self._body[self._at : self._at + size]
        if len(data) < size:
            raise MuxError("a packet ends before its fields do")
        self._at += size
        return data


def _uint32(value: int) -> bytes:
    if not 0 <= value <= 0xFFFFFFFF:
        raise MuxError(f"{value} does not fit into 32 bits")
    return _UINT32.pack(value)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise MuxError("a zero byte in a name")
    return _uint32(len(data)) + data
