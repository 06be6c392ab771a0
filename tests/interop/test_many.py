"""Several forwards opened together (S3, S29, S41-S46) over one connection of a real sshd."""

from __future__ import annotations

import asyncio
import copy
import threading
import time

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import until
from tests.interop.test_socks_proxy import connect5
from tests.peers.ports import port_free
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.model import Snapshot


def handshakes(bastion: Sshd) -> int:
    """How many logins the bastion has seen."""
    return bastion.log.read_text().count("Accepted publickey")


def entry(bastion: Sshd, name: str, port: int, **more: object) -> dict[str, object]:
    return {"name": name, "remote_host": bastion.far(), "remote_port": port, "local_port": 0, **more}


def test_twenty_forwards_open_side_by_side_over_one_handshake(bastion: Sshd, services: Services) -> None:
    with xf.ssh("bastion").forward_multiple([entry(bastion, f"n{n}", services.echo) for n in range(20)]) as group:
        assert len(group) == 20
        assert list(group) == [f"n{n}" for n in range(20)]
        assert (bastion.connections(), handshakes(bastion)) == (1, 1)
        assert all(ask(tunnel.local_port) == b"ping" for tunnel in group.values())
        ports = [tunnel.local_port for tunnel in group.values()]
    assert not xf.tunnels
    assert all(port_free(port) for port in ports)


def test_one_that_failed_tells_of_no_port_whatever_was_heard_of_it_last(
    bastion: Sshd, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that takes its time has what the engine reports after its bind wait: the answer overtakes it."""
    go = threading.Event()
    follow = xf.Tunnel.follow

    def slowly(tunnel: xf.Tunnel, snapshot: Snapshot, event: str = "") -> None:
        follow(tunnel, snapshot, event)
        if snapshot.notes and threading.current_thread() is not threading.main_thread():
            go.wait(10)

    monkeypatch.setattr(xf.Tunnel, "follow", slowly)
    entries = [
        entry(bastion, "echo", services.echo),
        # Its port is held on this side, too: another was bound, and remarked on.
        {"name": "web", "remote_host": bastion.far(), "remote_port": services.refused},
    ]
    try:
        with xf.ssh("bastion").forward_multiple(entries) as group:
            assert group["web"].state is xf.TunnelState.FAILED
            assert group["web"].snapshot.notes == ()
    finally:
        go.set()


def test_kinds_may_be_mixed(bastion: Sshd, services: Services) -> None:
    wanted = [
        entry(bastion, "api", services.echo),
        {"name": "hook", "type": "remote", "remote_port": 0, "local_port": services.echo},
        {"name": "proxy", "type": "dynamic", "local_port": 0},
    ]
    with xf.ssh("bastion").forward_multiple(wanted) as group:
        assert ask(group.api.local_port) == b"ping"
        assert ask(group.hook.remote_port) == b"ping"
        code, client = connect5(group.proxy.local_port, bastion.far(), services.echo)
        client.close()
        assert code == 0
        assert handshakes(bastion) == 1


def test_group_is_a_mapping_by_name_port_and_attribute(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    with target.forward_multiple([entry(bastion, "API", services.echo), entry(bastion, "db", services.reply)]) as group:
        assert group["API"] is group.API is group[group.API.local_port] is group[services.echo]
        assert group[services.reply] is group.db
        assert "API" in group
        assert "nope" not in group
        assert 0 not in group
        with pytest.raises(KeyError):
            group["nope"]
        with pytest.raises(AttributeError, match="nope"):
            _ = group.nope
        assert "db" in dir(group)
        assert dict(group) == {"API": group.API, "db": group.db}
        assert copy.copy(group)["db"] is group.db
        assert "API ready" in repr(group)
    assert "API closed" in repr(group)


def test_local_port_comes_before_a_far_one(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    wanted = [
        entry(bastion, "far", services.echo),
        entry(bastion, "near", services.reply, local_port=services.echo, local_host="127.0.0.2"),
    ]
    with target.forward_multiple(wanted) as group:
        assert group[services.echo] is group.near


def test_failed_one_is_marked_and_its_siblings_stay(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    wanted = [entry(bastion, "good", services.echo), entry(bastion, "bad", services.refused)]
    with target.forward_multiple(wanted) as group:
        assert (group.good.state, group.bad.state) == (xf.TunnelState.READY, xf.TunnelState.FAILED)
        assert isinstance(group.bad.error, xf.RefusedError)
        assert ask(group.good.local_port) == b"ping"
        with pytest.raises(xf.RefusedError):
            group.wait_ready(5)
    assert not xf.tunnels


def test_exit_on_failure_rolls_all_of_it_back(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    wanted = [entry(bastion, "good", services.echo), entry(bastion, "bad", services.refused)]
    with pytest.raises(xf.RefusedError):
        target.forward_multiple(wanted, exit_on_failure=True)
    assert not xf.tunnels
    until(lambda: bastion.connections() == 0)


def test_all_failing_raises_the_first_error(bastion: Sshd, services: Services) -> None:
    with pytest.raises(xf.RefusedError):
        xf.ssh("bastion").forward_multiple([entry(bastion, f"bad{n}", services.refused) for n in range(3)])
    assert not xf.tunnels


def test_malformed_entry_opens_nothing(bastion: Sshd, services: Services) -> None:
    for bad in ({"name": "bad", "local_port": 0}, entry(bastion, "bad", services.echo, ttl="soon")):
        with pytest.raises(xf.SpecError):
            xf.ssh("bastion").forward_multiple([entry(bastion, "good", services.echo), bad])
    assert not xf.tunnels
    # Not by counting connections: the look whether the server is up may still be on its way out.
    assert "Accepted" not in bastion.log.read_text()


def test_option_of_a_wrong_type_is_said_and_harms_no_other_tunnel(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    with target.forward(remote_host=bastion.far(), remote_port=services.echo, local_port=0) as tunnel:
        for wrong in ({"hold": None}, {"ttl": float("nan")}, {"lazy": "yes"}, {"max_connections": 1.5}):
            with pytest.raises(xf.SpecError, match=next(iter(wrong))):
                target.forward(remote_host=bastion.far(), remote_port=services.echo, local_port=0, **wrong)
        with pytest.raises(xf.SpecError, match="server_alive_interval"):
            xf.ssh("bastion", server_alive_interval=object())
        assert ask(tunnel.local_port) == b"ping"


def test_wait_ready_of_a_group_waits_for_all_within_one_deadline(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    with target.forward_multiple([entry(bastion, f"n{n}", services.echo) for n in range(3)]) as group:
        bastion.kill()
        until(lambda: all(tunnel.state is xf.TunnelState.RECONNECTING for tunnel in group.values()))
        start = time.monotonic()
        with pytest.raises(xf.DeadlineError):
            group.wait_ready(0.3)
        assert time.monotonic() - start < 1
        bastion.start()
        assert group.wait_ready(15) is group
        assert all(ask(tunnel.local_port) == b"ping" for tunnel in group.values())
        assert bastion.connections() == 1


async def test_awaitable_twins(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    wanted = [entry(bastion, f"n{n}", services.echo) for n in range(5)]
    async with await target.aforward_multiple(wanted) as group:
        assert await group.await_ready(5) is group
        assert handshakes(bastion) == 1
        assert await asyncio.to_thread(ask, group.n4.local_port) == b"ping"
    assert not xf.tunnels
    with pytest.raises(xf.RefusedError):
        bad = [*wanted, entry(bastion, "bad", services.refused)]
        await target.aforward_multiple(bad, exit_on_failure=True)
    assert not xf.tunnels
    await target.aforward_multiple(wanted)
    await xf.aclose_all()
    assert not xf.tunnels


def test_close_all_closes_every_kind(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    target.forward_multiple([entry(bastion, "a", services.echo), {"type": "dynamic", "local_port": 0}])
    target.forward(type="remote", remote_port=0, local_port=services.echo)
    assert list(xf.tunnels) == ["a", "socks", f"remote_{services.echo}"]
    xf.close_all()
    assert not xf.tunnels
    until(lambda: bastion.connections() == 0)
