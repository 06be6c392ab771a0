"""May we trust this host key? Always our own decision, at every hop.

asyncssh asks `HostKeys.known` which keys it may trust and `HostKeys.validate` about any other; it never gets None
or a file name, because both can turn its check off. The files are those of sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT":
hashed names, `[host]:port`, `@revoked`, `@cert-authority`. As ssh does, a name is looked up as `[host]:port` when the
port is not 22; an entry without the port can vouch for the key, but says nothing when its key is another.

    on record               trusted
    another one on record   ChangedHostKeyError, whatever the policy; never asked
    revoked                 HostKeyError
    none on record          by policy: strict refuses, accept-new records, ask asks a person
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from ....errors import ChangedHostKeyError, ConfigError, HostKeyError, UnknownHostKeyError
from ..base import Opening, Unanswered
from .config import Resolved, shown

logger = logging.getLogger(__name__)

Trusted = tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a known_hosts file that asyncssh could read."""

    path: Path
    number: int
    text: str


class HostKeys:
    """The host keys on record for one hop, and what was decided about the one it offered.

    Args:
        resolved: the hop.
        accepted: a key a person accepted before (its public half, base64), trusted while nothing else is on record.

    Raises:
        ConfigError: RevokedHostKeys names a file that cannot be used.
    """

    def __init__(self, resolved: Resolved, accepted: str = "") -> None:
        self._hop = resolved
        self._accepted = accepted
        self._bare = (resolved.host_key_alias or resolved.hostname).lower()
        self._lines = _read([*resolved.known_hosts, *resolved.global_known_hosts])
        self._records = _parse(self._lines)
        self._revoked = _revoked(resolved)
        self._offered: asyncssh.SSHKey | None = None
        self._authority: asyncssh.SSHKey | None = None
        self._to_record = False

    # what asyncssh asks

    def known(self, host: str, addr: str, port: int | None) -> Trusted:
        """The keys, authorities and revoked keys of the host, as `known_hosts=` of asyncssh takes them.

        Args:
            host: its alias, or the name asyncssh connected to (another than the configured one where
                CanonicalizeHostname is on).
            addr, port: not used; as in ssh (CheckHostIP no), an address vouches for nobody.
        """
        self._bare = (host or self._bare).lower()
        keys, authorities, revoked = self._match(self._name)
        if not keys and not authorities and self._name != self._bare:
            keys, authorities, more = self._match(self._bare)
            revoked = [*revoked, *more]
        return keys, authorities, [*revoked, *self._revoked]

    def validate(self, key: asyncssh.SSHKey) -> bool:
        """Whether a key that is neither on record nor revoked may be trusted."""
        self._offered = key
        if self._on_record:
            return False
        if _blob(key) == self._accepted:
            return True
        self._to_record = self._hop.policy == "accept-new"
        return self._to_record

    def validate_authority(self, key: asyncssh.SSHKey) -> bool:
        """An unknown certificate authority is never trusted."""
        self._authority = key
        return False

    @property
    def algorithms(self) -> list[str]:
        """The host key algorithms to offer: those of the keys on record first, so that the server shows one of them."""
        keys, authorities, _ = self.known("", "", None)
        names = [name.decode() for key in keys for name in key.sig_algorithms]
        names += [name.decode() for name in get_default_public_key_algs()]
        certificates = [name.decode() for name in get_default_certificate_algs()] if authorities else []
        return list(dict.fromkeys([*certificates, *names]))

    # what we make of it

    @property
    def offered(self) -> str:
        """The key that the server offered, base64; "" where it offered none but those on record."""
        return _blob(self._offered) if self._offered is not None else ""

    def record_if_new(self) -> None:
        """Record the key that the policy accept-new has accepted. A file that cannot be written is only logged."""
        if self._to_record:
            self._to_record = False
            self._record()

    async def decide(self, refusal: Exception, opening: Opening) -> None:
        """After the key was refused: raise what it means, or have a person accept it and record it.

        Returns:
            When it was accepted: dial again with `accepted=self.offered`.

        Raises:
            ChangedHostKeyError, UnknownHostKeyError, HostKeyError.
        """
        key = self._offered
        if key is None:
            reason = "its certificate authority is not known" if self._authority else _reason(refusal)
            raise HostKeyError(f"the host key is not to be trusted: {reason}", hop=self._hop.host)
        if self._on_record:
            raise self._changed(key)
        text = f"{key.get_algorithm()} {key.get_fingerprint()}"
        if self._hop.policy != "ask":
            raise self._unknown(f"the host key is not known: {text}")
        question = (
            f"The authenticity of host '{self._hop.host} ({self._hop.address})' can't be established.\n"
            f"{key.get_algorithm()} key fingerprint is {key.get_fingerprint()}.\n"
            "Accept it? [yes/no] "
        )
        try:
            answer = (await opening.ask("host-key", prompt=question, echo=True)).strip()
        except Unanswered as unanswered:
            raise self._unknown(f"the host key is not known: {text}; {unanswered}") from unanswered
        if answer.lower() != "yes" and answer != key.get_fingerprint():
            raise self._unknown(f"the host key was not accepted: {text}")
        self._record()

    # the records

    @property
    def _name(self) -> str:
        """The name a key is recorded under. An alias stands for host and port."""
        if self._hop.host_key_alias or self._hop.port == 22:
            return self._bare
        return f"[{self._bare}]:{self._hop.port}"

    def _match(self, name: str) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
        keys, authorities, revoked, *_ = self._records.match(name, "", None)
        return list(keys), list(authorities), list(revoked)

    @property
    def _on_record(self) -> bool:
        """Whether another key is recorded for this very name and port."""
        return bool(self._match(self._name)[0])

    def _changed(self, key: asyncssh.SSHKey) -> ChangedHostKeyError:
        known = []
        for line in self._lines:
            keys, *_ = _parse([line]).match(self._name, "", None)
            known += [
                f"{one.get_algorithm()} {one.get_fingerprint()} ({shown(line.path)}:{line.number})" for one in keys
            ]
        path = next((line.path for line in self._lines if _parse([line]).match(self._name, "", None)[0]), Path())
        return ChangedHostKeyError(
            f"the host key has changed: on record is {', '.join(known)}, "
            f"offered is {key.get_algorithm()} {key.get_fingerprint()}; somebody may be listening in",
            hop=self._hop.host,
            hint=f"If you know the new key to be right: ssh-keygen -R '{self._name}' -f {shown(path)}",
        )

    def _unknown(self, message: str) -> UnknownHostKeyError:
        port = f"-p {self._hop.port} " if self._hop.port != 22 else ""
        return UnknownHostKeyError(
            message,
            hop=self._hop.host,
            hint=f"--host-key accept-new records it, or run once: ssh {port}{self._hop.host}",
        )

    def _record(self) -> None:
        key = self._offered
        if key is None or not self._hop.known_hosts:
            return
        path = self._hop.known_hosts[0]
        name = _hashed(self._name) if self._hop.hash_known_hosts else self._name
        line = f"{name} {key.get_algorithm()} {_blob(key)}\n"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(size - 1)
                    line = line if file.read(1) == b"\n" else f"\n{line}"
                file.write(line.encode())
        except OSError as error:
            logger.warning("%s: the host key could not be recorded: %s", self._hop.host, error)


def _blob(key: asyncssh.SSHKey) -> str:
    return base64.b64encode(key.public_data).decode()


def _hashed(name: str) -> str:
    """The form that HashKnownHosts writes: |1|salt|HMAC-SHA1(salt, name)."""
    salt = os.urandom(hashlib.sha1().digest_size)
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _read(paths: Iterable[Path]) -> list[_Line]:
    lines = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # a missing file knows no keys
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                lines.append(_Line(path, number, line))
    return lines


def _parse(lines: Sequence[_Line]) -> asyncssh.SSHKnownHosts:
    try:
        return asyncssh.import_known_hosts("\n".join(line.text for line in lines))
    except ValueError:
        # One malformed line must not hide the others: a key on record would pass for unknown.
        good = []
        for line in lines:
            try:
                asyncssh.import_known_hosts(line.text)
            except ValueError as error:
                logger.warning("%s:%d: %s", line.path, line.number, str(error).partition(":")[0])
            else:
                good.append(line.text)
        return asyncssh.import_known_hosts("\n".join(good))


def _revoked(resolved: Resolved) -> list[asyncssh.SSHKey]:
    name = resolved.revoked_host_keys
    if not name:
        return []
    try:
        return list(asyncssh.read_public_key_list(name))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"RevokedHostKeys {name} cannot be used: {error}",
            hop=resolved.host,
            hint="It must be a readable text file of public keys (KRL files are not supported)",
        ) from error


def _reason(refusal: Exception) -> str:
    """asyncssh's text, such as "Host key is revoked for host bastion", without the host."""
    return str(refusal).partition(" for host ")[0].lower()
