"""The SOCKS handshake (S5, S23-S25): the bytes of the RFCs, in pieces of any size; real clients at the end."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xec_forward.engine.socks import Handshake, Progress, Reply, reply_for
from xec_forward.errors import (
    AuthenticationError,
    ClosedError,
    DeadlineError,
    ForwardError,
    HostKeyError,
    LimitError,
    LostError,
    NameNotFoundError,
    ProhibitedError,
    RefusedError,
    UnreachableError,
)
from xec_forward.spec import Endpoint

USER, PASSWORD = "ana", "s3cret: ü"
LOGIN = (USER, PASSWORD)
# The longest message that can be incomplete: SOCKS4a's, without its last NUL (RFC 1929's login has 513 bytes).
MOST_HELD = 8 + 255 + 1 + 255

HELLO5 = b"\x05\x01\x00"
TO_IPV4 = b"\x05\x01\x00\x01\xc0\x00\x02\x07\x15\x38"
TO_IPV6 = b"\x05\x01\x00\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x01\xbb"
TO_NAME = b"\x05\x01\x00\x03\x06pg.vpc\x15\x38"
# "SOCKS: A protocol for TCP proxy across firewalls" has Fred connect to 66.102.7.99:80 in every explanation of it.
FRED4 = b"\x04\x01\x00\x50\x42\x66\x07\x63Fred\x00"
FRED4A = b"\x04\x01\x00\x50\x00\x00\x00\x01Fred\x00example.com\x00"
OK5 = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
OK4 = b"\x00\x5a" + bytes(6)
NO4 = b"\x00\x5b" + bytes(6)


def login(user: str, password: str) -> bytes:
    one, other = user.encode(), password.encode()
    return bytes([1, len(one)]) + one + bytes([len(other)]) + other


def refusal5(reply: int) -> bytes:
    return bytes([5, reply, 0, 1, 0, 0, 0, 0, 0, 0])


class Talk(Handshake):
    """A handshake and the sum of what it said."""

    def hear(self, *pieces: bytes) -> Progress:
        send, rest, connect, refused = b"", b"", None, ""
        for piece in pieces:
            progress = self.receive(piece)
            send, rest = send + progress.send, rest + progress.rest
            connect, refused = connect or progress.connect, refused or progress.refused
        return Progress(send, connect, rest, refused)


REQUESTS = [
    pytest.param(HELLO5 + TO_IPV4, b"\x05\x00", Endpoint("192.0.2.7", 5432), OK5, id="socks5-ipv4"),
    pytest.param(HELLO5 + TO_IPV6, b"\x05\x00", Endpoint("2001:db8::1", 443), OK5, id="socks5-ipv6"),
    pytest.param(HELLO5 + TO_NAME, b"\x05\x00", Endpoint("pg.vpc", 5432), OK5, id="socks5-name"),
    pytest.param(
        b"\x05\x03\x01\x02\x00" + TO_NAME, b"\x05\x00", Endpoint("pg.vpc", 5432), OK5, id="socks5-many-methods"
    ),
    pytest.param(
        b"\x05\x01\x02" + login("any", "one") + TO_NAME,
        b"\x05\x02\x01\x00",
        Endpoint("pg.vpc", 5432),
        OK5,
        id="socks5-client-that-insists-on-a-login",
    ),
    pytest.param(FRED4, b"", Endpoint("66.102.7.99", 80), OK4, id="socks4"),
    pytest.param(FRED4A, b"", Endpoint("example.com", 80), OK4, id="socks4a"),
    pytest.param(
        b"\x04\x01\x00\x50\x00\x00\x00\xff\x00example.com\x00",
        b"",
        Endpoint("example.com", 80),
        OK4,
        id="socks4a-no-user",
    ),
    pytest.param(
        HELLO5 + b"\x05\x01\x00\x03\xff" + b"a" * 255 + b"\x00\x01", b"\x05\x00", Endpoint("a" * 255, 1), OK5, id="long"
    ),
    pytest.param(
        b"\x04\x01\xff\xff\x00\x00\x00\x01" + b"u" * 255 + b"\0" + b"n" * 255 + b"\0",
        b"",
        Endpoint("n" * 255, 65535),
        OK4,
        id="socks4a-long",
    ),
    pytest.param(HELLO5 + b"\x05\x01\x00\x03\x05[::1]\x00\x50", b"\x05\x00", Endpoint("::1", 80), OK5, id="brackets"),
    pytest.param(
        HELLO5 + b"\x05\x01\x00\x03\x07b\xc3\xbc.vpc\x00\x50", b"\x05\x00", Endpoint("bü.vpc", 80), OK5, id="utf-8"
    ),
]


@pytest.mark.parametrize(("said", "answer", "connect", "accepted"), REQUESTS)
def test_request_is_understood_whole_and_byte_by_byte(
    said: bytes, answer: bytes, connect: Endpoint, accepted: bytes
) -> None:
    for pieces in ([said], [bytes([one]) for one in said]):
        talk = Talk()
        assert talk.hear(*pieces) == Progress(answer, connect)
        assert talk.held == 0
        assert talk.accepted() == accepted


@pytest.mark.parametrize(("said", "answer", "connect", "accepted"), REQUESTS)
def test_bytes_behind_the_request_are_handed_back(
    said: bytes, answer: bytes, connect: Endpoint, accepted: bytes
) -> None:
    payload = b"\x05GET / HTTP/1.1\r\n\r\n\x00" * 10_000
    talk = Talk()
    assert talk.hear(said + payload) == Progress(answer, connect, payload)
    assert talk.hear(b"more") == Progress(rest=b"more")
    assert talk.held == 0


@pytest.mark.parametrize(("said", "answer", "connect", "accepted"), REQUESTS)
def test_unfinished_request_waits_and_asks_for_nothing(
    said: bytes, answer: bytes, connect: Endpoint, accepted: bytes
) -> None:
    for length in range(len(said)):
        talk = Talk()
        progress = talk.hear(said[:length])
        assert (progress.connect, progress.refused, progress.rest) == (None, "", b"")
        assert talk.held <= MOST_HELD
        assert talk.failed(LostError("gone")) == b""
        with pytest.raises(RuntimeError):
            talk.accepted()


def test_right_user_and_password_are_let_in() -> None:
    said = b"\x05\x02\x00\x02" + login(*LOGIN) + TO_NAME
    for pieces in ([said], [bytes([one]) for one in said]):
        assert Talk(LOGIN).hear(*pieces) == Progress(b"\x05\x02\x01\x00", Endpoint("pg.vpc", 5432))


@pytest.mark.parametrize(
    ("user", "password"),
    [
        (USER, "wrong"),
        ("eve", PASSWORD),
        (USER, ""),
        ("", PASSWORD),
        ("", ""),
        (USER, PASSWORD + " "),
        ("x" * 255, "y" * 255),
    ],
)
def test_wrong_user_or_password_is_refused_and_named_nowhere(user: str, password: str) -> None:
    talk = Talk(LOGIN)
    progress = talk.hear(b"\x05\x01\x02" + login(user, password) + TO_NAME)
    assert progress == Progress(b"\x05\x02\x01\x01", refused="its user or password is wrong")
    assert talk.hear(TO_NAME) == Progress(), "what comes after a refusal is dropped"
    assert talk.held == 0


def test_password_stands_in_no_repr_and_in_no_attribute() -> None:
    talk = Handshake(LOGIN)
    talk.receive(b"\x05\x01\x02" + login(USER, "wr0ng"))
    text = repr(talk) + repr(vars(talk))
    assert PASSWORD not in text
    assert "wr0ng" not in text


def test_client_without_a_login_is_refused_where_one_is_demanded() -> None:
    progress = Talk(LOGIN).hear(HELLO5 + TO_NAME)
    assert progress.send == b"\x05\xff"
    assert "demanded" in progress.refused


@pytest.mark.parametrize("said", [b"\x05\x00", b"\x05\x01\x01", b"\x05\x02\x01\x80"])
def test_client_without_a_method_that_we_know_is_refused(said: bytes) -> None:
    progress = Talk().hear(said)
    assert progress.send == b"\x05\xff"
    assert progress.refused


@pytest.mark.parametrize("said", [FRED4, FRED4A])
def test_socks4_is_refused_where_a_password_is_demanded(said: bytes) -> None:
    progress = Talk(LOGIN).hear(said)
    assert progress.send == NO4
    assert "use SOCKS5" in progress.refused


@pytest.mark.parametrize(("command", "name"), [(2, "BIND"), (3, "UDP ASSOCIATE"), (0, "command 0"), (9, "command 9")])
def test_other_commands_than_connect_are_refused_by_name(command: int, name: str) -> None:
    request = TO_NAME[:1] + bytes([command]) + TO_NAME[2:]
    assert not Talk().hear(HELLO5 + request[:-1]).refused, "not before all of it is read"
    progress = Talk().hear(HELLO5 + request)
    assert progress == Progress(b"\x05\x00" + refusal5(7), refused=f"{name} is not supported, only CONNECT")
    assert Talk().hear(FRED4[:1] + bytes([command]) + FRED4[2:]) == Progress(
        NO4, refused=f"{name} is not supported, only CONNECT"
    )


@pytest.mark.parametrize("kind", [0, 2, 5, 255])
def test_unknown_address_type_is_refused_with_its_reply(kind: int) -> None:
    progress = Talk().hear(HELLO5, b"\x05\x01\x00" + bytes([kind]) + b"\x00")
    assert progress.send == b"\x05\x00" + refusal5(8)
    assert str(kind) in progress.refused


@pytest.mark.parametrize(
    "name", [b"", b"\xff\xfe", b"a b", b"a\nb", b"a\0b", b"\x1b[31m", b" ", b"\x7f", "\u2028".encode()]
)
def test_name_that_can_be_none_is_refused(name: bytes) -> None:
    progress = Talk().hear(HELLO5 + b"\x05\x01\x00\x03" + bytes([len(name)]) + name + b"\x15\x38")
    assert progress.send == b"\x05\x00" + refusal5(4)
    assert progress.refused.isprintable()
    if b"\0" not in name:
        assert Talk().hear(b"\x04\x01\x15\x38\0\0\0\1\0" + name + b"\0").send == NO4


def test_port_0_is_refused() -> None:
    assert Talk().hear(HELLO5 + TO_NAME[:-2] + b"\0\0").send == b"\x05\x00" + refusal5(1)
    assert Talk().hear(b"\x04\x01\0\0" + FRED4[4:]).send == NO4


@pytest.mark.parametrize("start", [b"\x04\x01\x00\x50\x7f\0\0\1", b"\x04\x01\x00\x50\0\0\0\1user\0"])
def test_endless_user_id_or_name_is_refused_at_its_256th_byte(start: bytes) -> None:
    talk = Talk()
    assert talk.hear(start, b"u" * 255) == Progress()
    progress = talk.hear(b"u")
    assert progress.send == NO4
    assert "longer than 255" in progress.refused
    assert talk.held == 0


def test_malformed_login_and_request_are_refused() -> None:
    assert Talk(LOGIN).hear(b"\x05\x01\x02", b"\x05").send == b"\x05\x02\x01\x01"
    assert Talk().hear(HELLO5, b"\x04").send == b"\x05\x00" + refusal5(1)


@pytest.mark.parametrize(
    "said", [b"GET http://pg.vpc/ HTTP/1.1\r\n\r\n", b"CONNECT pg.vpc:443 HTTP/1.1\r\n", b"POST / HT"]
)
def test_http_is_told_to_use_socks(said: bytes) -> None:
    for pieces in ([said], [bytes([one]) for one in said]):
        progress = Talk().hear(*pieces)
        assert progress.send.startswith(b"HTTP/1.1 501 ")
        head, _, body = progress.send.partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        assert b"socks5h://" in body
        assert "HTTP" in progress.refused


def test_other_protocols_are_named_as_far_as_they_are_known() -> None:
    assert "TLS" in Talk().hear(b"\x16", b"\x03\x01\x02\x00\x01").refused
    assert "0x53" in Talk().hear(b"SSH-2.0-OpenSSH_9.2\r\n").refused
    assert "0x00" in Talk().hear(bytes(8)).refused
    assert not Talk().hear(b"CON").refused
    assert Talk().hear(b"CONFUSED").refused


REPLIES: list[tuple[ForwardError, Reply]] = [
    (ProhibitedError("x"), Reply.NOT_ALLOWED),
    (UnreachableError("x"), Reply.HOST_UNREACHABLE),
    (NameNotFoundError("x"), Reply.HOST_UNREACHABLE),
    (RefusedError("x"), Reply.REFUSED),
    (DeadlineError("x"), Reply.TTL_EXPIRED),
    (LostError("x"), Reply.GENERAL_FAILURE),
    (ClosedError("x"), Reply.GENERAL_FAILURE),
    (AuthenticationError("x"), Reply.GENERAL_FAILURE),
    (HostKeyError("x"), Reply.GENERAL_FAILURE),
    (LimitError("x"), Reply.GENERAL_FAILURE),
    (ForwardError("x"), Reply.GENERAL_FAILURE),
]


@pytest.mark.parametrize(("error", "reply"), REPLIES, ids=lambda value: type(value).__name__)
def test_failures_are_told_apart(error: ForwardError, reply: Reply) -> None:
    assert reply_for(error) is reply
    five, four = Talk(), Talk()
    five.hear(HELLO5 + TO_NAME)
    four.hear(FRED4A)
    assert five.failed(error) == refusal5(reply)
    assert four.failed(error) == NO4


# whatever comes

_messages = st.sampled_from(
    [
        HELLO5,
        b"\x05\x02\x00\x02",
        b"\x05\x01\x02",
        TO_IPV4,
        TO_IPV6,
        TO_NAME,
        FRED4,
        FRED4A,
        login(*LOGIN),
        login("a", "b"),
    ]
)
_streams = st.lists(_messages | st.binary(max_size=40) | st.binary(min_size=500, max_size=700), max_size=6).map(
    b"".join
)


@given(
    data=_streams,
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    credentials=st.none() | st.just(LOGIN) | st.just(("a", "b")),
)
@example(data=b"\x05", cuts=[], credentials=None)
@example(data=b"\x04" + b"u" * 600, cuts=[300], credentials=None)
def test_arbitrary_bytes_in_arbitrary_pieces_never_crash_and_never_pile_up(
    data: bytes, cuts: list[int], credentials: tuple[str, str] | None
) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    talk = Talk(credentials)
    heard = Progress()
    seen = 0
    for piece in pieces:
        seen += len(piece)
        progress = talk.receive(piece)
        assert talk.held <= MOST_HELD
        assert not (progress.connect and progress.refused)
        if heard.connect or heard.refused:
            assert (progress.connect, progress.refused, progress.send) == (None, "", b"")
        heard = Progress(
            heard.send + progress.send,
            heard.connect or progress.connect,
            heard.rest + progress.rest,
            heard.refused or progress.refused,
        )
    # The pieces do not matter.
    assert heard == Talk(credentials).hear(data)
    assert data.endswith(heard.rest)
    if heard.connect is not None:
        assert heard.connect.host
        assert 1 <= (heard.connect.port or 0) <= 65535
        assert talk.accepted()
    else:
        assert not heard.rest
        assert talk.failed(LostError("x")) == b""


@given(host=st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), port=st.integers(1, 65535))
def test_every_address_comes_out_as_it_went_in(host: bytes, port: int) -> None:
    import ipaddress

    kind = 1 if len(host) == 4 else 4
    progress = Talk().hear(HELLO5, bytes([5, 1, 0, kind]) + host + struct.pack("!H", port))
    assert progress.connect is not None
    assert ipaddress.ip_address(progress.connect.host).packed == host
    assert progress.connect.port == port


# real clients


class Proxy:
    """A SOCKS server of a few lines over `Handshake`, on a thread. Its far side is one small web server, known as
    `web.vpc`, as 127.0.0.1 and as ::1 on port 8000; every other name is unknown, port 1 is refused, 2 forbidden, 3
    unreachable and 4 silent."""

    def __init__(self, credentials: tuple[str, str] | None) -> None:
        self.asked: list[Endpoint] = []
        self.refused: list[str] = []
        self._credentials = credentials
        self._port: Future[int] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)
        self._thread.start()
        self.port = self._port.result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Handshake(self._credentials)
        try:
            async with asyncio.timeout(10):
                while data := await reader.read(7):  # odd pieces, as a network makes them
                    progress = talk.receive(data)
                    if progress.refused:
                        self.refused.append(progress.refused)
                    writer.write(progress.send)
                    if progress.refused:
                        break
                    if progress.connect is not None:
                        await self._answer(talk, progress.connect, progress.rest, reader, writer)
                        break
                writer.write_eof()
                while await reader.read(4096):
                    pass
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _answer(
        self,
        talk: Handshake,
        connect: Endpoint,
        early: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.asked.append(connect)
        if (error := self._far(connect)) is not None:
            writer.write(talk.failed(error))
            return
        writer.write(talk.accepted())
        request = early + (b"" if b"\r\n\r\n" in early else await reader.readuntil(b"\r\n\r\n"))
        body = b"%s saw %s" % (str(connect).encode(), request.split()[1])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))

    def _far(self, connect: Endpoint) -> ForwardError | None:
        ports: dict[int, ForwardError] = {
            1: RefusedError("x"),
            2: ProhibitedError("x"),
            3: UnreachableError("x"),
            4: DeadlineError("x"),
        }
        if connect.host not in ("web.vpc", "127.0.0.1", "::1"):
            return NameNotFoundError("x")
        return ports.get(connect.port or 0)


@pytest.fixture
def open_proxy() -> Iterator[Callable[..., Proxy]]:
    running: list[Proxy] = []

    def start(credentials: tuple[str, str] | None = None) -> Proxy:
        running.append(Proxy(credentials))
        return running[-1]

    yield start
    for proxy in running:
        proxy.close()


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("curl"):
        pytest.skip("curl (Debian: curl)")
    return subprocess.run(
        ["curl", "-q", "-sS", "--noproxy", "", "--max-time", "10", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize(
    ("option", "host", "connect"),
    [
        ("--socks4", "127.0.0.1", Endpoint("127.0.0.1", 8000)),
        ("--socks4", "localhost", Endpoint("127.0.0.1", 8000)),
        ("--socks4a", "web.vpc", Endpoint("web.vpc", 8000)),
        ("--socks5", "127.0.0.1", Endpoint("127.0.0.1", 8000)),
        ("--socks5", "[::1]", Endpoint("::1", 8000)),
        ("--socks5-hostname", "web.vpc", Endpoint("web.vpc", 8000)),
        ("--socks5-hostname", "127.0.0.1", Endpoint("127.0.0.1", 8000)),
        ("--socks5-hostname", "[::1]", Endpoint("::1", 8000)),
    ],
)
def test_curl_gets_through(open_proxy: Callable[..., Proxy], option: str, host: str, connect: Endpoint) -> None:
    proxy = open_proxy()
    done = curl(option, f"127.0.0.1:{proxy.port}", f"http://{host}:8000/page")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{connect} saw /page"
    assert proxy.asked == [connect]


def test_curl_with_the_right_password_gets_through_and_with_a_wrong_one_does_not(
    open_proxy: Callable[..., Proxy],
) -> None:
    proxy = open_proxy(LOGIN)
    through = ("--socks5-hostname", f"127.0.0.1:{proxy.port}", "http://web.vpc:8000/")
    assert curl("--proxy-user", f"{USER}:{PASSWORD}", *through).stdout == "web.vpc:8000 saw /"
    for refused in (curl("--proxy-user", f"{USER}:wrong", *through), curl(*through)):
        assert refused.returncode == 97, "a proxy's handshake failed (CURLE_PROXY)"
    assert len(proxy.asked) == 1
    done = curl("--socks4a", *through[1:])
    assert done.returncode == 97
    assert any("SOCKS4" in why for why in proxy.refused)
    assert not any(PASSWORD in why or "wrong:" in why for why in proxy.refused)


@pytest.mark.parametrize(("port", "reply"), [(1, 5), (2, 2), (3, 4), (4, 6)])
def test_curl_shows_why_a_channel_could_not_be_opened(open_proxy: Callable[..., Proxy], port: int, reply: int) -> None:
    proxy = open_proxy()
    done = curl("--socks5-hostname", f"127.0.0.1:{proxy.port}", f"http://web.vpc:{port}/")
    assert done.returncode == 97
    assert f"({reply})" in done.stderr
    done = curl("--socks4a", f"127.0.0.1:{proxy.port}", f"http://web.vpc:{port}/")
    assert done.returncode == 97
    assert "(91)" in done.stderr or "rejected or failed" in done.stderr


def test_curl_that_takes_it_for_an_http_proxy_is_told_so(open_proxy: Callable[..., Proxy]) -> None:
    proxy = open_proxy()
    done = curl("--proxy", f"http://127.0.0.1:{proxy.port}", "http://web.vpc:8000/")
    assert "socks5h://" in done.stdout
    done = curl("--proxy", f"http://127.0.0.1:{proxy.port}", "https://web.vpc:8000/")
    assert "501" in done.stderr
    assert len(proxy.refused) == 2
    done = curl("--proxy-insecure", "--proxy", f"https://127.0.0.1:{proxy.port}", "http://web.vpc:8000/")
    assert done.returncode == 35, "no TLS (CURLE_SSL_CONNECT_ERROR)"
    assert "TLS" in proxy.refused[-1]


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_requests_gets_through(open_proxy: Callable[..., Proxy], scheme: str) -> None:
    requests = pytest.importorskip("requests", reason="requests")
    pytest.importorskip("socks", reason="PySocks (requests[socks])")
    proxy = open_proxy()
    url = f"{scheme}://127.0.0.1:{proxy.port}"
    host = "web.vpc" if scheme in ("socks4a", "socks5h") else "127.0.0.1"
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://{host}:8000/page", proxies={"http": url, "https": url}, timeout=10)
    assert answer.text == f"{host}:8000 saw /page"


def test_requests_logs_in_and_is_told_why_not(open_proxy: Callable[..., Proxy]) -> None:
    requests = pytest.importorskip("requests", reason="requests")
    socks = pytest.importorskip("socks", reason="PySocks (requests[socks])")
    proxy = open_proxy(LOGIN)

    def get(user: str, port: int = 8000) -> str:
        url = f"socks5h://{user}@127.0.0.1:{proxy.port}"
        with requests.Session() as session:
            session.trust_env = False
            text: str = session.get(f"http://web.vpc:{port}/", proxies={"http": url}, timeout=10).text
            return text

    right = f"{USER}:{requests.utils.quote(PASSWORD)}"
    assert get(right) == "web.vpc:8000 saw /"
    with pytest.raises(requests.ConnectionError, match="SOCKS5 authentication failed"):
        get(f"{USER}:wrong")
    with pytest.raises(requests.ConnectionError, match="0x05: Connection refused"):
        get(right, 1)
    with pytest.raises(requests.ConnectionError, match="0x02"):
        get(right, 2)
    with pytest.raises(socks.ProxyError):
        with socks.socksocket() as client:
            client.set_proxy(socks.SOCKS4, "127.0.0.1", proxy.port)
            client.settimeout(10)
            client.connect(("127.0.0.1", 8000))


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_httpx_gets_through_and_logs_in(open_proxy: Callable[..., Proxy], scheme: str) -> None:
    httpx = pytest.importorskip("httpx", reason="httpx")
    pytest.importorskip("socksio", reason="socksio (httpx[socks])")
    proxy, closed = open_proxy(), open_proxy(("ana", "pw"))
    async with httpx.AsyncClient(proxy=f"{scheme}://127.0.0.1:{proxy.port}", trust_env=False, timeout=10) as client:
        assert (await client.get("http://web.vpc:8000/a")).text == "web.vpc:8000 saw /a"
        with pytest.raises(httpx.ProxyError, match="Connection refused"):
            await client.get("http://web.vpc:1/")
    url = f"{scheme}://ana:pw@127.0.0.1:{closed.port}"
    async with httpx.AsyncClient(proxy=url, trust_env=False, timeout=10) as client:
        assert (await client.get("http://web.vpc:8000/b")).text == "web.vpc:8000 saw /b"
    async with httpx.AsyncClient(proxy=url.replace("pw", "no"), trust_env=False, timeout=10) as client:
        with pytest.raises(httpx.ProxyError):
            await client.get("http://web.vpc:8000/c")
