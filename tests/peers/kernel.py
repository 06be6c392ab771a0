"""A real ipykernel, driven through jupyter_client's blocking client, with a home of its own.

    with Kernel(folder, env={"XEC_FORWARD_SSH_CONFIG": ...}) as kernel:
        done = kernel.run("%load_ext xec_forward")
        assert done.error is None

Every wait has a deadline. The kernel talks over unix sockets in its folder, so it takes no port of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

STARTS_WITHIN = 60.0
ENDS_WITHIN = 10.0

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def missing() -> str:
    """The component without which no kernel can run here, or ""."""
    try:
        import ipykernel  # noqa: F401
    except ImportError:
        return "ipykernel"
    return ""


@dataclass
class Error:
    """What a cell raised: the front-end's three parts of it, the traceback without colours."""

    name: str
    value: str
    traceback: str


@dataclass
class Display:
    """One display of a cell: its mimebundles in the order they were shown, the last one being what stands there."""

    id: str
    bundles: list[dict[str, Any]] = field(default_factory=list)

    @property
    def data(self) -> dict[str, Any]:
        return self.bundles[-1]

    @property
    def text(self) -> str:
        return str(self.data.get("text/plain", ""))

    @property
    def html(self) -> str:
        return str(self.data.get("text/html", ""))


@dataclass
class Result:
    """All that a cell put out.

    Attributes:
        displays: what was displayed, each with its updates.
        result: the mimebundle of the cell's value, None where nothing was shown for it.
        prompts: the questions asked, with whether they were for a password.
        seconds: how long it took.
    """

    stdout: str = ""
    stderr: str = ""
    displays: list[Display] = field(default_factory=list)
    result: dict[str, Any] | None = None
    error: Error | None = None
    prompts: list[tuple[str, bool]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """Everything as text, updates included: what no secret may be in."""
        parts = [self.stdout, self.stderr]
        for display in self.displays:
            parts += [str(value) for bundle in display.bundles for value in bundle.values()]
        parts += [str(value) for value in (self.result or {}).values()]
        if self.error is not None:
            parts += [self.error.name, self.error.value, self.error.traceback]
        return "\n".join(parts)

    def ok(self) -> Result:
        """This result, once it is sure that nothing was raised."""
        assert self.error is None, self.error.traceback
        return self


class Kernel:
    """One kernel. `run` blocks; `start` and `Running.wait` do it in two steps.

    Args:
        folder: its home, state and connection file; must exist.
        env: variables beside those of this process (PG* and SSH_AUTH_SOCK are left out).
        code: run at the start, such as "%load_ext xec_forward".
    """

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, code: str = "") -> None:
        self.folder = folder
        self._code = code
        # A unix socket's path may not exceed about 100 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="xf-k-", dir="/tmp"))
        home = folder / "home"
        home.mkdir(exist_ok=True)
        self.env = {n: v for n, v in os.environ.items() if not n.startswith("PG") and n != "SSH_AUTH_SOCK"}
        self.env.update({"HOME": str(home), "IPYTHONDIR": str(home / ".ipython"), "JUPYTER_PREFER_ENV_PATH": "1"})
        self.env.setdefault("XEC_FORWARD_STATE", str(folder / "state"))
        self.env.update(env or {})
        self._log = (folder / "kernel.log").open("ab")
        self.manager = KernelManager(kernel_name="python3", transport="ipc")
        # This very interpreter, whatever kernelspec is installed where.
        assert self.manager.kernel_spec is not None
        self.manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self.manager.connection_file = str(self._sockets / "kernel.json")
        self.manager.ip = str(self._sockets / "k")
        self.client: BlockingKernelClient

    # ---- life ----

    def __enter__(self) -> Kernel:
        self.manager.start_kernel(env=self.env, cwd=str(self.folder), stdout=self._log, stderr=self._log)
        self.connect()
        return self

    def connect(self) -> None:
        """Connect to the kernel that the manager has started."""
        client = self.manager.client()
        assert isinstance(client, BlockingKernelClient)
        self.client = client
        self.client.start_channels()
        self.client.wait_for_ready(timeout=STARTS_WITHIN)
        if self._code:
            self.run(self._code).ok()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.stop_channels()
        with contextlib.suppress(Exception):
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self._log.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The kernel's process id."""
        process = self.manager.provisioner.process  # type: ignore[union-attr]
        return int(process.pid)

    def alive(self) -> bool:
        """Whether its process lives."""
        return bool(self.manager.is_alive())

    def log(self) -> str:
        """What it wrote outside of any cell."""
        return (self.folder / "kernel.log").read_text(errors="replace")

    def interrupt(self) -> None:
        """What a front-end's stop button does."""
        self.manager.interrupt_kernel()

    def signal(self, number: signal.Signals) -> None:
        """A signal to the kernel's process alone."""
        os.kill(self.pid, number)

    def shutdown(self) -> None:
        """In order, as a front-end does it."""
        self.manager.shutdown_kernel(now=False)

    def restart(self) -> None:
        """In order; the same handle then drives the new one."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=False)
        self.connect()

    def wait_ended(self, within: float = ENDS_WITHIN) -> None:
        """Wait until its process is gone."""
        wait_until(lambda: not self.alive(), "the kernel did not end", within)

    # ---- cells ----

    def run(
        self, code: str, timeout: float = 30.0, *, answers: Sequence[str] | None = None, allow_stdin: bool = False
    ) -> Result:
        """Run a cell to its end.

        Args:
            timeout: seconds.
            answers: what a person would type, in order; None means that there is nobody (stdin is refused).
        """
        return self.start(code, answers=answers, allow_stdin=allow_stdin).wait(timeout)

    def start(self, code: str, *, answers: Sequence[str] | None = None, allow_stdin: bool = False) -> Running:
        """Begin a cell; the caller waits for it."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": allow_stdin or answers is not None,
            "stop_on_error": True,
        }
        # JupyterLab's notebooks say so much of themselves.
        message = self.client.session.msg("execute_request", content, metadata={"deletedCells": []})
        self.client.shell_channel.send(message)
        return Running(self, message["header"]["msg_id"], list(answers or ()))

    def asked(self, timeout: float = 10.0) -> tuple[str, bool, str]:
        """The next question that no `run` takes: its prompt, whether for a password, and the cell it goes to."""
        try:
            message = self.client.get_stdin_msg(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"nothing was asked within {timeout} s") from None
        content = message["content"]
        return content["prompt"], content["password"], message["parent_header"]["msg_id"]

    def value(self, expression: str, timeout: float = 30.0) -> Any:
        """The value of an expression, by way of JSON (an outermost tuple stays one)."""
        code = f"__import__('json').dumps((lambda v: [isinstance(v, tuple), v])({expression}))"
        done = self.run(f"print('\\x02' + {code} + '\\x03')", timeout).ok()
        is_tuple, value = json.loads(done.stdout.partition("\x02")[2].partition("\x03")[0])
        return tuple(value) if is_tuple else value


class Running:
    """A cell that runs.

    Attributes:
        message: the id of its request.
    """

    def __init__(self, kernel: Kernel, message: str, answers: list[str]) -> None:
        self._kernel = kernel
        self.message = message
        self._answers = answers
        self._start = time.monotonic()
        self._idle = False
        self.result = Result()

    def wait(self, timeout: float = 30.0) -> Result:
        """Wait for its end."""
        self._wait(lambda: self._idle, timeout)
        end = time.monotonic() + timeout
        while True:
            try:
                reply = self._kernel.client.get_shell_msg(timeout=max(0.1, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError("the cell has no reply") from None
            if reply["parent_header"].get("msg_id") == self.message:
                break
        self.result.seconds = time.monotonic() - self._start
        return self.result

    def until(self, condition: Callable[[Result], bool], timeout: float = 30.0) -> Result:
        """Wait until what it has put out so far meets a condition."""
        self._wait(lambda: condition(self.result), timeout)
        return self.result

    def _wait(self, condition: Callable[[], bool], timeout: float) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout} s; so far: {self.result}\n{self._kernel.log()[-2000:]}")
            self._answer()
            try:
                message = self._kernel.client.get_iopub_msg(timeout=0.05)
            except queue.Empty:
                if not self._kernel.alive():
                    raise AssertionError(f"the kernel died: {self._kernel.log()[-2000:]}") from None
                continue
            self._take(message)

    def _answer(self) -> None:
        try:
            message = self._kernel.client.get_stdin_msg(timeout=0)
        except queue.Empty:
            return
        content = message["content"]
        self.result.prompts.append((content["prompt"], content["password"]))
        if self._answers:
            self._kernel.client.input(self._answers.pop(0))

    def _take(self, message: dict[str, Any]) -> None:
        kind, content, result = message["msg_type"], message["content"], self.result
        if kind == "update_display_data":
            # Also from another cell's thread: an update knows its display.
            self._shown(content["transient"]["display_id"], content["data"])
            return
        if message["parent_header"].get("msg_id") != self.message:
            return
        match kind:
            case "stream" if content["name"] == "stdout":
                result.stdout += content["text"]
            case "stream":
                result.stderr += content["text"]
            case "display_data":
                display = Display(content.get("transient", {}).get("display_id", ""))
                display.bundles.append(content["data"])
                result.displays.append(display)
            case "execute_result":
                result.result = content["data"]
            case "error":
                trace = _ANSI.sub("", "\n".join(content["traceback"]))
                result.error = Error(content["ename"], content["evalue"], trace)
            case "status" if content["execution_state"] == "idle":
                self._idle = True

    def _shown(self, identity: str, data: dict[str, Any]) -> None:
        for display in self.result.displays:
            if display.id == identity:
                display.bundles.append(data)


def wait_until(condition: Callable[[], object], failure: str, within: float = ENDS_WITHIN) -> None:
    """Wait for a condition with a deadline."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{failure} within {within} s")
        time.sleep(0.01)


def process_alive(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
