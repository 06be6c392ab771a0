"""The engine's end of the pipe: requests in, reports out, questions asked.

Each request runs as a task of its own, so that a slow opening delays nobody. When the pipe ends, the engine ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import cast

from ..errors import ClosedError, EngineError, ForwardError
from ..model import (
    PROTOCOL_VERSION,
    Answer,
    Ask,
    Browse,
    Cancel,
    Changed,
    Check,
    Close,
    Describe,
    Done,
    Examination,
    Examine,
    Examined,
    Failed,
    Fault,
    Hello,
    Look,
    Open,
    ReadSecret,
    Reconnect,
    Report,
    Request,
    Revealed,
    Welcome,
)
from ..paths import state_folder
from ..wire import FrameError, encode, requests
from . import doctor
from .links.base import Unanswered
from .manager import Manager
from .neighbours import Neighbours

logger = logging.getLogger(__name__)

# Events of which the next report tells as well as the last: one client's, and none.
OF_THE_MOMENT = ("", "error", "rejected")
# Reports of one tunnel that are kept for a kernel that does not read.
MOST_UNSENT = 100


class Server(asyncio.Protocol):
    """Serves one client over one pipe. `ended` is set when the pipe is."""

    def __init__(self, log: str) -> None:
        self.ended = asyncio.Event()
        self._log = log
        self._decoder = requests()
        self._transport: asyncio.Transport | None = None
        self._manager: Manager | None = None
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._asks: dict[int, asyncio.Future[str]] = {}
        self._last_ask = 0
        self._full = False
        self._unsent: dict[int, list[Changed]] = {}

    # ---- the pipe ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio.Transport
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for request in self._decoder.feed(data):
                self._receive(request)
        except FrameError as error:
            logger.error("the pipe is broken: %s", error)
            self.ended.set()

    def eof_received(self) -> None:
        self.ended.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        unsent, self._unsent = self._unsent, {}
        for reports in unsent.values():
            for report in reports:
                self._send(report)

    def _send(self, report: Report) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(report))

    def _report(self, report: Changed) -> None:
        """A kernel that does not read (native code holding the GIL) must not fill our memory: the newest counts.

        Kept with it are the changes of state before it, so many of them, since nobody else tells of those.
        """
        if not self._full:
            self._send(report)
            return
        unsent = self._unsent.setdefault(report.snapshot.tunnel, [])
        if unsent and unsent[-1].event in OF_THE_MOMENT:
            last = unsent.pop()
            report = Changed(report.snapshot, report.event or last.event)
        unsent.append(report)
        del unsent[:-MOST_UNSENT]

    # ---- requests ----

    def _receive(self, request: Request) -> None:
        match request:
            case Hello():
                self._greet(request)
            case Answer():
                self._answer(request)
            case Cancel():
                task = self._calls.get(request.call)
                if task is not None:
                    task.cancel()
            case _:
                if self._manager is None:
                    raise FrameError("a request before Hello")
                self._start(request.call, self._serve(self._manager, request))

    def _greet(self, hello: Hello) -> None:
        if hello.version != PROTOCOL_VERSION:
            raise FrameError(f"protocol version {hello.version}, not {PROTOCOL_VERSION}")
        neighbours = Neighbours(state_folder("engines"), kernel=hello.parent, notebook=hello.notebook)
        self._manager = Manager(neighbours, self._ask, self._report, self._log)
        self._send(Welcome(PROTOCOL_VERSION, os.getpid(), self._log))

    def _start(self, call: int, work: Coroutine[None, None, Done | Revealed]) -> None:
        self._calls[call] = asyncio.get_running_loop().create_task(self._run(call, work))

    async def _run(self, call: int, work: Coroutine[None, None, Done | Revealed]) -> None:
        report: Report
        try:
            report = await work
        except ForwardError as error:
            report = Failed(call, Fault.of(error))
        except asyncio.CancelledError:
            report = Failed(call, Fault.of(ClosedError("cancelled; nothing was left open")))
        except Exception as error:
            logger.exception("a fault of xec_forward")
            fault = EngineError(f"a fault of xec_forward: {type(error).__name__}", hint=f"See {self._log}")
            report = Failed(call, Fault.of(fault))
        del self._calls[call]
        self._send(report)

    async def _serve(
        self,
        manager: Manager,
        request: Open | Close | Reconnect | Check | Look | Examine | ReadSecret | Browse | Describe,
    ) -> Done | Revealed:
        match request:
            case Open():
                return Done(request.call, (await manager.open(request),))
            case Close():
                return Done(request.call, await manager.close(request.tunnels))
            case Reconnect():
                return Done(request.call, (await manager.reconnect(request.tunnel),))
            case Check():
                return Done(request.call, health=await manager.check(request.tunnel))
            case Look():
                return Done(request.call, outlook=await manager.look(request))
            case Examine():
                return Done(request.call, examination=await self._examine(request))
            case ReadSecret():
                return Revealed(request.call, await manager.secret(request))
            case Browse():
                return Done(request.call, names=await manager.browse(request))
            case Describe():
                return Done(request.call, manager.snapshots())

    async def _examine(self, request: Examine) -> Examination:
        async def source(kind: str, reference: str) -> str:
            return await self._ask(request.call, kind, reference, "", False)

        return await doctor.examine(request, source, lambda finding: self._send(Examined(request.call, finding)))

    # ---- questions ----

    async def _ask(self, call: int, kind: str, source: str, prompt: str, echo: bool) -> str:
        """Have the client resolve a SOURCE, or ask a person. Raises Unanswered."""
        self._last_ask += 1
        ask = self._last_ask
        future = self._asks[ask] = asyncio.get_running_loop().create_future()
        self._send(Ask(ask, call, kind, source, prompt, echo))
        try:
            answer: str = await future
            return answer
        finally:
            del self._asks[ask]

    def _answer(self, answer: Answer) -> None:
        future = self._asks.get(answer.ask)
        if future is None or future.done():
            return
        if answer.value is not None:
            future.set_result(answer.value)
        else:
            future.set_exception(Unanswered(answer.why, person=answer.person))

    # ---- the end ----

    async def stop(self, grace: float = 0.0) -> None:
        """End every call, tunnel and link."""
        for task in list(self._calls.values()):
            task.cancel()
        if self._manager is not None:
            await self._manager.close_all(grace)
        if self._transport is not None:
            self._transport.close()
