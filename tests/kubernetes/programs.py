"""What runs in the pods: one script, one port for each way a service can behave.

    7000 echo      sends back what it receives
    7001 source    reads a line with a number N, answers N bytes (see `pattern`), ends
    7002 sink      reads 8 bytes with a number N, then N bytes, answers their sha256 as one line, ends
    7003 reply     reads to the end of the stream, then answers its length as one line
    7004 banner    says HELLO and ends
    7005 pausing   as source, with a pause in the middle: longer than a node waits once one side has ended
    7006 reset     reads once, then resets the connection
    7007 half      says HELLO and half-closes, reads on
    7009 deaf      never reads
    7010 silent    reads everything, answers nothing
    7011 swallow   the same, and counts
    7012 tally     says as one line how many bytes `swallow` has read

Nothing listens on port 9. In a pod (`python programs.py pod`) the ports are these; else any on 127.0.0.1, told on the
first line of output as JSON, and the script ends with its standard input. Nothing but the standard library is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

_BLOCK = 64 * 1024
# containerd ends a connection a second after its first side has ended.
PAUSE = 1.3


def pattern(length: int) -> Iterator[bytes]:
    """The bytes that `source` sends, in blocks that differ by their place in the stream."""
    filler = hashlib.shake_128(b"xec_forward").digest(_BLOCK - 8)
    for number in range(-(-length // _BLOCK)):
        block = struct.pack(">Q", number) + filler
        yield block[: length - number * _BLOCK]


def pattern_digest(length: int) -> str:
    """The sha256 of `pattern(length)` as hex."""
    digest = hashlib.sha256()
    for block in pattern(length):
        digest.update(block)
    return digest.hexdigest()


def _echo(client: socket.socket) -> None:
    while data := client.recv(_BLOCK):
        client.sendall(data)


def _source(client: socket.socket) -> None:
    line = client.makefile("rb").readline()
    for block in pattern(int(line or 0)):
        client.sendall(block)


def _pausing(client: socket.socket) -> None:
    length = int(client.makefile("rb").readline() or 0)
    blocks = list(pattern(length))
    for block in blocks[: len(blocks) // 2]:
        client.sendall(block)
    time.sleep(PAUSE)
    for block in blocks[len(blocks) // 2 :]:
        client.sendall(block)


def _sink(client: socket.socket) -> None:
    (left,) = struct.unpack(">Q", client.recv(8, socket.MSG_WAITALL))
    digest = hashlib.sha256()
    while left and (data := client.recv(min(left, 4 * _BLOCK))):
        digest.update(data)
        left -= len(data)
    client.sendall(f"{digest.hexdigest()}\n".encode())


def _reply(client: socket.socket) -> None:
    length = 0
    while data := client.recv(_BLOCK):
        length += len(data)
    client.sendall(f"{length}\n".encode())


def _banner(client: socket.socket) -> None:
    client.sendall(b"HELLO\n")


def _reset(client: socket.socket) -> None:
    client.recv(_BLOCK)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _half(client: socket.socket) -> None:
    client.sendall(b"HELLO\n")
    client.shutdown(socket.SHUT_WR)
    _silent(client)


def _deaf(client: socket.socket) -> None:
    threading.Event().wait()


def _silent(client: socket.socket) -> None:
    while client.recv(_BLOCK):
        pass


_swallowed: list[int] = []  # bytes of each piece; to append is one step, whichever thread does it


def _swallow(client: socket.socket) -> None:
    while data := client.recv(_BLOCK):
        _swallowed.append(len(data))


def _tally(client: socket.socket) -> None:
    client.sendall(b"%d\n" % sum(_swallowed))


PORTS: dict[str, tuple[int, Callable[[socket.socket], None]]] = {
    "echo": (7000, _echo),
    "source": (7001, _source),
    "sink": (7002, _sink),
    "reply": (7003, _reply),
    "banner": (7004, _banner),
    "pausing": (7005, _pausing),
    "reset": (7006, _reset),
    "half": (7007, _half),
    "deaf": (7009, _deaf),
    "silent": (7010, _silent),
    "swallow": (7011, _swallow),
    "tally": (7012, _tally),
}


def _serve(listener: socket.socket, behave: Callable[[socket.socket], None]) -> None:
    def one(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError, struct.error):
            behave(client)

    while True:
        client, _ = listener.accept()
        threading.Thread(target=one, args=(client,), daemon=True).start()


def listen(port: int, in_pod: bool) -> socket.socket:
    """A service's: in a pod on every address, IPv6 included (a cluster may have nothing else), else on 127.0.0.1."""
    if in_pod:
        with contextlib.suppress(OSError, ValueError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("" if in_pod else "127.0.0.1", port), backlog=1024)


def main(in_pod: bool) -> None:
    """Serve until the end of standard input; in a pod until SIGTERM."""
    ports: dict[int, int] = {}
    for port, behave in PORTS.values():
        listener = listen(port if in_pod else 0, in_pod)
        ports[port] = listener.getsockname()[1]
        threading.Thread(target=_serve, args=(listener, behave), daemon=True).start()
    print(json.dumps(ports), flush=True)
    if in_pod:
        # A container's first process ignores what it has no handler for.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        while True:
            signal.pause()
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main("pod" in sys.argv[1:])
