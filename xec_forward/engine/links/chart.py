"""What the doctor has found so far: one stage after the other, each with its outcome and its time.

Whoever examines says `begin`, then one of `passed`, `failed`, `unsure` or `skipped`; each is told at once, so that a
person who waits sees how far it has come. The first failure decides what there is to mend.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ...errors import ForwardError
from ...model import Examination, Fault, Finding, Outcome

# What to do where the error itself has no hint, by stage.
_REMEDIES = {
    "config": "See ssh_config(5)",
    "dns": "Check the name; an alias belongs into ssh_config as Host",
    "tcp": "Is the network, or the VPN, up, and sshd running there on this port?",
    "banner": "Check the port: an SSH server speaks first, and names itself",
    "key exchange": "See Ciphers and KexAlgorithms in ssh_config(5)",
    "host key": "Ask whoever runs the host for its key, and put that into known_hosts",
    "login": "Ask whoever runs the host which keys and methods it accepts for this user; its log says why it refused",
    "forwarding": "See AllowTcpForwarding and PermitOpen in its sshd_config",
    "far name": "Is that its name on the last hop?",
    "far port": "Is the service running there, on this port, and no firewall in between?",
}


class Halt(Exception):
    """There is no way on, although nothing failed; the chart says why."""


class Chart:
    """The findings of one examination.

    Args:
        found: told of each stage when it begins and when it has ended.
    """

    def __init__(self, found: Callable[[Finding], None]) -> None:
        self.findings: list[Finding] = []
        self._found = found
        self._start = time.monotonic()
        self._hop = ""
        self._stage = ""
        self._since = 0.0
        self._fix = ""

    @property
    def running(self) -> bool:
        """Whether a stage has begun and not ended."""
        return bool(self._stage)

    def begin(self, hop: str, stage: str) -> None:
        """A stage begins; one that still runs has passed."""
        if self._stage:
            self.passed()
        self._hop, self._stage, self._since = hop, stage, time.monotonic()
        self._found(Finding(hop, stage, Outcome.RUNNING))

    def passed(self, text: str = "", *details: str) -> None:
        """The stage is well."""
        self._end(Outcome.OK, text, details)

    def failed(self, error: ForwardError, stage: str = "") -> None:
        """The stage failed; `stage` names another one that the error rather belongs to."""
        stage = self._stage = stage or self._stage
        # Its hop heads the findings; another one is said.
        where = f"{error.hop}: " if error.hop not in ("", self._hop) else ""
        self._fix = self._fix or error.hint or _REMEDIES.get(stage, "")
        self._end(Outcome.FAILED, f"{where}{error.message}", (), Fault.of(error))

    def unsure(self, text: str, fix: str = "", *details: str) -> None:
        """It cannot be told whether the stage is well."""
        self._fix = self._fix or fix
        self._end(Outcome.UNSURE, text, details)

    def skipped(self, hop: str, stage: str, text: str) -> None:
        """A stage that is not examined."""
        finding = Finding(hop, stage, Outcome.SKIPPED, None, text)
        self.findings.append(finding)
        self._found(finding)

    def examination(self) -> Examination:
        """All of it."""
        return Examination(tuple(self.findings), self._fix, round(time.monotonic() - self._start, 4))

    def _end(self, outcome: Outcome, text: str, details: tuple[str, ...], error: Fault | None = None) -> None:
        seconds = round(time.monotonic() - self._since, 4)
        finding = Finding(self._hop, self._stage, outcome, seconds, text, details, error)
        self._stage = ""
        self.findings.append(finding)
        self._found(finding)
