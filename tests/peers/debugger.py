"""debugpy, as it runs in somebody's program, at the port it usually has.

with Debugger("127.1.2.3") as debugger:
    ...  # reach debugger.port of that address, and `initialize` as a client
"""

from __future__ import annotations

import json
import socket
import sys
from typing import IO, Any

from tests.peers.program import Program

_PROGRAM = "import debugpy, sys; print(debugpy.listen((sys.argv[1], 5678))[1], flush=True); sys.stdin.read()"


class Debugger(Program):
    """It listens on `port` of an address of this machine while the context is open."""

    def __init__(self, host: str) -> None:
        super().__init__([sys.executable, "-c", _PROGRAM, host], {"PYDEVD_DISABLE_FILE_VALIDATION": "1"})
        self.port = int(self.told)


def initialize(port: int) -> dict[str, Any]:
    """What the debugger behind `port` answers to the Debug Adapter Protocol's first request, within five seconds."""
    body = json.dumps({"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "debugpy"}})
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client, client.makefile("rb") as stream:
        client.sendall(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        while (answer := _message(stream))["type"] != "response":
            pass
    return answer


def _message(stream: IO[bytes]) -> dict[str, Any]:
    length = int(stream.readline().removeprefix(b"Content-Length:"))
    stream.readline()
    message: dict[str, Any] = json.loads(stream.read(length))
    return message
