"""The grammar of SPEC and TARGET: every form of docs/surface.md, and a good error for each wrong one."""

from __future__ import annotations

import builtins
import keyword
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xec_forward.errors import SpecError
from xec_forward.services import PORTS, SCHEMES, port_for_scheme, port_for_service, scheme_for_port
from xec_forward.source import Source, SourceKind, parse_source
from xec_forward.spec import (
    Endpoint,
    Forward,
    Kind,
    check_name,
    default_name,
    parse_forward,
    parse_target,
    refuse_password,
)
from xec_forward.spec.names import identifier
from xec_forward.spec.words import quote, redact

MARK = "hunter2Zq"
HERE, ANY = Endpoint(), Endpoint(port=0)
PG = Endpoint("pg.vpc", 5432)

LOCAL = [
    ("5432:pg.vpc:5432", Endpoint(port=5432), PG),
    ("127.0.0.1:5432:pg.vpc:5432", Endpoint("127.0.0.1", 5432), PG),
    ("localhost:5432:pg.vpc:5432", Endpoint("localhost", 5432), PG),
    ("0:pg.vpc:5432", ANY, PG),
    ("pg.vpc:5432", HERE, PG),
    ("pg.vpc.:5432", HERE, Endpoint("pg.vpc.", 5432)),
    ("10.0.0.7:5432", HERE, Endpoint("10.0.0.7", 5432)),
    ("pg.vpc:postgresql", HERE, PG),
    ("15432:pg.vpc:POSTGRES", Endpoint(port=15432), PG),
    ("5432", HERE, Endpoint(port=5432)),
    ("65535", HERE, Endpoint(port=65535)),
    ("*:5432:pg.vpc:5432", Endpoint("*", 5432), PG),
    (":5432:pg.vpc:5432", Endpoint("*", 5432), PG),
    ("[::1]:5432:[fd00::7]:5432", Endpoint("::1", 5432), Endpoint("fd00::7", 5432)),
    ("[fe80::1%eth0]:5432", HERE, Endpoint("fe80::1%eth0", 5432)),
    ("/run/me/pg.sock:pg.vpc:5432", Endpoint(path="/run/me/pg.sock"), PG),
    (
        "5432:/run/postgresql/.s.PGSQL.5432",
        Endpoint(port=5432),
        Endpoint(path="/run/postgresql/.s.PGSQL.5432"),
    ),
    ("127.0.0.1:0:/run/docker.sock", Endpoint("127.0.0.1", 0), Endpoint(path="/run/docker.sock")),
    ("/tmp/a.sock:/run/b.sock", Endpoint(path="/tmp/a.sock"), Endpoint(path="/run/b.sock")),
]
REMOTE = [
    ("8080:localhost:3000", Endpoint(port=8080), Endpoint("localhost", 3000)),
    ("0:localhost:3000", ANY, Endpoint("localhost", 3000)),
    ("*:8080:localhost:3000", Endpoint("*", 8080), Endpoint("localhost", 3000)),
    ("[::]:8080:[::1]:3000", Endpoint("::", 8080), Endpoint("::1", 3000)),
    ("/run/api.sock:localhost:3000", Endpoint(path="/run/api.sock"), Endpoint("localhost", 3000)),
    ("8080:/run/api.sock", Endpoint(port=8080), Endpoint(path="/run/api.sock")),
]
DYNAMIC = [
    ("1080", Endpoint(port=1080)),
    ("0", ANY),
    ("127.0.0.1:1080", Endpoint("127.0.0.1", 1080)),
    ("[::1]:0", Endpoint("::1", 0)),
    ("*:1080", Endpoint("*", 1080)),
]
URLS = [
    ("postgresql://ana@pg.vpc/sales?sslmode=require", "pg.vpc", 5432),
    ("postgresql+psycopg://pg.vpc:6432/sales", "pg.vpc", 6432),
    ("postgres://ana@[fd00::7]/sales", "fd00::7", 5432),
    ("redis://redis.vpc/0", "redis.vpc", 6379),
    ("HTTPS://grafana.vpc/d/1?x=a:b", "grafana.vpc", 443),
    ("clickhouse://ch.vpc", "ch.vpc", 8123),
    ("mongodb://m.vpc:27018/?directConnection=true", "m.vpc", 27018),
]


@pytest.mark.parametrize(("word", "listen", "connect"), LOCAL)
def test_every_local_form_is_read(word: str, listen: Endpoint, connect: Endpoint) -> None:
    assert parse_forward(word) == Forward(Kind.LOCAL, listen, connect)
    assert parse_forward(f"db={word}") == Forward(Kind.LOCAL, listen, connect, "db")


@pytest.mark.parametrize(("word", "listen", "connect"), REMOTE)
def test_every_remote_form_is_read(word: str, listen: Endpoint, connect: Endpoint) -> None:
    assert parse_forward(word, kind=Kind.REMOTE) == Forward(Kind.REMOTE, listen, connect)
    assert parse_forward(f"api={word}", kind=Kind.REMOTE).name == "api"


@pytest.mark.parametrize(("word", "listen"), DYNAMIC)
def test_every_dynamic_form_is_read(word: str, listen: Endpoint) -> None:
    assert parse_forward(word, kind=Kind.DYNAMIC) == Forward(Kind.DYNAMIC, listen, None)
    assert parse_forward(f"out={word}", kind=Kind.DYNAMIC).name == "out"


@pytest.mark.parametrize(("url", "host", "port"), URLS)
def test_a_url_gives_host_port_and_itself(url: str, host: str, port: int) -> None:
    assert parse_forward(url) == Forward(Kind.LOCAL, HERE, Endpoint(host, port), "", url)
    assert parse_forward(f"sales={url}") == Forward(Kind.LOCAL, HERE, Endpoint(host, port), "sales", url)


# (word, kind, what the reason says, what the hint says)
WRONG = [
    ("", Kind.LOCAL, "empty", "5432:pg.vpc:5432"),
    ("redis", Kind.LOCAL, "a port is expected", "redis:6379"),
    ("pg.vpc", Kind.LOCAL, "a port is expected", "pg.vpc:5432"),
    ("5432:pg.vpc", Kind.LOCAL, "far port", "5432:pg.vpc:5432"),
    ("5432:redis", Kind.LOCAL, "far host", "5432:redis:5432"),
    ("15432:5432", Kind.LOCAL, "far host", "15432:localhost:5432"),
    (":5432", Kind.LOCAL, "far host is missing", "0:localhost:5432"),
    ("5432:pg.vpc:", Kind.LOCAL, "far port is missing", "5432:pg.vpc:5432"),
    ("5432::5432", Kind.LOCAL, "far host", "5432:localhost:5432"),
    ("127.0.0.1:5432:pg.vpc", Kind.LOCAL, "far port", "127.0.0.1:5432:pg.vpc:5432"),
    ("pg.vpc:5432:5432", Kind.LOCAL, "far host", "5432:pg.vpc:5432"),
    ("a:b:c:d:9", Kind.LOCAL, "too many colons", "5432:pg.vpc:5432"),
    ("0", Kind.LOCAL, "far port", "5432"),
    ("65536", Kind.LOCAL, "from 1 to 65535", "5432"),
    ("5432:pg.vpc:0", Kind.LOCAL, "from 1 to 65535", "5432:pg.vpc:5432"),
    ("65536:pg.vpc:1", Kind.LOCAL, "from 0 to 65535", "5432:pg.vpc:5432"),
    ("-1:pg.vpc:1", Kind.LOCAL, "local port", "5432:pg.vpc:5432"),
    ("٥٤٣٢", Kind.LOCAL, "a port is expected", "5432"),
    ("::1", Kind.LOCAL, "brackets", "[::1]:5432"),
    ("::1:5432", Kind.LOCAL, "brackets", "[::1]:5432"),
    ("2001:db8::7:5432", Kind.LOCAL, "brackets", "[2001:db8::7]:5432"),
    ("5432:fd00::7:5432", Kind.LOCAL, "brackets", "5432:[fd00::7]:5432"),
    ("5432:::1:5432", Kind.LOCAL, "brackets", "5432:[::1]:5432"),
    ("127.0.0.1:5432:fd00::7:5432", Kind.LOCAL, "brackets", "127.0.0.1:5432:[fd00::7]:5432"),
    ("[pg.vpc]:5432", Kind.LOCAL, "IPv6", "pg.vpc:5432"),
    ("[::1:5432", Kind.LOCAL, "not closed", "5432:pg.vpc:5432"),
    ("5432:[::1]x:5432", Kind.LOCAL, "after a bracket", "5432:pg.vpc:5432"),
    ("/run/x.sock", Kind.LOCAL, "both sides", "0:/run/x.sock"),
    ("/run/x.sock:5432", Kind.LOCAL, "far host", "/run/x.sock:localhost:5432"),
    ("127.0.0.1:/run/x.sock", Kind.LOCAL, "local port", "127.0.0.1:0:/run/x.sock"),
    ("-oProxyCommand=x:5432", Kind.LOCAL, "identifier", "Name it oproxycommand"),
    ("-host:5432", Kind.LOCAL, "no host name", "5432:pg.vpc:5432"),
    ("pg..vpc:5432", Kind.LOCAL, "no host name", "5432:pg.vpc:5432"),
    ("10.0.0:5432", Kind.LOCAL, "neither a name nor", "5432:pg.vpc:5432"),
    (" 5432:pg.vpc:5432", Kind.LOCAL, "white space", "5432:pg.vpc:5432"),
    ("5432: pg.vpc:5432", Kind.LOCAL, "white space", "5432:pg.vpc:5432"),
    ("5432:pg\x07.vpc:5432", Kind.LOCAL, "control character", "5432:pg.vpc:5432"),
    ("=5432", Kind.LOCAL, "name in front", "pg=pg.vpc:5432"),
    ("pg=", Kind.LOCAL, "nothing stands after", "5432:pg.vpc:5432"),
    ("my-db=5432", Kind.LOCAL, "identifier", "my_db"),
    ("class=5432", Kind.LOCAL, "class", "class_"),
    ("db=pg.vpc", Kind.LOCAL, "a port is expected", "db=pg.vpc:5432"),
    ("ana@pg.vpc:5432", Kind.LOCAL, "no user", "Write pg.vpc:5432"),
    ("ftp://x/y", Kind.LOCAL, "scheme ftp", "Write HOST:PORT"),
    ("amqp://rabbit.vpc:5672/", Kind.LOCAL, "scheme amqp", "rabbit.vpc:5672"),
    ("postgre://pg.vpc/x", Kind.LOCAL, "scheme postgre", "postgres"),
    ("mongodb+srv://m.vpc/x", Kind.LOCAL, "scheme mongodb+srv", "mongodb"),
    ("ssh://bastion", Kind.LOCAL, "TARGET", "ssh://ana@bastion"),
    ("postgresql:///sales", Kind.LOCAL, "far host is missing", "postgresql://pg.vpc/sales"),
    ("postgresql://fd00::7/sales", Kind.LOCAL, "too many colons", "postgresql://[fd00::7]/sales"),
    ("postgresql://pg.vpc:0/sales", Kind.LOCAL, "port is malformed", "postgresql://ana@pg.vpc:5432"),
    ("postgresql://a,b/sales", Kind.LOCAL, "far host is malformed", "postgresql://ana@pg.vpc:5432"),
    ("postgresql://pg.vpc/s#x", Kind.LOCAL, "fragment", "%23"),
    ("postgresql://pg.vpc/s@x", Kind.LOCAL, "@", "%40"),
    ("15432:postgresql://pg.vpc/s", Kind.LOCAL, "stands alone", "--dsn URL"),
    ("8080", Kind.REMOTE, "target's port", "-R 8080:localhost:8080"),
    ("8080:3000", Kind.REMOTE, "near host", "-R 8080:localhost:3000"),
    ("localhost:3000", Kind.REMOTE, "listen", "-R 0:localhost:3000"),
    ("8080:localhost:0", Kind.REMOTE, "near port", "-R 8080:localhost:8080"),
    ("http://x", Kind.REMOTE, "no URL", "-R 8080:localhost:3000"),
    ("socks", Kind.DYNAMIC, "local port", "-D 1080"),
    ("::1:1080", Kind.DYNAMIC, "brackets", "-D [::1]:1080"),
    ("a:1080:b", Kind.DYNAMIC, "only a port", "-D 1080"),
    ("/run/socks", Kind.DYNAMIC, "local port", "-D 1080"),
    ("http://x", Kind.DYNAMIC, "no URL", "-D 1080"),
]


@pytest.mark.parametrize(("word", "kind", "reason", "hint"), WRONG)
def test_every_wrong_form_is_quoted_explained_and_mended(word: str, kind: Kind, reason: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_forward(word, kind=kind)
    error = caught.value
    assert error.code == "ESPEC"
    assert quote(word) in error.message
    assert reason in error.message
    assert hint in error.hint
    assert len(str(error).splitlines()) == 1
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize(("word", "kind"), [row[:2] for row in WRONG])
def test_a_hint_is_a_form_that_works(word: str, kind: Kind) -> None:
    with pytest.raises(SpecError) as caught:
        parse_forward(word, kind=kind)
    found = re.fullmatch(r"Write (?:-[RD] )?(\S+)", caught.value.hint)
    if found and not found[1].endswith("://"):
        parse_forward(found[1], kind=kind)


TARGETS = [
    ("bastion", "bastion", "", None),
    ("prod_bastion-1", "prod_bastion-1", "", None),
    ("ana@bastion", "bastion", "ana", None),
    ("ana@bastion.example.com:2222", "bastion.example.com", "ana", 2222),
    ("ana@corp@bastion", "bastion", "ana@corp", None),
    ("bastion:ssh", "bastion", "", 22),
    ("203.0.113.9", "203.0.113.9", "", None),
    ("[fd00::1]:2222", "fd00::1", "", 2222),
    ("ana@[fd00::1]", "fd00::1", "ana", None),
    ("ssh://bastion", "bastion", "", None),
    ("ssh://ana@bastion:2222/", "bastion", "ana", 2222),
    ("SSH://an%61@[fd00::1]:22", "fd00::1", "ana", 22),
]


@pytest.mark.parametrize(("word", "host", "user", "port"), TARGETS)
def test_every_form_of_target_is_read(word: str, host: str, user: str, port: int | None) -> None:
    target = parse_target(word)
    assert (target.host, target.username, target.port) == (host, user, port)


@pytest.mark.parametrize(
    ("word", "reason", "hint"),
    [
        ("", "empty", "alias"),
        ("bas tion", "white space", "alias"),
        ("bas\ntion", "white space", "alias"),
        ("-oProxyCommand=touch", "no host name", "alias"),
        ("-bastion", "no host name", "alias"),
        ("ana@-bastion", "malformed", "alias"),
        ("-ana@bastion", "user", "user@host"),
        ("@bastion", "user", "user@host"),
        ("bastion:", "port is missing", "Write bastion"),
        ("bastion:0", "from 1 to 65535", "alias"),
        ("bastion:22x", "from 1 to 65535", "alias"),
        ("::1", "brackets", "Write [::1]"),
        ("ana@fd00::1", "brackets", "Write ***@[fd00::1]"),
        ("5432:pg.vpc:5432", "too many colons", "TARGET comes first"),
        ("5432", "neither a name", "TARGET comes first"),
        ("http://bastion", "SSH host", "TARGET comes first"),
        ("ssh://bastion/x", "ends after the port", "ssh://user@host:port"),
        ("ssh://", "host is missing", "alias"),
        ("ssh://a%0Ab@bastion", "user", "user@host"),
        ("ana:pw@bastion", "no password", "--ssh-password SOURCE"),
        ("ssh://ana:pw@bastion", "no password", "--ssh-password SOURCE"),
    ],
)
def test_every_wrong_target_is_quoted_explained_and_mended(word: str, reason: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_target(word)
    assert quote(word) in caught.value.message
    assert reason in caught.value.message
    assert hint in caught.value.hint


SECRETIVE = [
    "postgresql://ana:{}@pg.vpc/sales",
    "postgresql://{}:x@pg.vpc/sales",
    "postgresql://{}@/sales",
    "postgresql://{}@pg.vpc:x/sales",
    "postgresql://ana:{}/x@pg.vpc/sales",
    "postgresql://ana:x/{}@pg.vpc/sales",
    "postgresql://ana:12/{}@pg.vpc/sales",
    "postgresql://ana:x?{}@pg.vpc/sales",
    "postgresql://ana:x#{}@pg.vpc/sales",
    "postgresql://ana:x@{}@pg.vpc/sales",
    "postgresql://ana:{} x@pg.vpc/sales",
    "postgresql://ana:{}\x00@pg.vpc/sales",
    "postgresql://ana:{}[@pg.vpc/sales",
    "postgresql://ana:{}",
    "postgresql://ana:{}/sales",
    "postgresql://pg.vpc/sales?password={}",
    "postgresql://pg.vpc/sales?user=a&PassWord={}&x=1",
    "postgresql://pg.vpc/sales?p%61ssword={}",
    "sales=postgresql://ana:{}@pg.vpc/sales",
    "1a=postgresql://ana:{}@pg.vpc/sales",
    "class=postgresql://ana:{}@pg.vpc/sales",
    "nope://ana:{}@pg.vpc/sales",
    "jdbc:postgresql://ana:{}@pg.vpc/sales",
    "5432:postgresql://ana:{}@pg.vpc/sales",
    "ana:{}@pg.vpc:5432",
    "{}:x@pg.vpc:5432",
    "{}:/x@pg.vpc:5432",
    "{}=x@pg.vpc:5432",
    "x-{}=x@pg.vpc:5432",
    "ana:{}@pg.vpc:/run/x.sock",
    "5432:ana:{}@pg.vpc:5432",
    "ssh://ana:{}@bastion",
    "ssh://{}:x@bastion:0",
    "ssh://{}@bastion/x",
    "ana:{}@bastion",
    "{}@bastion:0",
]


@pytest.mark.parametrize("shape", SECRETIVE)
def test_user_info_never_appears_in_an_error(shape: str) -> None:
    word = shape.format(MARK)
    for kind in Kind:
        with pytest.raises(SpecError) as caught:
            parse_forward(word, kind=kind)
        assert_silent(caught.value)
    try:
        parse_target(word)
    except SpecError as error:
        assert_silent(error)


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_user_info_never_appears_whatever_stands_around_it(front: str, before: str, after: str) -> None:
    for word in (f"{front}://{before}{MARK}{after}@pg.vpc:x", f"{before}{MARK}{after}@pg.vpc:x:y:z:0"):
        try:
            parse_forward(word)
        except SpecError as error:
            assert_silent(error)
        assert MARK not in redact(word) or MARK in front


def assert_silent(error: SpecError) -> None:
    seen = f"{error} {error!r} {error.args} {error.__cause__} {error.__context__}".lower()
    assert MARK.lower() not in seen


@pytest.mark.parametrize("url", ["postgresql://ana:pw@/sales", "redis://:pw@h", "postgresql://h/d?password=pw"])
def test_a_password_in_a_url_is_refused_with_the_option_that_takes_it(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        refuse_password(url, fix="--password")
    assert "pw" not in str(caught.value)
    assert "--password SOURCE: env:NAME, keyring:SERVICE/USER" in caught.value.hint
    refuse_password("postgresql://ana@/sales?sslmode=require", fix="--password")
    with pytest.raises(SpecError) as caught:
        refuse_password(url, fix="give password= a SOURCE")
    assert caught.value.hint == "Leave it out and give password= a SOURCE"


@settings(deadline=None)  # the test has a limit of its own, in processor time
@given(st.text(), st.sampled_from(Kind))
@example("a://" * 5000, Kind.LOCAL)
@example("5:" + "a" * 50000 + ":5", Kind.LOCAL)
@example("[" * 5000, Kind.LOCAL)
@example(":" * 5000, Kind.LOCAL)
@example("::" + "1:" * 5000, Kind.LOCAL)
@example("a." * 5000 + "!", Kind.LOCAL)
@example("postgresql://" + ":" * 5000 + "@", Kind.LOCAL)
@example("a=" * 5000, Kind.REMOTE)
@example("postgresql://a?" + "pass;&=" * 5000, Kind.LOCAL)
@example("\ud800", Kind.LOCAL)
@example("postgresql://ana@h\ud800/", Kind.LOCAL)
def test_no_text_raises_anything_but_spec_error(text: str, kind: Kind) -> None:
    start = time.process_time()
    for read in (lambda: parse_forward(text, kind=kind), lambda: parse_target(text)):
        error = problem(read)
        if error is not None:
            assert len(str(error).splitlines()) == 1
            assert len(str(error)) < 1000
    assert time.process_time() - start < 0.5


def problem(read: Callable[[], object]) -> SpecError | None:
    try:
        read()
    except SpecError as error:
        return error
    return None


_grammar = st.text(alphabet="a0159.:[]/@=-%*?#& é", max_size=40)


@given(_grammar, st.sampled_from(Kind))
def test_no_near_miss_raises_anything_but_spec_error(text: str, kind: Kind) -> None:
    for read in (lambda: parse_forward(text, kind=kind), lambda: parse_target(text)):
        error = problem(read)
        assert error is None or error.hint


_labels = st.from_regex(r"[a-z][a-z0-9_-]{0,8}(\.[a-z0-9]{1,5}){0,2}", fullmatch=True)
_hosts = st.one_of(_labels, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), st.just("fe80::1%eth0"))
_far = st.one_of(
    st.builds(Endpoint, _hosts, st.integers(1, 65535)),
    st.from_regex(r"/[a-z0-9._/-]{1,20}", fullmatch=True).map(lambda path: Endpoint(path=path)),
)
_listen = st.one_of(
    st.builds(Endpoint, st.one_of(st.just(""), st.just("*"), _hosts), st.integers(0, 65535)),
    st.from_regex(r"/[a-z0-9._/-]{1,20}", fullmatch=True).map(lambda path: Endpoint(path=path)),
)
_names = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))


@given(st.one_of(st.just(""), _names), _listen, _far, st.sampled_from([Kind.LOCAL, Kind.REMOTE]))
def test_endpoints_written_out_are_read_back(name: str, listen: Endpoint, far: Endpoint, kind: Kind) -> None:
    # ":5432" is what an Endpoint without a host prints; in a SPEC that would be the wildcard.
    written = str(listen.port) if not listen.host and not listen.path else str(listen)
    word = f"{name}={written}:{far}" if name else f"{written}:{far}"
    assert parse_forward(word, kind=kind) == Forward(kind, listen, far, name)


@given(_hosts, st.one_of(st.none(), st.integers(1, 65535)), st.sampled_from(["", "ana", "ana.b", "ana@corp"]))
def test_targets_written_out_are_read_back(host: str, port: int | None, user: str) -> None:
    word = f"{user}@{Endpoint(host, port)}" if user else str(Endpoint(host, port))
    target = parse_target(word)
    assert (target.host, target.port, target.username) == (host, port, user)


@pytest.mark.parametrize(
    ("word", "kind", "target", "name"),
    [
        ("5432:pg.vpc:5432", Kind.LOCAL, "bastion", "pg"),
        ("5432:PG.vpc:5432", Kind.LOCAL, "bastion", "pg"),
        ("sales=pg.vpc:5432", Kind.LOCAL, "bastion", "sales"),
        ("postgresql://ana@pg-main.vpc/sales", Kind.LOCAL, "bastion", "pg_main"),
        ("class.vpc:80", Kind.LOCAL, "bastion", "class_"),
        ("list.vpc:80", Kind.LOCAL, "bastion", "list_"),
        ("in.vpc:80", Kind.LOCAL, "bastion", "in_"),
        ("3scale.vpc:80", Kind.LOCAL, "bastion", "host_3scale"),
        ("_3.vpc:80", Kind.LOCAL, "bastion", "host_3"),
        ("_.vpc:80", Kind.LOCAL, "bastion", "tunnel"),
        ("5432", Kind.LOCAL, "bastion.example.com", "bastion_5432"),
        ("5432:localhost:5432", Kind.LOCAL, "bastion", "bastion_5432"),
        ("5432:10.0.0.7:5432", Kind.LOCAL, "my-bastion", "my_bastion_5432"),
        ("5432:[fd00::7]:5432", Kind.LOCAL, "203.0.113.9", "host_203_0_113_9_5432"),
        ("5433:/run/postgresql/.s.PGSQL.5432", Kind.LOCAL, "bastion", "bastion_5433"),
        ("0:/run/docker.sock", Kind.LOCAL, "bastion", "bastion_docker"),
        ("1080", Kind.DYNAMIC, "bastion", "socks"),
        ("8080:localhost:3000", Kind.REMOTE, "bastion", "remote_8080"),
        ("0:localhost:3000", Kind.REMOTE, "bastion", "remote_3000"),
        ("/run/api.sock:/run/x", Kind.REMOTE, "bastion", "remote_api"),
    ],
)
def test_default_names_follow_the_surface(word: str, kind: Kind, target: str, name: str) -> None:
    assert default_name(parse_forward(word, kind=kind), target) == name


@given(st.text())
def test_a_made_name_is_never_a_keyword_a_builtin_or_an_output_number(text: str) -> None:
    name = identifier(text)
    assert name.isidentifier()
    assert not keyword.iskeyword(name)
    assert not hasattr(builtins, name)
    assert not name.startswith("_")
    assert check_name(name) == name


def test_a_written_name_is_normalised_as_python_does() -> None:
    assert parse_forward("ﬁle=5432").name == "file"


@pytest.mark.parametrize("port", SCHEMES)
def test_every_known_port_has_a_scheme_and_every_scheme_a_port(port: int) -> None:
    assert port_for_scheme(scheme_for_port(port)) is not None
    assert all(port_for_service(scheme) == PORTS[scheme] for scheme in PORTS)
    assert scheme_for_port(1) == ""
    assert port_for_scheme("mongodb+srv") is None
    assert port_for_scheme("postgresql+psycopg") == 5432


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("env:PGPASSWORD", SourceKind.ENV, "PGPASSWORD"),
        ("keyring:sales/ana", SourceKind.KEYRING, "sales/ana"),
        ("keyring:https://x/y/ana", SourceKind.KEYRING, "https://x/y/ana"),
        ("cmd:pass show db", SourceKind.CMD, "pass show db"),
        ("file:~/.secret", SourceKind.FILE, "~/.secret"),
        ("prompt", SourceKind.PROMPT, ""),
    ],
)
def test_every_kind_of_source_is_read_and_shows_only_its_kind(text: str, kind: SourceKind, value: str) -> None:
    source = parse_source(text, "--password")
    assert (source.kind, source.value) == (kind, value)
    assert source.reference == Source(kind, value).reference
    assert re.fullmatch(rf"{kind}:[0-9a-f]{{16}}", source.reference)
    assert not value or value not in f"{source!r} {source} {source.reference}"
    assert str(source) == kind


@pytest.mark.parametrize(
    "text",
    [
        *("", MARK, f"{MARK}:x", f"x:{MARK}", f"={MARK}", f"--{MARK}", f"secret:{MARK}/key", f"prompt:{MARK}"),
        *("env:", f"ENV:{MARK}", f"env:{MARK} x", f"env:{MARK}=1", f"env:{MARK}\ud800"),
        *(f"keyring:{MARK}", f"keyring:/{MARK}", f"keyring:{MARK}/", "cmd:", "cmd: ", f"cmd:{MARK}\n", "file:"),
    ],
)
def test_a_literal_or_malformed_source_is_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_source(text, "--password")
    assert_silent(caught.value)
    assert "--password" in caught.value.message
    assert re.search("env:NAME|keyring:SERVICE/USER|cmd:COMMAND|file:PATH|secret:NAME/KEY", caught.value.hint)
