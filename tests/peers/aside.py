"""A TCP relay of the tests, in a thread and a loop of its own: what `Cutter` and `Distance` have in common."""

from __future__ import annotations

import asyncio
import socket
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Aside(ABC):
    """Relays 127.0.0.1:`port` to 127.0.0.1:`to`, while the context is open.

    Attributes:
        port: where it listens.
        loop: the one it runs in.
    """

    def __init__(self, to: int) -> None:
        self.to = to
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self.writers: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server | None = None
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @abstractmethod
    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client; `writers` are those whose connections the end ends."""

    @abstractmethod
    def end(self) -> None:
        """End every connection."""

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self.server = await asyncio.start_server(self.relay, sock=self._listener)
        await self._over.wait()
        self.server.close()
        self.end()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=5)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
