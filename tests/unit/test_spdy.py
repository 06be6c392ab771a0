"""The SPDY codec: every recorded stream both ways, the limits, and one line for all that is malformed."""

from __future__ import annotations

import doctest
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterable

import pytest

from tests.peers import wire
from tests.peers.wire import CLIENT, SERVER
from xec_forward import spdy
from xec_forward.spdy import (
    DICTIONARY,
    LARGEST_CONTROL,
    LARGEST_DATA,
    LARGEST_HEADERS,
    LARGEST_STREAM,
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    Ignored,
    Ping,
    RstStream,
    SpdyError,
    SynReply,
    SynStream,
)

DIRECTIONS = [CLIENT, SERVER]
ERROR_STREAM = {"streamtype": "error", "port": "7000", "requestid": "0"}
# It compresses as well as zlib does, to other bytes.
ZLIB_NG = "zlib-ng" in zlib.ZLIB_RUNTIME_VERSION

every_recording = pytest.mark.parametrize("name", wire.spdy_names())
both_directions = pytest.mark.parametrize("direction", DIRECTIONS, ids=["client", "server"])


def decoded(pieces: Iterable[bytes]) -> list[Frame]:
    """What a decoder makes of the pieces; nothing may be left over."""
    decoder = Decoder()
    frames = [frame for piece in pieces for frame in decoder.feed(piece)]
    assert decoder.pending == 0
    return frames


def joined(frames: list[Frame]) -> list[Frame]:
    """The frames with neighbouring DATA of one stream in one piece, for where its borders were means nothing."""
    result: list[Frame] = []
    for frame in frames:
        last = result[-1] if result else None
        if isinstance(frame, Data) and isinstance(last, Data) and frame.stream == last.stream and not last.fin:
            result[-1] = Data(frame.stream, last.data + frame.data, frame.fin)
        else:
            result.append(frame)
    return result


def control(kind: int, payload: bytes, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload


def compressed(plain: bytes) -> bytes:
    """The first header block of a connection, whatever it says."""
    compressor = zlib.compressobj(zdict=DICTIONARY)
    return compressor.compress(plain) + compressor.flush(zlib.Z_SYNC_FLUSH)


def plain_headers(*headers: tuple[bytes, bytes], count: int | None = None) -> bytes:
    parts = [struct.pack(">I", len(headers) if count is None else count)]
    parts += [struct.pack(">I", len(text)) + text for header in headers for text in header]
    return b"".join(parts)


def reply(plain: bytes) -> bytes:
    return control(2, struct.pack(">I", 1) + compressed(plain))


# What was recorded


@every_recording
@both_directions
def test_recorded_stream_decodes_to_its_frames_however_it_is_cut(name: str, direction: str) -> None:
    recording = wire.load(name)
    stream, frames = recording.stream(direction), recording.frames(direction)
    assert decoded([stream]) == frames
    one_by_one = decoded(stream[at : at + 1] for at in range(len(stream)))
    for came in (one_by_one, decoded(recording.pieces(direction))):
        assert joined(came) == joined(frames)
    chance = random.Random(f"{name} {direction}")
    for _ in range(10):
        cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.randrange(1, 40)))
        pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert joined(decoded(pieces)) == joined(frames)


def test_recordings_are_all_there() -> None:
    assert len(wire.spdy_names()) == 93
    assert sum(len(wire.load(name).decoded) for name in wire.spdy_names()) == 989


@pytest.mark.parametrize("name", [name for name in wire.spdy_names() if not name.startswith("kubectl")])
def test_frames_are_written_as_they_were_recorded(name: str) -> None:
    recording = wire.load(name)
    stream = recording.stream(CLIENT)
    encoder = Encoder()
    written = b""
    for frame, line in zip(recording.frames(CLIENT), recording.lines(CLIENT), strict=True):
        if isinstance(frame, Ignored):
            written += stream[len(written) :][: 8 + frame.payload_length]
            continue
        packet = encoder.encode(frame)
        if "block_hex" in line and ZLIB_NG:
            packet = stream[len(written) :][: 8 + line["length"]]
        written += packet
    assert written == stream


@every_recording
@both_directions
def test_recorded_frames_survive_our_own_encoder(name: str, direction: str) -> None:
    frames = [frame for frame in wire.load(name).frames(direction) if not isinstance(frame, Ignored)]
    encoder = Encoder()
    assert decoded([b"".join(encoder.encode(frame) for frame in frames)]) == frames


@pytest.mark.parametrize("name", wire.names("kubectl"))
def test_kubectl_opens_the_error_stream_first_and_half_closes_it(name: str) -> None:
    frames = decoded(wire.load(name).pieces(CLIENT))
    assert frames[:3] == [
        SynStream(1, ERROR_STREAM),
        Data(1, b"", fin=True),
        SynStream(3, ERROR_STREAM | {"streamtype": "data"}),
    ]


# What was not recorded


def test_examples_are_true() -> None:
    for module in (spdy.encoder, spdy.decoder):
        failed, attempted = doctest.testmod(module)
        assert attempted
        assert not failed


@pytest.mark.parametrize(
    ("frame", "packet"),
    [
        (Data(1, b""), "00000001 00000000"),
        (Data(LARGEST_STREAM, b"x", fin=True), "7fffffff 01000001 78"),
        (RstStream(3, spdy.STATUS_CANCEL), "80030003 00000008 00000003 00000005"),
        (Ping(0xFFFFFFFF), "80030006 00000004 ffffffff"),
        (GoAway(0), "80030007 00000008 00000000 00000000"),
        (GoAway(7, 2), "80030007 00000008 00000007 00000002"),
    ],
    ids=repr,
)
def test_frames_without_headers_are_the_bytes_of_the_draft(frame: Frame, packet: str) -> None:
    assert Encoder().encode(frame) == bytes.fromhex(packet)
    assert Decoder().feed(bytes.fromhex(packet)) == [frame]


@pytest.mark.parametrize("kind", [4, 5, 9, 10, 11, 0, 0xFFFF])
@pytest.mark.parametrize("payload", [b"", b"\0", bytes(40)])
def test_control_frames_that_mean_nothing_here_are_told_and_passed_over(kind: int, payload: bytes) -> None:
    packet = control(kind, payload, flags=1) + Encoder().encode(Ping(1))
    expected = [Ignored(kind, 1, len(payload)), Ping(1)]
    assert decoded([packet]) == expected
    assert decoded(packet[at : at + 1] for at in range(len(packet))) == expected


def test_headers_frame_is_passed_over_and_the_next_block_still_makes_sense() -> None:
    encoder = Encoder()
    headers_frame = bytearray(encoder.encode(SynReply(1, {"content-type": "text/plain"})))
    headers_frame[3] = 8  # of the same form as a SYN_REPLY
    ours = SynReply(3, {"content-type": "text/plain", "again": "text/plain"})
    assert decoded([bytes(headers_frame) + encoder.encode(ours)]) == [Ignored(8, 0, len(headers_frame) - 8), ours]


def test_reserved_bits_and_unknown_flags_are_ignored() -> None:
    assert Decoder().feed(control(3, struct.pack(">II", 0x80000003, 5), flags=0x80)) == [RstStream(3, 5)]
    assert Decoder().feed(control(7, struct.pack(">II", 0x80000003, 0))) == [GoAway(3)]
    assert Decoder().feed(struct.pack(">II", 3, 0xFE000000)) == [Data(3, b"")]
    unidirectional = struct.pack(">IIBB", 1, 0, 0, 0) + compressed(plain_headers())
    assert Decoder().feed(control(1, unidirectional, flags=2)) == [SynStream(1, {})]
    fields = struct.pack(">IIBB", 0x80000001, 0x80000005, 0xE0, 7)
    assert Decoder().feed(control(1, fields + compressed(plain_headers()), flags=3)) == [SynStream(1, {}, fin=True)]


def test_header_text_is_kept_byte_for_byte() -> None:
    headers = {"empty": "", "several": "one\0two", "bytes": bytes(range(256)).decode("latin-1")}
    assert decoded([Encoder().encode(SynStream(1, headers))]) == [SynStream(1, headers)]


def test_data_is_given_out_as_it_comes_with_fin_on_the_last_piece() -> None:
    decoder = Decoder()
    packet = Encoder().encode(Data(3, b"abcdef", fin=True))
    assert decoder.feed(packet[:8]) == []
    assert decoder.feed(packet[8:10]) == [Data(3, b"ab")]
    assert decoder.feed(b"") == []
    assert decoder.feed(packet[10:] + packet[:9]) == [Data(3, b"cdef", fin=True), Data(3, b"a")]


def test_a_piece_that_is_all_payload_is_not_copied() -> None:
    decoder = Decoder()
    decoder.feed(struct.pack(">II", 3, LARGEST_DATA))
    piece = bytes(16384)
    (frame,) = decoder.feed(piece)
    assert isinstance(frame, Data)
    assert frame.data is piece


def test_the_largest_data_frame_passes_without_being_kept() -> None:
    decoder = Decoder()
    piece = bytes(16384)
    tracemalloc.start()
    try:
        decoder.feed(struct.pack(">II", 3, 1 << 24 | LARGEST_DATA))
        left = LARGEST_DATA
        while left:
            (frame,) = decoder.feed(piece[:left])
            assert isinstance(frame, Data)
            left -= len(frame.data)
            assert frame.fin is (left == 0)
            assert decoder.pending == 0
        assert tracemalloc.get_traced_memory()[1] < 4 * len(piece)
    finally:
        tracemalloc.stop()
    assert decoder.feed(Encoder().encode(Ping(1))) == [Ping(1)]


# Limits


@pytest.mark.parametrize("byte", [lambda chance: 0x61, lambda chance: chance.randrange(256)], ids=["a", "random"])
def test_headers_up_to_the_limit_pass_and_one_byte_more_does_not(byte: Callable[[random.Random], int]) -> None:
    chance = random.Random(1)
    size = LARGEST_HEADERS - len(plain_headers((b"n", b"")))
    value = bytes(byte(chance) for _ in range(size + 1)).decode("latin-1")
    largest = SynStream(1, {"n": value[:size]})
    packet = Encoder().encode(largest)
    assert len(packet) < LARGEST_CONTROL
    assert decoded([packet]) == [largest]
    with pytest.raises(SpdyError, match="more than 65536"):
        Encoder().encode(SynStream(1, {"n": value}))
    with pytest.raises(SpdyError, match="more than 65536"):
        Decoder().feed(reply(plain_headers((b"n", value.encode("latin-1")))))


def test_zlib_bomb_is_refused_before_it_takes_memory() -> None:
    compressor = zlib.compressobj(9, zdict=DICTIONARY)
    parts = [compressor.compress(plain_headers((b"n", b""))[:-4] + struct.pack(">I", 100_000_000))]
    parts += [compressor.compress(bytes(1_000_000)) for _ in range(100)]
    block = b"".join([*parts, compressor.flush(zlib.Z_SYNC_FLUSH)])
    assert len(block) < LARGEST_CONTROL
    bomb = control(2, struct.pack(">I", 1) + block)
    decoder = Decoder()
    tracemalloc.start()
    try:
        with pytest.raises(SpdyError, match="a header block of more than 65536 bytes"):
            decoder.feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_control_frame_over_the_limit_is_refused_at_its_head() -> None:
    assert decoded([control(4, bytes(LARGEST_CONTROL))]) == [Ignored(4, 0, LARGEST_CONTROL)]
    for kind in (1, 2, 4, 8, 99):
        with pytest.raises(SpdyError, match=f"a control frame of {LARGEST_CONTROL + 1} bytes, more than"):
            Decoder().feed(control(kind, bytes(LARGEST_CONTROL + 1))[:8])


# What is malformed


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (control(6, struct.pack(">I", 1), version=2), "a control frame of version 2, not 3"),
        (control(6, struct.pack(">I", 1), version=0x7FFF), "a control frame of version 32767, not 3"),
        (control(1, b""), "a control frame of 0 bytes where 10 are due"),
        (control(1, bytes(9)), "a control frame of 9 bytes where 10 are due"),
        (control(2, b""), "a control frame of 0 bytes where 4 are due"),
        (control(3, bytes(7)), "a control frame of 7 bytes where 8 are due"),
        (control(3, bytes(9)), "a control frame of 9 bytes where 8 are due"),
        (control(6, b""), "a control frame of 0 bytes where 4 are due"),
        (control(6, bytes(5)), "a control frame of 5 bytes where 4 are due"),
        (control(7, bytes(4)), "a control frame of 4 bytes where 8 are due"),
        (control(7, bytes(12)), "a control frame of 12 bytes where 8 are due"),
        (control(8, bytes(3)), "a control frame of 3 bytes where 4 are due"),
        (bytes(8), "a frame of stream 0"),
        (control(1, bytes(10) + compressed(plain_headers())), "a frame of stream 0"),
        (control(2, struct.pack(">I", 0x80000000) + compressed(plain_headers())), "a frame of stream 0"),
        (control(3, struct.pack(">II", 0, 5)), "a frame of stream 0"),
        (control(8, bytes(4) + compressed(plain_headers())), "a frame of stream 0"),
        (control(3, struct.pack(">II", 3, 0)), "a reset with status 0"),
        (control(6, bytes(4)), "a ping with number 0"),
        (control(2, struct.pack(">I", 1)), "a header block ends before its headers do"),
        (control(2, struct.pack(">I", 1) + b"not zlib"), "a header block that does not inflate"),
        (control(2, struct.pack(">I", 1) + zlib.compress(plain_headers())), "the stream of header blocks was ended"),
        (
            control(2, struct.pack(">I", 1) + zlib.compressobj(zdict=b"another").flush(zlib.Z_SYNC_FLUSH)),
            "a header block that does not inflate",
        ),
        (
            control(2, struct.pack(">I", 1) + compressed(plain_headers((b"name", b"value")))[:-8]),
            "a header block ends before its headers do",
        ),
        (reply(b""), "a header block ends before its headers do"),
        (reply(plain_headers()[:3]), "a header block ends before its headers do"),
        (reply(plain_headers((b"name", b"value"))[:-1]), "a header block ends before its headers do"),
        (reply(plain_headers((b"name", b"value"), count=2)), "a header block ends before its headers do"),
        (reply(plain_headers((b"name", b"value"), count=0xFFFFFFFF)), "a header block ends before its headers do"),
        (reply(struct.pack(">II", 1, 0xFFFFFFFF) + b"name"), "a header block ends before its headers do"),
        (reply(plain_headers((b"name", b"value"), count=0)), "a header block goes on after its headers"),
        (reply(plain_headers((b"name", b"value")) + b"\0"), "a header block goes on after its headers"),
        (reply(plain_headers((b"name", b"1"), (b"name", b"2"))), "the header 'name' occurs twice"),
        (reply(plain_headers((b"Name", b"value"))), "the header 'Name' is not in lower case"),
        (reply(plain_headers((b"X\n" * 9000, b"value"))), "the header '" + "X\\n" * 20 + "' is not in lower case"),
        (reply(plain_headers((b"", b"value"))), "a header without a name"),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else value[:12].hex(),
)
def test_malformed_is_refused_in_one_line_and_for_good(packet: bytes, message: str) -> None:
    for pieces in ([packet], [packet[at : at + 1] for at in range(len(packet))]):
        decoder = Decoder()
        with pytest.raises(SpdyError) as caught:
            for piece in pieces:
                decoder.feed(piece)
        assert str(caught.value) == message
        assert decoder.pending == 0
        for later in (b"", Encoder().encode(Ping(1))):
            with pytest.raises(SpdyError, match="the stream was malformed before"):
                decoder.feed(later)


@pytest.mark.parametrize(
    "frame",
    [
        Data(0, b""),
        Data(LARGEST_STREAM + 1, b""),
        Data(-1, b""),
        Data(1, bytes(LARGEST_DATA + 1)),
        SynStream(0, {}),
        SynReply(0),
        SynStream(1, {"Port": "1"}),
        SynStream(1, {"": "1"}),
        SynStream(1, {"port": "\u0100"}),
        RstStream(0, 5),
        RstStream(1, 0),
        RstStream(1, 1 << 32),
        Ping(0),
        Ping(1 << 32),
        GoAway(-1),
        GoAway(0, -1),
        Ignored(4, 0, 12),
    ],
    ids=lambda frame: repr(frame)[:40],
)
def test_frame_that_cannot_be_written_leaves_the_encoder_as_it_was(frame: Frame) -> None:
    encoder, untouched = Encoder(), Encoder()
    with pytest.raises(SpdyError) as caught:
        encoder.encode(frame)
    assert "\n" not in str(caught.value)
    assert encoder.encode(SynStream(1, ERROR_STREAM)) == untouched.encode(SynStream(1, ERROR_STREAM))
