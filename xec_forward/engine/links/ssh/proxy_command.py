"""A ProxyCommand of ssh_config: the connection's bytes go through a program's standard input and output.

It runs under the reaper like any other program of the user's, so that it ends with its connection, and with the engine;
what it writes to stderr goes to the log, and the last of it into the error. (asyncssh's own way takes stderr for the
server's words, knows no shell, and tells nothing of how the program ended.)
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from ....errors import ConfigError, ForwardError, LostError
from ...program import Ending, Program
from .config import Resolved

# Read by a shell, a name that holds one of these would be more than a name (as OpenSSH's valid_ruser has it).
_FOR_A_SHELL = frozenset("'`\"$;&<>|(){}\n\r\t ")
# sh's exit codes (POSIX, Shell Command Language, 2.8.2): found but not executable, not found.
_NOT_THERE = (126, 127)
# A program whose output has ended has so long to end by itself, and to be heard of; seconds.
_GRACE, _HEARD = 0.5, 0.4
_HINT = "Run the ProxyCommand in a terminal: it should show a line that begins with SSH-2.0"


class ProxyCommand:
    """Makes the connection's transport of a program: protocol of it, and `tunnel=` for asyncssh."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._program: Program | None = None
        self._connection: Any = None

    async def create_connection(self, factory: Any, host: str, port: int) -> tuple[Any, Any]:
        """As SSHClientConnection.create_connection, for asyncssh. Raises ConfigError, EngineError."""
        resolved = self._resolved
        for name in (resolved.host, resolved.hostname, resolved.username):
            if _FOR_A_SHELL.intersection(name):
                message = f"its ProxyCommand is not run: a shell would read more than a name in {name!r}"
                raise ConfigError(message, hop=resolved.host, hint="Check User and HostName in ssh_config")
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                ends = theirs.fileno()
                self._program = await Program.start(
                    resolved.proxy_command, resolved.proxy_program, stdin=ends, stdout=ends
                )
            ours.setblocking(False)
            self._connection = factory()
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_unix_connection(lambda: _Wire(self, self._connection), sock=ours)
        except BaseException:
            ours.close()
            self.end()
            raise
        return transport, self._connection

    def end(self) -> None:
        """End the program; idempotent."""
        if self._program is not None:
            self._program.end()

    async def failure(self) -> ForwardError:
        """Why the connection ended before it was one, by what the program says of itself."""
        resolved, ending = self._resolved, await self._ending()
        if ending is None:
            return LostError("the ProxyCommand closed the connection", hop=resolved.host, hint=_HINT)
        if ending.status in _NOT_THERE:
            message = f"the ProxyCommand's program {resolved.proxy_program} is not there"
            return ConfigError(f"{message}: {ending.last_words}", hop=resolved.host, hint="See ssh_config(5)")
        return LostError(f"the ProxyCommand {ending}", hop=resolved.host, hint=_HINT)

    async def _ending(self) -> Ending | None:
        """How it ended, if it does so by itself."""
        if self._program is None:
            return None
        await asyncio.wait([self._program.ended], timeout=_HEARD)
        return self._program.ended.result() if self._program.ended.done() else None


class _Wire(asyncio.Protocol):
    """Our end of the program's input and output, for asyncssh's connection."""

    def __init__(self, proxy: ProxyCommand, connection: Any) -> None:
        self._proxy = proxy
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._connection.data_received(data)

    def eof_received(self) -> None:
        self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        asyncio.get_running_loop().call_later(_GRACE, self._proxy.end)
        self._connection.connection_lost(exc)
