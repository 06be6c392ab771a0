"""What the doctor has found so far: one stage after the other, each with its outcome and its time.

Whoever examines says `begin`, then one of `passed`, `failed`, `unsure` or `skipped`; each is told at once, so that a
person who waits sees how far it has come. The first failure decides what there is to mend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ...errors import DeadlineError, ForwardError, LostError, NameNotFoundError, ProhibitedError
from ...model import Examination, Fault, Finding, Outcome
from ...spec import Endpoint
from ...spec.names import is_address
from .base import Link

# What to do where the error itself has no hint, by stage.
_REMEDIES = {
    "config": "See ssh_config(5)",
    "dns": "Check the name; an alias belongs into ssh_config as Host",
    "proxy": "Run the ProxyCommand in a terminal: it should show a line that begins with SSH-2.0",
    "tcp": "Is the network, or the VPN, up, and sshd running there on this port?",
    "banner": "Check the port: an SSH server speaks first, and names itself",
    "key exchange": "See Ciphers and KexAlgorithms in ssh_config(5)",
    "host key": "Ask whoever runs the host for its key, and put that into known_hosts",
    "login": "Ask whoever runs the host which keys and methods it accepts for this user; its log says why it refused",
    "forwarding": "See AllowTcpForwarding and PermitOpen in its sshd_config",
    "far name": "Is that its name on the last hop?",
    "far port": "Is the service running there, on this port, and no firewall in between?",
    "kubeconfig": "See kubectl config view, which shows what is read",
    "tls": "See certificate-authority-data and tls-server-name of the cluster's entry in the kubeconfig",
    "api": "Is it the API server's address? kubectl get --raw /version asks the same",
    "resource": "kubectl get shows those there are",
    "pods": "kubectl get pods shows how they are",
    "readiness": "kubectl describe pod shows its events",
    "forward": "Something between here and there may not pass an upgrade on; kubectl port-forward asks for the same",
    "listening": "Is the service running in the pod, and listening on this port?",
}

_ELSE = "Examine it again; the log of the host, or of the service, may say more"

# The longest that a channel may take to open, seconds.
CHANNEL = 15.0

T = TypeVar("T")


class Halt(Exception):
    """There is no way on, although nothing failed; the chart says why."""


class Chart:
    """The findings of one examination.

    Args:
        found: told of each stage when it begins and when it has ended.
        seconds: what all of it may take.

    Attributes:
        stage: the one that runs, or "".
    """

    def __init__(self, found: Callable[[Finding], None], seconds: float) -> None:
        self.findings: list[Finding] = []
        self._found = found
        self._seconds = seconds
        self._start = time.monotonic()
        self._hop = ""
        self.stage = ""
        self._since = 0.0
        self._fix = ""

    def limit(self, most: float = float("inf")) -> float:
        """What one stage may take, seconds: so much of what is left that others can follow."""
        return max(0.1, min(most, 0.8 * (self._start + self._seconds - time.monotonic())))

    def begin(self, hop: str, stage: str) -> None:
        """A stage begins; one that still runs has passed."""
        if self.stage:
            self.passed()
        self._hop, self.stage, self._since = hop, stage, time.monotonic()
        self._found(Finding(hop, stage, Outcome.RUNNING))

    def passed(self, text: str = "", *details: str) -> None:
        """The stage is well."""
        self._end(Outcome.OK, text, details)

    def noted(self, hop: str, stage: str, text: str = "", *details: str) -> None:
        """Another stage is well too; it had no time of its own."""
        self._tell(Finding(hop, stage, Outcome.OK, None, text, details))

    def failed(self, error: ForwardError, *details: str, stage: str = "") -> None:
        """The stage failed; `stage` names another one that the error rather belongs to."""
        stage = self.stage = stage or self.stage
        # Its hop heads the findings; another one is said.
        where = f"{error.hop}: " if error.hop not in ("", self._hop) else ""
        self._fix = self._fix or error.hint or _REMEDIES.get(stage, _ELSE)
        self._end(Outcome.FAILED, f"{where}{error.message}", details, Fault.of(error))

    def unsure(self, text: str, fix: str = "", *details: str) -> None:
        """It cannot be told whether the stage is well."""
        self._fix = self._fix or fix
        self._end(Outcome.UNSURE, text, details)

    def skipped(self, hop: str, stage: str, text: str) -> None:
        """A stage that is not examined, also one that has begun."""
        self.stage = ""
        self._tell(Finding(hop, stage, Outcome.SKIPPED, None, text))

    def examination(self) -> Examination:
        """All of it."""
        return Examination(tuple(self.findings), self._fix, round(time.monotonic() - self._start, 4))

    def _end(self, outcome: Outcome, text: str, details: tuple[str, ...], error: Fault | None = None) -> None:
        seconds = round(time.monotonic() - self._since, 4)
        finding = Finding(self._hop, self.stage, outcome, seconds, text, details, error)
        self.stage = ""
        self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._found(finding)


async def channel(
    chart: Chart, hop: str, link: Link, connect: Endpoint, opening: Awaitable[T], *, name: str, port: str
) -> T:
    """Have `link` open a channel to `connect`, which shows three stages at once: may it, the name, the port.

    A server decides first whether it may forward there, then looks up the name, then connects (OpenSSH's
    channels.c): so each answer says of the stages before that they are well.

    Args:
        hop: under which name the stages are found.
        opening: opens the channel.
        name, port: what the second and the third stage are called.

    Raises:
        ForwardError: the stage it belongs to runs still, for `Chart.failed`.
    """
    by = link.route[-1]
    seconds = chart.limit(CHANNEL)
    chart.begin(hop, port)
    try:
        try:
            async with asyncio.timeout(seconds) as timeout:
                opened = await opening
        except TimeoutError as error:
            if not timeout.expired():
                raise
            await link.round_trip()  # a lost link is another failure
            hint = "A firewall may be between the two, or the service's host may be down"
            raise DeadlineError(f"no answer within {seconds:.1f} s, as seen from {by}", hop=hop, hint=hint) from error
    except ProhibitedError:
        chart.stage = "forwarding"
        raise
    except NameNotFoundError:
        chart.noted(hop, "forwarding", f"{by} allows it")
        chart.stage = name
        raise
    except DeadlineError:
        # Whether it is the name that hangs, nobody can say.
        chart.noted(hop, "forwarding", f"{by} has not refused it")
        raise
    except LostError:
        raise
    except ForwardError:
        _named(chart, hop, by, connect, name)
        raise
    _named(chart, hop, by, connect, name)
    return opened


def _named(chart: Chart, hop: str, by: str, connect: Endpoint, name: str) -> None:
    chart.noted(hop, "forwarding", f"{by} allows it")
    if connect.host and not is_address(connect.host):
        chart.noted(hop, name, f"{by} resolves {connect.host}")
