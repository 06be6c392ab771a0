"""Names that a forward can have in a notebook. Ground floor, no I/O."""

from __future__ import annotations

import builtins
import functools
import ipaddress
import keyword
import re
import unicodedata

__all__ = ["first_label", "identifier", "is_address", "is_loopback", "path_label"]

# What IPython and its users keep in every namespace, beside Python's builtins.
_TAKEN = frozenset(dir(builtins)) | {"In", "Out", "get_ipython", "display", "exit", "quit"}


def is_address(host: str) -> bool:
    """Whether a host is an IPv4 or IPv6 address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=256)  # each client is asked about, and most come from one address
def is_loopback(host: str) -> bool:
    """Whether it is an address that only the machine itself can reach."""
    return is_address(host) and ipaddress.ip_address(host).is_loopback


def first_label(host: str) -> str:
    """A host name's first label; an address as it is."""
    return host if is_address(host) else host.partition(".")[0]


def path_label(path: str) -> str:
    """What tells a unix socket from others: the last part of its path."""
    return path.rpartition("/")[2].removesuffix(".sock")


def identifier(text: str) -> str:
    """An identifier that resembles `text` and is no keyword, no builtin, and none of IPython's own names.

    >>> identifier("my-db"), identifier("class"), identifier("10.0.0.5")
    ('my_db', 'class_', 'host_10_0_0_5')
    """
    name = re.sub(r"\W+", "_", unicodedata.normalize("NFKC", text).lower()).strip("_")
    # No leading underscore: `_3` is IPython's output 3, and completion hides names that have one.
    if not name.isidentifier():
        name = f"host_{name}" if name and f"host_{name}".isidentifier() else "tunnel"
    return f"{name}_" if keyword.iskeyword(name) or name in _TAKEN else name
