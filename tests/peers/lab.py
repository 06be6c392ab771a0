"""A real JupyterLab server (and with it Notebook 7) with a home of its own, and the kernels that it runs.

    with Lab(folder, labextensions, env) as lab:
        kernel = lab.start_kernel("orders.ipynb")
        kernel.run("%load_ext xec_forward")

A kernel's cells are run from outside of any browser, as another front-end would. Every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import nbformat
from jupyter_client.blocking.client import BlockingKernelClient

from tests.peers.ports import free_port

STARTS_WITHIN = 60.0
STOPS_WITHIN = 15.0
TOKEN = "for-tests-only"

# Nothing that asks, calls home, or is in the way of a click.
_QUIET = {
    "disabledExtensions": {
        "@jupyterlab/apputils-extension:announcements": True,
        "@jupyterlab/completer-extension:inline-completer": True,
    }
}


def missing() -> str:
    """The component without which no Lab can run here, or ""."""
    for module, package in (("jupyterlab", "jupyterlab"), ("notebook", "notebook"), ("ipykernel", "ipykernel")):
        if find_spec(module) is None:
            return package
    return ""


class LabKernel:
    """A kernel of the server's; its cells run one after the other.

    Attributes:
        session: the id of its session, with which it is shut down.
    """

    def __init__(self, lab: Lab, session: str, id: str) -> None:
        self.lab, self.session, self.id = lab, session, id
        self._client = BlockingKernelClient()
        self._client.load_connection_file(str(lab.folder / "runtime" / f"kernel-{id}.json"))
        self._client.start_channels(hb=False)  # on a busy machine a heartbeat is late, and the kernel taken for dead
        self._client.wait_for_ready(timeout=STARTS_WITHIN)

    def start(self, code: str) -> str:
        """Begin a cell; its message's id."""
        return str(self._client.execute(code, allow_stdin=True))

    def run(self, code: str, timeout: float = 30.0, *, answer: str | None = None) -> str:
        """Run a cell to its end, in order; what it printed. An error of its is one of the test's.

        Args:
            answer: what a person types at the one question that it asks.
        """
        message = self.start(code)
        if answer is not None:
            self._client.get_stdin_msg(timeout=timeout)
            self._client.input(answer)
        done = self.wait(message, timeout)
        assert done["status"] == "ok", f"{done.get('ename')}: {done.get('evalue')}"
        return str(done["printed"])

    def wait(self, message: str, timeout: float = 30.0) -> dict[str, Any]:
        """The reply to a cell, with what it `printed`."""
        end = time.monotonic() + timeout
        printed = ""
        while True:
            got = self._client.get_iopub_msg(timeout=max(0.0, end - time.monotonic()))
            if got["parent_header"].get("msg_id") != message:
                continue
            if got["msg_type"] == "stream":
                printed += got["content"]["text"]
            if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
                break
        while True:
            reply = self._client.get_shell_msg(timeout=max(0.0, end - time.monotonic()))
            if reply["parent_header"].get("msg_id") == message:
                return {**reply["content"], "printed": printed}

    def wait_for_output(self, message: str, text: str, timeout: float = 30.0) -> None:
        """Wait until a cell that runs has printed something."""
        end = time.monotonic() + timeout
        while True:
            got = self._client.get_iopub_msg(timeout=max(0.0, end - time.monotonic()))
            if got["parent_header"].get("msg_id") == message and text in got["content"].get("text", ""):
                return

    def begin(self, code: str) -> str:
        """Begin a cell and wait until its own code runs; its message's id."""
        message = self.start(f"print('begun', flush=True)\n{code}")
        self.wait_for_output(message, "begun")
        return message

    def interrupt(self) -> None:
        """What a front-end's stop button does."""
        self.lab.request(f"api/kernels/{self.id}/interrupt", "POST")

    def restart(self) -> None:
        """What a front-end's restart does; the same handle then drives the new one."""
        self.lab.request(f"api/kernels/{self.id}/restart", "POST")
        self.wait_for_ready()

    def wait_for_ready(self) -> None:
        """Until it answers; after its death, the one that the server starts."""
        self._client.wait_for_ready(timeout=STARTS_WITHIN)

    def shut_down(self) -> None:
        """End it and its session. Idempotent."""
        with contextlib.suppress(urllib.error.HTTPError):
            self.lab.request(f"api/sessions/{self.session}", "DELETE")
        self._client.stop_channels()


class Lab:
    """One server.

    Args:
        folder: its home; must exist. Notebooks are in `folder / "notebooks"`.
        extensions: a folder with prebuilt extensions, as `share/jupyter/labextensions` is.
        env: variables for its kernels, beside those of this process.
    """

    def __init__(self, folder: Path, extensions: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.notebooks = folder / "notebooks"
        self.port = 0
        self._extensions = extensions
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "JUPYTER"))}
        self._env.pop("SSH_AUTH_SOCK", None)
        self._env |= {
            "HOME": str(folder),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            **env,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._kernels: list[LabKernel] = []

    def url(self, path: str = "lab") -> str:
        """An address in it, with the token."""
        return f"http://127.0.0.1:{self.port}/{path}?token={TOKEN}"

    def request(self, path: str, method: str = "GET", body: object = None) -> Any:
        """Call the server's own interface; what it answers, None for nothing."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data, method=method)
        request.add_header("Authorization", f"token {TOKEN}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def write_notebook(self, name: str, *cells: str) -> str:
        """Write a notebook; its name."""
        notebook = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call]
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],  # type: ignore[no-untyped-call]
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(notebook, self.notebooks / name)  # type: ignore[no-untyped-call]
        return name

    def start_kernel(self, notebook: str) -> LabKernel:
        """Start a kernel for a notebook, which need not be there."""
        body = {"path": notebook, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}}
        session = self.request("api/sessions", "POST", body)
        kernel = LabKernel(self, session["id"], session["kernel"]["id"])
        self._kernels.append(kernel)
        return kernel

    def shut_down_kernels(self) -> None:
        """End every kernel and its session, also those that a page has started."""
        while self._kernels:
            self._kernels.pop().shut_down()
        for session in self.request("api/sessions"):
            with contextlib.suppress(urllib.error.HTTPError):
                self.request(f"api/sessions/{session['id']}", "DELETE")

    def log(self) -> str:
        """What the server and its kernels wrote."""
        return (self.folder / "server.log").read_text(errors="replace")

    def __enter__(self) -> Lab:
        for name in ("config/labconfig", "data", "notebooks"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "config" / "labconfig" / "page_config.json").write_text(json.dumps(_QUIET))
        for _ in range(3):
            self.port = free_port()
            if self._started():
                return self
        raise RuntimeError(f"JupyterLab did not start:\n{self.log()[-3000:]}")

    def _started(self) -> bool:
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
            "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={self.notebooks}",
            f"--LabServerApp.extra_labextensions_path={self._extensions}",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--JupyterNotebookApp.expose_app_in_browser=True",
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.request("api/status")
                return True
            time.sleep(0.05)
        self._stop()
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self.shut_down_kernels()
        self._stop()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
