"""Port-forward over the WebSocket subprotocol v4.channel.k8s.io: one connection for each port asked for.

A message begins with its channel: 2i is the data of the i-th port, 2i+1 its error text. The first message of each
channel is the port, two bytes little endian. One port's end is not told; the end of all closes the WebSocket.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

from .containerd import PodConnection, PortForwardError, Sandbox
from .counts import Count
from .websocket import WebSocket


class ChannelSession:
    """The channels of one WebSocket.

    Args:
        socket: it.
        sandbox: the pod's.
        ports: those asked for, in their order.
        count: of the connections.
    """

    def __init__(self, socket: WebSocket, sandbox: Sandbox, ports: Sequence[int], count: Count) -> None:
        self._socket = socket
        self._ports = ports
        self._count = count
        self._connections = [
            PodConnection(sandbox, port, lambda data, channel=2 * index: self._deliver(channel, data))  # type: ignore[misc]
            for index, port in enumerate(ports)
        ]

    async def run(self) -> None:
        """Serve until the client leaves or every port's connection has ended."""
        heads = [
            struct.pack("<BH", 2 * index + side, port) for index, port in enumerate(self._ports) for side in (0, 1)
        ]
        self._socket.send(*heads)
        reading = asyncio.create_task(self._read())
        forwards = asyncio.gather(*[self._forward(index) for index in range(len(self._ports))])
        try:
            await asyncio.wait((reading, forwards), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            forwards.cancel()
            await asyncio.gather(reading, forwards, return_exceptions=True)

    async def _read(self) -> None:
        while (received := await self._socket.receive()) is not None:
            message = received[1]
            if not message:
                continue
            index, error_side = divmod(message[0], 2)
            if index < len(self._connections) and not error_side:
                await self._connections[index].write(message[1:])

    async def _forward(self, index: int) -> None:
        try:
            with self._count:
                await self._connections[index].run()
        except PortForwardError as error:
            self._socket.send(bytes((2 * index + 1,)) + str(error).encode())

    async def _deliver(self, channel: int, data: bytes) -> None:
        self._socket.send(bytes((channel,)) + data)
        await self._socket.drain()
