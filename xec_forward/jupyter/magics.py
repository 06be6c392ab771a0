"""`%forward`, `%k8s_forward` and their cells: expand, parse, act, show.

What a line means is `line`'s, what it does `openings`'.

Nothing but IPython is imported with this module: `%load_ext` is to be quick, and most kernels never open a tunnel.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope, no_var_expand
from IPython.utils.text import DollarFormatter

if TYPE_CHECKING:
    from types import TracebackType

    from IPython.core.interactiveshell import InteractiveShell

    from ..client.group import ForwardGroup
    from ..client.session import Session
    from ..client.tunnel import Tunnel
    from ..line import Dialect, Line
    from ..options import ClusterTarget, SshTarget
    from ..render import Card, View
    from .live import LiveWatcher
    from .openings import Openings


_CLIENT = "xec_forward.client"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a magic waited: everything under way was put back. One line in a notebook, as our errors are."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._shown: TracebackType | None = None

    def _render_traceback_(self) -> list[str]:
        if self._shown is not None and self._shown is self.__traceback__:
            from ..errors import full_traceback

            return full_traceback(self)
        self._shown = self.__traceback__
        return [str(self)]


@magics_class
class ForwardMagics(Magics):
    """The magics of xec_forward."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell  # Magics.shell may be None, as far as types go
        self._opened: Openings | None = None
        self._shown: set[int] = set()

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def forward(self, line, cell=None, local_ns=None):  # type: ignore[no-untyped-def]
        """Open private services behind an SSH host: one line, and a connection string that works.

        %forward [OPTIONS] TARGET [SPEC ...]     open until the kernel ends; the value is the tunnel, or the group
        %%forward [OPTIONS] TARGET               the same, each line of the cell being a SPEC with its own options
        %forward                                 the table of tunnels
        %forward --close NAME [...]              close these;  --close-all: all of them
        %forward --reconnect NAME [...]          drop the link, keep the port, dial again
        %forward --doctor TARGET [SPEC ...]      examine each hop of what the line would open; changes nothing
        %forward --help                          every form and option

        %forward bastion 5432:pg.vpc:5432 --as pg --dsn postgresql://ana@/sales

        The notebook gets `pg`, the tunnel, and `pg_dsn`, a connection string that is shown without its password.
        """
        from ..line import SSH

        return self._forward(line, cell, local_ns or {}, SSH)

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def k8s_forward(self, line, cell=None, local_ns=None):  # type: ignore[no-untyped-def]
        """Open services of a Kubernetes cluster: one line, and a connection string that works.

        %k8s_forward [OPTIONS] RESOURCE PORT [PORT ...]   open until the kernel ends
        %%k8s_forward [OPTIONS]                  the same, each line of the cell being RESOURCE PORT ...
        %k8s_forward                             the table of tunnels
        %k8s_forward --close NAME [...]          close these;  --close-all: all of them
        %k8s_forward --reconnect NAME [...]      drop the link, keep the port, dial again
        %k8s_forward --help                      every form and option

        %k8s_forward svc/postgres 5432 -n production --dsn postgresql://ana@/sales --password secret:postgres/password

        The notebook gets `postgres`, the tunnel, and `postgres_dsn`, a connection string that is shown without its
        password.
        """
        from ..line import KUBERNETES

        return self._forward(line, cell, local_ns or {}, KUBERNETES)

    def _forward(self, text: str, cell: str | None, local_ns: Mapping[str, Any], dialect: Dialect) -> Any:
        from ..errors import ForwardError
        from ..line import Action, parse_line, split

        line: Line | None = None
        with _interruptible():
            try:
                expanded, targets = self._expand(text, local_ns)
                line = parse_line(split(expanded), targets, dialect, head=cell is not None)
                if cell is not None:
                    return self._open(self._listed(line, cell, dialect), line)
                match line.action:
                    case Action.HELP:
                        print(line.text)
                    case Action.LIST:
                        self._list()
                    case Action.CLOSE:
                        self._close(line)
                    case Action.CLOSE_ALL:
                        self._close_all(line)
                    case Action.RECONNECT:
                        self._reconnect(line)
                    case Action.DOCTOR:
                        from .doctor import examine

                        examine(self._shell, self._session(), line)
                    case Action.OPEN:
                        from ..client.lines import with_forwards

                        return self._open((with_forwards(self._session(), line),), line)
            except KeyboardInterrupt as error:
                raise Interrupted("interrupted; what was being opened was put back, nothing is half-open") from error
            except ForwardError as error:
                if line is not None and line.action is Action.OPEN:
                    from .doctor import offer

                    offer(error, line)
                error.__suppress_context__ = error.__cause__ is None
                raise
        return None

    def _listed(self, head: Line, cell: str, dialect: Dialect) -> tuple[Line, ...]:
        from ..errors import SpecError
        from ..line import KUBERNETES, parse_list

        if head.forwards:
            magic, word = dialect.magic, dialect.word
            alone, first = (word, magic) if dialect is KUBERNETES else (f"TARGET {word}", f"{magic} TARGET")
            raise SpecError(
                f"%{magic} with a {word} on its line, for the cell alone, is not part of this version",
                hint=f"Write {magic} {alone}, or one {word} in each line of the cell under %{first}",
            )
        return parse_list(head, cell, dialect)

    # ---- $name and {expression} ----

    def _expand(self, text: str, local_ns: Mapping[str, Any]) -> tuple[str, Mapping[str, SshTarget | ClusterTarget]]:
        """The line with IPython's expansions done; a target made in Python becomes a word that stands for it."""
        if "$" not in text and "{" not in text:
            return text, {}
        formatter = _Formatter()
        names = {**self._shell.user_ns, **local_ns}
        try:
            expanded = formatter.vformat(text, args=[], kwargs=names)
        except Exception:
            # As IPython's own expansion does: a line that cannot be expanded is taken as it is.
            return text, {}
        return expanded, formatter.targets

    # ---- opening ----

    def _open(self, lines: Sequence[Line], head: Line) -> Tunnel | ForwardGroup | None:
        assert head.target is not None
        self._session()
        if head.service.dry_run:
            from ..render import Text

            self._show(Text(self._openings().preview(lines, head.service)))
            return None
        watcher = self._watcher(head.target.host, quiet=head.service.quiet)
        try:
            cards, value = self._openings().open(lines, head.service, watcher)
        except BaseException:
            watcher.erase()
            raise
        if head.service.quiet:
            watcher.erase()
        else:
            from ..render import Cards

            watcher.finish(cards[0] if len(cards) == 1 else Cards(tuple(cards)))
        self._shown.add(id(value))
        return value

    def _watcher(self, where: str, *, quiet: bool = False) -> LiveWatcher:
        from .live import LiveWatcher

        return LiveWatcher(self._shell, where, quiet=quiet)

    # ---- the other actions ----

    def _list(self) -> None:
        from ..render import Table

        session = self._session()
        session.refresh()
        self._show(Table(tuple(tunnel.snapshot for tunnel in session.tunnels.values())))

    def _close(self, line: Line) -> None:
        found = [tunnel for name in line.names for tunnel in self._named(name)]
        self._session().close(found)
        self._closed(found, line)

    def _close_all(self, line: Line) -> None:
        session = self._session()
        found = list(session.tunnels.values())
        session.close(found)
        self._closed(found, line)

    def _closed(self, tunnels: Sequence[Tunnel], line: Line) -> None:
        from ..render import Text

        if line.service.quiet:
            return
        names = ", ".join(dict.fromkeys(tunnel.name for tunnel in tunnels))
        self._show(Text(f"closed {names}" if names else "no tunnel was open"))

    def _reconnect(self, line: Line) -> None:
        from ..client.reconnecting import reconnect_all
        from ..render import Cards

        found = [tunnel for name in line.names for tunnel in self._named(name)]
        session = self._session()
        watcher = self._watcher(", ".join(line.names), quiet=line.service.quiet)
        try:
            reconnect_all(session, found, watcher)
        except BaseException:
            watcher.erase()
            raise
        if not line.service.quiet:
            watcher.finish(Cards(tuple(self._card(tunnel) for tunnel in found)))

    def _named(self, name: str) -> list[Tunnel]:
        """The tunnels of that name: one, or a group's. Raises ConfigError."""
        import difflib

        from ..errors import ConfigError

        session = self._session()
        group = self._openings().groups.get(name)
        found = [tunnel for tunnel in session.tunnels.values() if tunnel.name == name]
        if not found and group is not None:
            found = [tunnel for tunnel in group.values() if not tunnel.state.ended]
        if found:
            return found
        known = [*(tunnel.name for tunnel in session.tunnels.values()), *self._openings().groups]
        near = difflib.get_close_matches(name, known, n=3)
        if near:
            hint = f"Did you mean {' or '.join(near)}?"
        else:
            hint = f"Open are {', '.join(known)}" if known else "None is open"
        raise ConfigError(f"there is no tunnel named {name}", hint=hint)

    # ---- showing ----

    def display_value(self, value: Any) -> None:
        """IPython's display of a handle: its card as it is now, nothing where this execution has shown it."""
        from ..render import Cards

        if id(value) in self._shown:
            if getattr(self._shell, "kernel", None) is None:
                # The terminal has written "Out[3]: " already.
                print(f"<{type(value).__name__}>")
            return
        self._shown.add(id(value))
        tunnels = list(value.values()) if isinstance(value, Mapping) else [value]
        self._show(Cards(tuple(self._card(tunnel) for tunnel in tunnels)))

    def _card(self, tunnel: Tunnel) -> Card:
        from ..render import Card

        opened = self._openings().find(tunnel)
        return opened.card() if opened is not None else Card(tunnel.snapshot)

    def _show(self, view: View) -> None:
        if getattr(self._shell, "kernel", None) is not None:
            from IPython.display import display

            display(view)  # type: ignore[no-untyped-call]
        else:
            print(view.plain())

    def begin_execution(self) -> None:
        """IPython's event: another cell runs, and what the last one showed may be shown again."""
        self._shown.clear()

    # ---- the session ----

    def _openings(self) -> Openings:
        if self._opened is None:
            from .openings import Openings

            self._opened = Openings(self._shell)
        return self._opened

    def _session(self) -> Session:
        from .extension import session_for

        return session_for(self._shell)

    def forget(self) -> None:
        """The extension is unloaded: take back names and variables."""
        if self._opened is not None:
            self._opened.forget()


class _Formatter(DollarFormatter):
    """IPython's rules for `$name` and `{expression}`, but for a target made in Python: a word stands for it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: dict[str, SshTarget | ClusterTarget] = {}

    def format_field(self, value: Any, format_spec: str) -> Any:
        import sys

        # A target can only be there if its module is: no need to load it for every line.
        made = ((f"{_CLIENT}.targets", "Ssh"), (f"{_CLIENT}.cluster", "Cluster"))
        kinds = tuple(getattr(sys.modules[module], name) for module, name in made if module in sys.modules)
        if not isinstance(value, kinds):
            return super().format_field(value, format_spec)
        word = f"target-{len(self.targets) + 1}.invalid"
        self.targets[word] = value.target
        return word


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt at once, also in a cell with a top-level await.

    There ipykernel (`_cancel_on_sigint`) turns it into the cancelling of a task that could not run before we return.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler or before is None:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
