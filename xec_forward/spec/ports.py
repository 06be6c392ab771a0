"""PORT words of a Kubernetes port-forward. Ground floor, no I/O.

    PORT    = [NAME "="] [LOCAL ":"] FAR
    LOCAL   = 0 to 65535 | ""                  0 and "": any free port
    FAR     = 1 to 65535 | a port's name       of the service, or of the pod's container
    NAME    = a Python identifier

It is kubectl's grammar. LOCAL left out is the far port if it can be bound, else any; before a name, whose number
nobody knows yet, it is any.
"""

from __future__ import annotations

import re

from ..errors import SpecError
from .grammar import Endpoint, Forward, Kind, check_name
from .parts import URL
from .resource import Resource, resource_word
from .words import quote

__all__ = ["check_port_name", "parse_port"]

# A service's port is named by an RFC 1123 label; a container's, in at most 15 characters (RFC 6335), is one too.
_PORT_NAME = re.compile(r"(?=[0-9-]*[a-z])[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_NAMED = re.compile(r"([^=:/?#@\[\]]*)=(.*)", re.DOTALL)
_EXAMPLES = "5432, 15432:5432, :5432 or 8080:http"


def parse_port(word: str, resource: Resource) -> Forward:
    """Read a PORT of a resource.

    >>> parse_port("web=8080:http", Resource.of("svc/api")).connect
    Endpoint(host='svc/api', port=None, path='', port_name='http')

    Raises:
        SpecError: the word is malformed.
    """
    named = _NAMED.fullmatch(word)
    name = check_name(named[1]) if named else ""
    rest = named[2] if named else word
    local, colon, far = rest.rpartition(":")
    if ":" in local or not far or not word.isprintable() or re.search(r"[\s/@\[\]]", rest):
        raise _no_port(word, rest, resource)
    if not re.fullmatch("[0-9]{0,5}", local) or int(local or 0) > 65535:
        backwards = _PORT_NAME.fullmatch(local) and re.fullmatch("[0-9]{1,5}", far)
        fix = f"Write {far}:{local}: the local port stands first" if backwards else f"Write {_EXAMPLES}"
        raise SpecError(
            f"{quote(word)}: {quote(local)} stands where the local port is expected: a number from 0 to 65535", hint=fix
        )
    if re.fullmatch("[0-9]+", far):
        if len(far) > 5 or not 1 <= int(far) <= 65535:
            raise SpecError(f"{quote(word)}: the far port is a number from 1 to 65535", hint=f"Write {_EXAMPLES}")
        listen = Endpoint(port=int(local or 0)) if colon else Endpoint()
        return Forward(Kind.LOCAL, listen, Endpoint(str(resource), int(far)), name)
    return Forward(
        Kind.LOCAL,
        Endpoint(port=int(local or 0)),
        Endpoint(str(resource), port_name=check_port_name(far, quote(word))),
        name,
    )


def check_port_name(name: str, where: str) -> str:
    """A port's name as Kubernetes has them.

    Args:
        where: what it was read from, for the error.

    Raises:
        SpecError: it is none.
    """
    if _PORT_NAME.fullmatch(name):
        return name
    lower = name.lower()
    fix = f"Write {lower}: such names are in lower case" if _PORT_NAME.fullmatch(lower) else f"Write {_EXAMPLES}"
    raise SpecError(f"{where}: {quote(name)} is neither a port's number nor its name", hint=fix)


def _no_port(word: str, rest: str, resource: Resource) -> SpecError:
    """Why a word that has not the shape of a PORT has not, as far as that can be guessed."""
    where = quote(word)
    if URL.match(rest):
        return SpecError(f"{where}: a URL stands where a PORT is expected", hint="Write 5432 --dsn URL")
    if "/" in rest and (found := resource_word(rest)):
        return SpecError(f"{where} stands where a PORT is expected", hint=f"RESOURCE comes first: {found} 5432")
    # Not guessed which is which: kubectl has no such form.
    match rest.split(":"):
        case [address, local, far] if not re.search(r"[\s/@\[\]]", rest) and not re.fullmatch("[0-9]*", address):
            if re.fullmatch("[0-9]+", address.replace(".", "")) or address in ("localhost", "*"):
                fix = f"Write {local}:{far} --local-interface {address}"
            else:
                fix = "Write LOCAL:FAR; where it leads to, RESOURCE says"
        case [local, host, far] if local and far and re.search("[A-Za-z.]", host):
            fix = f"Write {local}:{far}; where it leads to, RESOURCE says ({resource})"
        case _:
            fix = f"Write {_EXAMPLES}"
    return SpecError(f"{where} is no PORT", hint=fix)
