"""Starts the engine: `python -m xec_forward.engine FD PARENT LOG`, by the client and nobody else.

FD is our end of the pipe, PARENT the process id of the kernel, LOG our log file. The client has
pointed 0 at /dev/null and 1 and 2 at the log, so that a stray print cannot corrupt a frame.

The engine ends when the pipe does, and when the parent is gone, whatever killed it: a forked worker of the
kernel may still hold the pipe open, so the parent itself is watched too. It ignores SIGINT: an interrupt is
meant for the cell. If an orderly end takes too long, it ends all the same. SIGUSR1 has the log tell what it is doing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler

from . import descriptors

# Seconds for an orderly end; the kernel's user waits for the port.
END_LIMIT = 1.0
_LOG_SIZE = 512 * 1024


def _wait_for_parent(parent: int, over: threading.Event) -> None:
    """Returns when the parent has gone, or `over` is set. pidfd_open(2) where there is one, getppid elsewhere."""
    try:
        descriptor = os.pidfd_open(parent)
    except (AttributeError, OSError):
        descriptor = -1
    while not over.is_set() and os.getppid() == parent:
        if descriptor < 0:
            over.wait(0.25)
        elif select.select([descriptor], [], [], 0.25)[0]:
            return


class _OwnersLog(RotatingFileHandler):
    """A log whose every new file is its owner's alone."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return open(descriptor, "a")


def _configure_log(path: str) -> None:
    handler = _OwnersLog(path, maxBytes=_LOG_SIZE, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("asyncssh").setLevel(logging.WARNING)


def _tell_tasks() -> None:
    names = sorted(task.get_name() for task in asyncio.all_tasks())
    logging.getLogger(__name__).info("%d tasks: %s", len(names), ", ".join(names))


async def _serve(descriptor: int, parent: int, log: str) -> None:
    # Imported here: the log is set up first, so that an import that fails leaves its traceback there.
    from .server import Server

    loop = asyncio.get_running_loop()
    pipe = socket.socket(fileno=descriptor)
    pipe.setblocking(False)
    server = Server(log)
    await loop.create_unix_connection(lambda: server, sock=pipe)
    over = threading.Event()
    loop.add_signal_handler(signal.SIGTERM, server.ended.set)
    loop.add_signal_handler(signal.SIGUSR1, _tell_tasks)

    def guard() -> None:
        _wait_for_parent(parent, over)
        loop.call_soon_threadsafe(server.ended.set)
        # An orderly end leaves before this; whatever hangs is not waited for.
        time.sleep(END_LIMIT)
        os._exit(1)

    threading.Thread(target=guard, name="parent watch", daemon=True).start()
    await server.ended.wait()
    over.set()
    await server.stop()


def main() -> None:
    """Run until the client or the parent is gone."""
    descriptor, parent, log = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptors.raise_limit()
    _configure_log(log)
    factory: Callable[[], asyncio.AbstractEventLoop]
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            # Runner installs its own SIGINT handler only where it finds the default one: ours stays.
            runner.run(_serve(descriptor, parent, log))
    except Exception:
        logging.getLogger(__name__).exception("the engine ends with a fault")
        raise
    finally:
        logging.shutdown()
    # Threads of name look-ups may still wait on the network: they are not worth waiting for.
    os._exit(0)


if __name__ == "__main__":
    main()
