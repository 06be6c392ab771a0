"""Events of a tunnel (S54-S56): sticky ready, reconnecting and reconnected, close once, handlers that fail."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import open_echo, until
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.events import Event


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


async def test_coroutine_handler_runs_in_the_loop_it_was_registered_from(bastion: Sshd, services: Services) -> None:
    tunnel = await asyncio.to_thread(open_echo, services)
    where: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def handler(event: Event) -> None:
        where.set_result(asyncio.get_running_loop())

    tunnel.on("close", handler)
    await tunnel.aclose()
    assert await asyncio.wait_for(where, 5) is asyncio.get_running_loop()


def test_unknown_event_names_the_nearest(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel, pytest.raises(xf.SpecError, match="Did you mean ready"):
        tunnel.on("redy", print)
