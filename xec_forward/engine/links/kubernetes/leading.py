"""From pod to pod: the one that a resource leads to at the moment, and those before it that carry something yet.

chosen   a ready pod (`resolve`), with its warm upgrades
left     the resource leads to others by now (`follow`): new connections go there, those in use stay where they are
going    it terminates, or its node says that it is gone: new connections wait for the next pod, those in use may
         end by themselves, and what ends of them now is reset, because an EOF would pass for a complete answer
lost     nobody has followed it and nothing is carried any more
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from ....errors import AuthenticationError, ConfigError, ForwardError, LostError, PodGoneError
from ....spec import Endpoint
from .api import Api
from .dial import Dialler
from .failures import Answer
from .follow import Follow, Heed
from .reasons import Reason
from .resolve import Choice, choose
from .warm import Warm
from .watch import PASSING

# How long a pod is looked for while nothing is carried, seconds.
SUCCESSION = 2.0
# Between two searches, while none is there and the last one still carries something; and before the same one is taken
# again, whose sandbox its node makes anew: seconds, the last one from then on.
_SEARCHES = (0.2, 0.5, 1.0, 2.0, 5.0)
_SAME_AGAIN = (0.2, 0.5, 1.0)
# One that goes again after this long goes for another reason, seconds.
_FORGOTTEN = 30.0
# Between two looks at where the resource leads, of which nothing new is known; seconds.
_LOOKS = 1.0

logger = logging.getLogger(__name__)


def answered(error: ForwardError) -> bool:
    """Whether the API server is there, and refuses."""
    return isinstance(error.__cause__, Answer)


class Leading:
    """See above.

    Args:
        api: requests to the API server, in the resource's namespace.
        choice: the pod to begin with.
        lost: called once, with the reason, where there is no pod any more.

    Attributes:
        choice: the pod that is led to, or that was last; warm: its upgrades.
        why: no pod is led to, and another is looked for; else "".
    """

    def __init__(self, api: Api, choice: Choice, lost: Callable[[ForwardError], None]) -> None:
        self.why = ""
        self.choice: Choice
        self.warm: Warm
        self._follow: Follow
        self._api = api
        self._lost = lost
        self._over = False
        self._retired: dict[Warm, Follow] = {}
        self._there = asyncio.Event()  # there is a pod, or none is to be waited for
        self._none: ForwardError | None = None  # why none is
        self._news = False  # of where the resource leads
        self._look_after = 0.0
        self._looking: asyncio.Task[ForwardError | None] | None = None
        self._relapse = ("", 0, 0.0)  # which pod went last, how often in a row before, and when
        self._succession: asyncio.Task[None] | None = None
        self._use(choice)
        self._heed = Heed(api, choice.service, self._changed) if choice.service is not None else None

    @property
    def leads(self) -> bool:
        """Whether there is a pod to lead to."""
        return self._there.is_set() and self._none is None and not self._over

    async def pod(self) -> Warm:
        """The upgrades of the pod that a new connection goes to; waits for one. Raises LostError, or why none comes."""
        while True:
            await self._there.wait()
            if self._over:
                raise LostError("the link is gone", hop=self._api.name)
            if self._none is not None:
                raise type(self._none)(self._none.message, hop=self._none.hop, hint=self._none.hint)
            if self._news or not self._follow.ready:
                await self._look()
            if self.leads:
                return self.warm

    async def port(self, connect: Endpoint) -> int:
        """The pod's port. Raises ConfigError."""
        try:
            return self.choice.port(connect)
        except ConfigError:
            if self._heed is None:
                raise
            await self._look()  # where nobody may watch, the service may have it by now
            return self.choice.port(connect)

    async def join(self, connect: Endpoint) -> None:
        """Another tunnel is opened to the resource: resolve anew, as for the first.

        Raises:
            NameNotFoundError: the service is not there any more. ConfigError: there is no such port. Those of the API.
        """
        if self._heed is not None and self.leads:
            self._look_after = 0.0
            if (error := await self._look()) is not None:
                raise error
        self.choice.port(connect)

    def gone(self, warm: Warm, reason: str) -> None:
        """A pod goes, or has gone."""
        if warm is not self.warm or not self.leads:
            return
        self._follow.close()
        warm.doom(LostError(reason, hop=str(self.choice.resource)))  # see `_going`
        self._search_another(reason)

    def warm_lost(self, warm: Warm, lost: asyncio.Future[ForwardError]) -> None:
        """A pod's upgrades are of no use any more."""
        if warm in self._retired and not warm.carries:
            self._retired.pop(warm).close()
        if lost.cancelled() or warm is not self.warm:
            return
        error = lost.result()
        if isinstance(error, PodGoneError):
            self.gone(warm, error.message)
        elif answered(error) and not isinstance(error, AuthenticationError):
            # The API server is there, and refuses: asked by another link, and at once, it would say the same.
            self.warm = self._pool_of(self.choice)
        elif self.leads:
            self._lost(error)

    def end(self, error: ForwardError | None = None) -> None:
        """Lead nowhere any more; with an error, what is carried is aborted now. Idempotent."""
        if not self._over:
            self._over = True
            self._there.set()  # whoever waits for a pod learns that there is none
            for task in (self._looking, self._succession):
                if task is not None and task is not asyncio.current_task():
                    task.cancel()
            for watch in self._watches:
                watch.close()
        if error is not None:
            for warm in (self.warm, *self._retired):
                warm.abort(error)

    async def wait_closed(self) -> None:
        """End in order: what was sent is given a moment to be taken."""
        warms = [self.warm, *self._retired]
        await asyncio.gather(*(watch.wait_closed() for watch in self._watches), *(warm.close() for warm in warms))

    # ---- which pod ----

    @property
    def _carries(self) -> bool:
        return any(warm.carries for warm in (self.warm, *self._retired))

    @property
    def _watches(self) -> list[Follow | Heed]:
        heeds = [self._heed] if self._heed is not None else []
        return [self._follow, *self._retired.values(), *heeds]

    def _use(self, choice: Choice) -> None:
        self.choice = choice
        # Each knows its own pod, and may speak of it when another is in use already.
        self.warm = self._pool_of(choice)

        def going(reason: str) -> None:
            self._going(follow, reason)

        follow = self._follow = Follow(self._api, choice, going, self._changed)
        self._none, self.why = None, ""
        self._there.set()

    def _move(self, choice: Choice) -> None:
        """New connections go to another pod; those in use stay, and their pod is followed to the end."""
        for warm in [each for each in self._retired if each.lost.done() and not each.carries]:
            self._retired.pop(warm).close()
        warm = self.warm
        self._retired[warm] = self._follow
        self._use(choice)
        warm.retire()

    def _pool_of(self, choice: Choice) -> Warm:
        warm = Warm(Dialler(self._api, choice.namespace, choice.pod), choice.pod)
        warm.lost.add_done_callback(lambda lost: self.warm_lost(warm, lost))
        return warm

    def _going(self, follow: Follow, reason: str) -> None:
        if follow is self._follow:
            self.gone(self.warm, reason)
        for warm, theirs in [*self._retired.items(), (self.warm, self._follow)]:
            if theirs is follow:
                # No PodGoneError: what was sent there may have been heard, and is not to be sent again (`attempt`).
                warm.doom(LostError(reason, hop=str(self.choice.resource)))

    # ---- where the resource leads ----

    def _changed(self) -> None:
        """The service is another one, or the pod's labels are: it may lead elsewhere."""
        self._news, self._look_after = True, 0.0
        if self.leads:
            self._begin_look()

    async def _look(self) -> ForwardError | None:
        """Resolve anew: one look for all who wait for it, and none soon after. Returns what went wrong."""
        if self._looking is None and asyncio.get_running_loop().time() < self._look_after:
            return None
        look = self._begin_look()
        await asyncio.wait([look])
        return None if look.cancelled() else look.result()

    def _begin_look(self) -> asyncio.Task[ForwardError | None]:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look_on())
        return self._looking

    async def _look_on(self) -> ForwardError | None:
        try:
            while True:
                self._news = False
                self._look_after = asyncio.get_running_loop().time() + _LOOKS
                try:
                    await self._look_once()
                except ForwardError as error:
                    logger.info("%s: where it leads cannot be told: %s", self.choice.resource, error)
                    self._news = True
                    return error
                if not self._news or not self.leads:
                    return None
        finally:
            self._looking = None

    async def _look_once(self) -> None:
        choice, follow = self.choice, self._follow
        left = asyncio.Event()  # the pod in use is none of its own any more, and no other is ready
        search = asyncio.ensure_future(
            choose(self._api, choice.resource, prefer=choice.pod, waiting=lambda reason: left.set())
        )
        leaving = asyncio.ensure_future(left.wait())
        try:
            await asyncio.wait([search, leaving], return_when=asyncio.FIRST_COMPLETED)
            found = search.result() if search.done() else None
        finally:
            search.cancel()
            leaving.cancel()
        if self._follow is not follow or not self.leads:
            return
        if found is None:
            self._search_another(f"{choice.resource} leads to pod/{choice.pod} no more")
        elif found.uid == choice.uid:
            self.choice = found  # its ports may be others
        else:
            self._move(found)

    # ---- the pod that follows ----

    def _search_another(self, reason: str) -> None:
        logger.info("%s: %s", self.choice.resource, reason)
        self._there.clear()
        self.why = reason
        self._succession = asyncio.get_running_loop().create_task(self._succeed(reason))

    async def _succeed(self, reason: str) -> None:
        """Find the pod that follows, for as long as the last one carries something, and SUCCESSION seconds at least."""
        went, loop = self.choice.uid, asyncio.get_running_loop()
        last, times, when = self._relapse
        times = times + 1 if last == went and loop.time() - when < _FORGOTTEN else 0
        self._relapse = (went, times, loop.time())
        waited = False
        for search in itertools.count():
            try:
                choice = await self._search(reason, went)
            except ForwardError as error:
                if not await self._outlasts(error, _SEARCHES[min(search, len(_SEARCHES) - 1)]):
                    self._lost(error)
                    return
                continue
            if choice.uid != went or waited:
                self._move(choice)
                return
            # It is ready for all that the API server knows: its node makes it anew, or says soon that it has gone.
            await asyncio.sleep(_SAME_AGAIN[min(times, len(_SAME_AGAIN) - 1)])
            waited = True

    async def _search(self, reason: str, went: str) -> Choice:
        """One search. Raises LostError where it finds none in time, and what `choose` raises."""
        last = Reason("")

        def waiting(why: Reason) -> None:
            nonlocal last
            last = why
            if self._none is not None:  # one is to be waited for, after all
                self._none = None
                self._there.clear()

        loop = asyncio.get_running_loop()
        began = loop.time()
        search = asyncio.ensure_future(choose(self._api, self.choice.resource, avoid=went, waiting=waiting))
        try:
            while not search.done() and (loop.time() - began < SUCCESSION or self._carries):
                await asyncio.wait([search], timeout=0.1)
            if not search.done():
                raise LostError(f"{reason}; {last or 'no other pod is ready'}", hop=str(self.choice.resource))
            return search.result()
        finally:
            search.cancel()

    async def _outlasts(self, error: ForwardError, pause: float) -> bool:
        """Whether something is still carried when the next search is due; there is none for what it would not mend.

        Whoever waits for the next pod hears of an error, unless it is an outage of the API server's.
        """
        if not isinstance(error, PASSING) and self._carries:
            self._none = error
            self._there.set()
        again, loop = isinstance(error, (PodGoneError, *PASSING)), asyncio.get_running_loop()
        due = loop.time() + pause
        while self._carries and not (again and loop.time() >= due):
            await asyncio.sleep(0.1)
        return self._carries
