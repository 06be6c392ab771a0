"""The door to a cluster's proxy: it leads to the API server and nowhere else."""

from __future__ import annotations

import pytest

from xec_forward.engine.links.kubernetes.proxy import _Connect
from xec_forward.spec import Endpoint


@pytest.mark.parametrize(
    ("to", "written"), [(Endpoint("api.corp", 6443), "api.corp:6443"), (Endpoint("fd00::1", 443), "[fd00::1]:443")]
)
def test_way_to_the_api_server_is_led_on(to: Endpoint, written: str) -> None:
    talk = _Connect(to)
    begun = talk.receive(f"CONNECT {written} HTTP/1.1\r\n".encode())
    assert (begun.connect, begun.refused) == (None, "")
    asked = talk.receive(f"Host: {written}\r\n\r\nhello".encode())
    assert (asked.connect, asked.rest, asked.refused) == (to, b"hello", "")


@pytest.mark.parametrize("line", ["CONNECT payroll.corp:443", "CONNECT api.corp:22", "GET http://api.corp:6443/"])
def test_anything_else_is_refused(line: str) -> None:
    asked = _Connect(Endpoint("api.corp", 6443)).receive(f"{line} HTTP/1.1\r\n\r\n".encode())
    assert asked.connect is None
    assert "something else than a way to the API server" in asked.refused
