"""The API server: HTTPS, who asks, what for, and the answer from the store.

State holds the cluster; Server is its door, which can be shut and opened again on the same port.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiohttp import web

from . import discovery
from .access import Access
from .answers import answer, busy, compact, plain, refusal, status
from .containerd import Timing
from .controller import Controller
from .counts import Count
from .kinds import KINDS, Body
from .portforward import portforward
from .selectors import Selector, selector
from .store import Expired, Store

PROTOCOLS = frozenset({"spdy-tunnel", "v4", "spdy-raw"})
_REQUEST_LOG = 10_000  # lines
_HANDLERS_END = 2.0  # seconds that cancelled requests may take to end
_LOOK_UP = 2.0  # seconds after which a silent watch looks whether its client is still there
_PATH = re.compile(
    r"/(?:api/v1|apis/[a-z0-9.]+/v\d+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>[a-z]+))?)?"
)
_VERBS = {"GET": "get", "POST": "create", "DELETE": "delete"}
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


class State:
    """The cluster that the server shows. Used on the server's event loop; the counts may be read from anywhere.

    Attributes:
        protocols: the ways of port-forward that are offered: of `PROTOCOLS`.
        checks_create: a WebSocket needs `create` on pods/portforward beside `get`, as from 1.35 on.
        upgrades, streams: port-forward requests that were upgraded, and connections over them.
        upgraded: the protocol of each upgrade, in order.
        requests: method and path of each request.
        busy: the statuses of the next answers, 429 or 500, each with a Retry-After.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        minor = int(version.partition(".")[2])
        self.protocols = set(PROTOCOLS) if minor > 30 else {"v4", "spdy-raw"}
        self.checks_create = minor >= 35
        self.access = Access()
        self.timing = Timing()
        self.store = Store()
        self.controller = Controller(self.store, self.timing)
        self.upgrades = Count()
        self.streams = Count()
        self.upgraded: list[str] = []
        self.requests: list[str] = []
        self.busy: list[int] = []
        self.troubles: dict[str, tuple[int, str]] = {}  # by the end of a path

    @contextmanager
    def upgrade(self, protocol: str) -> Iterator[None]:
        """Count an upgrade for as long as it lives."""
        self.upgraded.append(protocol)
        with self.upgrades:
            yield


class Server:
    """The door: `start` and `stop` may follow each other; the port stays the same."""

    def __init__(self, state: State, tls: ssl.SSLContext, port: int = 0) -> None:
        self.port = port
        self._state = state
        self._tls = tls
        self._runner: web.AppRunner | None = None
        self._serving: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen on 127.0.0.1. Raises OSError."""
        if self._runner is not None:
            return
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, keepalive_timeout=600)
        await runner.setup()
        self._runner = runner
        try:
            site = web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self._tls, backlog=1024, reuse_address=True)
            await site.start()
        except OSError:
            await self.stop()
            raise
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening, and cut every connection as a server that dies does."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            for site in list(runner.sites):
                await site.stop()
            if runner.server is not None:
                for connection in runner.server.connections:
                    if connection.transport is not None:
                        connection.transport.abort()
            await runner.cleanup()
        # A watch that waits for the next change has not noticed yet.
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=_HANDLERS_END)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self._runner is None or request.app is not self._runner.app:
            # Its handshake was under way when the server stopped: aiohttp did not know of it.
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            return await self._respond(request)
        finally:
            self._serving.discard(task)

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        state = self._state
        if len(state.requests) < _REQUEST_LOG:
            state.requests.append(f"{request.method} {request.path_qs}")
        user = state.access.user(request.headers, _certificate_name(request))
        if user is None:
            return refusal(401, "Unauthorized")
        if state.busy:
            return busy(state.busy.pop(0))
        document = self._document(request)
        if document is not None:
            return answer(document)
        if request.path == _REVIEWS and request.method == "POST":
            if request.content_type != "application/json":  # kubectl's own goes as protobuf
                return refusal(415, "the body of the request was in an unknown format")
            return answer(self._review(user, await request.json()), 201)
        if request.path == _WHO_AM_I and request.method == "POST":
            who = {"kind": "SelfSubjectReview", "status": {"userInfo": {"username": user}}}
            return answer({"apiVersion": "authentication.k8s.io/v1", **who}, 201)
        for end, (code, text) in state.troubles.items():
            if request.path.endswith(end):
                return plain(code, text)
        match = _PATH.fullmatch(request.path)
        kind = KINDS.get(match["plural"]) if match else None
        if match is None or kind is None or not request.path.startswith(_base(kind.group_version)):
            return refusal(404, "the server could not find the requested resource")
        return await self._object(request, user, match)

    def _document(self, request: web.Request) -> Body | None:
        path = request.path.rstrip("/")
        if path == "/version":
            return discovery.version(self._state.version)
        if path == "/api":
            return discovery.core_versions(f"127.0.0.1:{self.port}")
        if path == "/apis":
            return discovery.groups()
        for prefix in ("/api/", "/apis/"):
            if path.startswith(prefix):
                return discovery.resources(path.removeprefix(prefix))
        return None

    def _review(self, user: str, review: Body) -> Body:
        asked: dict[str, str] = review["spec"]["resourceAttributes"]
        subresource = asked.get("subresource")
        resource = asked.get("resource", "") + (f"/{subresource}" if subresource else "")
        allowed = self._state.access.allows(user, asked.get("verb", ""), resource, asked.get("namespace", ""))
        return review | {"metadata": {}, "status": {"allowed": allowed}}

    async def _object(self, request: web.Request, user: str, match: re.Match[str]) -> web.StreamResponse:
        plural, namespace, name = match["plural"], match["namespace"] or "", match["name"] or ""
        resource = plural + (f"/{match['subresource']}" if match["subresource"] else "")
        watching = request.query.get("watch", "") in ("1", "true")
        verb = (
            "watch" if watching else "list" if not name and request.method == "GET" else _VERBS.get(request.method, "")
        )
        if not self._state.access.allows(user, verb, resource, namespace or (name if plural == "namespaces" else "")):
            return _forbidden(user, verb, plural, resource, namespace, name)
        store = self._state.store
        if not name:
            if verb not in ("list", "watch"):
                return refusal(405, "the server does not allow this method on the requested resource")
            try:
                picks = selector(request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
            except ValueError as error:
                return refusal(400, str(error))
            return (
                await self._watch(request, plural, namespace, picks)
                if watching
                else self._list(plural, namespace, picks)
            )
        body = store.get(plural, namespace, name)
        if resource == "pods/portforward" and verb in ("get", "create"):
            request.match_info.update(namespace=namespace, name=name)
            return await portforward(request, self._state, user, body)
        if match["subresource"] or verb not in KINDS[plural].verbs:
            return refusal(405, "the server does not allow this method on the requested resource")
        if body is None:
            return refusal(404, f'{_grouped(plural)} "{name}" not found', _details(plural, name))
        if verb == "delete":
            return answer(self._state.controller.delete_pod(namespace, name))
        return answer(body)

    def _list(self, plural: str, namespace: str, picks: Selector) -> web.Response:
        store, kind = self._state.store, KINDS[plural]
        items = [
            {field: value for field, value in body.items() if field not in ("kind", "apiVersion")}
            for body in store.of_kind(plural, namespace)
            if picks(body)
        ]
        head = {"kind": f"{kind.name}List", "apiVersion": kind.group_version}
        return answer(head | {"metadata": {"resourceVersion": str(store.version)}, "items": items})

    async def _watch(self, request: web.Request, plural: str, namespace: str, picks: Selector) -> web.StreamResponse:
        store = self._state.store
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        response.enable_chunked_encoding()
        await response.prepare(request)

        async def tell(kind: str, body: Body) -> None:
            await response.write(compact({"type": kind, "object": body}))

        asked = request.query.get("resourceVersion", "")
        version = int(asked) if asked.isdecimal() else 0
        started = store.version
        initial = not version or request.query.get("sendInitialEvents") == "true"
        bookmark: Body = {"kind": KINDS[plural].name, "apiVersion": KINDS[plural].group_version}
        # A client that leaves is no failure; neither is the end of the time that it asked for.
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_seconds(request.query.get("timeoutSeconds", ""))):
                if initial:
                    for body in [body for body in store.of_kind(plural, namespace) if picks(body)]:
                        await tell("ADDED", body)
                    if request.query.get("sendInitialEvents") == "true":
                        meta: Body = {"resourceVersion": str(started), "creationTimestamp": None}
                        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
                        await tell("BOOKMARK", bookmark | {"metadata": meta})
                    version = started
                try:
                    while request.transport is not None:
                        current = store.version
                        for change in store.since(version, plural, namespace, picks):
                            await tell(change.type, change.body)
                        version = current
                        if version == store.version:
                            await store.changed(_LOOK_UP)
                except Expired:
                    message = f"too old resource version: {version} ({store.version})"
                    await tell("ERROR", status(410, message))
        with suppress(ConnectionError):
            if request.query.get("allowWatchBookmarks") == "true":
                meta = {"resourceVersion": str(max(version, started)), "creationTimestamp": None}
                await tell("BOOKMARK", bookmark | {"metadata": meta})
            await response.write_eof()
        return response


def _seconds(text: str) -> float:
    # A real server ends a watch for which no time was asked after 30 to 60 minutes.
    return float(text) if text.isdecimal() and int(text) else 1800.0


def _base(group_version: str) -> str:
    return "/api/v1/" if group_version == "v1" else f"/apis/{group_version}/"


def _certificate_name(request: web.Request) -> str:
    transport = request.transport
    certificate: Any = transport.get_extra_info("peercert") if transport else None
    subject = (certificate or {}).get("subject", ())
    return next((value for row in subject for key, value in row if key == "commonName"), "")


def _grouped(plural: str) -> str:
    group = KINDS[plural].group
    return f"{plural}.{group}" if group else plural


def _details(plural: str, name: str) -> dict[str, str]:
    group = KINDS[plural].group
    return {"name": name, **({"group": group} if group else {}), "kind": plural}


def _forbidden(user: str, verb: str, plural: str, resource: str, namespace: str, name: str) -> web.Response:
    which = f'{_grouped(plural)} "{name}"' if name else _grouped(plural)
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    message = (
        f'{which} is forbidden: User "{user}" cannot {verb} resource "{resource}" '
        f'in API group "{KINDS[plural].group}" {where}'
    )
    details = _details(plural, name)
    if not name:
        del details["name"]
    return refusal(403, message, details)
