"""Clients of other hosts (`--gateway-ports`): of their leaving the system tells a reset alone. They are served too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import xec_forward as xf
from tests.interop.test_reconnection import parked, until
from tests.kubernetes.peer import NUMBERS, EmbeddedPeer, Programs
from tests.kubernetes.programs import pattern_digest
from tests.peers import netns
from tests.peers.netns import Network
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.demo.cluster import Cluster

WIDE = {"local_interface": "0.0.0.0", "gateway_ports": True, "local_port": 0}
# Sends what it is given, shuts its writing down, and tells how much came back, and its sha256.
CLIENT = """
import hashlib, socket, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=12)
client.sendall(sys.stdin.buffer.read())
client.shutdown(socket.SHUT_WR)
size, digest = 0, hashlib.sha256()
while data := client.recv(1 << 20):
    size += len(data)
    digest.update(data)
print(size, digest.hexdigest())
"""
# Sends something, and resets the connection when its standard input ends.
LEAVER = """
import socket, struct, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=12)
client.sendall(b"ping")
sys.stdin.read()
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.close()
"""


@pytest.fixture
def network() -> Iterator[Network]:
    """Another host."""
    if reason := netns.missing():
        pytest.skip(reason)
    with Network() as running:
        yield running


def ask(network: Network, tunnel: xf.Tunnel, request: bytes) -> bytes:
    """What a client of the other host says that it got."""
    return network.run(sys.executable, "-c", CLIENT, network.near, str(tunnel.local_port), input=request)


def test_early_half_close_truncates_no_download(cluster: Cluster, network: Network) -> None:
    size = 20_000_000
    with Programs() as programs:
        peer = EmbeddedPeer(cluster, programs.serves)
        peer.add_pod("web")
        pausing = NUMBERS["pausing"]
        with peer.cluster().port_forward(pod="web", remote_port=pausing, no_check=True, **WIDE) as tunnel:
            assert ask(network, tunnel, b"%d\n" % size).split() == [b"%d" % size, pattern_digest(size).encode()]


def test_client_that_waits_while_the_bastion_is_down_is_served_when_it_returns(
    bastion: Sshd, services: Services, network: Network
) -> None:
    target = xf.ssh("bastion")
    with (
        target.forward(remote_host="pg.vpc", remote_port=services.echo, **WIDE) as tunnel,
        ThreadPoolExecutor() as pool,
    ):
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        answer = pool.submit(ask, network, tunnel, b"ping")
        until(parked(tunnel))
        bastion.start()
        assert answer.result(15).startswith(b"4 ")


def test_client_that_resets_its_connection_while_the_bastion_is_down_waits_no_more(
    bastion: Sshd, services: Services, network: Network
) -> None:
    """Its socket is not read meanwhile, so that no event loop tells."""
    target = xf.ssh("bastion")
    with target.forward(remote_host="pg.vpc", remote_port=services.echo, **WIDE) as tunnel:
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        where = (network.near, str(tunnel.local_port))
        command = ["ip", "netns", "exec", network.name, sys.executable, "-c", LEAVER, *where]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as client:
            until(parked(tunnel))
            assert client.stdin is not None
            client.stdin.close()
            assert client.wait(15) == 0
        until(lambda: not parked(tunnel)())
        assert tunnel.state is xf.TunnelState.RECONNECTING
