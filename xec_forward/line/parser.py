"""A whole line of `%forward` or `%k8s_forward`, from words to one frozen dataclass. Ground floor, no I/O.

    line    = OPEN | "--close" NAME ... | "--close-all" | "--reconnect" NAME ... | "--help" | (nothing: the list)
            | "--panel" | "--doctor" OPEN
    OPEN    = TARGET and any number of SPECs, -L SPEC, -R REMOTE, -D PORT and options, in any order
            | RESOURCE or -l SELECTOR, any number of PORTs, and options, in any order      (%k8s_forward)
            | "@" NAME, and what goes with its TARGET or RESOURCE; several of them, and options      (`profile`)

The first word that is no option is TARGET (RESOURCE), the others are SPECs (PORTs); `-L`, `-R` and `-D` keep their
place among them. Options are spelled in full (`--pass` is not `--password`), take their value as `--opt VALUE` or
`--opt=VALUE`, and end at `--`; short ones may stand together, as in `-NTL 5432:pg.vpc:5432`. A value that begins
with two dashes, or is itself an option, needs the `=`.

argparse is not used: it sorts optional arguments apart from the positional ones, so that -R loses its place, it
repeats in its errors whatever it does not understand, and it leaves by SystemExit. Here every error is a
SpecError of one line, and neither the value of a SOURCE option nor user-info is ever part of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ..errors import SpecError
from ..options import ClusterTarget, CommandTarget, Service, SshTarget, Target, TunnelOptions
from ..source import Source
from ..spec import Forward
from .cluster import read_cluster, read_ports
from .dialect import KUBERNETES, SSH, Dialect
from .flags import Section, require_addresses
from .profile import Chosen, Profile, at_words
from .reader import Action, Entry, Reader
from .usage import help_text

__all__ = ["Action", "Line", "parse_line", "parse_list", "split"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was understood.

    Attributes:
        action: what to do.
        names: the tunnels to close or to reconnect.
        target: where to, for OPEN and DOCTOR; its `passphrase` and `ssh_password` are references into `sources`.
        forwards: what to open (or to examine), as ordered on the line; empty for the first line of a list.
        tunnel, service: the options; `service.password` is a reference into `sources`.
        notes: what was ignored, for the card.
        sources: reference -> SOURCE.
        said: the options that it says itself, or its profile does: dataclass and field.
        text: the help, for HELP.
        members: the lines of several profiles, each with a target of its own; `target` is then the first's, `forwards`
            those of all, `service` what concerns them together.
    """

    action: Action
    names: tuple[str, ...] = ()
    target: Target | None = None
    forwards: tuple[Forward, ...] = ()
    tunnel: TunnelOptions = field(default_factory=TunnelOptions)
    service: Service = field(default_factory=Service)
    notes: tuple[str, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    said: frozenset[tuple[Section, str]] = frozenset()
    text: str = ""
    members: tuple[Line, ...] = ()

    @property
    def dialect(self) -> Dialect:
        """Whose line it is, as far as its target tells."""
        return KUBERNETES if isinstance(self.target, ClusterTarget) else SSH

    def require_addresses(self) -> None:
        """Check that what was said of addresses can be held. Raises SpecError."""
        if (TunnelOptions, "allowed_ips") in self.said:
            require_addresses(self.forwards, "--allowed-ips")

    def require_forwards(self) -> None:
        """Check that an OPEN has something to open: a line of its own needs a SPEC, the head of a list does not.

        Raises:
            SpecError: it has no SPEC, or one that its options do not fit.
        """
        self.require_addresses()
        if self.action is not Action.OPEN or self.forwards:
            return
        if self.dialect is KUBERNETES:
            raise SpecError("RESOURCE is missing: nothing says what to open", hint=f"Write {_example(KUBERNETES)}")
        raise SpecError("a SPEC is missing: nothing says what to open", hint="Write %forward bastion pg.vpc:5432")


def split(text: str) -> list[str]:
    """Split a line into words as a POSIX shell does; a trailing ` # comment` is left out.

    Raises:
        SpecError: a quote is not closed, or a backslash stands at the end. The line is not repeated: what an
            open quote takes in may be a SOURCE.
    """
    code, unclosed = _without_comment(text)
    if unclosed == "\\":
        raise SpecError("a backslash is the last character", hint="Leave it out, or write it twice")
    if unclosed:
        raise SpecError(
            f"a quote ({unclosed}) is not closed", hint=f"Close it, or write \\{unclosed} for the character"
        )
    return shlex.split(code)


def _without_comment(text: str) -> tuple[str, str]:
    """The line before its comment, and the quote or backslash that is left open at its end.

    shlex would take the # of `cmd:pass#1` for a comment; in a shell one begins only a word.
    """
    quoted, at_start, position = "", True, 0
    while position < len(text):
        character = text[position]
        if quoted:
            if character == quoted:
                quoted = ""
            elif character == "\\" and quoted == '"':
                position += 1
        elif character == "\\":
            position += 1
            if position == len(text):
                return text, character
        elif character in "'\"":
            quoted = character
        elif character == "#" and at_start:
            return text[:position], ""
        at_start = not quoted and character in " \t\r\n"
        position += 1
    return text, quoted


def parse_line(
    words: Sequence[str],
    targets: Mapping[str, SshTarget | ClusterTarget] = MappingProxyType({}),
    dialect: Dialect = SSH,
    *,
    head: bool = False,
    profiles: Callable[[str], Chosen] | None = None,
) -> Line:
    """Read the words of a line.

    Args:
        words: as `split` makes them.
        targets: words that stand for targets made in Python; such a target is used as it is.
        dialect: whose line it is.
        head: it is the first line of a cell: that of %%k8s_forward may be empty.
        profiles: says what `@NAME` stands for; it may be of either kind, whatever the dialect.

    Raises:
        SpecError: a word is malformed or unknown, or words do not go together. What `profiles` raises.
    """
    if not words and not (head and dialect is KUBERNETES):
        return Line(Action.LIST)
    names, rest = at_words(words)
    if names and profiles is not None and not _ON_TUNNELS.intersection(words):
        return _profiled([profiles(name) for name in dict.fromkeys(names)], rest, targets)
    reader = Reader(words, dialect)
    reader.read()
    return _line(reader, targets, dialect)


_ON_TUNNELS = {f"--{action}" for action in Action} - {f"--{Action.DOCTOR}", f"--{Action.HELP}"}


def _profiled(chosen: list[Chosen], words: list[str], targets: Mapping[str, SshTarget | ClusterTarget]) -> Line:
    """The line of profiles. Raises SpecError."""
    found = {profile.name: profile for each in chosen for profile in each.profiles}
    group = chosen[0].group if len(chosen) == 1 else ""
    first = next(iter(found.values()))
    if len(found) == 1 and not group:
        return _line(first.reader(words), targets, first.dialect, first)
    own = Reader(words, first.dialect)
    own.read()
    if own.action is not Action.OPEN:
        names = " or ".join(f"@{name}" for name in found)
        if own.action is Action.HELP:
            return Line(Action.HELP, text=help_text(dialect=first.dialect))
        raise SpecError(f"--{own.action} takes one profile", hint=f"Write {names}")
    if own.entries:
        raise SpecError("a SPEC stands beside several profiles", hint="Give it to one of them, in a line of its own")
    members = tuple(_member(profile, words, targets) for profile in found.values())
    service = replace(Service(), **own.given[Service])
    return Line(
        Action.OPEN,
        target=members[0].target,
        forwards=tuple(forward for member in members for forward in member.forwards),
        service=replace(service, name=service.name or group),
        notes=own.notes(),
        said=_said(own),
        sources={reference: source for member in members for reference, source in member.sources.items()},
        members=members,
    )


def _member(profile: Profile, words: list[str], targets: Mapping[str, SshTarget | ClusterTarget]) -> Line:
    """The line of one profile among several: `--as` names them all together. Raises SpecError."""
    try:
        reader = profile.reader(words)
        reader.given[Service]["name"] = profile.given.get(Service, {}).get("name", "")
        return replace(_line(reader, targets, profile.dialect, profile), notes=())
    except SpecError as error:
        problem = error
    raise SpecError(problem.message, hop=f"@{profile.name}", hint=problem.hint)


def _line(
    reader: Reader,
    targets: Mapping[str, SshTarget | ClusterTarget],
    dialect: Dialect,
    profile: Profile | None = None,
) -> Line:
    """The line whose words a reader has gone through. Raises SpecError."""
    if reader.action is Action.HELP:
        return Line(Action.HELP, text=help_text(dialect=dialect))
    if reader.action not in (Action.OPEN, Action.DOCTOR):
        return _act(reader, dialect)
    _resolve_proxy(reader, targets)
    if dialect is KUBERNETES:
        target: Target
        target, entries = read_cluster(reader, targets)
        forwards = read_ports(entries)
    else:
        target, entries = _target(reader, targets)
        forwards = tuple(word.forward() for word in entries)
    service = replace(Service(), **reader.given[Service])
    if profile is not None:
        service = replace(service, name=profile.called(service.name, forwards))
    line = Line(
        reader.action,
        target=target,
        forwards=forwards,
        tunnel=replace(TunnelOptions(), **reader.given[TunnelOptions]),
        service=service,
        notes=reader.notes(),
        sources=reader.sources,
        said=_said(reader),
    )
    _check_names(line.forwards, line.service.name, dialect)
    line.require_addresses()
    return line


def _said(reader: Reader) -> frozenset[tuple[Section, str]]:
    return frozenset((section, name) for section, given in reader.given.items() for name in given)


def _example(dialect: Dialect) -> str:
    return f"{dialect.magic} {dialect.example}"


def _resolve_proxy(reader: Reader, targets: Mapping[str, SshTarget | ClusterTarget]) -> None:
    """Hops of --proxy that stand for targets made in Python. Raises SpecError."""
    for given in reader.given.values():
        hops: list[SshTarget] = []
        for hop in given.get("proxy", ()):
            made = targets.get(hop.host, hop)
            if isinstance(made, ClusterTarget):
                raise SpecError("--proxy takes SSH hosts, not a cluster", hint="Write --proxy bastion")
            hops += [hop] if made is hop else [*made.proxy, replace(made, proxy=())]
        if hops:
            given["proxy"] = tuple(hops)


def parse_list(head: Line, body: str, dialect: Dialect = SSH) -> tuple[Line, ...]:
    """Read a cell in which each line is one SPEC, or RESOURCE PORT ..., with its own options.

    Args:
        head: the cell's first line; its target holds for all, its options where a line says nothing else, but
            for `--as`, which names the group.
        body: the cell's other lines. Empty ones and comments count for nothing.
        dialect: whose lines they are.

    Returns:
        One OPEN for each line.

    Raises:
        SpecError: its hop is the line as numbered in the cell, where `head` is line 1.
    """
    if head.action is not Action.OPEN or head.target is None or head.members:
        after = "options of the cluster alone" if dialect is KUBERNETES else "a TARGET"
        raise SpecError(
            f"a list of {dialect.word}s follows {after}",
            hint=f"Write %{dialect.magic} {dialect.head}, then one {dialect.word} in each line",
        )
    if head.forwards:
        raise SpecError(
            f"the first line has {dialect.word}s of its own",
            hint=f"Write %{dialect.magic} {dialect.head}, and each {dialect.word} in a line of the cell",
        )
    lines: list[Line] = []
    names: list[str] = []
    for number, text in enumerate(body.split("\n"), 2):
        try:
            words = split(text)
            if not words:
                continue
            lines.append(_list_line(head, words, dialect))
            own = [lines[-1].service.name, *(forward.name for forward in lines[-1].forwards)]
            for name in dict.fromkeys(filter(None, own)):
                if name in names:
                    raise _twice(name, dialect)
                names.append(name)
        except SpecError as error:
            problem = error
        else:
            continue
        raise SpecError(problem.message, hop=f"line {number}", hint=problem.hint)
    if not lines:
        example = "svc/postgres 5432 --as pg" if dialect is KUBERNETES else "sales=postgresql://ana@pg.vpc/sales"
        raise SpecError(f"the cell has no {dialect.word}", hint=f"Write one in each line: {example}")
    return tuple(lines)


def _twice(name: str, dialect: Dialect) -> SpecError:
    return SpecError(f"the name {name} is given twice", hint=f"Give each {dialect.word.split()[-1]} a name of its own")


def _list_line(head: Line, words: list[str], dialect: Dialect) -> Line:
    reader = Reader(words, dialect, listed=True)
    reader.read()
    if reader.action is Action.HELP:
        raise SpecError("--help stands alone", hint=f"Write {dialect.magic} --help")
    if dialect is KUBERNETES:
        forwards = read_ports(reader.entries)
        if not forwards:
            raise SpecError("RESOURCE PORT is expected in each line", hint="Write svc/postgres 5432 and its options")
    else:
        if len(reader.entries) != 1:
            hint = "Write a SPEC and its options; TARGET is in line 1"
            raise SpecError("one SPEC is expected in each line", hint=hint)
        forwards = (reader.entries[0].forward(),)
    service = replace(head.service, **{"name": "", **reader.given[Service]})
    if service.name and len(forwards) > 1:
        raise SpecError("--as names one tunnel, and this line opens several", hint="Write NAME= in front of each PORT")
    _check_names(forwards, service.name, dialect)
    line = Line(
        Action.OPEN,
        target=head.target,
        forwards=forwards,
        tunnel=replace(head.tunnel, **reader.given[TunnelOptions]),
        service=service,
        notes=reader.notes(),
        sources={**head.sources, **reader.sources},
        said=head.said | _said(reader),
    )
    line.require_addresses()
    return line


def _target(reader: Reader, targets: Mapping[str, SshTarget | ClusterTarget]) -> tuple[Target, list[Entry]]:
    """The target with its options, and the entries after it is taken out."""
    if reader.given[CommandTarget]:
        return _command(reader), reader.entries
    plain = [entry for entry in reader.entries if entry.option == ""]
    if not plain:
        raise SpecError("TARGET is missing: nothing says where to", hint="Write %forward bastion 5432:pg.vpc:5432")
    first, given = plain[0], reader.given[SshTarget]
    rest = [entry for entry in reader.entries if entry is not first]
    if made := targets.get(first.word):
        if isinstance(made, ClusterTarget):
            raise SpecError("a cluster stands where TARGET is expected", hint="Write it on a %k8s_forward line")
        if given:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise SpecError(f"{names}: a target made in Python is used as it is", hint="Give it to xf.ssh(...) instead")
        return made, rest
    target = first.target()
    for name, option in (("username", "-l/--username"), ("port", "-p/--port")):
        if getattr(target, name) and name in given and given[name] != getattr(target, name):
            raise SpecError(f"TARGET and {option} say different things", hint="Leave one of them out")
    return replace(target, **given), rest


def _command(reader: Reader) -> CommandTarget:
    """The command that stands in the place of a host. Its own login is its own affair."""
    if given := reader.given[SshTarget]:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise SpecError(f"{names} and --command do not go together", hint="Give it to the command")
    target = CommandTarget(**reader.given[CommandTarget])
    if "%p" not in target.command:
        raise SpecError("--command: its text has no %p", hint="Write %p where the command takes its local port")
    if any(entry.option not in ("", "-L") for entry in reader.entries):
        raise SpecError("--command opens local forwards only", hint="Leave -R and -D out")
    return target


def _check_names(forwards: tuple[Forward, ...], name: str, dialect: Dialect) -> None:
    names = [forward.name for forward in forwards if forward.name]
    for each in names:
        if names.count(each) > 1:
            raise _twice(each, dialect)
    if name and len(forwards) == 1 and names and names[0] != name:
        raise SpecError(f"--as {name} and {names[0]}= name the same tunnel", hint="Leave one of them out")


def _act(reader: Reader, dialect: Dialect) -> Line:
    """The line of an action on tunnels."""
    action, option = reader.action, f"--{reader.action}"
    odd = [entry.option for entry in reader.entries if entry.option]
    odd += [f"--{name.replace('_', '-')}" for given in reader.given.values() for name in given if name != "quiet"]
    if odd:
        odd = ["--as" if name == "--name" else name for name in odd]
        raise SpecError(f"{', '.join(odd)} and {option} do not go together", hint="Give them in lines of their own")
    if action is Action.PANEL and reader.entries:
        raise SpecError("--panel stands alone", hint=f"Write {dialect.magic} --panel")
    names = tuple(entry.tunnel_name(option) for entry in reader.entries)
    if action is Action.CLOSE_ALL and names:
        raise SpecError("--close-all takes no names", hint=f"Write --close {' '.join(names)}, or --close-all alone")
    if action not in (Action.CLOSE_ALL, Action.PANEL) and not names:
        raise SpecError(f"{option} needs the name of a tunnel", hint=f"{dialect.magic} alone lists them")
    return Line(action, names=names, service=replace(Service(), **reader.given[Service]))
