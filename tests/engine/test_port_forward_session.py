"""A SPDY/3.1 session against what a real API server was recorded to say, and what it sends itself."""

from __future__ import annotations

import asyncio

import pytest

from tests.peers.channels import Recorder
from tests.peers.links import eventually
from tests.peers.pipe import Wire, begin, chunks, received, turn
from tests.peers.wire import SERVER, load, names
from xec_forward.engine.links.kubernetes import session as session_module
from xec_forward.engine.links.kubernetes import stream
from xec_forward.engine.links.kubernetes.session import Session
from xec_forward.errors import DeadlineError, ForwardError, LostError, PodGoneError, RefusedError
from xec_forward.spdy import Data, Ping, RstStream, SynReply, SynStream

SPDY = ["spdy-raw", "spdy-ws-16443", "spdy-ws-16444"]


# ---- what the recorded server says ----


@pytest.mark.parametrize("folder", SPDY)
@pytest.mark.parametrize(
    "name",
    [
        "01-echo-client-closes",
        "03-data-with-syn",
        "03b-data-and-fin-with-syn",
        "05-server-banner-close",
        "05a-server-banner-close-client-fins",
        "05b-server-half-close",
        "07-client-half-close",
        "08-download-40k",
        "08b-upload-40k",
    ],
)
async def test_recorded_end_in_order_is_told_as_one(folder: str, name: str) -> None:
    recording = load(f"{folder}/{name}")
    session, wire, owner = begin(folder)
    client = Recorder()
    session.open_channel(7000, client)
    for data, pieces in chunks(recording):
        wire.send(data, pieces)
    assert await client.lost() is None
    assert client.data == received(recording, 3)
    assert client.events in (["data", "lost"], ["lost"]), "the pod never half-closes"
    await owner.until_free()
    await eventually(lambda: bool(wire.sent(Data)))
    assert wire.sent(Data) == [Data(3, b"", fin=True)], "the far side is not left half open"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        (f"{folder}/{name}", kind, words)
        for folder in SPDY
        for name, kind, words in (
            ("04-refused", RefusedError, "nothing listens on port 9"),
            ("04b-refused-no-data", RefusedError, "nothing listens on port 9"),
            ("06-pod-resets", LostError, "reset"),
            ("13a-no-port", LostError, "reset the connection"),
            ("13b-bad-port", LostError, "reset the connection"),
            ("13d-bad-type", LostError, "reset the connection"),
        )
        if f"{folder}/{name}" in names(folder)
    ],
)
async def test_recorded_failure_is_told_and_the_upgrade_serves_on(
    name: str, kind: type[ForwardError], words: str
) -> None:
    recording = load(name)
    session, wire, owner = begin(name)
    client, second = Recorder(), Recorder()
    session.open_channel(9, client)
    opened = False
    for data, pieces in chunks(recording):
        if client.events[-1:] == ["lost"] and not opened and received(recording, 7):
            await owner.until_free()
            session.open_channel(7000, second)
            opened = True
        wire.send(data, pieces)
    error = await client.lost()
    assert type(error) is kind
    assert words in str(error)
    assert not client.data
    assert second.data == received(recording, 7)  # of a good pair, with which some recordings go on
    assert opened == bool(second.data)


@pytest.mark.parametrize("folder", SPDY)
async def test_connection_to_a_deleted_pod_says_that_it_has_gone(folder: str) -> None:
    session, wire, owner = begin(folder)
    client, second = Recorder(), Recorder()
    session.open_channel(7000, client)
    opened = False
    for data, pieces in chunks(load(f"{folder}/10-pod-deleted")):
        if client.events[-1:] == ["lost"] and not opened:
            await owner.until_free()
            session.open_channel(7000, second)
            opened = True
        wire.send(data, pieces)
    assert await client.lost() is None, "without a warning the deletion looks like any end"
    assert type(await second.lost()) is PodGoneError
    assert [type(error) for error in owner.pod_gone] == [PodGoneError]


@pytest.mark.parametrize("folder", SPDY)
async def test_end_of_a_doomed_pod_is_never_clean(folder: str) -> None:
    recording = load(f"{folder}/01-echo-client-closes")
    session, wire, owner = begin(folder)
    owner.doomed = PodGoneError("the pod is going")
    client = Recorder()
    session.open_channel(7000, client)
    for data, pieces in chunks(recording):
        wire.send(data, pieces)
    assert await client.lost() is owner.doomed
    async with asyncio.timeout(5):
        while not wire.closed:  # and its upgrade is not used again
            await asyncio.sleep(0.001)
    assert not owner.freed.is_set()


async def test_node_that_timed_out_says_so_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TEXT_DEADLINE", 0.05)
    session, wire, _ = begin("spdy-raw")
    client = Recorder()
    session.open_channel(7000, client)
    for data, pieces in chunks(load("spdy-raw/14-lone-error-stream")):
        wire.send(data, pieces)
    assert type(await client.lost()) is DeadlineError


@pytest.mark.parametrize("folder", SPDY)
async def test_cut_anywhere_is_never_a_clean_end(folder: str) -> None:
    recording = load(f"{folder}/08-download-40k")
    whole = recording.stream(SERVER)
    # The last frame is the error stream's FIN: 8 bytes.
    cuts = [*range(0, 120, 7), *range(120, len(whole) - 40, 997), *range(len(whole) - 40, len(whole))]
    for cut in cuts:
        session, wire, owner = begin(folder)
        client = Recorder()
        session.open_channel(7001, client)
        wire.send(whole[:cut])
        wire.end()
        error = await client.lost()
        assert isinstance(error, LostError), f"cut at {cut} of {len(whole)}"
        assert len(owner.ended) == 1
        assert received(recording, 3).startswith(client.data)


async def test_end_without_the_other_streams_end_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "END_DEADLINE", 0.05)
    for number in (1, 3):
        session, wire, _ = begin("spdy-raw")
        client = Recorder()
        session.open_channel(7000, client)
        wire.send_frames(SynReply(1), SynReply(3), Data(3, b"some"), Data(number, b"", fin=True))
        assert isinstance(await client.lost(), LostError)
        assert client.data == b"some"


async def test_bytes_that_are_not_spdy_break_the_connection() -> None:
    session, wire, owner = begin("spdy-raw")
    client = Recorder()
    session.open_channel(7000, client)
    wire.send(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    assert isinstance(await client.lost(), LostError)
    assert wire.aborted
    assert owner.ended


# ---- what is sent ----


@pytest.mark.parametrize("folder", ["spdy-raw", "spdy-ws-16443"])
async def test_streams_and_first_data_go_in_one_write(folder: str) -> None:
    session, wire, _ = begin(folder)
    channel = session.open_channel(7000, Recorder())
    assert not wire.writes
    channel.write(b"hello")
    assert len(wire.writes) == 1
    error, data, first = wire.frames
    assert error == SynStream(1, {"streamtype": "error", "port": "7000", "requestid": "0"}, fin=True)
    assert data == SynStream(3, {"streamtype": "data", "port": "7000", "requestid": "0"})
    assert first == Data(3, b"hello")


async def test_connection_is_made_without_data_too() -> None:
    session, wire, _ = begin("spdy-raw")
    session.open_channel(7000, Recorder())
    await turn()
    assert [type(frame) for frame in wire.frames] == [SynStream, SynStream]


async def test_end_goes_behind_all_that_was_written() -> None:
    session, wire, _ = begin("spdy-ws-16443")
    channel = session.open_channel(7002, Recorder())
    upload = bytes(range(256)) * 1000
    channel.write(upload)
    channel.write(b"last")
    channel.write_eof()
    channel.write(b"too late")
    channel.write_eof()
    await turn()
    sent = [frame for frame in wire.frames if isinstance(frame, Data)]
    assert b"".join(frame.data for frame in sent) == upload + b"last"
    assert [frame.fin for frame in sent] == [False] * (len(sent) - 1) + [True]
    assert max(len(frame.data) for frame in sent) <= 64 * 1024
    assert not wire.sent(RstStream)


async def test_next_connection_waits_until_the_last_one_was_taken() -> None:
    session, wire, owner = begin("spdy-raw")
    wire.answers_pings = False
    first, second = Recorder(), Recorder()
    channel = session.open_channel(7000, first)
    channel.write(b"tail of an upload")
    channel.close()
    await turn()
    pings = wire.sent(Ping)
    assert wire.frames.index(Data(3, b"", fin=True)) < wire.frames.index(pings[0]), "they are behind its end"
    assert len(pings) == 5, "one for each worker of spdystream"
    wire.send_frames(*pings[:4])
    await turn()
    assert not owner.freed.is_set()
    wire.send_frames(pings[4])
    await owner.until_free()
    # The first one's last second has not passed: what it still says is nobody's.
    session.open_channel(7000, second).write(b"hello")
    wire.send_frames(Data(3, b"late"), SynReply(5), SynReply(7), Data(7, b"HELLO"))
    assert second.data == b"HELLO"
    assert first.data == b""
    wire.send_frames(Data(3, b"", fin=True), Data(1, b"", fin=True))
    assert await first.lost() is None
    assert second.events == ["data"]


async def short_exchange(session: Session, wire: Wire, number: int) -> None:
    """A connection that has come to its end but for its FIN."""
    client = Recorder()
    channel = session.open_channel(7000, client)
    channel.write(b"hello")
    wire.send_frames(SynReply(number), SynReply(number + 2), Data(number + 2, b"HELLO"))
    assert client.data == b"HELLO"
    await turn()
    channel.close()


@pytest.mark.parametrize("folder", SPDY)
async def test_end_of_a_short_exchange_goes_out_with_the_beginning_of_the_next(folder: str) -> None:
    session, wire, owner = begin(folder)
    await short_exchange(session, wire, 1)
    await owner.until_free()
    assert len(wire.writes) == 1
    await short_exchange(session, wire, 5)
    assert len(wire.writes) == 2
    kinds = [(type(frame), frame.stream) for frame in wire.frames[3:] if not isinstance(frame, Ping)]
    assert kinds == [(Data, 3), (SynStream, 5), (SynStream, 7), (Data, 7)]
    assert wire.frames[3] == Data(3, b"", fin=True)


@pytest.mark.parametrize("folder", SPDY)
async def test_end_of_a_short_exchange_that_nothing_follows_goes_out_by_itself(folder: str) -> None:
    session, wire, owner = begin(folder)
    await short_exchange(session, wire, 1)
    await owner.until_free()
    await eventually(lambda: wire.frames[3:] == [Data(3, b"", fin=True)], 1)


async def test_end_of_a_short_exchange_is_not_lost_with_its_session() -> None:
    session, wire, owner = begin("spdy-ws-16443")
    await short_exchange(session, wire, 1)
    await owner.until_free()
    session.retire()
    await eventually(lambda: wire.frames[3:] == [Data(3, b"", fin=True)], 1)


@pytest.mark.parametrize("leaves_first", [False, True])
async def test_upgrade_whose_node_stays_with_what_nobody_reads_is_given_up(
    monkeypatch: pytest.MonkeyPatch, leaves_first: bool
) -> None:
    """Seen of containerd 1.6: the worker that has data for a refused connection answers no PING any more."""
    monkeypatch.setattr(session_module, "UNTAKEN", 0.1)
    session, wire, owner = begin("spdy-raw")
    wire.answers_pings = False
    client = Recorder()
    channel = session.open_channel(9, client)
    channel.write(b"x")
    if leaves_first:
        channel.close()
    await turn()
    text = b"error forwarding port 9 to pod 2143, uid : dial tcp4 127.0.0.1:9: connect: connection refused"
    wire.send_frames(SynReply(3), SynReply(1), Data(3, b"", fin=True), Data(1, text), Data(1, b"", fin=True))
    assert isinstance(await client.lost(), RefusedError)
    await turn()
    wire.send_frames(*wire.sent(Ping)[:4])
    await eventually(lambda: wire.closed, 2)
    assert not owner.freed.is_set()
    assert owner.ended == [None]


async def test_flood_for_a_client_that_has_left_is_stopped() -> None:
    session, wire, owner = begin("spdy-raw")
    client = Recorder()
    channel = session.open_channel(7001, client)
    channel.write(b"1000000000\n")
    channel.close()
    await owner.until_free()
    for _ in range(10):
        wire.send_frames(Data(3, b"x" * 32768))
    await turn()
    assert len(wire.sent(RstStream)) == 1
    assert not wire.closed
    await client.lost()


async def test_abort_takes_the_upgrade_along() -> None:
    session, wire, owner = begin("spdy-raw")
    client = Recorder()
    channel = session.open_channel(7000, client)
    channel.write(b"query")
    channel.abort()
    assert wire.aborted
    await client.lost()
    channel.write(b"more")
    channel.close()
    channel.abort()
    assert client.events == ["lost"]
    assert owner.ended == [None]


async def test_abort_leaves_others_their_last_second() -> None:
    session, wire, owner = begin("spdy-raw")
    first, second = Recorder(), Recorder()
    session.open_channel(7000, first).close()
    await owner.until_free()
    channel = session.open_channel(7000, second)
    channel.pause_reading()
    channel.abort()
    await second.lost()
    assert not wire.closed
    assert wire.reading
    assert wire.sent(RstStream) == [RstStream(7, 5)] or not wire.sent(RstStream)
    await turn()
    assert wire.sent(RstStream) == [RstStream(7, 5)]
    wire.send_frames(SynReply(1), SynReply(3), Data(3, b"", fin=True), Data(1, b"", fin=True))
    assert await first.lost() is None
    assert wire.closed
    assert not wire.aborted


async def test_back_pressure_reaches_the_socket() -> None:
    session, wire, owner = begin("spdy-ws-16443")
    client = Recorder()
    channel = session.open_channel(7000, client)
    channel.pause_reading()
    assert not wire.reading
    channel.resume_reading()
    assert wire.reading
    wire.upgrade.pause_writing()
    assert not client.writable.is_set()
    wire.upgrade.resume_writing()
    assert client.writable.is_set()
    channel.pause_reading()
    channel.close()
    assert wire.reading, "its end and the PINGs have to come"
    await owner.until_free()


async def test_ping_of_the_server_is_echoed_at_once_and_an_answer_to_ours_is_not() -> None:
    _, wire, _ = begin("spdy-raw")
    wire.answers_pings = False
    wire.send_frames(Ping(2), Ping(7), Ping(4))
    await turn()
    assert wire.sent(Ping) == [Ping(2), Ping(4)]


async def test_ids_do_not_run_out_unnoticed() -> None:
    session, wire, _ = begin("spdy-raw")
    session._next_stream = 0x7FFFFFFF - 2
    client = Recorder()
    session.open_channel(7000, client).close()
    await turn()
    last = session._next_stream - 4
    wire.send_frames(Data(last + 2, b"", fin=True), Data(last, b"", fin=True))
    assert await client.lost() is None
    await eventually(lambda: wire.closed)
