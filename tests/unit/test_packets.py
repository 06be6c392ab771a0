"""The lean packet path, and the notice when asyncssh has changed under it."""

from __future__ import annotations

import asyncssh
import pytest
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST, MSG_IGNORE
from asyncssh.packet import UInt32
from hypothesis import given
from hypothesis import strategies as st

from xec_forward.engine.links.ssh import packets
from xec_forward.engine.links.ssh.packets import LARGEST_WINDOW, WINDOW, InputBuffer, Window


class Channel:
    """As much of a channel as a window needs: what it grants is what the sender may still send."""

    def __init__(self) -> None:
        self._init_recv_window = WINDOW
        self._recv_window = WINDOW
        self.granted = 0

    def send_packet(self, pkttype: int, *args: bytes) -> None:
        assert pkttype == MSG_CHANNEL_WINDOW_ADJUST
        self.granted += int.from_bytes(b"".join(args), "big")

    def receive(self, size: int) -> None:
        self._recv_window -= size
        assert self._recv_window >= 0


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(packets.time, "monotonic", lambda: self.now)


def test_the_installed_asyncssh_is_one_whose_packets_we_quicken() -> None:
    """If this fails: a new asyncssh. Read what changed, then widen the range in packets.py."""
    packets.usable.cache_clear()
    assert packets.usable()


def test_an_unknown_version_keeps_its_own_packet_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncssh, "__version__", "3.0.1")
    packets.usable.cache_clear()
    try:
        assert not packets.usable()
        channel = Channel()
        Window(channel, lambda: 0.0).delivered(WINDOW)  # type: ignore[arg-type]
        assert (channel._init_recv_window, channel.granted) == (WINDOW, 0)
    finally:
        monkeypatch.undo()
        packets.usable.cache_clear()


@pytest.mark.parametrize("name", ["_inpbuf", "_recv_pkthdr", "send_packet"])
def test_a_changed_inside_keeps_its_own_packet_path(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def changed(*_: object) -> bool:
        raise AttributeError(name)

    target = "data_received" if name == "_inpbuf" else name
    monkeypatch.setattr(packets.SSHClientConnection, target, changed)
    assert packets._self_test()


@given(st.lists(st.binary(max_size=40)), st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=40))
def test_the_input_buffer_reads_like_bytes(pieces: list[bytes], reads: list[tuple[bool, int]]) -> None:
    buffer: InputBuffer | bytes = InputBuffer()
    plain = b""
    for piece in pieces:
        buffer += piece  # type: ignore[operator]
        plain += piece
        for consume, size in reads:
            assert len(buffer) == len(plain)
            assert bool(buffer) == bool(plain)
            assert buffer[:size] == plain[:size]
            assert buffer[size : size + 3] == plain[size : size + 3]
            assert buffer.find(b"\n", 0, 20) == plain.find(b"\n", 0, 20)
            if consume:
                buffer, plain = buffer[size:], plain[size:]


def test_the_window_is_topped_up_each_eighth_by_what_was_delivered() -> None:
    channel = Channel()
    window = Window(channel, lambda: 0.0)  # type: ignore[arg-type]
    for _ in range(1000):
        channel.receive(32 * 1024)
        window.delivered(32 * 1024)
        assert WINDOW * 7 // 8 <= channel._recv_window <= WINDOW
    assert channel.granted == 1000 * 32 * 1024
    assert channel._init_recv_window == 0


def test_the_window_grows_on_a_long_way_and_no_further_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, channel = Clock(monkeypatch), Channel()
    window = Window(channel, lambda: 0.1)  # type: ignore[arg-type]
    for _ in range(4000):  # 20 MB/s over 100 ms, then 80: more than half a window each round trip, at every size
        clock.now += 0.0016 if window.size == WINDOW else 0.0004
        channel.receive(32 * 1024)
        window.delivered(32 * 1024)
        assert channel._recv_window <= LARGEST_WINDOW
    assert window.size == LARGEST_WINDOW


@pytest.mark.parametrize("round_trip", [0.0, 0.0005])
def test_the_window_does_not_grow_on_a_short_way(monkeypatch: pytest.MonkeyPatch, round_trip: float) -> None:
    clock, channel = Clock(monkeypatch), Channel()
    window = Window(channel, lambda: round_trip)  # type: ignore[arg-type]
    for _ in range(4000):  # 600 MB/s
        clock.now += 32 * 1024 / 600e6
        channel.receive(32 * 1024)
        window.delivered(32 * 1024)
    assert window.size == WINDOW


@pytest.mark.parametrize(
    ("cipher", "packets_sent"),
    [("aes128-gcm@openssh.com", 1), ("chacha20-poly1305@openssh.com", 1), ("aes256-ctr", 2), ("aes128-cbc", 2)],
)
def test_only_aead_ciphers_go_without_ignore_packets(cipher: str, packets_sent: int) -> None:
    sent: list[int] = []

    class Connection:
        def get_extra_info(self, name: str) -> str | None:
            return cipher if name == "send_cipher" else None

        def send_packet(self, pkttype: int, *args: bytes, handler: object = None) -> None:
            if pkttype != MSG_IGNORE:
                self.send_packet(MSG_IGNORE, UInt32(0))
            sent.append(pkttype)

    connection = Connection()
    packets._quicken(connection)  # type: ignore[arg-type]
    connection.send_packet(MSG_CHANNEL_DATA, b"data")
    assert len(sent) == packets_sent
    assert sent[-1] == MSG_CHANNEL_DATA
