"""The hosts that ssh_config names, for completion: read here, since asyncssh has no place in the kernel.

Of each file the names after `Host`, and what it includes (ssh_config(5)); patterns and negations name no host. The
files are ssh's, or the one of `-F`, or of our own variable. A file that cannot be read has no names.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator

from ..paths import SSH_CONFIG_VARIABLE

_USER = "~/.ssh/config"
_SYSTEM = "/etc/ssh/ssh_config"
# A completion is to be there at once: so much is read, and no more.
_MOST_FILES = 64
_LARGEST = 1 << 20  # bytes

_LINE = re.compile(r"\s*([A-Za-z]+)(?:\s*=\s*|\s+)(.*)")


def hosts(named: str = "") -> list[str]:
    """The hosts, in the order of the files.

    Args:
        named: the file that -F names; "none" reads none, "" leaves it to the environment.
    """
    named = named or os.environ.get(SSH_CONFIG_VARIABLE, "")
    if named == "none":
        return []
    files = [named] if named else [_USER, _SYSTEM]
    seen: set[str] = set()
    found = (host for file in files for host in _hosts_of(os.path.expandvars(os.path.expanduser(file)), seen))
    return list(dict.fromkeys(found))


def _hosts_of(path: str, seen: set[str]) -> Iterator[str]:
    """The hosts of a file and of those that it includes, each file once."""
    path = os.path.abspath(path)
    if path in seen or len(seen) >= _MOST_FILES or not os.path.isfile(path):
        return
    seen.add(path)
    try:
        with open(path, "rb") as stream:
            text = stream.read(_LARGEST).decode(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None or found[1].lower() not in ("host", "include"):
            continue
        try:
            words = shlex.split(found[2], comments=True)
        except ValueError:
            continue
        for word in words:
            if found[1].lower() == "include":
                # Relative ones are in ~/.ssh, those of the system's file in /etc/ssh.
                folder = "/etc/ssh" if path.startswith("/etc/ssh/") else os.path.expanduser("~/.ssh")
                for included in sorted(glob.glob(os.path.join(folder, os.path.expanduser(word)))):
                    yield from _hosts_of(included, seen)
            elif not re.search(r"[*?!\s]", word):
                yield word
