"""An SSH server that asks questions (keyboard-interactive, RFC 4256), as sshd does only through PAM: a process.

    with Interrogator(folder, [("Password: ", False), ("Code: ", True)], ["secret", "123456"]) as server:
        server.write_config(folder / "ssh_config")       # Host bastion ...

It forwards to anywhere and runs nothing. Each login is a line of `logins()`. The process ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.peers.sshd import descendants, keygen


class Interrogator:
    """One server.

    Args:
        folder: for its key and its log; must exist.
        questions: prompts with whether the answer may be seen.
        right: the answers.
    """

    def __init__(self, folder: Path, questions: Sequence[tuple[str, bool]], right: Sequence[str]) -> None:
        self.folder = folder
        self.port = 0
        self._log = folder / "interrogator.log"
        self._settings: dict[str, Any] = {"questions": list(questions), "right": list(right)}
        self._key = folder / "interrogator_key"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the port it had."""
        if not self._key.exists():
            keygen(self._key)
        settings = {**self._settings, "port": self.port, "key": str(self._key), "log": str(self._log)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.peers.interrogator", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """End it and every connection, without a word."""
        process, self._process = self._process, None
        if process is not None:
            for pid in (*descendants(process.pid), process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait(5)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    def restart(self) -> None:
        """Kill it, and start it again on the same port."""
        self.kill()
        self.start()

    def questioned(self) -> int:
        """How often it has asked."""
        return self._log.read_text().count("asked\n") if self._log.exists() else 0

    def write_config(self, path: Path, **options: object) -> Path:
        """An ssh_config with the host `bastion`; the keywords are further lines."""
        lines: dict[str, object] = {
            "HostName": "127.0.0.1",
            "Port": self.port,
            "User": "ana",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "accept-new",
            "IdentityFile": "none",
            **options,
        }
        path.write_text("Host bastion\n" + "".join(f"    {name} {value}\n" for name, value in lines.items()))
        return path

    def __enter__(self) -> Interrogator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


async def _serve(settings: dict[str, Any]) -> None:
    import asyncssh

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return False

        def kbdint_auth_supported(self) -> bool:
            return True

        def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
            with open(settings["log"], "a") as log:
                log.write("asked\n")
            return "", "", "", [tuple(question) for question in settings["questions"]]

        def validate_kbdint_response(self, username: str, responses: Any) -> bool:
            return list(responses) == settings["right"]

        def connection_requested(self, *_: object) -> bool:
            return True

    server = await asyncssh.listen(
        "127.0.0.1",
        settings["port"],
        server_factory=Server,
        server_host_keys=[settings["key"]],
        public_key_auth=False,
        reuse_address=True,
    )
    async with server:
        print(server.get_port(), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
