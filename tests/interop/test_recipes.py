"""The recipes of docs/recipes.md, taken from the page and run as they stand against a real bastion and database."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.interop.test_reconnection import until
from tests.peers.ports import port_free
from tests.peers.postgres import Postgres
from tests.peers.sshd import Sshd, missing
from xec_forward.client.session import current

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
# Where the page's pg.vpc is here: an address of loopback that is this process's own, so that 5432 is free on it.
VPC = f"127.42.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250 + 1}"


def _recipes() -> dict[str, list[str]]:
    """The blocks of code under each heading."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        found[heading] = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return found


RECIPES = _recipes()


class Recipe:
    """One recipe: its blocks are run one after the other, in one namespace."""

    def __init__(self, heading: str) -> None:
        self.names: dict[str, Any] = {}
        self._heading = heading
        self._left = list(RECIPES[heading])

    def run(self) -> dict[str, Any]:
        """Run the next block."""
        code = compile(self._left.pop(0), f"{PAGE}: {self._heading}", "exec")
        exec(code, self.names)  # noqa: S102
        return self.names

    def done(self) -> None:
        """Every block was run, and no tunnel is left."""
        assert not self._left
        assert not xf.tunnels


class Relay(socketserver.ThreadingTCPServer):
    """pg.vpc:5432: a real database under the page's own port."""

    allow_reuse_address = True
    daemon_threads = True
    far: tuple[str, int]


class _Pass(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Relay)
        near: socket.socket = self.request
        with socket.create_connection(self.server.far) as far:
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def bastion(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """The page's bastion, whose pg.vpc:5432 is a real PostgreSQL."""
    if absent := missing():
        pytest.skip(absent)
    folder = tmp_path / "bastion"
    folder.mkdir()
    monkeypatch.setenv("SALES_PASSWORD", postgres.password)
    with Relay((VPC, 5432), _Pass) as relay, Sshd(folder, names={"pg.vpc": VPC}) as running:
        relay.far = (postgres.host, postgres.port)
        threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        if running.far("pg.vpc") != "pg.vpc":
            pytest.skip("a mount namespace, for names of the bastion's own")
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(running.write_config(tmp_path / "ssh_config")))
        yield running
        relay.shutdown()


def hello(tunnel: xf.Tunnel, source: str = "127.0.0.1") -> bytes:
    """What the database answers to an SSLRequest: S or N."""
    with socket.create_connection(("127.0.0.1", tunnel.local_port), 10, source_address=(source, 0)) as client:
        client.sendall(bytes([0, 0, 0, 8, 4, 210, 22, 47]))
        return client.recv(1)


def test_tunnel_that_outlives_every_outage(bastion: Sshd, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe("A tunnel that outlives every outage")
    recipe.run()
    bastion.kill()
    connecting = threading.Thread(target=recipe.run)
    connecting.start()
    until(lambda: any(tunnel.error for tunnel in current().tunnels.values()))
    assert "pg" not in recipe.names
    bastion.start()
    next(iter(current().tunnels.values())).reconnect()  # five seconds are long in a test
    connecting.join(10)
    pg = recipe.names["pg"]
    assert hello(pg) in (b"S", b"N")
    port = pg.local_port
    bastion.kill()
    until(lambda: pg.state is xf.TunnelState.RECONNECTING)
    assert not port_free(port)
    bastion.start()
    pg.wait_ready(10)
    assert hello(pg) in (b"S", b"N")
    recipe.run()
    assert pg.state is xf.TunnelState.CLOSED
    assert port_free(port)
    said: list[str] = []

    def heard() -> list[str]:
        said.extend(line.split()[0] for line in capsys.readouterr().out.splitlines())
        return said

    until(lambda: heard()[-1:] == ["close"])
    assert [word for word in said if word != "error"] == ["reconnecting", "reconnected", "close"]
    recipe.done()


def test_tunnel_that_knows_its_clients(bastion: Sshd) -> None:
    recipe = Recipe("A tunnel that knows its clients")
    recipe.run()
    secure = recipe.run()["secure"]
    assert hello(secure.tunnel) in (b"S", b"N")
    with pytest.raises(ConnectionResetError):
        hello(secure.tunnel, "127.0.0.2")
    until(lambda: secure.rejected)
    assert "Rejected connection from 127.0.0.2" in secure.rejected[0]
    assert hello(secure.tunnel) in (b"S", b"N")
    recipe.run()
    recipe.done()


def test_queries_that_survive_a_sleep(bastion: Sshd) -> None:
    recipe = Recipe("Queries that survive a sleep")
    names = recipe.run()
    assert names["answer"]["answer"].tolist() == [42]
    bastion.restart()  # as a sleep does, it ends the connection that the pool holds
    names = recipe.run()
    assert names["again"]["answer"].tolist() == [42]
    recipe.done()


def test_tunnel_for_one_function(bastion: Sshd) -> None:
    recipe = Recipe("A tunnel for one function")
    assert recipe.run()["said"] in (b"S", b"N")
    recipe.done()


def test_port_that_is_taken(bastion: Sshd, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe("A port that is taken")
    names = recipe.run()
    one, two = names["one"], names["two"]
    assert 15432 <= one.local_port < two.local_port < 15442
    assert capsys.readouterr().out == f"{one.local_port} {two.local_port}\n"
    recipe.run()
    recipe.done()


def test_what_went_wrong(bastion: Sshd, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe("What went wrong")
    recipe.run()
    assert recipe.run()["nothing"] is None
    assert capsys.readouterr().out == "the service is not there: pg.vpc:1\n"
    open_or_say = recipe.names["open_or_say"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        open_or_say(remote_host="pg.vpc", remote_port=5432, local_port=other.getsockname()[1])
    assert capsys.readouterr().out.startswith("take another port: End it, or write 0")
    open_or_say(remote_host="pg.vcp", remote_port=5432)
    assert capsys.readouterr().out.startswith("ENOTFOUND pg.vcp:5432: ")
    recipe.done()


def test_is_it_well(bastion: Sshd, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe("Is it well?")
    recipe.run()
    assert recipe.run()["fine"] is True
    with xf.ssh("bastion", server_alive_interval=0).forward(remote_host="pg.vpc", remote_port=5432, timeout=1) as pg:
        bastion.freeze()
        os.kill(bastion.pid, signal.SIGCONT)  # the connections stay silent, new ones are served
        assert recipe.names["well"](pg) is False
        assert pg.is_alive()
        assert recipe.names["well"](pg) is True
    assert capsys.readouterr().out
    recipe.done()


async def test_what_happens_as_it_happens(bastion: Sshd) -> None:
    recipe = Recipe("What happens, as it happens")
    watch = recipe.run()["watch"]
    said: list[str] = []
    watching = asyncio.create_task(watch(said.append))
    await asyncio.to_thread(until, lambda: said == ["ready"])
    bastion.kill()
    await asyncio.to_thread(until, lambda: said[-1] == "reconnecting")
    bastion.start()
    await asyncio.wait_for(watching, 15)
    assert said == ["ready", "reconnecting", "reconnected"]
    recipe.done()


def test_every_recipe_has_its_test() -> None:
    here = Path(__file__).read_text()
    assert [heading for heading in RECIPES if f'Recipe("{heading}")' not in here] == []
    assert all(RECIPES.values())
