"""The SOCKS server's side of the handshake, without I/O: bytes in, an outcome out.

    SOCKS4      VN 4, CD, DSTPORT, DSTIP, USERID NUL            (Ying-Da Lee, "SOCKS: A protocol for TCP proxy ...")
    SOCKS4a     the same with DSTIP 0.0.0.x, and a name NUL     ("SOCKS 4A: A Simple Extension to SOCKS 4 Protocol")
    SOCKS5      VER 5, methods; then VER, CMD, RSV, ATYP, DST.ADDR, DST.PORT                              (RFC 1928)
    its login   VER 1, user, password                                                                     (RFC 1929)

CONNECT alone is served. A name is never resolved here: it means what it means at the far side. Success is the
caller's to say (`accepted`), once the channel is open; so is why it could not be opened (`failed`).

A handshake holds what an unfinished message needs and no more: at most some 600 bytes, whatever the client sends.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ..errors import DeadlineError, ForwardError, NameNotFoundError, ProhibitedError, RefusedError, UnreachableError
from ..spec import Endpoint

_SOCKS4, _SOCKS5, _LOGIN = 4, 5, 1
_CONNECT, _BIND, _UDP_ASSOCIATE = 1, 2, 3
_COMMANDS = {_BIND: "BIND", _UDP_ASSOCIATE: "UDP ASSOCIATE"}
_IPV4, _NAME, _IPV6 = 1, 3, 4
_NO_LOGIN, _PASSWORD_LOGIN, _NO_METHOD = 0, 2, 0xFF
_GRANTED4, _REJECTED4 = 90, 91
# A SOCKS4 user id or name has no length: this is the limit.
_LONGEST = 255
# What comes first when a client speaks another protocol.
_HTTP_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"CONNECT ", b"OPTIONS ", b"DELETE ", b"PATCH ", b"TRACE ")
_TLS_HANDSHAKE = b"\x16\x03"
_HTTP_TEXT = b"This is a SOCKS proxy, not an HTTP proxy: use socks5h:// in the place of http:// in the proxy's URL.\n"
_HTTP_ANSWER = (
    b"HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
    % (len(_HTTP_TEXT), _HTTP_TEXT)
)


class Reply(IntEnum):
    """The replies of RFC 1928 section 6 that are used."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TTL_EXPIRED = 6  # what servers answer for a time-out, there being nothing nearer
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8


_REPLIES: Final[tuple[tuple[type[ForwardError], Reply], ...]] = (
    (ProhibitedError, Reply.NOT_ALLOWED),
    (RefusedError, Reply.REFUSED),
    (NameNotFoundError, Reply.HOST_UNREACHABLE),
    (UnreachableError, Reply.HOST_UNREACHABLE),
    (DeadlineError, Reply.TTL_EXPIRED),
)


def reply_for(error: ForwardError) -> Reply:
    """The SOCKS5 reply that says why a channel could not be opened."""
    return next((reply for kind, reply in _REPLIES if isinstance(error, kind)), Reply.GENERAL_FAILURE)


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of some bytes.

    Attributes:
        send: bytes for the client, now.
        connect: where it wants to go; said once.
        rest: bytes behind the request, sent before our answer: they belong to the far side.
        refused: why it is turned away, for the log; "" unless it is. `send` is then the last that it gets.
    """

    send: bytes = b""
    connect: Endpoint | None = None
    rest: bytes = b""
    refused: str = ""


class _Refused(Exception):
    """The client is turned away with these bytes."""

    def __init__(self, why: str, send: bytes = b"") -> None:
        super().__init__(why)
        self.send = send


class Handshake:
    """The talk with one client.

    >>> talk = Handshake()
    >>> talk.receive(bytes([5, 1, 0])).send
    b'\\x05\\x00'
    >>> talk.receive(bytes([5, 1, 0, 3, 6]) + b"pg.vpc" + bytes([0x15, 0x38])).connect
    Endpoint(host='pg.vpc', port=5432, path='', port_name='')
    >>> talk.accepted()
    b'\\x05\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00'

    Args:
        credentials: the user and password that a client must give (SOCKS5 only; SOCKS4 has none and is refused).
            Without them a client that insists on a login may give any.
    """

    def __init__(self, credentials: tuple[str, str] | None = None) -> None:
        self._credentials = None
        if credentials is not None:
            user, password = credentials
            self._credentials = (_digest(user.encode()), _digest(password.encode()))
        self._unread = b""
        self._version = 0
        self._asked = False  # the request is known: a reply may be sent
        # Takes one message from the front of `_unread` and says what to send; None while it is incomplete.
        self._expect: Callable[[], Progress | None] | None = self._first

    @property
    def held(self) -> int:
        """How many bytes of an unfinished message are kept."""
        return len(self._unread)

    def receive(self, data: bytes) -> Progress:
        """Take in what the client sent, in pieces of any size.

        What comes after the request is handed back as `rest`; what comes after a refusal is dropped.
        """
        if self._expect is None:
            return Progress(rest=data if self._asked else b"")
        self._unread += data
        send = b""
        try:
            while self._expect is not None:
                progress = self._expect()
                if progress is None:
                    return Progress(send)
                send += progress.send
                if progress.connect is not None:
                    rest, self._unread = self._unread, b""
                    return Progress(send, progress.connect, rest)
        except _Refused as refusal:
            self._expect, self._asked, self._unread = None, False, b""
            return Progress(send + refusal.send, refused=str(refusal))
        raise AssertionError("a talk ends with a request or a refusal")

    def accepted(self) -> bytes:
        """The answer when the channel is open.

        Raises:
            RuntimeError: nothing was asked for.
        """
        if not self._asked:
            raise RuntimeError("there is no request to answer")
        # BND.ADDR and BND.PORT are the far side's affair, and it does not tell: zeros, as from ssh -D.
        return _answer5(Reply.SUCCEEDED) if self._version == _SOCKS5 else _answer4(_GRANTED4)

    def failed(self, error: ForwardError) -> bytes:
        """The answer when no channel can be opened; empty where the protocol has no place for one yet."""
        if not self._asked:
            return b""
        return _answer5(reply_for(error)) if self._version == _SOCKS5 else _answer4(_REJECTED4)

    # each takes one message

    def _first(self) -> Progress | None:
        start = self._unread
        if not start:
            return None
        if start[0] == _SOCKS5:
            self._version, self._expect = _SOCKS5, self._methods
        elif start[0] == _SOCKS4:
            if self._credentials is not None:
                raise _Refused("SOCKS4 has no password, and one is demanded: use SOCKS5", _answer4(_REJECTED4))
            self._version, self._expect = _SOCKS4, self._request4
        elif start.startswith(_HTTP_METHODS):
            raise _Refused("it speaks HTTP: the proxy's URL must begin with socks5h://, not http://", _HTTP_ANSWER)
        elif start.startswith(_TLS_HANDSHAKE):
            raise _Refused("it speaks TLS: the proxy's URL must begin with socks5h://, not https://")
        elif any(word.startswith(start) for word in (*_HTTP_METHODS, _TLS_HANDSHAKE)):
            return None
        else:
            raise _Refused(f"it speaks neither SOCKS4 nor SOCKS5: its first byte is 0x{start[0]:02x}")
        return Progress()

    def _methods(self) -> Progress | None:
        """RFC 1928 section 3."""
        data = self._unread
        if len(data) < 2 or len(data) < 2 + data[1]:
            return None
        offered = data[2 : 2 + data[1]]
        self._unread = data[2 + data[1] :]
        if self._credentials is None and _NO_LOGIN in offered:
            self._expect = self._request5
            return Progress(bytes([_SOCKS5, _NO_LOGIN]))
        if _PASSWORD_LOGIN in offered:
            self._expect = self._login
            return Progress(bytes([_SOCKS5, _PASSWORD_LOGIN]))
        what = (
            "a user and a password are demanded, and it offers none" if self._credentials else "no login that we know"
        )
        raise _Refused(what, bytes([_SOCKS5, _NO_METHOD]))

    def _login(self) -> Progress | None:
        """RFC 1929 section 2."""
        data = self._unread
        if data and data[0] != _LOGIN:
            raise _Refused("its login is malformed", bytes([_LOGIN, 1]))
        if len(data) < 2 or len(data) < 3 + data[1]:
            return None
        user, rest = data[2 : 2 + data[1]], data[2 + data[1] :]
        if len(rest) < 1 + rest[0]:
            return None
        password, self._unread = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
        if self._credentials is not None:
            # Both are always compared, as digests: the time tells neither which one is wrong nor how long it is.
            right_user = hmac.compare_digest(_digest(user), self._credentials[0])
            right_password = hmac.compare_digest(_digest(password), self._credentials[1])
            if not (right_user and right_password):
                raise _Refused("its user or password is wrong", bytes([_LOGIN, 1]))
        self._expect = self._request5
        return Progress(bytes([_LOGIN, 0]))

    def _request5(self) -> Progress | None:
        """RFC 1928 sections 4 and 5."""
        data = self._unread
        if data and data[0] != _SOCKS5:
            raise _Refused("its request is malformed", _answer5(Reply.GENERAL_FAILURE))
        if len(data) < 5:
            return None
        command, kind = data[1], data[3]
        if kind not in (_IPV4, _NAME, _IPV6):
            raise _Refused(f"address type {kind} is unknown", _answer5(Reply.ADDRESS_TYPE_NOT_SUPPORTED))
        start = 5 if kind == _NAME else 4
        end = start + (data[4] if kind == _NAME else 4 if kind == _IPV4 else 16)
        if len(data) < end + 2:
            return None
        if command != _CONNECT:
            # Not before all of it is read: closing with bytes unread would reset the answer away.
            raise _Refused(_unsupported(command), _answer5(Reply.COMMAND_NOT_SUPPORTED))
        address, port = data[start:end], int.from_bytes(data[end : end + 2], "big")
        self._unread = data[end + 2 :]
        host = _host(address) if kind == _NAME else str(ipaddress.ip_address(address))
        if not host:
            raise _Refused("the name it asks for is none", _answer5(Reply.HOST_UNREACHABLE))
        if not port:
            raise _Refused("it asks for port 0", _answer5(Reply.GENERAL_FAILURE))
        return self._ask(host, port)

    def _request4(self) -> Progress | None:
        data = self._unread
        if len(data) < 8:
            return None
        user_end = _nul(data, 8, "user id")
        if user_end < 0:
            return None
        command, port, address = data[1], int.from_bytes(data[2:4], "big"), data[4:8]
        end, host = user_end, str(ipaddress.IPv4Address(address))
        if address[:3] == b"\0\0\0" and address[3]:
            end = _nul(data, user_end + 1, "name")
            if end < 0:
                return None
            host = _host(data[user_end + 1 : end])
        if command != _CONNECT:
            raise _Refused(_unsupported(command), _answer4(_REJECTED4))
        if not host:
            raise _Refused("the name it asks for is none", _answer4(_REJECTED4))
        if not port:
            raise _Refused("it asks for port 0", _answer4(_REJECTED4))
        self._unread = data[end + 1 :]
        return self._ask(host, port)

    def _ask(self, host: str, port: int) -> Progress:
        self._expect, self._asked = None, True
        return Progress(connect=Endpoint(host, port))


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _answer5(reply: Reply) -> bytes:
    return bytes([_SOCKS5, reply, 0, _IPV4, 0, 0, 0, 0, 0, 0])


def _answer4(code: int) -> bytes:
    return bytes([0, code, 0, 0, 0, 0, 0, 0])


def _unsupported(command: int) -> str:
    return f"{_COMMANDS.get(command, f'command {command}')} is not supported, only CONNECT"


def _nul(data: bytes, start: int, what: str) -> int:
    """Where the text that begins at `start` ends, -1 while that is not known."""
    end = data.find(b"\0", start, start + _LONGEST + 1)
    if end < 0 and len(data) > start + _LONGEST:
        raise _Refused(f"its {what} is longer than {_LONGEST} bytes", _answer4(_REJECTED4))
    return end


def _host(name: bytes) -> str:
    """A name or an address in text; "" for what can be neither."""
    try:
        host = name.decode()
    except UnicodeDecodeError:
        return ""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host if host.isprintable() and not any(one.isspace() for one in host) else ""
