"""Questions to the person in front of the notebook: asked on the thread that waits, through the front-end's own
input field (`input`, `getpass`).

Where nobody can answer (nbconvert, papermill, nbval refuse stdin; a script's stdin is no terminal) nothing is
asked: NobodyAnswers at once.
"""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from ..client.watcher import NOBODY, NobodyAnswers, ask_terminal
from ..errors import AuthenticationError, ConfigError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .live import LiveWatcher


def service_password(watcher: LiveWatcher, name: str, where: str) -> str:
    """Ask for the service's password (`--password prompt`).

    Raises:
        AuthenticationError: nobody is there to answer. ConfigError: nothing was typed. KeyboardInterrupt: they gave up.
    """
    try:
        typed = watcher.pose(f"Password of {name} at {where} (--password prompt): ", echo=False)
    except NobodyAnswers as error:
        raise AuthenticationError(
            f"--password prompt: {error}", hop=where, hint="Give env:NAME, keyring:SERVICE/USER, cmd: or file:"
        ) from None
    if not typed:
        raise ConfigError(
            "--password prompt: the answer was empty",
            hop=where,
            hint="Run the line again and type it, or leave --password out where the service wants none",
        )
    return typed


def ask(shell: InteractiveShell, prompt: str, *, echo: bool) -> str:
    """Ask one question.

    Raises:
        NobodyAnswers: there is nobody, or they ended the input. KeyboardInterrupt: they gave up.
    """
    from IPython.core.error import StdinNotImplementedError

    if getattr(shell, "kernel", None) is None:
        return ask_terminal(prompt, echo=echo)
    # An input field has room for one line: what comes before it is printed.
    *text, last = prompt.split("\n")
    try:
        if text:
            # Nothing is printed before it is known that somebody reads it.
            if not shell.kernel._allow_stdin:  # type: ignore[attr-defined]
                raise NobodyAnswers(NOBODY)
            print("\n".join(text))
        return input(last) if echo else getpass.getpass(last)
    except (StdinNotImplementedError, EOFError):
        raise NobodyAnswers(NOBODY) from None
