"""From an SshTarget to all that ssh_config says about it: `resolve`.

The files are read by asyncssh's own parser (Host, Match, Include, tokens), extended by the options that it leaves
out and that we decide ourselves. The order is ssh's: what was asked for, then ~/.ssh/config, then
/etc/ssh/ssh_config, the first value wins; `-F FILE` reads that file alone, `-F none` reads none.

Reading may run programs (`Match exec`): call `resolve` in a thread.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, TypeVar, cast
from urllib.parse import urlsplit

import asyncssh
from asyncssh.config import ConfigParseError, SSHClientConfig, SSHConfig

from ....errors import ConfigError, SpecError
from ....line.flags import duration
from ....model import Outlook
from ....options import CommandTarget, SshTarget
from ....spec import Forward, Kind, parse_forward

USER_CONFIG = "~/.ssh/config"
SYSTEM_CONFIG = "/etc/ssh/ssh_config"
USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
DEFAULT_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ecdsa_sk", "id_ed25519_sk")
ALIVE_INTERVAL = 15.0
ALIVE_COUNT_MAX = 3

N = TypeVar("N")

# ssh's "no" accepts even changed keys when it is not asked to forward; we never accept a changed one.
_POLICIES = {
    "yes": "strict",
    "true": "strict",
    "strict": "strict",
    "accept-new": "accept-new",
    "no": "accept-new",
    "off": "accept-new",
    "false": "accept-new",
    "ask": "ask",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity file. `explicit`: asked for with -i, so that it must exist."""

    path: Path
    explicit: bool = False

    def __str__(self) -> str:
        return shown(self.path)


@dataclass(frozen=True, slots=True)
class Resolved:
    """An SshTarget with all that ssh_config says about it.

    Attributes:
        host: the name as asked for; the hop's name in messages.
        hostname, port, username: where and as whom to log in.
        files: the configuration files that were read.
        identities: identity files in order; those ssh tries by default where none was named.
        certificates: certificate files named by CertificateFile.
        identities_only: use only keys named here, of the agent's too.
        agent: the agent's socket, "" for none.
        pkcs11_provider: the library through which a token's keys are used, or "".
        known_hosts: the user's files, new keys go to the first; global_known_hosts: the system's.
        revoked_host_keys: a file of public keys never to trust, or "".
        host_key_alias: the name under which the host key is looked up, or "".
        hash_known_hosts: whether a name is hashed when it is recorded.
        policy: ask, strict or accept-new.
        connect_timeout: ConnectTimeout in seconds, None where it is not set.
        alive_interval, alive_count_max: keepalive; interval 0 means none.
        jumps: the hops in order, as targets.
        proxy_command: a ProxyCommand, its tokens expanded, or ""; never shown, its arguments may hold anything.
        proxy_program: the name of the program that it starts, or "".
        ciphers, host_key_algorithms, compression, gssapi: whether the files name them, or turn them on.
        control_path: where a master's socket may be, its tokens not expanded; "" for nowhere.
        control_persist: seconds that the connection outlives its last tunnel.
        forwards: the LocalForward, RemoteForward and DynamicForward lines.
    """

    host: str
    hostname: str
    port: int
    username: str
    files: tuple[str, ...]
    identities: tuple[Identity, ...]
    certificates: tuple[str, ...]
    identities_only: bool
    agent: str
    pkcs11_provider: str
    known_hosts: tuple[Path, ...]
    global_known_hosts: tuple[Path, ...]
    revoked_host_keys: str
    host_key_alias: str
    hash_known_hosts: bool
    policy: str
    connect_timeout: float | None
    alive_interval: float
    alive_count_max: int
    jumps: tuple[SshTarget, ...]
    proxy_command: str = field(repr=False)
    proxy_program: str
    ciphers: bool
    host_key_algorithms: bool
    compression: bool
    control_path: str
    control_persist: float
    forwards: tuple[Forward, ...]
    gssapi: bool

    @property
    def address(self) -> str:
        """`hostname:port`, IPv6 in brackets."""
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{host}:{self.port}"


def _append_line(config: SSHConfig, option: str, words: list[str]) -> None:
    """One forward a line; its two words as ssh's command line would have them, with a colon between."""
    cast("list[str]", config._options.setdefault(option, [])).append(":".join(words))
    words.clear()


class _Config(SSHClientConfig):
    """asyncssh's reader with the options it leaves out. The names with an underscore are its way to be extended."""

    _percent_expand = SSHClientConfig._percent_expand | {
        "GlobalKnownHostsFile",
        "RevokedHostKeys",
        "UserKnownHostsFile",
    }
    _handlers: ClassVar[dict[str, tuple[str, Callable[..., None]]]] = {  # type: ignore[misc]
        **SSHClientConfig._handlers,
        "controlmaster": ("ControlMaster", SSHConfig._set_string),
        "controlpath": ("ControlPath", SSHConfig._set_string),
        "controlpersist": ("ControlPersist", SSHConfig._set_string),
        "dynamicforward": ("DynamicForward", _append_line),
        "gatewayports": ("GatewayPorts", SSHConfig._set_string),
        "hashknownhosts": ("HashKnownHosts", SSHConfig._set_bool),
        "localforward": ("LocalForward", _append_line),
        "remoteforward": ("RemoteForward", _append_line),
        "revokedhostkeys": ("RevokedHostKeys", SSHConfig._set_string),
        "stricthostkeychecking": ("StrictHostKeyChecking", SSHConfig._set_string),
    }

    def _set_tokens(self) -> None:
        super()._set_tokens()
        self._tokens["k"] = str(self._options.get("HostKeyAlias") or self._orig_host)


def shown(path: Path) -> str:
    """A path as the user would write it, with ~ for the home folder."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def identity(target: SshTarget, via: tuple[SshTarget, ...] = ()) -> Hashable:
    """What makes two SSH links the same: the target as asked for, its explicit hops, the state of its config file.

    Secrets are no part of it: a target holds references only. Does no more than look at the files' dates.
    """
    stamps = []
    for name in _candidates(target.ssh_config):
        try:
            status = os.stat(name)
        except OSError:
            continue
        stamps.append((name, status.st_mtime_ns, status.st_size))
    keys = tuple(os.path.abspath(os.path.expanduser(key)) for key in target.private_key)
    # A host reached over hops of its own, and the same host as a hop that others go through, are one link.
    return ("ssh", replace(target, private_key=keys, proxy=()), via or hops_of(target), tuple(stamps))


def resolve(target: SshTarget) -> Resolved:
    """Read the configuration for `target`.

    Raises:
        ConfigError: a file is missing, unreadable or malformed (file and line are named), or a value is no good.
    """
    files = _files(target)
    config = _read(target, files)

    def fail(reason: str) -> ConfigError:
        return ConfigError(reason, hop=target.host, hint="See ssh_config(5)")

    strictness = str(config.get("StrictHostKeyChecking") or "ask").lower()
    policy = target.host_key or _POLICIES.get(strictness, "")
    if policy not in ("ask", "strict", "accept-new"):
        raise fail(f"StrictHostKeyChecking {strictness} is none of yes, no, ask, accept-new")
    jump = None if target.proxy else config.get("ProxyJump")
    proxy = "" if jump or target.proxy else str(config.get("ProxyCommand") or "")
    interval = config.get("ServerAliveInterval", ALIVE_INTERVAL)
    count = config.get("ServerAliveCountMax", ALIVE_COUNT_MAX)
    timeout = config.get("ConnectTimeout")
    return Resolved(
        host=target.host,
        hostname=str(config.get("Hostname", target.host)),
        port=cast(int, target.port or config.get("Port", 22)),
        username=target.username or str(config.get("User") or getpass.getuser()),
        files=files,
        identities=_identities(target, cast("list[str] | None", config.get("IdentityFile"))),
        certificates=tuple(_expand(name) for name in _words(config, "CertificateFile", ())),
        identities_only=bool(config.get("IdentitiesOnly")),
        agent=_agent(config, target),
        pkcs11_provider=_provider(config),
        known_hosts=tuple(Path(_expand(name)) for name in _words(config, "UserKnownHostsFile", USER_KNOWN_HOSTS)),
        global_known_hosts=tuple(
            Path(_expand(name)) for name in _words(config, "GlobalKnownHostsFile", GLOBAL_KNOWN_HOSTS)
        ),
        revoked_host_keys=_expand(str(config.get("RevokedHostKeys") or "")),
        host_key_alias=str(config.get("HostKeyAlias") or ""),
        hash_known_hosts=bool(config.get("HashKnownHosts")),
        policy=policy,
        connect_timeout=float(cast(int, timeout)) if timeout else None,
        alive_interval=_first(target.server_alive_interval, float(cast(float, interval))),
        alive_count_max=int(_first(target.server_alive_count_max, cast(int, count))),
        jumps=hops_of(target) or (_jumps(str(jump), target) if jump else ()),
        proxy_command=proxy,
        proxy_program=CommandTarget(proxy).host if proxy else "",
        ciphers=bool(config.get("Ciphers")),
        host_key_algorithms=bool(config.get("HostKeyAlgorithms")),
        compression=target.compression or target.compression_level is not None or bool(config.get("Compression")),
        control_path=target.control_path or str(config.get("ControlPath") or ""),
        control_persist=_persist(target, config),
        forwards=_forwards(config, target),
        gssapi=bool(config.get("GSSAPIAuthentication")),
    )


def look(target: SshTarget) -> Outlook:
    """What would be dialled, and which forwards the files name. Reads files, dials nothing. Raises ConfigError."""
    resolved = resolve(target)
    hops = [resolve(hop) for hop in resolved.jumps]
    notes = [f"through the program {resolved.proxy_program} (ProxyCommand)"] if resolved.proxy_program else []
    route = tuple(f"{hop.username}@{hop.address}" for hop in (*hops, resolved))
    return Outlook(route, resolved.forwards, tuple(notes))


def refuse_circle(target: SshTarget, jumps: tuple[SshTarget, ...]) -> None:
    """Raise ConfigError if the hops before `target` lead back to it. Reads files.

    Of hops written in one line only the first looks up hops of its own; each of the others goes through the one
    before it.
    """
    seen = [resolve(target)]
    while jumps:
        hop = resolve(jumps[0])
        if any((hop.host, hop.address, hop.username) == (one.host, one.address, one.username) for one in seen):
            raise ConfigError("its ProxyJump leads back to itself", hop=target.host, hint="See ssh_config(5)")
        seen.append(hop)
        jumps = hop.jumps


def _candidates(ssh_config: str) -> tuple[str, ...]:
    if ssh_config == "none":
        return ()
    if ssh_config:
        return (_expand(ssh_config),)
    return (_expand(USER_CONFIG), SYSTEM_CONFIG)


def _files(target: SshTarget) -> tuple[str, ...]:
    names = _candidates(target.ssh_config)
    if target.ssh_config:
        for name in names:
            if not os.access(name, os.R_OK):
                raise ConfigError(
                    f"the file {name} cannot be read", hop=target.host, hint="-F names the ssh_config file, or none"
                )
        return names
    return tuple(name for name in names if os.path.exists(name))


def _read(target: SshTarget, files: tuple[str, ...]) -> SSHConfig:
    def load(last: SSHConfig | None, *, final: bool) -> SSHConfig:
        user, port = target.username or (), target.port or ()
        return _Config.load(last, list(files), final, False, final, getpass.getuser(), user, target.host, port)

    try:
        config = load(None, final=False)
        # "Match final" blocks apply in a second pass, when the host name is settled.
        return load(config, final=True) if config.has_match_final() else config
    except (ConfigParseError, asyncssh.IllegalUserName, OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(
            str(error), hop=target.host, hint="Mend the line, or name another file with -F FILE (or -F none)"
        ) from error


def _first(asked: N | None, otherwise: N) -> N:
    return otherwise if asked is None else asked


def _expand(name: str) -> str:
    return os.path.expanduser(name)


def _words(config: SSHConfig, option: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """A list's values; an explicit `none` is an empty list, never "no check"."""
    value = config.get(option)
    return default if value is None else tuple(cast("list[str]", value))


def _identities(target: SshTarget, configured: list[str] | None) -> tuple[Identity, ...]:
    found = [Identity(Path(_expand(name)), explicit=True) for name in target.private_key]
    if configured is not None:
        found += [Identity(Path(_expand(name))) for name in configured]
    elif not target.private_key:
        found += [Identity(Path.home() / ".ssh" / name) for name in DEFAULT_IDENTITIES]
    return tuple(dict.fromkeys(found))


def _agent(config: SSHConfig, target: SshTarget) -> str:
    named = config.get("IdentityAgent", "SSH_AUTH_SOCK")
    if not named:  # "none"
        return ""
    text = str(named)
    if text == "SSH_AUTH_SOCK":
        return target.agent or os.environ.get("SSH_AUTH_SOCK", "")
    return os.environ.get(text[1:], "") if text.startswith("$") else _expand(text)


def _provider(config: SSHConfig) -> str:
    named = str(config.get("PKCS11Provider") or "none")
    return "" if named.lower() == "none" else _expand(named)


def hops_of(target: SshTarget) -> tuple[SshTarget, ...]:
    """The hops that were asked for, in order. What a hop does not say itself it takes over, as in `_jumps`."""
    return tuple(
        replace(
            hop,
            passphrase=hop.passphrase or target.passphrase,
            ssh_config=hop.ssh_config or target.ssh_config,
            host_key=hop.host_key or target.host_key,
            server_alive_interval=_first(hop.server_alive_interval, target.server_alive_interval),
            server_alive_count_max=_first(hop.server_alive_count_max, target.server_alive_count_max),
        )
        for hop in target.proxy
    )


def _persist(target: SshTarget, config: SSHConfig) -> float:
    """ControlPersist in seconds; yes and 0 mean for ever (ssh_config(5)), and so until the kernel ends."""
    if target.control_persist is not None:
        return target.control_persist
    text = str(config.get("ControlPersist") or "no").lower()
    if text in ("no", "false"):
        return 0.0
    if text in ("yes", "true", "0"):
        return float("inf")
    try:
        return duration(text, "ControlPersist")
    except SpecError as error:
        raise ConfigError(error.message, hop=target.host, hint=error.hint) from None


def _forwards(config: SSHConfig, target: SshTarget) -> tuple[Forward, ...]:
    """The forwards that the files name for this host, in ssh's order of kinds."""
    found = []
    for option, kind in (
        ("LocalForward", Kind.LOCAL),
        ("RemoteForward", Kind.REMOTE),
        ("DynamicForward", Kind.DYNAMIC),
    ):
        for text in cast("list[str]", config.get(option) or []):
            try:
                found.append(parse_forward(text, kind=kind))
            except SpecError as error:
                raise ConfigError(f"{option}: {error.message}", hop=target.host, hint=error.hint) from None
    return tuple(found)


def _jumps(text: str, target: SshTarget) -> tuple[SshTarget, ...]:
    """`[user@]host[:port]` or an ssh:// URL, separated by commas, as targets.

    A hop takes over the configuration file, the host-key policy and the keepalive; never a key or a password:
    those were meant for the target (ssh does the same). The passphrase opens key files only, and goes along.
    """
    hops = []
    for word in text.split(","):
        parts = urlsplit(word if word.startswith("ssh://") else f"ssh://{word}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if not parts.hostname or port == -1 or parts.path.strip("/") or parts.password is not None:
            raise ConfigError("ProxyJump wants [user@]host[:port]", hop=target.host, hint="See ssh_config(5)")
        # urlsplit lowers the host; an alias of ssh_config keeps its letters.
        host = parts.netloc.rpartition("@")[2]
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        hops.append(
            SshTarget(
                host=host,
                username=parts.username or "",
                port=port,
                passphrase=target.passphrase,
                ssh_config=target.ssh_config,
                host_key=target.host_key,
                agent=target.agent,
                server_alive_interval=target.server_alive_interval,
                server_alive_count_max=target.server_alive_count_max,
            )
        )
    return tuple(hops)
