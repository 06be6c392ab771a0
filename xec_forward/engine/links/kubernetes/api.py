"""Requests to one cluster's API server, by aiohttp: get, post, watch, upgrade. Errors come in our own words.

Each request takes the login of the moment along; a 401 has it renewed once. Where the API server is reached through
something else (`via`), only the address that is connected to changes: TLS, its server name and the Host header stay
the API server's own.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from typing import Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from ....errors import (
    AuthenticationError,
    ConfigError,
    DeadlineError,
    ForwardError,
    LimitError,
    LostError,
    NameNotFoundError,
)
from ....options import ClusterTarget
from ....spec import Endpoint
from . import raw
from .config import Context, load
from .credentials import Credentials, Login
from .environment import proxy_for
from .failures import Answer, NotHttp, ProxyError, explain, judge, unanswered
from .proxy import DOORS, Door, Via

Params = Mapping[str, str] | Sequence[tuple[str, str]]
T = TypeVar("T")
P = TypeVar("P", bound=asyncio.Protocol)

# Seconds for a request and the whole of its answer; a watch has them until it begins, an upgrade until its 101.
DEADLINE = 20.0
# Seconds in which a server that is busy is asked again when it says (Retry-After), as client-go does: less than an
# opening has, so that what it answers in the end is told.
PATIENCE = 15.0
_SOONEST = 0.1
_SOCKS_PORT = 1080
_LARGEST = 64 << 20  # bytes of an answer
_LARGEST_EVENT = 8 << 20  # and of one event of a watch: etcd's objects end at 1.5 MiB
_LARGEST_REFUSAL = 64 << 10


class Expired(Exception):
    """A watch from a resource version that the server no longer has (410): list anew."""


class Api:
    """One cluster's API server. Make one with `open`, end it with `close`.

    Attributes:
        name: the context's name, `in-cluster` for a pod's own service account.
        namespace: the one asked for, else the context's own, else default.
        server: the API server's host and port, for messages.
        outcome: told after each request whether the API server answered; may be set.
    """

    def __init__(self, credentials: Credentials, login: Login, via: Via | None) -> None:
        self._credentials = credentials
        self._via = via
        self.outcome: Callable[[bool], None] = _ignore
        context = credentials.context
        self.name, self.namespace = context.name, context.namespace
        self._url = login.server
        self._base = _url(login.server, "server", self.name)
        host = f"[{self._base.host}]" if ":" in str(self._base.host) else str(self._base.host)
        self.server = f"{host}:{self._base.port}"
        self._host = host if self._base.is_default_port() else self.server
        self._proxy = _proxy(login, self._base, direct=via is not None, hop=self.name)
        self._door: Door | None = None
        if self._proxy is not None and self._proxy.scheme in DOORS:
            to = Endpoint(str(self._base.host), self._base.port)
            self._door = Door(to, self._proxy, login.tls, via, context)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "User-Agent": "xec_forward"},
            raise_for_status=self._refuse,
            timeout=aiohttp.ClientTimeout(total=None),
        )

    @classmethod
    async def open(
        cls,
        target: ClusterTarget,
        via: Via | None = None,
        context: Context | None = None,
        patience: float = float("inf"),
    ) -> Api:
        """Read the kubeconfig and log in; nothing is asked of the API server yet.

        Args:
            target: which context of which kubeconfig.
            via: the way to it, where it is not reached directly; for a cluster with a proxy, the way to that.
            context: what the kubeconfig says of it, where that was read already.
            patience: see `credentials.Credentials.current`.

        Raises:
            ConfigError, AuthenticationError: see `credentials.Credentials.current`.
        """
        if context is None:
            context = await asyncio.to_thread(load, target)
        credentials = Credentials(target, context)
        return cls(credentials, await credentials.current(patience), via)

    def within(self, namespace: str) -> Api:
        """The same API server, whose connections it shares, seen from another namespace; "" is its own."""
        other = copy(self)
        other.namespace = namespace or self.namespace
        return other

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        """The object or list at `path`.

        Raises:
            RbacError, NameNotFoundError, AuthenticationError: the server refuses; the cause is an `Answer`.
            RefusedError, UnreachableError, LostError, DeadlineError, ConfigError: see `failures`.
        """
        return await self._json("GET", path, params)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object; for reviews such as SelfSubjectAccessReview. Raises as `get`."""
        return await self._json("POST", path, {}, msgspec.json.encode(body))

    async def watch(self, path: str, *, resource_version: str, **params: str) -> AsyncGenerator[dict[str, Any], None]:
        """The events of the list at `path` after `resource_version`, bookmarks included where they were asked for.

        Ends when the server ends it. Close it (`contextlib.aclosing`) where it is left early.

        Raises:
            Expired: the version is too old. Otherwise as `get`; LostError where the connection broke.
        """
        wanted = {"watch": "1", "resourceVersion": resource_version, **params}
        try:
            response = await self._with_login(lambda login: self._request(login, "GET", path, wanted))
        except ForwardError as error:
            if isinstance(error.__cause__, Answer) and error.__cause__.status == 410:
                raise Expired(error.message) from error
            raise
        unread = b""
        try:
            async with self._in_our_words():
                async for data in response.content.iter_any():
                    *lines, unread = (unread + data).split(b"\n")
                    if len(unread) > _LARGEST_EVENT:
                        raise LimitError("an event of a watch is too large", hop=self.server)
                    for line in filter(None, lines):
                        yield self._event(line)
        finally:
            response.close()

    async def upgrade(self, method: str, path: str, params: Params, headers: Mapping[str, str], make: raw.Make[P]) -> P:
        """Ask for an upgrade of a connection of its own, to SPDY/3.1 or WebSocket; see `raw.upgrade`.

        Args:
            headers: Connection, Upgrade, and what belongs to it.
            make: makes the protocol that has the connection from the 101 on, from its headers in lower case.

        Raises:
            As `get`, and what `make` raises.
        """
        there = False

        def reached() -> None:
            nonlocal there
            there = True

        async def ask(login: Login) -> P:
            nonlocal there
            there = False
            url = self._base.with_path(self._base.path.rstrip("/") + path).with_query(params)
            way = raw.Way(
                host=str(self._base.host),
                port=self._base.port or 0,
                address=await self._address(self._proxy or self._base),
                proxy=self._proxy,
                tls=login.tls,
                server_name=self._server_name(login),
            )
            asked = [("Host", self._host), *login.headers, *headers.items()]
            try:
                return await raw.upgrade(way, method, url.raw_path_qs, asked, make, reached)
            except Answer as answer:
                raise self._judged(answer, path) from answer

        try:
            return await self._with_login(ask)
        except DeadlineError as error:
            if there and isinstance(error.__cause__, TimeoutError):
                raise unanswered(self.server) from error.__cause__
            raise

    async def read_secret(self, namespace: str, name: str, key: str) -> bytes:
        """One value of a Secret.

        Raises:
            NameNotFoundError: there is no such Secret, or no such key in it; names the keys that it has.
            RbacError and others: as `get`.
        """
        secret = await self.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        data = secret.get("data") or {}
        if key not in data:
            hint = f"It has {', '.join(sorted(data))}" if data else "It is empty"
            raise NameNotFoundError(f"the secret {namespace}/{name} has no key {key}", hop=self.server, hint=hint)
        try:
            return base64.b64decode(data[key], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ConfigError(f"{key} of the secret {namespace}/{name} is not base64", hop=self.server) from None

    async def close(self) -> None:
        """End every connection that was not handed over, and those through a proxy's door; idempotent."""
        await self._session.close()
        if self._door is not None:
            await self._door.close()

    # ---- one request ----

    async def _json(self, method: str, path: str, params: Params, body: bytes | None = None) -> dict[str, Any]:
        async def exchange(login: Login) -> bytes:
            response = await self._request(login, method, path, params, body)
            async with response:
                return await _read(response, _LARGEST)

        body = await self._with_login(exchange)
        if len(body) > _LARGEST:
            raise LimitError("the API server's answer is too large", hop=self.server)
        return self._decoded(body)

    async def _with_login(self, action: Callable[[Login], Awaitable[T]]) -> T:
        """Act, and tell the outcome."""
        try:
            result = await self._logged_in(action)
        except ForwardError as error:
            self.outcome(isinstance(error.__cause__, Answer))
            raise
        self.outcome(True)
        return result

    async def _logged_in(self, action: Callable[[Login], Awaitable[T]]) -> T:
        """Act within the deadline; after a 401 once more, with another login."""
        login = await self._credentials.current()
        try:
            return await self._in_time(action, login)
        except AuthenticationError as error:
            if not isinstance(error.__cause__, Answer):
                raise
            other = await self._credentials.renewed(login)
            if other is None:
                raise
        return await self._in_time(action, other)

    async def _in_time(self, action: Callable[[Login], Awaitable[T]], login: Login) -> T:
        """Act within the deadline; again, within the same, when a server that is busy wants to be asked again."""
        if login.server != self._url:
            # A login that was read anew is for that one, and not to be shown to this one.
            raise LostError("the kubeconfig names another address of the cluster by now", hop=self.server)
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while True:
            try:
                async with self._in_our_words(), asyncio.timeout(DEADLINE):
                    return await action(login)
            except ForwardError as error:
                again = error.__cause__.again if isinstance(error.__cause__, Answer) else None
                if again is None or loop.time() + again > end:
                    raise
            await asyncio.sleep(max(again, _SOONEST))

    async def _request(
        self, login: Login, method: str, path: str, params: Params, body: bytes | None = None
    ) -> aiohttp.ClientResponse:
        where = await self._where(login, path, params)
        if body is not None:
            where["headers"].append(("Content-Type", "application/json"))
        return await self._session.request(method, data=body, allow_redirects=False, **where)

    async def _where(self, login: Login, path: str, params: Params) -> dict[str, Any]:
        """What says to aiohttp where a request goes and as whom."""
        url = self._base.with_path(self._base.path.rstrip("/") + path).with_query(params)
        headers, proxy = [("Host", self._host), *login.headers], self._proxy
        if proxy is not None:
            proxy = _at(proxy, await self._address(proxy)).with_scheme("http")
        else:
            url = _at(url, await self._address(url))
        return {
            "url": url,
            "headers": headers,
            "ssl": login.tls if login.tls is not None else True,
            "server_hostname": self._server_name(login) or None,
            "proxy": proxy,
        }

    async def _address(self, url: URL) -> tuple[str, int]:
        """Where to connect for a URL's host: the API server's, or that of its proxy."""
        if self._door is not None:
            return await self._door.address()
        host, port = str(url.host), url.port or 0
        return (host, port) if self._via is None else await self._via(host, port)

    def _server_name(self, login: Login) -> str:
        return "" if login.tls is None else login.server_name or str(self._base.host)

    # ---- answers ----

    async def _refuse(self, response: aiohttp.ClientResponse) -> None:
        """Called by aiohttp for each answer. Raises the error of one that is no success."""
        if response.status < 300:
            return
        body = await _read(response, _LARGEST_REFUSAL)
        answer = Answer(response.status, body, response.headers.get("Retry-After", ""))
        raise self._judged(answer, response.url.path) from answer

    def _judged(self, answer: Answer, path: str) -> ForwardError:
        _, _, rest = path.partition("/namespaces/")
        namespace, within, _ = rest.partition("/")
        return judge(answer, self.server, self._credentials.context, namespace if within else "")

    def _event(self, line: bytes) -> dict[str, Any]:
        event = self._decoded(line)
        if event.get("type") != "ERROR":
            return event
        status = event.get("object") or {}
        answer = Answer(int(status.get("code") or 500), msgspec.json.encode(status))
        if answer.status == 410:
            raise Expired(answer.text) from answer
        raise self._judged(answer, "") from answer

    def _decoded(self, body: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            hint = "Check server: in the kubeconfig; it may be the address of a login page"
            raise ConfigError("what answers there is no API server", hop=self.server, hint=hint) from None

    @asynccontextmanager
    async def _in_our_words(self) -> AsyncGenerator[None, None]:
        """aiohttp's and the system's errors, as ours."""
        try:
            yield
        except ForwardError:
            raise  # many are OSErrors too
        except (aiohttp.ClientError, NotHttp, OSError, ProxyError) as error:
            if self._door is not None and (failure := self._door.failure) is not None:
                self._door.failure = None
                raise failure from ProxyError()
            proxy = f"{self._proxy.host}:{self._proxy.port}" if self._proxy is not None else ""
            # The repr of aiohttp's own has headers and the proxy's password: only what is behind it may be shown.
            cause = getattr(error, "os_error", None) if isinstance(error, aiohttp.ClientError) else error
            raise explain(error, self.server, self._credentials.context, proxy) from cause


def _ignore(answered: bool) -> None:
    pass


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body; where it is longer than `most` bytes, so much that it shows."""
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > most:
            break
    return bytes(body)


def _url(text: str, what: str, hop: str, schemes: Sequence[str] = ("http", "https")) -> URL:
    """A URL of the kubeconfig or the environment. What is wrong with it is not quoted: it may hold a password."""
    try:
        url = URL(text)
        if url.scheme.startswith("socks") and url.port is None:
            url = url.with_port(_SOCKS_PORT)
        known = url.scheme in schemes and url.host is not None and url.port is not None
    except ValueError:
        known = False
    if not known:
        kinds = " or ".join(f"{scheme}://" for scheme in schemes)
        where = "the environment" if what.isupper() else "the kubeconfig"
        raise ConfigError(f"its {what} is no {kinds} URL", hop=hop, hint=f"Mend it in {where}")
    return url


def _proxy(login: Login, server: URL, *, direct: bool, hop: str) -> URL | None:
    """The cluster's proxy-url, else what the environment names, as Go's programs do; never for loopback."""
    text, what = login.proxy, "proxy-url"
    if not text and not direct:
        text = proxy_for(server.scheme, str(server.host), server.port or 0)
        what = f"{server.scheme.upper()}_PROXY"
    if not text:
        return None
    return _url(text if "://" in text else f"http://{text}", what, hop, ("http", *DOORS))


def _at(url: URL, address: tuple[str, int]) -> URL:
    """The URL with another host and port to connect to."""
    host, port = address
    return url.with_host(host).with_port(port)
