"""Pipes on both event loops: the loop closes a descriptor that it has taken once, and never one that is another's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from xec_forward.engine.pipes import connect_reading, connect_writing

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


class Ended(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.over = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def on_that_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main)

    return on_that_loop


def test_bytes_and_the_end_pass(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def main() -> None:
        reader, writer = Ended(), Ended()
        reading, writing = os.pipe()
        await connect_reading(reader, reading)
        await connect_writing(writer, writing)
        writer.transport.write(b"through")
        writer.transport.close()
        await until(lambda: reader.over and writer.over)
        assert reader.received == b"through"
        assert not is_open(reading)
        assert not is_open(writing)

    run(main())


@pytest.mark.parametrize("connect", [connect_reading, connect_writing])
def test_cancelled_it_closes_its_own_number_alone(
    run: Callable[[Coroutine[Any, Any, None]], None],
    connect: Callable[[asyncio.Protocol, int], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        ends = os.pipe()
        ours, theirs = ends if connect is connect_reading else ends[::-1]
        task = asyncio.create_task(connect(Ended(), ours))
        await asyncio.sleep(0)
        task.cancel()
        kept: BaseException | None = None
        try:
            await task
        except asyncio.CancelledError as error:
            kept = error  # and with it the frames of what was cancelled, as in a logged traceback
        await until(lambda: not is_open(ours))
        somebody_else = os.open(os.devnull, os.O_RDONLY)
        try:
            assert somebody_else == ours
            del kept, task
            gc.collect()
            assert is_open(somebody_else)
        finally:
            with contextlib.suppress(OSError):
                os.close(somebody_else)
            os.close(theirs)

    run(main())


def test_file_whose_descriptor_the_loop_closes_itself_does_not_own_it(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    """Between two closes another thread, a resolver's say, may have opened something."""

    async def main() -> None:
        reader = Ended()
        reading, writing = os.pipe()
        await connect_reading(reader, reading)
        of_asyncio = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
        assert reader.transport.get_extra_info("pipe").closefd is of_asyncio
        os.close(writing)
        await until(lambda: reader.over)
        assert not is_open(reading)

    run(main())
