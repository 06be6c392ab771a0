"""The proxy that the environment names, by the rules of Go's programs (golang.org/x/net/http/httpproxy).

HTTPS_PROXY is for a server of https://, HTTP_PROXY for one of http://; the name in capitals counts before the other.
NO_PROXY lists what is reached without one:

    *                                  everything
    10.0.0.0/8, fd00::/8               addresses of a network
    10.1.2.3, fd00::1                  an address
    corp.example                       a name, and all below it
    .corp.example, *.corp.example      all below it
    corp.example:6443, [fd00::1]:6443  the same, for that port alone

No name is looked up for it, and loopback is never gone to through a proxy. (Python's own, in urllib.request, knows no
networks.)
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping


def proxy_for(scheme: str, host: str, port: int, environment: Mapping[str, str] = os.environ) -> str:
    """The proxy for a server, as it is written; "" for none.

    >>> proxy_for("https", "10.2.3.4", 6443, {"HTTPS_PROXY": "proxy:3128", "NO_PROXY": "localhost, 10.0.0.0/8"})
    ''
    >>> proxy_for("https", "api.corp.example", 6443, {"https_proxy": "proxy:3128", "no_proxy": "api.corp.example:443"})
    'proxy:3128'
    """
    proxy = _variable(environment, f"{scheme}_proxy")
    return "" if not proxy or _bypassed(host.lower(), port, _variable(environment, "no_proxy")) else proxy


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name.upper()) or environment.get(name) or ""


def _bypassed(host: str, port: int, listed: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry, host, address, port) for entry in map(str.strip, listed.lower().split(",")) if entry)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _matches(entry: str, host: str, address: _Address | None, port: int) -> bool:
    """Whether an entry of NO_PROXY means the server."""
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, for_port = _split(entry)
    if for_port and for_port != str(port):
        return False
    if (listed := _address(name)) is not None or address is not None:
        return listed == address
    below = name.removeprefix("*")
    if below.startswith("."):
        return len(below) > 1 and host.endswith(below)
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split(entry: str) -> tuple[str, str]:
    """An entry's name or address, and its port or ""."""
    if _address(entry) is not None:  # of IPv6 it has colons of its own
        return entry, ""
    name, _, port = entry.rpartition(":") if ":" in entry.rpartition("]")[2] else (entry, "", "")
    return name.removeprefix("[").removesuffix("]"), port


def _address(text: str) -> _Address | None:
    """The address that a text is, IPv4 where it is one in IPv6's form."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
