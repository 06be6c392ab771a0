"""What an OPEN line asks for, forward by forward; the notebook and the command line open them each in its own way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..dsn import parse_template, template_for
from ..line import Line
from ..model import Snapshot, TunnelState
from ..options import ClusterTarget, Service, SshTarget, Target, TunnelOptions
from ..services import hint_for_port
from ..source import Source
from ..spec import Endpoint, Forward, Kind, default_name
from .session import Session

ADD_DSN = "no connection string, since the port tells no scheme: add --dsn URL"


def port_remarks(forward: Forward, snapshot: Snapshot, *, has_dsn: bool) -> list[str]:
    """What a card says of the far port: what to do with a debugger's, or how to get a connection string."""
    far, hint = forward.connect, ""
    if forward.kind is Kind.LOCAL and far is not None and snapshot.local_port:
        hint = hint_for_port(far.port, far.port_name, snapshot.local_host, snapshot.local_port)
    if hint:
        return [hint]
    return [] if has_dsn or forward.kind is Kind.REMOTE else [ADD_DSN]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One forward of a line. Two that are equal in `key` are the same line run twice.

    `several`: other ports of the same RESOURCE are opened with it, and have no name either.
    """

    target: Target
    forward: Forward
    options: TunnelOptions
    service: Service
    notes: tuple[str, ...] = field(default=(), compare=False)
    password: Source | None = field(default=None, compare=False)
    several: bool = field(default=False, compare=False)

    @property
    def explicit(self) -> str:
        """The name it was given, "" where it takes the default."""
        return self.service.name or self.forward.name

    @property
    def default(self) -> str:
        """The name it has unless it is given one."""
        return default_name(self.forward, self.target.host, several=self.several)

    @property
    def far_host(self) -> str:
        """The host or the RESOURCE it leads to, "" where it is the target itself."""
        return self.forward.connect.host if self.forward.connect is not None else ""

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it the same line."""
        return self.target, self.forward, self.options, replace(self.service, quiet=False, force=False, keep=False)

    @property
    def far_end(self) -> tuple[object, ...]:
        """Where it leads, whatever its local side and options are."""
        which: tuple[object, ...] = ()
        if isinstance(self.target, SshTarget):
            which = self.target.username, self.target.port
        elif isinstance(self.target, ClusterTarget):
            which = self.target.namespace, self.target.kubeconfig
        return self.target.host, which, self.forward.kind, self.forward.connect or self.forward.listen


def with_forwards(session: Session, line: Line) -> Line:
    """A line without a SPEC opens the forwards that ssh_config names for its target.

    Raises:
        SpecError: it names none. ConfigError: the file is no good.
    """
    if not line.forwards and isinstance(line.target, SshTarget):
        line = replace(line, forwards=session.look(line.target).forwards)
    line.require_forwards()
    return line


def lines_of(session: Session, line: Line) -> tuple[Line, ...]:
    """What an OPEN line opens, each with its own target: itself, or the lines of its profiles. See `with_forwards`."""
    return tuple(with_forwards(session, each) for each in line.members or (line,))


def wanted_of(lines: Sequence[Line]) -> list[Wanted]:
    """The forwards of OPEN lines; `--as` of several names the group, `--dsn` of several those it fits."""
    alone = len(lines) == 1 and len(lines[0].forwards) == 1
    found = [wanted for line in lines for wanted in _wanted(line, alone=alone)]
    unnamed = Counter(wanted.far_host for wanted in found if not wanted.explicit)
    return [replace(wanted, several=not wanted.explicit and unnamed[wanted.far_host] > 1) for wanted in found]


def _wanted(line: Line, *, alone: bool) -> Iterable[Wanted]:
    assert line.target is not None
    listed = len(line.forwards) == 1
    for forward in line.forwards:
        service = line.service
        if not alone and not listed:
            service = replace(service, name="", dsn=_fitting(service.dsn, forward))
        # A default of one's own, then: of what a line says the parser has seen to that.
        options = replace(line.tunnel, allowed_ips=()) if forward.listen.path else line.tunnel
        yield Wanted(line.target, forward, options, service, line.notes, line.sources.get(service.password))


def _fitting(dsn: str, forward: Forward) -> str:
    if not dsn or forward.url:
        return ""
    own = template_for(forward)
    fits = not own or parse_template(own).base == parse_template(dsn).base
    return dsn if fits else ""


def preview(session: Session, wanted: Wanted, name: str, remarks: Iterable[str] = ()) -> str:
    """What opening it would do, a line, and what decides it below. Nothing is dialled, bound or asked.

    Files are read for an SSH host; of a cluster it says what the line does.

    Raises:
        ConfigError: ssh_config is no good.
    """
    hops: tuple[str, ...] = (wanted.target.host,)
    notes = wanted.notes
    if isinstance(wanted.target, SshTarget):
        outlook = session.look(wanted.target)
        hops, notes = outlook.route, (*notes, *outlook.notes)
    elif isinstance(wanted.target, ClusterTarget):
        hops = (*(hop.host for hop in wanted.target.proxy), *hops)
        namespace = wanted.target.namespace
        notes = (*notes, f"in the namespace {namespace}" if namespace else "in the context's own namespace")
    head = f"{name}  would be opened  {planned_way(wanted, hops)}"
    return "\n  ".join([head, *notes, *remarks])


def planned_way(wanted: Wanted, hops: tuple[str, ...]) -> str:
    """The way a tunnel would take, as its card would show it."""
    listen, connect = wanted.forward.listen, wanted.forward.connect
    any_port = ""
    if wanted.forward.kind is not Kind.REMOTE and not listen.path:
        options = wanted.options
        port = listen.port if listen.port is not None else connect.port if connect is not None else 0
        host = listen.host or options.local_interface or ("*" if options.gateway_ports else "127.0.0.1")
        any_port = "" if port and listen.port else " (or any free port)"
        listen = Endpoint(host, port)
    shown = Snapshot(0, "", wanted.forward.kind, TunnelState.IDLE, hops, listen=str(listen), connect=str(connect or ""))
    if wanted.forward.kind is Kind.REMOTE:
        return " -> ".join(shown.way)
    near, *far = shown.way
    return " -> ".join([near + any_port, *far])
