"""The relay between real loopback sockets and an in-memory link, on both event loops."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.engine.fake_link import FakeLink
from xec_forward.engine import far, peer, splice
from xec_forward.engine.links.base import HalfClose
from xec_forward.engine.relay import Relay
from xec_forward.errors import DeadlineError, ForwardError, LostError, RefusedError
from xec_forward.spec import Endpoint

FAR = Endpoint("far", 1)


class House:
    """A relay behind a listener, what it told its supervisor, and clients."""

    def __init__(self, relay: Relay, port: int, failures: list[ForwardError], parked: asyncio.Event) -> None:
        self.relay = relay
        self.port = port
        self.failures = failures
        self.parked = parked
        self.clients: list[socket.socket] = []

    async def connect(self) -> socket.socket:
        """A client as a plain non-blocking socket."""
        client = socket.socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        self.clients.append(client)
        return client


@asynccontextmanager
async def house(hold: float = 10.0) -> AsyncIterator[House]:
    failures: list[ForwardError] = []
    parked = asyncio.Event()
    relay = Relay(FAR, hold, parked=parked.set, failed=failures.append)
    server = await asyncio.get_running_loop().create_server(relay.client, "127.0.0.1", 0)
    made = House(relay, server.sockets[0].getsockname()[1], failures, parked)
    try:
        yield made
    finally:
        for client in made.clients:
            client.close()
        server.close()
        relay.abort(LostError("the test ends"))
        await until(lambda: not relay.clients)


async def until(condition: Callable[[], Any], timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def within(work: Awaitable[Any], timeout: float = 5.0) -> Awaitable[Any]:
    return asyncio.wait_for(work, timeout)


async def receive(client: socket.socket, size: int = 65536) -> bytes:
    return await within(asyncio.get_running_loop().sock_recv(client, size))


async def send(client: socket.socket, data: bytes) -> None:
    await within(asyncio.get_running_loop().sock_sendall(client, data))


async def assert_reset(client: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        while await receive(client):
            pass


async def test_bytes_pass_both_ways_and_are_counted() -> None:
    async with house() as h:
        link = FakeLink()
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()
        assert channel.origin == client.getsockname()
        await send(client, b"question")
        assert await channel.wait_written(8) == b"question"
        channel.protocol.data_received(b"answer")
        assert await receive(client) == b"answer"
        counters = h.relay.counters()
        assert (counters.clients, counters.clients_total, counters.bytes_up, counters.bytes_down) == (1, 1, 8, 6)


async def test_small_answers_leave_at_once() -> None:
    """Nagle's algorithm is off: the event loop sees to it, on either."""
    async with house() as h:
        await h.connect()
        await until(lambda: h.relay.clients)
        (client,) = h.relay.clients
        assert client._near is not None
        near = client._near.get_extra_info("socket")
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_client_that_came_before_the_link_is_parked_and_then_served_with_its_first_bytes() -> None:
    async with house() as h:
        client = await h.connect()
        await send(client, b"early")
        await within(h.parked.wait())
        await until(lambda: h.relay.parked_clients == 1)
        link = FakeLink()
        h.relay.attach(link)
        channel = await link.channel()
        assert await channel.wait_written(5) == b"early"
        await send(client, b" late")
        assert await channel.wait_written(10) == b"early late"


async def test_parked_client_costs_one_chunk_of_memory() -> None:
    async with house() as h:
        client = await h.connect()
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.sock_sendall(client, bytes(64 * 1024 * 1024)), 0.5)
        (parked,) = h.relay.clients
        assert sum(map(len, parked._early)) <= 256 * 1024  # type: ignore[attr-defined]


async def test_parked_client_that_waits_too_long_is_reset_and_the_reason_told() -> None:
    async with house(hold=0.1) as h:
        client = await h.connect()
        await assert_reset(client)
        await until(lambda: h.failures)
        assert h.failures[0].code == "ETIMEDOUT"
        assert h.relay.counters().refused == 1


async def test_parked_client_that_leaves_is_noticed_without_a_link() -> None:
    async with house() as h:
        client = await h.connect()
        await send(client, b"x")
        await until(lambda: h.relay.parked_clients == 1)
        client.close()
        await until(lambda: not h.relay.clients)


async def test_parked_client_that_half_closed_still_gets_its_answer() -> None:
    async with house() as h:
        client = await h.connect()
        await send(client, b"request")
        client.shutdown(socket.SHUT_WR)
        await asyncio.sleep(1.2)  # one look at departures must pass it over
        link = FakeLink()
        h.relay.attach(link)
        channel = await link.channel()
        assert await channel.wait_written(7) == b"request"
        await within(channel.ended.wait())
        channel.protocol.data_received(b"answer")
        channel.protocol.eof_received()
        assert await receive(client) == b"answer"
        assert await receive(client) == b""


async def test_client_that_leaves_while_its_channel_opens_leaks_nothing() -> None:
    async with house() as h:
        link = FakeLink()
        link.gate.clear()
        h.relay.attach(link)
        client = await h.connect()
        await until(lambda: link.opening == 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await until(lambda: not h.relay.clients)
        await until(lambda: link.opening == 0)
        assert link.live == []


@pytest.mark.parametrize("first", ["near", "far"])
async def test_half_close_passes_and_the_other_direction_goes_on(first: str) -> None:
    async with house() as h:
        link = FakeLink(HalfClose.NOW)
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()
        if first == "near":
            await send(client, b"request")
            client.shutdown(socket.SHUT_WR)
            await within(channel.ended.wait())
            channel.protocol.data_received(b"answer")
            assert await receive(client) == b"answer"
            channel.protocol.eof_received()
            assert await receive(client) == b""
        else:
            channel.protocol.data_received(b"banner")
            channel.protocol.eof_received()
            assert await receive(client) == b"banner"
            assert await receive(client) == b""
            await send(client, b"more")
            assert await channel.wait_written(4) == b"more"
            client.shutdown(socket.SHUT_WR)
            await within(channel.ended.wait())
        await within(channel.closed.wait())
        assert not channel.aborted
        await until(lambda: not h.relay.clients)


async def test_deferred_half_close_waits_until_the_far_side_has_finished() -> None:
    async with house() as h:
        link = FakeLink(HalfClose.DEFERRED)
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()
        await send(client, b"request")
        client.shutdown(socket.SHUT_WR)
        await channel.wait_written(7)
        channel.protocol.data_received(b"answer")
        assert await receive(client) == b"answer"
        assert not channel.ended.is_set()
        channel.protocol.eof_received()
        await within(channel.ended.wait())
        assert await receive(client) == b""


async def test_half_closed_client_of_whom_nothing_can_be_told_is_reset_after_a_long_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On another host, or not on Linux: it may be there and wait, and an end in order would pass for its answer."""
    monkeypatch.setattr(peer, "query", lambda *ends: None)
    monkeypatch.setattr(splice, "LONG_QUIET", 0.2)
    async with house() as h:
        link = FakeLink(HalfClose.DEFERRED)
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()
        await send(client, b"request")
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            await receive(client)
        assert channel.written == b"request"
        assert not channel.aborted


async def test_client_that_ended_its_side_and_gets_no_answer_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far, "UNANSWERED", 0.1)
    async with house() as h:
        link = FakeLink(HalfClose.DEFERRED)
        h.relay.attach(link)
        answered, leaves, waits = [await h.connect() for _ in range(3)]
        for client in (answered, leaves, waits):
            await send(client, b"request")
            client.shutdown(socket.SHUT_WR)
            channel = await link.channel()
            await channel.wait_written(7)
            if client is answered:
                channel.protocol.data_received(b"the first part")
                assert await receive(client) == b"the first part"
            elif client is leaves:
                client.close()
                await within(channel.closed.wait())
        await until(lambda: h.failures)
        await asyncio.sleep(0.2)
        assert [type(error) for error in h.failures] == [DeadlineError]
        assert (h.relay.refused, len(h.relay.clients)) == (0, 2)


async def test_client_that_ended_its_side_and_whose_answer_stands_still_is_told_of_once_and_gets_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be a slow answer: silence ends none, neither by an end of file nor by a reset."""
    monkeypatch.setattr(far, "UNANSWERED", 0.1)
    monkeypatch.setattr(far, "STANDSTILL", 0.2)
    async with house() as h:
        link = FakeLink(HalfClose.DEFERRED)
        h.relay.attach(link)
        client, slow = await h.connect(), await h.connect()
        for each in (client, slow):
            await send(each, b"request")
            each.shutdown(socket.SHUT_WR)
            channel = await link.channel()
            await channel.wait_written(7)
            if each is slow:  # it does not read: what it waits for is its own
                channel.protocol.data_received(bytes(40_000_000))
            else:
                answered = channel
                channel.protocol.data_received(b"the first part")
                assert await receive(each) == b"the first part"
        await until(lambda: h.failures)
        await asyncio.sleep(0.4)
        assert ["nothing more of its answer has come" in error.message for error in h.failures] == [True]
        assert not answered.ended.is_set()
        answered.protocol.data_received(b", and the rest")
        answered.protocol.connection_lost(None)
        assert await receive(client) == b", and the rest"
        assert await receive(client) == b""
        assert (h.relay.refused, len(h.relay.clients)) == (0, 1)


async def test_link_without_half_close_delivers_the_answer_to_a_client_that_half_closed() -> None:
    async with house() as h:
        link = FakeLink(HalfClose.NONE)
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()
        await send(client, b"request")
        client.shutdown(socket.SHUT_WR)
        await channel.wait_written(7)
        channel.protocol.data_received(b"answer")
        channel.protocol.connection_lost(None)
        assert await receive(client) == b"answer"
        assert await receive(client) == b""
        assert not channel.ended.is_set()


async def test_lost_link_resets_its_clients_and_parks_the_next() -> None:
    async with house() as h:
        link = FakeLink()
        h.relay.attach(link)
        carried = await h.connect()
        channel = await link.channel()
        channel.protocol.data_received(b"half an ans")
        assert await receive(carried) == b"half an ans"
        error = LostError("the bastion is gone")
        link.lose(error)
        h.relay.detach(error)
        await assert_reset(carried)
        waiting = await h.connect()
        await until(lambda: h.relay.parked_clients == 1)
        again = FakeLink()
        h.relay.attach(again)
        channel = await again.channel()
        channel.protocol.data_received(b"served")
        assert await receive(waiting) == b"served"


async def test_client_whose_channel_was_opening_when_the_link_went_is_parked_again() -> None:
    async with house() as h:
        link = FakeLink()
        link.gate.clear()
        h.relay.attach(link)
        client = await h.connect()
        await send(client, b"q")
        await until(lambda: link.opening == 1)
        error = LostError("gone")
        link.lose(error)
        link.gate.set()
        h.relay.detach(error)
        await until(lambda: h.relay.parked_clients == 1)
        again = FakeLink()
        h.relay.attach(again)
        channel = await again.channel()
        assert await channel.wait_written(1) == b"q"


async def test_broken_channel_resets_its_client_alone() -> None:
    async with house() as h:
        link = FakeLink()
        h.relay.attach(link)
        first, one = await h.connect(), await link.channel()
        second, two = await h.connect(), await link.channel()
        one.protocol.connection_lost(LostError("broken"))
        await assert_reset(first)
        two.protocol.data_received(b"fine")
        assert await receive(second) == b"fine"


async def test_refused_channel_resets_its_client_and_tells_why() -> None:
    async with house() as h:
        link = FakeLink()
        link.refusal = RefusedError("nobody listens", hop="far:1")
        h.relay.attach(link)
        await assert_reset(await h.connect())
        await until(lambda: h.failures)
        assert h.failures[0].code == "ECONNREFUSED"


async def test_client_whose_channel_is_lost_on_a_link_that_lives_is_told_and_not_kept_waiting() -> None:
    async with house() as h:
        link = FakeLink()
        link.refusal = LostError("no descriptor is left", hop="fake")
        h.relay.attach(link)
        start = asyncio.get_running_loop().time()
        await assert_reset(await h.connect())
        assert asyncio.get_running_loop().time() - start < 3  # it would have been held for 10
        assert [error.message for error in h.failures] == ["no descriptor is left"]
        assert h.relay.counters().refused == 1


async def test_slow_reader_pauses_the_far_side_and_memory_stays_bounded() -> None:
    async with house() as h:
        link = FakeLink()
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()
        sent = 0
        while channel.reading:
            assert sent < 64 * 1024 * 1024
            channel.protocol.data_received(bytes(65536))
            sent += 65536
            await asyncio.sleep(0)
        received = 0
        while received < sent:
            received += len(await receive(client))
        await until(lambda: channel.reading)


async def test_full_channel_pauses_the_client() -> None:
    async with house() as h:
        link = FakeLink()
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()
        channel.protocol.pause_writing()
        await asyncio.sleep(0.05)
        before = len(channel.written)
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.sock_sendall(client, bytes(64 * 1024 * 1024)), 0.3)
        assert len(channel.written) - before <= 256 * 1024
        channel.protocol.resume_writing()
        await channel.wait_written(before + 1024 * 1024)


async def test_close_resets_a_quiet_client_at_once() -> None:
    async with house() as h:
        link = FakeLink()
        h.relay.attach(link)
        client = await h.connect()
        await link.channel()
        await asyncio.sleep(0.3)
        start = asyncio.get_running_loop().time()
        await h.relay.close()
        assert asyncio.get_running_loop().time() - start < 0.25
        await assert_reset(client)


async def test_close_lets_a_client_with_bytes_in_flight_finish() -> None:
    async with house() as h:
        link = FakeLink()
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()

        async def stream() -> None:
            for _ in range(20):
                channel.protocol.data_received(b"row\n")
                await asyncio.sleep(0.03)
            channel.protocol.eof_received()
            channel.protocol.connection_lost(None)

        streaming = asyncio.create_task(stream())
        closing = asyncio.create_task(h.relay.close())
        got = b""
        while data := await receive(client):
            got += data
        assert got == b"row\n" * 20
        client.close()
        await within(closing)
        await streaming


async def test_close_ends_a_client_that_never_stops_within_its_grace() -> None:
    async with house() as h:
        link = FakeLink()
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()

        async def stream() -> None:
            while not channel.closed.is_set():
                channel.protocol.data_received(b"x" * 1000)
                await asyncio.sleep(0.01)

        streaming = asyncio.create_task(stream())
        await within(h.relay.close(grace=0.5), 1.5)
        await assert_reset(client)
        await within(streaming)


async def test_client_still_sending_when_the_far_side_closes_gets_the_whole_answer() -> None:
    async with house() as h:
        link = FakeLink()
        h.relay.attach(link)
        client = await h.connect()
        channel = await link.channel()
        channel.protocol.data_received(b"413 too large")
        channel.protocol.eof_received()
        channel.protocol.connection_lost(None)
        await send(client, bytes(1024 * 1024))
        assert await receive(client) == b"413 too large"
        assert await receive(client) == b""


async def test_refusing_relay_resets_waiting_and_new_clients() -> None:
    async with house() as h:
        waiting = await h.connect()
        await until(lambda: h.relay.parked_clients == 1)
        h.relay.refuse(LostError("a login needs a person"))
        await assert_reset(waiting)
        await assert_reset(await h.connect())
        h.relay.park()
        await h.connect()
        await until(lambda: h.relay.parked_clients == 1)


@pytest.mark.parametrize("half_close", HalfClose)
async def test_thousand_clients_one_after_the_other_leave_nothing(half_close: HalfClose) -> None:
    async with house() as h:
        link = FakeLink(half_close)
        h.relay.attach(link)
        for number in range(1000):
            client = await h.connect()
            channel = await link.channel()
            await send(client, b"ping")
            await channel.wait_written(4)
            channel.protocol.data_received(b"pong")
            assert await receive(client) == b"pong"
            if number % 3 == 0:
                client.close()
            elif number % 3 == 1:
                channel.protocol.eof_received()
                channel.protocol.connection_lost(None)
                client.close()
            else:
                client.shutdown(socket.SHUT_WR)
                client.close()
            if half_close is not HalfClose.NOW:
                channel.protocol.connection_lost(None)
            elif number % 3 != 1:
                await within(channel.ended.wait())
                channel.protocol.eof_received()
                channel.protocol.connection_lost(None)
            h.clients.clear()
        await until(lambda: not h.relay.clients)
        assert h.relay.counters().clients_total == 1000
