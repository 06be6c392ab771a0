"""How an upgrade is made: which protocols are asked for, in which order, until a server takes one.

    GET, the tunnel      SPDY/3.1 in a WebSocket: servers from 1.31 on
    POST, SPDY/3.1       older servers, and where the user may only `create`
    GET, v4.channel      older servers behind something that passes WebSocket alone, and where the user may only `get`

The first two lead to any port and are used again. With v4 each connection costs an upgrade, which is ten times slower,
and the service sees it at once: so it is not offered beside the tunnel, where an older server would take it.

What worked is tried first from then on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from ....errors import ConfigError, ForwardError, LostError, PodGoneError, UnreachableError
from .failures import Answer
from .upgrade import Kind, Upgrade
from .websocket import WebSocketUpgrade, accepted, handshake

# Answers that no other way of asking changes: who we are, too many requests; and of who is busy.
_FINAL = (401, 429)


_SAYS_NOTHING = re.compile(r"^$|forbidden:$|^Upgrade request required$")
# Answers of a node that is asked for no port.
_ALIVE = (400, 403)

U = TypeVar("U", bound=Upgrade)


class UpgradeApi(Protocol):
    """What is needed of the API server; `Api` has it."""

    async def upgrade(
        self,
        method: str,
        path: str,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        make: Callable[[Mapping[str, str]], U],
    ) -> U:
        """Ask for an upgrade. After a 101 the connection belongs to the protocol that `make` makes from its headers.

        Raises:
            ForwardError: the server refuses, or does not answer. What `make` raises.
        """


class Dialler:
    """Makes upgrades to one pod.

    Args:
        api: the API server.
        namespace, pod: where to.
    """

    def __init__(self, api: UpgradeApi, namespace: str, pod: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
        self._pod = pod
        self._ways = [self._tunnel, self._spdy, self._v4]
        self._worked = False

    async def __call__(self, port: int) -> Upgrade:
        """One upgrade, bound to `port` where the server knows no better.

        Raises:
            PodGoneError: the pod is not there any more. Other ForwardErrors, of the way that was tried first.
        """
        refusals: list[ForwardError] = []
        for way in list(self._ways):
            try:
                upgrade = await way(port)
            except ForwardError as error:
                refusals.append(error)
                if not self._worth_another(error):
                    break
            else:
                self._worked = True
                self._ways.sort(key=lambda each: each != way)
                return upgrade
        first = refusals[0]
        if self._no_such_pod(first):
            raise PodGoneError("the pod has gone", hop=self._pod) from first
        told = [each for each in refusals if _status(each) != 404]
        if not told:
            text = getattr(first.__cause__, "text", "") or "it gives no reason"
            raise UnreachableError(f"the pod's node answers 404: {text}", hop=self._pod) from first.__cause__
        if all(_wordless(each) for each in told):
            raise self._not_taken() from first.__cause__
        # From 1.35 on a WebSocket is refused without a word to who may not `create`; the POST says it.
        raise next(each for each in told if not _wordless(each))

    async def reach(self) -> None:
        """Ask the pod's node for a sign of life, without a connection to the pod. Raises ForwardError."""

        def make(answer: Mapping[str, str]) -> Upgrade:
            raise self._not_taken()

        try:
            # Without a port it is refused, by the node.
            await self._api.upgrade("GET", self._path, [], handshake([Kind.V4.value]), make)
        except ForwardError as error:
            if _status(error) not in _ALIVE:
                raise

    def _worth_another(self, error: ForwardError) -> bool:
        """Whether the refusal may be of the protocol, or of the verb, and not of the pod or the user."""
        if isinstance(answer := error.__cause__, Answer):
            return answer.status not in _FINAL and answer.again is None and not self._no_such_pod(error)
        # What is between may answer in the server's place, or cut what it does not know.
        return isinstance(error, ConfigError | LostError) and not self._worked

    def _no_such_pod(self, error: ForwardError) -> bool:
        """Whether it is the API server that knows no such pod. A node may know it yet, or again, in a moment."""
        answer = error.__cause__
        if not isinstance(answer, Answer) or answer.status != 404:
            return False
        return answer.reason == "NotFound" and answer.details.get("name") == self._pod

    async def _tunnel(self, port: int) -> Upgrade:
        return await self._websocket(port, WebSocketUpgrade(Kind.TUNNEL))

    async def _v4(self, port: int) -> Upgrade:
        return await self._websocket(port, WebSocketUpgrade(Kind.V4, port))

    async def _websocket(self, port: int, upgrade: WebSocketUpgrade) -> Upgrade:
        asked = handshake([upgrade.kind.value])

        def make(answer: Mapping[str, str]) -> Upgrade:
            if not accepted(asked, answer) or answer.get("sec-websocket-protocol", "") != upgrade.kind.value:
                raise self._not_taken()
            return upgrade

        return await self._api.upgrade("GET", self._path, [("ports", str(port))], asked, make)

    async def _spdy(self, port: int) -> Upgrade:
        asked = {
            "Connection": "Upgrade",
            "Upgrade": Kind.RAW.value,
            "X-Stream-Protocol-Version": "portforward.k8s.io",
        }

        def make(answer: Mapping[str, str]) -> Upgrade:
            if answer.get("upgrade", "").lower() != Kind.RAW.value.lower():
                raise self._not_taken()
            return Upgrade(Kind.RAW)

        return await self._api.upgrade("POST", self._path, [], asked, make)

    def _not_taken(self) -> ConfigError:
        hint = "Something between here and there may answer in its place"
        return ConfigError("the API server upgrades to no protocol of port-forward", hop=self._pod, hint=hint)


def _status(error: ForwardError) -> int | None:
    """The status of the answer behind an error, if there was one."""
    return error.__cause__.status if isinstance(error.__cause__, Answer) else None


def _wordless(error: ForwardError) -> bool:
    """Whether it is a refusal that says nothing to a person: neither who may not, nor what."""
    answer = error.__cause__
    return isinstance(answer, Answer) and answer.status in (400, 403) and _SAYS_NOTHING.search(answer.text) is not None
