"""A network namespace with one address, joined to the machine by a veth pair: a peer that is not on loopback.

    with Network() as network:
        network.near, network.far       # the two ends' addresses
        network.run("ss", "-ltn")       # a program in there

The addresses are of 198.18.0.0/15, which RFC 2544 keeps for tests.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from types import TracebackType

_DEADLINE = 15.0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_DEADLINE)


@functools.cache
def missing() -> str:
    """The component without which there is no namespace here, or ""."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return "network namespaces (root)"
    try:
        with Network():
            return ""
    except (OSError, subprocess.SubprocessError):
        return "network namespaces (root)"


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
        block = f"198.{18 + number // 8192}.{number % 8192 // 64}"
        self.near = f"{block}.{number % 64 * 4 + 1}"
        self.far = f"{block}.{number % 64 * 4 + 2}"

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

    def __enter__(self) -> Network:
        near, far = self._pair
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name)
            _ip("addr", "add", f"{self.near}/30", "dev", near)
            _ip("link", "set", near, "up")
            for words in (
                ("addr", "add", f"{self.far}/30", "dev", far),
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
