"""The multiplexing protocol's codec: what OpenSSH writes, what comes back, and that garbage does no harm."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xec_forward.engine.links.ssh import mux

NUMBER = st.integers(0, 0xFFFFFFFF)
NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)
PORT = st.integers(0, 65535) | st.just(mux.STREAM_LOCAL)
FORWARDING = st.builds(mux.Forwarding, st.integers(1, 3), NAME, PORT, NAME, PORT)
MESSAGE = st.one_of(
    st.builds(mux.Hello, NUMBER),
    *(
        st.builds(kind, NUMBER)
        for kind in (mux.NewSession, mux.AliveCheck, mux.Terminate, mux.StopListening, mux.Ok, mux.TtyAllocationFailed)
    ),
    st.builds(mux.OpenForward, NUMBER, FORWARDING),
    st.builds(mux.CloseForward, NUMBER, FORWARDING),
    st.builds(mux.NewStdioForward, NUMBER, NAME, PORT),
    st.builds(mux.PermissionDenied, NUMBER, NAME),
    st.builds(mux.Failure, NUMBER, NAME),
    *(st.builds(kind, NUMBER, NUMBER) for kind in (mux.ExitMessage, mux.Alive, mux.SessionOpened, mux.RemotePort)),
)


def in_parts(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(at)]


def test_hello_is_version_4_as_openssh_writes_it() -> None:
    assert mux.encode(mux.Hello()) == bytes.fromhex("00000008 00000001 00000004")


def test_stdio_forward_is_written_as_openssh_writes_it() -> None:
    # captured from `ssh -S PATH -W pg.vpc:5432` (OpenSSH 9.2)
    assert mux.encode(mux.NewStdioForward(1, "pg.vpc", 5432)) == bytes.fromhex(
        "0000001a 10000008 00000001 00000000 00000006 70672e767063 00001538"
    )


def test_hello_with_extensions_of_a_newer_openssh_is_a_hello() -> None:
    body = struct.pack(">II", 1, 4) + struct.pack(">I4sI1s", 4, b"info", 1, b"0")
    assert mux.Decoder().feed(struct.pack(">I", len(body)) + body) == [mux.Hello(4)]


def test_unknown_packet_is_told_with_its_request() -> None:
    assert mux.decode(struct.pack(">II", 0x1000000F, 7)) == mux.Unknown(0x1000000F, 7)


@given(st.lists(MESSAGE, max_size=8), st.lists(st.integers(0, 1 << 16), max_size=20))
def test_messages_survive_the_way_however_they_are_split(messages: list[mux.Message], cuts: list[int]) -> None:
    decoder = mux.Decoder()
    came = [message for part in in_parts(b"".join(map(mux.encode, messages)), cuts) for message in decoder.feed(part)]
    assert came == messages
    assert decoder.pending == 0


@given(st.lists(MESSAGE, max_size=8), st.lists(st.integers(0, 1 << 16), max_size=20))
def test_master_gives_a_request_out_when_its_descriptors_have_come(
    messages: list[mux.Message], cuts: list[int]
) -> None:
    decoder = mux.Decoder(master=True)
    stream = b"".join(mux.encode(message) + bytes(getattr(message, "descriptors", 0)) for message in messages)
    assert [message for part in in_parts(stream, cuts) for message in decoder.feed(part)] == messages


def test_request_waits_for_the_last_of_its_descriptors() -> None:
    decoder = mux.Decoder(master=True)
    request = mux.NewStdioForward(1, "far", 1)
    assert decoder.feed(mux.encode(request)) == []
    assert decoder.feed(b"\0") == []
    assert decoder.feed(b"\0" + mux.encode(mux.AliveCheck(2))) == [request, mux.AliveCheck(2)]


@given(st.lists(st.binary(max_size=3000), max_size=10), st.booleans())
def test_garbage_is_refused_for_good_and_never_kept(chunks: list[bytes], master: bool) -> None:
    decoder = mux.Decoder(master=master)
    failed = False
    for chunk in chunks:
        try:
            decoder.feed(chunk)
        except mux.MuxError:
            failed = True
            assert decoder.pending == 0
        else:
            assert not failed
        assert decoder.pending <= mux.LARGEST_PACKET + 4


@given(MESSAGE, st.data())
def test_packet_with_changed_bytes_is_a_message_or_a_mux_error(message: mux.Message, data: st.DataObject) -> None:
    packet = bytearray(mux.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    try:
        mux.Decoder(master=True).feed(bytes(packet))
    except mux.MuxError:
        pass


@given(st.binary(max_size=300))
def test_any_body_is_a_message_or_a_mux_error(body: bytes) -> None:
    try:
        message = mux.decode(body)
    except mux.MuxError:
        return
    if not isinstance(message, mux.Unknown | mux.NewSession | mux.PermissionDenied | mux.Failure):
        assert mux.decode(mux.encode(message)[4:]) == message


@pytest.mark.parametrize("length", [0, 3, mux.LARGEST_PACKET + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_packet_of_impossible_length_is_refused_at_its_header(length: int) -> None:
    with pytest.raises(mux.MuxError):
        mux.Decoder().feed(struct.pack(">I", length))


def test_longest_packet_is_taken_in_small_parts_and_no_more_is_kept() -> None:
    decoder = mux.Decoder()
    packet = mux.encode(mux.Failure(1, "x" * (mux.LARGEST_PACKET - 12)))
    for start in range(0, len(packet) - 1000, 1000):
        assert decoder.feed(packet[start : start + 1000]) == []
        assert decoder.pending <= mux.LARGEST_PACKET + 4
    (message,) = decoder.feed(packet[start + 1000 :])
    assert isinstance(message, mux.Failure)
    with pytest.raises(mux.MuxError):
        mux.encode(mux.Failure(1, "x" * mux.LARGEST_PACKET))


@pytest.mark.parametrize("port", [65536, 0xFFFFFFFD, 0xFFFFFFFF])
def test_port_that_is_none_is_refused(port: int) -> None:
    body = struct.pack(">IIII3sI", mux.Type.NEW_STDIO_FORWARD, 1, 0, 3, b"far", port)
    with pytest.raises(mux.MuxError):
        mux.decode(body)


def test_zero_byte_in_a_name_is_refused_both_ways() -> None:
    with pytest.raises(mux.MuxError):
        mux.encode(mux.NewStdioForward(1, "far\0.example", 1))
    with pytest.raises(mux.MuxError):
        mux.decode(struct.pack(">IIII3sI", mux.Type.NEW_STDIO_FORWARD, 1, 0, 3, b"f\0r", 1))


def test_path_that_is_not_utf_8_survives() -> None:
    path = b"/run/\xff\xfe.sock".decode("utf-8", "surrogateescape")
    request = mux.NewStdioForward(1, path, mux.STREAM_LOCAL)
    assert mux.decode(mux.encode(request)[4:]) == request
