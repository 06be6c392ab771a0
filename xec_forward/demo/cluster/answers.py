"""What the API server answers when it refuses: Status objects, and the plain texts of kubelet and containerd."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping

from aiohttp import web

from .kinds import Body

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    500: "ServerTimeout",
}
# Go's net/http says no length of what is longer, and sends it in chunks.
_CHUNKED = 2048


def status(code: int, message: str, details: Mapping[str, str] | None = None) -> Body:
    """A Status object for a failure."""
    body: Body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    body["reason"] = _REASONS[code]
    if details:
        body["details"] = dict(details)
    return body | {"code": code}


def answer(body: object, code: int = 200) -> web.Response:
    """JSON as the API server sends it."""
    headers = {"Audit-Id": str(uuid.uuid4()), "Cache-Control": "no-cache, private"}
    content = compact(body)
    response = web.Response(body=content, status=code, content_type="application/json", headers=headers)
    if len(content) > _CHUNKED:
        response.enable_chunked_encoding()
    return response


def refusal(code: int, message: str, details: Mapping[str, str] | None = None) -> web.Response:
    """A failure told by the API server: a Status, and the connection stays."""
    return answer(status(code, message, details), code)


def busy(code: int) -> web.Response:
    """Who has too much to do (429), or whose store has no leader at the moment (500), wants to be asked again."""
    if code == 429:
        return web.Response(
            status=429, text="Too many requests, please try again later.\n", headers={"Retry-After": "1"}
        )
    response = refusal(500, "The get operation against pods could not be completed at this time, please try again.")
    response.headers["Retry-After"] = "1"
    return response


def plain(code: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """A failure told by the kubelet or by containerd: a line of text, or nothing, and the connection ends."""
    response = web.Response(status=code, text=text or None, headers=headers)
    response.force_close()
    return response


def compact(body: object) -> bytes:
    """One line of JSON."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
