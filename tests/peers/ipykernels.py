"""The two lines of ipykernel that are supported: a test with one of these marks has its `kernel` of that line.

    @both_ipykernels
    def test_prompt(kernel): ...

A fixture `kernel` adds `variables(request)` to the kernel's environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Where make has put the older line; the newer one is this Python's own.
_OLDER = Path(sys.prefix, "ipykernel-6")
_NEWER_LINE, _OLDER_LINE = "ipykernel 7", "ipykernel 6"

only_ipykernel_6 = pytest.mark.parametrize("kernel", [_OLDER_LINE], indirect=True)
both_ipykernels = pytest.mark.parametrize("kernel", [_NEWER_LINE, _OLDER_LINE], indirect=True)


def variables(request: pytest.FixtureRequest) -> dict[str, str]:
    """What leads a kernel to the line of ipykernel that its test asks for; nothing for the newer one."""
    if getattr(request, "param", _NEWER_LINE) == _NEWER_LINE:
        return {}
    if not _OLDER.exists():
        pytest.skip(f"ipykernel 6.31 ({_OLDER}; make test installs it)")
    return {"PYTHONPATH": str(_OLDER)}
