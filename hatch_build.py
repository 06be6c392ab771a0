"""Hatch's build hook for the JupyterLab sidebar: its bundle rides in the sdist and in the wheel.

It is built here where it is missing (or older than its source) and npm is there. Where npm is not, or fails, that is
said and the package is built without the sidebar: everything else works. An editable installation takes no part:
`make lab` builds the bundle and links it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# npm downloads some 170 MB; nobody waits for ever, seconds.
BUILT_WITHIN = 900


class SidebarHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    """See above."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Hatch's call before a build; `version` is "editable" or "standard"."""
        if version == "editable":
            return
        source, bundle = Path(self.root, "labextension"), Path(self.root, "xec_forward", "labextension")
        if not _fresh(source, bundle):
            self._build(source)
        if (bundle / "package.json").exists() and self.target_name == "wheel":
            installed = "share/jupyter/labextensions/xec_forward"
            build_data["shared_data"] |= {
                str(bundle): installed,
                str(source / "install.json"): f"{installed}/install.json",
            }

    def _build(self, source: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            self.app.display_warning("npm is not installed: the JupyterLab sidebar is not built anew")
            return
        try:
            for words in (["ci", "--ignore-scripts"], ["run", "build"]):
                subprocess.run([npm, *words], cwd=source, check=True, stdin=subprocess.DEVNULL, timeout=BUILT_WITHIN)
        except (OSError, subprocess.SubprocessError) as error:
            self.app.display_warning(f"the JupyterLab sidebar could not be built: {error}")


def _fresh(source: Path, bundle: Path) -> bool:
    """Whether the bundle is there, and no part of its source is newer."""
    built = bundle / "package.json"
    if not built.exists():
        return False
    parts = [*source.glob("*.json"), *source.glob("*.mjs"), *(source / "src").iterdir(), *(source / "style").iterdir()]
    return all(part.stat().st_mtime <= built.stat().st_mtime for part in parts)
