"""`%forward`, `%k8s_forward` and their cells: expand, parse, act, show.

What a line means is `line`'s, what it does `openings`'.

Nothing but IPython is imported with this module: `%load_ext` is to be quick, and most kernels never open a tunnel.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope, no_var_expand

from .cell_scope import Cell, Cells, has_code

if TYPE_CHECKING:
    from types import EllipsisType

    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import TraitType

    from ..client.group import ForwardGroup
    from ..client.session import Session
    from ..client.tunnel import Tunnel
    from ..errors import ConfigError
    from ..line import Dialect, Line
    from ..model import Snapshot
    from ..options import ClusterTarget, SshTarget
    from ..render import Card, View
    from .explain import Explainer
    from .live import LiveWatcher
    from .openings import Openings


_CLIENT = "xec_forward.client"


@magics_class
class ForwardMagics(Magics):
    """The magics of xec_forward.

    Its traits are the defaults of the options (`configuration`).

    Attributes:
        loaded: its configuration is; refused: what in it is no default.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.loaded = False
        self.refused: dict[str, ConfigError] = {}
        if type(self).__name__ in shell.config:
            self.class_traits()
        super().__init__(shell)
        self.loaded = True
        for problem in self.refused.values():
            print(f"xec_forward: {problem}", file=sys.stderr)
        self._making = threading.Lock()  # lines may run in several threads
        self._shell = shell  # Magics.shell may be None, as far as types go
        self._opened: Openings | None = None
        self._shown: set[int] = set()
        self._explainer: Explainer | None = None
        self.cells = Cells(self._enter, self._leave)

    @classmethod
    def class_traits(cls, **metadata: Any) -> dict[str, TraitType[Any, Any]]:
        """Those of the options are made when somebody asks, `%config` for one: `%load_ext` is to be quick."""
        from .configuration import declare

        declare(cls)
        return super().class_traits(**metadata)

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def forward(self, line, cell=None, local_ns=None):  # type: ignore[no-untyped-def]
        """Open private services behind an SSH host: one line, and a connection string that works.

        %forward [OPTIONS] TARGET [SPEC ...]     open until the kernel ends; the value is the tunnel, or the group
        %%forward [OPTIONS] TARGET               the same, each line of the cell being a SPEC with its own options
        %%forward [OPTIONS] TARGET SPEC ...      the cell is code; open until it has ended
        %forward                                 the table of tunnels
        %forward --close NAME [...]              close these;  --close-all: all of them
        %forward --reconnect NAME [...]          drop the link, keep the port, dial again
        %forward --panel                         all of it with buttons
        %forward --doctor TARGET [SPEC ...]      examine each hop of what the line would open; changes nothing
        %forward --help                          every form and option

        %forward bastion 5432:pg.vpc:5432 --as pg --dsn postgresql://ana@/sales

        The notebook gets `pg`, the tunnel, and `pg_dsn`, a connection string that is shown without its password.
        """
        from ..line import SSH

        return self._run(line, cell, local_ns or {}, SSH)

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def k8s_forward(self, line, cell=None, local_ns=None):  # type: ignore[no-untyped-def]
        """Open services of a Kubernetes cluster: one line, and a connection string that works.

        %k8s_forward [OPTIONS] RESOURCE PORT [PORT ...]   open until the kernel ends
        %%k8s_forward [OPTIONS]                  the same, each line of the cell being RESOURCE PORT ...
        %%k8s_forward [OPTIONS] RESOURCE PORT ... the cell is code; open until it has ended
        %k8s_forward                             the table of tunnels
        %k8s_forward --close NAME [...]          close these;  --close-all: all of them
        %k8s_forward --reconnect NAME [...]      drop the link, keep the port, dial again
        %k8s_forward --panel                     all of it with buttons
        %k8s_forward --help                      every form and option

        %k8s_forward svc/postgres 5432 -n production --dsn postgresql://ana@/sales --password secret:postgres/password

        The notebook gets `postgres`, the tunnel, and `postgres_dsn`, a connection string that is shown without its
        password.
        """
        from ..line import KUBERNETES

        return self._run(line, cell, local_ns or {}, KUBERNETES)

    def _run(
        self, text: str, cell: str | EllipsisType | None, local_ns: Mapping[str, Any], dialect: Dialect
    ) -> Tunnel | ForwardGroup | None:
        """A line; with its cell, which may be code.

        Code comes here only where IPython did not turn the cell into a call: a notebook exported as a script, say.
        """
        from ..line.outline import says_what_to_open

        if not isinstance(cell, str) or not has_code(cell.splitlines()) or not says_what_to_open(text, dialect):
            return self._forward(text, cell, local_ns, dialect)
        # (code that does not compile opens nothing)
        source = self._shell.transform_cell(cell)  # type: ignore[no-untyped-call]
        code = compile(source, "<cell>", "exec")
        with self.cells.inner():
            self._forward(text, ..., local_ns, dialect)
            exec(code, self._shell.user_ns)  # noqa: S102 (the user's own)
        return None

    def _forward(
        self, text: str, cell: str | EllipsisType | None, local_ns: Mapping[str, Any], dialect: Dialect
    ) -> Tunnel | ForwardGroup | None:
        from ..client.lines import lines_of
        from ..client.profiles import read_line
        from ..errors import ForwardError
        from ..line import Action, split
        from .expansion import expand
        from .interruption import Interrupted, interruptible

        line: Line | None = None
        with interruptible():
            try:
                expanded, targets = expand(text, {**self._shell.user_ns, **local_ns})
                line = read_line(split(expanded), targets, dialect, head=cell is not None)
                if line.action in (Action.OPEN, Action.DOCTOR):
                    line = self._defaulted(line, targets)
                if cell is ...:
                    self._open_for_code(line, dialect)
                    return None
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
                    case Action.PANEL:
                        from .panel import show

                        show(self._shell, self._openings())
                    case Action.DOCTOR:
                        from .doctor import examine

                        examine(self._shell, self._session(), line)
                    case Action.OPEN:
                        return self._open(lines_of(self._session(), line), line)
            except KeyboardInterrupt as error:
                raise Interrupted("interrupted; what was being opened was put back, nothing is half-open") from error
            except ForwardError as error:
                if line is not None and line.action is Action.OPEN:
                    from ..client.offer import offer

                    offer(error, line)
                error.__suppress_context__ = error.__cause__ is None
                raise
        return None

    def _defaulted(self, line: Line, targets: Mapping[str, SshTarget | ClusterTarget]) -> Line:
        """The line with the defaults that were configured. Raises ConfigError."""
        from .configuration import defaulted, values_of

        return defaulted(line, values_of(self), self.refused, tuple(targets.values()))

    def _listed(self, head: Line, cell: str, dialect: Dialect) -> tuple[Line, ...]:
        from ..errors import SpecError
        from ..line import parse_list

        if head.forwards:
            magic, word = dialect.magic, dialect.word
            if not has_code(cell.splitlines()):
                raise SpecError("the cell has no code", hint=f"{magic} opens for as long as the kernel lives")
            raise SpecError(
                f"that its first line has a {word}, its words do not tell before they are expanded",
                hint=f"Write the {word} on it, or one in each line of the cell",
            )
        return parse_list(head, cell, dialect)

    # ---- opening ----

    def _open_for_code(self, line: Line, dialect: Dialect) -> None:
        """What the first line of a cell of code opens."""
        from ..client.lines import lines_of
        from ..errors import SpecError

        if line.service.dry_run:
            raise SpecError(
                "--dry-run opens nothing, and the code of the cell would run all the same",
                hint=f"Write {dialect.magic} --dry-run in a line of its own",
            )
        self._open(lines_of(self._session(), line), line, None if line.service.keep else self.cells.current())

    def _open(self, lines: Sequence[Line], head: Line, cell: Cell | None = None) -> Tunnel | ForwardGroup | None:
        assert head.target is not None
        self._session()
        if head.service.dry_run:
            from ..render import Text

            self._show(Text(self._openings().preview(lines, head.service)))
            return None
        watcher = self._watcher(head.target.host, quiet=head.service.quiet)
        try:
            cards, value = self._openings().open(lines, head.service, watcher, cell)
        except BaseException:
            watcher.erase()
            raise
        if head.service.quiet:
            watcher.erase()
        else:
            from ..render import Cards

            watcher.finish(cards[0] if len(cards) == 1 else Cards(tuple(cards)))
        self._explain().look(self._session().listed())
        self._shown.add(id(value))
        return value

    def _watcher(self, where: str, *, quiet: bool = False) -> LiveWatcher:
        from .live import LiveWatcher

        return LiveWatcher(self._shell, where, quiet=quiet)

    # ---- the other actions ----

    def _list(self) -> None:
        from ..render import Table
        from .facts import facts_of

        session = self._session()
        session.refresh()
        self._show(Table(tuple(map(facts_of, session.listed()))))

    def _close(self, line: Line) -> None:
        found = [tunnel for name in line.names for tunnel in self._named(name)]
        self._session().close(found)
        self._closed(found, line)

    def _close_all(self, line: Line) -> None:
        session = self._session()
        found = session.listed()
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
        finally:
            self._openings().name_late(found)
        if not line.service.quiet:
            watcher.finish(Cards(tuple(self._card(tunnel) for tunnel in found)))

    def _named(self, name: str) -> list[Tunnel]:
        """The tunnels of that name: one, or a group's. Raises ConfigError."""
        import difflib

        from ..errors import ConfigError

        session = self._session()
        group = self._openings().groups.get(name)
        found = [tunnel for tunnel in session.listed() if tunnel.name == name]
        if not found and group is not None:
            found = [tunnel for tunnel in group.values() if not tunnel.state.ended]
        if found:
            return found
        known = [*(tunnel.name for tunnel in session.listed()), *self._openings().groups]
        folded = {each.casefold(): each for each in known}
        near = [folded[each] for each in difflib.get_close_matches(name.casefold(), folded, n=3)]
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
        from .facts import facts_of

        opened = self._openings().find(tunnel)
        return opened.card() if opened is not None else Card(facts_of(tunnel))

    def _show(self, view: View) -> None:
        if getattr(self._shell, "kernel", None) is not None:
            from IPython.display import display

            display(view)  # type: ignore[no-untyped-call]
        else:
            print(view.plain())

    # ---- IPython's events ----

    def begin_execution(self) -> None:
        """Another cell runs, and what the last one showed may be shown again."""
        self._shown.clear()

    def _enter(self, cell: Cell) -> None:
        """A cell begins: what it finds, its error may be explained with."""
        session = self._present()
        if session is not None and session.tunnels:
            cell.before = self._explain().look(session.listed())

    def _leave(self, cell: Cell, error: BaseException | None) -> None:
        """A cell has ended; what was opened for it goes with it, whatever becomes of the explanation. Never raises."""
        try:
            with _saying_what_fails():
                self._say_why(cell, error)
        finally:
            with _saying_what_fails():
                if cell.tunnels or cell.loans:
                    self._openings().leave(cell)

    def _say_why(self, cell: Cell, error: BaseException | None) -> None:
        """Below the traceback of a cell, what a tunnel had to do with it."""
        session = self._present()
        if session is None or error is None or self._explainer is None:
            return
        from ..render import Text

        if text := self._explain().explain(error, session, cell.began, cell.before):
            self._show(Text(text))

    def _explain(self) -> Explainer:
        with self._making:
            if self._explainer is None:
                from .explain import Explainer

                self._explainer = Explainer(self._dsn_name, self._gone_with)
            return self._explainer

    def _dsn_name(self, tunnel: Tunnel) -> str:
        """How the notebook calls its connection string: a tunnel made in Python has none but the handle's."""
        opened = self._openings().find(tunnel)
        return opened.names[-1] if opened is not None and len(opened.names) > 1 else f"{tunnel.name}.url"

    def _gone_with(self, name: str) -> Snapshot | None:
        return self._opened.gone_with(name) if self._opened is not None else None

    # ---- the session ----

    def _openings(self) -> Openings:
        with self._making:
            if self._opened is None:
                from .openings import Openings

                self._opened = Openings(self._shell)
            return self._opened

    def _session(self) -> Session:
        from .extension import session_for

        return session_for(self._shell)

    def _present(self) -> Session | None:
        """The session, None before the first line has needed one."""
        current = getattr(sys.modules.get(f"{_CLIENT}.session"), "current", None)
        return current() if current is not None else None

    def forget(self) -> None:
        """The extension is unloaded: take back names and variables."""
        self.cells.end_all()
        if self._opened is None:
            return
        panel = sys.modules.get(f"{__package__}.panel")
        if panel is not None:
            panel.end(self._opened)
        self._opened.forget()


@contextmanager
def _saying_what_fails() -> Iterator[None]:
    """IPython's events have nobody to raise to: a failure is one line, and an interrupt ends what is waited for."""
    try:
        yield
    except KeyboardInterrupt:
        pass  # the engine has been told
    except Exception as problem:
        print(f"xec_forward: {problem}", file=sys.stderr)
