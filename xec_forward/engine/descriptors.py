"""How many files this process may have open, and what is kept free of them.

A client costs two, and shells give a process 1,024. A listener that finds none left would have the system reset its
clients without a word; so the last ones are kept for links and programs, and a client that would take one of them is
turned away by name.
"""

from __future__ import annotations

import contextlib

from ..errors import LimitError

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

# The most open files that the engine asks for.
WANTED = 65536
# Of those it may have, kept free: an eighth, at most as many as one listener's backlog brings at once.
RESERVE = 512
HINT = "ulimit -n N, before the kernel starts, allows more; the administrator sets the most"


def raise_limit() -> None:
    """Take what the system lets this account have."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a limit of its own below that
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def exhausted(descriptor: int) -> LimitError | None:
    """Why a client with this descriptor is one too many, or None. The system gives out the lowest that is free."""
    if resource is None:
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or descriptor < most - min(RESERVE, most // 8):
        return None
    return LimitError(f"no more clients: this process may have {most} files open", hint=HINT)
