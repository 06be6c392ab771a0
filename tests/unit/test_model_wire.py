"""Messages and frames: everything arrives as it left, in any pieces; nothing else passes; no secret has a place."""

from __future__ import annotations

import re
import types
from dataclasses import is_dataclass
from enum import Enum
from functools import reduce
from operator import or_
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xec_forward import model, wire
from xec_forward.line import parse_line
from xec_forward.model import (
    Answer,
    Counters,
    Done,
    Message,
    Open,
    ReadSecret,
    Report,
    Request,
    Revealed,
    Snapshot,
    TunnelState,
)
from xec_forward.options import Service, SshTarget, TunnelOptions
from xec_forward.spec import Kind, parse_forward
from xec_forward.wire import FRAME_LIMIT, Decoder, FrameError, encode, reports, requests

REQUESTS: tuple[type[Message], ...] = get_args(Request)
REPORTS: tuple[type[Message], ...] = get_args(Report)
MARK = "hunter2Zq"

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_plain: dict[Any, st.SearchStrategy[Any]] = {
    str: _text,
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Anything of an annotated type."""
    if kind in _plain:
        return _plain[kind]
    if get_origin(kind) is tuple:
        return st.lists(values(get_args(kind)[0]), max_size=3).map(tuple)
    if get_origin(kind) in (Union, types.UnionType):
        return reduce(or_, map(values, get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    assert is_dataclass(kind) or issubclass(kind, msgspec.Struct), kind
    if kind is SshTarget:  # its hops are targets again; one level of them is enough
        parts = {name: values(hint) for name, hint in get_type_hints(kind).items() if name != "proxy"}
        return st.builds(kind, **parts, proxy=st.lists(st.builds(kind, **parts), max_size=2).map(tuple))
    return st.builds(kind, **{name: values(hint) for name, hint in get_type_hints(kind).items() if name[0] != "_"})


def messages(kinds: tuple[type[Message], ...]) -> st.SearchStrategy[Message]:
    return reduce(or_, map(values, kinds))


@pytest.mark.parametrize("kind", [*REQUESTS, *REPORTS], ids=lambda kind: kind.__name__)
def test_every_message_arrives_as_it_left(kind: type[Message]) -> None:
    @given(values(kind))
    def arrives(message: Message) -> None:
        decoder: Decoder[Any] = requests() if kind in REQUESTS else reports()
        (other,) = decoder.feed(encode(message))
        assert type(other) is kind
        assert other == message

    arrives()


def test_every_message_class_belongs_to_one_direction() -> None:
    declared = {
        kind
        for kind in vars(model).values()
        if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
    }
    assert set(REQUESTS) | set(REPORTS) == declared
    assert not set(REQUESTS) & set(REPORTS)


@given(st.lists(messages(REPORTS), max_size=4), st.data())
def test_frames_arrive_in_order_whatever_pieces_they_come_in(sent: list[Message], data: st.DataObject) -> None:
    stream, decoder, arrived = b"".join(map(encode, sent)), reports(), list[Message]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        arrived.extend(decoder.feed(stream[:size]))
        stream = stream[size:]
    assert arrived == sent


def test_a_frame_arrives_byte_by_byte() -> None:
    sent = [Done(call=1, snapshots=(Snapshot(1, "pg", Kind.LOCAL, TunnelState.READY),)), Done(call=2)]
    decoder, arrived = reports(), list[Message]()
    for byte in b"".join(map(encode, sent)):
        arrived.extend(decoder.feed(bytes([byte])))
    assert arrived == sent


def test_a_frame_over_the_limit_is_refused_by_its_length_alone() -> None:
    decoder = reports()
    with pytest.raises(FrameError, match="bytes"):
        list(decoder.feed((FRAME_LIMIT + 1).to_bytes(4, "big")))


def test_a_stray_print_is_no_frame() -> None:
    with pytest.raises(FrameError):
        list(reports().feed(b"Traceback (most recent call last):\n"))


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\xc0", b"\xc1", b"\x93\x01\x02\x03", b"\x80", b"\x81\xa4type\xa4Nope", b"\x81\xa4type\xa7Welcome"),
        *(b"\x82\xa4type\xa8Describe\xa4call\xa1x", b"\xa2\xff\xfe", b"\x81\xa4type\xa2\xff\xfe", b"\x91" * 100_000),
        encode(Done(call=1))[4:],
        encode(model.Describe(call=1))[4:] + b"x",
    ],
)
def test_a_body_that_is_no_message_of_this_direction_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        list(requests().feed(frame(body)))
    assert caught.value.__cause__ is None


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_frame_error(body: bytes) -> None:
    for data in (body, frame(body)):
        decoder: Decoder[Any]
        for decoder in (requests(), reports()):
            try:
                list(decoder.feed(data))
            except FrameError:
                pass


@given(messages(REPORTS), st.data())
def test_a_flipped_byte_raises_nothing_but_frame_error(message: Message, data: st.DataObject) -> None:
    body = bytearray(encode(message)[4:])
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        list(reports().feed(frame(bytes(body))))
    except FrameError:
        pass


_COULD_BE_SECRET = re.compile(r"pass|secret|token|credential|answer|value|key|pin|otp|pwd|auth|login", re.IGNORECASE)
# What these hold is no secret: references (see `source`), a file's path, a policy, and an entry's name.
_HARMLESS = {(SshTarget, name) for name in ("passphrase", "ssh_password", "private_key", "host_key")} | {
    (TunnelOptions, "socks_password"),
    (ReadSecret, "key"),
}


def fields_reached_from(kind: Any, seen: set[tuple[type, str]]) -> set[tuple[type, str]]:
    """Every (class, field) that a message of this type can carry."""
    for part in get_args(kind):
        fields_reached_from(part, seen)
    if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, msgspec.Struct)):
        for name, hint in get_type_hints(kind).items():
            if name[0] != "_" and (kind, name) not in seen:
                seen.add((kind, name))
                fields_reached_from(hint, seen)
    return seen


def test_no_message_but_two_has_a_field_that_could_hold_a_secret() -> None:
    reached: set[tuple[type, str]] = set()
    for kind in (*REQUESTS, *REPORTS):
        fields_reached_from(kind, reached)
    suspicious = {(kind, name) for kind, name in reached if _COULD_BE_SECRET.search(name)}
    assert suspicious - _HARMLESS == {(Answer, "value"), (Revealed, "value")}
    assert Service not in {kind for kind, _ in reached}
    assert not any(hint in (Any, object, bytes, dict) for kind, _ in reached for hint in get_type_hints(kind).values())


def test_an_open_made_from_a_line_with_sources_carries_none_of_them() -> None:
    words = ["bastion", "5432", "--passphrase", f"cmd:{MARK}", "--ssh-password", f"env:{MARK}"]
    line = parse_line([*words, "--password", f"file:/{MARK}"])
    assert isinstance(line.target, SshTarget)
    message = Open(1, 1, "pg", line.forwards[0], line.tunnel, ssh=line.target)
    assert MARK.encode() not in encode(message)
    assert line.target.passphrase.encode() in encode(message)


def test_the_repr_of_an_answer_hides_its_value() -> None:
    answer = Answer(ask=7, value=MARK)
    assert MARK not in f"{answer!r} {answer} {[answer]} {answer=}"
    assert "***" in repr(answer)
    assert "None" in repr(Answer(ask=7, why="nobody is there"))
    assert MARK.encode() in encode(answer)


def test_a_frame_error_does_not_repeat_an_answer() -> None:
    body = encode(Answer(ask=7, value=MARK))[4:].replace(b"\xa3ask\x07", b"\xa3ask\xa17")
    with pytest.raises(FrameError) as caught:
        list(requests().feed(frame(body)))
    assert MARK not in f"{caught.value!r} {caught.value.__context__!r}"


def test_messages_and_their_parts_cannot_be_changed() -> None:
    message = Open(1, 1, "pg", parse_forward("5432"), TunnelOptions(), ssh=SshTarget("bastion"))
    for thing, name in ((message, "name"), (message.target, "host"), (message.forward, "name"), (Counters(), "parked")):
        with pytest.raises(AttributeError):
            setattr(thing, name, "x")


def test_only_closed_is_an_end() -> None:
    assert [state for state in TunnelState if state.ended] == [TunnelState.CLOSED]
    assert wire.FRAME_LIMIT == FRAME_LIMIT
