"""What tells the line of `%k8s_forward` from that of `%forward`. Ground floor, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import SpecError
from ..options import ClusterTarget, CommandTarget, SshTarget
from ..spec.words import quote
from .flags import CLUSTER_FLAGS, FLAGS, Flag, Section

__all__ = ["KUBERNETES", "SSH", "Dialect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the two kinds of line.

    Attributes:
        magic: its magic, `program` the same on the command line.
        flags: spelling -> flag.
        targets: the dataclasses of options that belong to the target, and in a cell to its first line.
        words: the options whose argument is a word of the line in its own place.
        ignored: the options that mean nothing here, and are accepted with a note.
        word: what a word that is opened is called; `example`: a line that opens one.
        head: the first line of a cell that lists several.
    """

    magic: str
    program: str
    flags: Mapping[str, Flag]
    targets: tuple[Section, ...]
    words: tuple[str, ...]
    ignored: tuple[str, ...]
    word: str
    example: str
    head: str

    @property
    def sections(self) -> tuple[Section, ...]:
        """The dataclasses that its options are fields of."""
        return tuple(dict.fromkeys([*(flag.section for flag in self.flags.values()), *self.targets]))

    def unknown(self, spelling: str, others: tuple[str, ...] = ()) -> SpecError:
        """The error for an option that there is none of; it names the nearest, or the magic that has it.

        Args:
            spelling: the option without its value.
            others: spellings beside the flags.
        """
        other = SSH if self is KUBERNETES else KUBERNETES
        if spelling in (*other.flags, *other.words, *other.ignored):
            return SpecError(f"{spelling} belongs to {other.magic}", hint=f"{self.magic} --help lists what it has")
        known = [word for word in (*self.flags, *others) if word.startswith("--")] if spelling.startswith("--") else []
        # An abbreviation first, `--pass`: there are none, and difflib would say --as.
        near = [word for word in known if len(spelling) > 3 and word.startswith(spelling)]
        near = near or get_close_matches(spelling[:40], known, n=1, cutoff=0.7)
        if spelling == "-o" and self is SSH:
            hint = "Say it in ssh_config, or in a file of your own with -F FILE"
        elif near:
            hint = f"Did you mean {' or '.join(near)}? {self.magic} --help lists them all"
        else:
            hint = f"{self.magic} --help lists them all"
        return SpecError(f"this version has no option {quote(spelling)[1:-1]}", hint=hint)


SSH = Dialect(
    magic="%forward",
    program="xec-forward open",
    flags=FLAGS,
    targets=(SshTarget, CommandTarget),
    words=("-L", "-R", "-D"),
    ignored=("-N", "-T", "-f"),
    word="SPEC",
    example="bastion 5432:pg.vpc:5432",
    head="bastion",
)
KUBERNETES = Dialect(
    magic="%k8s_forward",
    program="xec-forward k8s-open",
    flags=CLUSTER_FLAGS,
    targets=(ClusterTarget,),
    words=("-l", "--selector"),
    ignored=(),
    word="RESOURCE PORT",
    example="svc/postgres 5432",
    head="-n production",
)
