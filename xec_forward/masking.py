"""The mask of WebSocket's payloads (RFC 6455 section 5.3), which a client puts on and a server takes off."""

from __future__ import annotations

from collections.abc import Callable

_mask_in_place: Callable[[bytes, bytearray], None] | None
try:
    # Compiled, and a hundred times as fast as anything in plain Python.
    from aiohttp._websocket.helpers import websocket_mask as _mask_in_place
except ImportError:  # no public name, so it may go
    _mask_in_place = None


def mask(data: bytearray, key: bytes) -> None:
    """Mask `data` in place with the four bytes of `key`; done twice, it is as it was."""
    if _mask_in_place is not None:
        _mask_in_place(key, data)
    else:
        mask_plainly(data, key)


def mask_plainly(data: bytearray, key: bytes) -> None:
    """The same, where nothing compiled is there."""
    size = len(data)
    keys = key * (size // 4 + 1)
    data[:] = (int.from_bytes(data, "big") ^ int.from_bytes(keys[:size], "big")).to_bytes(size, "big")
