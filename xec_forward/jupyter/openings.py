"""What a line opens, what it reuses, and what it replaces.

the same line        (target, forward, options, service) reuses its tunnel while that one lives, and leads where it did
a changed line       under the same explicit name, or to the same far end under its default name, replaces it
a default name       overwrites nothing that is not its own, and takes over no other target: `redis_2`
an explicit name     replaces a tunnel, never another kind of object unless --force says so

for one cell alone   nothing is replaced: names are lent, and what they held is back after the cell; a tunnel that is
                     open already is used, and stays
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING

from ..client.group import ForwardGroup
from ..client.lines import Wanted, port_remarks, preview, wanted_of
from ..client.reconnecting import reconnect_all
from ..client.session import Session, current
from ..client.targets import prepare_tunnel
from ..client.tunnel import Tunnel
from ..dsn import ConnectionString, suffix
from ..errors import ConfigError, EngineError, ForwardError, SpecError
from ..line import Line
from ..model import Snapshot, TunnelState
from ..options import ClusterTarget, Service
from ..render import Card
from ..source import SourceKind
from ..spec import Kind
from . import prompts
from .live import LiveWatcher
from .namespace import Environment, Namespace
from .one_at_a_time import OneAtATime
from .opened import KeptPassword, Opened

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .cell_scope import Cell

# For a stuck engine the end of a cell waits so long, seconds.
_PATIENCE = 1.0


@dataclass(slots=True, eq=False)
class _Plan:
    wanted: Wanted
    reuse: Opened | None = None
    replaces: list[Tunnel] = field(default_factory=list)
    name: str = ""
    password: KeptPassword | None = None
    tunnel: Tunnel | None = None


def _still_leads(session: Session, opened: Opened) -> bool:
    """Whether the line would lead where its tunnel does: another context may be current by now."""
    target, seen = opened.wanted.target, opened.tunnel.snapshot
    if not isinstance(target, ClusterTarget) or not seen.context:
        return True
    try:
        meant = session.look(target)
    except ConfigError:
        return True  # it leads nowhere now, and the tunnel is there
    return (meant.context, meant.namespace) == (seen.context, seen.namespace)


class Openings:
    """The tunnels that the lines of one shell opened."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._namespace = Namespace(shell)
        self._environment = Environment()
        self._lock = RLock()
        self._naming = RLock()
        self._turns = OneAtATime()
        self._opened: list[Opened] = []
        self.groups: dict[str, ForwardGroup] = {}
        self._gone: dict[str, Snapshot] = {}

    def find(self, tunnel: Tunnel) -> Opened | None:
        """What is known of a tunnel; None for one made in Python."""
        with self._lock:
            return next((opened for opened in self._opened if opened.tunnel is tunnel), None)

    def gone_with(self, name: str) -> Snapshot | None:
        """The last of the tunnel that a name went with; None where it did not, or holds something again."""
        return None if self._namespace.holds(name) else self._gone.get(name)

    def open(
        self, lines: Sequence[Line], group: Service, watcher: LiveWatcher, cell: Cell | None = None
    ) -> tuple[list[Card], Tunnel | ForwardGroup]:
        """Open what lines ask for, all of it side by side.

        Args:
            lines: OPEN lines; a line with several forwards opens each of them.
            group: the options of the group, where there are several forwards: its name.
            watcher: shows progress, asks questions.
            cell: the one to open it for; None for the life of the kernel.

        Returns:
            The cards, and the value of the line: the tunnel, or the group of several.

        Raises:
            ForwardError: nothing was opened (of several: all failed, this is the first). KeyboardInterrupt.
        """
        wanted = wanted_of(lines)
        # The same line run by two threads at once (a panel's form beside a cell) is opened by one, and then reused.
        names = [each.explicit or each.default for each in wanted]
        with self._turns.taking(filter(None, [*names, group.name])):
            return self._open_now(lines, wanted, group, watcher, cell)

    def _open_now(
        self, lines: Sequence[Line], wanted: Sequence[Wanted], group: Service, watcher: LiveWatcher, cell: Cell | None
    ) -> tuple[list[Card], Tunnel | ForwardGroup]:
        session = current()
        plans = self._plan(session, wanted, group if len(wanted) > 1 else Service(), lent=cell is not None)
        for plan in plans:
            if plan.wanted.password is not None and plan.wanted.password.kind is SourceKind.PROMPT and not plan.reuse:
                where = str(plan.wanted.forward.connect or plan.wanted.target.host)
                plan.password = KeptPassword(prompts.service_password(watcher, plan.name, where))
        for line in lines:
            for source in line.sources.values():
                session.sources.add(source)
        session.close([tunnel for plan in plans for tunnel in plan.replaces])
        waiting = [plan.reuse.tunnel for plan in plans if plan.reuse and plan.reuse.tunnel.state is TunnelState.WAITING]
        if waiting:
            # For a person to answer; here is one, perhaps.
            reconnect_all(session, waiting, watcher)
        try:
            errors = self._open(session, [plan for plan in plans if plan.reuse is None], watcher)
            cards = [self._finish(plan, errors, cell) for plan in plans]
        except KeyboardInterrupt:
            session.close([plan.tunnel for plan in plans if plan.tunnel is not None])
            raise
        if errors and (group.exit_on_failure or len(errors) == len(plans)):
            session.close([plan.tunnel for plan in plans if plan.tunnel is not None])
            raise next(iter(errors.values()))
        tunnels = [plan.reuse.tunnel if plan.reuse else plan.tunnel for plan in plans]
        handles = [tunnel for tunnel in tunnels if tunnel is not None]
        if len(plans) == 1:
            return cards, handles[0]
        value = ForwardGroup(handles)
        if group.name and cell is not None:
            self.groups.setdefault(group.name, value)
            self._namespace.give(value, {group.name: value}, aside=True)
            cell.loans.append(value)
        elif group.name:
            self.groups[group.name] = value
            self._namespace.give(value, {group.name: value})
        return cards, value

    def leave(self, cell: Cell) -> None:
        """A cell has ended: close what was opened for it, and take back what was lent.

        Raises:
            EngineError: the engine does not answer, and is not waited for.
        """
        for loan in reversed(cell.loans):
            self._namespace.take_back(loan)
            self._environment.put_back(loan)
        for name, group in list(self.groups.items()):
            if any(loan is group for loan in cell.loans):
                del self.groups[name]
        try:
            current().close(cell.tunnels, _PATIENCE)
        except EngineError as error:
            left = ", ".join(tunnel.name for tunnel in cell.tunnels if not tunnel.state.ended)
            raise EngineError(f"{error.message}, and {left} could not be closed yet", hint=error.hint) from error
        finally:
            # A closed one has no names left; nor shall one that could not be told.
            for tunnel in reversed(cell.tunnels):
                self._namespace.take_back(tunnel)
                self._environment.put_back(tunnel)

    def preview(self, lines: Sequence[Line], group: Service) -> str:
        """What `open` would do, a line each, and what decides it. Nothing is dialled, bound or asked."""
        session = current()
        wanted = wanted_of(lines)
        said = []
        for plan in self._plan(session, wanted, group if len(wanted) > 1 else Service()):
            remarks = [f"reuses the open tunnel {plan.name}"] if plan.reuse is not None else []
            remarks += [f"closes the open tunnel {tunnel.name} first" for tunnel in plan.replaces]
            said.append(preview(session, plan.wanted, plan.name, remarks))
        return "\n".join(said)

    def forget(self) -> None:
        """Take back every name and variable; the tunnels themselves are the session's."""
        with self._lock:
            owners: list[object] = [opened.tunnel for opened in self._opened]
            self._opened.clear()
        for owner in [*owners, *self.groups.values()]:
            self._namespace.take_back(owner)
            self._environment.put_back(owner)
        self.groups.clear()

    # ---- before ----

    def _plan(self, session: Session, wanted: Sequence[Wanted], group: Service, *, lent: bool = False) -> list[_Plan]:
        """Decide on reuse, replacement and names; nothing is changed yet. Raises ConfigError, SpecError."""
        with self._lock:
            known = list(self._opened)
        plans: list[_Plan] = []
        for each in wanted:
            same = next((o for o in known if o.wanted.key == each.key and o.reusable), None)
            if same is not None and not _still_leads(session, same):
                same = None
            if same is not None:
                known.remove(same)
            plans.append(_Plan(each, same))
        names: set[str] = set()
        kept = {id(plan.reuse.tunnel) for plan in plans if plan.reuse is not None}
        for plan in plans:
            if plan.reuse is None:
                self._plan_name(session, plan, [] if lent else known, names, kept)
                if lent:
                    plan.replaces = []
            else:
                plan.name = plan.reuse.tunnel.name
            if plan.wanted.explicit and not lent:
                self._namespace.require(plan.wanted.explicit, force=plan.wanted.service.force)
            if plan.name in names:
                raise SpecError(f"the name {plan.name} is given twice", hint="Give each SPEC a name of its own")
            names.add(plan.name)
        if group.name:
            if group.name in names:
                raise SpecError(f"the name {group.name} is given twice", hint="--as names the group here")
            if not lent:
                self._namespace.require(group.name, force=group.force)
        return plans

    def _plan_name(self, session: Session, plan: _Plan, known: list[Opened], names: set[str], kept: set[int]) -> None:
        others = [tunnel for tunnel in session.listed() if id(tunnel) not in kept and not tunnel.state.ended]
        if plan.wanted.explicit:
            plan.name = plan.wanted.explicit
            plan.replaces = [tunnel for tunnel in others if tunnel.name == plan.name]
            return
        for opened in known:
            was = opened.wanted
            if not was.explicit and was.far_end == plan.wanted.far_end and opened.tunnel in others:
                known.remove(opened)
                plan.replaces = [opened.tunnel]
                break
        taken = {tunnel.name for tunnel in session.listed() if tunnel not in plan.replaces} | names
        plan.name = self._namespace.free(plan.wanted.default, taken, plan.replaces)

    # ---- opening ----

    def _open(self, session: Session, plans: Sequence[_Plan], watcher: LiveWatcher) -> dict[int, ForwardError]:
        """Open all; the errors by the plan's identity. A lone one raises its error itself."""
        try:
            for plan in plans:
                want = plan.wanted
                _, plan.tunnel = prepare_tunnel(
                    want.target, want.forward, want.options, want.service.dsn, plan.password or want.password, plan.name
                )
        except ForwardError:
            for plan in plans:
                if plan.tunnel is not None:
                    session.forget(plan.tunnel)
            raise
        tunnels = [plan.tunnel for plan in plans if plan.tunnel is not None]
        if not tunnels:
            return {}
        results = session.open_all(tunnels, watcher)
        return {id(plan): error for plan, error in zip(plans, results, strict=True) if error is not None}

    # ---- after ----

    def _finish(self, plan: _Plan, errors: dict[int, ForwardError], cell: Cell | None) -> Card:
        """Names, environment, and the card."""
        if plan.reuse is not None and cell is not None:
            # Its names are the line's that opened it: the cell has them under a loan of its own.
            opened = Opened(plan.wanted, plan.reuse.tunnel, plan.reuse.password, cell=cell)
            cell.loans.append(opened)
        elif plan.reuse is not None:
            opened = plan.reuse
            opened.wanted = plan.wanted
            if opened.cell is not None:
                # Opened for a cell, and now for good.
                opened.cell.tunnels.remove(opened.tunnel)
                opened.cell = None
        else:
            assert plan.tunnel is not None
            opened = Opened(plan.wanted, plan.tunnel, plan.password, cell=cell)
            if cell is not None:
                cell.tunnels.append(plan.tunnel)
            with self._lock:
                # Those that ended are forgotten with their names; failed ones are replaced by this one.
                self._opened.append(opened)
            plan.tunnel.add_follower(self._follower(opened))
        if id(plan) not in errors:
            try:
                self._inject(opened, opened if plan.reuse is not None and cell is not None else opened.tunnel)
            except ForwardError as error:
                # Its SOURCE, say: a tunnel without its connection string is not what was asked for.
                if plan.reuse is None:
                    opened.tunnel.close()
                errors[id(plan)] = error
                opened.remarks = (str(error),)
        elif opened.tunnel.state is TunnelState.FAILED:
            opened.remarks = ("run the line again, or --reconnect, once it is mended",)
            opened.nameless = True
        return opened.card(reused=plan.reuse is not None, fresh=plan.reuse is None)

    def _inject(self, opened: Opened, owner: object) -> None:
        """Give the handle and the connection string their names, for an owner. Raises ConfigError."""
        tunnel, wanted = opened.tunnel, opened.wanted
        remarks = list(wanted.notes)
        name = wanted.explicit
        if not name:
            name = self._namespace.free(tunnel.name, mine=[tunnel])
            if name != wanted.default:
                remarks.append(f"{wanted.default} is another tunnel's or holds something else: this one is {name}")
        elif name != tunnel.name:
            remarks.append(f"{name} is another open tunnel too: this one is {tunnel.name} in the table")
        values: dict[str, object] = {name: tunnel}
        dsn: ConnectionString | None = tunnel.url
        if dsn is not None:
            values[f"{name}_{suffix(dsn.scheme)}"] = dsn
        remarks += port_remarks(wanted.forward, tunnel.snapshot, has_dsn=dsn is not None)
        variables = dict(dsn.env) if dsn is not None and wanted.service.env else {}
        if wanted.service.env and not variables:
            remarks.append("--env: this service has no variables of its own")
        if wanted.service.set_proxy_env:
            variables |= self._proxy_variables(opened, dsn)
        self._namespace.give(owner, values, aside=opened.cell is not None)
        for each in values:
            self._gone.pop(each, None)
        self._environment.set(owner, variables)
        opened.names, opened.variables, opened.remarks = tuple(values), tuple(variables), tuple(remarks)
        if tunnel.state.ended:
            # It closed on another thread in this very moment: its observer came too early.
            self._end(opened)

    def _proxy_variables(self, opened: Opened, url: ConnectionString | None) -> dict[str, str]:
        """What points programs at a SOCKS proxy, this machine left out. Raises ConfigError."""
        if opened.wanted.forward.kind is not Kind.DYNAMIC or url is None:
            raise ConfigError("--set-proxy-env is for a SOCKS proxy", hop=opened.tunnel.name, hint="Open one with -D 0")
        if opened.wanted.options.socks_user:
            raise ConfigError(
                "--set-proxy-env and --socks-user do not go together: a password does not belong in the environment",
                hop=opened.tunnel.name,
                hint="Use the tunnel's .proxies, or leave --socks-user out",
            )
        spared = [*filter(None, os.environ.get("NO_PROXY", "").split(",")), "localhost", "127.0.0.1", "::1"]
        return {"ALL_PROXY": url.reveal(), "NO_PROXY": ",".join(dict.fromkeys(spared))}

    def _follower(self, opened: Opened) -> Callable[[Snapshot], None]:
        alive = False

        def follow(_: Snapshot) -> None:
            nonlocal alive
            before, alive = alive, opened.tunnel.is_alive()
            if opened.tunnel.state.ended:
                self._end(opened)
            elif opened.nameless and alive and not before:
                # Its SOURCE may take its time: not here.
                opened.tunnel.session.afterwards(partial(self._name_late, opened))

        return follow

    def name_late(self, tunnels: Sequence[Tunnel]) -> None:
        """Those that had failed to open and are there now have their names when this returns."""
        for opened in filter(None, map(self.find, tunnels)):
            if opened.tunnel.is_alive():
                self._name_late(opened)

    def _name_late(self, opened: Opened) -> None:
        with self._naming:
            if not opened.nameless:
                return
            try:
                if opened.wanted.explicit:
                    self._namespace.require(opened.wanted.explicit, force=opened.wanted.service.force)
                self._inject(opened, opened.tunnel)
                opened.nameless = False
            except ForwardError as error:
                opened.remarks = (str(error),)

    def _end(self, opened: Opened) -> None:
        """The tunnel has closed, whoever closed it; may be on the reader thread."""
        with self._lock:
            if opened in self._opened:
                self._opened.remove(opened)
        self._namespace.take_back(opened.tunnel)
        self._environment.put_back(opened.tunnel)
        self._gone |= {name: opened.tunnel.snapshot for name in opened.names if not self._namespace.holds(name)}
        opened.names = opened.variables = ()
        if opened.password is not None:
            opened.password.clear()
        for name, group in list(self.groups.items()):
            if all(tunnel.state.ended for tunnel in group.values()):
                del self.groups[name]
                self._namespace.take_back(group)
