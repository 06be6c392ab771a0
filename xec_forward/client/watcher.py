"""What a caller who waits for an opening shows, and whom it can ask.

The session calls a watcher on the thread (or in the coroutine) that waits, so that a prompt is asked where the
user is. The notebook's watcher lives in jupyter/; this one serves scripts.
"""

from __future__ import annotations

import getpass
import sys
from typing import Protocol

from ..model import Ask, Snapshot

NOBODY = "nobody is here to answer"
WAYS_ROUND = "use ssh-agent, or a SOURCE such as env:NAME or keyring:SERVICE/USER"


class NobodyAnswers(Exception):
    """A question has nobody to answer it; the text says so in one line."""


class Watcher(Protocol):
    """Shows an opening while it is waited for, and answers its questions."""

    def progress(self, snapshot: Snapshot) -> None:
        """The tunnel changed: another step, another state."""

    def tick(self) -> None:
        """Called a few times a second while nothing changes."""

    def ask(self, question: Ask) -> str:
        """Put a question to a person. Raises NobodyAnswers."""


class ScriptWatcher:
    """For scripts and plain Python: silent, asks on the terminal where there is one."""

    def progress(self, snapshot: Snapshot) -> None: ...

    def tick(self) -> None: ...

    def ask(self, question: Ask) -> str:
        if sys.stdin is None or not sys.stdin.isatty():
            raise NobodyAnswers(NOBODY)
        try:
            return input(question.prompt) if question.echo else getpass.getpass(question.prompt)
        except EOFError:
            raise NobodyAnswers(NOBODY) from None
