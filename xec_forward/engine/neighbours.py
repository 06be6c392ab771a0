"""Other engines of this user, and which ports they hold.

Each engine keeps one small record in the state folder and holds a lock (flock) on it for as long as it lives:
a record without a lock belongs to an engine that is gone, however it went, and is removed by whoever sees it.
So an error can say whose port it is, and a port that an ending engine still holds can be waited for.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, NamedTuple

try:
    import fcntl
except ImportError:  # Windows has no flock: ports are then held by "another program"
    fcntl = None  # type: ignore[assignment]


class Holder(NamedTuple):
    """Who holds a port: the tunnel's name, its notebook ("" for a script), and whether its kernel still lives."""

    tunnel: str
    notebook: str
    kernel: int
    kernel_alive: bool


def process_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended but was not yet collected (a zombie) does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # proc(5): the state follows the command's name, which is in parentheses and may hold any character
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return True


class Neighbours:
    """This engine's record, and a look at the others'. `close` removes the record."""

    def __init__(self, folder: Path, *, kernel: int, notebook: str) -> None:
        self._folder = folder
        self._kernel = kernel
        self._notebook = notebook
        self._path = folder / f"engine-{os.getpid()}.json"
        self._file: IO[str] | None = None
        if fcntl is not None:
            self._file = open(self._path, "w", opener=lambda path, flags: os.open(path, flags, 0o600))  # noqa: SIM115
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.publish({})
            self.holder(0)  # looks at all records, and so removes those of engines that were killed

    def publish(self, ports: dict[int, str]) -> None:
        """Write down which ports this engine holds, and for which tunnel."""
        if self._file is None:
            return
        self._file.seek(0)
        self._file.truncate()
        json.dump({"kernel": self._kernel, "notebook": self._notebook, "ports": ports}, self._file)
        self._file.flush()

    def holder(self, port: int) -> Holder | None:
        """The other engine of ours that holds this port, if any does."""
        if fcntl is None:
            return None
        for path in self._folder.glob("engine-*.json"):
            if path == self._path:
                continue
            try:
                with open(path) as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except OSError:
                        record = json.load(file)
                    else:
                        path.unlink(missing_ok=True)
                        continue
            except (OSError, ValueError):
                continue
            name = record.get("ports", {}).get(str(port))
            if name is not None:
                kernel = int(record.get("kernel", 0))
                return Holder(str(name), str(record.get("notebook", "")), kernel, process_alive(kernel))
        return None

    def close(self) -> None:
        """Remove the record."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
