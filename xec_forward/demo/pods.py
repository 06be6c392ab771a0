"""What runs in the pods of the demo's cluster, a small web service: `python -m xec_forward.demo.pods`.

    app.sock         GET / says what it is; GET /quote?amount=100&region=north computes a price
    metrics.sock     GET /metrics counts the quotes, as Prometheus reads it
    debugger.sock    debugpy in this very process, started for the first who asks

Each is a unix socket in the folder, which goes when the process does (see `lifeline`). debugpy itself can only listen
on a port: one of 127.0.0.1 is taken, of any number, from the first connection on. Configuration: `folder`.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .lifeline import released, remove_folder, report, serve
from .office import JsonHandler, UnixServer

NAMES = ("app", "metrics", "debugger")
SHIPPING = {"north": 4.5, "south": 6.0, "east": 5.5, "west": 5.0}
_PIECE = 65536  # bytes


class _Quotes:
    """How many quotes were given, for each region."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given = dict.fromkeys(SHIPPING, 0)

    def quote(self, amount: float, region: str) -> dict[str, float | str]:
        """The price of an order of `amount` to a region of SHIPPING."""
        shipping = SHIPPING[region]
        with self._lock:
            self._given[region] += 1
        return {"amount": amount, "region": region, "shipping": shipping, "total": amount + shipping}

    def exposition(self) -> str:
        """The counters in Prometheus' text format, version 0.0.4."""
        with self._lock:
            rows = [f'shop_quotes_total{{region="{region}"}} {count}' for region, count in self._given.items()]
        return "\n".join(["# HELP shop_quotes_total Quotes given.", "# TYPE shop_quotes_total counter", *rows, ""])


_quotes = _Quotes()


class _App(JsonHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/":
            self.answer(200, {"service": "quotes", "regions": list(SHIPPING)})
        elif url.path != "/quote":
            self.answer(404, {"error": "no such page"})
        elif asked.get("region") not in SHIPPING or not asked.get("amount", "").isdecimal():
            self.answer(400, {"error": "wanted: amount, a whole number, and region, one of " + ", ".join(SHIPPING)})
        else:
            self.answer(200, _quotes.quote(float(asked["amount"]), asked["region"]))


class _Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = urlsplit(self.path).path == "/metrics"
        body = _quotes.exposition().encode() if found else b"see /metrics\n"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


_starting = threading.Lock()


@cache
def _debugger() -> tuple[str, int]:
    """Where debugpy listens for a client; it is started if it is not."""
    # It warns on stderr that Python's own modules cannot be stepped through.
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    import debugpy  # a second of work that most demos never need

    host, port = debugpy.listen(("127.0.0.1", 0))
    return str(host), int(port)


class _Debugger(socketserver.BaseRequestHandler):
    """Leads a client to debugpy."""

    def handle(self) -> None:
        with _starting:
            address = _debugger()
        with suppress(OSError), socket.create_connection(address, timeout=10) as far:
            far.settimeout(None)
            back = threading.Thread(target=_copy, args=(far, self.request), daemon=True)
            back.start()
            _copy(self.request, far)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes until either side has ended, then end both."""
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            sink.sendall(piece)
    for side in (source, sink):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


def main(config: dict[str, Any]) -> None:
    """Serve until stdin ends. See the module's docstring for `config`."""
    os.umask(0o077)
    folder = Path(config["folder"])
    folder.mkdir(mode=0o700)
    try:
        for name, handler in zip(NAMES, (_App, _Metrics, _Debugger), strict=True):
            server = UnixServer(str(folder / f"{name}.sock"), handler)
            threading.Thread(target=server.serve_forever, name=name, daemon=True).start()
        report({"pid": os.getpid()})
        while not released(60.0):
            pass
    finally:
        remove_folder(folder)


if __name__ == "__main__":
    serve(main)
