"""A real OpenSSH server for tests: its own folder, keys, port, accounts and names, nothing of the machine's.

    with Sshd(tmp_path) as sshd:
        config = sshd.write_config(tmp_path / "config")       # Host bastion ...
        ...                                                   # forward to sshd.far("pg.vpc")

The server runs in a mount namespace where the system allows one, with its own /etc/hosts (so that it can
resolve a made-up far name such as `pg.vpc`), its own nsswitch.conf (files only: an unknown name is refused at
once), and as root its own passwd and shadow (so that a password account exists for it alone). Where no
namespace can be had, `far(name)` gives "localhost" and `passwords` is false.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.peers.ports import claim, free_port

PASSPHRASE = "correct horse battery staple"
PASSWORD = "tr0ub4dor&3"
PASSWORD_USER = "carla"
_DEADLINE = 15.0


def missing() -> str:
    """The component without which no Sshd can run here, or ""."""
    if not sshd_path():
        return "OpenSSH sshd (Debian: openssh-server)"
    if not shutil.which("ssh-keygen"):
        return "ssh-keygen (Debian: openssh-client)"
    return ""


def sshd_path() -> str:
    """Where sshd is, or "" (it insists on being started by an absolute path)."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or ""


@functools.cache
def _namespace() -> tuple[str, ...]:
    """The command prefix that gives a program its own mounts, or nothing where the system allows none."""
    for prefix in (("unshare", "-m"), ("unshare", "--map-current-user", "--keep-caps", "-m")):
        if not shutil.which("unshare"):
            break
        with tempfile.NamedTemporaryFile() as file:
            probe = [*prefix, "sh", "-c", f"mount --bind {shlex.quote(file.name)} /etc/hosts"]
            done = subprocess.run(probe, capture_output=True, timeout=_DEADLINE, check=False)
        if done.returncode == 0:
            return prefix
    return ()


def keygen(path: Path, *, kind: str = "ed25519", passphrase: str = "", comment: str = "test") -> Path:
    """Make a key pair at `path` and `path`.pub, replacing what is there."""
    for old in (path, public(path)):
        old.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", comment, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
        timeout=_DEADLINE,
    )
    return path


def public(path: Path) -> Path:
    """The public half's file."""
    return path.with_name(path.name + ".pub")


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, children before their own children."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found[1:]


class Sshd:
    """One sshd, started when the context is entered.

    Args:
        folder: where keys, configuration and log go; must exist.
        options: sshd_config lines that replace ours (`{"AllowTcpForwarding": "no"}`); None drops ours.
        lines: sshd_config text put at the end (Match blocks).
        names: names that only this server can resolve, with their addresses.
        host_keys: the types of its host keys.
        port: the port it listens on; 0 for any.
        network: the network namespace to run in (see `netns`), "" for the machine's own.
        address: where it is reached.

    Attributes:
        port, user: where and as whom to log in with `key`.
        key: an authorised ed25519 key; `encrypted_key()` is one with a passphrase (PASSPHRASE);
            `stranger_key()` one that is not authorised.
        known_hosts: a file with this server's host keys as they were at the last start with new keys.
        passwords: whether PASSWORD_USER can log in here with PASSWORD.
        log: the server's log file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        options: Mapping[str, str | None] | None = None,
        lines: Sequence[str] = (),
        names: Mapping[str, str] | None = None,
        host_keys: Sequence[str] = ("ed25519",),
        port: int = 0,
        network: str = "",
        address: str = "127.0.0.1",
    ) -> None:
        self.folder = folder
        self.network = network
        self.address = address
        self.options: dict[str, str | None] = dict(options or {})
        self.lines = tuple(lines)
        self.names = {"pg.vpc": "127.0.0.1", **(names or {})}
        self.host_keys = tuple(host_keys)
        self.port = port or free_port()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.log = folder / "sshd.log"
        self.known_hosts = folder / "known_hosts"
        self.key = folder / "id_ed25519"
        self._authorized = folder / "authorized_keys"
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._claim: socket.socket | None = None

    # keys and names

    @property
    def passwords(self) -> bool:
        """Whether the password account exists (root, in a mount namespace)."""
        return os.geteuid() == 0 and bool(_namespace())

    def far(self, name: str = "pg.vpc") -> str:
        """`name` if this server resolves it, else "localhost" (which leads to the same address)."""
        if name not in self.names:
            raise KeyError(name)
        return name if _namespace() else "localhost"

    def encrypted_key(self) -> Path:
        """An authorised key with the passphrase PASSPHRASE; made at the first call."""
        return self._authorised_key("id_encrypted", PASSPHRASE)

    def second_key(self) -> Path:
        """Another authorised key; made at the first call."""
        return self._authorised_key("id_second", "")

    def stranger_key(self) -> Path:
        """A key that this server does not accept."""
        path = self.folder / "id_stranger"
        return path if path.exists() else keygen(path)

    def host_key(self, kind: str = "ed25519") -> Path:
        """The private host key of that type."""
        return self.folder / f"host_{kind}"

    def change_host_keys(self) -> None:
        """New host keys for the next start; `known_hosts` keeps the old ones."""
        for kind in self.host_keys:
            keygen(self.host_key(kind), kind=kind)

    def fingerprint(self, kind: str = "ed25519") -> str:
        """The host key's fingerprint as ssh shows it, `SHA256:...`."""
        done = subprocess.run(
            ["ssh-keygen", "-l", "-E", "sha256", "-f", str(public(self.host_key(kind)))],
            check=True,
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
        )
        return done.stdout.split()[1]

    def write_known_hosts(
        self, path: Path | None = None, *, hosts: str = "", hashed: bool = False, marker: str = ""
    ) -> Path:
        """Record the present host keys, under `[address]:port` unless `hosts` names others."""
        path = path or self.known_hosts
        where = hosts or f"[{self.address}]:{self.port}"
        mark = f"{marker} " if marker else ""
        keys = (" ".join(public(self.host_key(kind)).read_text().split()[:2]) for kind in self.host_keys)
        path.write_text("".join(f"{mark}{where} {key}\n" for key in keys))
        if hashed:
            subprocess.run(
                ["ssh-keygen", "-q", "-H", "-f", str(path)],
                check=True,
                capture_output=True,
                timeout=_DEADLINE,
            )
            path.with_name(path.name + ".old").unlink(missing_ok=True)
        return path

    def config(self, alias: str = "bastion", **options: object) -> str:
        """ssh_config text for this server; keyword arguments replace or add lines, None drops one."""
        lines: dict[str, object] = {
            "HostName": self.address,
            "Port": self.port,
            "User": self.user,
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
        }
        lines.update(options)
        body = "".join(f"    {name} {value}\n" for name, value in lines.items() if value is not None)
        return f"Host {alias}\n{body}"

    def write_config(self, path: Path, alias: str = "bastion", **options: object) -> Path:
        """The same in a file."""
        path.write_text(self.config(alias, **options))
        return path

    # life

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._prepare()
        self._launch()

    def stop(self) -> None:
        """End it and its connections, in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, the connections too: their peers see a reset or an end without any SSH message."""
        self._end(signal.SIGKILL)

    def drop(self) -> None:
        """SIGKILL the connections; the server goes on listening."""
        assert self._process is not None
        below = descendants(self._process.pid)
        for pid in below:
            _signal(pid, signal.SIGKILL)
        _wait_until(lambda: not any(_alive(pid) for pid in below), "the connections did not end")

    def freeze(self) -> None:
        """SIGSTOP it and its connections: silence, as when the network drops everything."""
        assert self._process is not None
        # The listener first, so that no new child can appear unseen.
        _signal(self._process.pid, signal.SIGSTOP)
        self._frozen = [self._process.pid, *descendants(self._process.pid)]
        for pid in self._frozen[1:]:
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """End the silence."""
        for pid in reversed(self._frozen):
            _signal(pid, signal.SIGCONT)
        self._frozen = []

    def restart(self, *, changed_host_key: bool = False) -> None:
        """End and start it on the same port, with another host key if wanted (`known_hosts` keeps the old)."""
        self.kill()
        if changed_host_key:
            self.change_host_keys()
        self._launch()

    @property
    def pid(self) -> int:
        """The listening process."""
        assert self._process is not None
        return self._process.pid

    def connections(self) -> int:
        """How many TCP connections it holds (one monitor process each)."""
        assert self._process is not None
        pid = self._process.pid
        return sum(1 for child in descendants(pid) if _parent(child) == pid)

    def __enter__(self) -> Sshd:
        if not self.network:
            self._claim = claim(self.port)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._claim is not None:
            self._claim.close()

    def _authorised_key(self, name: str, passphrase: str) -> Path:
        path = self.folder / name
        if not path.exists():
            keygen(path, passphrase=passphrase)
            with self._authorized.open("a") as file:
                file.write(public(path).read_text())
        return path

    def _prepare(self) -> None:
        for kind in self.host_keys:
            if not self.host_key(kind).exists():
                keygen(self.host_key(kind), kind=kind)
        if not self.key.exists():
            self._authorised_key(self.key.name, "")
        if not self.known_hosts.exists():
            self.write_known_hosts()

    def _write_sshd_config(self) -> Path:
        options: dict[str, str | None] = {
            "ListenAddress": self.address,
            "Port": str(self.port),
            "PidFile": "none",
            "AuthorizedKeysFile": str(self._authorized),
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "yes" if self.passwords else "no",
            "KbdInteractiveAuthentication": "no",
            "AllowTcpForwarding": "yes",
            "AllowStreamLocalForwarding": "yes",
            "UseDNS": "no",
            "MaxStartups": "100:30:200",
            "MaxSessions": "0",  # no shell, no command: the least that a tunnel may count on
            "PrintMotd": "no",
            "LogLevel": "VERBOSE",
        }
        options.update(self.options)
        text = [f"HostKey {self.host_key(kind)}" for kind in self.host_keys]
        text += [f"{name} {value}" for name, value in options.items() if value is not None]
        path = self.folder / "sshd_config"
        path.write_text("\n".join([*text, *self.lines]) + "\n")
        return path

    def _mounts(self) -> dict[Path, str]:
        hosts = self.folder / "etc_hosts"
        hosts.write_text("127.0.0.1 localhost\n::1 localhost\n" + "".join(f"{a} {n}\n" for n, a in self.names.items()))
        nsswitch = self.folder / "etc_nsswitch.conf"
        nsswitch.write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n")
        mounts = {hosts: "/etc/hosts"}
        if Path("/etc/nsswitch.conf").exists():
            mounts[nsswitch] = "/etc/nsswitch.conf"
        if self.passwords:
            passwd, shadow = self.folder / "etc_passwd", self.folder / "etc_shadow"
            account = f"{PASSWORD_USER}:x:31999:65534::{self.folder}:/bin/sh\n"
            passwd.write_text(Path("/etc/passwd").read_text() + account)
            shadow.write_text(
                f"root:*:19000::::::\nsshd:*:19000::::::\n{PASSWORD_USER}:{_crypt(PASSWORD)}:19000::::::\n"
            )
            shadow.chmod(0o600)
            mounts |= {passwd: "/etc/passwd", shadow: "/etc/shadow"}
        return mounts

    def _launch(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation folder, as at every boot
        for _ in range(5):
            config = self._write_sshd_config()
            command = [sshd_path(), "-D", "-e", "-f", str(config)]
            if prefix := _namespace():
                mounts = [f"mount --bind {shlex.quote(str(ours))} {theirs}" for ours, theirs in self._mounts().items()]
                command = [*prefix, "sh", "-c", " && ".join([*mounts, f"exec {shlex.join(command)}"])]
            if self.network:
                command = ["ip", "netns", "exec", self.network, *command]
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            if self._answers():
                return
            self._end(signal.SIGKILL)
            time.sleep(0.05)  # another program may hold the port for a moment
        raise RuntimeError(f"sshd did not start:\n{self.log.read_text()[-2000:]}")

    def _answers(self) -> bool:
        assert self._process is not None
        end = time.monotonic() + _DEADLINE
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), 1) as probe:
                if probe.recv(4) == b"SSH-":
                    return True
            time.sleep(0.01)
        return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self.thaw()  # a stopped process takes no SIGTERM
        pids = [process.pid, *descendants(process.pid)]
        for pid in pids:
            _signal(pid, number)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        # A child forked while we looked is an orphan by now, in nobody's list; the ones we know must be gone.
        for pid in pids[1:]:
            _signal(pid, signal.SIGKILL)
        _wait_until(lambda: not any(_alive(pid) for pid in pids[1:]), "the connections did not end")


class Agent:
    """A real ssh-agent with the keys given, on a socket of its own (`path`), while the context is open."""

    def __init__(self, folder: Path, *keys: Path) -> None:
        self.path = folder / "agent.sock"
        self._keys = keys
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Agent:
        self._process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self.path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        _wait_until(self.path.exists, "ssh-agent did not start")
        for key in self._keys:
            self.add(key)
        return self

    def add(self, key: Path) -> None:
        """Add a key without a passphrase."""
        subprocess.run(
            ["ssh-add", "-q", str(key)],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE,
            env={**os.environ, "SSH_AUTH_SOCK": str(self.path)},
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(5)


def _crypt(password: str) -> str:
    """The SHA-512 form of shadow(5), made by the library that sshd itself checks it with."""
    for name in ("libcrypt.so.1", "libcrypt.so.2"):
        with contextlib.suppress(OSError):
            crypt = ctypes.CDLL(name).crypt
            crypt.restype = ctypes.c_char_p
            hashed: bytes | None = crypt(password.encode(), b"$6$saltysalt$")
            if hashed:
                return hashed.decode()
    return "*"


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _state(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    fields = _state(pid)
    return int(fields[1]) if fields else 0


def _alive(pid: int) -> bool:
    fields = _state(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def _wait_until(condition: object, failure: str) -> None:
    assert callable(condition)
    end = time.monotonic() + _DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(failure)
        time.sleep(0.005)
