"""The handle of one tunnel."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast
from urllib.parse import quote

import msgspec

from ..dsn import ConnectionString, make, password_for, template_for
from ..errors import ClosedError, ConfigError, DeadlineError, ForwardError, SpecError
from ..model import Check, Done, Health, Message, Open, Reconnect, Snapshot, TunnelState
from ..spec import Forward, Kind
from .following import Changes, Following
from .session import Session, bound_forward

if TYPE_CHECKING:
    import sqlalchemy

R = TypeVar("R")


class Tunnel(Following):
    """One tunnel: where it listens, how it is, and what to do with it.

    A handle never blocks on the network: it follows the engine's snapshots. Every blocking call has a twin with
    the prefix `a` for coroutines. As a context manager, plain or async, it closes at the end of the block.

    Attributes:
        state: a TunnelState; error: the last error, or None; stats: Counters. These three are traits: observe them.
        history: what moved through it lately.
    """

    def __init__(self, session: Session, request: Open) -> None:
        first = Snapshot(
            request.tunnel,
            request.name,
            request.forward.kind,
            TunnelState.IDLE,
            (request.target.host,),
            connect=str(request.forward.connect or ""),
        )
        super().__init__(first, session.hand_over)
        self.session = session
        self.request = request
        self.opening_call = 0
        self.given_up = False  # the engine no longer has it; reconnect() opens it again
        self.has_opened = False  # its opening has succeeded: from then on it keeps its port and dials without end
        self.adrift = False  # its engine has died, and no other one holds its port yet
        self._again: Forward | None = None  # as it was bound, where its engine died
        self.template = ""
        self.password = ""  # the reference of the service's password, never the password

    def __repr__(self) -> str:
        return f"<Tunnel {self.name} {self.state} {' -> '.join(self.snapshot.way)}>"

    # ---- what it is ----

    @property
    def name(self) -> str:
        """Its name in the registry."""
        return self.request.name

    @property
    def route(self) -> tuple[str, ...]:
        """The hops and the far end, in order."""
        return (*self.snapshot.route, self.snapshot.connect)

    @property
    def local_host(self) -> str:
        """The address it listens on."""
        return self.snapshot.local_host

    @property
    def local_port(self) -> int:
        """The port it listens on."""
        return self.snapshot.local_port

    @property
    def remote_host(self) -> str:
        """The far host, as the last hop sees it."""
        return self.snapshot.remote_host

    @property
    def remote_port(self) -> int:
        """The far port."""
        return self.snapshot.remote_port

    @property
    def remote_port_name(self) -> str:
        """The far port's name where it was given in the place of its number (Kubernetes), else ""."""
        connect = self.request.forward.connect
        return connect.port_name if connect is not None else ""

    @property
    def url(self) -> ConnectionString | None:
        """The connection string, None where the scheme is not known. Raises what `dsn` raises."""
        template = self._template()
        return self.dsn(template) if template else None

    @property
    def proxies(self) -> dict[str, ConnectionString]:
        """What requests and httpx take as `proxies`. Raises ConfigError where this is no SOCKS proxy."""
        url = self.url
        if self.request.forward.kind is not Kind.DYNAMIC or url is None:
            raise ConfigError("is no SOCKS proxy", hop=self.name, hint='-D 1080, or forward(type="dynamic"), opens one')
        return {"http": url, "https": url}

    def _template(self) -> str:
        """The template of its connection string, "" where the scheme is not known."""
        user = self.request.options.socks_user
        if user and not self.template and self.request.forward.kind is Kind.DYNAMIC:
            return f"socks5h://{quote(user, safe='')}@"
        return template_for(self.request.forward, self.template)

    def dsn(self, template: str = "") -> ConnectionString:
        """A connection string through this tunnel, shown masked; `reveal()` is its text.

        Args:
            template: scheme, user, database and parameters, such as `postgresql://ana@/sales`; the tunnel's own
                where it is left out. Host and port come from the tunnel, the password from the tunnel's SOURCE,
                else from .pgpass under the far host's name.

        Raises:
            SpecError: the template holds a password, or is no URL. ConfigError: there is none, or the SOURCE fails.
            ForwardError: nothing of it listens, because it is closed or has failed.
        """
        self._require_listener()
        chosen = template or self._template()
        if not chosen:
            raise ConfigError("the scheme of this port is not known", hop=self.name, hint="Give a template, or --dsn")
        return self._make(chosen, self._password(chosen))

    def _make(self, template: str, password: str | None) -> ConnectionString:
        host = self.request.forward.listen.path or self.local_host
        return make(template, host=host, port=self.local_port, password=password, far_host=self.remote_host)

    def _password(self, template: str) -> str | None:
        reference = self.password or self.request.options.socks_password
        if reference:
            try:
                return self.session.sources.resolve(reference)
            except ConfigError as error:
                error.hop = error.hop or self.name
                raise
        return password_for(template, self.remote_host, self.remote_port)

    def engine(self, **kw: Any) -> sqlalchemy.Engine:
        """A SQLAlchemy engine over this tunnel: pings before use, asks for the password anew for each connection.

        Args:
            kw: what `sqlalchemy.create_engine` takes.

        Raises:
            ConfigError: SQLAlchemy or a driver is missing (with the `%pip install` line), or the scheme is unknown.
            ForwardError: nothing of it listens, because it is closed or has failed; a connection that is asked for
                after that raises it, too.
        """
        from .sqlalchemy import make_engine

        self._require_listener()
        template = self._template()
        if not template:
            raise ConfigError("the scheme of this port is not known", hop=self.name, hint="Give --dsn")

        def password() -> str | None:
            # By now another program may have its port.
            self._require_listener()
            if self.adrift:
                raise self.error or ForwardError("its engine has ended", hop=self.name)
            return self._password(template)

        return make_engine(self._make(template, None), password, **kw)

    def _require_listener(self) -> None:
        """Raise ForwardError where no listener of its own is at its address: whoever is there is not to be trusted."""
        self._require_open()
        if self.given_up or not self.snapshot.listen:
            raise self.error or ForwardError(f"it does not listen, the tunnel is {self.state}", hop=self.name)

    # ---- opening: used by the session ----

    def request_for(self, call: int) -> Message:
        """The request that opens it."""
        self.opening_call = call
        self.request = msgspec.structs.replace(self.request, call=call)
        return self.request

    def request_again(self, call: int) -> Message:
        """The request that opens it again as it was; on the port it had, where it has been open."""
        self.opening_call = call
        forward, cluster, seen = self._again or self.request.forward, self.request.cluster, self.snapshot
        if cluster is not None and seen.context:
            # Not where the kubeconfig leads by now.
            cluster = replace(cluster, context=seen.context, namespace=seen.namespace)
        return msgspec.structs.replace(self.request, call=call, forward=forward, cluster=cluster, reopen=True)

    def opened(self, done: Done) -> None:
        """The answer to either request."""
        self.has_opened = True
        self.follow(done.snapshots[0])
        self.adrift = False

    def cut_adrift(self) -> None:
        """Its engine has died; another one is to give it the port it had."""
        self.adrift = True
        self._again = bound_forward(self.request.forward, self.snapshot)

    # ---- what to do with it ----

    def is_alive(self) -> bool:
        """Whether a client that comes now is served; also by a lazy tunnel, which dials for it. No I/O."""
        return self.state is TunnelState.READY or (self.state is TunnelState.IDLE and bool(self.snapshot.listen))

    def wait_ready(self, timeout: float = 30.0) -> Tunnel:
        """Wait until it is ready, or a lazy one listens.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: it was not ready in time. ForwardError: it failed, or is closed.
        """
        end = time.monotonic() + timeout
        with Changes(self) as changes:
            while not self.settled():
                if not changes.wait(end - time.monotonic()):
                    hint = "%forward shows what it is doing"
                    raise DeadlineError(f"not ready within {timeout:g} s, but {self.state}", hop=self.name, hint=hint)
        return self

    async def await_ready(self, timeout: float = 30.0) -> Tunnel:
        """`wait_ready` for coroutines."""
        return await asyncio.to_thread(self.wait_ready, timeout)

    def settled(self) -> bool:
        """Whether clients are served now. Raises ForwardError where they will not be, before somebody acts."""
        if self.state is TunnelState.CLOSED:
            raise ClosedError("the tunnel is closed", hop=self.name, hint="Open it again")
        if self.state in (TunnelState.FAILED, TunnelState.WAITING):
            raise self.error or ForwardError(f"the tunnel is {self.state}", hop=self.name)
        return self.is_alive()

    def health_check(self) -> Health:
        """Try each stage now: listener, link, target, the protocol's hello. True when all are well."""
        return _health(self.session.call(self._check, limit=self.request.options.timeout).health)

    async def ahealth_check(self) -> Health:
        """`health_check` for coroutines."""
        return _health((await self.session.acall(self._check, limit=self.request.options.timeout)).health)

    def _check(self, call: int) -> Check:
        return Check(call, self.request.tunnel)

    def reconnect(self) -> None:
        """Drop the link and dial again; the port stays. Returns at once; `wait_ready` waits.

        Other tunnels on the same connection go with it and come back by themselves. One that failed to open is opened
        as at first: this returns when it is ready, or raises why it is not.
        """
        self._require_open()
        if self.given_up:
            self.session.open_again(self)
        else:
            self.follow(self.session.call(self._reconnection).snapshots[0])

    async def areconnect(self) -> None:
        """`reconnect` for coroutines."""
        self._require_open()
        if self.given_up:
            await self.session.aopen_again(self)
        else:
            self.follow((await self.session.acall(self._reconnection)).snapshots[0])

    def _reconnection(self, call: int) -> Reconnect:
        return Reconnect(call, self.request.tunnel)

    def _require_open(self) -> None:
        if self.state in (TunnelState.CLOSING, TunnelState.CLOSED):
            raise ClosedError("the tunnel is closed", hop=self.name, hint="Open it again")

    def close(self) -> None:
        """End it, for good: clients on which nothing moves are reset at once, the others within 2 s. Idempotent."""
        self.session.close([self])

    async def aclose(self) -> None:
        """`close` for coroutines."""
        await self.session.aclose([self])

    def use(self, fn: Callable[..., R]) -> R:
        """Run `fn`, with the handle if it takes an argument, and close, also on an error. Returns what it returns.

        Raises:
            SpecError: it is a coroutine function.
        """
        with self:
            result = fn(self) if _takes_argument(fn) else fn()
            if inspect.iscoroutine(result):
                result.close()  # the tunnel would be closed before it began
                raise SpecError("use() runs no coroutine", hop=self.name, hint="await tunnel.ause(fn) does")
            return result

    async def ause(self, fn: Callable[..., Awaitable[R]]) -> R:
        """`use` for a coroutine function."""
        async with self:
            return await (fn(self) if _takes_argument(fn) else fn())

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Tunnel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Handle(Protocol):
    """A tunnel, or a group of them."""

    async def __aexit__(self, *_: object) -> None: ...


H = TypeVar("H", bound=_Handle)


class Opening(Generic[H]):
    """An opening to await, or to use as `async with`."""

    def __init__(self, open: Callable[[], Awaitable[H]]) -> None:
        self._open = open
        self._handle: H | None = None

    def __await__(self) -> Generator[Any, None, H]:
        return self._open().__await__()

    async def __aenter__(self) -> H:
        self._handle = await self._open()
        return self._handle

    async def __aexit__(self, *_: object) -> None:
        if self._handle is not None:
            await self._handle.__aexit__()


def _health(health: Health | None) -> Health:
    return cast(Health, health)


def _takes_argument(fn: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
