"""The body of an HTTP/1.1 answer as it comes (RFC 9112, 6.3), for an answer that is read by hand.

Go's servers send what is longer than 2,048 bytes in chunks, and the connection goes on behind it: its end is told by
the last chunk alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Bytes that are taken of one, its chunks' own included.
LARGEST = 64 * 1024
_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*[;\r]")
_LONGEST_LINE = 4096
# Answers that never have one.
_WITHOUT = (204, 304)


class Body:
    """What follows a head with that status and those headers (in lower case).

    Attributes:
        complete: all of it has come, or as much as is taken.
    """

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self._received = bytearray()
        # What is framed by neither goes on to the end of the connection.
        self._chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        length = headers.get("content-length", "")
        self._length = int(length) if length.isdecimal() and not self._chunked else LARGEST
        if status in _WITHOUT:
            self._chunked, self._length = False, 0
        self.complete = False
        self.feed(b"")

    @property
    def content(self) -> bytes:
        """What has come of it."""
        received = bytes(self._received)
        return _unchunked(received)[0] if self._chunked else received[: self._length]

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._received += data[: LARGEST - len(self._received)]
        full = len(self._received) >= min(self._length, LARGEST)
        self.complete = full or (self._chunked and _unchunked(bytes(self._received))[1])


def _unchunked(received: bytes) -> tuple[bytes, bool]:
    """The content of chunks as far as it has come (RFC 9112, 7.1), and whether that is all.

    >>> _unchunked(b"4;x=y\\r\\nWiki\\r\\n3\\r\\nped")
    (b'Wikiped', False)
    >>> _unchunked(b"4\\r\\nWiki\\r\\n0\\r\\n")
    (b'Wiki', True)
    """
    content, at = bytearray(), 0
    while (end := received.find(b"\r\n", at)) >= 0:
        size = _SIZE.match(received, at)
        length = int(size[1], 16) if size is not None else 0  # what is no chunk is an end too
        if not length:
            return bytes(content), True
        content += received[end + 2 : end + 2 + length]
        at = end + 2 + length + 2
    return bytes(content), len(received) - at > _LONGEST_LINE
