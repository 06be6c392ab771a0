"""Defaults of options by traitlets: one trait each, read by the rules of the line, and the reference page of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from xec_forward.client.lines import wanted_of
from xec_forward.errors import ConfigError
from xec_forward.jupyter.configuration import defaulted, values_of
from xec_forward.jupyter.magics import ForwardMagics
from xec_forward.line import KUBERNETES, Dialect, Line, parse_line, parse_list, split
from xec_forward.line.defaults import OF_ONE
from xec_forward.line.dialect import SSH
from xec_forward.line.flags import CLUSTER_FLAGS, FLAGS
from xec_forward.line.reference import page
from xec_forward.options import SshTarget

GOOD: list[tuple[str, Any]] = [
    ("hold", 60),
    ("hold", "2.5"),
    ("ttl", "1h30m"),
    ("idle", 90),
    ("no_check", True),
    ("no_check", "true"),
    ("host_key", "strict"),
    ("private_key", "~/.ssh/id_work"),
    ("private_key", ["~/.ssh/a", "~/.ssh/b"]),
    ("allowed_ips", ["10.0.0.0/8", "127.0.0.1"]),
    ("proxy", "jump1,jump2"),
    ("control_persist", True),
    ("control_persist", "10m"),
    ("port", 2222),
    ("password", "env:SALES_PASSWORD"),
    ("guard", "off"),
    ("namespace", "production"),
    ("max_retries", 3),
    ("keep", False),
]
BAD: list[tuple[str, Any, str]] = [
    ("hold", "soon", "hold 'soon': a number of seconds from 0 to 1000000 is expected. Write hold = 30"),
    ("hold", True, "hold: text or a number is expected"),
    ("hold", -1, "hold '-1': a number"),
    ("no_check", 1, "no_check: True or False is expected"),
    ("host_key", "yes", "host_key 'yes': ask, strict or accept-new is expected"),
    ("ttl", "later", "ttl 'later': a duration is expected. Write ttl = 90s, 10m or 1h30m"),
    ("port", 70000, "port '70000': a whole number from 1 to 65535"),
    ("allowed_ips", ["10.0.0.0/8", "here"], "allowed_ips 'here': an address or a network is expected"),
    ("private_key", [1, None], "private_key: text, or a list of it, is expected"),
    ("ssh_password", "hunter2", "ssh_password"),
]


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    shell = InteractiveShell()
    yield shell
    shell.configurables.clear()


def _magics(shell: InteractiveShell, **values: Any) -> ForwardMagics:
    if values:
        shell.config = Config(ForwardMagics=values)
    return ForwardMagics(shell)


def _line(magics: ForwardMagics, text: str, dialect: Dialect = SSH, **made: Any) -> Line:
    line = parse_line(split(text), made, dialect)
    return defaulted(line, values_of(magics), magics.refused, tuple(made.values()))


def test_every_option_has_its_trait_with_its_help(shell: InteractiveShell) -> None:
    traits = ForwardMagics.class_traits(config=True)
    flags = {flag.field: flag for flag in [*FLAGS.values(), *CLUSTER_FLAGS.values()]}
    assert set(traits) == set(flags) - set(OF_ONE)
    assert all(trait.help for trait in traits.values())
    shown = ForwardMagics.class_get_help(_magics(shell, hold=60))
    assert all(f"ForwardMagics.{name}=" in shown for name in traits)
    assert "Current: 60" in shown


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_value_is_read_as_the_line_reads_it(shell: InteractiveShell, name: str, value: Any) -> None:
    magics = _magics(shell, **{name: value})
    assert magics.refused == {}
    assert getattr(magics, name) == value
    line = _line(magics, "svc/pg 5432", KUBERNETES) if name == "namespace" else _line(magics, "bastion 5432")
    flag = next(flag for flag in [*FLAGS.values(), *CLUSTER_FLAGS.values()] if flag.field == name)
    if flag.switch:
        typed = f"{flag.long} " if value in (True, "true") else ""
    else:
        values = value if isinstance(value, list) and name != "allowed_ips" else [value]
        values = [",".join(value)] if name == "allowed_ips" else ["yes" if each is True else each for each in values]
        typed = "".join(f"{flag.long} {each} " for each in values)
    plain = f"{typed}svc/pg 5432" if name == "namespace" else f"{typed}bastion 5432"
    expected = parse_line(split(plain), {}, KUBERNETES if name == "namespace" else SSH)
    assert (line.target, line.tunnel, line.service) == (expected.target, expected.tunnel, expected.service)
    assert line.sources == expected.sources


@pytest.mark.parametrize(("name", "value", "said"), BAD)
def test_bad_value_is_refused_in_one_line(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], name: str, value: Any, said: str
) -> None:
    magics = _magics(shell)
    ForwardMagics.class_traits()
    with pytest.raises(ConfigError) as caught:
        setattr(magics, name, value)
    assert str(caught.value).startswith(f"ECONFIG ForwardMagics: {said}")
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    # From a file: the magics are there, say so, and each line that would open something says so too.
    other = _magics(shell, **{name: value, "timeout": 7})
    assert "hunter2" not in capsys.readouterr().err.replace("\n", " ", 1)
    with pytest.raises(ConfigError, match=name):
        _line(other, "bastion 5432")
    setattr(other, name, None)
    assert _line(other, "bastion 5432").tunnel.timeout == 7


def test_line_and_profile_win_over_defaults(shell: InteractiveShell) -> None:
    magics = _magics(
        shell, hold=60, username="ana", port=2222, private_key=["a"], password="env:ONE", ttl="10m", proxy="jump"
    )
    line = _line(magics, "bo@bastion:22 5432 --hold 30 -i b --password env:TWO")
    assert isinstance(line.target, SshTarget)
    assert (line.tunnel.hold, line.tunnel.ttl) == (30, 600)
    assert (line.target.username, line.target.port, line.target.private_key) == ("bo", 22, ("b",))
    assert line.sources[line.service.password].value == "TWO"
    assert [hop.host for hop in line.target.proxy] == ["jump"]
    # The way to the jump host does not lead through itself.
    jump = _line(magics, "jump 5432").target
    assert isinstance(jump, SshTarget)
    assert (jump.proxy, jump.username) == ((), "ana")


def test_list_has_the_defaults_of_its_first_line(shell: InteractiveShell) -> None:
    magics = _magics(shell, hold=60, ttl=5)
    head = _line(magics, "bastion --ttl 7")
    first, second = parse_list(head, "5432\n5433 --hold 30\n")
    assert (first.tunnel.hold, first.tunnel.ttl) == (60, 7)
    assert (second.tunnel.hold, second.tunnel.ttl) == (30, 7)


def test_target_made_in_python_is_used_as_it_is(shell: InteractiveShell) -> None:
    made = SshTarget("bastion")
    line = _line(_magics(shell, username="ana", hold=60), "made 5432", made=made)
    assert line.target == made
    assert line.tunnel.hold == 60


def test_options_of_a_proxy_are_for_proxies(shell: InteractiveShell) -> None:
    magics = _magics(shell, socks_user="ana", set_proxy_env=True, password="secret:pg/password")
    plain, proxy = _line(magics, "bastion 5432"), _line(magics, "bastion -D 0")
    assert (plain.tunnel.socks_user, plain.service.set_proxy_env, plain.service.password) == ("", False, "")
    assert (proxy.tunnel.socks_user, proxy.service.set_proxy_env) == ("ana", True)
    cluster = _line(magics, "svc/pg 5432", KUBERNETES)
    assert cluster.sources[cluster.service.password].value == "pg/password"


def test_default_networks_are_for_what_has_addresses(shell: InteractiveShell) -> None:
    line = _line(_magics(shell, allowed_ips=["10.0.0.0/8"]), "bastion 5432 /tmp/a.sock:pg.vpc:5432 -R /tmp/b.sock:pg:1")
    assert [wanted.options.allowed_ips for wanted in wanted_of([line])] == [("10.0.0.0/8",), (), ()]


def test_reference_page_is_up_to_date() -> None:
    path = Path(__file__).parents[2] / "docs" / "options.md"
    assert path.read_text() == page(), "run python -m xec_forward.line.reference > docs/options.md"
    assert all(f"`{spelling}`" in page() for spelling in (*FLAGS, *CLUSTER_FLAGS))
