"""The way to the engine: it is started when it is needed, called, listened to, and found dead.

Three threads, all daemons. The *reader*, one for each engine, reads and routes what arrives; nothing that it does waits
for anybody. The *keeper* does what we owe the engine and what takes its time: it starts another one where it died, and
answers the questions nobody waits for. The *handler* runs what others hang on events and traits: it may take as long as
it likes, and may itself make a call.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import EngineError, ForwardError
from ..model import PROTOCOL_VERSION, Ask, Changed, Done, Examined, Failed, Hello, Message, Report, Revealed, Welcome
from .call import AsyncCall, BlockingCall, Call, resolve
from .process import EngineProcess
from .sources import Sources
from .turns import Turns
from .watcher import ScriptWatcher, Watcher

logger = logging.getLogger(__name__)

# The engine bounds what it does; the client allows it this much more, seconds.
MARGIN = 15.0

C = TypeVar("C", bound=Call)


class Connection(ABC):
    """One engine at a time, and the calls to it.

    Attributes:
        sources: what references in requests stand for.
        watcher: makes the watcher of a call that brings none.
    """

    def __init__(self) -> None:
        self.sources = Sources()
        self.watcher: Callable[[], Watcher] = ScriptWatcher
        self._numbers = itertools.count(1)
        self._engine: EngineProcess | None = None
        self._starting = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._keeper = Turns("xec_forward keeper")
        self._handler = Turns("xec_forward handler")
        self._stopping = False
        self._attendant: queue.SimpleQueue[Ask] | None = None

    @abstractmethod
    def changed(self, message: Changed) -> None:
        """A tunnel changed. Called on the reader thread: never block."""

    @abstractmethod
    def died(self, log: str, waiting: set[int]) -> None:
        """The engine ended although nobody told it to; there is none now. Called on the keeper thread.

        Args:
            log: its log file.
            waiting: the numbers of the calls that waited for it; they have been told.
        """

    # ---- the engine ----

    @property
    def log(self) -> str:
        """The engine's log file, "" before there is an engine."""
        return self._engine.log if self._engine is not None else ""

    @property
    def engine_pid(self) -> int:
        """The engine's process id, 0 where there is none."""
        return self._engine.pid if self._engine is not None else 0

    def start(self) -> EngineProcess:
        """The running engine; starts one where there is none. Raises EngineError."""
        with self._starting:
            if self._engine is None:
                self._stopping = False
                engine = EngineProcess()
                engine.send(Hello(PROTOCOL_VERSION, os.getpid(), _notebook()))
                self._engine = engine
                threading.Thread(target=self._read, args=(engine,), name="xec_forward reader", daemon=True).start()
            return self._engine

    def warm(self) -> None:
        """Start the engine in the background, so that the first opening finds it running. Returns at once."""

        def start() -> None:
            try:
                self.start()
            except ForwardError as error:
                logger.info("the engine could not be warmed: %s", error)

        threading.Thread(target=start, name="xec_forward warm-up", daemon=True).start()

    def end(self) -> None:
        """End the engine, and wait until it is gone. Idempotent; the next call starts another."""
        with self._starting:
            self._stopping = True
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop()
        self._keeper.end()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's engine without touching it."""
        if self._engine is not None:
            self._engine.abandon()
            self._engine = None
        self._calls.clear()

    # ---- calls ----

    def call(
        self,
        make: Callable[[int], Message],
        watcher: Watcher | None = None,
        limit: float = 0.0,
        margin: float = MARGIN,
    ) -> Done:
        """Send a request and wait for its answer. Raises its error, EngineError, or KeyboardInterrupt.

        Args:
            limit: seconds that the engine may take for it.
            margin: seconds after that in which it may be silent before it counts as stuck.
        """
        call = self._begin(BlockingCall, make, limit, margin)
        try:
            return call.wait(self.sources, watcher or self.watcher())
        finally:
            self._calls.pop(call.number, None)

    async def acall(self, make: Callable[[int], Message], watcher: Watcher | None = None, limit: float = 0.0) -> Done:
        """`call` for coroutines: waits without blocking the loop."""
        call = self._begin(AsyncCall, make, limit)
        try:
            return await call.wait(self.sources, watcher or self.watcher())
        finally:
            self._calls.pop(call.number, None)

    def _begin(
        self,
        kind: Callable[[int, float, Callable[[Message], None]], C],
        make: Callable[[int], Message],
        limit: float,
        margin: float = MARGIN,
    ) -> C:
        engine = self.start()
        call = kind(next(self._numbers), limit + margin, self.send)
        self._calls[call.number] = call
        try:
            engine.send(make(call.number))
        except EngineError:
            self._calls.pop(call.number, None)
            raise
        return call

    def send(self, message: Message) -> None:
        """Send a message that needs no answer. Raises EngineError."""
        if self._engine is None:
            raise EngineError("the engine is gone", hint="Run the line again: it starts another")
        self._engine.send(message)

    # ---- the reader thread ----

    def _read(self, engine: EngineProcess) -> None:
        for message in engine.receive():
            try:
                self._route(message)
            except Exception:
                logger.exception("a message of the engine was lost")  # one; not all that follow it
        if self._engine is engine:
            self._keeper.put(lambda: self._bury(engine))

    def _route(self, message: Report) -> None:
        match message:
            case Welcome():
                pass
            case Done() | Failed() | Examined() | Revealed():
                call = self._calls.get(message.call)
                if call is not None:
                    call.deliver(message)
            case Changed():
                self.changed(message)
            case Ask():
                call = self._calls.get(message.call)
                if call is not None:
                    call.deliver(message)
                elif self._attendant is not None:
                    self._attendant.put(message)
                else:
                    self._keeper.put(lambda: self._answer_unattended(message))

    # ---- the other threads ----

    def hand_over(self, work: Callable[[], object]) -> None:
        """Have the handler thread do this, in its turn."""
        self._handler.put(work)

    def afterwards(self, work: Callable[[], object]) -> None:
        """Have the keeper thread do this, in its turn: our own, and too much for where it was found out."""
        self._keeper.put(work)

    @contextlib.contextmanager
    def attended(self, questions: queue.SimpleQueue[Ask]) -> Iterator[None]:
        """Somebody takes the questions of reconnections, which belong to no call, from this queue."""
        self._attendant = questions
        try:
            yield
        finally:
            self._attendant = None
            while not questions.empty():
                self._answer_unattended(questions.get())

    def _answer_unattended(self, question: Ask) -> None:
        self.send(resolve(question, self.sources, None))

    def _bury(self, dead: EngineProcess) -> None:
        with self._starting:
            if self._engine is not dead or self._stopping:
                return
            self._engine = None
            # In the same breath: a call that begins from here on is another engine's.
            calls, self._calls = self._calls, {}
        dead.stop(0.5)
        lost = EngineError("the engine ended unexpectedly", hint=f"Its log is {dead.log}")
        for call in calls.values():
            call.deliver(lost)
        self.died(dead.log, set(calls))


def _notebook() -> str:
    """What tells this process from others to a person: the notebook's path, or the script's, or ""."""
    script = sys.argv[0] if sys.argv and sys.argv[0].endswith(".py") else ""
    # `python -m IPython`, and a kernel that was not started for a notebook: the file says nothing to anybody.
    if os.path.basename(script) in ("__main__.py", "ipykernel_launcher.py"):
        script = ""
    return os.environ.get("JPY_SESSION_NAME") or script
