"""`xec-forward demo --lab`: the quickstart notebook in JupyterLab, with the demo's services.

As a program of its own (`python -m xec_forward.demo.lab`) this module runs JupyterLab until its stdin ends:
the same lifeline as the services have, so that nothing is left even after a SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .lifeline import DemoError, ServiceProcess, released, report, serve
from .progress import Progress
from .run import kernel_environment, quickstart
from .services import DemoServices

LAB_STOPS_WITHIN = 15.0


def run_lab(notebook: Path | None = None, *, browser: bool = True) -> int:
    """Open the notebook in JupyterLab; stays until Ctrl-C, then ends all of it. The exit status."""
    if find_spec("jupyterlab") is None:
        print("xec-forward demo: JupyterLab is not installed. Run: pip install 'xec_forward[lab]', or make lab")
        return 1
    try:
        path = (notebook or quickstart()).resolve()
    except DemoError as error:
        print(f"xec-forward demo: {error}")
        return 1
    progress = Progress()
    return stay(
        progress,
        lambda services: ServiceProcess(
            "JupyterLab",
            "xec_forward.demo.lab",
            {"notebook": str(path), "browser": browser, "env": kernel_environment(services.env)},
        ),
        "JupyterLab starts; its address with the token follows. Ctrl-C ends it and the services.",
    )


def run_services() -> int:
    """Start the services alone and print what a shell needs to use them; stays until Ctrl-C."""
    return stay(
        Progress(),
        None,
        'In another shell, then `ipython`, `ssh -F "$XEC_FORWARD_SSH_CONFIG" -N -L ...` or `kubectl get pods -A`:',
    )


def stay(progress: Progress, launch: Any, message: str) -> int:
    """Start the services, launch something with them, wait for Ctrl-C (or its end), stop everything."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    guest: ServiceProcess | None = None
    status = 0
    services = DemoServices()
    try:
        with progress.step("start the bastion, the cluster and the database"):
            services.wait_ready()
        progress.line(message)
        if launch is None:
            for name, value in services.env.items():
                progress.line(f"  export {name}={value}")
            progress.line("Ctrl-C ends them.")
        else:
            guest = launch(services)
            guest.ready(60.0)
        while not ended.wait(0.2):
            if guest is not None and guest.ended:
                progress.line(f"{guest.name} has ended")
                break
    except DemoError as error:
        if not ended.is_set():  # else Ctrl-C came while it started
            progress.line(f"xec-forward demo: {error}")
            status = 1
    finally:
        progress.line()
        with progress.step("stop everything"):
            if guest is not None:
                guest.stop(LAB_STOPS_WITHIN + 5)
            services.stop()
    return status


def main(config: dict[str, Any]) -> None:
    """Run JupyterLab until stdin ends. `config`: `notebook`, `browser`, `env`."""
    notebook = Path(config["notebook"])
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={notebook.parent}",
        f"--LabApp.default_url=/lab/tree/{notebook.name}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.answer_yes=True",
        # The address comes at a level of its own; what the extensions say of themselves would bury it.
        "--log-level=WARN",
    ]
    if not config["browser"]:
        command.append("--no-browser")
    if os.geteuid() == 0:
        command.append("--allow-root")
    # Its log goes to our stderr: stdout is the report's.
    lab = subprocess.Popen(command, env=config["env"], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        report({"pid": lab.pid})
        while not released(0.2):
            if lab.poll() is not None:
                return
    finally:
        lab.terminate()
        try:
            lab.wait(LAB_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            lab.kill()
            lab.wait()


if __name__ == "__main__":
    serve(main)
