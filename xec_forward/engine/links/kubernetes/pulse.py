"""Signs of life of one upgrade: PINGs on it, so that no proxy takes it for idle, and what their silence means.

A node answers PINGs behind the data it was sent: spdystream hands frames to five workers, and one that waits for a pod
to read holds up the PINGs behind it, in the end those of all five. So PINGs go out in rounds, one for each worker:

    one answer     the node lives, as whatever else comes says too, and data that leaves
    all answers    everything that was sent before has been taken by the pod's side
    no answer      asked again; after `MISSED` rounds without any sign of life the upgrade is dead, unless data was
                   under way that the pod may be slow to read

A network that stands still for less than `MISSED * DEADLINE` seconds costs nobody a connection, and a server that is
gone without a word is noticed within `INTERVAL + MISSED * DEADLINE`: 45, as over SSH.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

INTERVAL = 15.0
DEADLINE = 10.0
MISSED = 3
_LAST_ID = 0x7FFFFFFF


class Round:
    """The PINGs that went out together.

    Attributes:
        alive: resolved by the first answer with the seconds it took; cancelled where there will be none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sent: int, taken: Callable[[], None] | None) -> None:
        self.alive: asyncio.Future[float] = loop.create_future()
        self.sent = sent
        self.taken = taken
        self.left = 0
        self.began = time.perf_counter()


class Pulse:
    """The PINGs of one upgrade.

    Args:
        send: sends PINGs of these ids, in one write.
        dead: called when there is no sign of life any more, for which there is no other reason.
        width: the PINGs of a round.
        interval: seconds between rounds.
        deadline: seconds that an answer may take until it is asked for again.
    """

    def __init__(
        self,
        send: Callable[[Sequence[int]], None],
        dead: Callable[[], None],
        *,
        width: int = 5,
        interval: float = INTERVAL,
        deadline: float = DEADLINE,
    ) -> None:
        self._send = send
        self._dead = dead
        self._width = width
        self._interval = interval
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._next_id = 1
        self._rounds: dict[int, Round] = {}
        self._sent = 0
        self._taken = 0
        self._asked: float | None = None  # when the round went out since which nothing was heard
        self._missed = 0  # rounds in a row that have passed like that
        self._unanswered = 0  # rounds since the last answer
        self._paused = False
        self._stopped = False
        self._due = self._loop.time() + interval
        self._timer = self._loop.call_later(interval, self._beat)

    @property
    def overdue(self) -> bool:
        """Whether a sign of life is late, for whatever reason."""
        return self._missed > 0 and not self._paused

    def heard(self) -> None:
        """A sign of life: something came, or what was to be sent leaves."""
        self._asked = None
        self._missed = 0

    def wrote(self) -> None:
        """Data was sent, which may now hold up answers."""
        self._sent += 1

    def round(self, taken: Callable[[], None] | None = None) -> Round:
        """Send PINGs; `taken` is called when all of them are answered."""
        new = Round(self._loop, self._sent, taken)
        if self._stopped:
            new.alive.cancel()
            return new
        # The answers that an older round still misses would say no more than those to this one.
        for old in [number for number, each in self._rounds.items() if each.alive.done() and each.taken is None]:
            del self._rounds[old]
        ids = []
        for _ in range(self._width):
            ids.append(self._next_id)
            self._rounds[self._next_id] = new
            self._next_id = 1 if self._next_id >= _LAST_ID else self._next_id + 2  # odd: a client's
        new.left = len(ids)
        self._unanswered += 1
        now = self._loop.time()
        if self._asked is None:
            self._asked = now
        self._due = now + self._interval
        self._send(ids)
        self._schedule(self._asked + self._deadline - now)
        return new

    def answered(self, number: int) -> None:
        """A PING came back."""
        self.heard()
        self._unanswered = 0
        this = self._rounds.pop(number, None)
        if this is None:
            return
        if not this.alive.done():
            this.alive.set_result(time.perf_counter() - this.began)
        this.left -= 1
        if not this.left:
            self._taken = max(self._taken, this.sent)
            if this.taken is not None:
                this.taken()

    def pause(self) -> None:
        """Nothing is read from now on, so silence means nothing."""
        self._paused = True

    def resume(self) -> None:
        """What was held up comes now: it has the full time again."""
        if not self._paused:
            return
        self._paused = False
        if self._asked is not None:
            self._asked, self._missed = self._loop.time(), 0
            self._schedule(self._deadline)
        else:
            self._schedule(max(0.0, self._due - self._loop.time()))

    def stop(self) -> None:
        """No more PINGs; idempotent."""
        self._stopped = True
        self._timer.cancel()
        rounds, self._rounds = self._rounds, {}
        for each in rounds.values():
            each.alive.cancel()

    def _schedule(self, seconds: float) -> None:
        self._timer.cancel()
        if not self._stopped:
            self._timer = self._loop.call_later(seconds, self._beat)

    def _beat(self) -> None:
        if self._paused:
            return
        now = self._loop.time()
        if self._asked is None:
            if (rest := self._due - now) > 0:
                self._schedule(rest)
            else:
                self._ask(now)
        elif self._asked + self._deadline * 0.99 > now:  # a timer may be a little early
            self._schedule(self._asked + self._deadline - now)
        elif (missed := self._missed + 1) < MISSED or self._explained:
            self._missed = min(missed, MISSED)
            self._ask(now)
        else:
            self._dead()

    def _ask(self, now: float) -> None:
        """Another round, unless so many are unanswered that more would only pile up behind the data."""
        self._asked = now
        if self._unanswered < MISSED:
            self.round()
        else:
            self._due = now + self._interval
            self._schedule(self._deadline)

    @property
    def _explained(self) -> bool:
        """Whether every round that misses its answer went out behind data that may not have been taken yet."""
        return all(each.sent > self._taken for each in self._rounds.values() if not each.alive.done())
