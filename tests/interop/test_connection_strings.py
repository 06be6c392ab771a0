"""A ConnectionString shows `***` while every library that takes one reads its real characters.

Against a real PostgreSQL that checks a password full of characters a URL, a conninfo string or SQL trips over.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.postgres import Postgres, missing, postgres_server
from xec_forward.client.sqlalchemy import make_engine
from xec_forward.dsn import ConnectionString, make
from xec_forward.dsn.pgpass import password_from_pgpass
from xec_forward.errors import ConfigError, ForwardError

QUERY = "select current_user::text as who, 40 + 2 as answer"

if absent := missing():
    pytest.skip(f"{absent} is not installed", allow_module_level=True)


def _need(module: str) -> Any:
    return pytest.importorskip(module, reason=f"{module} is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server(tcp=True) as running:
        yield running


@pytest.fixture
def dsn(server: Postgres) -> Iterator[ConnectionString]:
    made = make("postgresql://ana@pg.vpc/sales", host=server.host, port=server.port, password=server.password)
    yield made
    assert str(made) == f"postgresql://ana:***@127.0.0.1:{server.port}/sales", "masked all the while"


def _rows_of(connection: Any) -> list[tuple[Any, ...]]:
    try:
        cursor = connection.cursor()
        cursor.execute(QUERY)
        return [tuple(row) for row in cursor.fetchall()]
    finally:
        connection.close()


def _fresh(engine: Any) -> list[tuple[Any, ...]]:
    from sqlalchemy import text

    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(QUERY))]
    finally:
        engine.dispose()


def test_the_server_checks_the_password(server: Postgres) -> None:
    psycopg = _need("psycopg")
    wrong = make("postgresql://ana@/sales", host=server.host, port=server.port, password="wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong, connect_timeout=10)


# consumers that take a string


def test_psycopg_reads_it(dsn: ConnectionString) -> None:
    psycopg = _need("psycopg")
    assert _rows_of(psycopg.connect(dsn)) == [("ana", 42)]
    assert _rows_of(psycopg.connect(dsn, connect_timeout=10)) == [("ana", 42)]
    assert _rows_of(psycopg.connect(dsn.libpq)) == [("ana", 42)]
    assert _rows_of(psycopg.connect(**dsn.params)) == [("ana", 42)]


def test_psycopg2_reads_it(dsn: ConnectionString) -> None:
    psycopg2 = _need("psycopg2")
    assert _rows_of(psycopg2.connect(dsn)) == [("ana", 42)]
    assert _rows_of(psycopg2.connect(dsn, connect_timeout=10)) == [("ana", 42)]
    assert _rows_of(psycopg2.connect(dsn.libpq)) == [("ana", 42)]
    assert _rows_of(psycopg2.connect(**dsn.params)) == [("ana", 42)]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy_reads_it(dsn: ConnectionString, driver: str) -> None:
    sqlalchemy = _need("sqlalchemy")
    _need(driver)
    assert _fresh(sqlalchemy.create_engine(dsn.sqlalchemy(driver))) == [("ana", 42)]


def test_sqlalchemy_reads_it_without_a_driver_named(dsn: ConnectionString) -> None:
    sqlalchemy = _need("sqlalchemy")
    _need("psycopg2")  # SQLAlchemy 2.0 takes psycopg2 for `postgresql://`
    assert _fresh(sqlalchemy.create_engine(dsn)) == [("ana", 42)]


def test_pandas_reads_it(dsn: ConnectionString) -> None:
    pandas = _need("pandas")
    _need("sqlalchemy")
    _need("psycopg2")
    assert pandas.read_sql(QUERY, dsn).to_dict("list") == {"who": ["ana"], "answer": [42]}
    assert pandas.read_sql(QUERY, dsn.sqlalchemy("psycopg")).to_dict("list") == {"who": ["ana"], "answer": [42]}


@pytest.mark.parametrize(("engine", "module"), [("connectorx", "connectorx"), ("adbc", "adbc_driver_postgresql")])
def test_polars_reads_it(dsn: ConnectionString, engine: Any, module: str) -> None:
    polars = _need("polars")
    _need("pyarrow")
    _need(module)
    assert polars.read_database_uri(QUERY, dsn, engine=engine).rows() == [("ana", 42)]


def test_connectorx_reads_it(dsn: ConnectionString) -> None:
    connectorx = _need("connectorx")
    assert connectorx.read_sql(dsn, QUERY).to_dict("list") == {"who": ["ana"], "answer": [42]}


def test_adbc_reads_it(dsn: ConnectionString) -> None:
    _need("pyarrow")
    adbc = _need("adbc_driver_postgresql.dbapi")
    with adbc.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(QUERY)
        assert cursor.fetchall() == [("ana", 42)]


def test_duckdb_attach_is_text_and_so_needs_reveal(dsn: ConnectionString) -> None:
    duckdb = _need("duckdb")
    package = "duckdb_extension_postgres_scanner"  # the extension as a wheel: DuckDB itself would download it
    folder = Path(str(_need(package).__file__)).parent / "extensions" / f"v{duckdb.__version__}"
    if not folder.exists():
        pytest.skip(f"{package} for DuckDB {duckdb.__version__} is not installed")
    with duckdb.connect() as connection:
        connection.load_extension(str(folder / "postgres_scanner.duckdb_extension"))
        with pytest.raises(duckdb.Error, match="password authentication failed"):
            connection.execute(f"attach '{dsn}' as masked (type postgres, read_only)")
        connection.execute(f"attach '{dsn.reveal()}' as pg (type postgres, read_only)")
        found = connection.execute("select * from postgres_query('pg', ?)", [QUERY]).fetchall()
        assert found == [("ana", 42)]


def test_redis_reads_it() -> None:
    redis = _need("redis")
    password = "p@ss:w/rd%20#é ?&'\\"
    made = make("redis://ana@redis.vpc/2", host="127.0.0.1", port=6379, password=password)
    read = redis.Redis.from_url(made).connection_pool.connection_kwargs
    wanted = {"username": "ana", "password": password, "host": "127.0.0.1", "port": 6379, "db": 2}
    assert {key: read[key] for key in wanted} == wanted
    read = redis.Redis(**made.params).connection_pool.connection_kwargs
    assert {key: read[key] for key in wanted} == wanted
    socket = make("redis://ana@redis.vpc/2", host="/run/me/r.sock", port=0, password=password)
    read = redis.Redis.from_url(socket).connection_pool.connection_kwargs
    assert (read["path"], int(read["db"]), read["password"]) == ("/run/me/r.sock", 2, password)


def test_pymongo_reads_it() -> None:
    pymongo = _need("pymongo")
    password = "p@ss:w/rd%20#é ?&'\\"
    made = make("mongodb://ana@mongo.vpc/sales?replicaSet=rs0", host="127.0.0.1", port=27017, password=password)
    read = _need("pymongo.uri_parser").parse_uri(made)
    assert (read["username"], read["password"], read["database"]) == ("ana", password, "sales")
    assert read["nodelist"] == [("127.0.0.1", 27017)]
    with pymongo.MongoClient(made, connect=False) as client:
        assert client.options.direct_connection is True


def test_psycopg_reaches_a_unix_socket_listener() -> None:
    psycopg = _need("psycopg")
    sqlalchemy = _need("sqlalchemy")
    with postgres_server(socket_auth="scram-sha-256") as server:
        made = make("postgresql://ana@/sales", host=server.socket_path, port=0, password=server.password)
        assert _rows_of(psycopg.connect(made)) == [("ana", 42)]
        assert _rows_of(psycopg.connect(made.libpq)) == [("ana", 42)]
        assert _rows_of(psycopg.connect(**made.params)) == [("ana", 42)]
        assert _fresh(sqlalchemy.create_engine(made.sqlalchemy("psycopg"))) == [("ana", 42)]
        assert _fresh(make_engine(made, lambda: None)) == [("ana", 42)]


# the engine


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_engine_asks_for_the_password_anew_for_each_connection(server: Postgres, driver: str) -> None:
    sqlalchemy = _need("sqlalchemy")
    _need(driver)
    server.sql("create role rotating login password 'first'")
    current, asked = ["first"], []

    def password() -> str:
        asked.append(current[0])
        return current[0]

    engine = make_engine(f"postgresql+{driver}://rotating@127.0.0.1:{server.port}/sales", password)
    try:
        with engine.connect() as one:
            server.sql("alter role rotating password 'second'")
            current[0] = "second"
            with engine.connect() as two:
                assert one.execute(sqlalchemy.text("select 1")).scalar() == 1
                assert two.execute(sqlalchemy.text("select 2")).scalar() == 2
        assert asked == ["first", "second"]
    finally:
        engine.dispose()
        server.sql("drop role rotating")


def test_the_engine_replaces_a_connection_that_was_cut(server: Postgres, dsn: ConnectionString) -> None:
    sqlalchemy = _need("sqlalchemy")
    engine = make_engine(dsn, lambda: server.password)
    try:
        with engine.connect() as connection:
            pid = connection.execute(sqlalchemy.text("select pg_backend_pid()")).scalar()
        # Waits for the backend's end: up to 10 s.
        assert server.sql("select pg_terminate_backend(%s, 10000)", pid) == [(True,)]
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("select pg_backend_pid()")).scalar() != pid
    finally:
        engine.dispose()


def test_nothing_that_shows_the_engine_shows_the_password(server: Postgres, dsn: ConnectionString) -> None:
    engine = make_engine(dsn, lambda: None)
    shown = f"{engine!r} {engine.url!r} {engine.url.render_as_string(hide_password=False)}"
    assert engine.url.password is None
    assert "p%40ss" not in shown
    assert "p@ss" not in shown
    assert _fresh(engine) == [("ana", 42)]


def test_the_engine_takes_sqlalchemys_options(server: Postgres, dsn: ConnectionString) -> None:
    sqlalchemy = _need("sqlalchemy")
    engine = make_engine(dsn, lambda: server.password, pool_size=1, connect_args={"application_name": "notebook"})
    try:
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("show application_name")).scalar() == "notebook"
    finally:
        engine.dispose()


def test_a_source_that_fails_is_the_error_of_the_connection(dsn: ConnectionString) -> None:
    def refuse() -> str:
        raise ConfigError("env: the variable PGPASSWORD is not set")

    engine = make_engine(dsn, refuse)
    with pytest.raises(ConfigError, match="PGPASSWORD is not set"):
        engine.connect()


def _hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Python's own way to say that a module is not there."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_a_missing_driver_gives_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "psycopg", "psycopg2", "pg8000", "pymysql", "MySQLdb", "mysql")
    for dsn, line in (
        ("postgresql://ana@127.0.0.1:1/sales", "%pip install 'psycopg[binary]'"),
        ("postgresql+psycopg2://ana@127.0.0.1:1/sales", "%pip install psycopg2-binary"),
        ("mysql://ana@127.0.0.1:1/sales", "%pip install pymysql"),
    ):
        with pytest.raises(ForwardError) as caught:
            make_engine(dsn, lambda: None)
        assert str(caught.value).endswith(line)


def test_the_next_driver_is_taken_where_the_first_is_missing(
    monkeypatch: pytest.MonkeyPatch, dsn: ConnectionString
) -> None:
    _need("psycopg2")
    assert make_engine(dsn, lambda: None).url.drivername == "postgresql+psycopg"
    _hide(monkeypatch, "psycopg")
    assert make_engine(dsn, lambda: None).url.drivername == "postgresql+psycopg2"


def test_a_missing_sqlalchemy_gives_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "sqlalchemy")
    with pytest.raises(ConfigError, match="%pip install sqlalchemy"):
        make_engine("postgresql://ana@127.0.0.1:1/sales", lambda: None)


def test_a_service_that_is_no_sql_database_has_no_engine() -> None:
    with pytest.raises(ConfigError, match="no dialect for redis"):
        make_engine("redis://127.0.0.1:1/0", lambda: None)


# the real name: .pgpass (certificates: tests/kernel/test_verify_full.py)


@pytest.mark.parametrize(
    "line",
    [
        "pg.vpc:*:sales:ana:PASSWORD",
        "other.vpc:*:*:*:no\n# pg.vpc:*:*:*:no\npg.vpc:1:*:*:no\n*:*:*:*:PASSWORD",
        "pg.vpc:*:sales:ana:PASSWORD:rest",
        "127.0.0.1:*:sales:ana:PASSWORD",
        "pg.vpc:*:sales:ana:\npg.vpc:*:sales:ana:PASSWORD",
        "pg.vpc:*:sales",
        "pg.vp*:*:*:*:PASSWORD",
        " pg.vpc:*:*:*:PASSWORD",
        "pg.vpc:*:*:*:PASSWORD ",
        "PG.VPC:*:*:*:PASSWORD",
    ],
)
def test_pgpass_is_read_as_libpq_reads_it(server: Postgres, tmp_path: Path, line: str) -> None:
    psycopg = _need("psycopg")
    path = tmp_path / "pgpass"
    path.write_text(line.replace("PASSWORD", server.password.replace("\\", "\\\\").replace(":", "\\:")) + "\n")
    path.chmod(0o600)
    try:
        psycopg.connect(
            host="pg.vpc", hostaddr="127.0.0.1", port=server.port, user="ana", dbname="sales", passfile=str(path)
        ).close()
        libpq_finds_it = True
    except psycopg.OperationalError:
        libpq_finds_it = False
    assert (password_from_pgpass("pg.vpc", server.port, "sales", "ana", path) == server.password) is libpq_finds_it
