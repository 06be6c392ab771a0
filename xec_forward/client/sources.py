"""SOURCEs: from the place a secret comes from to the secret, in the kernel's process.

`resolve` asks once; `Sources` keeps what was given under a reference that tells nothing, so that requests to the
engine and declarative lists hold the reference only. Nothing is cached: an answer is asked for anew each time
(short-lived passwords). A `prompt` is not resolved here: asking a person belongs to whoever waits; nor is a `secret`:
whoever has the cluster makes a `ClusterSecret` of it.

No error or repr here shows a secret, a command, a path or a program's output; only the name of an environment
variable is shown, and the last line that a program wrote to its standard error.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import IO

from ..errors import ConfigError, ForwardError
from ..options import ClusterTarget
from ..source import Source, SourceKind, parse_source

COMMAND_SECONDS = 30.0
LIMIT = 64 * 1024
KEYRING_LINE = "%pip install 'xec_forward[keyring]'"

Resolvable = Source | Callable[[], str] | str

_SOURCE_WORD = re.compile(r"(?:env|keyring|cmd|file|secret):.*|prompt", re.DOTALL)


class PromptNeeded(ConfigError):
    """The SOURCE is `prompt`: a person must be asked, by whoever waits for the answer."""


def resolve(source: Resolvable) -> str:
    """Get the secret. Blocks: a keyring may ask its user, a command may take up to 30 s.

    Args:
        source: a SOURCE as a `Source` or its text, a callable, or the secret itself.

    Raises:
        ConfigError: there is no secret to be had there; the text says the kind and why.
        PromptNeeded: the SOURCE is `prompt`.
    """
    if isinstance(source, str):
        source = as_source(source)
        if isinstance(source, str):
            return _text(source, "the secret given")
    if not isinstance(source, Source):
        return _called(source)
    match source.kind:
        case SourceKind.ENV:
            return _from_environment(source.value)
        case SourceKind.KEYRING:
            return _from_keyring(*source.keyring_entry)
        case SourceKind.CMD:
            return _from_command(source.value)
        case SourceKind.FILE:
            return _from_file(source.value)
        case SourceKind.SECRET:
            raise ConfigError(
                "secret: it is read from a cluster, and this leads to none", hint="Give env:, keyring:, cmd: or file:"
            )
        case SourceKind.PROMPT:
            raise PromptNeeded("prompt: nobody can be asked here", hint="Give env:, keyring:, cmd: or file:")


def as_source(value: str) -> Source | str:
    """A text given in Python: a SOURCE where it has the form of one, else the secret itself, unchanged.

    Raises:
        SpecError: it begins like a SOURCE and goes on malformed.
    """
    text = str.__str__(value)
    return parse_source(text, "SOURCE") if _SOURCE_WORD.fullmatch(text) else text


@dataclass(frozen=True, slots=True)
class ClusterSecret:
    """The way to one entry of a Kubernetes Secret; called, it reads it. Its repr tells where it is, never what.

    Attributes:
        read: `Session.secret`.
        tunnel: whose password it is, by its number.
    """

    read: Callable[[ClusterTarget, str, str, int], str] = field(repr=False)
    cluster: ClusterTarget
    name: str
    key: str
    tunnel: int = 0

    def __call__(self) -> str:
        return self.read(self.cluster, self.name, self.key, self.tunnel)


class Sources:
    """What was given for secrets, each under a reference. Thread-safe; its repr shows the number only."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[str, Resolvable] = {}
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"Sources({len(self._known)})"

    def add(self, value: Resolvable | None) -> str:
        """Keep `value`; the reference under which it can be resolved, "" for None and "".

        A SOURCE has the same reference each time. A callable has one as long as it is the same object (or the same
        entry of a Kubernetes Secret), a literal secret as long as it is the same text, both for this registry only
        (`call:1`): nothing can be computed from it.

        Raises:
            SpecError: a text that begins like a SOURCE and goes on malformed.
        """
        if value is None or value == "":
            return ""
        if isinstance(value, str):
            value = as_source(value)
        with self._lock:
            if isinstance(value, Source):
                self._known[value.reference] = value
                return value.reference
            for reference, known in self._known.items():
                alike = any(isinstance(value, kind) and isinstance(known, kind) for kind in (str, ClusterSecret))
                if known is value or (alike and known == value):
                    return reference
            reference = f"call:{next(self._numbers)}"
            self._known[reference] = value
            return reference

    def kind(self, reference: str) -> str:
        """`env`, `keyring`, `cmd`, `file`, `secret`, `prompt`, or `call`."""
        return reference.partition(":")[0]

    def resolve(self, reference: str) -> str:
        """The secret behind a reference.

        Raises:
            ConfigError, PromptNeeded: see `resolve`; also for a reference that was never added.
        """
        with self._lock:
            value = self._known.get(reference)
        if value is None:
            raise ConfigError("nothing is known under this SOURCE's reference", hint="Run the line again")
        # A literal is not looked at again: what looks like a SOURCE was made one in `add`.
        return _text(value, "the secret given") if isinstance(value, str) else resolve(value)


def _called(function: Callable[[], str]) -> str:
    try:
        value: object = function()
    except ForwardError:
        raise
    except Exception as error:
        # Its text may hold anything; its class is enough, and the cause stays for %tb.
        raise ConfigError(f"the callable given for a secret raised {type(error).__name__}") from error
    if not isinstance(value, str):
        raise ConfigError(f"the callable given for a secret returned {type(value).__name__}, not str")
    return _text(value, "the callable given for a secret")


def _from_environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        state = "not set" if value is None else "empty"
        raise ConfigError(f"env: the variable {name} is {state}", hint="Set it for the kernel, or give another SOURCE")
    return _text(value, f"env: the variable {name}")


def _from_keyring(service: str, user: str) -> str:
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise ConfigError("keyring: the package keyring is not installed", hint=KEYRING_LINE) from None
    try:
        value: str | None = keyring.get_password(service, user)
    except keyring.errors.NoKeyringError:
        raise ConfigError("keyring: this system has no keyring", hint="Give env:, cmd: or file:") from None
    except Exception as error:
        # Backends raise errors of their own: a locked keyring, no D-Bus.
        what = f"keyring: it could not be read ({type(error).__name__})"
        raise ConfigError(what, hint="Unlock it, and run the line again") from error
    if not value:
        raise ConfigError("keyring: it has no such entry", hint="Store it: keyring set SERVICE USER")
    return _text(value, "keyring: the entry")


def _from_command(command: str) -> str:
    """The first line that a shell command prints; on time-out or Ctrl-C its whole process group is killed."""
    process = subprocess.Popen(  # noqa: S602  the user's own command, documented as one for the shell
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=os.name == "posix",
    )
    output, complaints = bytearray(), bytearray()
    # Threads, since a daemon left behind by the command may keep the pipes open long after its end.
    readers = [
        Thread(target=_drain, args=(process.stdout, output, slice(0, LIMIT)), daemon=True),
        Thread(target=_drain, args=(process.stderr, complaints, slice(-4096, None)), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        code = process.wait(COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"cmd: the command gave no answer within {COMMAND_SECONDS:g} s",
            hint="It has no terminal to ask anyone: sign in before, in a terminal of your own",
        ) from None
    finally:
        if process.poll() is None:
            _kill(process)
    # What it printed before it ended is in the pipes already; their end may be far.
    readers[0].join(1.0)
    first = bytes(output).partition(b"\n")[0]
    if code:
        readers[1].join(1.0)
        why = _last_line(bytes(complaints), first)
        raise ConfigError(f"cmd: the command ended with code {code}{why}", hint="Try it in a terminal")
    return _first_line(first, "cmd: what the command printed")


def _drain(stream: IO[bytes], into: bytearray, kept: slice) -> None:
    with stream:
        while chunk := os.read(stream.fileno(), 65536):
            into[:] = (into + chunk)[kept]


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass
    process.wait(5)


def _last_line(complaints: bytes, first: bytes) -> str:
    """The last line of standard error, printable; nothing where it repeats what went to standard output."""
    lines = complaints.decode("utf-8", "replace").strip().splitlines()
    line = "".join(character for character in lines[-1] if character.isprintable())[:200] if lines else ""
    said = first.decode("utf-8", "replace").strip()
    return f": {line}" if line and not (said and said in line) else ""


def _from_file(name: str) -> str:
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            # The rights of the file that was opened: what the name stands for may change meanwhile.
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError("file: it is not a regular file", hint="Give the path of a file of your own")
            if os.name == "posix" and mode & 0o077:
                raise ConfigError("file: others may read it", hint="Run chmod 600 on it")
            content = file.read(LIMIT)
    except OSError as error:
        # Not the error's own text: it holds the path.
        raise ConfigError(
            f"file: {(error.strerror or type(error).__name__).lower()}",
            hint="Give the path of a file that you can read",
        ) from None
    return _first_line(content, "file: its content")


def _first_line(data: bytes, what: str) -> str:
    try:
        line = data.decode("utf-8-sig").partition("\n")[0].removesuffix("\r")
    except UnicodeDecodeError:
        # Its text would show the bytes.
        raise ConfigError(f"{what} is not UTF-8 text") from None
    if not line:
        raise ConfigError(f"{what} has an empty first line", hint="The secret is to stand in the first line")
    return line


def _text(value: str, what: str) -> str:
    """The plain text, once it is sure that it can be encoded (the environment may hold any bytes)."""
    plain = str.__str__(value)
    try:
        plain.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{what} is not UTF-8 text") from None
    return plain
