"""The SPDY codec against whatever comes: frames at any cut, garbage, and recorded streams with damage."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.peers import wire
from xec_forward.spdy import (
    DICTIONARY,
    LARGEST_CONTROL,
    LARGEST_STREAM,
    Data,
    Decoder,
    Encoder,
    Frame,
    GoAway,
    Ping,
    RstStream,
    SpdyError,
    SynReply,
    SynStream,
)

HEAD = 8
STREAM = st.integers(1, LARGEST_STREAM)
NUMBER = st.integers(1, 0xFFFFFFFF)
LATIN = st.text(st.characters(max_codepoint=0xFF), max_size=100)
NAME = LATIN.filter(bool).map(lambda text: text.encode("latin-1").lower().decode("latin-1"))
HEADERS = st.dictionaries(NAME | st.sampled_from(["streamtype", "port", "requestid"]), LATIN, max_size=8)
FRAME: st.SearchStrategy[Frame] = st.one_of(
    st.builds(SynStream, STREAM, HEADERS, st.booleans()),
    st.builds(SynReply, STREAM, HEADERS, st.booleans()),
    st.builds(Data, STREAM, st.binary(max_size=3000), st.booleans()),
    st.builds(RstStream, STREAM, NUMBER),
    st.builds(Ping, NUMBER),
    st.builds(GoAway, st.just(0) | STREAM, st.just(0) | NUMBER),
)
CUTS = st.lists(st.integers(0, 1 << 20), max_size=30)
RECORDED = [wire.load(name).stream(direction) for name in wire.spdy_names() for direction in (wire.CLIENT, wire.SERVER)]

# What a hostile peer would send: a frame that nearly holds together, its headers anything.
PLAIN = st.one_of(
    st.binary(max_size=100),
    st.builds(
        lambda count, texts: struct.pack(">I", count) + b"".join(struct.pack(">I", len(t)) + t for t in texts),
        st.integers(0, 4),
        st.lists(st.sampled_from([b"", b"a", b"port", b"Port", b"7000"]) | st.binary(max_size=20), max_size=9),
    ),
)


@st.composite
def nearly_frames(draw: st.DrawFn) -> bytes:
    compressor = zlib.compressobj(zdict=DICTIONARY)
    packets: list[bytes] = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.integers(0, 11))
        payload = draw(st.binary(max_size=12))
        if kind in (1, 2, 8):
            fields = draw(st.binary(min_size=10, max_size=10))[: 10 if kind == 1 else 4]
            payload = fields + compressor.compress(draw(PLAIN)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        length = draw(st.just(len(payload)) | st.integers(0, 0xFFFFFF))
        first = 0x80030000 | kind if kind else draw(st.integers(0, 0xFFFFFFFF))
        packets.append(struct.pack(">II", first, draw(st.integers(0, 3)) << 24 | length) + payload)
    return b"".join(packets)


@st.composite
def damaged_recordings(draw: st.DrawFn) -> bytes:
    stream = bytearray(draw(st.sampled_from(RECORDED)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(stream)))
        end = min(len(stream), at + draw(st.integers(0, 40)))
        # Damage where frames begin does most harm, and the first bytes are all heads.
        at, end = draw(st.sampled_from([(at, end), (min(at, 100), min(end, 100))]))
        piece = bytes(stream[at:end])
        stream[at:end] = draw(
            st.sampled_from([b"", piece * 2, bytes(len(piece)), bytes(byte ^ 0xFF for byte in piece)])
            | st.binary(max_size=12)
        )
    return bytes(stream)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(at)]


def outcome(pieces: list[bytes]) -> tuple[list[Frame], str]:
    """The frames up to the end or the first error, and the error. Fails if anything else happens, or too much is kept.

    DATA of one stream is joined up to its FIN, for where its borders were means nothing.
    """
    decoder = Decoder()
    frames: list[Frame] = []
    fed = given_out = 0
    for number, piece in enumerate(pieces):
        fed += len(piece)
        try:
            came = decoder.feed(piece)
        except SpdyError as error:
            check_failed(decoder, pieces[number + 1 :], str(error))
            return frames, str(error)
        assert decoder.pending < LARGEST_CONTROL + HEAD
        assert len(came) <= len(piece) // HEAD + 2
        for frame in came:
            last = frames[-1] if frames else None
            if isinstance(frame, Data):
                given_out += len(frame.data)
                if isinstance(last, Data) and last.stream == frame.stream and not last.fin:
                    frames[-1] = Data(frame.stream, last.data + frame.data, frame.fin)
                    continue
            frames.append(frame)
        assert given_out + decoder.pending <= fed
    return frames, ""


def check_failed(decoder: Decoder, later: list[bytes], problem: str) -> None:
    """The error is one short line, and nothing of what comes later is taken or kept."""
    assert problem
    assert "\n" not in problem
    assert len(problem) < 300
    for piece in [b"", *later[:3]]:
        with pytest.raises(SpdyError, match="the stream was malformed before"):
            decoder.feed(piece)
    assert decoder.pending == 0


def check_at_any_cut(stream: bytes, cuts: list[int]) -> None:
    """However the bytes come, the same frames or the same error come of them."""
    for part, at in ((stream, cuts), (stream[:3000], list(range(3000)))):
        frames, problem = outcome([part])
        cut_frames, cut_problem = outcome(in_pieces(part, at))
        assert cut_problem == problem
        # The call that fails gives no frames, not even those before the error.
        assert problem or cut_frames == frames


@settings(deadline=None)
@given(st.lists(FRAME, max_size=10), CUTS)
def test_frames_survive_the_way_however_they_are_cut(frames: list[Frame], cuts: list[int]) -> None:
    encoder = Encoder()
    stream = b"".join(encoder.encode(frame) for frame in frames)
    assert Decoder().feed(stream) == frames
    whole, problem = outcome([stream])
    assert not problem
    assert outcome(in_pieces(stream, cuts)) == (whole, "")


@settings(deadline=None)
@given(st.binary(max_size=3000) | st.binary(max_size=300).map(lambda rest: b"\x80\x03\x00" + rest), CUTS)
def test_garbage_does_no_harm(stream: bytes, cuts: list[int]) -> None:
    check_at_any_cut(stream, cuts)


@settings(deadline=None)
@given(nearly_frames(), CUTS)
def test_hostile_frames_do_no_harm(stream: bytes, cuts: list[int]) -> None:
    check_at_any_cut(stream, cuts)


@settings(deadline=None)
@given(damaged_recordings(), CUTS)
def test_damaged_recordings_do_no_harm(stream: bytes, cuts: list[int]) -> None:
    check_at_any_cut(stream, cuts)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=2000), st.integers(1, 11), st.integers(0, 0xFFFFFF))
def test_any_inflatable_block_is_bounded(block: bytes, kind: int, length: int) -> None:
    """A header block of raw bytes behind a good zlib beginning: what inflates from it has a bound."""
    opening = zlib.compressobj(zdict=DICTIONARY).flush(zlib.Z_SYNC_FLUSH)
    payload = bytes([0, 0, 0, 1]) + (bytes(6) if kind == 1 else b"") + opening + block
    check_at_any_cut(struct.pack(">HHI", 0x8003, kind, len(payload)) + payload, [length])
