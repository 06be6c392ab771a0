"""A SOURCE: where a secret comes from, never the secret. Ground floor, no I/O.

    SOURCE = "env:" NAME            an environment variable of the kernel
           | "keyring:" SERVICE/USER   an entry of the system's keyring
           | "cmd:" COMMAND         what a program prints
           | "file:" PATH           an owner-only file
           | "secret:" NAME/KEY     an entry of a Kubernetes Secret, where the target is a cluster
           | "prompt"               a person is asked

Anything else is taken for a literal secret and refused. No error, repr or str here shows more than the kind:
a mistyped SOURCE is often the secret itself, and a command or a path may name one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum

from .errors import SpecError

__all__ = ["SOURCE_FORMS", "Source", "SourceKind", "parse_source"]

SOURCE_FORMS = "env:NAME, keyring:SERVICE/USER, cmd:COMMAND, file:PATH, secret:NAME/KEY (with %k8s_forward) or prompt"


class SourceKind(StrEnum):
    """The kinds of SOURCE."""

    ENV = "env"
    KEYRING = "keyring"
    CMD = "cmd"
    FILE = "file"
    SECRET = "secret"
    PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class Source:
    """A SOURCE. Its repr and str show the kind only.

    Attributes:
        kind: which of the forms it is.
        value: what stands after the colon; "" for `prompt`.
    """

    kind: SourceKind
    value: str = field(default="", repr=False)

    def __str__(self) -> str:
        return str(self.kind)

    @property
    def reference(self) -> str:
        """A deterministic name for it that tells nothing: the kind, and 16 hex digits of its value's SHA-256."""
        return f"{self.kind}:{hashlib.sha256(self.value.encode()).hexdigest()[:16]}"

    @property
    def keyring_entry(self) -> tuple[str, str]:
        """SERVICE and USER of a `keyring` SOURCE; SERVICE may itself hold slashes, USER may not."""
        service, _, user = self.value.rpartition("/")
        return service, user

    @property
    def secret_entry(self) -> tuple[str, str]:
        """NAME and KEY of a `secret` SOURCE."""
        name, _, key = self.value.partition("/")
        return name, key


def parse_source(text: str, option: str) -> Source:
    """Read a SOURCE.

    >>> parse_source("env:PGPASSWORD", "--password")
    Source(kind=<SourceKind.ENV: 'env'>)

    Args:
        text: as typed; never repeated in an error.
        option: what it was given to, for the error: `--password`.

    Raises:
        SpecError: it is none of the forms, or its part after the colon is missing or malformed.
    """
    word, colon, value = text.partition(":")
    if word == SourceKind.PROMPT and not colon:
        return Source(SourceKind.PROMPT)
    if word not in _WANTED or not colon:
        raise SpecError(
            f"{option} takes the place a secret comes from, not the secret itself", hint=f"Give {SOURCE_FORMS}"
        )
    kind = SourceKind(word)
    pattern, wanted = _WANTED[kind]
    if not pattern.fullmatch(value):
        raise SpecError(f"{option} {kind}: wants {wanted}", hint=f"Write {option} {_FORM[kind]}")
    return Source(kind, value)


_TEXT = r"[^\x00-\x1f\x7f\ud800-\udfff]"
_WANTED: dict[SourceKind, tuple[re.Pattern[str], str]] = {
    SourceKind.ENV: (re.compile(r"[^\s=\x00-\x1f\x7f\ud800-\udfff]+"), "the name of an environment variable"),
    SourceKind.KEYRING: (
        re.compile(rf"{_TEXT}+/[^/\x00-\x1f\x7f\ud800-\udfff]+"),
        "a service and a user with a slash between",
    ),
    SourceKind.CMD: (re.compile(rf"(?=.*\S){_TEXT}+"), "a command on one line"),
    SourceKind.FILE: (re.compile(rf"(?=.*\S){_TEXT}+"), "the path of a file"),
    SourceKind.SECRET: (
        # An RFC 1123 subdomain, and what a Secret's `data` allows for a key.
        re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/[-._a-zA-Z0-9]{1,253}"),
        "the name of a Kubernetes Secret and a key of it with a slash between",
    ),
}
_FORM = {
    SourceKind.ENV: "env:NAME",
    SourceKind.KEYRING: "keyring:SERVICE/USER",
    SourceKind.CMD: "'cmd:COMMAND'",
    SourceKind.FILE: "file:PATH",
    SourceKind.SECRET: "secret:NAME/KEY",
}
