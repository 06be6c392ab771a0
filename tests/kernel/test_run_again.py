"""Running a cell again is normal: the same line reuses, a changed one replaces, nobody else's names are touched."""

from __future__ import annotations

import socket

import pytest

from tests.peers.kernel import Kernel
from tests.peers.ports import claim, free_port, port_free
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd


def _pid(kernel: Kernel, name: str) -> int:
    """What tells a tunnel from another: its number."""
    return int(kernel.value(f"{name}.request.tunnel"))


@pytest.mark.parametrize("name", ["--as pg", ""], ids=["explicit name", "default name"])
def test_same_line_reuses_the_tunnel(kernel: Kernel, bastion: Sshd, postgres: Postgres, name: str) -> None:
    line = f"%forward bastion 0:{bastion.far()}:{postgres.port} {name} --dsn postgresql://ana@/sales --env"
    kernel.run(f"first = {line}").ok()
    again = kernel.run(f"second = {line}").ok()
    assert "  reused, up " in again.displays[0].text
    assert again.displays[0].text.count("reused") == 1
    assert kernel.value("first is second")
    assert kernel.run(f"{line} --quiet").ok().displays == []
    assert bastion.connections() == 1


@pytest.mark.parametrize("name", ["--as same", ""], ids=["explicit name", "default name"])
def test_line_that_several_threads_run_at_once_opens_one_tunnel(
    kernel: Kernel, bastion: Sshd, services: Services, name: str
) -> None:
    line = f"bastion 0:{bastion.far()}:{services.echo} {name} --quiet"
    kernel.run(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "run = get_ipython().run_line_magic\n"
        f"with ThreadPoolExecutor(8) as threads: found = list(threads.map(run, ['forward'] * 8, [{line!r}] * 8))"
    ).ok()
    assert kernel.value("len({each.request.tunnel for each in found})") == 1
    assert kernel.value("(len(__import__('xec_forward').tunnels), found[0].state)") == (1, "ready")


def test_changed_line_under_the_same_explicit_name_replaces_on_the_same_port(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    port, far = free_port(), bastion.far()
    kernel.run(f"%forward bastion {port}:{far}:{services.echo} --as one").ok()
    old = _pid(kernel, "one")
    kernel.run(f"before = one\n%forward bastion one={port}:{far}:{services.reply}").ok()
    assert _pid(kernel, "one") != old
    assert kernel.value("(before.state, one.state, one.local_port, one.remote_port)") == (
        "closed",
        "ready",
        port,
        services.reply,
    )


def test_changed_line_under_its_default_name_replaces_its_own_tunnel_only(
    kernel: Kernel, bastion: Sshd, postgres: Postgres
) -> None:
    if bastion.far() == "localhost":
        pytest.skip("a mount namespace, for names that only the bastion knows")
    line = f"%forward bastion 0:{bastion.far()}:{postgres.port}"
    kernel.run(line).ok()
    old = _pid(kernel, "pg")
    done = kernel.run(f"{line} --dsn postgresql://ana@/sales").ok()
    assert "names: pg, pg_dsn" in done.displays[0].text
    assert _pid(kernel, "pg") != old
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 1


def test_explicit_name_spares_other_objects_unless_forced(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    line = f"%forward bastion 0:{bastion.far()}:{services.echo} --as data"
    refused = kernel.run(f"data = [1, 2]\n{line}")
    assert refused.error is not None
    assert refused.error.traceback.startswith("ECONFIG the name data holds an object of type list. ")
    assert "--force" in refused.error.traceback
    assert kernel.value("(data, len(__import__('xec_forward').tunnels))") == ([1, 2], 0)
    kernel.run(f"{line} --force").ok()
    assert kernel.value("data.state") == "ready"


def test_failed_tunnel_is_opened_anew(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    far, port = bastion.far(), free_port()
    cell = f"%%forward bastion\ngood=0:{far}:{services.echo}\nbad={port}:{far}:{services.refused}\n"
    first = kernel.run(cell).ok()
    assert "ECONNREFUSED" in first.displays[0].text
    assert port_free(port)
    again = kernel.run(cell).ok()
    assert again.displays[0].text.count("reused") == 1
    assert again.displays[0].text.count("ECONNREFUSED") == 1
    assert kernel.value("sorted(__import__('xec_forward').tunnels)") == ["bad", "good"]


def test_failed_tunnel_is_tried_by_reconnect_and_named_once_it_is_there(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    far = bastion.far()
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        port = service.getsockname()[1]
        cell = (
            "%%forward bastion\n"
            f"good=0:{far}:{services.echo}\n"
            f"late=0:{far}:{port} --dsn mongodb://ana@/sales\n"
            f"other=0:{far}:{port}\n"
        )
        with claim(port):
            assert "run the line again, or --reconnect" in kernel.run(cell).ok().displays[0].text
            still = kernel.run("%forward --reconnect late")
            assert still.error is not None
            assert still.error.traceback.startswith(f"ECONNREFUSED {far}:{port}")
            kernel.run("tunnels = __import__('xec_forward').tunnels").ok()
            assert kernel.value("(tunnels['late'].state, 'late' in globals())") == ("failed", False)
            service.listen()
            text = kernel.run("%forward --reconnect late").ok().displays[0].text
            assert text.startswith("late  ready  ")
            assert "names: late, late_dsn" in text
            assert "--reconnect" not in text
            assert kernel.value("f'//ana@127.0.0.1:{late.local_port}/sales' in late_dsn.reveal()")
            # However it comes back; a name that holds the user's own by now stays the user's.
            kernel.run("other = 'mine'\ntunnels['other'].reconnect()").ok()
            assert kernel.value("(tunnels['other'].state, other)") == ("ready", "mine")
            kernel.run("del other\ntunnels['other'].reconnect()\ntunnels['other'].wait_ready()").ok()
            wait = "while 'other' not in globals() and time.monotonic() < end: time.sleep(0.01)"
            kernel.run(f"import time\nend = time.monotonic() + 10\n{wait}").ok()
            assert kernel.value("other.state") == "ready"


def test_several_that_all_fail_raise_the_first_and_leave_nothing(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    far = bastion.far()
    done = kernel.run(f"%forward bastion a=0:{far}:{services.refused} b=0:no.such.name:1")
    assert done.error is not None
    assert done.error.traceback.startswith(f"ECONNREFUSED {far}:{services.refused}")
    assert len(done.error.traceback.splitlines()) == 1
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0


def test_port_held_by_another_tunnel_of_ours_is_named(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    port, far = free_port(), bastion.far()
    kernel.run(f"%forward bastion {port}:{far}:{services.echo} --as one").ok()
    done = kernel.run(f"%forward bastion {port}:{far}:{services.reply} --as two")
    assert done.error is not None
    assert done.error.name == "PortInUseError"
    assert "one" in done.error.value
    assert kernel.value("(one.state, 'two' in globals())") == ("ready", False)


def test_sibling_whose_source_fails_says_so_and_touches_no_other(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    far = bastion.far()
    cell = (
        "%%forward bastion --no-check\n"
        f"good=0:{far}:{services.echo}\n"
        f"bad=0:{far}:{services.hang} --dsn postgresql://ana@/sales --password env:NOT_THERE\n"
    )
    done = kernel.run(cell).ok()
    assert "env: the variable NOT_THERE is not set" in done.displays[0].text
    assert kernel.value("(list(__import__('xec_forward').tunnels), 'bad' in globals())") == (["good"], False)
