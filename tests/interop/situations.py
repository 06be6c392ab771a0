"""Situations in which something goes wrong, each made real: what the table of errors raises its errors by."""

from __future__ import annotations

import base64
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import until
from tests.peers import netns
from tests.peers.ports import free_port
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from tests.peers.unanswering import Unanswering
from xec_forward.client.session import current

RAISE = """
import base64, pickle
import xec_forward as xf
try:
    {call}
except xf.ForwardError as error:
    print("raised", base64.b64encode(pickle.dumps(error)).decode())
"""
HOLD = """
import sys
import xec_forward as xf
with xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port={far}, local_port={port}, name="sales"):
    print("ready", flush=True)
    sys.stdin.read()
"""


class Scene:
    """What a situation is made of: a bastion, services, and the port that the tunnel would listen on."""

    def __init__(self, bastion: Sshd, services: Services, folder: Path, stack: ExitStack) -> None:
        self.bastion = bastion
        self.services = services
        self.folder = folder
        self.stack = stack
        self.port = free_port()
        self.kept: list[xf.Tunnel] = []
        self.down = False

    def open(self, host: str = "bastion", *, far: str = "pg.vpc", far_port: int = 0, **options: Any) -> xf.Tunnel:
        """The tunnel of the row."""
        own = ("private_key", "host_key", "port", "server_alive_interval")
        target = xf.ssh(host, **{name: options.pop(name) for name in own if name in options})
        where: dict[str, Any] = {"local_port": self.port} if "local_host" not in options else {}
        far_port = far_port or self.services.echo
        return target.forward(remote_host=far, remote_port=far_port, **where, **options)

    def keep(self, tunnel: xf.Tunnel) -> xf.Tunnel:
        """A tunnel that is to live on."""
        self.kept.append(tunnel)
        return self.stack.enter_context(tunnel)

    def configure(self, **options: Any) -> None:
        """The same alias with other ssh_config."""
        self.bastion.write_config(self.folder / "ssh_config", **options)

    def forbid(self, **options: str) -> None:
        """The same bastion with other sshd_config."""
        self.bastion.options.update(options)
        self.bastion.restart()

    def end(self) -> None:
        """The bastion goes, and stays away."""
        self.bastion.kill()
        self.down = True

    def listener(self, port: int = 0) -> int:
        """A program that listens and says nothing."""
        return int(self.stack.enter_context(socket.create_server(("127.0.0.1", port))).getsockname()[1])

    def apart(self, call: str, *prepare: str) -> xf.ForwardError:
        """The error that a call raises in a process without special rights, in a network namespace of its own."""
        if os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
            pytest.skip("root, setpriv and unshare (Debian: util-linux)")
        less = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
        shell = "; ".join(["ip link set lo up", *prepare, 'exec "$@"'])
        command = ["unshare", "--net", "sh", "-c", shell, "sh", *less, sys.executable, "-c", RAISE.format(call=call)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        word, _, pickled = done.stdout.partition(" ")
        assert word == "raised", done.stdout + done.stderr
        error = pickle.loads(base64.b64decode(pickled))
        assert isinstance(error, xf.ForwardError)
        return error


def our_tunnel(scene: Scene) -> None:
    scene.keep(scene.open(name="sales"))
    scene.open()


def another_kernel(scene: Scene) -> None:
    code = HOLD.format(far=scene.services.echo, port=scene.port)
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end() -> None:
        other.communicate(timeout=15)

    scene.stack.callback(end)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    scene.open()


def foreign_program(scene: Scene) -> None:
    scene.listener(scene.port)
    scene.open()


def unix_socket_in_use(scene: Scene) -> None:
    path = scene.folder / "pg.sock"
    path.write_text("not ours")
    scene.open(local_host=str(path))


def bastion_down(scene: Scene) -> None:
    scene.end()
    scene.open()


def later_refusal(scene: Scene) -> xf.ForwardError | None:
    return _told_of_a_client(scene.keep(scene.open(far_port=scene.services.refused, no_check=True)))


def _told_of_a_client(tunnel: xf.Tunnel) -> xf.ForwardError | None:
    """A client comes and is reset; what the tunnel, which stays ready, tells of it."""
    told: list[xf.ForwardError | None] = []
    tunnel.on("error", lambda event: told.append(event.error))
    with pytest.raises(ConnectionResetError):
        ask(tunnel.local_port)
    until(lambda: told)
    assert tunnel.state is xf.TunnelState.READY
    return told[0]


def closes_without_a_hello(scene: Scene) -> None:
    listener = scene.stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def turn_away() -> None:
        listener.accept()[0].close()

    threading.Thread(target=turn_away, daemon=True).start()
    scene.open(far_port=listener.getsockname()[1], dsn="postgresql://ana@/sales")


def privileged_port(scene: Scene) -> None:
    raise scene.apart("xf.ssh('bastion').forward(local_port=80, remote_host='pg.vpc', remote_port=80)")


def forbidden_folder(scene: Scene) -> None:
    folder = scene.folder / "theirs"
    folder.mkdir(mode=0o755)
    if os.getuid() == 0:
        os.chown(folder, 65534, -1)
    where = f"local_host={str(folder / 'pg.sock')!r}, remote_host='pg.vpc', remote_port=5432"
    raise scene.apart(f"xf.ssh('bastion').forward({where})")


def no_route(scene: Scene) -> None:
    unroutable = scene.folder / "unroutable"
    unroutable.write_text("Host bastion\n    HostName 198.18.0.1\n    UserKnownHostsFile /dev/null\n")
    raise scene.apart(
        f"xf.ssh('bastion', ssh_config={str(unroutable)!r}).forward(remote_port=80, local_port=0)",
        "ip route add unreachable 198.18.0.0/15",
    )


def no_network(scene: Scene) -> None:
    unroutable = scene.folder / "unroutable"
    unroutable.write_text("Host bastion\n    HostName 198.18.0.1\n    UserKnownHostsFile /dev/null\n")
    raise scene.apart(f"xf.ssh('bastion', ssh_config={str(unroutable)!r}).forward(remote_port=80, local_port=0)")


def silent_server(scene: Scene) -> None:
    scene.configure(Port=scene.listener())
    scene.open(timeout=0.7)


def blackhole(scene: Scene) -> None:
    if missing := netns.missing():
        pytest.skip(missing)
    network = scene.stack.enter_context(netns.Network())
    scene.configure(HostName=network.far)
    scene.stack.enter_context(network.dropping())
    scene.open(timeout=0.7)


def frozen_bastion(scene: Scene) -> None:
    scene.bastion.freeze()
    try:
        scene.open(timeout=0.7)
    finally:
        scene.bastion.thaw()


def unanswering_target(scene: Scene) -> None:
    target = scene.stack.enter_context(Unanswering())
    scene.open(far_port=target.port, timeout=0.7)


def unanswering_target_later(scene: Scene) -> xf.ForwardError | None:
    target = scene.stack.enter_context(Unanswering())
    return _told_of_a_client(scene.keep(scene.open(far_port=target.port, no_check=True, timeout=1.2)))


def target_behind_a_firewall(scene: Scene) -> None:
    """The bastion itself gives up: in its network the target's packets vanish."""
    if missing := netns.missing():
        pytest.skip(missing)
    network = scene.stack.enter_context(netns.Network())
    folder = scene.folder / "apart"
    folder.mkdir()
    far = scene.stack.enter_context(Sshd(folder, network=network.name, address=network.far))
    network.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_syn_retries")
    network.run("tc", "qdisc", "add", "dev", "lo", "root", "blackhole")
    far.write_config(scene.folder / "ssh_config")
    scene.open(far_port=9)


def held_too_long(scene: Scene) -> xf.ForwardError | None:
    tunnel = scene.keep(scene.open(hold=0.3))
    told: list[xf.ForwardError | None] = []
    scene.end()
    until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
    tunnel.on("error", lambda event: told.append(event.error))
    with pytest.raises(ConnectionResetError):
        ask(tunnel.local_port)
    until(lambda: told)
    return told[0]


def wrong_key(scene: Scene) -> None:
    scene.configure(IdentityFile=scene.bastion.stranger_key())
    scene.open()


def nobody_for_the_passphrase(scene: Scene) -> None:
    scene.configure(IdentityFile=scene.bastion.encrypted_key())
    scene.open()


def unknown_host_key(scene: Scene) -> None:
    scene.bastion.known_hosts.write_text("")
    scene.open(host_key="strict")


def changed_host_key(scene: Scene) -> None:
    scene.bastion.restart(changed_host_key=True)
    scene.open()


def too_many_tunnels(scene: Scene) -> None:
    before = xf.tunnels.limit
    scene.stack.callback(setattr, xf.tunnels, "limit", before)
    scene.keep(xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=scene.services.echo, local_port=0))
    xf.tunnels.limit = 1
    scene.open()


def too_many_clients(scene: Scene) -> xf.ForwardError | None:
    tunnel = scene.keep(scene.open(max_connections=1))
    told: list[xf.ForwardError | None] = []
    tunnel.on("error", lambda event: told.append(event.error))
    with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as first:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        with pytest.raises(ConnectionResetError):
            ask(tunnel.local_port)
        until(lambda: told)
    return told[0]


def turns_us_away(scene: Scene) -> None:
    listener = scene.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    scene.configure(Port=listener.getsockname()[1])

    def turn_away() -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass

    threading.Thread(target=turn_away, daemon=True).start()
    scene.open()


def closed_tunnel(scene: Scene) -> None:
    tunnel = scene.open()
    tunnel.close()
    tunnel.reconnect()


def killed_engine(scene: Scene) -> None:
    scene.bastion.freeze()

    def kill() -> None:
        until(lambda: any(tunnel.snapshot.listen for tunnel in current().tunnels.values()))
        os.kill(current().engine_pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        scene.open()
    finally:
        killing.join(10)
        scene.bastion.thaw()


def no_place_for_the_engine(scene: Scene) -> None:
    before = os.environ["XEC_FORWARD_STATE"]
    scene.stack.callback(os.environ.__setitem__, "XEC_FORWARD_STATE", before)
    os.environ["XEC_FORWARD_STATE"] = "/proc/no/such/folder"
    scene.open()
