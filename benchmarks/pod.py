"""What runs in the pod, by the standard library alone: `python pod.py [ECHO SOURCE SINK]` (ports, else any free ones).

    echo      sends back what it receives
    source    reads a line with a number N, and answers N bytes
    sink      reads a line with a number N, reads N bytes, and answers "ok"

Each listens on 127.0.0.1, where a port-forward ends. None waits for the end of what a client sends, which a
port-forward does not carry. It reports its ports as one line of JSON, and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial

BLOCK = 256 * 1024


def source(client: socket.socket) -> None:
    block = os.urandom(BLOCK)
    left = number(client)
    while left:
        left -= client.send(block[:left] if left < BLOCK else block)
    client.recv(1)


def sink(client: socket.socket) -> None:
    left = number(client)
    buffer = bytearray(BLOCK)
    while left and (count := client.recv_into(buffer)):
        left -= count
    if not left:
        client.sendall(b"ok")
    client.recv(1)


def number(client: socket.socket) -> int:
    """The first line that a client sends."""
    line = b""
    while not line.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            return 0
        line += byte
    return int(line)


def serve(listener: socket.socket, behave: Callable[[socket.socket], None]) -> None:
    def one(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            behave(client)

    while True:
        client, _ = listener.accept()
        threading.Thread(target=one, args=(client,), daemon=True).start()


def echo(listener: socket.socket) -> None:
    """All clients in one thread: to start another takes as long as a short exchange."""
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                client = key.fileobj
                assert isinstance(client, socket.socket)
                if client is listener:
                    client, _ = listener.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    ready.register(client, selectors.EVENT_READ)
                elif not echoed(client):
                    ready.unregister(client)
                    client.close()


def echoed(client: socket.socket) -> bool:
    """Send back what has come; False at the end."""
    try:
        data = client.recv(BLOCK)
        client.sendall(data)
    except OSError:
        return False
    return bool(data)


SERVICES: dict[str, Callable[[socket.socket], None]] = {
    "echo": echo,
    "source": partial(serve, behave=source),
    "sink": partial(serve, behave=sink),
}


def main(wanted: list[int]) -> None:
    ports = {}
    for (name, service), port in zip(SERVICES.items(), wanted, strict=True):
        listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        ports[name] = listener.getsockname()[1]
        threading.Thread(target=service, args=(listener,), daemon=True).start()
    print(json.dumps(ports), flush=True)
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 0, 0])
