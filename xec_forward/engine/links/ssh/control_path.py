"""ControlPath: from the text of ssh_config(5) to the path of a socket, as ssh makes it.

%C  sha1 of %l%h%p%r%j in hex    %i  the user's number        %n  the host as it was asked for
%d  the home folder              %j  the host of ProxyJump    %p  the port
%h  the host's name              %k  the host key's alias     %r  the name to log in with
%L  %l up to the first dot       %l  this machine's name      %u  the user's name here
%%  a percent sign               ~ and ~user at the start     ${NAME} of the environment
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ....errors import ConfigError

# The room in struct sockaddr_un, with the zero byte at its end.
SUN_PATH = 108 if sys.platform == "linux" else 104
# A master binds under a name longer by this, and then gives the socket its own.
TEMPORARY = 17
_TOKEN = re.compile(r"%(.?)|\$\{([^}]*)(\}?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Names:
    """What the tokens stand for.

    Attributes:
        original: the host as it was asked for (%n).
        host: its HostName, in ssh always in small letters (%h).
        port, remote_user: %p and %r.
        jump: the host of ProxyJump that is nearest to the target, without user and port, "" for none (%j).
        key_alias: HostKeyAlias, "" for none (%k is then the host as asked for).
        local_host, local_user, uid, home: this machine's name in full, and the user here: %l, %u, %i, %d.
    """

    original: str
    host: str
    port: int
    remote_user: str
    jump: str = ""
    key_alias: str = ""
    local_host: str = ""
    local_user: str = ""
    uid: int = 0
    home: str = ""

    def here(self) -> Names:
        """The same with this machine's own names, as the system gives them."""
        me = pwd.getpwuid(os.getuid())
        return replace(self, local_host=socket.gethostname(), local_user=me.pw_name, uid=me.pw_uid, home=me.pw_dir)


def expand(text: str, names: Names, environment: Mapping[str, str] | None = None) -> str:
    """The path, "" for `none`.

    Args:
        text: the value of ControlPath or --control-path.
        names: what the tokens stand for.
        environment: for ${NAME}; none are known without it.

    Raises:
        ConfigError: an unknown token, a variable without a value, or a path too long for a socket.
    """
    return _expand(text, names, environment or {}, _hash(names, names.jump))


def candidates(text: str, names: Names, environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The paths under which a master of this machine's ssh may live, the likeliest first; () for `none`.

    They are two only where %C meets a jump host: ssh before 9.6 left it out of the hash.
    """
    known = environment or {}
    found = [expand(text, names, known), _expand(text, names, known, _hash(names, ""))]
    return tuple(path for path in dict.fromkeys(found) if path)


def _hash(names: Names, jump: str) -> str:
    parts = (names.local_host, names.host.lower(), str(names.port), names.remote_user, jump)
    return hashlib.sha1(os.fsencode("".join(parts)), usedforsecurity=False).hexdigest()


def _expand(text: str, names: Names, environment: Mapping[str, str], connection: str) -> str:
    if not text or text.lower() == "none":
        return ""
    tokens = {
        "%": "%",
        "C": connection,
        "L": names.local_host.partition(".")[0],
        "d": names.home,
        "h": names.host.lower(),
        "i": str(names.uid),
        "j": names.jump,
        "k": names.key_alias or names.original,
        "l": names.local_host,
        "n": names.original,
        "p": str(names.port),
        "r": names.remote_user,
        "u": names.local_user,
    }

    def fail(reason: str) -> ConfigError:
        return ConfigError(
            f"control path {text}: {reason}", hop=names.original, hint="See ControlPath in ssh_config(5)"
        )

    def put(match: re.Match[str]) -> str:
        token, variable, end = match.groups()
        if token is not None:
            if token not in tokens:
                raise fail(f"%{token} is no token" if token else "a single % at its end")
            return tokens[token]
        if not end or not variable:
            raise fail("a ${ without its name and its }")
        if variable not in environment:
            raise fail(f"the environment has no {variable}")
        return environment[variable]

    path = _TOKEN.sub(put, _tilde(text, names.home, fail))
    if "\0" in path:
        raise fail("it holds a zero byte")
    size = len(os.fsencode(path))
    if size >= SUN_PATH:
        raise fail(f"{size} bytes are too long for a socket's path (at most {SUN_PATH - 1}); %C is a short form")
    return path


def _tilde(text: str, home: str, fail: Callable[[str], ConfigError]) -> str:
    if not text.startswith("~"):
        return text
    user, slash, rest = text[1:].partition("/")
    if not user:
        return f"{home}{slash}{rest}"
    try:
        return f"{pwd.getpwnam(user).pw_dir}{slash}{rest}"
    except KeyError:
        raise fail(f"there is no user {user}") from None
