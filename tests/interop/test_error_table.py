"""The table of errors (S72-S77): each raised by its real situation, through the public surface.

A row says what happens and what must come of it: the class, its code and the system's own class, a hop and a hint that
help, one line, and nothing left half-open. EPODGONE and ERBAC are a cluster's; auto_port has tests of its own.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import xec_forward as xf
from tests.interop.situations import (
    Scene,
    another_kernel,
    bastion_down,
    blackhole,
    changed_host_key,
    closed_tunnel,
    closes_without_a_hello,
    forbidden_folder,
    foreign_program,
    frozen_bastion,
    held_too_long,
    killed_engine,
    later_refusal,
    no_network,
    no_place_for_the_engine,
    no_route,
    nobody_for_the_passphrase,
    our_tunnel,
    privileged_port,
    silent_server,
    target_behind_a_firewall,
    too_many_clients,
    too_many_tunnels,
    turns_us_away,
    unanswering_target,
    unanswering_target_later,
    unix_socket_in_use,
    unknown_host_key,
    wrong_key,
)
from tests.interop.test_reconnection import until
from tests.peers.ports import port_free
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd
from xec_forward import errors

# How the errors of a cluster are raised is told where clusters are tested.
ELSEWHERE = {"EPODGONE", "ERBAC"}
Situation = Callable[[Scene], object]


@dataclass(frozen=True)
class Row:
    """One error.

    Attributes:
        what: the situation, and the test's name.
        make: raises it (or returns it, where it is an event's).
        kind, system, number: its class; the system's, with its errno, where there is one.
        hop, message, hint: patterns.
        held: the port stays taken, by whoever had it or by a tunnel that lives on.
    """

    what: str
    make: Situation
    kind: type[xf.ForwardError]
    message: str
    hint: str
    hop: str = "bastion"
    system: type[BaseException] = xf.ForwardError
    number: int = 0
    held: bool = False


REFUSED = (ConnectionRefusedError, errno.ECONNREFUSED)
TIMEOUT = (TimeoutError, errno.ETIMEDOUT)
IN_USE = (OSError, errno.EADDRINUSE)
HERE = r"127\.0\.0\.1:\d+"

TABLE = [
    Row(
        "a port of another tunnel of this kernel",
        our_tunnel,
        xf.PortInUseError,
        "held by the tunnel sales of this kernel",
        r"%forward --close sales frees it, or write 0 .*--auto-port",
        HERE,
        *IN_USE,
        held=True,
    ),
    Row(
        "a port of another kernel's tunnel",
        another_kernel,
        xf.PortInUseError,
        r"held by the tunnel sales of the Python process \d+",
        r"Close it there, or write 0 .*--auto-port",
        HERE,
        *IN_USE,
        held=True,
    ),
    Row(
        "a port of a foreign program",
        foreign_program,
        xf.PortInUseError,
        "taken by another program",
        r"End it, or write 0 .*--auto-port",
        HERE,
        *IN_USE,
        held=True,
    ),
    Row(
        "a file where the unix socket is to be",
        unix_socket_in_use,
        xf.PortInUseError,
        "taken",
        "Remove the file, or choose another path",
        r"/.*/pg\.sock",
        *IN_USE,
    ),
    Row(
        "a bastion that is down",
        bastion_down,
        xf.RefusedError,
        "nobody listens at",
        "Is sshd running there",
        "bastion",
        *REFUSED,
    ),
    Row(
        "a target that refuses, seen at the start",
        lambda scene: scene.open(far_port=scene.services.refused),
        xf.RefusedError,
        "refused, as seen from bastion",
        "Is the service running",
        r"pg\.vpc:\d+",
        *REFUSED,
    ),
    Row(
        "a target that refuses later, as an event",
        later_refusal,
        xf.RefusedError,
        "refused, as seen from bastion",
        "Is the service running",
        r"pg\.vpc:\d+",
        *REFUSED,
        held=True,
    ),
    Row(
        "a service that closes without a word",
        closes_without_a_hello,
        xf.RefusedError,
        "closed it without a postgresql hello",
        "--no-check",
        r"pg\.vpc:\d+",
        *REFUSED,
    ),
    Row(
        "a privileged port",
        privileged_port,
        xf.BindPermissionError,
        "does not let this account listen there",
        "8080",
        r"127\.0\.0\.1:80",
        PermissionError,
        errno.EPERM,
    ),
    Row(
        "a folder where nobody may make a socket",
        forbidden_folder,
        xf.BindPermissionError,
        "may not make a socket there",
        "a folder of your own",
        r"/.*/theirs/pg\.sock",
        PermissionError,
        errno.EPERM,
    ),
    Row(
        "a host that cannot be reached",
        no_route,
        xf.UnreachableError,
        r"there is no way to 198\.18\.0\.1:22",
        "VPN",
        "bastion",
        OSError,
        errno.EHOSTUNREACH,
    ),
    Row(
        "a machine without a network",
        no_network,
        xf.UnreachableError,
        r"there is no way to 198\.18\.0\.1:22",
        "VPN",
        "bastion",
        OSError,
        errno.EHOSTUNREACH,
    ),
    Row(
        "a server that accepts and says nothing",
        silent_server,
        xf.DeadlineError,
        r"no answer within 0\.7 s, in the step ssh",
        "--timeout S allows more time",
        "bastion",
        *TIMEOUT,
    ),
    Row(
        "a network that swallows everything",
        blackhole,
        xf.DeadlineError,
        r"no answer within 0\.7 s, in the step ssh",
        "--timeout S allows more time",
        "bastion",
        *TIMEOUT,
    ),
    Row(
        "a bastion that is frozen",
        frozen_bastion,
        xf.DeadlineError,
        r"no answer within 0\.7 s, in the step ssh",
        "--timeout S allows more time",
        "bastion",
        *TIMEOUT,
    ),
    Row(
        "a target that never answers",
        unanswering_target,
        xf.DeadlineError,
        r"no answer within 0\.7 s, in the step target",
        "--timeout S allows more time",
        r"pg\.vpc:\d+",
        *TIMEOUT,
    ),
    Row(
        "a target that never answers later, as an event",
        unanswering_target_later,
        xf.DeadlineError,
        r"no answer within 1\.2 s",
        "--timeout S allows more time",
        r"pg\.vpc:\d+",
        *TIMEOUT,
        held=True,
    ),
    Row(
        "a target behind a firewall that swallows everything",
        target_behind_a_firewall,
        xf.DeadlineError,
        "no answer, as seen from bastion",
        "A firewall may be between the two",
        r"pg\.vpc:9",
        *TIMEOUT,
    ),
    Row(
        "a client that waited for too long, as an event",
        held_too_long,
        xf.DeadlineError,
        r"a client waited 0\.3 s and was reset",
        "--hold S lets clients wait longer",
        "",
        *TIMEOUT,
        held=True,
    ),
    Row(
        "a host without an address",
        lambda scene: scene.open("no-such-host.invalid"),
        xf.NameNotFoundError,
        r"the name no-such-host\.invalid does not resolve",
        "an alias belongs into ssh_config",
        r"no-such-host\.invalid",
        OSError,
        errno.ENOENT,
    ),
    Row(
        "a far name that the bastion does not know",
        lambda scene: scene.open(far="pg.vcp"),
        xf.NameNotFoundError,
        r"bastion cannot resolve pg\.vcp",
        "Is that its name on bastion",
        r"pg\.vcp:\d+",
        OSError,
        errno.ENOENT,
    ),
    Row("a key that is not welcome", wrong_key, xf.AuthenticationError, "", r"-i|private_key|authorized_keys"),
    Row(
        "a passphrase and nobody to give it",
        nobody_for_the_passphrase,
        xf.AuthenticationError,
        "passphrase",
        "--passphrase",
    ),
    Row(
        "a host key never seen, strict", unknown_host_key, xf.UnknownHostKeyError, "SHA256:", r"accept-new|known_hosts"
    ),
    Row("a host key that has changed", changed_host_key, xf.ChangedHostKeyError, "SHA256:.*SHA256:", "known_hosts"),
    Row(
        "a bastion that forwards nothing",
        lambda scene: (scene.forbid(AllowTcpForwarding="no"), scene.open()),  # type: ignore[func-returns-value]
        xf.ProhibitedError,
        r"forwarding to pg\.vpc:\d+ is not allowed there",
        "AllowTcpForwarding and PermitOpen",
    ),
    Row(
        "a bastion that forwards elsewhere",
        lambda scene: (scene.forbid(PermitOpen="ledger.vpc:5432"), scene.open()),  # type: ignore[func-returns-value]
        xf.ProhibitedError,
        r"forwarding to pg\.vpc:\d+ is not allowed there",
        "AllowTcpForwarding and PermitOpen",
    ),
    Row(
        "one tunnel too many",
        too_many_tunnels,
        xf.LimitError,
        "1 tunnels are open, the most allowed",
        r"xf\.tunnels\.limit = 2",
        "",
    ),
    Row(
        "one client too many, as an event",
        too_many_clients,
        xf.LimitError,
        "there are 1 clients already",
        "--max-connections N allows more",
        "",
        held=True,
    ),
    Row(
        "a misspelt option",
        lambda scene: xf.ssh("bastion").forward(remote_port=80, local_prot=80),  # type: ignore[call-arg]
        xf.SpecError,
        "has no option local_prot",
        r"Did you mean local_port\?",
        "",
        ValueError,
    ),
    Row(
        "a forward to nowhere",
        lambda scene: xf.ssh("bastion").forward(local_port=scene.port),
        xf.SpecError,
        "remote_port is missing",
        "remote_port=5432",
        "",
        ValueError,
    ),
    Row(
        "a key file that is not there",
        lambda scene: scene.open(private_key=str(scene.folder / "id_gone")),
        xf.ConfigError,
        "id_gone",
        "",
    ),
    Row(
        "an interface that others can reach",
        lambda scene: scene.open(local_interface="0.0.0.0"),
        xf.ConfigError,
        "other machines could reach this address",
        "--gateway-ports permits it",
        r"0\.0\.0\.0",
    ),
    Row(
        "an address of another machine",
        lambda scene: scene.open(local_interface="198.51.100.7", gateway_ports=True),
        xf.ConfigError,
        "not an address of this machine",
        r"127\.0\.0\.1",
        r"198\.51\.100\.7:\d+",
    ),
    Row(
        "a folder that is not there",
        lambda scene: scene.open(local_host=str(scene.folder / "gone" / "too" / "pg.sock")),
        xf.ConfigError,
        "No such file or directory",
        "another path",
        r"/.*/gone/too/pg\.sock",
    ),
    Row(
        "a server that turns us away",
        turns_us_away,
        xf.LostError,
        "before the login was complete",
        "Its log may say why",
        "bastion",
        ConnectionResetError,
        errno.ECONNRESET,
    ),
    Row("a tunnel that is closed", closed_tunnel, xf.ClosedError, "the tunnel is closed", "Open it again", "pg"),
    Row("an engine that is killed", killed_engine, xf.EngineError, "the engine ended unexpectedly", "Its log is /", ""),
    Row(
        "an engine that has no place for its log",
        no_place_for_the_engine,
        xf.EngineError,
        "",
        "XEC_FORWARD_STATE names another folder",
        "/proc/no",
    ),
]


@pytest.fixture
def scene(bastion: Sshd, services: Services, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(bastion, services, tmp_path, stack)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.what.replace(" ", "_"))
def test_real_situation_raises_its_error_and_leaves_nothing_half_open(row: Row, scene: Scene) -> None:
    error = raised(row, scene)
    assert type(error) is row.kind
    assert error.code == row.kind.code
    assert isinstance(error, row.system)
    if row.number:
        assert isinstance(error, OSError)
        assert error.errno == row.number
    assert re.fullmatch(row.hop, error.hop), error
    assert re.search(row.message, error.message), error
    assert error.hint, error
    assert re.search(row.hint, error.hint), error
    where = f"{error.code} {error.hop}:" if error.hop else error.code
    assert str(error) == f"{where} {error.message}. {error.hint}"
    assert "\n" not in str(error)
    assert PASSPHRASE not in str(error)
    assert port_free(scene.port) is not row.held
    assert list(xf.tunnels.values()) == [tunnel for tunnel in scene.kept if not tunnel.state.ended]
    if not scene.down:
        wanted = 1 if any(tunnel.is_alive() for tunnel in scene.kept) or row.make is another_kernel else 0
        until(lambda: scene.bastion.connections() == wanted)


def raised(row: Row, scene: Scene) -> xf.ForwardError:
    """What the situation raises, as the root class or the system's; or hands back, where it is an event's."""
    try:
        error = row.make(scene)
    except row.system as caught:
        error = caught
    assert isinstance(error, xf.ForwardError), f"nothing was raised, but {error!r} returned"
    return error


def test_every_code_has_its_row() -> None:
    kinds = (getattr(errors, name) for name in errors.__all__ if name.endswith("Error"))
    codes = {kind.code for kind in kinds if kind is not xf.ForwardError}
    assert {row.kind.code for row in TABLE} | ELSEWHERE == codes
