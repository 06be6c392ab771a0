"""A network namespace with one address, joined to the machine by a veth pair: a peer that is not on loopback.

    with Network() as network:
        network.near, network.far       # the two ends' addresses
        network.run("ss", "-ltn")       # a program in there
        with network.dropping(): ...    # every packet vanishes, both ways
        with network.absent(): ...      # every packet to it vanishes
        network.change_address()        # the machine's end gets another one, as after a change of Wi-Fi

The addresses are of 198.18.0.0/15, which RFC 2544 keeps for tests.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_DEADLINE = 15.0


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_DEADLINE)


def _ip(*words: str) -> None:
    _run("ip", *words)


@functools.cache
def missing() -> str:
    """The component without which there is no namespace here, or ""."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        return "network namespaces (root, with iproute2)"
    try:
        with Network():
            return ""
    except (OSError, subprocess.SubprocessError):
        return "network namespaces (root, with iproute2)"


class Network:
    """The namespace, while the context is open.

    Attributes:
        name: as `ip netns` knows it.
        near, far: the addresses of the machine's end and of the namespace's.
    """

    def __init__(self) -> None:
        number = os.getpid() % 16384
        self.name = f"xf-{os.getpid()}"
        self._pair = (f"xfn{os.getpid()}", f"xff{os.getpid()}")
        # Eight addresses each: 16384 processes share 198.18.0.0/15.
        block, first = f"198.{18 + number // 8192}.{number % 8192 // 32}", number % 32 * 8
        self.near, self._next = f"{block}.{first + 1}", f"{block}.{first + 3}"
        self.far = f"{block}.{first + 2}"

    def run(self, *command: str, input: bytes = b"") -> bytes:
        """What a program in there prints; it ends in order, within 15 s."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            check=True,
            capture_output=True,
            input=input,
            timeout=_DEADLINE,
        )
        return done.stdout

    @contextlib.contextmanager
    def dropping(self) -> Iterator[None]:
        """Every packet vanishes, both ways, and nobody is told: no reset, no ICMP."""
        near, far = self._pair
        self._know_the_far_end()
        near_hardware = Path(f"/sys/class/net/{near}/address").read_text().strip()
        known = ("neigh", "replace", self.near, "lladdr", near_hardware, "dev", far, "nud", "permanent")
        _ip("-n", self.name, *known)
        _run("tc", "qdisc", "add", "dev", near, "root", "blackhole")
        _run("tc", "-n", self.name, "qdisc", "add", "dev", far, "root", "blackhole")
        try:
            yield
        finally:
            _run("tc", "-n", self.name, "qdisc", "del", "dev", far, "root")
            _run("tc", "qdisc", "del", "dev", near, "root")

    @contextlib.contextmanager
    def absent(self) -> Iterator[None]:
        """The far end is not there, and every packet to it vanishes on its way.

        To the sender's TCP that is another silence than `dropping`, whose packets do not even leave: those are sent
        again soon, these ever more rarely.
        """
        self._know_the_far_end()
        address = (f"{self.far}/29", "dev", self._pair[1])
        _ip("-n", self.name, "addr", "del", *address)
        try:
            yield
        finally:
            _ip("-n", self.name, "addr", "add", *address)

    def _know_the_far_end(self) -> None:
        """A neighbour that is known for good: an unanswered ARP request would be told to whoever sends."""
        near, far = self._pair
        hardware = self.run("cat", f"/sys/class/net/{far}/address").decode().strip()
        _ip("neigh", "replace", self.far, "lladdr", hardware, "dev", near, "nud", "permanent")

    def change_address(self) -> None:
        """Another address for the machine's end (`near`); the one that connections came from is gone."""
        _ip("addr", "del", f"{self.near}/29", "dev", self._pair[0])
        self.near, self._next = self._next, self.near
        _ip("addr", "add", f"{self.near}/29", "dev", self._pair[0])

    def dialled(self) -> bool:
        """Whether a connection from the machine into there is being made, and has not been answered yet."""
        command = ["ss", "-Htn", "state", "syn-sent", "dst", self.far]
        done = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_DEADLINE)
        return bool(done.stdout.strip())

    def __enter__(self) -> Network:
        near, far = self._pair
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name)
            _ip("addr", "add", f"{self.near}/29", "dev", near)
            _ip("link", "set", near, "up")
            for words in (
                ("addr", "add", f"{self.far}/29", "dev", far),
                ("link", "set", far, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", self.name, *words)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The pair by itself: the system takes a namespace apart later.
        for words in (("link", "del", self._pair[0]), ("netns", "del", self.name)):
            subprocess.run(["ip", *words], capture_output=True, check=False, timeout=_DEADLINE)
