"""What a card says of ports that no connection string is for: debuggers and metrics."""

from __future__ import annotations

import json

import pytest

from xec_forward.services import hint_for_port


@pytest.mark.parametrize(("port", "name"), [(5678, ""), (5678, "debug"), (None, "debugpy")])
def test_debugpys_hint_is_what_launch_json_takes(port: int | None, name: str) -> None:
    said, _, config = hint_for_port(port, name, "127.0.0.1", 15678).partition(": ")
    assert said == "attach with debugpy"
    assert json.loads(config) == {
        "type": "debugpy",
        "request": "attach",
        "connect": {"host": "127.0.0.1", "port": 15678},
    }


def test_nodes_inspector_and_metrics_are_told_with_the_local_address() -> None:
    assert "node inspect 127.0.0.1:19229" in hint_for_port(9229, "", "127.0.0.1", 19229)
    assert "chrome://inspect" in hint_for_port(None, "inspect", "127.0.0.1", 9229)
    assert hint_for_port(None, "metrics", "::1", 9090) == "metrics: http://[::1]:9090/metrics"


@pytest.mark.parametrize(("port", "name"), [(5432, ""), (None, "http"), (None, ""), (8080, "metrics")])
def test_other_ports_have_none(port: int | None, name: str) -> None:
    assert hint_for_port(port, name, "127.0.0.1", 1) == ""
