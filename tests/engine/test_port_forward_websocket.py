"""The pipe in WebSocket messages, and v4.channel.k8s.io over it, against what a real API server was recorded to say."""

from __future__ import annotations

import struct

import pytest

from tests.peers.channels import Recorder
from tests.peers.pipe import Owner, Wire, begin, begin_v4, client_message, received, server_frame, turn
from tests.peers.wire import SERVER, load
from xec_forward.engine.links.kubernetes.websocket import (
    Opcode,
    accepted,
    client_frame,
    handshake,
)
from xec_forward.errors import ForwardError, LostError, PodGoneError, RefusedError
from xec_forward.masking import mask, mask_plainly
from xec_forward.spdy import Data, SynReply

# ---- WebSocket ----


def test_mask_is_its_own_inverse_in_both_forms() -> None:
    for size in (0, 1, 3, 4, 5, 127, 70000):
        data = bytes(index % 251 for index in range(size))
        compiled, plain = bytearray(data), bytearray(data)
        mask(compiled, b"\x01\x80\xff\x7f")
        mask_plainly(plain, b"\x01\x80\xff\x7f")
        assert compiled == plain
        mask(compiled, b"\x01\x80\xff\x7f")
        assert compiled == data


def test_handshake_is_checked_as_the_rfc_has_it() -> None:
    asked = handshake(["a", "b"]) | {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # RFC 6455 section 1.3
    assert accepted(asked, {"sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="})
    assert not accepted(asked, {"sec-websocket-accept": "nonsense"})
    assert not accepted(asked, {})


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
async def test_messages_may_be_cut_anywhere(size: int) -> None:
    recording = load("spdy-ws-16443/08-download-40k")
    session, wire, _ = begin("spdy-ws-16443")
    client = Recorder()
    session.open_channel(7001, client)
    stream_bytes = b"".join(
        server_frame(Opcode.BINARY, piece) + server_frame(Opcode.PING, b"are you there")
        for piece in recording.pieces(SERVER)
    )
    for at in range(0, len(stream_bytes), size):
        wire.deliver(stream_bytes[at : at + size])
    assert await client.lost() is None
    assert client.data == received(recording, 3)
    assert wire.control
    assert set(wire.control) == {(Opcode.PONG, b"are you there")}


async def test_close_1000_in_mid_connection_is_a_loss() -> None:
    session, wire, owner = begin("spdy-ws-16443")
    client = Recorder()
    session.open_channel(7000, client)
    wire.send_frames(SynReply(1), SynReply(3), Data(3, b"half of an ans"))
    wire.deliver(server_frame(Opcode.CLOSE, struct.pack(">H", 1000)))
    assert isinstance(await client.lost(), LostError)
    assert client.data == b"half of an ans"
    assert (Opcode.CLOSE, struct.pack(">H", 1000)) in wire.control
    assert owner.ended


@pytest.mark.parametrize(
    "bad",
    [
        bytes((0xC2, 0x00)),  # an extension's bit
        bytes((0x82, 0x80)) + b"abcd",  # masked
        bytes((0x83, 0x00)),  # an opcode that is none
        bytes((0x09, 0x00)),  # a ping in fragments
        bytes((0x89, 0x7E)) + struct.pack(">H", 200),  # and one that is too long
    ],
)
async def test_what_is_not_websocket_is_a_loss(bad: bytes) -> None:
    session, wire, _ = begin("spdy-ws-16443")
    client = Recorder()
    session.open_channel(7000, client)
    wire.deliver(bad)
    assert isinstance(await client.lost(), LostError)
    assert wire.closed


def test_frames_of_all_sizes_are_read_back() -> None:
    for size in (0, 1, 125, 126, 65535, 65536, 200000):
        assert client_message(client_frame(Opcode.BINARY, b"x" * size)) == (Opcode.BINARY, b"x" * size)


# ---- v4.channel.k8s.io ----


async def replay_v4(name: str, client: Recorder, doomed: ForwardError | None = None) -> tuple[Wire, Owner]:
    session, wire, owner = begin_v4()
    owner.doomed = doomed
    assert not wire.reading, "nothing is read before there is somebody to read it"
    channel = session.open_channel(7000, client)
    channel.write(b"hello")
    await turn()
    for event in load(f"v4-ws/{name}").events:
        if event.direction == SERVER and event.op == "binary":
            wire.send(event.payload, event.fields.get("ws_frames", 1))
        elif event.direction == SERVER and event.op == "close":
            wire.deliver(server_frame(Opcode.CLOSE, struct.pack(">H", event.fields["code"])))
    await turn()
    return wire, owner


def received_v4(name: str) -> bytes:
    pieces = [piece[1:] for piece in load(f"v4-ws/{name}").pieces(SERVER) if piece[:1] == b"\0"]
    return b"".join(pieces)[2:]


@pytest.mark.parametrize(
    "name", ["05-server-banner-close", "05b-server-half-close", "08-download-40k", "08b-upload-40k"]
)
async def test_v4_recorded_end_in_order_is_told_as_one(name: str) -> None:
    client = Recorder()
    wire, owner = await replay_v4(name, client)
    assert await client.lost() is None
    assert client.data == received_v4(name) != b""
    assert wire.writes == [b"\0hello"]
    assert owner.ended == [None]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("04-refused", RefusedError), ("04b-refused-no-data", RefusedError), ("06-pod-resets", LostError)],
)
async def test_v4_recorded_failure_is_told(name: str, kind: type[ForwardError]) -> None:
    client = Recorder()
    await replay_v4(name, client)
    assert type(await client.lost()) is kind


async def test_v4_end_of_a_doomed_pod_is_never_clean() -> None:
    client = Recorder()
    await replay_v4("10-pod-deleted", client, PodGoneError("the pod is going"))
    assert type(await client.lost()) is PodGoneError


async def test_v4_end_without_a_close_is_a_loss() -> None:
    session, wire, _ = begin_v4()
    client = Recorder()
    session.open_channel(7000, client)
    await turn()
    wire.send(b"\0" + struct.pack("<H", 7000))
    wire.send(b"\0some of it")
    wire.end(ConnectionResetError())
    assert isinstance(await client.lost(), LostError)
    assert client.data == b"some of it"


async def test_v4_port_is_stripped_however_it_is_cut() -> None:
    session, wire, _ = begin_v4()
    client = Recorder()
    session.open_channel(7000, client)
    await turn()
    message = server_frame(Opcode.BINARY, b"\0" + struct.pack("<H", 7000) + b"hello")
    for byte in message:
        wire.deliver(bytes((byte,)))
    wire.send(b"\0 world")
    assert client.data == b"hello world"
    session.abort()
    await client.lost()


async def test_v4_client_that_closes_ends_in_order() -> None:
    session, wire, owner = begin_v4()
    client = Recorder()
    channel = session.open_channel(7000, client)
    channel.write(b"bye")
    channel.close()
    assert await client.lost() is None
    assert wire.writes == [b"\0bye"]
    assert wire.control == [(Opcode.CLOSE, struct.pack(">H", 1000))]
    assert not wire.aborted
    assert owner.ended == [None]
