"""The addresses that an error's text names."""

from __future__ import annotations

import pytest

from xec_forward.jupyter.clues import Address, named


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ('connection to server at "127.0.0.1", port 5432 failed: Connection refused', {("127.0.0.1", 5432)}),
        (
            'connection to server at "pg.vpc" (127.0.0.1), port 5432 failed: server closed the connection unexpectedly',
            {("pg.vpc", 5432), ("127.0.0.1", 5432)},
        ),
        ("HTTPConnectionPool(host='localhost', port=8080): Max retries exceeded", {("localhost", 8080)}),
        ("Error 111 connecting to 127.0.0.1:6379. Connection refused.", {("127.0.0.1", 6379)}),
        ("Can't connect to MySQL server on 'db.example:3306' (111)", {("db.example", 3306)}),
        ("Cannot connect to host ::1 port 8080", {("::1", 8080)}),
        ("http://[::1]:8080/ did not answer", {("::1", 8080)}),
        ("- host: '10.0.0.7', port: '5432', hostaddr: '10.0.0.7': timeout expired", {("10.0.0.7", 5432)}),
        ("(DESCRIPTION=(ADDRESS=(PROTOCOL=tcp)(HOST=ora.vpc)(PORT=1521)))", {("ora.vpc", 1521)}),
        ("nobody listens on port 5432", {("", 5432)}),
        ("Connection to port 5432 on host db.example was lost", {("db.example", 5432)}),
        ("the connection was refused at 12:34", {("12", 34)}),
        ("the read operation timed out", set()),
    ],
)
def test_host_beside_a_port_is_the_ports(text: str, addresses: set[Address]) -> None:
    assert set(named(text)) == addresses
