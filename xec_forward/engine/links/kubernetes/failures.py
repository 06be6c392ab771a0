"""What went wrong, in our words: from the API server's answers and the system's errors to the tree of `errors`.

judge     an answer that is no success; the error's cause is the `Answer`, for whoever must know the status
explain   no answer at all: names, refusals, TLS, proxies, time-outs, connections that broke
"""

from __future__ import annotations

import errno
import json
import re
import socket
import ssl

import aiohttp

from ....errors import (
    AuthenticationError,
    ConfigError,
    DeadlineError,
    ForwardError,
    LimitError,
    LostError,
    NameNotFoundError,
    ProhibitedError,
    RbacError,
    RefusedError,
    UnreachableError,
)
from ... import descriptors
from ..base import Passing
from .config import Context, shown

_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL}
_NETWORK_HINT = "Is the network, or the VPN, up? -J HOST goes through a bastion"
PROXY_HINT = (
    "Check proxy-url: in the kubeconfig (else HTTPS_PROXY and NO_PROXY), and whether the network, or the VPN, is up"
)
_LONGEST = 300
# kubernetes/apiserver, pkg/endpoints/handlers/responsewriters/errors.go
_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"/]+)(?:/(?P<subresource>[^"]+))?"'
    r' in API group "(?P<group>[^"]*)"(?: in the namespace "(?P<namespace>[^"]+)"| at the cluster scope)?'
)


class Answer(Passing):
    """An HTTP answer that is no success; the cause of the error that a caller gets.

    Attributes:
        status: HTTP's number.
        reason: the reason of the Status object, such as NotFound; "" where the body is none.
        text: the message of the Status object, else the body's text; one line, cut short.
        details: of the Status object: kind, name.
        again: seconds after which it wants to be asked again, None where it does not say so.
    """

    def __init__(self, status: int, body: bytes, retry_after: str = "") -> None:
        self.status = status
        self.reason, self.text, self.details = _read_status(body)
        # As client-go: of who is busy, in seconds.
        busy = status == 429 or status >= 500
        self.again = float(retry_after) if busy and retry_after.isascii() and retry_after.isdecimal() else None
        super().__init__(f"HTTP {status}: {self.text or 'no reason given'}")


def _read_status(body: bytes) -> tuple[str, str, dict[str, str]]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("kind") == "Status":
        details = found.get("details")
        named = {key: str(value) for key, value in details.items()} if isinstance(details, dict) else {}
        return str(found.get("reason") or ""), _line(str(found.get("message") or "")), named
    text = body.decode(errors="replace")
    return "", "" if text.lstrip().startswith("<") else _line(text), {}  # a page in HTML says nothing in one line


def _line(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:_LONGEST]


class ProxyError(Exception):
    """The proxy does not lead on.

    Attributes:
        status: HTTP's number of its answer; 0 where there was none, and the cause says why.
    """

    def __init__(self, status: int = 0) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class NotHttp(Exception):
    """What answers does not speak HTTP."""


def judge(answer: Answer, hop: str, context: Context, namespace: str) -> ForwardError:
    """The error for an answer. `namespace`: of what was asked for, "" for none. Raise it from the answer."""
    status, text = answer.status, answer.text or "it gives no reason"
    if status == 401:
        return _unauthorized(hop, context)
    if status == 403:
        return _forbidden(answer, hop, context)
    if status == 404:
        return _missing(answer, hop, namespace)
    if 300 <= status < 400:
        hint = f"Check server: in {shown(context.file)}; it may be the address of a login page"
        return ConfigError("what answers there is no API server: it redirects", hop=hop, hint=hint)
    if status == 429 or status >= 500:
        return UnreachableError(f"the API server answers {status}: {text}", hop=hop)
    return RefusedError(f"the API server refuses the request ({status}): {text}", hop=hop)


def _unauthorized(hop: str, context: Context) -> AuthenticationError:
    if not context.user:
        hint = f"The context {context.name} names no user: add one with its credentials"
    elif context.user.get("exec"):
        hint = f"Its plugin {context.user['exec'].get('command')} gave them: log in anew in a terminal"
    else:
        hint = f"Log in anew, or get a new token or certificate into {shown(context.file)}"
    whose = f"the credentials of {context.user_name}" if context.user_name else "a request without credentials"
    return AuthenticationError(f"the cluster does not accept {whose}", hop=hop, hint=hint)


def _forbidden(answer: Answer, hop: str, context: Context) -> ForwardError:
    found = _FORBIDDEN.search(answer.text)
    if found is None:
        if answer.reason != "Forbidden":
            return ProhibitedError(f"the API server does not allow it: {answer.text or 'no reason given'}", hop=hop)
        return RbacError(answer.text, hop=hop, hint="Ask whoever runs the cluster")
    user, verb, resource, subresource, group, namespace = found.groups()
    what = f"{resource}/{subresource}" if subresource else resource
    where = f" in the namespace {namespace}" if namespace else ""
    if user == "system:anonymous":
        hint = f"No credentials reached it: see the user of the context {context.name} in {shown(context.file)}"
        return RbacError(f"nobody may {verb} {what}{where} without a login", hop=hop, hint=hint)
    parts = [f"kubectl auth can-i {verb} {f'{resource}.{group}' if group else resource}"]
    parts += [f"--subresource={subresource}"] if subresource else []
    parts += [f"-n {namespace}"] if namespace else []
    hint = f"{' '.join(parts)} asks again; a Role that allows it is granted by whoever runs the cluster"
    return RbacError(f"{user} may not {verb} {what}{where}", hop=hop, hint=hint)


def _missing(answer: Answer, hop: str, namespace: str) -> NameNotFoundError:
    kind, name = answer.details.get("kind", ""), answer.details.get("name", "")
    if not kind or not name:
        hint = "Is it the API server's address?" if not answer.reason else ""
        return NameNotFoundError(answer.text or "there is no such path there", hop=hop, hint=hint)
    where = f" in the namespace {namespace}" if namespace else ""
    hint = "Check its name, and the namespace (-n)" if namespace else "Check its name"
    return NameNotFoundError(f"there is no {kind.removesuffix('s')} {name}{where}", hop=hop, hint=hint)


def explain(error: Exception, hop: str, context: Context, proxy: str = "") -> ForwardError:
    """Why there was no answer. `proxy`: its host and port, where there is one."""
    if isinstance(error, ForwardError):
        return error
    if isinstance(error, ProxyError) and isinstance(error.__cause__, Exception):
        return at_proxy(explain(error.__cause__, proxy, context), proxy)
    if isinstance(error, aiohttp.ClientHttpProxyError | ProxyError):
        return by_proxy(error.status, proxy)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return at_proxy(explain(error.os_error, proxy, context), proxy)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _tls(error.certificate_error, hop, context)
    if isinstance(error, aiohttp.ClientConnectorError):
        return explain(error.os_error, hop, context)
    if isinstance(error, aiohttp.ClientOSError) and isinstance(error.__cause__, ssl.SSLError):
        return _tls(error.__cause__, hop, context)
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return _tls(error, hop, context)
    if isinstance(error, TimeoutError):
        return DeadlineError("no answer from the API server", hop=hop, hint=_NETWORK_HINT)
    if isinstance(error, socket.gaierror):
        hint = f"Check server: in {shown(context.file)}; a private name may need the VPN, or a bastion (-J HOST)"
        return NameNotFoundError("its name does not resolve", hop=hop, hint=hint)
    if isinstance(error, OSError):
        return _system(error, hop)
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return LostError("the API server broke the connection", hop=hop)
    if isinstance(error, aiohttp.ClientResponseError | NotHttp):
        return RefusedError("what answers there does not speak HTTP", hop=hop, hint="Check the port")
    return LostError(f"the request failed: {type(error).__name__}", hop=hop)


def unanswered(hop: str) -> DeadlineError:
    """An upgrade that was asked for in vain. The API server asks the pod's node for it, for longer than we wait."""
    hint = "Is the node ready (kubectl get nodes)? Is the network, or the VPN, still up?"
    message = "no answer from the API server to the port-forward: it is silent, or the pod's node behind it is"
    return DeadlineError(message, hop=hop, hint=hint)


def at_proxy(found: ForwardError, proxy: str) -> ForwardError:
    """A failure on the way to a proxy, which `explain` took for the API server."""
    if isinstance(found, LimitError):  # of this machine
        return found
    return type(found)(found.message.replace("the API server", "the proxy"), hop=proxy, hint=PROXY_HINT)


def by_proxy(status: int, proxy: str) -> ForwardError:
    """Why a proxy that answered with a status does not lead on."""
    if status == 407:
        hint = "Write them as USER:PASSWORD@ before the host in its proxy-url (else in HTTPS_PROXY)"
        return AuthenticationError("the proxy wants credentials, or others", hop=proxy, hint=hint)
    if status == 403:
        return ProhibitedError("the proxy does not let us through to the API server", hop=proxy)
    return UnreachableError(f"the proxy does not reach the API server: it answers {status}", hop=proxy)


def _tls(error: Exception, hop: str, context: Context) -> ForwardError:
    where = f"the cluster's entry in {shown(context.file)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        if "mismatch" in why:
            message = f"the API server's certificate is for another name: {why[0].lower()}{why[1:]}"
            hint = f"Add tls-server-name: with a name that it has to {where}"
        elif "expired" in why or "not yet valid" in why:
            message, hint = f"the API server's {why}", "Have it renewed, or check this machine's clock"
        else:
            message = f"the API server's certificate is not trusted: {why}"
            hint = f"Put its authority into certificate-authority-data of {where}"
        return ConfigError(message, hop=hop, hint=hint)
    reason = str(getattr(error, "reason", None) or "").replace("_", " ").lower()
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "eof" in reason:
        return LostError("the connection ended while TLS began", hop=hop)
    if "wrong version number" in reason or "http request" in reason or "record layer" in reason:
        hint = f"Check server: in {shown(context.file)}: http:// or https://, and the port"
        return ConfigError("what answers there does not speak TLS", hop=hop, hint=hint)
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason or "handshake failure" in reason):
        hint = f"Check client-certificate of {context.user_name or 'the user'} in {shown(context.file)}"
        return AuthenticationError(f"the API server does not accept the certificate: {reason}", hop=hop, hint=hint)
    return ConfigError(f"TLS failed: {reason or type(error).__name__}", hop=hop, hint=f"See {where}")


def _system(error: OSError, hop: str) -> ForwardError:
    number = error.errno
    if number is None:  # several addresses were tried: "Multiple exceptions: [Errno 111] ..."
        found = re.search(r"\[Errno (\d+)\]", str(error))
        number = int(found[1]) if found else 0
    if number == errno.ECONNREFUSED:
        hint = "Is the cluster running? The kubeconfig may be that of an older one"
        return RefusedError("nobody listens there", hop=hop, hint=hint)
    if number in _UNREACHABLE:
        return UnreachableError("there is no way to it", hop=hop, hint=_NETWORK_HINT)
    if number in (errno.EMFILE, errno.ENFILE):
        return LimitError("the system allows no more open files", hop=hop, hint=descriptors.HINT)
    if number == errno.ETIMEDOUT:
        return DeadlineError("no answer from the API server", hop=hop, hint=_NETWORK_HINT)
    return LostError("the API server broke the connection", hop=hop)
