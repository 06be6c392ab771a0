"""The handle of one tunnel."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast
from urllib.parse import quote

import msgspec
import traitlets

from ..dsn import ConnectionString, make, password_for, template_for
from ..errors import ClosedError, ConfigError, DeadlineError, ForwardError
from ..model import Check, Counters, Done, Health, Message, Open, Reconnect, Snapshot, TunnelState
from ..spec import Kind
from .events import Event, Events, Handler, Stream
from .history import History
from .session import Session, bound_forward

if TYPE_CHECKING:
    import sqlalchemy

R = TypeVar("R")


class Tunnel(traitlets.HasTraits):
    """One tunnel: where it listens, how it is, and what to do with it.

    A handle never blocks on the network: it follows the engine's snapshots. Every blocking call has a twin with
    the prefix `a` for coroutines. As a context manager, plain or async, it closes at the end of the block.

    Attributes:
        state: a TunnelState; error: the last error, or None; stats: Counters. These three are traits: observe them.
        history: what moved through it lately.
    """

    state: traitlets.TraitType[TunnelState, TunnelState] = traitlets.Instance(
        TunnelState, default_value=TunnelState.IDLE, read_only=True
    )
    error: traitlets.TraitType[ForwardError | None, ForwardError | None] = traitlets.Instance(
        ForwardError, default_value=None, allow_none=True, read_only=True
    )
    stats: traitlets.TraitType[Counters, Counters] = traitlets.Instance(
        Counters, default_value=Counters(), read_only=True
    )

    def __init__(self, session: Session, request: Open) -> None:
        super().__init__()
        self.session = session
        self.request = request
        self.opening_call = 0
        self.given_up = False  # the engine no longer has it; reconnect() opens it again
        self.has_opened = False  # its opening has succeeded: from then on it keeps its port and dials without end
        self._following = threading.RLock()
        self._events = Events()
        self.snapshot = Snapshot(
            request.tunnel,
            request.name,
            request.forward.kind,
            TunnelState.IDLE,
            (request.target.host,),
            connect=str(request.forward.connect or ""),
        )
        self.history = History()
        self.history.add(self.snapshot)
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
        """The connection string, None where the scheme is not known."""
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
        """
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
        """
        from .sqlalchemy import make_engine

        template = self._template()
        if not template:
            raise ConfigError("the scheme of this port is not known", hop=self.name, hint="Give --dsn")
        return make_engine(self._make(template, None), lambda: self._password(template), **kw)

    # ---- opening: used by the session ----

    def request_for(self, call: int) -> Message:
        """The request that opens it."""
        self.opening_call = call
        self.request = msgspec.structs.replace(self.request, call=call)
        return self.request

    def request_again(self, call: int) -> Message:
        """The request that opens it again as it was, on the port it had."""
        self.opening_call = call
        forward = bound_forward(self.request.forward, self.snapshot)
        return msgspec.structs.replace(self.request, call=call, forward=forward, reopen=True)

    def opened(self, done: Done) -> None:
        """The answer to either request."""
        self.has_opened = True
        self.follow(done.snapshots[0])

    def follow(self, snapshot: Snapshot, event: str = "") -> None:
        """Take over a snapshot; the traits follow it. Called on the handler thread, and by whoever waited.

        The two may come in either order: an older snapshot is passed over, its event is not. An end that has no event
        of its own is told in its turn, after the events that wait for the handler thread.
        """
        error = snapshot.error.error() if snapshot.error is not None else None
        self._take_over(snapshot, error)
        if event:
            self._events.emit(Event(event, snapshot, error))
        elif snapshot.state.ended:
            self.session.hand_over(lambda: self._events.emit(Event("close", snapshot, error)))

    def _take_over(self, snapshot: Snapshot, error: ForwardError | None) -> None:
        with self._following:
            if snapshot.serial < self.snapshot.serial or self.snapshot.state.ended:
                return
            self.snapshot = snapshot
            if snapshot.counters != self.stats:
                self.history.add(snapshot)
            with self.hold_trait_notifications():
                self.set_trait("stats", snapshot.counters)
                if str(error) != str(self.error):
                    self.set_trait("error", error)
                self.set_trait("state", snapshot.state)

    # ---- what happens to it ----

    def on(self, event: str, handler: Handler) -> Handler:
        """Call `handler` with each Event of this name; see `client.events` for the names. Returns the handler.

        Raises:
            SpecError: there is no event of that name.
        """
        return self._register(event, handler, once=False)

    def once(self, event: str, handler: Handler) -> Handler:
        """`on`, for the next such event only."""
        return self._register(event, handler, once=True)

    def off(self, event: str, handler: Handler) -> None:
        """Undo `on` or `once`."""
        self._events.remove(event, handler)

    def events(self) -> Stream:
        """All events from now on, for `async for`; `ready` comes first where it has been, `close` ends it."""
        return self._events.stream()

    def _register(self, event: str, handler: Handler, *, once: bool) -> Handler:
        missed = self._events.add(event, handler, once=once)
        if missed is not None:
            self.session.hand_over(lambda: Events.tell(handler, missed))
        return handler

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
        changed = _Changed(self)
        with changed:
            while not self.settled():
                if not changed.wait(end - time.monotonic()):
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
        if self.state.ended:
            raise ClosedError("the tunnel is closed", hop=self.name, hint="Open it again")

    def close(self) -> None:
        """End it, for good: clients on which nothing moves are reset at once, the others within 2 s. Idempotent."""
        self.session.close([self])

    async def aclose(self) -> None:
        """`close` for coroutines."""
        await self.session.aclose([self])

    def use(self, fn: Callable[..., R]) -> R:
        """Run `fn`, with the handle if it takes an argument, and close, also on an error. Returns what it returns."""
        with self:
            return fn(self) if _takes_argument(fn) else fn()

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


class _Changed:
    """Waits for the next change of a tunnel's state, without missing one."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._event = threading.Event()

    def _set(self, _: object) -> None:
        self._event.set()

    def __enter__(self) -> None:
        self._tunnel.observe(self._set, names="state")

    def __exit__(self, *_: object) -> None:
        self._tunnel.unobserve(self._set, names="state")

    def wait(self, timeout: float) -> bool:
        if timeout <= 0 or not self._event.wait(timeout):
            return False
        self._event.clear()
        return True


def _health(health: Health | None) -> Health:
    return cast(Health, health)


def _takes_argument(fn: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
