"""Header blocks (section 2.6.10 of the draft): names and values, compressed.

    uint32 count | count times: uint32 length | name | uint32 length | value

All blocks that one peer of a connection sends are one zlib stream, each ended by a sync flush. So every block has to
be read, in order, also one whose headers nobody wants: the next would make no sense without it.

Names are lower case and occur once; several values of one name are one value with NUL between them. Text is
Latin-1, so that any byte survives the way; what Kubernetes sends is ASCII.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from .frames import LARGEST_HEADERS, SpdyError

DICTIONARY = Path(__file__).with_name("dictionary.bin").read_bytes()
"""What both zlib streams start from (section 2.6.10.1)."""
_UINT32 = struct.Struct(">I")
_MEMORY_LEVEL = 9


class HeaderEncoder:
    """The header blocks of one direction, to be made in the order in which they are sent.

    Args:
        level: zlib's. On blocks like those before, the fastest takes a fifth of the time and loses nothing.
    """

    def __init__(self, level: int = zlib.Z_BEST_COMPRESSION) -> None:
        self._zlib = zlib.compressobj(
            level, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, DICTIONARY
        )

    def encode(self, headers: Mapping[str, str]) -> bytes:
        """One block. Raises SpdyError, before anything is compressed: the next block is as good as ever."""
        parts = [_UINT32.pack(len(headers))]
        for name, value in headers.items():
            try:
                texts = name.encode("latin-1"), value.encode("latin-1")
            except UnicodeEncodeError:
                raise SpdyError(f"the header {name[:40]!r} has a character beyond Latin-1") from None
            _check_name(texts[0])
            for text in texts:
                parts += [_UINT32.pack(len(text)), text]
        plain = b"".join(parts)
        if len(plain) > LARGEST_HEADERS:
            raise SpdyError(f"headers of {len(plain)} bytes, more than {LARGEST_HEADERS}")
        return self._zlib.compress(plain) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class HeaderDecoder:
    """The header blocks of one direction, to be read in the order in which they came."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS, DICTIONARY)

    def decode(self, block: bytes) -> dict[str, str]:
        """The headers of one block. Raises SpdyError; no later block can be read then."""
        try:
            # One byte over the limit tells a block that is too large from one that just fits.
            plain = self._zlib.decompress(block, LARGEST_HEADERS + 1)
        except zlib.error:
            raise SpdyError("a header block that does not inflate") from None
        if len(plain) > LARGEST_HEADERS:
            raise SpdyError(f"a header block of more than {LARGEST_HEADERS} bytes")
        if self._zlib.eof:
            raise SpdyError("the stream of header blocks was ended")
        return _parse(plain)


def _parse(plain: bytes) -> dict[str, str]:
    at = 0

    def uint32() -> int:
        return int.from_bytes(take(4), "big")

    def take(size: int) -> bytes:
        nonlocal at
        field = plain[at : at + size]
        if len(field) < size:
            raise SpdyError("a header block ends before its headers do")
        at += size
        return field

    headers: dict[str, str] = {}
    # A count that lies is found out at the first header that is not there.
    for _ in range(uint32()):
        name = take(uint32())
        _check_name(name)
        text = name.decode("latin-1")
        if text in headers:
            raise SpdyError(f"the header {text[:40]!r} occurs twice")
        headers[text] = take(uint32()).decode("latin-1")
    if at < len(plain):
        raise SpdyError("a header block goes on after its headers")
    return headers


def _check_name(name: bytes) -> None:
    if not name:
        raise SpdyError("a header without a name")
    if name != name.lower():
        raise SpdyError(f"the header {name[:40].decode('latin-1')!r} is not in lower case")
