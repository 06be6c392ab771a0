"""Logging in: keys, agent, passphrases, passwords; each asked for only when the server wants it.

asyncssh is given no key and no password; it asks `Login` for the next one as long as the server refuses
(RFC 4252, RFC 4256). The order of keys is ssh's, but for one thing: a key named with -i comes before the agent's
other keys, so that a full agent does not use up the server's patience.

    1. the agent's keys that belong to an identity file     3. the agent's other keys (not with IdentitiesOnly)
    2. files named with -i                                  4. the keys of PKCS11Provider's tokens
                                                            5. files of ssh_config, or ssh's default ones

An encrypted key is unlocked when the server has accepted its public half. What was right is remembered for the
next dial (`Memory`); answers to other prompts, one-time codes among them, are not.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from pathlib import Path

import asyncssh

from ....errors import AuthenticationError, ConfigError
from ....options import SshTarget
from ..base import Opening, Unanswered
from ..pool import Memory
from .config import Identity, Resolved, shown
from .tokens import provider_keys, provider_trouble, security_key_trouble

logger = logging.getLogger(__name__)

# How often a person may get a passphrase or a password wrong (ssh's NumberOfPasswordPrompts).
PROMPTS = 3
AGENT_DEADLINE = 5.0
_MAGIC = b"openssh-key-v1\0"
# What tells a prompt for something that is right only once from one for the login's password.
_ONCE = re.compile(
    r"one.?time|\b(once|otp|oath|token|(pass)?code|pin|factor|2fa|duo|new|current|retype)\b", re.IGNORECASE
)


class _Provider:
    """The place of PKCS11Provider's keys in the order."""


class LockedKeyPair(asyncssh.SSHKeyPair):
    """An encrypted key, known by its public half until it has to sign."""

    def __init__(
        self, login: Login, path: Path, public: asyncssh.SSHKey, certificate: asyncssh.SSHCertificate | None
    ) -> None:
        names = public.sig_algorithms
        super().__init__(public.algorithm, public.algorithm, names, names, public.public_data, None, certificate)
        self._login = login
        self._path = path

    async def sign_async(self, data: bytes) -> bytes:
        """Sign, as asyncssh asks for it. A ValueError makes it try the next key."""
        key = await self._login.unlock(self._path)
        return key.sign(data, self.sig_algorithm)


class Login:
    """One attempt to log in at one hop.

    Args:
        target, resolved: where, as whom, with what.
        opening: whom to ask. Its questions are asked while the connection waits.
        memory: what earlier dials learned.
    """

    def __init__(self, target: SshTarget, resolved: Resolved, opening: Opening, memory: Memory) -> None:
        self._target = target
        self._resolved = resolved
        self._opening = opening
        self._memory = memory.answers
        self._queue: list[asyncssh.SSHKeyPair | Identity | _Provider] | None = None
        self._halves: dict[Identity, asyncssh.SSHKey | None] = {}
        self._used: set[bytes] = set()
        self._agent: asyncssh.SSHAgentClient | None = None
        self._tried: list[str] = []
        self._trouble: list[str] = []
        self.unanswered: Unanswered | None = None
        self._wanted = ""
        self._password_tries: dict[str, int] = {}
        self._password = ""
        self._rounds = 0
        self.offers: dict[str, None] = {}

    # what asyncssh asks

    async def next_key(self) -> asyncssh.SSHKeyPair | None:
        """The next key to try, None when there is no other."""
        if self._queue is None:
            self._queue = await self._order()
        while self._queue:
            item = self._queue.pop(0)
            if isinstance(item, Identity):
                self._queue[:0] = await self._load(item)
            elif isinstance(item, _Provider):
                self._queue[:0] = await self._load_provider(self._resolved.pkcs11_provider)
            else:
                return item
        return None

    async def password(self, method: str, prompt: str = "") -> str | None:
        """The next password for `method`: remembered, from its SOURCE, or from a person; None: there is no other."""
        source = self._target.ssh_password
        plan = ["source"] if source else ["person"] * PROMPTS
        if "password" in self._memory:
            plan.insert(0, "memory")
        tries = self._password_tries.get(method, 0)
        if tries >= len(plan):
            return None
        self._password_tries[method] = tries + 1
        answer: str | None
        if plan[tries] == "memory":
            answer = self._memory["password"]
        elif source:
            answer = await self._ask("password", "a password", source=source)
        else:
            where = f"{self._resolved.username}@{self._resolved.host}"
            answer = await self._ask("password", "a password", prompt=prompt or f"{where}'s password: ")
        if answer is not None:
            self._password = answer
            self._note_tried("the password")
        return answer

    async def answers(self, instructions: str, prompts: list[tuple[str, bool]]) -> list[str] | None:
        """What keyboard-interactive asks: the password where one is asked for, else whatever a person says."""
        answers = []
        for prompt, echo in prompts:
            text = f"{instructions}\n{prompt}" if instructions else prompt
            if not echo and _is_password(prompt):
                answer = await self.password("keyboard-interactive", f"({self._resolved.host}) {text}")
            else:
                text = f"({self._resolved.host}) {text}"
                answer = await self._ask("password", "an answer", prompt=text, echo=echo)
                if answer is not None:
                    self._note_tried("keyboard-interactive")
            if answer is None:
                return None
            answers.append(answer)
        return answers

    def may_interact(self) -> bool:
        """Whether another round of keyboard-interactive makes sense; counts it."""
        self._rounds += 1
        return self.unanswered is None and self._rounds <= PROMPTS

    def succeeded(self) -> None:
        """Keep what was right."""
        if self._password:
            self._memory["password"] = self._password

    async def end(self) -> None:
        """Let go of the agent."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()
            await agent.wait_closed()

    def refused(self) -> AuthenticationError:
        """What to tell the user when the server has refused everything."""
        who, resolved = self._resolved.username, self._resolved
        offers = f"; {resolved.host} accepts {', '.join(self.offers)}" if self.offers else ""
        if self.unanswered is None:
            tried = ", ".join(self._tried) or "nothing: there is no key to try"
            what = f"the login as {who} was refused; tried {tried}"
            hint = "-i FILE names a key, -l NAME another user"
        else:
            # A key whose passphrase is missing or wrong has not been refused.
            spared = " ".join([self._wanted, *self._trouble]) + " "
            refused = [each for each in self._tried if f" {each} " not in spared]
            also = f"; tried and refused: {', '.join(refused)}" if refused else ""
            also = also if self._tried else "; there is no key to try"
            what = f"the login as {who} needs {self._wanted} ({self.unanswered}){also}"
            hint = "Give --ssh-password env:NAME, or a key that is accepted with -i FILE"
            if self._wanted.startswith(("the passphrase", "the PIN")):
                hint = "Give --passphrase env:NAME, or put the key into the agent with ssh-add"
            elif self._wanted == "an answer":
                hint = "Run the line where somebody can answer, or ride the login of a terminal (ControlMaster yes)"
        return AuthenticationError(f"{what}{self._troubles()}{offers}", hop=resolved.host, hint=hint)

    # keys

    async def _order(self) -> list[asyncssh.SSHKeyPair | Identity | _Provider]:
        """All there is to try, in order; files are loaded when their turn has come."""
        identities = self._resolved.identities
        for identity in identities:
            self._halves[identity] = await asyncio.to_thread(public_half, identity.path)
        agent = {key.key_public_data: key for key in await self._agent_keys()}
        queue: list[asyncssh.SSHKeyPair | Identity | _Provider] = []
        for identity, half in self._halves.items():
            if half is not None and half.public_data in agent and half.public_data not in self._used:
                self._used.add(half.public_data)
                self._note_tried(f"{identity} (from the agent)")
                queue.append(agent[half.public_data])
            elif identity.path.suffix == ".pub":
                self._trouble.append(f"the agent does not hold {identity}")
        queue += [identity for identity in identities if identity.explicit]
        rest = [key for data, key in agent.items() if data not in self._used]
        if rest and not self._resolved.identities_only:
            self._note_tried(f"{len(rest)} {'key' if len(rest) == 1 else 'keys'} of the agent")
            self._used.update(key.key_public_data for key in rest)
            queue += rest
        if self._resolved.pkcs11_provider:
            queue.append(_Provider())
        return queue + [identity for identity in identities if not identity.explicit]

    async def _agent_keys(self) -> list[asyncssh.SSHKeyPair]:
        path = self._resolved.agent
        if not path:
            return []
        try:
            async with asyncio.timeout(AGENT_DEADLINE):
                self._agent = await asyncssh.connect_agent(path)
                return list(await self._agent.get_keys())
        except (OSError, ValueError, TimeoutError):
            self._trouble.append("the ssh-agent does not answer")
            return []

    async def _load(self, identity: Identity) -> list[asyncssh.SSHKeyPair]:
        """The pairs of one file, unless tried before; a file that is no good is a remark."""
        path, half = identity.path, self._halves[identity]
        if half is not None and half.public_data in self._used:
            return []
        try:
            if not path.exists() or path.suffix == ".pub":
                return []
            if half is not None and (why := security_key_trouble(half)):
                self._trouble.append(f"{identity} cannot be used: {why}")
                return []
            if await asyncio.to_thread(_encrypted, path):
                if half is None:  # an old format, and no .pub beside it: only the passphrase shows the key
                    key = await self.unlock(path)
                    pairs = list(asyncssh.load_keypairs([key]))
                else:
                    pairs = [LockedKeyPair(self, path, half, cert) for cert in _certificates(path, half)]
            else:
                pairs = list(await asyncio.to_thread(asyncssh.load_keypairs, str(path), None, self._certificates()))
        except (OSError, ValueError) as error:
            self._trouble.append(f"{identity} cannot be used ({_plain(error)})")
            return []
        self._used.update(pair.key_public_data for pair in pairs)
        self._note_tried(str(identity))
        return pairs

    async def _load_provider(self, provider: str) -> list[asyncssh.SSHKeyPair]:
        """The keys of the tokens behind a PKCS#11 provider, which wants a PIN; trouble is a remark."""
        if why := provider_trouble(provider):
            self._trouble.append(why)
            return []
        place, source = f"passphrase {provider}", self._target.passphrase
        pin = self._memory.get(place)
        if pin is None:
            wanted, prompt = f"the PIN of {provider}", "" if source else f"PIN for {provider}: "
            pin = await self._ask("passphrase", wanted, source=source, prompt=prompt)
        if pin is None:
            return []
        try:
            pairs = await asyncio.to_thread(provider_keys, provider, pin)
        except ValueError as error:
            # Not tried again: a few wrong PINs lock a token.
            self._memory.pop(place, None)
            self._trouble.append(str(error))
            return []
        self._memory[place] = pin
        self._note_tried(f"{len(pairs)} {'key' if len(pairs) == 1 else 'keys'} of {provider}")
        return pairs

    def _certificates(self) -> list[str]:
        return [name for name in self._resolved.certificates if Path(name).exists()]

    async def unlock(self, path: Path) -> asyncssh.SSHKey:
        """Decrypt a key. Raises ValueError when there is no passphrase, or none that is right."""
        place = f"passphrase {path}"
        data = await asyncio.to_thread(path.read_bytes)
        source = self._target.passphrase
        plan = ["source"] if source else ["person"] * PROMPTS
        if place in self._memory:
            plan.insert(0, "memory")
        for step in plan:
            if step == "memory":
                secret: str | None = self._memory[place]
            else:
                prompt = "" if source else f"Passphrase for {shown(path)}: "
                wanted = f"the passphrase of {shown(path)}"
                secret = await self._ask("passphrase", wanted, source=source, prompt=prompt)
            if secret is None:
                raise ValueError("no passphrase")
            try:
                key = await asyncio.to_thread(asyncssh.import_private_key, data, secret)
            except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
                self._memory.pop(place, None)
            else:
                self._memory[place] = secret
                return key
        self._trouble.append(f"the passphrase for {shown(path)} is wrong")
        raise ValueError("wrong passphrase")

    # asking

    async def _ask(
        self, kind: str, wanted: str, *, source: str = "", prompt: str = "", echo: bool = False
    ) -> str | None:
        if self.unanswered is not None:
            return None  # nobody was there a moment ago
        try:
            return await self._opening.ask(kind, source=source, prompt=prompt, echo=echo)
        except Unanswered as unanswered:
            self.unanswered, self._wanted = unanswered, wanted
            return None

    def _note_tried(self, what: str) -> None:
        if what not in self._tried:
            self._tried.append(what)

    def _troubles(self) -> str:
        return f"; {'; '.join(dict.fromkeys(self._trouble))}" if self._trouble else ""


def _is_password(prompt: str) -> bool:
    """Whether a prompt is for the login's password, which its SOURCE answers and which may be kept."""
    text = re.sub(r"\S+@\S+", "", prompt)  # a host may be called anything
    return "password" in text.lower() and not _ONCE.search(text)


def check_identities(resolved: Resolved) -> None:
    """Raise ConfigError for a file named with -i that is missing, unreadable or no key. Reads files."""
    for identity in resolved.identities:
        if not identity.explicit:
            continue
        try:
            identity.path.read_bytes()
            if public_half(identity.path) is None and not _encrypted(identity.path):
                raise ValueError("it is no private key")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the key {identity} cannot be used: {_plain(error)}",
                hop=resolved.host,
                hint="-i FILE names a private key that you can read",
            ) from error


def _plain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).rstrip(".").lower()


def _encrypted(path: Path) -> bool:
    """Whether a private key wants a passphrase. Raises KeyImportError if it is no key at all."""
    try:
        asyncssh.import_private_key(path.read_bytes())
    except asyncssh.KeyEncryptionError:
        return True
    except asyncssh.KeyImportError as error:
        if "passphrase" in str(error).lower():
            return True
        raise
    return False


def public_half(path: Path) -> asyncssh.SSHKey | None:
    """The public key of a key file: from the .pub beside it, from the file itself, or None.

    OpenSSH's own format carries it in clear (PROTOCOL.key of its source): magic, cipher, kdf, options, the
    number of keys, then the public key.
    """
    beside = path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")
    try:
        return asyncssh.read_public_key(str(beside))
    except (OSError, ValueError):
        pass
    try:
        text = path.read_bytes()
        try:
            return asyncssh.import_private_key(text).convert_to_public()
        except asyncssh.KeyImportError:
            body = b"".join(line for line in text.splitlines() if not line.startswith(b"-"))
            data = base64.b64decode(body, validate=True)
    except (OSError, ValueError, binascii.Error):
        return None
    if not data.startswith(_MAGIC):
        return None
    data = data[len(_MAGIC) :]
    for _ in range(3):
        data = data[4 + int.from_bytes(data[:4], "big") :]
    data = data[4:]
    blob = data[4 : 4 + int.from_bytes(data[:4], "big")]
    kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")]
    try:
        return asyncssh.import_public_key(kind + b" " + base64.b64encode(blob))
    except ValueError:
        return None


def _certificates(path: Path, half: asyncssh.SSHKey) -> list[asyncssh.SSHCertificate | None]:
    """The certificate that lies beside a key, if there is one, and then the key alone."""
    try:
        certificate = asyncssh.read_certificate(f"{path}-cert.pub")
    except (OSError, ValueError):
        return [None]
    return [certificate, None] if certificate.key.public_data == half.public_data else [None]
