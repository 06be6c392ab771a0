"""The doctor's client side: what a line wants examined, how that is shown, and `xec-forward doctor ...`.

stdout    a line for each stage as it ends, then the one thing to mend
stderr    the one line of an error
status    0 all is well, 1 something is not, 2 the line is no good
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence

from ..diagnosis import Diagnosis, joined, last_line, lines_of
from ..dsn import parse_template, template_for
from ..errors import ForwardError, SpecError
from ..line import KUBERNETES, SSH, Action, Dialect, Line
from ..line.usage import DOCTOR_FORMS, help_text
from ..model import Examination, Far, Finding, Outcome
from ..options import ClusterTarget, SshTarget
from ..spec import Forward, parse_resource
from .foreground import ended_by_signals
from .lines import wanted_of
from .live import PATIENCE
from .profiles import read_line
from .session import Session, current
from .watcher import ScriptWatcher

_PROGRAM = "xec-forward doctor"


def far_end(forward: Forward, dsn: str) -> Far:
    """A forward to examine; its protocol is that of its connection string."""
    template = template_for(forward, dsn)
    return Far(forward, parse_template(template).base if template else "")


def examine_line(session: Session, line: Line, watcher: ScriptWatcher) -> Examination:
    """Examine what a line would open; without a SPEC, what ssh_config names for its target.

    Raises:
        SpecError: its target is a command. EngineError, KeyboardInterrupt: nothing is left open.
    """
    if not isinstance(line.target, SshTarget | ClusterTarget):
        hint = "The command itself may say more: run it in a terminal"
        raise SpecError("--doctor examines the way to an SSH host, and --command has none", hint=hint)
    for source in line.sources.values():
        session.sources.add(source)
    if line.forwards or isinstance(line.target, ClusterTarget):
        far = tuple(far_end(wanted.forward, wanted.service.dsn) for wanted in wanted_of([line]))
    else:
        try:
            far = tuple(Far(forward) for forward in session.look(line.target).forwards)
        except ForwardError:
            far = ()  # it is the first thing that the examination finds
    return session.examine(line.target, far, line.tunnel.timeout, watcher)


class TerminalStages(ScriptWatcher):
    """Prints each stage as it ends; at a terminal also the one that runs, for as long as it does."""

    def __init__(self, where: str = "") -> None:
        super().__init__(where)
        self._hop = ""
        self._running: Finding | None = None
        self._since = 0.0
        self._drawn = ""

    def found(self, finding: Finding) -> None:
        """A stage has begun, or ended."""
        self.erase()
        if finding.outcome is Outcome.RUNNING:
            self._running, self._since = finding, time.monotonic()
            return
        self._running = None
        print("\n".join(lines_of(finding, self._hop)), flush=True)
        self._hop = finding.hop

    def tick(self) -> None:
        """Time has passed."""
        passed = time.monotonic() - self._since
        if self._running is None or passed < PATIENCE or not sys.stdout.isatty():
            return
        *_, line = lines_of(self._running, self._hop)
        # A line that wraps could not be erased.
        text = f"{line} for {passed:.0f} s"[: shutil.get_terminal_size().columns - 1]
        if text != self._drawn:
            sys.stdout.write(f"\r\x1b[2K{text}")
            sys.stdout.flush()
            self._drawn = text

    def erase(self) -> None:
        """Take the stage that runs off the screen."""
        if self._drawn:
            sys.stdout.write("\r\x1b[2K")
            sys.stdout.flush()
            self._drawn = ""

    def finish(self, examination: Examination) -> None:
        """All stages have been printed: what to mend."""
        self.erase()
        print(last_line(examination), flush=True)


class SilentStages(ScriptWatcher):
    """Keeps the stages as they come, and shows none."""

    def __init__(self, where: str = "") -> None:
        super().__init__(where)
        self._findings: tuple[Finding, ...] = ()

    def found(self, finding: Finding) -> None:
        """A stage has begun, or ended."""
        self._findings = joined([*self._findings, finding])

    @property
    def diagnosis(self) -> Diagnosis:
        """How far it has come."""
        return Diagnosis(Examination(self._findings), ended=False)


def dialect_of(words: Sequence[str]) -> Dialect:
    """Whose line the words are: a cluster's where an option says so that only clusters have, or a word is KIND/NAME.

    A bare pod's name would pass for a host, so it is written `pod/NAME` where nothing else tells; `-l` is a user's
    name for SSH, and a selector where there is a `=` in it.
    """
    own = (set(KUBERNETES.flags) | set(KUBERNETES.words)) - set(SSH.flags) - set(SSH.words)
    for before, word in zip(("", *words), words, strict=False):
        spelling = word.partition("=")[0] if word.startswith("--") else word[:2]
        selector = word[2:] if spelling == "-l" else word if before == "-l" else ""
        if spelling in own or "=" in selector or _leads_to_pods(word):
            return KUBERNETES
    return SSH


def _leads_to_pods(word: str) -> bool:
    """Whether a word is KIND/NAME."""
    try:
        return "/" in word and bool(parse_resource(word))
    except SpecError:
        return False


def run_doctor(words: Sequence[str]) -> int:
    """Examine what a line would open; the exit status. `words` are those after `doctor`."""
    watcher, dialect = TerminalStages(), dialect_of(words)
    try:
        line = read_line(["--doctor", *words], dialect=dialect)
        if line.action is Action.HELP:
            print(help_text(DOCTOR_FORMS, dialect))
            return 0
        assert line.target is not None
        watcher.where = line.target.host
        with ended_by_signals():
            examination = examine_line(current(), line, watcher)
        watcher.finish(examination)
        return 0 if examination.ok else 1
    except KeyboardInterrupt:
        watcher.erase()
        print(f"{_PROGRAM}: interrupted; nothing was changed", file=sys.stderr)
        return 1
    except ForwardError as error:
        watcher.erase()
        text = str(error).replace(f"{dialect.magic} --doctor", _PROGRAM).replace(dialect.magic, _PROGRAM)
        print(f"{_PROGRAM}: {text}", file=sys.stderr)
        return 2 if isinstance(error, SpecError) else 1
    finally:
        current().stop()
