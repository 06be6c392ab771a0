"""How one connection into a pod went wrong, in our words: from the text on its error stream to the tree of `errors`.

The text is the node's own and differs with its container runtime (containerd, CRI-O, Docker's shim with socat). It
names sandboxes, namespaces and temporary ports, which say nothing to a user: they are left out.
"""

from __future__ import annotations

import re

from ....errors import DeadlineError, ForwardError, LostError, PodGoneError, RefusedError, UnreachableError

LARGEST_TEXT = 8 * 1024
_LONGEST_SHOWN = 160

# In this order: a text that tells why goes on to tell where, and "sandbox" and "closed" occur in more than one.
_REFUSED = re.compile(r"connection refused", re.I)
_RESET = re.compile(r"connection reset by peer|broken pipe|connection aborted", re.I)
_GONE = re.compile(
    r"network namespace for sandbox \S+ is closed"
    r"|sandbox( container)? \S+ (is )?not (found|running)"
    r"|(could not|failed to|unable to|cannot) find (the )?sandbox"
    r"|container (\S+ )?(is )?not running"
    r"|pod (\S+ )?not found"
    r"|an error occurred when try to find sandbox"
    r"|netns/\S+\"?: no such file or directory",
    re.I,
)
_UNREACHABLE = re.compile(r"no route to host|network is unreachable|host is down", re.I)
_LATE = re.compile(r"timed? ?out|deadline exceeded", re.I)
_NO_SOCAT = re.compile(r"socat not found|nsenter not found", re.I)

_NOISE = [
    (re.compile(r"^error forwarding port \d+ to pod \S+, uid ?\S* ?: ", re.I), ""),
    (re.compile(r"\bfailed to execute portforward in network namespace \S+: ", re.I), ""),
    (re.compile(r" ?\(?\b(in|inside|into) (network )?namespace \S+?(?=[,:)\s]|$)\)?", re.I), ""),
    (re.compile(r"\(conn=[^)]*\) ?"), ""),
    (re.compile(r'"?/var/run/netns/[^\s":]+"?'), "the pod's network"),
    (re.compile(r'"?\b[0-9a-f]{12,64}\b"?', re.I), "the pod"),
    (re.compile(r"\b(readfrom|writeto|read|write) (tcp[46]?|udp[46]?) \S+->\S+: ", re.I), ""),
    (re.compile(r"[\s\x00-\x1f\x7f]+"), " "),
]


def explain(text: str, port: int, hop: str) -> ForwardError:
    """Why a connection to `port` of a pod ended with `text` on its error stream.

    >>> print(explain("... dial tcp4 127.0.0.1:9: connect: connection refused", 9, "web-1:9"))
    ECONNREFUSED web-1:9: nothing listens on port 9 in the pod. A service must listen on 127.0.0.1 or 0.0.0.0 in it
    """
    if _REFUSED.search(text):
        hint = "A service must listen on 127.0.0.1 or 0.0.0.0 in it"
        return RefusedError(f"nothing listens on port {port} in the pod", hop=hop, hint=hint)
    if _RESET.search(text):
        return LostError("the service in the pod reset the connection", hop=hop)
    if _GONE.search(text):
        return PodGoneError("the pod has gone", hop=hop)
    if _UNREACHABLE.search(text):
        return UnreachableError(f"port {port} of the pod cannot be reached from its node", hop=hop)
    if _LATE.search(text):
        return DeadlineError(f"the pod's node timed out: {readable(text)}", hop=hop)
    if _NO_SOCAT.search(text):
        return LostError("the pod's node cannot forward ports", hop=hop, hint="socat and nsenter are missing there")
    return LostError(f"the pod's node ended the connection: {readable(text)}", hop=hop)


def readable(text: str) -> str:
    """One short line of what `text` says to a person: no ids, no temporary addresses."""
    for pattern, instead in _NOISE:
        text = pattern.sub(instead, text)
    text = text.strip(" :,.") or "no reason given"
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3].rstrip() + "..."
