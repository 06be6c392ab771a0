"""Events of a tunnel (S54-S56): sticky ready, reconnecting and reconnected, close once, handlers that fail."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import in_background, open_echo, until
from tests.peers.ports import free_port
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.events import Event
from xec_forward.client.session import current


def test_outage_is_told_in_order_and_close_comes_once_and_last(bastion: Sshd, services: Services) -> None:
    tunnel = open_echo(services)
    seen: list[str] = []
    for name in ("ready", "reconnecting", "reconnected", "close"):
        tunnel.on(name, lambda event: seen.append(event.name))
    until(lambda: seen == ["ready"])
    bastion.kill()
    until(lambda: seen[-1] == "reconnecting")
    bastion.start()
    until(lambda: seen[-1] == "reconnected")
    tunnel.close()
    tunnel.close()
    until(lambda: seen == ["ready", "reconnecting", "reconnected", "close"])


def test_late_subscriber_is_told_that_it_is_ready(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel:
        told = threading.Event()
        tunnel.once("ready", lambda event: told.set())
        assert told.wait(5)


def test_once_is_told_once_and_off_is_told_no_more(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel:
        once: list[Event] = []
        never: list[Event] = []
        every: list[Event] = []
        tunnel.once("reconnected", once.append)
        tunnel.off("reconnected", tunnel.on("reconnected", never.append))
        tunnel.on("reconnected", every.append)
        for count in (1, 2):
            tunnel.reconnect()
            until(lambda count=count: len(every) == count)  # type: ignore[misc]
        assert (len(once), never) == (1, [])


def test_failing_handler_is_logged_and_disturbs_nobody(
    bastion: Sshd, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    with open_echo(services) as tunnel, caplog.at_level(logging.ERROR):
        after = threading.Event()
        tunnel.on("reconnected", lambda event: 1 // 0)
        tunnel.on("reconnected", lambda event: after.set())
        tunnel.reconnect()
        assert after.wait(10)
        assert tunnel.is_alive()
    assert "a handler of reconnected failed" in caplog.text


def test_handler_may_close_its_tunnel(bastion: Sshd, services: Services) -> None:
    tunnel = open_echo(services)
    closed = threading.Event()
    tunnel.on("reconnecting", lambda event: tunnel.close())
    tunnel.on("close", lambda event: closed.set())
    bastion.kill()
    assert closed.wait(10)
    assert tunnel.state is xf.TunnelState.CLOSED


def test_refused_client_is_an_error_event_with_its_reason(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    with target.forward(remote_host="pg.vpc", remote_port=services.refused, local_port=0, no_check=True) as tunnel:
        errors: list[Event] = []
        tunnel.on("error", errors.append)
        with pytest.raises(ConnectionResetError):
            ask(tunnel.local_port)
        until(lambda: errors)
        assert isinstance(errors[0].error, xf.RefusedError)


async def test_async_iteration_sees_everything_and_ends_with_close(bastion: Sshd, services: Services) -> None:
    tunnel = await asyncio.to_thread(open_echo, services)
    seen: list[str] = []

    async def watch() -> None:
        async for event in tunnel.events():
            seen.append(event.name)
            if event.name == "ready":
                await tunnel.areconnect()
            if event.name == "reconnected":
                await tunnel.aclose()

    await asyncio.wait_for(watch(), 15)
    assert seen == ["ready", "reconnecting", "reconnected", "close"]


async def test_iteration_begins_where_it_was_asked_for_and_not_where_it_is_first_waited_for(
    bastion: Sshd, services: Services
) -> None:
    tunnel = await asyncio.to_thread(open_echo, services)
    events = tunnel.events()
    await tunnel.areconnect()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    tunnel.on("reconnected", lambda event: loop.call_soon_threadsafe(told.set))
    await asyncio.wait_for(told.wait(), 10)
    await tunnel.aclose()
    seen = [event.name async for event in events]
    assert seen == ["ready", "reconnecting", "reconnected", "close"]


def test_iteration_that_nobody_has_any_more_is_forgotten(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel:
        before = len(tunnel._events._registered)
        stream = tunnel.events()
        assert len(tunnel._events._registered) > before
        del stream
        assert len(tunnel._events._registered) == before


def test_close_is_told_after_the_events_that_a_slow_handler_keeps_waiting(bastion: Sshd, services: Services) -> None:
    target = xf.ssh("bastion")
    seen: list[str] = []
    go = threading.Event()

    def slow(event: Event) -> None:
        go.wait(10)
        seen.append(event.name)

    with target.forward(remote_host="pg.vpc", remote_port=services.refused, local_port=0, no_check=True) as tunnel:
        tunnel.on("error", slow)
        tunnel.on("close", lambda event: seen.append(event.name))
        for _ in range(20):
            with pytest.raises(ConnectionResetError):
                ask(tunnel.local_port)
        tunnel.close()
        assert tunnel.state is xf.TunnelState.CLOSED
        assert seen == []
        go.set()
        until(lambda: "close" in seen)
        assert seen == ["error"] * 20 + ["close"]


def test_handler_that_waits_holds_up_nothing_but_other_handlers(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel:
        ready: list[xf.TunnelState] = []
        go = threading.Event()
        tunnel.on("reconnecting", lambda event: ready.append(tunnel.wait_ready(8).state))
        tunnel.on("reconnected", lambda event: go.wait(20))
        tunnel.reconnect()
        until(lambda: ready)
        assert ready == [xf.TunnelState.READY]
        try:
            changes: list[xf.TunnelState] = []
            tunnel.observe(lambda change: changes.append(change["new"]), names="state")
            tunnel.reconnect()
            assert tunnel.state is xf.TunnelState.RECONNECTING
            tunnel.wait_ready(5)
            os.kill(current().engine_pid, signal.SIGKILL)
            until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
            tunnel.wait_ready(10)
            assert ask(tunnel.local_port) == b"ping"
            assert changes == []
        finally:
            go.set()
        until(lambda: len(changes) >= 4)
        assert changes[:2] == [xf.TunnelState.RECONNECTING, xf.TunnelState.READY]
        assert changes[-1] is xf.TunnelState.READY


@pytest.mark.parametrize("raised", [SystemExit("the link is down"), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_handler_that_ends_its_thread_ends_no_other(
    bastion: Sshd, services: Services, caplog: pytest.LogCaptureFixture, raised: BaseException
) -> None:
    def leave(event: Event) -> None:
        raise raised

    with open_echo(services) as tunnel, open_echo(services) as other, caplog.at_level(logging.ERROR):
        after = threading.Event()
        tunnel.on("reconnecting", leave)
        other.on("reconnected", lambda event: after.set())
        tunnel.reconnect()
        assert after.wait(10)
    assert "a handler of reconnecting failed" in caplog.text


def test_failing_observer_is_logged_and_disturbs_nobody(
    bastion: Sshd, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel = open_echo(services)
    seen: list[str] = []

    def failing(change: object) -> None:
        raise SystemExit("a slip")

    with caplog.at_level(logging.ERROR):
        tunnel.observe(failing, names="state")
        tunnel.observe(lambda change: seen.append(str(change["new"])), names="state")
        tunnel.on("reconnected", lambda event: seen.append(event.name))
        tunnel.on("close", lambda event: seen.append(event.name))
        tunnel.reconnect()
        until(lambda: "reconnected" in seen)
        assert seen == ["reconnecting", "ready", "reconnected"]
        tunnel.unobserve(failing, names="state")
        caplog.clear()
        tunnel.close()
        until(lambda: "close" in seen)
    assert seen[-2:] == ["closed", "close"]
    assert not xf.tunnels
    assert caplog.text == ""


def test_observer_that_fails_at_the_end_leaves_no_tunnel_on_the_list(bastion: Sshd, services: Services) -> None:
    tunnel = open_echo(services)
    tunnel.observe(lambda change: 1 // 0, names="state")
    xf.close_all()
    assert tunnel.state is xf.TunnelState.CLOSED
    assert not xf.tunnels


async def test_coroutine_handler_is_told_of_what_has_been(bastion: Sshd, services: Services) -> None:
    tunnel = await asyncio.to_thread(open_echo, services)
    told: asyncio.Queue[tuple[str, object]] = asyncio.Queue()

    async def handler(event: Event) -> None:
        told.put_nowait((event.name, asyncio.get_running_loop()))

    here = asyncio.get_running_loop()
    tunnel.on("ready", handler)
    tunnel.once("ready", handler)
    async with asyncio.timeout(5):
        assert [await told.get(), await told.get()] == [("ready", here)] * 2
        await tunnel.aclose()
        tunnel.once("close", handler)
        assert await told.get() == ("close", here)


def test_coroutine_handler_without_a_loop_is_one_clear_error(bastion: Sshd, services: Services) -> None:
    async def handler(event: Event) -> None: ...

    with open_echo(services) as tunnel, pytest.raises(xf.SpecError, match=r"ESPEC .*Register it in a coroutine"):
        tunnel.on("error", handler)


async def test_coroutine_handler_runs_in_the_loop_it_was_registered_from(bastion: Sshd, services: Services) -> None:
    tunnel = await asyncio.to_thread(open_echo, services)
    where: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def handler(event: Event) -> None:
        where.set_result(asyncio.get_running_loop())

    tunnel.on("close", handler)
    await tunnel.aclose()
    assert await asyncio.wait_for(where, 5) is asyncio.get_running_loop()


KERNEL = """
import sys
import xec_forward as xf
target = xf.ssh("bastion")
with target.forward(remote_host="pg.vpc", remote_port={far}, local_port={port}, no_check=True) as tunnel:
    for name in ("reconnecting", "reconnected"):
        tunnel.on(name, lambda event: print(event.name, flush=True))
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_kernel_that_did_not_read_for_a_while_is_told_of_every_change_of_state(
    bastion: Sshd, services: Services
) -> None:
    port = free_port()
    code = KERNEL.format(far=services.refused, port=port)
    kernel = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == "ready\n"
        kernel.send_signal(signal.SIGSTOP)
        for _ in range(800):  # more than the pipe holds
            with pytest.raises(ConnectionResetError):
                ask(port)
        bastion.kill()
        waiting = in_background(lambda: ask(port))
        bastion.start()
        with pytest.raises(ConnectionResetError):
            waiting.result(10)  # refused again: by the new link
        kernel.send_signal(signal.SIGCONT)
        told = ThreadPoolExecutor(1).submit(lambda: [kernel.stdout.readline() for _ in range(2)])
        assert told.result(10) == ["reconnecting\n", "reconnected\n"]
    finally:
        kernel.send_signal(signal.SIGCONT)
        kernel.communicate(timeout=15)


def test_unknown_event_names_the_nearest(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel, pytest.raises(xf.SpecError, match="Did you mean ready"):
        tunnel.on("redy", print)
