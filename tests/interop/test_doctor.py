"""The doctor: each stage failing by its real situation, ticks before it, the cross at it, one fix; nothing changed."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from tests.peers.kernel import Kernel, wait_until
from tests.peers.kernel import missing as kernel_missing
from tests.peers.ports import free_port
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, PASSWORD, PASSWORD_USER, Agent, Sshd, missing
from xec_forward.client.session import current
from xec_forward.client.watcher import ScriptWatcher
from xec_forward.diagnosis import Diagnosis
from xec_forward.model import Finding, Outcome

HOST = ["config", "dns", "tcp", "banner", "host key", "login"]
FAR = ["forwarding", "far name", "far port"]
Talk = Callable[[socket.socket], None]


def stages(diagnosis: Diagnosis) -> list[str]:
    """The stages that are well, in order, whatever their hop."""
    return [finding.stage for finding in diagnosis.findings if finding.outcome is Outcome.OK]


def failure(diagnosis: Diagnosis, well: Sequence[str], hop: str, stage: str) -> str:
    """What is said of the one stage that failed, and the fix, once it is sure that the others are as they should be."""
    text = str(diagnosis)
    assert stages(diagnosis) == list(well), text
    (failed,) = [finding for finding in diagnosis.findings if finding.outcome is Outcome.FAILED]
    assert (failed.hop, failed.stage) == (hop, stage), text
    assert not diagnosis.ok
    lines = text.splitlines()
    (cross,) = [line for line in lines if line.startswith("  ✗ FAILED  ")]
    assert cross.split()[2:4][0] == stage.split()[0]
    assert text.count("fix: ") == 1
    assert lines[-1] == f"fix: {diagnosis.fix}"
    assert diagnosis.fix
    assert failed.error is not None
    return f"{failed.text}\n{diagnosis.fix}"


def listening(pid: int) -> set[str]:
    """The sockets on which a process listens."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{name}")):
                inodes.add(found[1])
    rows = [
        line.split() for path in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{path}").read_text().split("\n")
    ]
    return {row[1] for row in rows[1:] if len(row) > 9 and row[3] == "0A" and row[9] in inodes}


@contextlib.contextmanager
def speaker(talk: Talk) -> Iterator[int]:
    """A port whose clients are talked to like this; each in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as clients:

        def one(client: socket.socket) -> None:
            with contextlib.suppress(OSError):
                talk(client)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    clients.enter_context(client)
                    threading.Thread(target=one, args=(client,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def silent(client: socket.socket) -> None:
    while client.recv(4096):
        pass


@pytest.fixture
def unchanged(bastion: Sshd) -> Iterator[None]:
    """Whatever the test examines: known_hosts, tunnels, ports and the server's connections are as before."""
    known = bastion.known_hosts.read_bytes()
    current().start()
    before = listening(current().engine_pid)
    yield
    assert listening(current().engine_pid) == before == set()
    wait_until(lambda: bastion.connections() == 0, "connections were left open")
    assert not xf.tunnels
    assert bastion.known_hosts.read_bytes() == known or not known


@pytest.fixture
def write(bastion: Sshd, tmp_path: Path) -> Callable[..., None]:
    """Writes the ssh_config anew, with other options."""
    return lambda **options: bastion.write_config(tmp_path / "ssh_config", **options) and None


# all is well


def test_all_is_well_from_the_alias_to_the_hello(bastion: Sshd, postgres: Postgres, unchanged: None) -> None:
    far = bastion.far()
    diagnosis = xf.ssh("bastion").doctor(
        remote_host=far, remote_port=postgres.port, dsn="postgresql://ana@/sales", password="not asked for"
    )
    assert diagnosis.ok, diagnosis
    assert stages(diagnosis) == [*HOST, *FAR, "postgresql"]
    text = str(diagnosis)
    assert "✗" not in text
    assert text.splitlines()[0] == "bastion"
    assert f"{far}:{postgres.port}" in text.splitlines()
    for seen in (
        f"{bastion.user}@127.0.0.1:{bastion.port}",
        "SSH-2.0-OpenSSH",
        bastion.fingerprint(),
        str(bastion.key),
        "publickey",
    ):
        assert seen in text
    assert text.splitlines()[-1].startswith("all is well")
    assert all(finding.seconds is not None for finding in diagnosis.findings if finding.stage in HOST)


def test_host_alone_is_examined_without_a_far_end(bastion: Sshd, unchanged: None) -> None:
    diagnosis = xf.ssh("bastion").doctor(timeout=10)
    assert diagnosis.ok
    assert stages(diagnosis) == HOST


async def test_awaitable_form_says_the_same(bastion: Sshd, services: Services, unchanged: None) -> None:
    diagnosis = await xf.ssh("bastion").adoctor(remote_host=bastion.far(), remote_port=services.echo)
    assert stages(diagnosis) == [*HOST, *FAR]
    assert diagnosis.ok


def test_live_tunnel_and_its_connection_are_left_alone(bastion: Sshd, services: Services) -> None:
    with xf.ssh("bastion").forward(remote_host=bastion.far(), remote_port=services.echo, local_port=0) as tunnel:
        before = tunnel.snapshot
        assert xf.ssh("bastion").doctor(remote_host=bastion.far(), remote_port=services.echo).ok
        wait_until(lambda: bastion.connections() == 1, "the examination left its connection")
        assert tunnel.snapshot.opened == before.opened
        assert tunnel.stats.clients_total == 0
        with socket.create_connection(("127.0.0.1", tunnel.local_port), 10) as client:
            client.sendall(b"ping")
            assert client.recv(4) == b"ping"


def test_key_of_the_agent_is_named(bastion: Sshd, write: Any, tmp_path: Path, unchanged: None) -> None:
    with Agent(tmp_path, bastion.stranger_key(), bastion.key) as agent:
        write(IdentityFile=None, IdentitiesOnly="no", IdentityAgent=agent.path)
        diagnosis = xf.ssh("bastion").doctor()
    assert diagnosis.ok, diagnosis
    assert "the agent's key" in diagnosis.findings[-1].text
    assert any("refused before: the agent's key" in detail for detail in diagnosis.findings[-1].details)


# the way to the host


def test_malformed_ssh_config(bastion: Sshd, tmp_path: Path, unchanged: None) -> None:
    (tmp_path / "ssh_config").write_text("Host bastion\n  Port twenty\n")
    said = failure(xf.ssh("bastion").doctor(remote_port=5432), [], "bastion", "config")
    assert "-F FILE" in said


def test_missing_key_file_is_config(bastion: Sshd, unchanged: None) -> None:
    said = failure(xf.ssh("bastion", private_key="/no/such/key").doctor(), [], "bastion", "config")
    assert "/no/such/key" in said


def test_unknown_name(bastion: Sshd, write: Any, unchanged: None) -> None:
    write(HostName="no-such-host.invalid")
    diagnosis = xf.ssh("bastion").doctor(remote_port=5432)
    said = failure(diagnosis, HOST[:1], "bastion", "dns")
    assert "no-such-host.invalid" in said
    assert "not reached" in str(diagnosis)


def test_refused_port(bastion: Sshd, write: Any, unchanged: None) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        write(Port=held.getsockname()[1])
        said = failure(xf.ssh("bastion").doctor(), HOST[:2], "bastion", "tcp")
    assert "nobody listens" in said
    assert "sshd" in said


def test_port_that_takes_no_connection_ends_within_the_deadline(bastion: Sshd, write: Any, unchanged: None) -> None:
    with socket.socket() as listener, ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # its queue is full: what comes now is dropped
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        write(Port=listener.getsockname()[1])
        start = time.monotonic()
        said = failure(xf.ssh("bastion").doctor(timeout=2), HOST[:2], "bastion", "tcp")
        assert time.monotonic() - start < 3
    assert "no answer" in said
    assert "VPN" in said


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        (silent, "says nothing for"),
        (lambda client: client.close(), "closed the connection without a word"),
        (lambda client: client.sendall(b"220 mail.example ESMTP\r\n") or silent(client), "'220 mail.example ESMTP'"),
        (lambda client: client.sendall(b"Exceeded MaxStartups\r\n") or client.close(), "'Exceeded MaxStartups'"),
        (lambda client: client.recv(99) and client.sendall(b"\x15\x03\x01\x00\x02\x02\x46"), "speaks TLS, not SSH"),
        (lambda client: client.sendall(b"x" * 20_000) or silent(client), "not SSH"),
    ],
    ids=["silent", "closed", "smtp", "full", "tls", "endless"],
)
def test_port_that_is_no_ssh_server(bastion: Sshd, write: Any, talk: Talk, words: str, unchanged: None) -> None:
    with speaker(talk) as port:
        write(Port=port)
        start = time.monotonic()
        said = failure(xf.ssh("bastion").doctor(timeout=4), HOST[:3], "bastion", "banner")
        assert time.monotonic() - start < 5
    assert words in said


def test_port_that_speaks_http(bastion: Sshd, write: Any, unchanged: None) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write(Port=server.server_address[1])
        said = failure(xf.ssh("bastion").doctor(), HOST[:3], "bastion", "banner")
        server.shutdown()
    assert "speaks HTTP, not SSH" in said


def test_connect_timeout_of_ssh_config_is_kept(bastion: Sshd, write: Any, unchanged: None) -> None:
    with speaker(silent) as port:
        write(Port=port, ConnectTimeout=1)
        start = time.monotonic()
        assert "says nothing for 0.9 s" in failure(xf.ssh("bastion").doctor(), HOST[:3], "bastion", "banner")
        assert time.monotonic() - start < 3


def test_server_that_waits_for_the_clients_version_is_examined_all_the_same(
    bastion: Sshd, write: Any, tmp_path: Path, unchanged: None
) -> None:
    """A proxy in front of the real server that lets it speak only after the client (RFC 4253 allows both orders)."""

    def relay(client: socket.socket) -> None:
        first = client.recv(4096)
        with socket.create_connection(("127.0.0.1", bastion.port)) as server:
            server.sendall(first)

            def back() -> None:
                with contextlib.suppress(OSError):
                    while data := server.recv(65536):
                        client.sendall(data)

            threading.Thread(target=back, daemon=True).start()
            try:
                while data := client.recv(65536):
                    server.sendall(data)
            finally:  # a socket that another thread still reads is not closed by close()
                server.shutdown(socket.SHUT_RDWR)

    with speaker(relay) as port:
        write(Port=port, UserKnownHostsFile=bastion.write_known_hosts(tmp_path / "known", hosts=f"[127.0.0.1]:{port}"))
        diagnosis = xf.ssh("bastion").doctor()
    assert diagnosis.ok, diagnosis
    assert stages(diagnosis) == HOST


def test_frozen_server_is_a_silent_one(bastion: Sshd) -> None:
    bastion.freeze()
    try:
        start = time.monotonic()
        said = failure(xf.ssh("bastion").doctor(timeout=1.5), HOST[:3], "bastion", "banner")
        assert time.monotonic() - start < 2.5
    finally:
        bastion.thaw()
    assert "says nothing" in said


def test_no_common_algorithm_is_the_key_exchange(bastion: Sshd, write: Any, unchanged: None) -> None:
    bastion.options["Ciphers"] = "aes256-ctr"
    bastion.restart()
    write(Ciphers="aes128-gcm@openssh.com")
    assert "Ciphers" in failure(xf.ssh("bastion").doctor(), HOST[:4], "bastion", "key exchange")


# the host key


def test_unknown_host_key_is_not_recorded_not_accepted_not_asked(bastion: Sshd) -> None:
    bastion.known_hosts.write_bytes(b"")
    said = failure(xf.ssh("bastion").doctor(remote_port=5432), HOST[:4], "bastion", "host key")
    assert f"not known: ssh-ed25519 {bastion.fingerprint()}" in said
    assert "accept-new" in said
    assert bastion.known_hosts.read_bytes() == b""
    wait_until(lambda: bastion.connections() == 0, "connections were left open")


@pytest.mark.parametrize("option", ["config", "flag"])
def test_unknown_host_key_under_accept_new_is_left_to_the_opening(bastion: Sshd, write: Any, option: str) -> None:
    bastion.known_hosts.write_bytes(b"")
    if option == "config":
        write(StrictHostKeyChecking="accept-new")
    target = xf.ssh("bastion", host_key="accept-new") if option == "flag" else xf.ssh("bastion")
    diagnosis = target.doctor(remote_port=5432)
    assert stages(diagnosis) == HOST[:4]
    assert [finding.stage for finding in diagnosis.findings if finding.outcome is Outcome.UNSURE] == ["host key"]
    assert "✗" not in str(diagnosis)
    assert "first opening records" in diagnosis.fix
    assert bastion.known_hosts.read_bytes() == b""


def test_changed_host_key_shows_both_fingerprints(bastion: Sshd, unchanged: None) -> None:
    old = bastion.fingerprint()
    bastion.restart(changed_host_key=True)
    said = failure(xf.ssh("bastion", host_key="accept-new").doctor(), HOST[:4], "bastion", "host key")
    assert old in said
    assert bastion.fingerprint() in said
    assert "ssh-keygen -R" in said


def test_revoked_host_key(bastion: Sshd) -> None:
    bastion.write_known_hosts(marker="@revoked")
    said = failure(xf.ssh("bastion").doctor(), HOST[:4], "bastion", "host key")
    assert "revoked" in said


# the login


def test_wrong_key_says_what_was_tried_and_what_is_accepted(bastion: Sshd, write: Any, unchanged: None) -> None:
    bastion.options["PasswordAuthentication"] = "no"
    bastion.restart()
    write(IdentityFile=bastion.stranger_key())
    diagnosis = xf.ssh("bastion").doctor(remote_port=5432)
    said = failure(diagnosis, HOST[:5], "bastion", "login")
    assert f"tried {bastion.stranger_key()}" in said
    assert "accepts publickey" in said
    assert "-i FILE" in said
    assert any("SHA256:" in detail for finding in diagnosis.findings for detail in finding.details)


def test_encrypted_key_with_nobody_to_ask(bastion: Sshd, write: Any, unchanged: None) -> None:
    write(IdentityFile=bastion.encrypted_key())
    said = failure(xf.ssh("bastion").doctor(), HOST[:5], "bastion", "login")
    assert "needs the passphrase" in said
    assert "the doctor asks nobody" in said
    assert "ssh-add" in said


def test_encrypted_key_with_a_source(
    bastion: Sshd, write: Any, monkeypatch: pytest.MonkeyPatch, unchanged: None
) -> None:
    write(IdentityFile=bastion.encrypted_key())
    monkeypatch.setenv("KEY_PASSPHRASE", PASSPHRASE)
    diagnosis = xf.ssh("bastion", passphrase="env:KEY_PASSPHRASE").doctor()
    assert diagnosis.ok, diagnosis
    assert PASSPHRASE not in str(diagnosis)


def test_password_is_used_only_from_a_source(
    bastion: Sshd, write: Any, monkeypatch: pytest.MonkeyPatch, unchanged: None
) -> None:
    if not bastion.passwords:
        pytest.skip("an account with a password (root, mount namespaces)")
    write(User=PASSWORD_USER, IdentityFile="none")
    said = failure(xf.ssh("bastion").doctor(), HOST[:5], "bastion", "login")
    assert "needs a password" in said
    assert "--ssh-password" in said
    monkeypatch.setenv("LOGIN_PASSWORD", PASSWORD)
    diagnosis = xf.ssh("bastion", ssh_password="env:LOGIN_PASSWORD").doctor()
    assert diagnosis.ok, diagnosis
    assert "with the password" in diagnosis.findings[-1].text
    assert PASSWORD not in str(diagnosis)
    monkeypatch.setenv("LOGIN_PASSWORD", "wrong-s3cret")
    wrong = failure(xf.ssh("bastion", ssh_password="env:LOGIN_PASSWORD").doctor(), HOST[:5], "bastion", "login")
    assert "wrong-s3cret" not in wrong


# behind the host


def far_failure(bastion: Sshd, port: int, well: list[str], stage: str, host: str = "", **more: Any) -> str:
    host = host or bastion.far()
    diagnosis = xf.ssh("bastion").doctor(remote_host=host, remote_port=port, **more)
    return failure(diagnosis, [*HOST, *well], f"{host}:{port}", stage)


@pytest.mark.parametrize("option", [{"AllowTcpForwarding": "no"}, {"PermitOpen": "127.0.0.1:1"}], ids=["all", "this"])
def test_prohibited_forwarding(bastion: Sshd, services: Services, option: dict[str, str], unchanged: None) -> None:
    bastion.options.update(option)
    bastion.restart()
    said = far_failure(bastion, services.echo, [], "forwarding")
    assert "not allowed" in said
    assert "PermitOpen" in said


def test_unknown_far_name(bastion: Sshd, unchanged: None) -> None:
    assert "cannot resolve no-such-name" in far_failure(bastion, 5432, FAR[:1], "far name", "no-such-name.invalid")


def test_refused_far_port(bastion: Sshd, services: Services, unchanged: None) -> None:
    assert "refused" in far_failure(bastion, services.refused, FAR[:2], "far port")


def test_silent_far_port_is_told_from_a_refused_one(bastion: Sshd, unchanged: None) -> None:
    with socket.socket() as listener, ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        start = time.monotonic()
        said = far_failure(bastion, listener.getsockname()[1], FAR[:1], "far port", "127.0.0.1", timeout=3)
        assert time.monotonic() - start < 4
    assert "no answer within" in said
    assert "firewall" in said


def test_service_that_says_nothing_and_one_that_speaks_another_protocol(
    bastion: Sshd, services: Services, unchanged: None
) -> None:
    said = far_failure(bastion, services.hang, FAR, "postgresql", dsn="postgresql://ana@/sales")
    assert "no answer in 5 s" in said
    said = far_failure(bastion, services.echo, FAR, "postgresql", dsn="postgresql://ana@/sales", timeout=20)
    assert "does not speak postgresql" in said
    said = far_failure(bastion, services.reset, FAR, "postgresql", dsn="postgresql://ana@/sales")
    assert "without a postgresql hello" in said


def test_one_far_end_that_fails_hides_no_other(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    far = bastion.far()
    shown = kernel.run(f"%forward --doctor bastion {far}:{services.refused} {far}:{services.echo} -D 0").ok()
    text = shown.displays[-1].text
    assert text.count("✗ FAILED  far port") == 1
    assert text.count("✓ ok      far port") == 1
    assert "SOCKS" in text
    assert text.count("fix: ") == 1


def test_remote_forward_is_not_asked_of_the_server(bastion: Sshd, services: Services, unchanged: None) -> None:
    port = free_port()
    arguments: dict[str, Any] = {"type": "remote", "remote_port": port, "local_host": "127.0.0.1"}
    diagnosis = xf.ssh("bastion").doctor(local_port=services.echo, **arguments)
    assert diagnosis.ok
    assert stages(diagnosis) == [*HOST, "local port"]
    assert f"would have bastion listen at :{port}" in str(diagnosis)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        nobody = held.getsockname()[1]
        diagnosis = xf.ssh("bastion").doctor(local_port=nobody, **arguments)
        assert "refused, from here" in failure(diagnosis, HOST, f"127.0.0.1:{nobody}", "local port")


# several hops


@pytest.fixture
def hops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Sshd]]:
    """`inner` behind `outer` (ProxyJump)."""
    if reason := missing():
        pytest.skip(reason)
    with ExitStack() as stack:
        servers = {}
        for name in ("outer", "inner"):
            (tmp_path / name).mkdir()
            servers[name] = stack.enter_context(Sshd(tmp_path / name))
        _write_hops(tmp_path, servers)
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(tmp_path / "ssh_config"))
        yield servers


def _write_hops(folder: Path, servers: dict[str, Sshd], **inner: object) -> None:
    text = servers["outer"].config("outer") + servers["inner"].config("inner", ProxyJump="outer", **inner)
    (folder / "ssh_config").write_text(text)


def test_each_hop_has_its_stages(hops: dict[str, Sshd], services: Services) -> None:
    diagnosis = xf.ssh("inner").doctor(remote_host="localhost", remote_port=services.echo)
    assert diagnosis.ok, diagnosis
    by_hop: dict[str, list[str]] = {}
    for finding in diagnosis.findings:
        by_hop.setdefault(finding.hop, []).append(finding.stage)
    assert by_hop["outer"] == HOST
    assert by_hop["inner"] == ["config", "forwarding", "tcp", "banner", "host key", "login"]
    assert by_hop[f"localhost:{services.echo}"] == FAR
    assert "through outer" in str(diagnosis)
    for server in hops.values():
        wait_until(lambda one=server: one.connections() == 0, "connections were left open")  # type: ignore[misc]


def test_failing_hop_is_named(hops: dict[str, Sshd], tmp_path: Path) -> None:
    to_outer = ["config", "config", *HOST[1:]]
    hops["inner"].kill()
    assert "refused, as seen from outer" in failure(xf.ssh("inner").doctor(), [*to_outer, "forwarding"], "inner", "tcp")
    _write_hops(tmp_path, hops, HostName="no-such-name.invalid")
    said = failure(xf.ssh("inner").doctor(), [*to_outer, "forwarding"], "inner", "dns")
    assert "outer cannot resolve no-such-name.invalid" in said
    _write_hops(tmp_path, hops)
    hops["outer"].options["AllowTcpForwarding"] = "no"
    hops["outer"].restart()
    assert "not allowed" in failure(xf.ssh("inner").doctor(), to_outer, "inner", "forwarding")
    hops["outer"].change_host_keys()
    hops["outer"].restart()
    assert "has changed" in failure(xf.ssh("inner").doctor(), ["config", "config", *HOST[1:4]], "outer", "host key")
    hops["outer"].kill()
    failure(xf.ssh("inner", proxy="outer").doctor(), ["config", "config", "dns"], "outer", "tcp")


def test_wrong_key_at_the_inner_hop(hops: dict[str, Sshd], tmp_path: Path) -> None:
    _write_hops(tmp_path, hops, IdentityFile=hops["inner"].stranger_key(), PreferredAuthentications="publickey")
    well = ["config", "config", *HOST[1:], "forwarding", "tcp", "banner", "host key"]
    failure(xf.ssh("inner").doctor(), well, "inner", "login")
    for server in hops.values():
        wait_until(lambda one=server: one.connections() == 0, "connections were left open")  # type: ignore[misc]


def test_proxy_command_is_one_stage(bastion: Sshd, write: Any, unchanged: None) -> None:
    relay = (
        "import socket,sys,threading,os;s=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
        "threading.Thread(target=lambda:[os.write(1,d) for d in iter(lambda:s.recv(65536),b'')],daemon=True).start();"
        "[s.sendall(d) for d in iter(lambda:os.read(0,65536),b'')]"
    )
    write(ProxyCommand=f'{sys.executable} -c "{relay}" %h %p')
    diagnosis = xf.ssh("bastion").doctor()
    assert stages(diagnosis) == ["config", "proxy", "host key", "login"], diagnosis
    assert "OpenSSH" in diagnosis.findings[1].text
    write(ProxyCommand="/no/such/program %h %p")
    failure(xf.ssh("bastion").doctor(), ["config"], "bastion", "proxy")
    write(ProxyCommand="false")
    failure(xf.ssh("bastion").doctor(), ["config"], "bastion", "proxy")


# giving up


async def test_cancelled_examination_leaves_nothing(bastion: Sshd, unchanged: None) -> None:
    at_the_banner = asyncio.Event()

    class Watcher(ScriptWatcher):
        def found(self, finding: Finding) -> None:
            if finding.stage == "banner":
                at_the_banner.set()

    bastion.freeze()
    try:
        doctor = asyncio.ensure_future(current().aexamine(xf.ssh("bastion").target, (), 30, Watcher()))
        await asyncio.wait_for(at_the_banner.wait(), 10)
        doctor.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(doctor, 2)
    finally:
        bastion.thaw()


# the magic and the command


def run_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xec_forward", "doctor", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def timeless(text: str) -> str:
    return re.sub(r" +[0-9.]+ s\b", " T", text).strip()


@pytest.fixture
def kernel(bastion: Sshd, tmp_path: Path) -> Iterator[Kernel]:
    if reason := kernel_missing():
        pytest.skip(reason)
    folder = tmp_path / "kernel"
    folder.mkdir()
    with Kernel(folder, {}, "%load_ext xec_forward") as running:
        yield running


def test_magic_and_command_say_the_same(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    words = ["bastion", f"{bastion.far()}:{services.refused}"]
    result = kernel.run(f"%forward --doctor {' '.join(words)}").ok()
    (display,) = result.displays
    done = run_command(*words)
    assert done.returncode == 1
    assert done.stderr == ""
    assert timeless(done.stdout) == timeless(display.text)
    assert "✗ FAILED" in display.html
    assert "<b>fix: " in display.html
    assert len(display.bundles) > 8, "the stages did not appear one by one"
    assert "… running" in display.bundles[0]["text/plain"]
    assert result.result is None
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0


def test_command_tells_by_its_status(bastion: Sshd, services: Services) -> None:
    well = run_command("bastion", f"{bastion.far()}:{services.echo}")
    assert (well.returncode, well.stderr) == (0, "")
    assert "all is well" in well.stdout
    assert run_command().returncode == 2
    malformed = run_command("bastion", "5432:pg.vpc")
    assert (malformed.returncode, malformed.stdout) == (2, "")
    assert malformed.stderr.startswith("xec-forward doctor: ESPEC")
    command = run_command("--command", "x %p", "pg.vpc:5432")
    assert command.returncode == 2
    assert "SSH host" in command.stderr
    assert "xec-forward doctor" in run_command("--help").stdout


def test_command_is_ended_by_ctrl_c(bastion: Sshd) -> None:
    bastion.freeze()
    try:
        command = [sys.executable, "-m", "xec_forward", "doctor", "bastion"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as one:
            assert one.stdout is not None
            while b" tcp " not in one.stdout.readline():
                pass
            one.send_signal(signal.SIGINT)
            _, said = one.communicate(timeout=8)
        assert one.returncode == 1
        assert said.decode().strip() == "xec-forward doctor: interrupted; nothing was changed"
    finally:
        bastion.thaw()


def test_magic_is_ended_by_ctrl_c(kernel: Kernel, bastion: Sshd) -> None:
    bastion.freeze()
    try:
        running = kernel.start("%forward --doctor bastion")
        running.until(lambda result: "… running banner" in result.text)
        start = time.monotonic()
        kernel.interrupt()
        result = running.wait(10)
        assert time.monotonic() - start < 3
    finally:
        bastion.thaw()
    assert result.error is not None
    assert "interrupted" in result.error.value
    assert kernel.value("1 + 1") == 2


def test_failed_opening_offers_the_doctor(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    far = f"{bastion.far()}:{services.refused}"
    failed = kernel.run(f"%forward bastion {far}")
    assert failed.error is not None
    assert "\n" not in failed.error.value.strip()
    offered = failed.error.value.rpartition("See each hop: ")[2].strip()
    assert offered == f"%forward --doctor bastion {far}"
    assert "✗ FAILED  far port" in kernel.run(offered).ok().displays[-1].text
    other = kernel.run(f"%forward bastion {far} --username {bastion.user}")
    assert other.error is not None
    assert "%forward --doctor" in other.error.value
    for line in ("bastion 5432:pg.vpc", f"bastion {far} --as class"):
        malformed = kernel.run(f"%forward {line}")
        assert malformed.error is not None
        assert "--doctor" not in malformed.error.value
