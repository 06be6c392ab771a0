"""What went wrong, in our words: from asyncssh's and the system's errors to the tree of `errors`, with the hop named.

explain   while a connection is made
refusal   while a channel is opened (RFC 4254 section 5.1 has the codes, OpenSSH's text tells the rest)
loss      when a connection that was up has gone
"""

from __future__ import annotations

import errno
import re
import socket

import asyncssh

from ....errors import (
    AuthenticationError,
    ConfigError,
    DeadlineError,
    ForwardError,
    LostError,
    NameNotFoundError,
    ProhibitedError,
    RefusedError,
    UnreachableError,
)
from ....spec import Endpoint
from .config import Resolved

_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL}
_AGAIN = "It is dialled again by itself; %forward shows how it goes"
_RESET = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}
# What getaddrinfo says on the far side (gai_strerror of glibc, macOS, the BSDs and musl).
_NAME_FAILURES = (
    "not known",
    "name resolution",
    "no address associated",
    "nodename nor servname",
    "not resolve",
    "non-recoverable failure",
)


def explain(error: Exception, resolved: Resolved) -> ForwardError:
    """Why the connection to `resolved` could not be made."""
    hop, where = resolved.host, resolved.address
    if isinstance(error, ForwardError):
        return _named(error, resolved)
    if isinstance(error, socket.gaierror):
        hint = "Check the name; an alias belongs into ssh_config as Host"
        return NameNotFoundError(f"the name {resolved.hostname} does not resolve", hop=hop, hint=hint)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return ConfigError(f"no common algorithms: {error.reason}", hop=hop, hint="See Ciphers in ssh_config(5)")
    if isinstance(error, asyncssh.ChannelOpenError):
        return refusal(error, Endpoint(resolved.hostname, resolved.port), hop)
    if isinstance(error, asyncssh.DisconnectError):
        return _disconnected(error, resolved)
    if isinstance(error, OSError):
        return _system(error, hop, where)
    if isinstance(error, ValueError):
        return ConfigError(str(error), hop=hop, hint="See ssh_config(5)")
    return LostError(f"the connection to {where} failed: {type(error).__name__}: {error}", hop=hop)


def _named(error: ForwardError, resolved: Resolved) -> ForwardError:
    """What the hop before said of this one's address, under this one's name."""
    if error.hop != resolved.address or resolved.host == resolved.hostname:
        return error
    return type(error)(f"{error.message} (at {resolved.address})", hop=resolved.host, hint=error.hint)


def _disconnected(error: asyncssh.DisconnectError, resolved: Resolved) -> ForwardError:
    hop, where = resolved.host, resolved.address
    if "too many authentication failures" in error.reason.lower():
        hint = "Name the key with -i FILE and set IdentitiesOnly yes: the agent's other keys were tried first"
        return AuthenticationError("too many keys were tried", hop=hop, hint=hint)
    if isinstance(error, asyncssh.ProtocolError | asyncssh.ProtocolNotSupported) and "SSH" in error.reason:
        return RefusedError(f"what answers at {where} does not speak SSH", hop=hop, hint="Check the port")
    if "banner" in error.reason.lower():
        return RefusedError(f"what answers at {where} does not speak SSH", hop=hop, hint="Check the port")
    if isinstance(error, asyncssh.ConnectionLost):
        hint = "Is it an SSH server, and does it accept you? Its log may say why"
        return LostError(f"{where} closed the connection before the login was complete", hop=hop, hint=hint)
    return LostError(f"{where} ended the connection: {error.reason}", hop=hop)


def _system(error: OSError, hop: str, where: str) -> ForwardError:
    number = error.errno
    if number is None:  # several addresses were tried: "Multiple exceptions: [Errno 111] ..."
        found = re.search(r"\[Errno (\d+)\]", str(error))
        number = int(found[1]) if found else 0
    if number == errno.ECONNREFUSED:
        return RefusedError(f"nobody listens at {where}", hop=hop, hint="Is sshd running there, on this port?")
    if number in _UNREACHABLE:
        return UnreachableError(f"there is no way to {where}", hop=hop, hint="Is the network, or the VPN, up?")
    if number == errno.ETIMEDOUT:
        return DeadlineError(f"no answer from {where}", hop=hop, hint="Is the network, or the VPN, up?")
    if number in _RESET:
        hint = "Is it an SSH server, and does it accept you? Its log may say why"
        return LostError(f"{where} broke the connection", hop=hop, hint=hint)
    return UnreachableError(f"no connection to {where}: {error}", hop=hop, hint="Is the network, or the VPN, up?")


def refusal(error: asyncssh.ChannelOpenError, connect: Endpoint, hop: str) -> ForwardError:
    """Why the server at `hop` did not open a channel to `connect`."""
    far, text = str(connect), error.reason.lower()
    if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return ProhibitedError(
            f"forwarding to {far} is not allowed there",
            hop=hop,
            hint="See AllowTcpForwarding and PermitOpen in its sshd_config, or the key's options there",
        )
    if error.code == asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE:
        what = "a unix socket" if connect.path else far
        return ProhibitedError(f"it cannot forward to {what}", hop=hop, hint="Its sshd may be too old, or not OpenSSH")
    if error.code == asyncssh.OPEN_RESOURCE_SHORTAGE:
        return ProhibitedError("it has no room for another channel", hop=hop, hint="Close some clients, or try again")
    if "ssh connection closed" in text:
        return LostError(f"the connection to {hop} was lost", hop=hop)
    if any(words in text for words in _NAME_FAILURES):
        return NameNotFoundError(f"{hop} cannot resolve {connect.host}", hop=far, hint=f"Is that its name on {hop}?")
    if "timed out" in text or "timeout" in text:
        return DeadlineError(f"no answer, as seen from {hop}", hop=far, hint="A firewall may be between the two")
    if "unreachable" in text or "no route" in text:
        return UnreachableError(f"there is no way to it from {hop}", hop=far, hint=f"Can {hop} reach its network?")
    if connect.path:
        return RefusedError(f"nobody listens there, or {hop} may not use it", hop=far, hint="Check the socket's path")
    return RefusedError(f"refused, as seen from {hop}", hop=far, hint="Is the service running, on this port?")


def loss(error: Exception | None, hop: str) -> ForwardError:
    """Why a connection that was up is gone."""
    if isinstance(error, ForwardError):
        return error
    if error is None:
        return LostError("the server ended the connection", hop=hop, hint=_AGAIN)
    if "keepalive" in str(error):
        return LostError("the server no longer answers", hop=hop, hint=_AGAIN)
    text = error.reason if isinstance(error, asyncssh.DisconnectError) else str(error)
    what = f"the connection was lost: {text or type(error).__name__}".removesuffix(": Connection lost")
    return LostError(what, hop=hop, hint=_AGAIN)
