"""`xec-forward open ...` and `k8s-open ...`: the tunnels of a line, open until Ctrl-C, SIGTERM, or their own end.

    stdout    a card for each tunnel
    stderr    what becomes of them meanwhile, and the one line of an error
    status    0 closed in order, 1 nothing could be opened, or all that was open failed; 2 the line is no good

A login that needs a person again is asked for at the terminal, once Enter shows that somebody sits there.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..dsn import make, template_for
from ..errors import ForwardError, SpecError
from ..line import KUBERNETES, SSH, Action, Dialect, Line
from ..line.usage import CLUSTER_COMMAND_FORMS, COMMAND_FORMS, help_text
from ..model import TunnelState
from ..options import Service
from ..render import Card, Cards
from .lines import Wanted, lines_of, port_remarks, preview, wanted_of
from .live import Canvas, LiveWatcher, standard_canvas
from .offer import offer
from .profiles import read_line
from .reconnecting import reconnect_all
from .session import Session, current
from .targets import prepare_tunnel
from .tunnel import Tunnel

# Options that give the notebook something; here there is none.
_OF_A_NOTEBOOK = ("password", "env", "force", "set_proxy_env")


def run_open(words: Sequence[str], dialect: Dialect = SSH) -> int:
    """Open what a line asks for, and stay until it ends; the exit status. `words` are those after the command."""
    program = dialect.program
    line: Line | None = None
    try:
        line = read_line(words, dialect=dialect)
        if line.action is Action.HELP:
            print(help_text(CLUSTER_COMMAND_FORMS if dialect is KUBERNETES else COMMAND_FORMS, dialect))
            return 0
        if line.action is not Action.OPEN:
            missing = "RESOURCE" if dialect is KUBERNETES else "TARGET"
            what = f"{missing} is missing" if line.action is Action.LIST else f"--{line.action} is for a notebook"
            raise SpecError(what, hint=f"Write {program} {dialect.example}; Ctrl-C closes")
        with ended_by_signals():
            return _open(line)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; nothing is open", file=sys.stderr)
        return 1
    except ForwardError as error:
        offer(error, line, "xec-forward doctor")
        text = str(error)
        for each in (KUBERNETES, SSH):
            text = text.replace(each.magic, each.program)
        print(f"{program}: {text}", file=sys.stderr)
        return 2 if isinstance(error, SpecError) else 1
    except BrokenPipeError:
        # Whoever read our standard output has gone; the interpreter's last flush must not say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        current().stop()


def _open(line: Line) -> int:
    session = current()
    wanted = wanted_of(lines_of(session, line))
    if line.service.dry_run:
        for each in wanted:
            print(preview(session, each, each.explicit or each.default))
        return 0
    for source in line.sources.values():
        session.sources.add(source)
    assert line.target is not None
    watcher = LiveWatcher(Canvas() if line.service.quiet else standard_canvas(), line.target.host)
    tunnels = [
        prepare_tunnel(each.target, each.forward, each.options, each.service.dsn, None, each.explicit)[1]
        for each in wanted
    ]
    with _Vigil(session, tunnels, watcher) as vigil:
        try:
            errors = session.open_all(tunnels, watcher)
        except BaseException:
            watcher.erase()
            raise
        failed = [error for error in errors if error is not None]
        if failed and (line.service.exit_on_failure or len(failed) == len(tunnels)):
            watcher.erase()
            session.close(tunnels)
            raise failed[0]
        try:
            if line.service.quiet:
                watcher.erase()
            else:
                watcher.finish(Cards(tuple(map(_card, wanted, tunnels))))
            return vigil.keep()
        except KeyboardInterrupt:
            session.close(tunnels)
            return 0


def _card(wanted: Wanted, tunnel: Tunnel) -> Card:
    remarks = list(wanted.notes)
    template = template_for(wanted.forward, wanted.service.dsn)
    if template and tunnel.is_alive():
        host = wanted.forward.listen.path or tunnel.local_host
        url = make(template, host=host, port=tunnel.local_port, password=None, far_host=tunnel.remote_host)
        remarks.insert(0, f"the connection string, without a password, is {url}")
    if tunnel.is_alive():
        remarks += port_remarks(wanted.forward, tunnel.snapshot, has_dsn=bool(template))
    idle = [name for name in _OF_A_NOTEBOOK if getattr(wanted.service, name) != getattr(Service(), name)]
    if idle:
        remarks.append(f"{', '.join('--' + name.replace('_', '-') for name in idle)}: of use in a notebook only")
    return Card(tunnel.snapshot, remarks=tuple(remarks), fresh=True)


class _Vigil:
    """Stays with open tunnels: says what becomes of them, and lets a person log in again."""

    def __init__(self, session: Session, tunnels: Sequence[Tunnel], watcher: LiveWatcher) -> None:
        self._session = session
        self._tunnels = tunnels
        self._watcher = watcher
        self._states: dict[str, TunnelState] = {}

    def __enter__(self) -> _Vigil:
        self._waking, self._woken = os.pipe()
        os.set_blocking(self._waking, False)
        os.set_blocking(self._woken, False)
        for tunnel in self._tunnels:
            tunnel.add_follower(self._wake)
        return self

    def __exit__(self, *_: object) -> None:
        for tunnel in self._tunnels:
            tunnel.remove_follower(self._wake)
        os.close(self._waking)
        os.close(self._woken)

    def _wake(self, _: Any) -> None:
        """On the reader thread, or on ours."""
        try:
            os.write(self._woken, b"!")
        except BlockingIOError:
            pass  # it is awake

    def keep(self) -> int:
        """Stay until no tunnel serves or will serve again; the exit status. Raises KeyboardInterrupt."""
        self._states = {tunnel.name: tunnel.state for tunnel in self._tunnels}
        while any(not tunnel.state.ended and tunnel.state is not TunnelState.FAILED for tunnel in self._tunnels):
            waiting = [tunnel for tunnel in self._tunnels if tunnel.state is TunnelState.WAITING]
            person = [sys.stdin] if waiting and sys.stdin is not None and sys.stdin.isatty() else []
            ready, _, _ = select.select([self._waking, *person], [], [])
            if self._waking in ready:
                self._drain()
                self._report()
            elif not sys.stdin.readline():
                return 0  # the terminal has gone
            else:
                self._log_in(waiting)
        self._report()
        return 1 if any(tunnel.state is TunnelState.FAILED for tunnel in self._tunnels) else 0

    def _drain(self) -> None:
        try:
            os.read(self._waking, 4096)
        except BlockingIOError:
            pass

    def _report(self) -> None:
        for tunnel in self._tunnels:
            state = tunnel.state
            if self._states.get(tunnel.name) is state:
                continue
            self._states[tunnel.name] = state
            why = f": {tunnel.error}" if tunnel.error is not None and state is not TunnelState.READY else ""
            if state is TunnelState.WAITING and sys.stdin is not None and sys.stdin.isatty():
                why += ". Press Enter to log in"
            notes = "".join(f"; {note}" for note in tunnel.snapshot.notes) if state is TunnelState.CLOSED else ""
            print(f"{tunnel.name}  {state}{why}{notes}", file=sys.stderr, flush=True)

    def _log_in(self, tunnels: Sequence[Tunnel]) -> None:
        try:
            reconnect_all(self._session, tunnels, self._watcher)
        except ForwardError as error:
            print(f"xec-forward: {error}", file=sys.stderr, flush=True)
        finally:
            self._watcher.erase()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a wait as Ctrl-C does."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # One that is ignored stays so: nohup, and a shell's background, ask for that.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
