"""Who may use a listener: the address a client comes from, and (on loopback) the account it belongs to.

On a shared host everybody can connect to a loopback port. A client there is a socket of this machine, so Linux can
tell its owner (`sock_diag`): a socket of another account is turned away, before any channel opens. Unix sockets are
guarded by the rights of their file. Where the owner cannot be told the tunnel says so.
"""

from __future__ import annotations

import functools
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ForwardError, LimitError, ProhibitedError
from ..spec import is_loopback
from . import descriptors
from .sock_diag import query, tells_owners

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Guard:
    """The rule of one listener.

    Attributes:
        networks: where clients may come from; empty: anywhere that can reach the listener.
        owner: the account (uid) that a client on loopback must belong to; None: any.
    """

    networks: tuple[Network, ...] = ()
    owner: int | None = None

    @classmethod
    def of(cls, allowed_ips: Sequence[str], guard: str) -> Guard:
        """From the options: addresses and CIDRs (already checked), and `uid` or `off`."""
        same_user = guard != "off" and hasattr(os, "getuid")
        return cls(tuple(_network(text) for text in allowed_ips), os.getuid() if same_user else None)

    def remark(self, local_host: str) -> str:
        """What the user should know of it, or "". To be asked before the listener takes anybody.

        Raises:
            LimitError: it cannot be found out, because no file may be opened any more.
        """
        try:
            guarded = self.owner is not None and tells_owners()
        except OSError as error:
            raise LimitError(f"whose a connection is cannot be told: {error.strerror}", hint=descriptors.HINT) from None
        if not is_loopback(local_host):
            return ""
        if self.owner is None:
            return "every user of this machine can use this port: the guard is off"
        if not guarded:
            return "other users of this machine are not kept out: this system does not tell whose a connection is"
        return ""

    def outside(self, host: str) -> ForwardError | None:
        """Why nobody from this address is let in, or None. A remote forward's is what the target says it is."""
        if not self.networks:
            return None
        try:
            address = _unmapped(host)
        except ValueError:
            where = "an address that is not told"
        else:
            if any(address in network for network in self.networks if network.version == address.version):
                return None
            where = str(address)
        return ProhibitedError(f"Rejected connection from {where}", hint="--allowed-ips says who may connect")

    def refuses(self, peer: tuple[str, int], own: tuple[str, int]) -> ForwardError | None:
        """Why a TCP client is turned away, or None.

        Args:
            peer: the client's address and port; own: those of our end.
        """
        if (error := self.outside(peer[0])) is not None:
            return error
        address = _unmapped(peer[0])
        # Where owners cannot be told at all everybody is let in, which was remarked on.
        if self.owner is not None and address.is_loopback and _guarded():
            found = query(peer, own)
            # One that has left already is not harmless: what it sent is here, waiting to be read.
            if found is None or not (found.uid == self.owner or (found.uid == 0 and found.inode)):
                if found is None:
                    whose = "whose it is could not be told this time"
                elif found.uid <= 0:
                    whose = "it has left already, and whose it was cannot be told any more"
                else:
                    whose = f"it is of another user (uid {found.uid})"
                return ProhibitedError(
                    f"Rejected connection from {address}: {whose}",
                    hint="--guard off lets every user of this machine in",
                )
        return None


OPEN_TO_ALL = Guard()


def _guarded() -> bool:
    """Whether owners are told here, or it cannot be found out now."""
    try:
        return tells_owners()
    except OSError:
        return True


def _network(text: str) -> Network:
    """An address or a CIDR; one of IPv4-mapped addresses is the IPv4 network in it, as its clients are."""
    network = ipaddress.ip_network(text, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


@functools.lru_cache(maxsize=256)  # of each client, and most come from one address
def _unmapped(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address; `::ffff:192.0.2.1` is the IPv4 address in it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
