"""`xec-forward demo`: the quickstart notebook, in a real kernel, against the demo's services.

It shows each cell and what it printed, what each step took, and at the end that nothing is left: it has noted
every process, port and folder on the way, and looks for them again.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..paths import STATE_VARIABLE
from .leftovers import Witness, files_in
from .lifeline import DemoError
from .progress import Progress
from .services import DemoServices

if TYPE_CHECKING:
    from nbclient import NotebookClient
    from nbformat import NotebookNode

CELL_TIMEOUT = 60
KERNEL_TIMEOUT = 60


def quickstart() -> Path:
    """The notebook of the demo: of the installed package, else of the checkout. Raises DemoError."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "quickstart.ipynb", here.parents[1] / "notebooks" / "quickstart.ipynb"):
        if candidate.is_file():
            return candidate
    raise DemoError("quickstart.ipynb is not installed. Run the demo from a checkout: make demo")


def kernel_environment(services_env: Mapping[str, str], folder: Path | None = None) -> dict[str, str]:
    """The environment of a kernel that is to see the services.

    The user's own PG* variables and agent have no say in the demo. With `folder`, all that a kernel writes by
    habit (profile, logs, temporary files) goes there too.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG") and name != "SSH_AUTH_SOCK"}
    env.update(services_env)
    # For nbval and JupyterLab: the virtual environment's kernelspec before any the user has elsewhere.
    env["JUPYTER_PREFER_ENV_PATH"] = "1"
    if folder is not None:
        for variable, name in (("IPYTHONDIR", "ipython"), (STATE_VARIABLE, "state"), ("TMPDIR", "tmp")):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
            env[variable] = str(folder / name)
    return env


def run_demo(notebook: Path | None = None) -> int:
    """Run the demo; the exit status: 0, 1 after a failure (one line says which), 130 after Ctrl-C."""
    progress = Progress()
    try:
        return asyncio.run(_cancellable(_demo(notebook or quickstart(), progress)))
    except (asyncio.CancelledError, KeyboardInterrupt):
        progress.line("xec-forward demo: interrupted; everything it started has been ended")
        return 130
    except DemoError as error:
        progress.line(f"xec-forward demo: {error}")
        return 1


async def _cancellable(demo: Any) -> int:
    """Ctrl-C, SIGTERM and a closed terminal cancel the demo once; what follows is clean-up with its own deadlines."""
    task: asyncio.Task[int] = asyncio.ensure_future(demo)
    loop = asyncio.get_running_loop()
    asked = False

    def cancel() -> None:
        nonlocal asked
        if not asked:
            asked = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, cancel)
    return await task


async def _demo(notebook: Path, progress: Progress) -> int:
    witness = Witness()
    littered: list[Path] = []
    services = DemoServices()
    try:
        for folder in services.folders:
            witness.folder(folder)
        progress.line("A bastion that only forwards, a Kubernetes cluster, and a PostgreSQL that only they can reach:")
        with progress.step("start them"):
            seconds = await asyncio.to_thread(services.wait_ready)
        progress.text("\n".join(f"{name} ready after {took:.1f} s" for name, took in seconds.items()))
        for name, pid in services.processes.items():
            witness.process(pid, name)
        progress.line(f"\n{notebook.name}, in a kernel:")
        env = kernel_environment(services.env, services.folder)
        await _execute(notebook, env, services.folder, witness, progress)
        littered = files_in(services.folder / "tmp")
    finally:
        # Not cancelled half-way: stop() has its own deadlines.
        progress.line("\nThe end:")
        with progress.step("stop the services"):
            await asyncio.shield(asyncio.to_thread(services.stop))
    findings = witness.findings()
    for finding in findings:
        progress.line(f"  {'ok ' if finding.gone else '!! '} {finding.text}")
    if littered:
        raise DemoError(f"temporary files were left: {', '.join(path.name for path in littered)}")
    if not all(finding.gone for finding in findings):
        raise DemoError("something is left behind: see the lines with !!")
    if not witness.saw_tunnel:
        raise DemoError("no tunnel was seen: the notebook opened none")
    progress.line(f"\nNothing is left behind. {progress.elapsed:.1f} s in all.")
    return 0


async def _execute(notebook: Path, env: dict[str, str], folder: Path, witness: Witness, progress: Progress) -> None:
    """Run every cell of the notebook in a fresh kernel whose files are in `folder`; end the kernel in every case."""
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient

    document = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(document, timeout=CELL_TIMEOUT, startup_timeout=KERNEL_TIMEOUT, kernel_name="python3")
    manager: Any = client.create_kernel_manager()  # its class is a setting
    # The kernel of this very virtual environment: no kernelspec of the user's is looked for.
    manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
    manager.connection_file = str(folder / "kernel.json")
    # Unix sockets beside the connection file: no port of the machine is taken for the notebook itself.
    manager.transport = "ipc"
    manager.ip = str(folder / "kernel")
    log = folder / "kernel.log"
    cells = [(index, cell) for index, cell in enumerate(document.cells) if cell.cell_type == "code"]
    try:
        with progress.step("start the kernel"):
            with log.open("wb") as file:
                await client.async_start_new_kernel(env=env, cwd=str(notebook.parent), stdout=file, stderr=file)
            await client.async_start_new_kernel_client()
        pid = manager.provisioner.process.pid
        witness.kernel(pid)
        for turn, (index, cell) in enumerate(cells, 1):
            title = f"[{turn}/{len(cells)}] {_title(cell.source)}"
            try:
                with progress.step(title):
                    cell.outputs = []
                    await _execute_cell(client, cell, index, turn, log)
            finally:
                witness.kernel(pid)
            progress.text(_shown(cell))
    except (RuntimeError, TimeoutError) as error:  # of the kernel's start
        raise DemoError(f"the kernel did not start: {error}{_last_words(log)}") from None
    finally:
        with progress.step("stop the kernel"):
            with suppress(RuntimeError):  # it is gone already
                await asyncio.shield(manager.shutdown_kernel())
            if client.kc is not None:
                client.kc.stop_channels()


async def _execute_cell(client: NotebookClient, cell: NotebookNode, index: int, turn: int, log: Path) -> None:
    """Run one cell. Raises DemoError."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    try:
        await client.async_execute_cell(cell, index)
    except CellExecutionError as error:
        raise DemoError(f"cell {turn} failed: {error.ename}: {error.evalue}") from None
    except CellTimeoutError:
        raise DemoError(f"cell {turn} did not finish within {CELL_TIMEOUT} s") from None
    except DeadKernelError:
        # nbclient takes every cancellation for the kernel's death.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise DemoError(f"the kernel died in cell {turn}{_last_words(log)}") from None


def _last_words(log: Path) -> str:
    """The last line of a log, as the end of a message."""
    with suppress(OSError):
        words = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if words:
            return f" ({words[-1]})"
    return ""


def _title(source: str) -> str:
    """What stands for a cell: its first line of code."""
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    more = " ..." if len(lines) > 1 else ""
    return (lines[0].strip() if lines else "(empty)") + more


def _shown(cell: NotebookNode) -> str:
    """A cell's output as plain text."""
    parts: list[str] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type in ("execute_result", "display_data"):
            parts.append(output.data.get("text/plain", ""))
    return "\n".join(part.rstrip("\n") for part in parts if part.strip())
