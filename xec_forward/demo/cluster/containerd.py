"""The pod's side of a port-forward, as containerd 2.1 behaves: one connection from a sandbox to a port in it.

What a client of it must live with, and what this copies: the first side to end closes everything one second
later; a half-close never reaches the pod; errors are known only by their text, which comes after the end of the
data; a pod that is deleted ends its connections without a word. The texts are containerd's own.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

Address = tuple[str, int] | str  # a host and a port, or the path of a unix socket

LARGEST_READ = 32768  # bytes: io.Copy's buffer, and so the largest DATA frame that a client sees


@dataclass(slots=True)
class Timing:
    """Seconds that things take; tests may shorten them.

    Attributes:
        close_wait: from the first side's end to the end of the connection.
        lone_stream: how long one stream of a pair is waited for.
        endpoints: from DELETE to the EndpointSlice that says so.
        stop: from DELETE to the end of the pod's processes.
        sandbox: from DELETE to the end of the sandbox: its network namespace is closed.
        removal: from DELETE to the pod's end in the API.
        start: from a replacement's creation to its readiness.
    """

    close_wait: float = 1.0
    lone_stream: float = 30.0
    endpoints: float = 0.05
    stop: float = 0.1
    sandbox: float = 0.6
    removal: float = 1.6
    start: float = 0.75


class PortForwardError(Exception):
    """What containerd says of a connection that failed; its text goes to the client."""


class SandboxClosed(PortForwardError):
    """The pod is gone, and its network namespace with it."""


class Sandbox:
    """A pod's sandbox: where its ports lead.

    Args:
        serves: the real address behind each port; on any other port nothing listens.
        timing: how long its connections wait for their other side.
    """

    def __init__(self, serves: Mapping[int, Address], timing: Timing) -> None:
        self.id = secrets.token_hex(32)
        self.namespace = f"/var/run/netns/cni-{uuid.uuid4()}"
        self.serves = dict(serves)
        self.timing = timing
        self.running = True
        self.closed = False
        self.connections: set[PodConnection] = set()

    def stop(self) -> None:
        """The pod's processes end: its connections see the end of their data, and nothing listens any more."""
        self.running = False
        for connection in self.connections:
            connection.lose()

    def close(self) -> None:
        """The sandbox ends too."""
        self.stop()
        self.closed = True


class PodConnection:
    """One connection to a port of a pod.

    Args:
        sandbox: the pod's.
        port: its port.
        send: takes what the pod sends, and returns once the client has room for more.
    """

    def __init__(self, sandbox: Sandbox, port: int, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._sandbox = sandbox
        self._port = port
        self._send = send
        self._opened = asyncio.Event()
        self._client_ended = asyncio.Event()
        self._write_error: OSError | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lost = False

    async def write(self, data: bytes) -> None:
        """Give data to the pod; returns when its socket has taken it. Dropped where the connection is over."""
        await self._opened.wait()
        if self._writer is None or self._lost or self._client_ended.is_set():
            return
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            if not self._lost:
                self._write_error = error
                self._client_ended.set()

    def end(self) -> None:
        """The client has ended its side; the pod is not told."""
        self._client_ended.set()

    def lose(self) -> None:
        """The pod's process is gone: its data ends here, what is sent to it vanishes."""
        self._lost = True
        if self._writer is not None:
            self._writer.transport.abort()

    async def run(self) -> None:
        """Carry the connection from its opening to its end.

        Raises:
            PortForwardError: nothing listens, or the pod's side failed; SandboxClosed where the pod is gone.
        """
        if self._sandbox.closed:
            self._opened.set()
            raise SandboxClosed(
                f"error forwarding port {self._port} to pod {self._sandbox.id}, uid : "
                f'network namespace for sandbox "{self._sandbox.id}" is closed'
            )
        self._sandbox.connections.add(self)
        try:
            reader = await self._connect()
            await self._carry(reader)
        finally:
            self._sandbox.connections.discard(self)
            self._opened.set()
            self._client_ended.set()
            if self._writer is not None:
                _close(self._writer)

    async def _connect(self) -> asyncio.StreamReader:
        address = self._sandbox.serves.get(self._port) if self._sandbox.running else None
        try:
            if address is None:
                raise ConnectionRefusedError
            if isinstance(address, str):
                reader, self._writer = await asyncio.open_unix_connection(address, limit=LARGEST_READ)
            else:
                reader, self._writer = await asyncio.open_connection(*address, limit=LARGEST_READ)
        except OSError:
            raise self._failed(
                f'failed to connect to localhost:{self._port} inside namespace "{self._sandbox.id}", '
                f"IPv4: dial tcp4 127.0.0.1:{self._port}: connect: connection refused "
                "IPv6 dial tcp6: address localhost: no suitable address found "
            ) from None
        # drain() then waits until the socket has taken everything, as a blocking write does.
        self._writer.transport.set_write_buffer_limits(high=0)
        self._opened.set()
        return reader

    async def _carry(self, reader: asyncio.StreamReader) -> None:
        download = asyncio.create_task(self._download(reader))
        upload = asyncio.create_task(self._client_ended.wait())
        sides = {download, upload}
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            if not self._write_error:
                await asyncio.wait(sides, timeout=self._sandbox.timing.close_wait)
            if self._write_error:
                raise self._failed(f"readfrom tcp4 {self._route()}: write tcp4 {self._route()}: write: broken pipe")
            if download.done() and not self._lost and isinstance(download.exception(), OSError):
                reason = "connection reset by peer"
                raise self._failed(f"writeto tcp4 {self._route()}: read tcp4 {self._route()}: read: {reason}")
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)

    async def _download(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(LARGEST_READ):
            await self._send(data)

    def _failed(self, reason: str) -> PortForwardError:
        return PortForwardError(
            f"error forwarding port {self._port} to pod {self._sandbox.id}, uid : "
            f'failed to execute portforward in network namespace "{self._sandbox.namespace}": {reason}'
        )

    def _route(self) -> str:
        assert self._writer is not None
        near = self._writer.get_extra_info("sockname")
        return f"127.0.0.1:{near[1] if isinstance(near, tuple) else 0}->127.0.0.1:{self._port}"


def _close(writer: asyncio.StreamWriter) -> None:
    # A write that the pod never takes would keep the socket open for ever.
    with suppress(RuntimeError):
        if writer.transport.get_write_buffer_size():
            writer.transport.abort()
        else:
            writer.close()
