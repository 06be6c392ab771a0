"""The port-forward endpoint of a pod: which protocol an upgrade gets, and the session behind it.

The API server looks first (Status answers), then the kubelet and containerd (plain texts), in the order that was
recorded. A WebSocket that offers both subprotocols gets the tunnel where the server has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .answers import plain, refusal
from .channels import ChannelSession
from .containerd import Sandbox
from .counts import Count
from .kinds import Body
from .streams import RawPipe, SpdySession, TunnelPipe
from .websocket import WebSocket, accept_key

if TYPE_CHECKING:
    from .server import State

TUNNEL = "SPDY/3.1+portforward.k8s.io"
V4 = "v4.channel.k8s.io"
RAW = "SPDY/3.1"
STREAM_PROTOCOL = "portforward.k8s.io"
_LINGER = 1.0  # seconds
_FAREWELL = 1.0  # likewise, for the end of the connection


async def portforward(request: web.Request, state: State, user: str, pod: Body | None) -> web.StreamResponse:
    """Answer one request for the endpoint, and serve its session to the end."""
    namespace, name = request.match_info["namespace"], request.match_info["name"]
    upgrade = request.headers.get("Upgrade", "").lower()
    websocket = upgrade == "websocket"
    if websocket and state.checks_create and not state.access.allows(user, "create", "pods/portforward", namespace):
        # The second check, from 1.35 on, gives no reason.
        return refusal(403, f'pods "{name}" is forbidden: ', {"name": name, "kind": "pods"})
    if pod is None:
        return refusal(404, f'pods "{name}" not found', {"name": name, "kind": "pods"})
    if not websocket and (upgrade != RAW.lower() or "spdy-raw" not in state.protocols):
        return refusal(400, "Upgrade request required")
    try:
        ports = [_port(word) for words in request.query.getall("ports", []) for word in words.split(",")]
    except ValueError as error:
        return refusal(400, f"cannot convert to []int32: {error}")
    if "nodeName" not in pod["spec"]:
        return refusal(400, f"pod {name} does not have a host assigned")
    if pod["status"]["phase"] in ("Failed", "Succeeded") and "deletionTimestamp" not in pod["metadata"]:
        return plain(500, f'pod not found ("{name}_{namespace}")')
    if websocket:
        return await _websocket(request, state, pod, ports)
    return await _raw(request, state, pod)


def _port(word: str) -> int:
    if not word.isdecimal():
        raise ValueError(f'strconv.ParseUint: parsing "{word}": invalid syntax')
    if int(word) > 65535:
        raise ValueError(f'strconv.ParseUint: parsing "{word}": value out of range')
    return int(word)


async def _websocket(request: web.Request, state: State, pod: Body, ports: list[int]) -> web.StreamResponse:
    if request.method != "GET":
        return plain(405, "Method Not Allowed\n", {"Sec-Websocket-Version": "13"})
    if request.headers.get("Sec-WebSocket-Version") != "13":
        return plain(400, "Bad Request\n", {"Sec-Websocket-Version": "13"})
    offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if TUNNEL in offered and "spdy-tunnel" in state.protocols:
        chosen, kind = TUNNEL, "spdy-tunnel"
    elif not ports:
        return plain(400, 'query parameter "port" is required')
    elif 0 in ports:
        return plain(400, 'port "0" must be > 0')
    elif (V4 in offered or offered == [""]) and "v4" in state.protocols:
        chosen, kind = V4 if V4 in offered else "", "v4"
    else:
        return plain(403, "")
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(request.headers.get('Sec-WebSocket-Key', ''))}\r\n"
        f"Sec-WebSocket-Protocol: {chosen}\r\n\r\n"
    )
    sandbox = state.controller.sandboxes[pod["metadata"]["uid"]]
    with state.upgrade(kind):
        async with Hijacked(request, head) as connection:
            socket = WebSocket(connection.reader, connection.writer)
            if kind == "v4":
                await connection.serve(_channels(socket, ChannelSession(socket, sandbox, ports, state.streams)))
            else:
                await connection.serve(_tunnel(socket, sandbox, state.streams))
    return web.Response()


async def _channels(socket: WebSocket, session: ChannelSession) -> None:
    await session.run()
    await socket.close()


async def _tunnel(socket: WebSocket, sandbox: Sandbox, count: Count) -> None:
    pipe = TunnelPipe(socket)
    await SpdySession(pipe, sandbox, count).run()
    await pipe.outlive()
    await socket.close()


async def _raw(request: web.Request, state: State, pod: Body) -> web.StreamResponse:
    offered = request.headers.getall("X-Stream-Protocol-Version", [])
    words = [word.strip() for value in offered for word in value.split(",")]
    if not words:
        count = len(request.headers) + 1  # less Host, and with two of the API server's own
        text = f"unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {count} headers\n"
        return plain(400, text)
    if STREAM_PROTOCOL not in words:
        text = (
            f"unable to upgrade: unable to negotiate protocol: client supports [{' '.join(words)}], "
            f"server accepts [{STREAM_PROTOCOL}]\n"
        )
        return plain(403, text, {"X-Accepted-Stream-Protocol-Versions": STREAM_PROTOCOL})
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        f"X-Stream-Protocol-Version: {STREAM_PROTOCOL}\r\nDate: {formatdate(usegmt=True)}\r\n\r\n"
    )
    sandbox = state.controller.sandboxes[pod["metadata"]["uid"]]
    with state.upgrade("spdy-raw"):
        async with Hijacked(request, head) as connection:
            pipe = RawPipe(connection.reader, connection.writer)
            await connection.serve(SpdySession(pipe, sandbox, state.streams).run())
    return web.Response()


class Hijacked:
    """The connection of a request, taken over for its upgrade: used as a context, it is closed at the end.

    The 101 is written here, byte for byte; aiohttp's response that follows finds the connection gone.
    """

    def __init__(self, request: web.Request, head: str) -> None:
        transport = request.transport
        # One that is on its way to its end tells so whom it had before.
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reader = asyncio.StreamReader(limit=256 * 1024)
        protocol = _Upgraded(self.reader, request, self._gone)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self.writer = asyncio.StreamWriter(transport, protocol, self.reader, asyncio.get_running_loop())
        self.writer.write(head.encode())

    async def __aenter__(self) -> Hijacked:
        return self

    async def serve(self, session: Coroutine[Any, Any, None]) -> None:
        """Run a session to its end.

        When the client is gone it may still take what was received, for a moment. A client that goes while its upload
        is stalled is not noticed before the pod reads on, as with containerd: nobody reads from it then.
        """
        task = asyncio.create_task(session)
        try:
            await asyncio.wait((task, self._gone), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((task,), timeout=_LINGER)
        finally:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, Exception) and not isinstance(outcome, OSError):
            raise outcome

    async def __aexit__(self, *exception: object) -> None:
        self.writer.close()
        await asyncio.wait((self._gone,), timeout=_FAREWELL)
        if not self._gone.done():
            self.writer.transport.abort()
            await asyncio.wait((self._gone,), timeout=_FAREWELL)


class _Upgraded(asyncio.StreamReaderProtocol):
    """A stream's protocol that tells the HTTP server when the connection ends."""

    def __init__(self, reader: asyncio.StreamReader, request: web.Request, gone: asyncio.Future[None]) -> None:
        super().__init__(reader)
        self._http = request.protocol
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._http.connection_lost(exc)
        if not self._gone.done():
            self._gone.set_result(None)
