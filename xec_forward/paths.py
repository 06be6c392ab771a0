"""Where our few files live: logs and engine records, in the user's state folder. Ground floor."""

from __future__ import annotations

import os
from pathlib import Path

STATE_VARIABLE = "XEC_FORWARD_STATE"
SSH_CONFIG_VARIABLE = "XEC_FORWARD_SSH_CONFIG"


def state_folder(part: str = "") -> Path:
    """The user's state folder for xec_forward (or a folder in it), made owner-only where it is missing.

    `XEC_FORWARD_STATE` names another one. Raises OSError where it cannot be made.
    """
    # Imported here: the kernel needs this only when it starts an engine.
    import platformdirs

    chosen = os.environ.get(STATE_VARIABLE)
    folder = Path(chosen) if chosen else platformdirs.user_state_path("xec_forward")
    folder = folder / part if part else folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
