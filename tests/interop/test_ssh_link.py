"""The SSH link against OpenSSH's sshd: channels, their ends, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.peers.channels import DEADLINE, Recorder
from tests.peers.links import acquire, eventually, linked, target
from tests.peers.services import Services, pattern_digest
from tests.peers.sshd import Sshd, missing
from xec_forward.engine.links.base import Channel
from xec_forward.engine.links.pool import Pool
from xec_forward.errors import (
    ConfigError,
    DeadlineError,
    ForwardError,
    LostError,
    NameNotFoundError,
    ProhibitedError,
    RefusedError,
)
from xec_forward.spec import Endpoint

MEGABYTE = 1024 * 1024


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("far")
    folder.chmod(0o755)
    with Services(folder) as running:
        yield running


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if reason := missing():
        pytest.skip(reason)
    with Sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def config(sshd: Sshd, tmp_path: Path) -> Path:
    return sshd.write_config(tmp_path / "ssh_config")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sshd]:
    """An sshd of the test's own, to be killed and changed; `own_config` is its ssh_config."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path / "own"
    folder.mkdir()
    with Sshd(folder) as running:
        running.write_config(tmp_path / "own_config")
        yield running


@pytest.fixture
def own_config(own: Sshd, tmp_path: Path) -> Path:
    return tmp_path / "own_config"


async def send(channel: Channel, recorder: Recorder, size: int) -> None:
    block = bytes(256 * 1024)
    for start in range(0, size, len(block)):
        async with asyncio.timeout(DEADLINE):
            await recorder.writable.wait()
        channel.write(block[: size - start])


async def test_bytes_come_back_by_the_far_name_that_only_the_bastion_knows(
    sshd: Sshd, config: Path, far: Services
) -> None:
    async with linked(target(config)) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(sshd.far(), far.echo), recorder, ("127.0.0.1", 40000))
        channel.write(b"hello")
        await recorder.at_least(5)
        assert recorder.data == b"hello"
        channel.close()
        assert await recorder.lost() is None
        assert link.route == ("bastion",)
        assert 0 < await link.round_trip() < 5
        await eventually(lambda: link.open_channels() == 0)


async def test_user_and_port_written_out_win_over_the_alias(sshd: Sshd, tmp_path: Path) -> None:
    config = sshd.write_config(tmp_path / "config", User="nobody-of-that-name", Port=1)
    async with linked(target(config, username=sshd.user, port=sshd.port)) as link:
        assert await link.round_trip() > 0


async def test_no_configuration_file_is_needed(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    sshd.write_known_hosts(tmp_path / ".ssh" / "known_hosts")
    async with linked(target(Path("none"), "127.0.0.1", port=sshd.port, private_key=(str(sshd.key),))) as link:
        assert await link.round_trip() > 0


async def test_200_mb_arrive_unchanged(sshd: Sshd, config: Path, far: Services) -> None:
    size = 200 * MEGABYTE + 12345
    async with linked(target(config)) as link:
        recorder = Recorder(keep=False)
        channel = await link.open_channel(Endpoint(port=far.source), recorder)
        channel.write(f"{size}\n".encode())
        async with asyncio.timeout(120):
            while recorder.size < size:
                await recorder.at_least(recorder.size + 1)
        await recorder.eof()
        assert (recorder.size, recorder.digest) == (size, pattern_digest(size))
        channel.close()


async def test_64_mb_leave_unchanged_and_the_answer_comes_after_our_end(config: Path, far: Services) -> None:
    async with linked(target(config)) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=far.reply), recorder)
        await send(channel, recorder, 64 * MEGABYTE)
        assert recorder.events == []
        channel.write_eof()
        channel.write_eof()
        channel.write(b"after the end, dropped")
        await recorder.eof()
        assert recorder.data.startswith(f"{64 * MEGABYTE} ".encode())
        assert await recorder.lost() is None
        assert recorder.events == ["data", "eof", "lost"]


async def test_the_peers_end_leaves_our_direction_open(tmp_path: Path, config: Path) -> None:
    received: list[bytes] = []

    async def end_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"done")
        writer.write_eof()
        received.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(end_first, "127.0.0.1", 0)
    async with linked(target(config)) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), recorder)
        await recorder.eof()
        channel.write(b"and still ")
        channel.write(b"we speak")
        channel.write_eof()
        assert await recorder.lost() is None
        await eventually(lambda: received == [b"and still we speak"])
    server.close()


async def test_a_unix_socket_on_the_far_side(config: Path, far: Services) -> None:
    async with linked(target(config)) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(path=far.reply_path), recorder)
        channel.write(b"12345")
        channel.write_eof()
        assert await recorder.lost() is None
        assert recorder.data.startswith(b"5 ")


async def test_a_service_that_speaks_first_is_heard_once_the_caller_has_attached(sshd: Sshd, config: Path) -> None:
    """sshd itself is such a service: its banner comes with the confirmation or right after it."""
    async with linked(target(config)) as link:
        for _ in range(50):
            recorder = Recorder()
            channel = await link.open_channel(Endpoint(port=sshd.port), recorder)
            assert recorder.events == []
            await recorder.at_least(8)
            assert recorder.data.startswith(b"SSH-2.0-")
            channel.abort()
            assert await recorder.lost() is None


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="TCP_QUICKACK, which only Linux has")
async def test_the_second_of_two_small_packets_does_not_wait_for_a_delayed_acknowledgement(
    sshd: Sshd, config: Path
) -> None:
    """40 ms each time through `ssh -L`: sshd's Nagle waits for an ACK that our system holds back."""
    loop = asyncio.get_running_loop()

    async def in_two_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            writer.write(b"head")
            await asyncio.sleep(0.001)
            writer.write(b"body")
        writer.close()

    server = await asyncio.start_server(in_two_pieces, "127.0.0.1", 0)
    async with linked(target(config)) as link:
        recorder, times = Recorder(), []
        channel = await link.open_channel(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), recorder)
        for _ in range(50):
            start, size = loop.time(), recorder.size
            channel.write(b"question")
            await recorder.at_least(size + 8)
            times.append(loop.time() - start)
        assert sorted(times)[25] < 0.03
        channel.abort()
        for _ in range(50):
            start = loop.time()
            recorder = Recorder()
            channel = await link.open_channel(Endpoint(port=sshd.port), recorder)
            await recorder.at_least(8)
            times.append(loop.time() - start)
            channel.abort()
        assert sorted(times[50:])[25] < 0.03
    server.close()


async def test_an_answer_is_not_lost_when_it_ends_before_the_caller_has_attached(config: Path) -> None:
    async def at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all there is")
        writer.close()

    server = await asyncio.start_server(at_once, "127.0.0.1", 0)
    async with linked(target(config)) as link:
        for _ in range(50):
            recorder = Recorder()
            channel = await link.open_channel(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), recorder)
            channel.pause_reading()
            await asyncio.sleep(0)
            channel.resume_reading()
            await recorder.eof()
            channel.close()
            assert await recorder.lost() is None
            assert recorder.data == b"all there is"
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
async def test_a_reader_that_does_not_read_costs_bounded_memory(config: Path, far: Services) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    class Sipping(Recorder):
        """Pauses at each piece, as a relay does whose client's buffer is full."""

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            channel.pause_reading()

    async with linked(target(config)) as link:
        recorder = Sipping(keep=False)
        channel = await link.open_channel(Endpoint(port=far.source), recorder)
        before = resident()
        channel.write(f"{256 * MEGABYTE}\n".encode())
        await recorder.at_least(1)
        for _ in range(200):
            seen = recorder.size
            channel.resume_reading()
            await recorder.at_least(seen + 1)
            await link.round_trip()
        # By now a sender that got a whole window for each sip would have sent everything.
        seen = recorder.size
        for _ in range(20):
            await link.round_trip()
        assert recorder.size == seen < 32 * MEGABYTE
        assert resident() - before < 32 * MEGABYTE
        channel.abort()


async def test_a_far_side_that_does_not_read_pauses_the_writer(config: Path, far: Services) -> None:
    async with linked(target(config)) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=far.deaf), recorder)
        written = 0
        while recorder.writable.is_set():
            channel.write(bytes(256 * 1024))
            written += 256 * 1024
            await link.round_trip()
            assert written < 64 * MEGABYTE
        other = Recorder()
        second = await link.open_channel(Endpoint(port=far.echo), other)
        second.write(b"not held up")
        await other.at_least(11)
        channel.abort()
        assert await recorder.lost() is None


async def test_a_thousand_cancelled_opens_leave_nothing_behind(own: Sshd, own_config: Path, far: Services) -> None:
    chance = random.Random(7)
    async with linked(target(own_config)) as link:
        await link.round_trip()
        opened = 0

        async def one() -> None:
            nonlocal opened
            recorder = Recorder()
            task = asyncio.create_task(link.open_channel(Endpoint(port=far.echo), recorder))
            await asyncio.sleep(chance.choice((0, 0, 0.0002, 0.0005, 0.001, 0.003)))
            task.cancel()
            try:
                channel = await task
            except asyncio.CancelledError:
                return
            opened += 1
            channel.abort()

        for _ in range(100):
            async with asyncio.timeout(DEADLINE):
                await asyncio.gather(*(one() for _ in range(10)))
        await eventually(lambda: link.open_channels() == 0)
        assert opened < 1000
        await eventually(lambda: not _established(far.echo))
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=far.echo), recorder)
        channel.write(b"well")
        await recorder.at_least(4)
        assert not link.lost.done()


def _established(port: int) -> int:
    """How many connections to a port of 127.0.0.1 are up, whoever holds them (Linux; elsewhere none is counted)."""
    try:
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return 0
    wanted = f"0100007F:{port:04X}"
    return sum(1 for row in rows if row.split()[2] == wanted and row.split()[3] == "01")


async def test_an_abandoned_open_whose_answer_comes_late_is_closed(own: Sshd, own_config: Path, far: Services) -> None:
    async with linked(target(own_config)) as link:
        await link.round_trip()
        own.freeze()
        task = asyncio.create_task(link.open_channel(Endpoint(port=far.echo), Recorder()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert link.open_channels() == 1
        own.thaw()
        await eventually(lambda: link.open_channels() == 0 and not _established(far.echo))


async def test_many_who_want_the_bastion_share_one_connection(own: Sshd, own_config: Path, far: Services) -> None:
    pool = Pool()
    leases = await asyncio.gather(*(acquire(pool, target(own_config)) for _ in range(10)))
    assert own.connections() == 1
    assert own.log.read_text().count("Accepted publickey") == 1
    for lease in leases:
        lease.release()
    await eventually(lambda: own.connections() == 0)
    await pool.close()


@pytest.mark.parametrize("how", ["kill", "stop", "drop"])
async def test_a_link_lost_in_mid_stream_breaks_its_channels_and_never_ends_them(
    own: Sshd, own_config: Path, far: Services, how: str
) -> None:
    async with linked(target(own_config)) as link:
        flowing, idle = Recorder(keep=False), Recorder()
        channel = await link.open_channel(Endpoint(port=far.source), flowing)
        await link.open_channel(Endpoint(port=far.hang), idle)
        channel.write(f"{4096 * MEGABYTE}\n".encode())
        await flowing.at_least(MEGABYTE)
        await asyncio.to_thread(getattr(own, how))
        for recorder in (flowing, idle):
            error = await recorder.lost()
            assert isinstance(error, LostError)
            assert error.hop == "bastion"
            assert "eof" not in recorder.events
        async with asyncio.timeout(DEADLINE):
            assert isinstance(await asyncio.shield(link.lost), LostError)
        for endpoint in (Endpoint(port=far.echo), Endpoint(path=far.echo_path)):
            with pytest.raises(LostError):
                await link.open_channel(endpoint, Recorder())
        with pytest.raises(LostError):
            await link.round_trip()
        channel.write(b"ignored")
        channel.abort()


async def test_silence_is_noticed_by_keepalive(own: Sshd, own_config: Path, far: Services) -> None:
    wanted = target(own_config, server_alive_interval=0.2, server_alive_count_max=2)
    async with linked(wanted) as link:
        recorder = Recorder()
        await link.open_channel(Endpoint(port=far.hang), recorder)
        own.freeze()
        error = await recorder.lost()
        assert isinstance(error, LostError)
        assert "no longer answers" in str(error)
    own.thaw()


async def test_closing_a_silent_link_takes_at_most_two_seconds(own: Sshd, own_config: Path, far: Services) -> None:
    pool = Pool()
    lease = await acquire(pool, target(own_config))
    recorder = Recorder()
    await lease.link.open_channel(Endpoint(port=far.hang), recorder)
    own.freeze()
    async with asyncio.timeout(2):
        await pool.close()
    assert isinstance(await recorder.lost(), ForwardError)
    own.thaw()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, RefusedError, "refused, as seen from bastion"),
        ({"host": "no-such-name.vpc"}, NameNotFoundError, "bastion cannot resolve no-such-name.vpc"),
        ({"path": "/nowhere/at/all.sock"}, RefusedError, "nobody listens there"),
    ],
)
async def test_what_the_far_side_refuses(
    config: Path, far: Services, options: dict[str, Any], error: type[ForwardError], words: str
) -> None:
    connect = Endpoint(**options) if options.get("path") else Endpoint(**{"port": far.refused, **options})
    async with linked(target(config)) as link:
        with pytest.raises(error, match=words) as caught:
            await link.open_channel(connect, Recorder())
        assert caught.value.hop == str(connect)
        await eventually(lambda: link.open_channels() == 0)


@pytest.mark.parametrize("options", [{"AllowTcpForwarding": "no"}, {"PermitOpen": "127.0.0.1:1"}])
async def test_a_prohibited_forwarding_says_so(tmp_path: Path, options: dict[str, str], far: Services) -> None:
    with Sshd(tmp_path, options=options) as sshd:
        async with linked(target(sshd.write_config(tmp_path / "config"))) as link:
            with pytest.raises(ProhibitedError, match="is not allowed there") as caught:
                await link.open_channel(Endpoint("127.0.0.1", far.echo), Recorder())
            assert caught.value.hop == "bastion"


@pytest.mark.parametrize("cipher", ["aes256-ctr", "chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com"])
async def test_ciphers_of_ssh_config_are_respected(sshd: Sshd, tmp_path: Path, cipher: str, far: Services) -> None:
    config = sshd.write_config(tmp_path / "config", Ciphers=cipher, MACs="hmac-sha2-256", RekeyLimit="1M")
    async with linked(target(config)) as link:
        recorder = Recorder(keep=False)
        channel = await link.open_channel(Endpoint(port=far.source), recorder)
        channel.write(f"{8 * MEGABYTE}\n".encode())
        await recorder.eof()
        assert recorder.digest == pattern_digest(8 * MEGABYTE)
        assert cipher in link.ciphers


async def test_aes_gcm_is_preferred(config: Path) -> None:
    async with linked(target(config)) as link:
        assert link.ciphers == ("aes128-gcm@openssh.com", "aes128-gcm@openssh.com")


async def test_new_keys_in_mid_stream_lose_nothing(sshd: Sshd, tmp_path: Path, far: Services) -> None:
    config = sshd.write_config(tmp_path / "config", RekeyLimit="2M")
    async with linked(target(config)) as link:
        down, up = Recorder(keep=False), Recorder()
        source = await link.open_channel(Endpoint(port=far.source), down)
        source.write(f"{32 * MEGABYTE}\n".encode())
        sink = await link.open_channel(Endpoint(port=far.reply), up)
        await send(sink, up, 32 * MEGABYTE)
        sink.write_eof()
        await down.eof()
        await up.eof()
        assert down.digest == pattern_digest(32 * MEGABYTE)
        assert up.data.startswith(f"{32 * MEGABYTE} ".encode())


async def test_compression_is_used_when_asked_for(sshd: Sshd, tmp_path: Path, far: Services) -> None:
    config = sshd.write_config(tmp_path / "config", Compression="yes")
    async with linked(target(config)) as link:
        recorder = Recorder(keep=False)
        channel = await link.open_channel(Endpoint(port=far.source), recorder)
        channel.write(f"{4 * MEGABYTE}\n".encode())
        await recorder.eof()
        assert recorder.digest == pattern_digest(4 * MEGABYTE)


# the bastion itself cannot be reached


async def failing(config: Path, host: str = "bastion", **options: Any) -> ForwardError:
    with pytest.raises(ForwardError) as caught:
        async with linked(target(config, host, **options)):
            pass
    assert "\n" not in str(caught.value)
    return caught.value


async def test_an_unknown_bastion(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host bastion\n    HostName no-such-host.invalid\n")
    error = await failing(config)
    assert isinstance(error, NameNotFoundError)
    assert error.hop == "bastion"
    assert "no-such-host.invalid" in str(error)


async def test_a_bastion_where_nobody_listens(tmp_path: Path, far: Services) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host bastion\n    HostName 127.0.0.1\n    Port {far.refused}\n")
    error = await failing(config)
    assert isinstance(error, RefusedError)
    assert (error.hop, f"127.0.0.1:{far.refused}" in str(error)) == ("bastion", True)


async def test_a_bastion_that_stays_silent(tmp_path: Path, far: Services) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host bastion\n    HostName 127.0.0.1\n    Port {far.hang}\n    ConnectTimeout 1\n")
    error = await failing(config)
    assert isinstance(error, DeadlineError)
    assert "within 1 s, during the key exchange" in str(error)


async def test_a_bastion_that_hangs_up(tmp_path: Path, far: Services) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host bastion\n    HostName 127.0.0.1\n    Port {far.reset}\n")
    error = await failing(config)
    assert isinstance(error, LostError)
    assert error.hop == "bastion"


async def test_a_port_that_does_not_speak_ssh(tmp_path: Path) -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n" * 2000)
        await reader.read()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    config = tmp_path / "config"
    config.write_text(f"Host bastion\n    HostName 127.0.0.1\n    Port {server.sockets[0].getsockname()[1]}\n")
    error = await failing(config)
    assert isinstance(error, RefusedError)
    assert "does not speak SSH" in str(error)
    server.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Host bastion\n    Port many\n", "line 2: Invalid Port integer value"),
        ("Host bastion\n    IdentityFile 'unclosed\n", "line 2: No closing quotation"),
        ("Host *\n\n    StrictHostKeyChecking perhaps\n", "StrictHostKeyChecking perhaps"),
    ],
)
async def test_a_malformed_ssh_config_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    error = await failing(config)
    assert isinstance(error, ConfigError)
    assert words in str(error)
    if "line" in words:
        assert str(config) in str(error)


async def test_a_missing_ssh_config_file(tmp_path: Path) -> None:
    error = await failing(tmp_path / "nowhere")
    assert isinstance(error, ConfigError)
    assert "nowhere cannot be read" in str(error)


async def test_no_common_cipher(tmp_path: Path) -> None:
    with Sshd(tmp_path, options={"Ciphers": "aes128-ctr"}) as sshd:
        config = sshd.write_config(tmp_path / "config", Ciphers="aes256-ctr")
        error = await failing(config)
        # sshd hangs up at the same moment; its reset may overtake its list of algorithms.
        assert isinstance(error, ConfigError | LostError)
        assert "no common algorithms" in str(error) or "Its log may say why" in str(error)


async def test_a_cancelled_dial_leaves_no_connection(own: Sshd, own_config: Path) -> None:
    pool = Pool()
    for pause in (0, 0.002, 0.01, 0.02, 0.03):
        task = asyncio.create_task(acquire(pool, target(own_config)))
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            (await task).release()
    await eventually(lambda: own.connections() == 0)
    await pool.close()


# over a hop


@pytest.fixture
def behind(own: Sshd, tmp_path: Path) -> Iterator[tuple[Sshd, Path]]:
    """A second sshd `inner`, reached through `own` as the ProxyJump `jump`."""
    folder = tmp_path / "inner"
    folder.mkdir()
    with Sshd(folder) as inner:
        config = tmp_path / "jump_config"
        config.write_text(own.config("jump") + inner.config("inner", ProxyJump="jump"))
        yield inner, config


async def test_proxy_jump_leads_through_a_pooled_link(own: Sshd, behind: tuple[Sshd, Path], far: Services) -> None:
    inner, config = behind
    pool = Pool()
    first, second = await asyncio.gather(acquire(pool, target(config, "inner")), acquire(pool, target(config, "jump")))
    assert first.link.route == ("jump", "inner")
    assert (own.connections(), inner.connections()) == (1, 1)
    recorder = Recorder(keep=False)
    channel = await first.link.open_channel(Endpoint(inner.far(), far.source), recorder)
    channel.write(f"{32 * MEGABYTE}\n".encode())
    await recorder.eof()
    assert recorder.digest == pattern_digest(32 * MEGABYTE)
    second.release()
    assert await first.link.round_trip() > 0
    first.release()
    await eventually(lambda: own.connections() == 0 and inner.connections() == 0)
    await pool.close()


async def test_a_lost_hop_breaks_what_goes_through_it_and_names_it(
    own: Sshd, behind: tuple[Sshd, Path], far: Services
) -> None:
    async with linked(target(behind[1], "inner")) as link:
        recorder = Recorder()
        await link.open_channel(Endpoint(port=far.hang), recorder)
        await asyncio.to_thread(own.kill)
        error = await recorder.lost()
        assert isinstance(error, LostError)
        assert error.hop == "jump"


async def test_a_hop_that_cannot_reach_the_target_is_named(own: Sshd, tmp_path: Path, far: Services) -> None:
    config = tmp_path / "config"
    text = "Host inner\n    HostName {}\n    Port {}\n    ProxyJump jump\n"
    config.write_text(own.config("jump") + text.format("127.0.0.1", far.refused))
    error = await failing(config, "inner")
    assert isinstance(error, RefusedError)
    assert "as seen from jump" in str(error)
    assert f"127.0.0.1:{far.refused}" in str(error)
    assert error.hop == "inner"
    config.write_text(own.config("jump") + text.format("inner.nowhere", 22))
    error = await failing(config, "inner")
    assert isinstance(error, NameNotFoundError)
    assert "jump cannot resolve inner.nowhere" in str(error)
    await eventually(lambda: own.connections() == 0)


async def test_a_hop_that_is_down_is_named(behind: tuple[Sshd, Path], own: Sshd) -> None:
    await asyncio.to_thread(own.stop)
    error = await failing(behind[1], "inner")
    assert isinstance(error, RefusedError)
    assert error.hop == "jump"


async def test_a_proxy_jump_in_a_circle(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host a\n    ProxyJump b\nHost b\n    ProxyJump a\n")
    error = await failing(config, "a")
    assert isinstance(error, ConfigError)
    assert "leads back to itself" in str(error)


async def test_two_hops_written_in_one_line(own: Sshd, tmp_path: Path, far: Services) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    with Sshd(folder) as inner:
        config = tmp_path / "config"
        config.write_text(
            own.config("one")
            + own.config("two")
            + inner.config("inner", ProxyJump=f"ssh://{own.user}@one:{own.port},two")
        )
        async with linked(target(config, "inner")) as link:
            assert link.route == ("one", "two", "inner")
            assert own.connections() == 2
            recorder = Recorder()
            channel = await link.open_channel(Endpoint(port=far.reply), recorder)
            channel.write_eof()
            assert await recorder.lost() is None


async def test_a_proxy_command_is_run(own: Sshd, tmp_path: Path, far: Services) -> None:
    own_config = own.write_config(tmp_path / "direct")
    config = own.write_config(tmp_path / "config", ProxyCommand=f"ssh -F {own_config} -W 127.0.0.1:%p bastion")
    async with linked(target(config)) as link:
        recorder = Recorder()
        channel = await link.open_channel(Endpoint(port=far.reply), recorder)
        channel.write_eof()
        assert await recorder.lost() is None
    await eventually(lambda: own.connections() == 0)
    missing_program = own.write_config(tmp_path / "config", ProxyCommand="/nowhere/proxy %h")
    error = await failing(missing_program)
    assert isinstance(error, ConfigError)
    assert "/nowhere/proxy" in str(error)


async def test_nothing_but_forwarding_is_asked_of_the_bastion(own: Sshd, own_config: Path, far: Services) -> None:
    async with linked(target(own_config)) as link:
        await link.open_channel(Endpoint(port=far.hang), Recorder())
    log = own.log.read_text()
    assert "session" not in log.replace("Server listening", "").partition("Accepted publickey")[2].lower()


async def test_the_descriptors_of_ended_links_are_gone(own: Sshd, own_config: Path) -> None:
    async with linked(target(own_config)) as link:
        await link.round_trip()
    before = len(os.listdir("/dev/fd"))
    for _ in range(10):
        async with linked(target(own_config)):
            pass
        with pytest.raises(ForwardError):
            async with linked(target(own_config, username="nobody-of-that-name")):
                pass
    await eventually(lambda: len(os.listdir("/dev/fd")) <= before + 1)
