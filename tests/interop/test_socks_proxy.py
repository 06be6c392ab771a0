"""The SOCKS proxy (S5, S23-S25) with the clients people use, over a real sshd."""

from __future__ import annotations

import hashlib
import logging
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import requests

import xec_forward as xf
from tests.interop.test_reconnection import in_background, until
from tests.peers.services import Services, pattern_digest
from tests.peers.sshd import Sshd
from tests.peers.sshd import missing as sshd_missing
from xec_forward.client.session import current

USER, SECRET = "ana", "s3cr3t-of-the-proxy"


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def serving(server: HTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture
def web() -> Iterator[int]:
    """An HTTP server's port on 127.0.0.1."""
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Page)) as port:
        yield port


def open_proxy(**options: object) -> xf.Tunnel:
    return xf.ssh("bastion").forward(type="dynamic", local_port=0, **options)  # type: ignore[arg-type]


def curl(*words: str) -> subprocess.CompletedProcess[str]:
    path = shutil.which("curl")
    if path is None:
        pytest.skip("curl")
    command = [path, "-q", "-sS", "--noproxy", "", "--max-time", "20", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def connect5(proxy: int, host: str, port: int, *, command: int = 1) -> tuple[int, socket.socket]:
    """A SOCKS5 request by hand: the reply code, and the connection."""
    client = socket.create_connection(("127.0.0.1", proxy), timeout=20)
    client.sendall(b"\5\1\0")
    assert client.recv(2) == b"\5\0"
    name = host.encode()
    client.sendall(bytes([5, command, 0, 3, len(name)]) + name + struct.pack(">H", port))
    reply = b""
    while len(reply) < 10:
        more = client.recv(10 - len(reply))
        assert more, f"ended after {reply!r}"
        reply += more
    return reply[1], client


def code5(proxy: int, host: str, port: int, *, command: int = 1) -> int:
    code, client = connect5(proxy, host, port, command=command)
    with client:
        if code:
            assert client.recv(1) == b""  # in order, not by a reset
    return code


@pytest.mark.parametrize("scheme", ["--socks4", "--socks4a", "--socks5", "--socks5-hostname"])
def test_curl_reaches_a_page_with_each_protocol(bastion: Sshd, web: int, scheme: str) -> None:
    # With the "a" and "hostname" forms the name goes to the bastion, which alone knows it.
    host = bastion.far() if scheme in ("--socks4a", "--socks5-hostname") else "127.0.0.1"
    with open_proxy() as proxy:
        done = curl(scheme, f"127.0.0.1:{proxy.local_port}", f"http://{host}:{web}/")
        assert (done.stdout, done.stderr) == ("hello", "")
        assert proxy.error is None


def test_requests_and_httpx_take_the_handle_s_proxies(bastion: Sshd, web: int) -> None:
    with open_proxy() as proxy:
        assert proxy.name == "socks"
        assert proxy.url is not None
        assert proxy.url.reveal() == f"socks5h://127.0.0.1:{proxy.local_port}"
        page = f"http://{bastion.far()}:{web}/"
        with requests.Session() as session:
            session.trust_env = False
            assert session.get(page, proxies=proxy.proxies, timeout=20).text == "hello"
        with httpx.Client(proxy=proxy.url, trust_env=False, timeout=20) as client:
            assert client.get(page).text == "hello"
        mounts = {f"{scheme}://": httpx.HTTPTransport(proxy=url) for scheme, url in proxy.proxies.items()}
        with httpx.Client(mounts=mounts, trust_env=False, timeout=20) as client:
            assert client.get(page).text == "hello"


def test_proxies_of_another_kind_of_tunnel_is_one_clear_error(bastion: Sshd, services: Services) -> None:
    with xf.ssh("bastion").forward(remote_host=bastion.far(), remote_port=services.echo, local_port=0) as tunnel:
        with pytest.raises(xf.ConfigError, match="no SOCKS proxy"):
            _ = tunnel.proxies


def test_address_of_the_newer_kind_is_reached(bastion: Sshd) -> None:
    try:
        server = Server6(("::1", 0), Page)
    except OSError:
        pytest.skip("IPv6 on loopback")
    with serving(server) as port, open_proxy() as proxy:
        done = curl("--socks5", f"127.0.0.1:{proxy.local_port}", f"http://[::1]:{port}/")
        assert (done.stdout, done.stderr) == ("hello", "")


def test_replies_tell_refused_from_unknown_from_prohibited(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := sshd_missing():
        pytest.skip(missing)
    folder = tmp_path / "strict"
    folder.mkdir()
    open_to = f"127.0.0.1:{services.echo} 127.0.0.1:{services.refused} nowhere.invalid:{services.echo}"
    with Sshd(folder, options={"PermitOpen": open_to}) as strict:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(strict.write_config(tmp_path / "config")))
        with open_proxy() as proxy:
            port = proxy.local_port
            assert code5(port, "127.0.0.1", services.echo) == 0
            assert proxy.error is None
            assert code5(port, "127.0.0.1", services.refused) == 5
            until(lambda: isinstance(proxy.error, xf.RefusedError))
            assert code5(port, "nowhere.invalid", services.echo) == 4
            until(lambda: isinstance(proxy.error, xf.NameNotFoundError))
            assert code5(port, "127.0.0.1", services.reply) == 2
            until(lambda: isinstance(proxy.error, xf.ProhibitedError))
            assert proxy.state is xf.TunnelState.READY
            current().refresh()
            assert proxy.stats.refused == 3


@pytest.mark.parametrize("command", [2, 3], ids=["BIND", "UDP ASSOCIATE"])
def test_other_commands_are_refused_by_their_code(bastion: Sshd, services: Services, command: int) -> None:
    with open_proxy() as proxy:
        assert code5(proxy.local_port, "127.0.0.1", services.echo, command=command) == 7
        until(lambda: proxy.error is not None)
        assert "is not supported, only CONNECT" in str(proxy.error)


def test_bytes_behind_the_request_arrive_and_a_download_is_whole(bastion: Sshd, services: Services) -> None:
    size = 10 * 1024 * 1024
    with open_proxy() as proxy, socket.create_connection(("127.0.0.1", proxy.local_port), timeout=20) as client:
        request = b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + struct.pack(">H", services.source)
        client.sendall(b"\5\1\0" + request + b"%d\n" % size)
        received = bytearray()
        while data := client.recv(1 << 18):
            received += data
    assert received[:12] == b"\5\0\5\0\0\1\0\0\0\0\0\0"
    assert hashlib.sha256(received[12:]).hexdigest() == pattern_digest(size)


def test_many_clients_at_once_reach_different_ends(bastion: Sshd, services: Services) -> None:
    def one(number: int) -> bytes:
        code, client = connect5(proxy.local_port, bastion.far(), services.echo if number % 2 else services.reply)
        with client:
            assert code == 0
            client.sendall(b"%d" % number)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b""))

    with open_proxy() as proxy, ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(one, range(40)))
    assert all(answer == b"%d" % n for n, answer in enumerate(answers) if n % 2)
    assert all(answer.startswith(b"%d " % len(str(n))) for n, answer in enumerate(answers) if not n % 2)


def test_client_that_asks_during_an_outage_is_answered_when_the_bastion_returns(
    bastion: Sshd, services: Services
) -> None:
    def through() -> bytes:
        code, client = connect5(proxy.local_port, bastion.far(), services.echo)
        with client:
            client.sendall(b"patience")
            return bytes([code]) + client.recv(100)

    with open_proxy() as proxy:
        bastion.kill()
        until(lambda: proxy.state is xf.TunnelState.RECONNECTING)
        waiting = in_background(through)
        until(lambda: (current().refresh(), proxy.stats.parked)[1])  # type: ignore[func-returns-value]
        bastion.start()
        assert waiting.result(10) == b"\0patience"


def test_client_held_too_long_is_told_so_by_a_reply(bastion: Sshd, services: Services) -> None:
    with open_proxy(hold=0.3) as proxy:
        bastion.kill()
        until(lambda: proxy.state is xf.TunnelState.RECONNECTING)
        assert code5(proxy.local_port, bastion.far(), services.echo) == 6


def test_talk_is_no_part_of_the_hold_and_ends_by_itself(bastion: Sshd, services: Services) -> None:
    with open_proxy(hold=0, timeout=1) as proxy, socket.create_connection(("127.0.0.1", proxy.local_port), 10) as mute:
        assert code5(proxy.local_port, bastion.far(), services.echo) == 0
        assert proxy.error is None
        assert mute.recv(1) == b""
        until(lambda: "a client did not say within 1 s where it wants to go" in str(proxy.error))


def test_login_is_demanded_and_its_secret_is_shown_nowhere(
    bastion: Sshd, web: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    with open_proxy(socks_user=USER, socks_password=lambda: SECRET) as proxy:
        where, page = f"127.0.0.1:{proxy.local_port}", f"http://{bastion.far()}:{web}/"
        assert curl("--socks5-hostname", where, "--proxy-user", f"{USER}:{SECRET}", page).stdout == "hello"
        for wrong in (f"{USER}:wrong", f"eve:{SECRET}"):
            done = curl("--socks5-hostname", where, "--proxy-user", wrong, page)
            assert done.returncode == 97  # CURLE_PROXY
            assert done.stdout == ""
        until(lambda: proxy.error is not None)
        assert "its user or password is wrong" in str(proxy.error)
        for scheme in ("--socks5-hostname", "--socks4a"):
            assert curl(scheme, where, page).returncode == 97
        with requests.Session() as session:
            session.trust_env = False
            assert session.get(page, proxies=proxy.proxies, timeout=20).text == "hello"
        url = proxy.url
        assert url is not None
        assert url.reveal() == f"socks5h://{USER}:{SECRET}@{where}"
        shown = [repr(proxy), repr(url), str(url), f"{url}", repr(proxy.proxies), repr(proxy.snapshot)]
        shown += [repr(proxy.request), repr(proxy.error), repr(proxy.trait_values()), repr(current().sources)]
    shown += [caplog.text, *capfd.readouterr()]
    shown += [path.read_text(errors="replace") for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert not [text for text in shown if SECRET in text]


def test_login_without_a_password_to_be_had_is_one_clear_error(bastion: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(xf.ConfigError, match="SOCKS proxy") as caught:
        open_proxy(socks_user=USER, socks_password="env:THERE_IS_NO_SUCH_VARIABLE")
    assert "--socks-password" in str(caught.value)
    assert not xf.tunnels


def test_most_connections_holds_for_a_proxy_too(bastion: Sshd, services: Services) -> None:
    with open_proxy(max_connections=1) as proxy:
        code, first = connect5(proxy.local_port, bastion.far(), services.echo)
        with first:
            assert code == 0
            with pytest.raises(ConnectionResetError):
                connect5(proxy.local_port, bastion.far(), services.echo)
            first.sendall(b"1")
            assert first.recv(1) == b"1"


def test_http_client_is_told_what_this_is(bastion: Sshd) -> None:
    with open_proxy() as proxy:
        done = curl("--proxy", f"http://127.0.0.1:{proxy.local_port}", "http://127.0.0.1:9/")
        assert "SOCKS" in done.stdout
        until(lambda: proxy.error is not None)
        assert "socks5h://" in str(proxy.error)
