"""What a caller who waits for an opening shows, and whom it can ask.

The session calls a watcher on the thread (or in the coroutine) that waits, so that a prompt is asked where the
user is. This one serves scripts; the terminal's is in `live`, the notebook's in jupyter/.
"""

from __future__ import annotations

import getpass
import sys
from typing import Protocol

from ..model import Ask, Finding, Snapshot

NOBODY = "nobody is here to answer"
WAYS_ROUND = "use ssh-agent, or a SOURCE such as env:NAME or keyring:SERVICE/USER"

_WANTED = {"passphrase": ("--passphrase", "Passphrase of the key for"), "password": ("--ssh-password", "Password for")}


class NobodyAnswers(Exception):
    """A question has nobody to answer it; the text says so in one line."""


class Watcher(Protocol):
    """Shows an opening while it is waited for, and answers its questions."""

    def progress(self, snapshot: Snapshot) -> None:
        """The tunnel changed: another step, another state."""

    def found(self, finding: Finding) -> None:
        """A stage of an examination has begun, or ended."""

    def tick(self) -> None:
        """Called a few times a second while nothing changes."""

    def ask(self, question: Ask) -> str:
        """Put a question to a person. Raises NobodyAnswers."""


class ScriptWatcher:
    """For scripts and plain Python: silent, asks on the terminal where there is one.

    Args:
        where: the target, for the text of questions.
    """

    def __init__(self, where: str = "") -> None:
        self.where = where

    def progress(self, snapshot: Snapshot) -> None: ...

    def found(self, finding: Finding) -> None: ...

    def tick(self) -> None: ...

    def ask(self, question: Ask) -> str:
        return ask_terminal(question_text(question, self.where), echo=question.echo)


class NobodyThere(ScriptWatcher):
    """For what goes on behind a person's back: shows nothing, asks nothing."""

    def ask(self, question: Ask) -> str:
        raise NobodyAnswers(NOBODY)


def question_text(question: Ask, where: str) -> str:
    """The text of a question: its prompt, one line or several; where that is empty, one made of its kind."""
    if question.prompt:
        return question.prompt
    option, what = _WANTED.get(question.kind, ("", question.kind))
    return f"{' '.join(filter(None, [what, where]))}{f' ({option} prompt)' if option else ''}: "


def ask_terminal(prompt: str, *, echo: bool) -> str:
    """Ask a person at the terminal. Raises NobodyAnswers where there is none, or where they ended the input."""
    if sys.stdin is None or not sys.stdin.isatty():
        # getpass would go on to /dev/tty, and wait there for somebody who is not.
        raise NobodyAnswers(NOBODY)
    try:
        return input(prompt) if echo else getpass.getpass(prompt)
    except EOFError:
        raise NobodyAnswers(NOBODY) from None
