"""Persistence (S50-S53): what is tried again and how often, what never is; the port is held meanwhile."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.interop.test_python_api import ask
from tests.interop.test_reconnection import in_background, open_echo, parked, until
from tests.peers.interrogator import Interrogator
from tests.peers.kernel import Kernel, wait_until
from tests.peers.kernel import missing as kernel_missing
from tests.peers.ports import free_port, port_free
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.client.events import Event
from xec_forward.client.session import current

# Seconds between tries, short enough for a test.
DELAY = 0.3


def opened_later(open: Callable[[], xf.Tunnel]) -> Future[xf.Tunnel]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(open)
    pool.shutdown(wait=False)
    return future


def opening() -> xf.Tunnel:
    """The tunnel that is being opened, once it listens; its handle is not its caller's yet."""
    until(lambda: any(tunnel.snapshot.listen for tunnel in current().tunnels.values()))
    (tunnel,) = current().tunnels.values()
    return tunnel


class Told:
    """What the `error` events of a tunnel said, and when."""

    def __init__(self, tunnel: xf.Tunnel) -> None:
        self.errors: list[xf.ForwardError] = []
        self.times: list[float] = []
        tunnel.on("error", self._take)

    def _take(self, event: Event) -> None:
        assert event.error is not None
        self.errors.append(event.error)
        self.times.append(time.monotonic())


def dials(bastion: Sshd) -> int:
    """How many connections the bastion has seen."""
    return bastion.log.read_text().count("Connection from ")


# ---- the first connection ----


def test_call_returns_ready_once_the_bastion_is_there(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    call = opened_later(lambda: open_echo(services, retry_initial=True, retry_delay=DELAY))
    tunnel = opening()
    told = Told(tunnel)
    until(lambda: len(told.errors) >= 3)
    assert not call.done()
    assert tunnel.state is xf.TunnelState.OPENING
    assert not port_free(tunnel.local_port)
    assert {type(error) for error in told.errors} == {xf.RefusedError}
    bastion.start()
    assert call.result(10) is tunnel
    assert tunnel.is_alive()
    assert tunnel.error is None
    assert [step.name for step in tunnel.snapshot.steps] == ["ssh", "target"]
    assert ask(tunnel.local_port) == b"ping"


def test_ttl_begins_when_the_tunnel_is_there(bastion: Sshd, services: Services) -> None:
    ttl = 1.0
    bastion.kill()
    call = opened_later(lambda: open_echo(services, retry_initial=True, retry_delay=ttl / 2, ttl=ttl))
    told = Told(opening())
    until(lambda: told.times and told.times[-1] - told.times[0] > 1.5 * ttl)
    bastion.start()
    tunnel = call.result(10)
    ready = time.monotonic()
    assert ask(tunnel.local_port) == b"ping"
    until(lambda: tunnel.state is xf.TunnelState.CLOSED)
    assert time.monotonic() - ready > 0.9 * ttl
    assert "its ttl of 1 s is over" in str(tunnel.error)


def test_tries_come_at_the_delay_that_was_asked_for(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    call = opened_later(lambda: open_echo(services, retry_initial=True, retry_delay=1.0))
    told = Told(opening())
    until(lambda: len(told.errors) >= 3)
    gaps = [after - before for before, after in zip(told.times, told.times[1:], strict=False)]
    assert all(0.95 < gap < 1.6 for gap in gaps), gaps
    current().tunnels[max(current().tunnels)].close()
    with pytest.raises(xf.ClosedError):
        call.result(10)


def test_refused_target_that_comes_up_later_is_waited_for_too(bastion: Sshd) -> None:
    port = free_port()
    target = xf.ssh("bastion")
    call = opened_later(
        lambda: target.forward(
            remote_host="pg.vpc", remote_port=port, local_port=0, retry_initial=True, retry_delay=DELAY
        )
    )
    told = Told(opening())
    until(lambda: len(told.errors) >= 2)
    assert all(error.hop == f"pg.vpc:{port}" for error in told.errors)
    assert bastion.connections() <= 1
    with _echo_at(port):
        tunnel = call.result(10)
        assert ask(tunnel.local_port) == b"ping"
        assert bastion.connections() == 1
        tunnel.close()


def test_client_that_comes_before_the_first_connection_is_served(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    port = free_port()
    target = xf.ssh("bastion")
    call = opened_later(
        lambda: target.forward(
            remote_host="pg.vpc", remote_port=services.echo, local_port=port, retry_initial=True, retry_delay=DELAY
        )
    )
    told = Told(opening())
    waiting = in_background(lambda: ask(port, b"patience"))
    until(lambda: told.errors)
    bastion.start()
    assert call.result(10).local_port == port
    assert waiting.result(10) == b"patience"


def test_client_that_comes_before_the_first_connection_waits_no_longer_than_hold(
    bastion: Sshd, services: Services
) -> None:
    bastion.kill()
    call = opened_later(lambda: open_echo(services, retry_initial=True, retry_delay=DELAY, hold=0.5))
    tunnel = opening()
    start = time.monotonic()
    with pytest.raises(ConnectionResetError):
        ask(tunnel.local_port)
    assert 0.4 < time.monotonic() - start < 3
    bastion.start()
    assert ask(call.result(10).local_port) == b"ping"
    tunnel.close()


def test_port_of_a_tunnel_that_is_still_opening_is_named_to_another_kernel(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    call = opened_later(lambda: open_echo(services, retry_initial=True, retry_delay=DELAY, name="sales"))
    port = opening().local_port
    code = (
        f"import xec_forward as xf; xf.ssh('bastion').forward(remote_host='pg.vpc', remote_port=1, local_port={port})"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert f"EADDRINUSE 127.0.0.1:{port}: held by the tunnel sales of " in other.stderr
    bastion.start()
    call.result(10).close()


def test_reconnect_while_it_opens_does_not_fail_the_opening(bastion: Sshd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = xf.ssh("bastion")
        port = silent.getsockname()[1]
        call = opened_later(
            lambda: target.forward(
                remote_host="pg.vpc", remote_port=port, local_port=0, dsn="postgresql://ana@/sales", name="slow"
            )
        )
        tunnel = opening()
        silent.settimeout(10)
        served, _ = silent.accept()
        with served:
            tunnel.reconnect()
            served.sendall(b"N")
            with call.result(10) as opened:
                assert opened.state is xf.TunnelState.READY


def test_max_retries_gives_up_with_the_last_error_and_frees_the_port(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    port = free_port()
    target = xf.ssh("bastion")
    start = time.monotonic()
    with pytest.raises(xf.RefusedError, match="nobody listens at"):
        target.forward(
            remote_host="pg.vpc",
            remote_port=services.echo,
            local_port=port,
            retry_initial=True,
            retry_delay=DELAY,
            max_retries=3,
        )
    assert 3 * DELAY <= time.monotonic() - start < 3 * DELAY + 3
    assert port_free(port)
    assert not xf.tunnels


def test_every_failed_try_counts_and_a_first_try_is_no_retry(bastion: Sshd) -> None:
    port = free_port()
    target = xf.ssh("bastion")
    call = opened_later(
        lambda: target.forward(
            remote_host="pg.vpc", remote_port=port, local_port=0, retry_initial=True, retry_delay=DELAY, max_retries=2
        )
    )
    told = Told(opening())
    with pytest.raises(xf.RefusedError, match="refused, as seen from bastion"):
        call.result(10)
    until(lambda: len(told.errors) == 3)


def test_without_retry_initial_the_first_failure_is_the_end(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    start = time.monotonic()
    with pytest.raises(xf.RefusedError):
        open_echo(services, max_retries=5)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("fault", ["key", "host key", "config"])
def test_what_another_try_will_not_mend_is_never_tried_again(
    bastion: Sshd, services: Services, tmp_path: Path, fault: str
) -> None:
    options: dict[str, Any] = {}
    target: dict[str, Any] = {}
    kind: type[xf.ForwardError]
    match fault:
        case "key":
            options, kind = {"IdentityFile": bastion.stranger_key()}, xf.AuthenticationError
        case "host key":
            bastion.restart(changed_host_key=True)
            kind = xf.ChangedHostKeyError
        case _:
            target, kind = {"private_key": str(tmp_path / "not_there")}, xf.ConfigError
    bastion.write_config(tmp_path / "ssh_config", **options)
    before, start, port = dials(bastion), time.monotonic(), free_port()
    with pytest.raises(kind):
        xf.ssh("bastion", **target).forward(
            remote_host="pg.vpc",
            remote_port=services.echo,
            local_port=port,
            retry_initial=True,
            retry_delay=5.0,
        )
    assert time.monotonic() - start < 4
    assert dials(bastion) - before <= 1
    assert port_free(port)


def test_close_during_the_wait_is_the_end(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    call = opened_later(lambda: open_echo(services, retry_initial=True, retry_delay=60.0))
    tunnel = opening()
    port, told = tunnel.local_port, Told(tunnel)
    until(lambda: told.errors or tunnel.error)
    closed: list[Event] = []
    tunnel.on("close", closed.append)
    tunnel.close()
    with pytest.raises(xf.ClosedError):
        call.result(5)
    assert tunnel.state is xf.TunnelState.CLOSED
    assert port_free(port)
    bastion.start()
    until(lambda: closed)
    until(lambda: bastion.connections() == 0)
    assert tunnel.state is xf.TunnelState.CLOSED


async def test_cancelled_call_ends_the_wait_and_frees_the_port(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    target = xf.ssh("bastion")
    call = asyncio.ensure_future(
        target.aforward(
            remote_host="pg.vpc", remote_port=services.echo, local_port=0, retry_initial=True, retry_delay=60.0
        )._open()
    )
    tunnel = await asyncio.to_thread(opening)
    await asyncio.to_thread(until, lambda: tunnel.error is not None)
    port = tunnel.local_port
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 5)
    assert port_free(port)
    assert not xf.tunnels


def test_reconnect_does_not_wait_for_the_delay(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    call = opened_later(lambda: open_echo(services, retry_initial=True, retry_delay=60.0))
    tunnel = opening()
    until(lambda: tunnel.error is not None)
    bastion.start()
    tunnel.reconnect()
    assert call.result(5).state is xf.TunnelState.READY


@pytest.fixture
def kernel(tmp_path: Path, bastion: Sshd) -> Iterator[Kernel]:
    if missing := kernel_missing():
        pytest.skip(missing)
    folder = tmp_path / "kernel"
    folder.mkdir()
    with Kernel(folder, {}, "%load_ext xec_forward") as running:
        yield running


def test_cell_shows_why_it_waits_and_an_interrupt_ends_it(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    port = free_port()
    line = f"%forward bastion {port}:{bastion.far()}:{services.echo} --as echo --retry-initial"
    bastion.kill()
    running = kernel.start(line)
    shown = running.until(lambda result: "again in" in result.text).displays[0].text
    assert re.search(r"echo  opening  127\.0\.0\.1:\d+ -> bastion -> .*  ECONNREFUSED, again in 5 s", shown), shown
    assert not port_free(port)
    kernel.interrupt()
    result = running.wait()
    assert result.error is not None
    assert result.error.value.startswith("interrupted; ")
    assert result.seconds < 10
    wait_until(lambda: port_free(port), "the port is still held")
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0
    running = kernel.start(f"{line} --retry-delay {DELAY}")
    running.until(lambda result: f"again in {DELAY} s" in result.text)
    bastion.start()
    assert running.wait().ok().displays[0].text.startswith(f"echo  ready  127.0.0.1:{port} -> bastion -> ")


def test_wait_longer_than_the_opening_may_take_is_no_silence(bastion: Sshd, services: Services) -> None:
    bastion.kill()
    call = opened_later(lambda: open_echo(services, retry_initial=True, retry_delay=9.0, timeout=0.5))
    tunnel = opening()
    told = Told(tunnel)
    until(lambda: told.errors, 15)  # a second try, after a pause far longer than `timeout` and the client's margin
    assert not call.done()
    tunnel.close()
    with pytest.raises(xf.ClosedError):
        call.result(5)


# ---- a new connection ----


def test_max_retries_ends_reconnection_and_reconnect_tries_again(bastion: Sshd, services: Services) -> None:
    with open_echo(services, max_retries=2) as tunnel:
        port, told = tunnel.local_port, Told(tunnel)
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.FAILED)
        assert isinstance(tunnel.error, xf.RefusedError)
        until(lambda: told.errors)
        assert not port_free(port)
        start = time.monotonic()
        with pytest.raises(ConnectionResetError):
            ask(port)
        assert time.monotonic() - start < 1
        with pytest.raises(xf.RefusedError):
            tunnel.wait_ready(1)
        tunnel.reconnect()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        until(lambda: tunnel.state is xf.TunnelState.FAILED)
        bastion.start()
        tunnel.reconnect()
        tunnel.wait_ready(10)
        assert (tunnel.local_port, ask(port)) == (port, b"ping")
        bastion.kill()  # a link that was up begins the count anew
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        bastion.start()
        tunnel.wait_ready(10)
        assert ask(port) == b"ping"


def test_client_that_waits_is_reset_when_reconnection_gives_up(bastion: Sshd, services: Services) -> None:
    with open_echo(services, max_retries=1) as tunnel:
        bastion.kill()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        waiting = in_background(lambda: ask(tunnel.local_port))
        with pytest.raises(ConnectionResetError):
            waiting.result(10)
        until(lambda: tunnel.state is xf.TunnelState.FAILED)


def test_close_while_it_reconnects_is_the_end(bastion: Sshd, services: Services) -> None:
    tunnel = open_echo(services)
    port = tunnel.local_port
    bastion.kill()
    until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
    tunnel.close()
    assert port_free(port)
    bastion.start()
    with pytest.raises(xf.ClosedError):
        tunnel.reconnect()
    assert tunnel.state is xf.TunnelState.CLOSED
    until(lambda: bastion.connections() == 0)


def test_pauses_grow_while_nobody_waits_and_are_short_while_somebody_does(bastion: Sshd, services: Services) -> None:
    with open_echo(services) as tunnel:
        log = Path(current().log)
        bastion.kill()
        until(lambda: len(_pauses(log)) >= 3, 15)
        assert _pauses(log)[:3] == [0.5, 1.0, 2.0]
        waiting = in_background(lambda: ask(tunnel.local_port, b"patience"))
        until(parked(tunnel))
        count, start = len(_pauses(log)), time.monotonic()
        until(lambda: len(_pauses(log)) >= count + 4)
        assert time.monotonic() - start < 2.5
        bastion.start()
        assert waiting.result(10) == b"patience"


def test_login_for_a_person_is_not_tried_again(
    tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "questions"
    folder.mkdir()
    with Interrogator(folder, [("Code: ", True)], ["123456"]) as server:
        config = server.write_config(tmp_path / "questions_config")
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(config))
        with pytest.raises(xf.AuthenticationError):
            xf.ssh("bastion").forward(remote_port=services.echo, local_port=0, retry_initial=True, retry_delay=DELAY)
        assert server.questioned() <= 1


def _pauses(log: Path) -> list[float]:
    return [float(found) for found in re.findall(r"; again in about ([\d.]+) s", log.read_text())]


@pytest.mark.parametrize("form", ["blocking", "awaitable"])
def test_one_of_several_that_failed_is_opened_by_reconnect_as_at_first(
    bastion: Sshd, services: Services, form: str
) -> None:
    port = free_port()
    group = xf.ssh("bastion").forward_multiple(
        [
            {"name": "good", "remote_host": "pg.vpc", "remote_port": services.echo, "local_port": 0},
            {"name": "late", "remote_host": "pg.vpc", "remote_port": port, "local_port": 0},
        ]
    )
    late = group["late"]
    reconnect = late.reconnect if form == "blocking" else lambda: asyncio.run(late.areconnect())
    for _ in range(2):
        with pytest.raises(xf.RefusedError) as caught:
            reconnect()
        assert caught.value.hop == f"pg.vpc:{port}"
        assert (late.state, str(late.error)) == (xf.TunnelState.FAILED, str(caught.value))
        with pytest.raises(xf.RefusedError):
            late.wait_ready(0.1)
    with _echo_at(port):
        reconnect()
        assert late.state is xf.TunnelState.READY
        assert ask(late.local_port) == b"ping"
        # From now on it is one like any other: the port stays, and what is lost is dialled again.
        held = late.local_port
        late.reconnect()
        assert late.wait_ready(10).local_port == held
        assert ask(held) == b"ping"


def test_interrupted_reconnect_of_one_that_never_opened_leaves_it_failed(bastion: Sshd, services: Services) -> None:
    group = xf.ssh("bastion").forward_multiple(
        [
            {"name": "good", "remote_host": "pg.vpc", "remote_port": services.echo, "local_port": 0},
            {"name": "late", "remote_host": "pg.vpc", "remote_port": free_port(), "local_port": 0},
        ]
    )
    late, why = group["late"], str(group["late"].error)
    bastion.freeze()

    async def given_up() -> None:
        again = asyncio.create_task(late.areconnect())
        while late.state is not xf.TunnelState.OPENING:
            await asyncio.sleep(0.01)
        again.cancel()
        with pytest.raises(asyncio.CancelledError):
            await again

    asyncio.run(asyncio.wait_for(given_up(), 10))
    bastion.thaw()
    assert (late.state, str(late.error)) == (xf.TunnelState.FAILED, why)
    with pytest.raises(xf.RefusedError):
        late.reconnect()
    assert list(xf.tunnels) == ["good", "late"]


class _echo_at:
    """A service that appears at a port of 127.0.0.1 and sends back what it receives."""

    def __init__(self, port: int) -> None:
        import socketserver

        class Echo(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                while data := self.request.recv(65536):
                    self.request.sendall(data)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", port), Echo)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
