"""Completion in the lines of %forward and %k8s_forward, and in the cells of their list form.

A matcher for IPython's completer (its API, version 2). It runs on the kernel's main thread at each Tab, so it reads
files and what is known already, and waits for nothing. Where the place is known no other matcher adds to it: neither
keywords nor files belong there.

    completion          the matcher;  completion_place   where the cursor stands
    completion_words    what may be written there;  completion_hosts, completion_cluster   the names for it
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .completion_words import Vocabulary

_MOST = 500


def install(shell: InteractiveShell) -> None:
    """Have a shell complete our lines. Idempotent."""
    if shell.Completer is not None and not _installed(shell):
        shell.Completer.custom_matchers.append(ForwardCompleter(shell).matcher)


def remove(shell: InteractiveShell) -> None:
    """Take it away. Idempotent."""
    for matcher in _installed(shell):
        shell.Completer.custom_matchers.remove(matcher)


def _installed(shell: InteractiveShell) -> list[Any]:
    matchers = getattr(shell.Completer, "custom_matchers", [])
    return [matcher for matcher in matchers if isinstance(getattr(matcher, "__self__", None), ForwardCompleter)]


class ForwardCompleter:
    """The matcher of one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._vocabulary: Vocabulary | None = None

    @context_matcher(identifier="xec_forward")  # type: ignore[untyped-decorator]
    def matcher(self, context: CompletionContext) -> SimpleMatcherResult:
        """What may follow the cursor; nothing where the line is not ours."""
        found = None
        if "forward" in context.full_text:
            if self._vocabulary is None:
                from .completion_words import Vocabulary

                self._vocabulary = Vocabulary(self._shell)
            try:
                found = self._vocabulary.at(context.full_text, context.cursor_line, context.cursor_position)
            except OSError:
                pass  # the working folder is gone, say
        if found is None:
            return SimpleMatcherResult(completions=[], suppress=False)
        matching = (word for word in dict.fromkeys(found.words) if word.startswith(found.fragment))
        return SimpleMatcherResult(
            completions=[SimpleCompletion(text=word, type=found.kind) for word in islice(matching, _MOST)],
            matched_fragment=found.fragment,
            suppress=True,
            ordered=True,
        )
