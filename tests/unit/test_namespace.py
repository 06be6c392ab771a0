"""Names and environment variables: given, taken back, and never what is the user's."""

from __future__ import annotations

import os

import pytest
from IPython.core.interactiveshell import InteractiveShell

from xec_forward.dsn import ConnectionString
from xec_forward.errors import ConfigError
from xec_forward.jupyter.namespace import Environment, Namespace

DSN = ConnectionString("postgresql://ana@127.0.0.1:5432/sales")


@pytest.fixture(scope="module")
def module_shell() -> InteractiveShell:
    return InteractiveShell()


@pytest.fixture
def shell(module_shell: InteractiveShell) -> InteractiveShell:
    module_shell.reset(new_session=False)
    return module_shell


def test_names_are_given_and_taken_back(shell: InteractiveShell) -> None:
    namespace, owner = Namespace(shell), object()
    namespace.give(owner, {"pg": owner, "pg_dsn": DSN})
    assert shell.user_ns["pg"] is owner
    assert "pg" not in shell.user_ns_hidden
    namespace.take_back(owner)
    assert "pg" not in shell.user_ns
    assert "pg_dsn" not in shell.user_ns
    namespace.take_back(owner)


def test_name_that_the_user_has_reassigned_stays(shell: InteractiveShell) -> None:
    namespace, owner = Namespace(shell), object()
    namespace.give(owner, {"pg": owner, "pg_dsn": DSN})
    shell.user_ns["pg"] = mine = object()
    namespace.take_back(owner)
    assert shell.user_ns["pg"] is mine
    assert "pg_dsn" not in shell.user_ns


def test_name_that_changed_hands_stays_with_its_new_owner(shell: InteractiveShell) -> None:
    namespace, old, new = Namespace(shell), object(), object()
    namespace.give(old, {"pg": old})
    namespace.give(new, {"pg": new})
    namespace.take_back(old)
    assert shell.user_ns["pg"] is new


def test_default_name_overwrites_nothing(shell: InteractiveShell) -> None:
    namespace, owner = Namespace(shell), object()
    assert namespace.free("redis") == "redis"
    shell.user_ns["redis"] = "mine"
    assert namespace.free("redis") == "redis_2"
    shell.user_ns["redis_2_url"] = "mine"
    assert namespace.free("redis") == "redis_3"
    assert namespace.free("redis", {"redis_3"}) == "redis_4"
    namespace.give(owner, {"cache": owner})
    assert namespace.free("cache") == "cache_2"
    assert namespace.free("cache", mine=[owner]) == "cache"


def test_explicit_name_replaces_nothing_but_our_kind_without_force(shell: InteractiveShell) -> None:
    namespace = Namespace(shell)
    shell.user_ns["pg_dsn"] = DSN
    namespace.require("pg", force=False)
    shell.user_ns["pg_dsn"] = "text"
    with pytest.raises(ConfigError, match=r"pg_dsn holds an object of type str.*--force"):
        namespace.require("pg", force=False)
    namespace.require("pg", force=True)


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "old.example")
    monkeypatch.delenv("PGPORT", raising=False)
    environment, owner = Environment(), object()
    environment.set(owner, {"PGHOST": "127.0.0.1", "PGPORT": "5432"})
    assert (os.environ["PGHOST"], os.environ["PGPORT"]) == ("127.0.0.1", "5432")
    environment.put_back(owner)
    assert os.environ["PGHOST"] == "old.example"
    assert "PGPORT" not in os.environ


def test_tunnels_closed_in_any_order_leave_the_right_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "old")
    environment, first, second = Environment(), object(), object()
    environment.set(first, {"PGHOST": "1"})
    environment.set(second, {"PGHOST": "2"})
    environment.put_back(first)
    assert os.environ["PGHOST"] == "2"
    environment.put_back(second)
    assert os.environ["PGHOST"] == "old"


def test_variable_that_the_user_has_changed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "old")
    environment, owner = Environment(), object()
    environment.set(owner, {"PGHOST": "1"})
    monkeypatch.setenv("PGHOST", "mine")
    environment.put_back(owner)
    assert os.environ["PGHOST"] == "mine"
