"""Faults of the network, one row a test: cut connections, packets that vanish, an address that changes.

What holds in every row, and what each prints, is told in `test_faults`. The bastion is a real sshd, in a network
namespace of its own or behind a relay that cuts. A namespace has its own loopback, so the services in these rows
are unix sockets, which reach across.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import xec_forward as xf
from tests.interop.test_faults import ALIVE, NOTICED_WITHIN, RECOVERED_WITHIN, full, missing, other, served_after
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import until
from tests.peers import netns
from tests.peers.cutter import Cutter
from tests.peers.figures import MEGABYTE, Figures, kept_by
from tests.peers.netns import Network
from tests.peers.ports import port_free
from tests.peers.services import Services, pattern
from tests.peers.sshd import Sshd
from tests.peers.sshd import missing as sshd_missing
from tests.peers.traffic import Steady, Transfer

__all__ = ["other"]  # a fixture

# An attempt to connect that was under way when the packets passed again repeats its SYN within this time, seconds.
SYN_REPEATED_WITHIN = 4.0
# However long the outage was: a try that it swallowed is given up for a fresh one.
BACK_WITHIN = 8.0
# Keepalives that notice a silence at once.
QUICK = {"server_alive_interval": 0.2, "server_alive_count_max": 2}
# A changed address is noticed without keepalives too: each link has this long to give a sign of life, seconds.
MOVED_WITHIN = 6.0


@pytest.fixture
def network() -> Iterator[Network]:
    if reason := netns.missing() or sshd_missing():
        pytest.skip(reason)
    with Network() as running:
        yield running


@pytest.fixture
def tunnel(request: pytest.FixtureRequest, network: Network, tmp_path: Path) -> Iterator[xf.Tunnel]:
    """To an echo, through a bastion in a network of its own; the parameter is its keepalives, each second without."""
    folder, sockets = tmp_path / "far", tmp_path / "sockets"
    folder.mkdir()
    sockets.mkdir()
    alive = getattr(request, "param", ALIVE)
    with Services(sockets) as services, Sshd(folder, network=network.name, address=network.far) as bastion:
        target = xf.ssh("far", ssh_config=str(bastion.write_config(folder / "config", "far")), **alive)
        with target.forward(remote_host=services.echo_path, local_port=0, name="far") as tunnel:
            yield tunnel


def test_packets_that_vanish_are_noticed_and_clients_served_when_they_pass_again(
    network: Network, tunnel: xf.Tunnel, other: xf.Tunnel
) -> None:
    clients, port = 50, tunnel.local_port  # as many as the echo's unix socket takes at once
    with Steady(other.local_port) as steady, contextlib.ExitStack() as outage:
        figures = Figures()
        with Transfer(port) as transfer:
            until(lambda: transfer.received > MEGABYTE)
            outage.enter_context(network.dropping())
            dropped = time.monotonic()
            assert transfer.wait(10) == "reset"
            noticed = time.monotonic() - dropped
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        assert not port_free(port)
        took, lost = served_after(tunnel, clients, outage)
        figures.say(
            "packets dropped silently",
            lost=lost,
            recovered=took,
            clients=clients,
            noticed=f"{noticed:.1f} s",
            others=f"{steady.worst:.3f} s",
        )
        assert tunnel.local_port == port
        assert lost == 0
        assert noticed < NOTICED_WITHIN
        assert took < SYN_REPEATED_WITHIN + RECOVERED_WITHIN


def test_packets_that_vanish_for_a_moment_cost_no_byte_and_no_connection(
    network: Network, tunnel: xf.Tunnel, other: xf.Tunnel
) -> None:
    with Steady(other.local_port) as steady:
        figures = Figures()
        with Transfer(tunnel.local_port) as transfer:
            until(lambda: transfer.received > MEGABYTE)
            with network.dropping():
                time.sleep(0.3)  # what is on its way arrives
                reached = transfer.received
                time.sleep(0.7)
                assert transfer.received == reached
            passing = time.monotonic()
            until(lambda: transfer.received > reached)
            took = time.monotonic() - passing
            assert transfer.finish() == "complete"
        assert tunnel.stats.reconnects == 0
        figures.say("packets dropped for 1 s", lost=transfer.lost, recovered=took, others=f"{steady.worst:.3f} s")
        assert took < RECOVERED_WITHIN


@pytest.mark.parametrize("tunnel", [ALIVE, {}], ids=["keepalives", "default"], indirect=True)
def test_changed_address_resets_what_was_carried_and_serves_who_comes_next(
    request: pytest.FixtureRequest, network: Network, tunnel: xf.Tunnel, other: xf.Tunnel
) -> None:
    port = tunnel.local_port
    with Steady(other.local_port) as steady:
        figures = Figures()
        with Transfer(port) as transfer:
            until(lambda: transfer.received > MEGABYTE)
            network.change_address()
            changed = time.monotonic()
            assert transfer.wait(10) == "reset"
            noticed = time.monotonic() - changed
        assert not port_free(port)
        lost = missing(b"from elsewhere", ask(port, b"from elsewhere"))
        took = time.monotonic() - changed
        until(lambda: tunnel.state is xf.TunnelState.READY)
        row = f"address changed, {request.node.callspec.id}"
        figures.say(row, lost=lost, recovered=took, noticed=f"{noticed:.1f} s", others=f"{steady.worst:.3f} s")
        assert (tunnel.local_port, tunnel.stats.reconnects) == (port, 1)
        assert lost == 0
        assert took < MOVED_WITHIN + RECOVERED_WITHIN


@pytest.mark.parametrize("moves", [False, True], ids=["same", "changed"])
@pytest.mark.parametrize("tunnel", [QUICK], ids=["quick"], indirect=True)
def test_long_outage_ends_for_its_clients_soon_after_the_network_is_back_though_a_try_is_under_way(
    network: Network, tunnel: xf.Tunnel, other: xf.Tunnel, moves: bool
) -> None:
    """TCP repeats what an outage swallowed ever more rarely, and from the address that was."""
    clients, outage = 20, full(21, 2)
    with Steady(other.local_port) as steady, contextlib.ExitStack() as back:
        figures = Figures()
        back.enter_context(network.absent())
        time.sleep(outage)  # there is nothing to wait for
        assert tunnel.state is xf.TunnelState.RECONNECTING

        @back.callback
        def come_back() -> None:
            until(network.dialled)
            if moves:
                network.change_address()

        took, lost = served_after(tunnel, clients, back)
        row = f"{outage} s without a network, {'another' if moves else 'the same'} address"
        figures.say(row, lost=lost, recovered=took, clients=clients, others=f"{steady.worst:.3f} s")
        assert lost == 0
        assert took < BACK_WITHIN


@pytest.mark.parametrize("way", ["reset", "end"])
def test_connection_cut_at_any_byte_resets_the_client_whose_answer_is_not_whole(
    way: str, bastion: Sshd, services: Services, other: xf.Tunnel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, size = full(100, 10), 4 * MEGABYTE
    whole = b"".join(pattern(size))
    chosen = random.Random(size)
    bastion.write_known_hosts(hosts="bastion")
    with Cutter(bastion.port) as cutter:
        config = bastion.config(Port=cutter.port, HostKeyAlias="bastion")
        (tmp_path / "cut").write_text(config)
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(tmp_path / "cut"))
        target = xf.ssh("bastion")
        with (
            target.forward(remote_host="pg.vpc", remote_port=services.source, local_port=0, no_check=True) as source,
            target.forward(remote_host="pg.vpc", remote_port=services.reply, local_port=0, no_check=True) as reply,
            Steady(other.local_port) as steady,
        ):
            figures, slowest, lost = Figures(kept_by(rounds, 3.0)), 0.0, 0
            for cut in range(rounds):
                with socket.create_connection(("127.0.0.1", reply.local_port), timeout=10) as upload:
                    upload.sendall(b"half of what there is to say")
                    cutter.cut_after(chosen.randrange(100, size - 100), reset=way == "reset")
                    assert download(source.local_port, whole) == "reset"
                    with pytest.raises(ConnectionResetError):
                        upload.recv(1)
                start = time.monotonic()
                # At once, by a client that comes while there is no link.
                lost += missing(whole, ask(source.local_port, b"%d\n" % size))
                slowest = max(slowest, time.monotonic() - start)
                assert cutter.cuts == cut + 1
            figures.say(
                f"connection cut with a{' reset' if way == 'reset' else 'n end'}",
                lost=lost,
                recovered=slowest,
                rounds=rounds,
                others=f"{steady.worst:.3f} s",
            )
            assert lost == 0
            assert slowest < RECOVERED_WITHIN


def download(port: int, whole: bytes) -> str:
    """How a download of `whole` ends: complete, reset, or what was wrong."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"%d\n" % len(whole))
        try:
            while data := client.recv(256 * 1024):
                received += data
            outcome = "complete" if received == whole else f"an end after {len(received)} bytes"
        except ConnectionResetError:
            outcome = "reset"
    return outcome if whole.startswith(received) else "other bytes than were sent"
