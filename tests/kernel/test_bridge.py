"""What the sidebar asks of a kernel, and is told by it: over the control channel, while cells sleep, burn, and hang."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from tests.peers.ipykernels import both_ipykernels, only_ipykernel_6
from tests.peers.kernel import Kernel, Running, wait_until
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd
from xec_forward.jupyter.bridge import COMM, REPLY, REQUEST

# What a person takes for at once; a button that works meanwhile is the point of it all, seconds.
AT_ONCE = 0.25

ENGINE = "__import__('xec_forward.client.session', fromlist=['current']).current().engine_pid"


class Frontend:
    """What the sidebar's connection to one kernel is: requests, replies, and messages that nobody asked for."""

    def __init__(self, kernel: Kernel) -> None:
        client = kernel.manager.client(session=kernel.client.session.clone())
        client.session.session = f"sidebar-{os.urandom(4).hex()}"
        self._client: Any = client
        client.start_channels(shell=False, stdin=False, hb=False)
        self.ask("list")

    def close(self) -> None:
        """Disconnect."""
        self._client.stop_channels()

    def send(self, action: str, **content: Any) -> str:
        """Send a request."""
        message = self._client.session.msg(REQUEST, {"action": action, **content})
        self._client.control_channel.send(message)
        return str(message["header"]["msg_id"])

    def reply(self, message: str, timeout: float = 30.0) -> dict[str, Any]:
        """The reply to a request."""
        end = time.monotonic() + timeout
        while True:
            try:
                got = self._client.get_control_msg(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no reply within {timeout} s") from None
            if got["parent_header"]["msg_id"] == message:
                assert got["header"]["msg_type"] == REPLY
                return dict(got["content"])

    def ask(self, action: str, timeout: float = 30.0, **content: Any) -> dict[str, Any]:
        """Send a request and wait for its reply."""
        return self.reply(self.send(action, **content), timeout)

    def tunnel(self, name: str) -> dict[str, Any]:
        """A tunnel as it is listed."""
        return next(dict(row) for row in self.ask("list")["tunnels"] if row["name"] == name)

    def told(self, wanted: Callable[[dict[str, Any]], object], timeout: float = 10.0) -> dict[str, Any]:
        """The next message without a parent that is wanted."""
        end = time.monotonic() + timeout
        while True:
            try:
                message = self._client.get_iopub_msg(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"was not told within {timeout} s") from None
            content = message["content"]
            if message["header"]["msg_type"] == "comm_msg" and content["comm_id"] == COMM and wanted(content["data"]):
                assert message["parent_header"] == {}
                return dict(content["data"])

    def silent(self, seconds: float) -> bool:
        """Whether nothing is told for that long."""
        try:
            self.told(lambda data: True, seconds)
        except AssertionError:
            return True
        return False


@pytest.fixture
def frontend(kernel: Kernel) -> Iterator[Frontend]:
    """Another front-end than the one that runs the cells."""
    other = Frontend(kernel)
    yield other
    other.close()


def opened(kernel: Kernel, bastion: Sshd, port: int, name: str, options: str = "") -> None:
    kernel.run(f"%forward bastion 0:{bastion.far()}:{port} --as {name} {options}").ok()


def begun(kernel: Kernel, code: str) -> Running:
    """A cell that has come as far as its own code."""
    running = kernel.start(f"print('begun', flush=True)\n{code}")
    running.until(lambda result: "begun" in result.stdout)
    return running


def quiet(frontend: Frontend, name: str) -> dict[str, Any]:
    """A tunnel, once its client is there and nothing moves any more: one that moves is given time to finish."""

    def found() -> bool:
        row = frontend.tunnel(name)
        return row["how"] and "1 client now" in row["how"][0] and "0 B sent" not in row["how"][1] and not row["rate"]

    wait_until(found, f"{name} is not quiet")
    return frontend.tunnel(name)


@both_ipykernels
def test_close_ends_a_hung_query(kernel: Kernel, bastion: Sshd, frontend: Frontend, postgres: Postgres) -> None:
    opened(kernel, bastion, postgres.port, "pg", "--dsn postgresql://ana@/sales --password env:SALES_PASSWORD")
    running = begun(kernel, "import psycopg\npsycopg.connect(pg_dsn).execute('select pg_sleep(60)')")
    hung = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)'"
    wait_until(lambda: postgres.sql(hung) == [(1,)], "the query does not run")
    number = quiet(frontend, "pg")["tunnel"]
    start = time.monotonic()
    assert frontend.ask("close", tunnel=number)["status"] == "ok"
    took = time.monotonic() - start
    result = running.wait(5)
    assert result.error is not None
    assert result.error.name == "OperationalError"
    assert result.seconds < 10
    assert took < AT_ONCE
    assert frontend.ask("list")["tunnels"] == []


BUSY = {
    "sleeps": "import time\ntime.sleep(30)",
    "burns": "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: sum(range(1000))",
    "waits for a socket": "s.recv(1)",
}


@both_ipykernels
def test_close_is_answered_at_once_whatever_a_cell_does(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    for what, code in BUSY.items():
        opened(kernel, bastion, services.hang, "hang", "--no-check")
        opened(kernel, bastion, services.echo, "echo")
        connect = "import socket\ns = socket.create_connection(('127.0.0.1', hang.local_port))\ns.sendall(b'x')"
        running = begun(kernel, f"{connect}\n{code}")
        quiet(frontend, "hang")
        latencies = []
        for name in ("echo", "hang"):
            start = time.monotonic()
            number = frontend.tunnel(name)["tunnel"]
            assert frontend.ask("close", tunnel=number)["tunnels"] == ([] if name == "hang" else [ANY])
            latencies.append(time.monotonic() - start)
        print(f"cell {what}; list and close: {', '.join(f'{1000 * each:.0f} ms' for each in latencies)}")
        assert max(latencies) < AT_ONCE
        kernel.interrupt()
        running.wait()


@only_ipykernel_6
def test_older_kernel_is_of_the_older_line(kernel: Kernel) -> None:
    assert kernel.value("__import__('ipykernel').__version__").startswith("6.31.")


def test_row_says_what_the_card_says(kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend) -> None:
    opened(kernel, bastion, services.echo, "echo", "--ttl 1h")
    row = frontend.tunnel("echo")
    port = kernel.value("echo.local_port")
    assert (row["state"], row["sign"], row["open"]) == ("ready", "●", True)
    assert row["way"] == [f"127.0.0.1:{port}", "bastion", f"{bastion.far()}:{services.echo}"]
    assert row["address"] == f"127.0.0.1:{port}"
    assert (row["how"], row["error"], row["hint"]) == ([], "", "")
    assert len(row["line"]) == 30
    (up, opened_at), (closes, closes_at) = row["times"]
    assert (up, closes, closes_at - opened_at) == ("up", "closes in", 3600)


@both_ipykernels
def test_changes_are_told_and_nothing_else_is(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    opened(kernel, bastion, services.echo, "echo")
    frontend.told(lambda data: data["tunnels"] and data["tunnels"][0]["state"] == "ready")
    talk = (
        "import socket\n"
        "with socket.create_connection(('127.0.0.1', echo.local_port), 5) as s:\n"
        "    s.sendall(b'x' * 60_000)\n"
        "    while len(s.recv(100_000, socket.MSG_PEEK)) < 60_000: pass"
    )
    kernel.run(talk).ok()
    moved = frontend.told(lambda data: "60 kB sent, 60 kB received" in data["tunnels"][0]["how"])["tunnels"][0]
    assert moved["rate"].endswith("kB/s")
    assert 119_000 < sum(moved["line"]) <= 120_000
    still = frontend.told(lambda data: not data["tunnels"][0]["rate"])["tunnels"][0]
    assert still["how"][0] == "no clients now, 1 in all"
    assert frontend.silent(3)


def test_who_asks_after_a_failure_is_told_changes_again(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    code = (
        "import threading, time\n"
        "from xec_forward.client.session import current\n"
        "def tellers(): return [each.name for each in threading.enumerate() if each.name == 'xec_forward bridge']\n"
        "before, end = tellers(), time.monotonic() + 10\n"
        "current().tunnels[99] = None  # nothing that could be told\n"
        "while tellers() and time.monotonic() < end: time.sleep(0.01)\n"
        "del current().tunnels[99]\n"
        "print(len(before), len(tellers()))"
    )
    # The first cell has loaded the client with its line.
    kernel.run("%forward").ok()
    assert kernel.run(code).ok().stdout == "1 0\n"
    assert frontend.ask("list")["tunnels"] == []
    opened(kernel, bastion, services.echo, "echo")
    frontend.told(lambda data: data["tunnels"] and data["tunnels"][0]["state"] == "ready")


def test_nobody_is_told_before_somebody_asks(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    opened(kernel, bastion, services.echo, "echo")
    client = kernel.client
    with pytest.raises(queue.Empty):
        while True:
            assert client.get_iopub_msg(timeout=1.5)["header"]["msg_type"] != "comm_msg"


def test_reconnect_of_a_waiting_tunnel_asks_the_one_who_pressed(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())
    kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo", answers=[PASSPHRASE]).ok()
    engine = kernel.value(ENGINE)
    kernel.run(f"import os\nos.kill({engine}, 9)").ok()
    waiting = frontend.told(lambda data: data["tunnels"] and data["tunnels"][0]["state"] == "waiting")
    number = waiting["tunnels"][0]["tunnel"]
    running = begun(kernel, "import time\ntime.sleep(30)")
    asked = frontend.ask("reconnect", tunnel=number)
    assert (asked["status"], asked["echo"]) == ("question", False)
    assert "assphrase" in asked["text"]
    refused = frontend.ask("answer", question=asked["question"], value=None)
    assert refused["status"] == "error"
    assert refused["text"].startswith("EAUTH bastion: ")
    asked = frontend.ask("reconnect", tunnel=number)
    assert frontend.ask("answer", question=asked["question"], value=PASSPHRASE)["status"] == "ok"
    assert frontend.tunnel("echo")["state"] == "ready"
    stale = frontend.ask("answer", question=asked["question"], value=PASSPHRASE)
    assert stale["status"] == "error"
    kernel.interrupt()
    assert PASSPHRASE not in running.wait().text + kernel.log()


def test_reconnect_opens_one_that_failed_to_with_its_checks(
    kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend
) -> None:
    far = bastion.far()
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        port = service.getsockname()[1]
        kernel.run(f"%forward bastion good=0:{far}:{services.echo} late=0:{far}:{port}").ok()
        number = frontend.tunnel("late")["tunnel"]
        refused = frontend.ask("reconnect", tunnel=number)
        assert (refused["status"], refused["text"].split(":")[0]) == ("error", f"ECONNREFUSED {far}")
        assert frontend.tunnel("late")["state"] == "failed"
        service.listen()
        assert frontend.ask("reconnect", tunnel=number)["status"] == "ok"
        assert kernel.value("late.state") == "ready"


def test_doctor_says_what_it_finds(kernel: Kernel, bastion: Sshd, services: Services, frontend: Frontend) -> None:
    opened(kernel, bastion, services.echo, "echo")
    running = begun(kernel, "import time\ntime.sleep(30)")
    found = frontend.ask("doctor", tunnel=frontend.tunnel("echo")["tunnel"])
    assert found["status"] == "ok"
    assert "host key" in found["text"]
    assert found["text"].splitlines()[-1].startswith("all is well")
    kernel.interrupt()
    running.wait()


def test_what_is_not_there_is_said_in_one_line(kernel: Kernel, frontend: Frontend) -> None:
    assert frontend.ask("close", tunnel=99) == {"status": "error", "text": "there is no such tunnel any more"}
    assert frontend.ask("dance")["text"] == "there is no action dance"
    assert frontend.ask("answer", question=1, value="x")["status"] == "error"


def test_loading_and_unloading_are_told(kernel: Kernel, frontend: Frontend) -> None:
    kernel.run("%unload_ext xec_forward").ok()
    frontend.told(lambda data: data.get("loaded") is False)
    assert "xec_forward_request" not in kernel.value("list(get_ipython().kernel.control_handlers)")
    kernel.run("%load_ext xec_forward").ok()
    frontend.told(lambda data: data.get("loaded") is True)
    assert frontend.ask("list")["tunnels"] == []


def test_loading_is_cheap(kernel: Kernel) -> None:
    """In a kernel of its own, so that nothing is imported yet."""
    code = (
        "import json, sys, time\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "from ipykernel.kernelbase import Kernel\n"
        "shell = InteractiveShell.instance()\n"
        "class Fake:\n"
        "    control_handlers = {}; control_thread = object(); iopub_socket = None\n"
        "    class session:\n"
        "        sent = []\n"
        "        @classmethod\n"
        "        def send(cls, *args, **kw): cls.sent.append(args)\n"
        "    def do_shutdown(self, restart): pass\n"
        "shell.kernel = Fake()\n"
        "before = set(sys.modules)\n"
        "import xec_forward.jupyter.bridge as bridge\n"
        "start = time.perf_counter()\n"
        "bridge.install(shell)\n"
        "took = time.perf_counter() - start\n"
        "new = sorted(set(sys.modules) - before)\n"
        "print(json.dumps([took, new, len(Fake.session.sent), list(Fake.control_handlers)]))"
    )
    import json

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    took, new, sent, handlers = json.loads(done.stdout)
    assert took < 0.005
    assert all(name.startswith("xec_forward") for name in new)
    assert not any(name.startswith(("xec_forward.client", "xec_forward.model")) for name in new)
    assert (sent, handlers) == (1, [REQUEST])


@pytest.mark.parametrize("missing", ["control_handlers", "control_thread"])
def test_other_kernels_are_left_alone(missing: str, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from xec_forward.jupyter import bridge

    kernel = SimpleNamespace(control_handlers={}, control_thread=object())
    delattr(kernel, missing)
    bridge.install(SimpleNamespace(kernel=kernel))  # type: ignore[arg-type]
    bridge.remove(SimpleNamespace(kernel=kernel))  # type: ignore[arg-type]
    bridge.install(SimpleNamespace())  # type: ignore[arg-type]
    assert not getattr(kernel, "control_handlers", {})
