"""Run notebooks against the demo's services and save them with what they showed: `python notebooks/save.py NAME ...`.

Without names, all of them. A cell that fails leaves its notebook as it was.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

from xec_forward.demo.office import Office
from xec_forward.demo.run import kernel_environment
from xec_forward.demo.services import DemoServices, temporary_base

HERE = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


def save(path: Path, env: dict[str, str]) -> None:
    """Run one notebook in a fresh kernel and save it."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=60, kernel_name="python3")
    # This virtual environment's kernel, whatever kernelspecs the user has.
    client.create_kernel_manager().kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
    client.execute(env=env, cwd=str(HERE))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)  # the times of day
    notebook.metadata = nbformat.from_dict(METADATA)
    nbformat.write(notebook, path)
    print(f"saved {path.name}")


def main(names: list[str]) -> None:
    """Start the services, save each notebook, stop them."""
    paths = [HERE / f"{Path(name).stem}.ipynb" for name in names] or sorted(HERE.glob("*.ipynb"))
    office = Office(temporary_base())
    services = DemoServices(office.routes)
    try:
        office.wait_ready()
        services.wait_ready()
        env = kernel_environment(services.env, services.folder)
        os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
        for path in paths:
            save(path, env)
    finally:
        services.stop()
        office.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
