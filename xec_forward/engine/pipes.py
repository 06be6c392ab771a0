"""The ends of our pipes on the event loop. Each descriptor is closed once, by the loop, whatever happens.

uvloop closes the descriptor of a pipe, and then the file object that it came in, whose number may be somebody else's by
then; cancelled while it takes the pipe, it leaves the file object to the garbage collector, which closes the number at
any time later. So the file does not own its descriptor there, and the taking of it is never cancelled.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Coroutine
from typing import Any, Literal


async def connect_reading(protocol: asyncio.Protocol, descriptor: int) -> None:
    """Have `protocol` receive what comes out of the pipe; its end at `descriptor` is the loop's from here on."""
    loop = asyncio.get_running_loop()
    await _taken(loop.connect_read_pipe(lambda: protocol, _file(descriptor, "r")))


async def connect_writing(protocol: asyncio.BaseProtocol, descriptor: int) -> None:
    """Have `protocol` write into the pipe; its end at `descriptor` is the loop's from here on."""
    loop = asyncio.get_running_loop()
    await _taken(loop.connect_write_pipe(lambda: protocol, _file(descriptor, "w")))


def _file(descriptor: int, mode: Literal["r", "w"]) -> io.FileIO:
    # asyncio's own transports close the file, and no descriptor.
    return io.FileIO(descriptor, mode, closefd=isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop))


async def _taken(taking: Coroutine[Any, Any, tuple[Any, Any]]) -> None:
    """See the loop take a pipe, which it does in its next turn. Cancelled meanwhile, the pipe is closed then."""
    task = asyncio.ensure_future(taking)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_close)
        raise


def _close(task: asyncio.Task[tuple[Any, Any]]) -> None:
    if not task.cancelled() and task.exception() is None:
        transport, _ = task.result()
        transport.close()
