"""What the doctor found, as text and as HTML. Ground floor, no I/O; no secret can be in a Finding.

A line a stage, under the name of its hop: a sign and a word, never a colour alone, then the stage, its time, what was
seen. At the end the one thing to mend. The lines come in order, so that a terminal can print them as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape

from .model import Examination, Finding, Outcome
from .render import View, block, short_seconds

SIGNS = {
    Outcome.RUNNING: "…",
    Outcome.OK: "✓",
    Outcome.FAILED: "✗",
    Outcome.UNSURE: "?",
    Outcome.SKIPPED: "–",
}
# A failure is to be found at a glance, without colours too.
_WORDS = {Outcome.FAILED: "FAILED"}
_INDENT = " " * 26


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis(View):
    """An examination that has ended, or one under way.

    Attributes:
        examination: what was found; of one under way the stages so far, the last of them running perhaps.
        ended: whether it has ended: then the last line says what to mend.

    >>> diagnosis = xf.ssh("bastion").doctor()  # doctest: +SKIP
    >>> diagnosis.ok, diagnosis.fix             # doctest: +SKIP
    """

    examination: Examination = field(default_factory=lambda: Examination(()))
    ended: bool = True

    @property
    def ok(self) -> bool:
        """Whether every stage that was examined is well."""
        return self.examination.ok

    @property
    def fix(self) -> str:
        """The one thing to mend, or ""."""
        return self.examination.fix

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The stages in order."""
        return self.examination.findings

    def __bool__(self) -> bool:
        return self.ok

    def plain(self) -> str:
        return "\n".join(line for line, _ in self._lines())

    def html(self) -> str:
        lines = (f"<b>{escape(line)}</b>" if strong else escape(line) for line, strong in self._lines())
        return block("\n".join(lines))

    def _lines(self) -> Iterator[tuple[str, bool]]:
        """Each line, and whether it counts most."""
        hop = ""
        for finding in self.findings:
            for number, line in enumerate(lines_of(finding, hop)):
                first = number == (finding.hop != hop)
                yield line, first and finding.outcome in (Outcome.FAILED, Outcome.UNSURE)
            hop = finding.hop
        if self.ended:
            yield last_line(self.examination), True


def lines_of(finding: Finding, before: str) -> list[str]:
    """The lines of one stage.

    Args:
        before: the hop of the stage before it; another one heads the lines.
    """
    head = [] if finding.hop == before else [finding.hop]
    seconds = "" if finding.seconds is None else f"{short_seconds(finding.seconds)} s"
    word = _WORDS.get(finding.outcome, str(finding.outcome))
    line = f"  {SIGNS[finding.outcome]} {word:<8}{finding.stage:<13}{seconds:>7}  {finding.text}".rstrip()
    return [*head, line, *(f"{_INDENT}{detail}" for detail in finding.details)]


def last_line(examination: Examination) -> str:
    """What to mend."""
    if examination.ok:
        return f"all is well, {short_seconds(examination.seconds)} s"
    return f"fix: {examination.fix or 'see the stage that failed'}"


def joined(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The stages as they came: each begins (running) before it ends, and only the last one may run still."""
    kept: list[Finding] = []
    for finding in findings:
        if kept and kept[-1].outcome is Outcome.RUNNING:
            kept.pop()
        kept.append(finding)
    return tuple(kept)
