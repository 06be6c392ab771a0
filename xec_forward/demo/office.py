"""More services behind the demo's bastion, those of a development environment: `python -m xec_forward.demo.office`.

    web.vpc:8000        a folder of files, by Python's own http.server
    cache.vpc:6379      a real redis-server, if one is installed
    search.vpc:9200     a small search service: GET / says what it is, GET /_search?q=WORD finds documents

Each listens on a unix socket in the folder, which goes when the process does (see `lifeline`). Configuration:
`folder`; `redis`, the program, or "".
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .lifeline import DemoError, ServiceProcess, released, remove_folder, report, serve

START_TIMEOUT = 30.0
NAMES = {"web": "web.vpc:8000", "cache": "cache.vpc:6379", "search": "search.vpc:9200"}
PAGE = "<!doctype html>\n<title>shop</title>\n<h1>The shop, in development</h1>\n"
DOCUMENTS = (
    {"id": 1, "title": "How orders are placed"},
    {"id": 2, "title": "How invoices are sent"},
    {"id": 3, "title": "Orders from abroad"},
)


class Office:
    """The services, started at once, ready after `wait_ready`, gone after `stop` or with whoever made them.

    Attributes:
        routes: where the bastion is to lead each `name:port`, for DemoServices.
    """

    def __init__(self, base: Path) -> None:
        self._folder = base / f"xec-demo-office-{secrets.token_hex(4)}"
        self.routes = {where: str(self._folder / f"{name}.sock") for name, where in NAMES.items()}
        config = {"folder": str(self._folder), "redis": redis_server()}
        self._process = ServiceProcess("the development services", "xec_forward.demo.office", config)

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until all serve. Raises DemoError, and then stops them."""
        try:
            self._process.ready(timeout)
        except DemoError:
            self.stop()
            raise

    def stop(self) -> None:
        """End them and remove their folder. Idempotent."""
        self._process.stop()
        remove_folder(self._folder)


def redis_server() -> str:
    """Where redis-server is, or ""."""
    return shutil.which("redis-server") or ""


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A server on a unix socket, with a thread for each client."""

    daemon_threads = True


class _Files(SimpleHTTPRequestHandler):
    """http.server's own handler; a client of a unix socket has no address to log."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class JsonHandler(BaseHTTPRequestHandler):
    """A handler that answers in JSON and logs nothing."""

    def answer(self, status: int, content: object) -> None:
        """Send the whole answer."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Search(JsonHandler):
    """Finds the documents whose title has a word."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/":
            self.answer(200, {"name": "search", "documents": len(DOCUMENTS)})
        elif url.path == "/_search":
            wanted = parse_qs(url.query).get("q", [""])[0].lower()
            hits = [document for document in DOCUMENTS if wanted in str(document["title"]).lower()]
            self.answer(200, {"total": len(hits), "hits": hits})
        else:
            self.answer(404, {"error": "no such page"})


def main(config: dict[str, Any]) -> None:
    """Serve until stdin ends. See the module's docstring for `config`."""
    os.umask(0o077)
    folder = Path(config["folder"])
    folder.mkdir(mode=0o700)
    try:
        site = folder / "site"
        site.mkdir()
        (site / "index.html").write_text(PAGE)
        for name, handler in (("web", partial(_Files, directory=str(site))), ("search", _Search)):
            server = UnixServer(str(folder / f"{name}.sock"), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        with _redis(str(config["redis"]), folder):
            report({"pid": os.getpid()})
            while not released(60.0):
                pass
    finally:
        remove_folder(folder)


@contextmanager
def _redis(program: str, folder: Path) -> Iterator[None]:
    """A redis-server that keeps nothing on disk; none where there is no program. Raises DemoError."""
    if not program:
        yield
        return
    path = folder / "cache.sock"
    process = subprocess.Popen(
        [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + START_TIMEOUT
        while not _pongs(path):
            if process.poll() is not None or time.monotonic() > end:
                raise DemoError("redis-server did not start")
            time.sleep(0.02)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pongs(path: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        return client.recv(16).startswith(b"+PONG")
    return False


if __name__ == "__main__":
    serve(main)
