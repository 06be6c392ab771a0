"""What an error tells: what led to it, what it says, and the addresses that it names or that were being called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

# A host and a port; the host is "" where none stands beside the port.
Address = tuple[str, int]

_HOST = r"\[[0-9A-Fa-f:.%]+\]|[\w.-]+"
_HOST_PORT = re.compile(rf"({_HOST}):(\d{{1,5}})\b")
_PORT = re.compile(r"(?i)\bport\W{1,4}(\d{1,5})\b")
# What is a host beside a port, rather than a word of the sentence: in quotes, in brackets, or behind `host`; or looks
# like one.
_BESIDE = re.compile(
    r"(?i)[\"'(]([\w.:-]+)[\"')]|\bhost(?:\s*[=:](?!:))?\s*[\"']?([\w.:-]+)|\b(localhost)\b|((?:\d{1,3}\.){3}\d{1,3})"
    r"|(?<![\w:])([0-9a-f]*:[0-9a-f:]*:[0-9a-f]*)|\b([a-z][\w-]*(?:\.[\w-]+)*\.[a-z][\w-]*)\b"
)
_BEHIND = re.compile(r"(?i)\W{0,2}(?:on|of|at)\s+(?:host\s+)?[\"']?([\w.:-]*\w)")
# A host stands at most so far in front of its port, characters.
_NEAR = 60
_MASK = "***"
# As much of an error as is looked at.
_FRAMES, _LOCALS = 100, 200


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error, what led to it, and the errors that it carries as arguments, as requests and urllib3 do."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        context = None if each.__suppress_context__ else each.__context__
        waiting += [each.__cause__, context, *each.args, _attribute(each, "reason"), _attribute(each, "orig")]


def _attribute(error: BaseException, name: str) -> object:
    """None where it has no such attribute."""
    try:
        return getattr(error, name, None)
    except Exception:
        return None  # a property is another's code


def text_of(error: BaseException) -> str:
    """What it says, and the address it was asked for (requests and httpx keep it beside)."""
    try:
        url = getattr(getattr(error, "request", None), "url", "")
        return f"{error} {url}"
    except Exception:
        return ""  # another's code


def named(text: str) -> Iterator[Address]:
    """The addresses that a text names; one for each host that stands beside a port."""
    for found in _HOST_PORT.finditer(text):
        yield found[1].strip("[]"), int(found[2])
    last = 0
    for found in _PORT.finditer(text):
        before = text[max(last, found.start() - _NEAR) : found.start()]
        hosts = ["".join(filter(None, each)) for each in _BESIDE.findall(before)]
        if not hosts and (behind := _BEHIND.match(text, found.end())):
            hosts = [behind[1]]
        for host in hosts or [""]:
            yield host, int(found[1])
        last = found.end()


def called(chain: Iterable[BaseException]) -> Iterator[Address]:
    """The addresses that were being connected to."""
    for names in _variables(chain):
        for value in names.values():
            if type(value) is tuple and len(value) >= 2 and type(value[0]) is str and type(value[1]) is int:
                yield value[0], value[1]


def masked(chain: Iterable[BaseException]) -> Iterator[Address]:
    """The addresses at which the mask of a connection string was a password."""
    for names in _variables(chain):
        for value in names.values():
            if type(value) is str and f":{_MASK}@" in value:
                found = re.search(re.escape(f":{_MASK}@") + rf"({_HOST})?:(\d{{1,5}})", value)
                if found:
                    yield (found[1] or "").strip("[]"), int(found[2])
            elif isinstance(value, dict) and value.get("password") == _MASK:
                port = str(value.get("port", ""))
                if port.isdecimal():
                    yield str(value.get("hostaddr") or value.get("host") or ""), int(port)


def _variables(chain: Iterable[BaseException]) -> Iterator[dict[str, Any]]:
    for frame in islice(_frames(chain), _FRAMES):
        yield dict(islice(frame.f_locals.items(), _LOCALS))


def _frames(chain: Iterable[BaseException]) -> Iterator[FrameType]:
    """The functions that were being called; not the cell itself, whose variables are the notebook's."""
    for error in chain:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_locals is not trace.tb_frame.f_globals:
                yield trace.tb_frame
            trace = trace.tb_next
