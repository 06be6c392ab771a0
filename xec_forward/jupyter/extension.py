"""`%load_ext xec_forward` and `%unload_ext`.

Loading registers the magics and returns; a thread loads the client and starts the engine meanwhile, so that the
first `%forward` finds both. The notebook's watcher is set when either of them needs a session.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import bridge, completion
from .cell_scope import rewrite
from .magics import ForwardMagics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..client.session import Session

_SESSION = "xec_forward.client.session"
_MAGICS = "ForwardMagics"
_SHOWN = (("xec_forward.client.tunnel", "Tunnel"), ("xec_forward.client.group", "ForwardGroup"))


def load(shell: InteractiveShell) -> None:
    """Register the magics and warm the engine. Idempotent."""
    if isinstance(shell.magics_manager.registry.get(_MAGICS), ForwardMagics):
        return
    magics = ForwardMagics(shell)
    shell.register_magics(magics)
    for event, handler in _events(magics):
        shell.events.register(event, handler)
    # Before IPython's own, which makes a call of every cell that begins with %%.
    shell.input_transformer_manager.line_transforms.insert(0, rewrite)
    for module, name in _SHOWN:
        _formatter(shell).for_type_by_name(module, name, magics.display_value)
    _wrap_shutdown(shell)
    bridge.install(shell)
    completion.install(shell)
    threading.Thread(target=_warm, args=(shell,), name="xec_forward warm-up", daemon=True).start()


def unload(shell: InteractiveShell) -> None:
    """Close every tunnel, end the engine, and take everything away that `load` brought. Idempotent."""
    magics = shell.magics_manager.registry.pop(_MAGICS, None)
    if not isinstance(magics, ForwardMagics):
        return
    for kind in ("line", "cell"):
        for name in ("forward", "k8s_forward"):
            shell.magics_manager.magics[kind].pop(name, None)
    for event, handler in _events(magics):
        shell.events.unregister(event, handler)
    shell.input_transformer_manager.line_transforms.remove(rewrite)
    _unwrap_shutdown(getattr(shell, "kernel", None))
    bridge.remove(shell)
    completion.remove(shell)
    _stop()
    magics.forget()
    formatter = _formatter(shell)
    for module, name in _SHOWN:
        key = (module, name)
        if key in formatter.deferred_printers:
            formatter.deferred_printers.pop(key)
        elif module in sys.modules:
            formatter.type_printers.pop(getattr(sys.modules[module], name), None)
    if _SESSION in sys.modules:
        # (waits for an import that the warm-up thread is in the middle of)
        from ..client.session import current
        from ..client.watcher import ScriptWatcher

        current().watcher = ScriptWatcher


def _events(magics: ForwardMagics) -> list[tuple[str, Callable[..., None]]]:
    """Which of IPython's events they follow."""
    cells = magics.cells
    names = ("pre_run_cell", "post_run_cell", "post_execute")
    return [("pre_execute", magics.begin_execution), *((name, getattr(cells, name)) for name in names)]


def _formatter(shell: InteractiveShell) -> Any:
    """Where IPython looks for objects that show themselves."""
    display_formatter: Any = shell.display_formatter
    return display_formatter.ipython_display_formatter


def session_for(shell: InteractiveShell) -> Session:
    """This process's session, with the watcher and the notices of this shell."""
    from ..client.session import current
    from .live import LiveWatcher

    session = current()
    if not isinstance(session.watcher, partial):
        session.watcher = partial(LiveWatcher, shell)
        session.notice = partial(_notice, shell)
    return session


def _warm(shell: InteractiveShell) -> None:
    session_for(shell).warm()
    # What the first line needs beside the session.
    from . import openings  # noqa: F401


def _notice(shell: InteractiveShell, text: str) -> None:
    """One line for the user that belongs to no cell; from the keeper thread."""
    print(f"xec_forward: {text}", file=sys.stderr, flush=True)


# ---- the end of the kernel ----


def _stop() -> None:
    """End the engine, if there is one. May be on the kernel's control thread."""
    # Half imported by the warm-up thread it has no engine yet; one started after this ends with the kernel's pipe.
    current = getattr(sys.modules.get(_SESSION), "current", None)
    if current is not None:
        current().stop()


def _wrap_shutdown(shell: InteractiveShell) -> None:
    """Let `do_shutdown` tell the sidebar and end the engine first: it runs even while the main thread hangs in native
    code. (What a restarted kernel says first may reach nobody.)

    It is sync in IPythonKernel and may be a coroutine in a subclass: what it returns is passed through.
    """
    kernel: Any = getattr(shell, "kernel", None)
    if kernel is None or getattr(kernel.do_shutdown, "xec_forward", False):
        return
    original: Callable[[bool], Any] = kernel.do_shutdown

    def do_shutdown(restart: bool) -> Any:
        bridge.remove(shell)
        _stop()
        return original(restart)

    do_shutdown.xec_forward = True  # type: ignore[attr-defined]
    do_shutdown.original = vars(kernel).get("do_shutdown")  # type: ignore[attr-defined]
    kernel.do_shutdown = do_shutdown


def _unwrap_shutdown(kernel: Any) -> None:
    if kernel is None or not getattr(kernel.do_shutdown, "xec_forward", False):
        return  # none of ours, or somebody has wrapped it since: ours then finds nothing to stop
    if kernel.do_shutdown.original is None:
        del kernel.do_shutdown
    else:
        kernel.do_shutdown = kernel.do_shutdown.original
