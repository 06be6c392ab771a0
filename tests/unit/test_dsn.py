"""Connection strings and .pgpass: what is made, what is shown, what is refused. No server."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xec_forward.dsn import ConnectionString, Secret, make, parse_template, suffix, template_for
from xec_forward.dsn.pgpass import password_for, password_from_pgpass
from xec_forward.errors import ConfigError, SpecError
from xec_forward.spec import Endpoint, Forward, Kind

PASSWORD = "p@ss:w/rd%20#é ?&'\\"
PLAIN = "postgresql://ana:p%40ss%3Aw%2Frd%2520%23%C3%A9%20%3F%26%27%5C@127.0.0.1:49211/sales"
SHOWN = "postgresql://ana:***@127.0.0.1:49211/sales"


@pytest.fixture
def dsn() -> ConnectionString:
    return make("postgresql://ana@/sales", host="127.0.0.1", port=49211, password=PASSWORD)


# what is made


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("postgresql://ana@/sales", "postgresql://ana:s%20p@127.0.0.1:99/sales"),
        ("postgresql://ana@pg.vpc:5432/sales", "postgresql://ana:s%20p@127.0.0.1:99/sales"),
        ("postgres://ana@[fd00::1]:5432/sales", "postgresql://ana:s%20p@127.0.0.1:99/sales"),
        ("postgresql+psycopg://ana@/sales", "postgresql+psycopg://ana:s%20p@127.0.0.1:99/sales"),
        ("postgresql://ana%40corp@/my%2Fdb?application_name=a%20b", "postgresql://ana%40corp:s%20p@127.0.0.1:99/my%2Fdb?application_name=a%20b"),
        ("postgresql:///?dbname=sales&user=ana&host=pg.vpc&port=1", "postgresql://ana:s%20p@127.0.0.1:99/sales"),
        ("postgresql", "postgresql://:s%20p@127.0.0.1:99"),
        ("redis://redis.vpc/0", "redis://:s%20p@127.0.0.1:99/0"),
        ("mysql://ana@/sales", "mysql://ana:s%20p@127.0.0.1:99/sales"),
        ("mongodb://ana@m/sales", "mongodb://ana:s%20p@127.0.0.1:99/sales?directConnection=true"),
        ("mongodb://ana@m", "mongodb://ana:s%20p@127.0.0.1:99/?directConnection=true"),
        ("mongodb+srv://ana@m/?directConnection=false", "mongodb://ana:s%20p@127.0.0.1:99/?directConnection=false"),
    ],
)  # fmt: skip
def test_host_and_port_are_the_tunnels_and_the_rest_is_the_templates(template: str, made: str) -> None:
    assert make(template, host="127.0.0.1", port=99, password="s p").reveal() == made


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("http://api.vpc", "http://127.0.0.1:8080"),
        ("http://api.vpc:9000/v1/a%20b/@me?x=1+2#top", "http://127.0.0.1:8080/v1/a%20b/@me?x=1+2"),
        ("https://", "https://127.0.0.1:8080"),
        ("socks5h://", "socks5h://127.0.0.1:8080"),
    ],
)
def test_a_web_url_keeps_path_and_query_as_written(template: str, made: str) -> None:
    assert make(template, host="127.0.0.1", port=8080).reveal() == made


def test_the_scheme_may_come_from_elsewhere() -> None:
    assert make("", host="127.0.0.1", port=1, scheme="redis") == "redis://127.0.0.1:1"
    assert make("ana@/sales", host="127.0.0.1", port=1, scheme="mysql") == "mysql://ana@127.0.0.1:1/sales"


def test_a_wildcard_listener_is_reached_over_loopback_and_ipv6_stands_in_brackets() -> None:
    assert make("redis://", host="0.0.0.0", port=1) == "redis://127.0.0.1:1"
    assert make("redis://", host="::", port=1) == "redis://[::1]:1"
    assert make("redis://", host="::1", port=1).params["host"] == "::1"


@pytest.mark.parametrize(
    ("template", "path", "made"),
    [
        ("postgresql://ana@/sales", "/run/me/.s.PGSQL.5433", "postgresql://ana@/sales?host=/run/me&port=5433"),
        ("redis:///1", "/run/me/r.sock", "unix:///run/me/r.sock?db=1"),
        ("mysql://ana@/sales", "/run/me/m.sock", "mysql://ana@/sales?unix_socket=/run/me/m.sock"),
        ("mongodb://", "/run/me/m.sock", "mongodb://%2Frun%2Fme%2Fm.sock/?directConnection=true"),
    ],
)
def test_a_unix_socket_listener_is_written_as_its_clients_want_it(template: str, path: str, made: str) -> None:
    assert make(template, host=path, port=0).reveal() == made


def test_a_unix_socket_that_no_client_can_use_says_so() -> None:
    with pytest.raises(ConfigError, match=r"End its path with /\.s\.PGSQL\.5432"):
        make("postgresql://", host="/run/me/pg.sock", port=0)
    with pytest.raises(ConfigError, match="Listen on a port"):
        make("http://", host="/run/me/web.sock", port=0)


def test_verify_full_keeps_the_far_name_and_leads_to_the_tunnel_by_hostaddr() -> None:
    wanted = "postgresql://ana@pg.vpc:99/sales?hostaddr=127.0.0.1&sslmode=verify-full"
    assert make("postgresql://ana@pg.vpc/sales?sslmode=verify-full", host="127.0.0.1", port=99) == wanted
    named = make("postgresql://ana@/sales?sslmode=verify-full", host="127.0.0.1", port=99, far_host="pg.vpc")
    assert named == wanted
    assert named.env["PGHOST"] == "pg.vpc"
    assert named.env["PGHOSTADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    "template",
    [
        "postgresql://ana:S3CRET@/sales",
        "postgresql://ana:S3CRET@pg.vpc:5432/sales",
        "postgresql://ana:x/S3CRET@pg.vpc/sales",
        "postgresql://ana:12/S3CRET@pg.vpc/sales",
        "postgresql://ana:#S3CRET@pg.vpc/sales",
        "postgresql://ana:12?S3CRET@pg.vpc/sales",
        "postgresql://ana:x@S3CRET@pg.vpc/sales",
        "postgresql:///sales?user=ana&password=S3CRET",
        "postgresql:///sales?PassWord=S3CRET",
        "postgresql:///sales?sslpassword=S3CRET",
        "postgresql:///sales?%70assword=S3CRET",
        "redis://:S3CRET@/0",
        "http://ana:S3CRET@api.vpc/",
        "http://ana:x/S3CRET@api.vpc/",
        "host=pg.vpc user=ana password=S3CRET",
        "ana:S3CRET@pg.vpc/sales",
        "S3CRET",
    ],
)
def test_a_template_with_a_password_is_refused_without_repeating_it(template: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_template(template)
    assert "S3CRET" not in str(caught.value)
    assert "S3CRET" not in repr(caught.value)
    assert "S3CRET" not in str(ConnectionString(template)) or "://" not in template


def test_the_refusal_of_a_password_names_the_option_that_takes_its_place() -> None:
    with pytest.raises(SpecError, match=r"--password SOURCE: env:NAME"):
        make("postgresql://ana:x@/sales", host="127.0.0.1", port=1)


@pytest.mark.parametrize(
    ("forward", "option", "template"),
    [
        (Forward(Kind.LOCAL, Endpoint(), Endpoint("pg.vpc", 5432)), "", "postgresql://"),
        (Forward(Kind.LOCAL, Endpoint(), Endpoint("pg.vpc", 5432)), "mysql://a@/b", "mysql://a@/b"),
        (Forward(Kind.LOCAL, Endpoint(), Endpoint("r", 1), url="redis://r:1/0"), "", "redis://r:1/0"),
        (Forward(Kind.LOCAL, Endpoint(), Endpoint("r", 1), url="redis://r:1/0"), "redis:///1", "redis:///1"),
        (Forward(Kind.LOCAL, Endpoint(), Endpoint("x", 4711)), "", ""),
        (Forward(Kind.LOCAL, Endpoint(), Endpoint(path="/run/postgresql/.s.PGSQL.5432")), "", "postgresql://"),
        (Forward(Kind.LOCAL, Endpoint(), Endpoint(path="/run/x.sock")), "", ""),
        (Forward(Kind.DYNAMIC, Endpoint(port=0), None), "", "socks5h://"),
        (Forward(Kind.REMOTE, Endpoint(port=8080), Endpoint("localhost", 3000)), "", ""),
    ],
)
def test_the_option_wins_over_the_url_and_the_url_over_the_far_port(
    forward: Forward, option: str, template: str
) -> None:
    assert template_for(forward, option) == template


def test_http_and_socks_get_a_url_and_databases_a_dsn() -> None:
    assert [suffix(scheme) for scheme in ("http", "https", "socks5h")] == ["url"] * 3
    assert [suffix(scheme) for scheme in ("postgresql", "redis", "mongodb", "mysql")] == ["dsn"] * 4


# what is shown


def test_every_display_of_a_connection_string_is_masked(
    dsn: ConnectionString, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    print(dsn)
    pprint.pprint({"a": [dsn]})
    with caplog.at_level(logging.INFO):
        logging.info("%s", dsn)
        logging.info(dsn)
    texts = [str(dsn), repr(dsn), f"{dsn}", f"{dsn!s:>80}", f"{dsn!r}", "{}".format(dsn), "%s" % dsn, "%r" % [dsn]]  # noqa: UP031, UP032
    texts += [str([dsn]), str({"a": dsn}), capsys.readouterr().out, caplog.text]
    for text in texts:
        assert "p%40ss" not in text
        assert "ana:***@127.0.0.1:49211/sales" in text


def test_ipython_displays_it_masked(dsn: ConnectionString) -> None:
    formatter = pytest.importorskip("IPython.core.formatters", reason="ipython").DisplayFormatter()
    for value in (dsn, [dsn], {"a": (dsn,)}, dsn.params, dsn.libpq):
        data, _ = formatter.format(value)
        assert data
        assert not any("p%40ss" in text or "p@ss" in text for text in data.values())


def test_reveal_gives_the_real_text_as_a_plain_str(dsn: ConnectionString) -> None:
    assert dsn.reveal() == PLAIN
    assert type(dsn.reveal()) is str


def test_equality_and_hash_are_those_of_the_real_text(dsn: ConnectionString) -> None:
    assert dsn == PLAIN
    assert hash(dsn) == hash(PLAIN)
    assert dsn != SHOWN
    assert {PLAIN: 1}[dsn] == 1


def test_without_a_password_the_plain_text_is_shown() -> None:
    dsn = make("postgresql://ana@/sales", host="127.0.0.1", port=5432)
    assert str(dsn) == "postgresql://ana@127.0.0.1:5432/sales" == dsn.reveal()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_copies_and_pickles_stay_masked(dsn: ConnectionString, protocol: int) -> None:
    for twin in (
        pickle.loads(pickle.dumps(dsn, protocol)),
        copy.copy(dsn),
        copy.deepcopy([dsn])[0],
        ConnectionString(dsn),
    ):
        assert type(twin) is ConnectionString
        assert twin == PLAIN
        assert str(twin) == SHOWN


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ana:p/w@h/d", "postgresql://ana:***@h/d"),
        ("postgresql://ana:12/w@h/d", "postgresql://ana:***@h/d"),
        ("postgresql://ana:a@b@h/d", "postgresql://ana:***@h/d"),
        ("http://ana:p@h/@me", "http://ana:***@h/@me"),
        ("http://127.0.0.1:8080/@me", "http://127.0.0.1:8080/@me"),
        ("http://[::1]:8080/@me", "http://[::1]:8080/@me"),
        ("redis://h/0?password=x&a=b", "redis://h/0?password=***&a=b"),
        ("host=h password=x dbname=d", "host=h password=*** dbname=d"),
        ("password = 'a \\' b' host=h", "password=*** host=h"),
        ("password=a://b host=h", "password=*** host=h"),
        ("password='never closed", "password=***"),
    ],
)
def test_a_string_made_by_hand_is_masked_too(text: str, shown: str) -> None:
    assert str(ConnectionString(text)) == shown


# the documented leaks: a test each, which notices when it stops being true (docs/connection-strings.md)


def test_leak_json(dsn: ConnectionString) -> None:
    assert "p%40ss" in json.dumps({"dsn": dsn})


def test_leak_concatenation_and_join(dsn: ConnectionString) -> None:
    assert "p%40ss" in dsn + "?x=1"
    assert "p%40ss" in "dsn=" + dsn
    assert "p%40ss" in ", ".join([dsn, "x"])


def test_leak_slices_and_str_methods(dsn: ConnectionString) -> None:
    assert "p%40ss" in dsn[:40]
    assert "p%40ss" in dsn.lower()
    assert "p%40ss" in repr(dsn.split("@"))
    assert "p%40ss" in "dsn=DSN".replace("DSN", dsn)


def test_leak_write_to_a_file(dsn: ConnectionString, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(dsn)
    assert "p%40ss" in (tmp_path / "f").read_text()


def test_leak_stdout_write(dsn: ConnectionString, capsys: pytest.CaptureFixture[str]) -> None:
    sys.stdout.write(dsn)
    assert "p%40ss" in capsys.readouterr().out


def test_leak_dataframe_display(dsn: ConnectionString) -> None:
    frame = pytest.importorskip("pandas", reason="pandas").DataFrame({"dsn": [dsn]})
    assert "p%40ss" in frame.to_string() + frame.to_html()


def test_leak_subprocess_arguments(dsn: ConnectionString) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.argv[1])", dsn], capture_output=True, text=True, timeout=30
    )
    assert "p%40ss" in done.stdout


def test_leak_pickle(dsn: ConnectionString) -> None:
    assert b"p%40ss" in pickle.dumps(dsn)


def test_leak_the_password_of_params_printed_alone(dsn: ConnectionString) -> None:
    assert str(dsn.params["password"]) == PASSWORD


# views


def test_the_params_display_masked_and_are_real(dsn: ConnectionString) -> None:
    assert dsn.params == {"host": "127.0.0.1", "port": 49211, "user": "ana", "dbname": "sales", "password": PASSWORD}
    assert "p@ss" not in f"{dsn.params} {dsn.params!r} {dsn.params['password']}"
    secret = dsn.params["password"]
    assert isinstance(secret, Secret)
    assert secret.reveal() == PASSWORD
    assert type(secret.reveal()) is str
    assert repr(pickle.loads(pickle.dumps(secret))) == "'***'"


def test_params_name_things_as_the_usual_driver_does() -> None:
    def params(template: str, host: str = "127.0.0.1", port: int = 1) -> dict[str, object]:
        return make(template, host=host, port=port, password="x").params

    assert params("redis://ana@/2") == {"host": "127.0.0.1", "port": 1, "username": "ana", "db": 2, "password": "x"}
    assert params("mysql://ana@/s") == {"host": "127.0.0.1", "port": 1, "user": "ana", "database": "s", "password": "x"}
    assert params("postgresql://ana@/s", "/run/.s.PGSQL.7", 0)["host"] == "/run"
    assert params("postgresql://ana@/s", "/run/.s.PGSQL.7", 0)["port"] == 7
    assert params("redis:///1", "/run/r s", 0) == {"unix_socket_path": "/run/r s", "db": "1", "password": "x"}


def test_the_sqlalchemy_view_names_the_driver_once(dsn: ConnectionString) -> None:
    assert str(dsn.sqlalchemy("psycopg")) == "postgresql+psycopg://ana:***@127.0.0.1:49211/sales"
    assert dsn.sqlalchemy("psycopg").sqlalchemy("psycopg2").reveal() == PLAIN.replace(
        "postgresql", "postgresql+psycopg2"
    )
    assert dsn.sqlalchemy("psycopg").sqlalchemy("") == dsn


def test_the_libpq_view_is_masked_and_reads_back(dsn: ConnectionString) -> None:
    assert str(dsn.libpq) == "host=127.0.0.1 port=49211 user=ana dbname=sales password=***"
    assert dsn.libpq.params == dsn.params
    with pytest.raises(ConfigError):
        _ = make("redis://", host="127.0.0.1", port=1).libpq


@pytest.mark.parametrize(
    ("template", "env"),
    [
        (
            "postgresql://ana@/sales?sslmode=require&foo=1",
            {"PGHOST": "127.0.0.1", "PGPORT": "9", "PGUSER": "ana", "PGDATABASE": "sales", "PGSSLMODE": "require"},
        ),
        ("mysql://ana@/sales", {"MYSQL_HOST": "127.0.0.1", "MYSQL_TCP_PORT": "9"}),
        ("redis://ana@/1", {"REDIS_URL": "redis://ana@127.0.0.1:9/1"}),
        ("mongodb://ana@/s", {"MONGODB_URI": "mongodb://ana@127.0.0.1:9/s?directConnection=true"}),
        ("mssql://ana@/s", {"SQLCMDSERVER": "tcp:127.0.0.1,9", "SQLCMDUSER": "ana", "SQLCMDDBNAME": "s"}),
        ("cassandra://", {"CQLSH_HOST": "127.0.0.1", "CQLSH_PORT": "9"}),
        ("http://x/", {}),
    ],
)
def test_the_environment_never_holds_a_password(template: str, env: dict[str, str]) -> None:
    made = make(template, host="127.0.0.1", port=9, password="S3CRET")
    assert made.env == env
    assert "S3CRET" not in repr(made.env)


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(user=_TEXT, password=_TEXT.filter(bool), database=_TEXT)
def test_any_user_password_and_database_come_back_as_they_went_in(user: str, password: str, database: str) -> None:
    template = f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}"
    made = make(template, host="127.0.0.1", port=5432, password=password)
    wanted = {"host": "127.0.0.1", "port": 5432, "user": user, "dbname": database, "password": password}
    wanted = {key: value for key, value in wanted.items() if value != ""}
    assert made.params == wanted
    assert made.libpq.params == wanted
    assert str(made) == str(make(template, host="127.0.0.1", port=5432, password="other"))


# .pgpass


def _pgpass(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "pgpass"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_pgpass_is_asked_under_the_far_name_and_its_first_match_wins(tmp_path: Path) -> None:
    path = _pgpass(
        tmp_path,
        "# comment:5432:sales:ana:no\n\nshort:5432\n127.0.0.1:*:*:*:local\n"
        "pg.vpc:5432:sales:ana:first\npg.vpc:*:*:ana:second\n*:*:*:*:last\n",
    )
    assert password_from_pgpass("pg.vpc", 5432, "sales", "ana", path) == "first"
    assert password_from_pgpass("pg.vpc", 5433, "sales", "ana", path) == "second"
    assert password_from_pgpass("pg.vpc", 5432, "sales", "bob", path) == "last"
    assert password_for("postgresql://ana@/sales", "pg.vpc", 5432, path) == "first"
    assert password_for("postgresql://ana@pg.vpc:5432/sales", "else", 1, path) == "first"
    assert password_for("mysql://ana@/sales", "pg.vpc", 5432, path) is None


def test_pgpass_escapes_are_undone(tmp_path: Path) -> None:
    path = _pgpass(tmp_path, "fd00\\:\\:1:5432:a\\\\b:ana:p\\:w\\\\d\\x\r\n")
    assert password_from_pgpass("fd00::1", 5432, "a\\b", "ana", path) == "p:w\\dx"


def test_pgpass_database_defaults_to_the_user(tmp_path: Path) -> None:
    path = _pgpass(tmp_path, "pg.vpc:5432:ana:ana:right\n")
    assert password_from_pgpass("pg.vpc", 5432, "", "ana", path) == "right"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_pgpass_that_others_can_use_is_ignored(tmp_path: Path, mode: int) -> None:
    assert password_from_pgpass("h", 1, "d", "u", _pgpass(tmp_path, "*:*:*:*:x\n", mode)) is None


def test_pgpass_missing_or_no_file_or_no_match_gives_none(tmp_path: Path) -> None:
    assert password_from_pgpass("h", 1, "d", "u", tmp_path / "none") is None
    assert password_from_pgpass("h", 1, "d", "u", tmp_path) is None
    assert password_from_pgpass("h", 1, "d", "u", _pgpass(tmp_path, "i:*:*:*:x\n")) is None


def test_pgpassfile_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", str(_pgpass(tmp_path, "*:*:*:*:x\n")))
    assert password_from_pgpass("h", 1, "d", "u") == "x"
    monkeypatch.delenv("PGPASSFILE")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pgpass").rename(tmp_path / ".pgpass")
    assert password_from_pgpass("h", 1, "d", "u") == "x"
