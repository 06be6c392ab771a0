"""Every error a user can meet, drawn as a tree. Ground floor: imports nothing of ours.

    ForwardError                      the root: .code .message .hop .hint
    ├── SpecError                     ESPEC         a word of the line is malformed (also ValueError)
    ├── ConfigError                   ECONFIG       ssh_config, key files, SOURCEs, options that clash
    ├── PortInUseError                EADDRINUSE    the local port is taken (also OSError)
    ├── BindPermissionError           EPERM         the system refuses the bind (also PermissionError)
    ├── RefusedError                  ECONNREFUSED  nobody listens there (also ConnectionRefusedError)
    ├── UnreachableError              EHOSTUNREACH  no route to the host (also OSError)
    ├── DeadlineError                 ETIMEDOUT     no answer in time (also TimeoutError)
    ├── NameNotFoundError             ENOTFOUND     the name does not resolve (also OSError)
    ├── AuthenticationError           EAUTH         the login was refused, or needs an answer nobody gives
    ├── HostKeyError                  EHOSTKEY      the host key is not one we may trust
    │   ├── UnknownHostKeyError                     never seen before
    │   └── ChangedHostKeyError                     another key than the one on record
    ├── ProhibitedError               EPROHIBITED   the server does not allow the forwarding
    ├── RbacError                     ERBAC         the cluster does not allow this user to do it
    ├── PodGoneError                  EPODGONE      no pod is there to lead to (any more)
    ├── LimitError                    ELIMIT        one of our own limits
    ├── LostError                     ECONNRESET    the link went away (also ConnectionResetError)
    ├── ClosedError                   ECLOSED       the tunnel is closed, for good
    └── EngineError                   EENGINE       the engine process is gone or does not answer

An error crosses the border between the two processes as a `Fault` (see `model`); `from_code` makes the
matching class again on the other side, so that `except PortInUseError` works in a notebook.
"""

from __future__ import annotations

import errno as system
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "AuthenticationError",
    "BindPermissionError",
    "ChangedHostKeyError",
    "ClosedError",
    "ConfigError",
    "DeadlineError",
    "EngineError",
    "ForwardError",
    "HostKeyError",
    "LimitError",
    "LostError",
    "NameNotFoundError",
    "PodGoneError",
    "PortInUseError",
    "ProhibitedError",
    "RbacError",
    "RefusedError",
    "SpecError",
    "UnknownHostKeyError",
    "UnreachableError",
    "from_code",
]


class ForwardError(Exception):
    """The root of every error of xec_forward.

    `str(error)` is one line: code, hop, what happened, how to mend it. A notebook shows exactly that line;
    `%tb` then shows the traceback with its cause.

    Attributes:
        code: a stable word such as ``EADDRINUSE``.
        message: what happened, without the hop and the fix.
        hop: where it happened: ``bastion``, ``pg.vpc:5432``, ``127.0.0.1:5432``; empty where no hop is meant.
        hint: how to mend it, or empty.
    """

    code: str = "EFORWARD"

    def __init__(self, message: str, *, hop: str = "", hint: str = "") -> None:
        # OSError.__init__ would take several arguments for errno and strerror: hand it none.
        super().__init__()
        self.message = message
        self.hop = hop
        self.hint = hint
        self._shown: TracebackType | None = None

    def __str__(self) -> str:
        where = f"{self.hop}: " if self.hop else ""
        fix = f". {self.hint}" if self.hint else ""
        return f"{self.code} {where}{self.message}{fix}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hop, self.hint))

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: the error is one line when it is raised, and a full traceback for `%tb` after it."""
        # Raised anew (a tunnel's last error, say) it has another traceback, and is one line again.
        if self._shown is not None and self._shown is self.__traceback__:
            return full_traceback(self)
        self._shown = self.__traceback__
        return [str(self)]


def full_traceback(error: BaseException) -> list[str]:
    """What `%tb` shows of an error of ours: the traceback with its causes, from the magic on.

    The frames before a magic quote the cell's own line, and a mistyped line may hold a password.
    """
    import traceback

    shown = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = shown
    while part is not None:
        names = [frame.name for frame in part.stack]
        magic = max((names.index(name) for name in ("run_line_magic", "run_cell_magic") if name in names), default=-1)
        del part.stack[: magic + 1]
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)
    return [line.rstrip("\n") for line in shown.format()]


def _rebuild(kind: type[ForwardError], message: str, hop: str, hint: str) -> ForwardError:
    return kind(message, hop=hop, hint=hint)


class SpecError(ForwardError, ValueError):
    """A word of the line is malformed; nothing was opened."""

    code = "ESPEC"


class ConfigError(ForwardError):
    """ssh_config, a key file, a SOURCE, or options that do not go together."""

    code = "ECONFIG"


class PortInUseError(ForwardError, OSError):
    """The local port is taken."""

    code = "EADDRINUSE"
    errno = system.EADDRINUSE


class BindPermissionError(ForwardError, PermissionError):
    """The system does not allow the bind (EPERM or EACCES)."""

    code = "EPERM"
    errno = system.EPERM


class RefusedError(ForwardError, ConnectionRefusedError):
    """Nobody listens at the hop."""

    code = "ECONNREFUSED"
    errno = system.ECONNREFUSED


class UnreachableError(ForwardError, OSError):
    """There is no route to the hop."""

    code = "EHOSTUNREACH"
    errno = system.EHOSTUNREACH


class DeadlineError(ForwardError, TimeoutError):
    """No answer within the time allowed."""

    code = "ETIMEDOUT"
    errno = system.ETIMEDOUT


class NameNotFoundError(ForwardError, OSError):
    """The hop's name does not resolve."""

    code = "ENOTFOUND"
    errno = system.ENOENT


class AuthenticationError(ForwardError):
    """The login was refused, or asks for something nobody is there to answer."""

    code = "EAUTH"


class HostKeyError(ForwardError):
    """The host key is not one we may trust."""

    code = "EHOSTKEY"


class UnknownHostKeyError(HostKeyError):
    """The host has never been seen before and nobody accepted its key."""


class ChangedHostKeyError(HostKeyError):
    """The host shows another key than the one on record. Never accepted by a prompt."""


class ProhibitedError(ForwardError):
    """The server's configuration or the account does not allow the forwarding."""

    code = "EPROHIBITED"


class RbacError(ForwardError):
    """The cluster does not allow this user to do it (Kubernetes' role-based access control)."""

    code = "ERBAC"


class PodGoneError(ForwardError):
    """No pod is there to lead to: the one in use has gone and none has replaced it, or none matches."""

    code = "EPODGONE"


class LimitError(ForwardError):
    """One of our own limits, such as the number of tunnels; or the system's for open files."""

    code = "ELIMIT"


class LostError(ForwardError, ConnectionResetError):
    """The link to the target went away."""

    code = "ECONNRESET"
    errno = system.ECONNRESET


class ClosedError(ForwardError):
    """The tunnel is closed, for good."""

    code = "ECLOSED"


class EngineError(ForwardError):
    """The engine process could not be started, is gone, or does not answer."""

    code = "EENGINE"


_BY_NAME: dict[str, type[ForwardError]] = {
    name: kind for name, kind in list(globals().items()) if isinstance(kind, type) and issubclass(kind, ForwardError)
}


def from_code(kind: str, message: str, *, hop: str = "", hint: str = "") -> ForwardError:
    """Make the error of class `kind` (a name of this module), the root class for a name it does not know."""
    return _BY_NAME.get(kind, ForwardError)(message, hop=hop, hint=hint)
