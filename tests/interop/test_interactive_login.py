"""Logins from the notebook and from Python: agent, certificate, token, passphrases from every SOURCE, and codes that a
person has to give, also after the link was lost.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import xec_forward as xf
from tests.peers import ipykernels
from tests.peers.interrogator import Interrogator
from tests.peers.ipykernels import both_ipykernels
from tests.peers.kernel import Kernel, wait_until
from tests.peers.kernel import missing as kernel_missing
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, PASSWORD, PASSWORD_USER, Agent, Sshd, keygen, public
from xec_forward.client.session import current
from xec_forward.client.watcher import ScriptWatcher

CODE = "492817"
SOFTHSM = ("/usr/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so")


def ask(port: int, data: bytes = b"ping") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def reaches(target: xf.Ssh, services: Services) -> None:
    with target.forward(remote_host="localhost", remote_port=services.echo, local_port=0) as tunnel:
        assert ask(tunnel.local_port) == b"ping"


@pytest.fixture
def config(bastion: Sshd, tmp_path: Path) -> Path:
    """The bastion's ssh_config, without a key that works."""
    return bastion.write_config(tmp_path / "ssh_config", IdentityFile="none")


@pytest.fixture
def codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrogator]:
    """A server that asks for a password and for a one-time code."""
    questions = [("Password: ", False), ("One-time password (OATH): ", False)]
    with Interrogator(tmp_path, questions, [PASSWORD, CODE]) as server:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(server.write_config(tmp_path / "ssh_config")))
        yield server


@pytest.fixture
def kernel(request: pytest.FixtureRequest, tmp_path: Path, codes: Interrogator) -> Iterator[Kernel]:
    if reason := kernel_missing():
        pytest.skip(reason)
    folder = tmp_path / "kernel"
    folder.mkdir()
    env = {"XEC_FORWARD_SSH_CONFIG": os.environ["XEC_FORWARD_SSH_CONFIG"], "LOGIN": PASSWORD}
    with Kernel(folder, env | ipykernels.variables(request), "%load_ext xec_forward") as running:
        yield running


# what a person has to answer


@both_ipykernels
def test_one_time_code_is_asked_in_the_cell_and_appears_nowhere(
    kernel: Kernel, codes: Interrogator, services: Services, tmp_path: Path
) -> None:
    done = kernel.run(f"%forward bastion 0:localhost:{services.echo} --as far", answers=[PASSWORD, CODE]).ok()
    assert done.prompts == [("(bastion) Password: ", True), ("(bastion) One-time password (OATH): ", True)]
    assert ask(kernel.value("far.local_port")) == b"ping"
    everything = done.text + kernel.log()
    everything += "".join(
        file.read_text(errors="replace") for file in (tmp_path / "state").rglob("*") if file.is_file()
    )
    assert CODE not in everything
    assert PASSWORD not in everything


def test_code_goes_with_a_password_from_its_source(kernel: Kernel, services: Services) -> None:
    line = f"%forward bastion 0:localhost:{services.echo} --as far --ssh-password env:LOGIN"
    done = kernel.run(line, answers=[CODE]).ok()
    assert [prompt for prompt, _ in done.prompts] == ["(bastion) One-time password (OATH): "]


def test_nobody_to_give_the_code_is_one_line_at_once(kernel: Kernel, services: Services) -> None:
    done = kernel.run(f"%forward bastion 0:localhost:{services.echo} --ssh-password env:LOGIN")
    assert done.error is not None
    assert done.error.value.startswith("EAUTH bastion: the login as ana needs an answer (")
    assert "\n" not in done.error.value
    assert done.seconds < 10


def test_lost_link_with_a_code_waits_for_a_person_and_reconnect_asks(
    kernel: Kernel, codes: Interrogator, services: Services
) -> None:
    line = f"%forward bastion 0:localhost:{services.echo} --as far --ssh-password env:LOGIN"
    kernel.run(line, answers=[CODE]).ok()
    port = kernel.value("far.local_port")
    codes.restart()
    wait_until(lambda: kernel.value("str(far.state)") == "waiting", "the tunnel does not wait", 20)
    asked = codes.questioned()
    # The port is held, and a client is refused at once, not parked.
    start = time.monotonic()
    # The reset may come as early as in connect itself.
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"x")
        client.recv(1)
        raise ConnectionResetError("an end without a byte is refused too")
    assert time.monotonic() - start < 5
    held = socket.socket()
    with held, pytest.raises(OSError, match="in use"):
        held.bind(("127.0.0.1", port))
    # Nothing dials by itself: no questions all night.
    table = kernel.run("%forward").ok()
    assert "far: %forward --reconnect far logs in again" in table.text
    assert codes.questioned() == asked
    done = kernel.run("%forward --reconnect far", answers=[CODE]).ok()
    assert [prompt for prompt, _ in done.prompts] == ["(bastion) One-time password (OATH): "]
    assert (kernel.value("str(far.state)"), kernel.value("far.local_port")) == ("ready", port)
    assert ask(port) == b"ping"


def test_waiting_tunnel_dials_once_and_never_again_by_itself(codes: Interrogator, services: Services) -> None:
    answers = iter([CODE])
    target = xf.ssh("bastion", ssh_password=lambda: PASSWORD)
    session = current()

    class Person(ScriptWatcher):
        def ask(self, question: object) -> str:
            return next(answers)

    session.watcher = Person
    try:
        tunnel = target.forward(remote_host="localhost", remote_port=services.echo, local_port=0)
        codes.restart()
        wait_until(lambda: tunnel.state is xf.TunnelState.WAITING, "the tunnel does not wait", 20)
        asked = codes.questioned()
        for _ in range(5):
            with (
                pytest.raises(ConnectionError),
                socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as client,
            ):
                client.sendall(b"x")
                if not client.recv(1):
                    raise ConnectionResetError("connection reset")
        assert codes.questioned() == asked
        assert tunnel.state is xf.TunnelState.WAITING
        with pytest.raises(xf.AuthenticationError):
            tunnel.wait_ready(1)
        tunnel.close()
    finally:
        session.watcher = ScriptWatcher


# agent, certificate


def test_agent_of_the_environment_logs_in(
    bastion: Sshd, config: Path, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bastion.write_config(tmp_path / "ssh_config", IdentityFile=None, IdentitiesOnly="no")
    with Agent(tmp_path, bastion.key) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
        monkeypatch.setenv("HOME", str(tmp_path))
        reaches(xf.ssh("bastion"), services)


def test_certificate_beside_the_key_logs_in_where_the_key_alone_does_not(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = keygen(tmp_path / "authority")
    server_folder = tmp_path / "server"
    server_folder.mkdir()
    with Sshd(server_folder, options={"TrustedUserCAKeys": str(public(authority))}) as sshd:
        key = sshd.stranger_key()
        config = sshd.write_config(tmp_path / "certified", IdentityFile=key)
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(config))
        with pytest.raises(xf.AuthenticationError):
            reaches(xf.ssh("bastion"), services)
        command = ["ssh-keygen", "-q", "-s", str(authority), "-I", "ana", "-n", sshd.user, str(public(key))]
        subprocess.run(command, check=True, timeout=15, capture_output=True)
        reaches(xf.ssh("bastion"), services)
        assert " ID ana " in sshd.log.read_text()


def test_key_file_is_found_by_variable_home_and_working_folder_as_they_are_now(
    bastion: Sshd, config: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    current().start()  # the engine has its own, older environment
    monkeypatch.setenv("KEYS", str(bastion.folder))
    reaches(xf.ssh("bastion", private_key="$KEYS/id_ed25519"), services)
    reaches(xf.ssh("bastion", private_key=["${KEYS}/id_ed25519"]), services)
    monkeypatch.setenv("HOME", str(bastion.folder))
    reaches(xf.ssh("bastion", private_key="~/id_ed25519"), services)
    monkeypatch.chdir(bastion.folder)
    reaches(xf.ssh("bastion", private_key="id_ed25519"), services)


# secrets from every SOURCE


def sources(folder: Path, secret: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The same secret, at each place one may come from."""
    pytest.importorskip("keyring", reason="keyring")
    import keyring
    import keyring.backend

    class Keyring(keyring.backend.KeyringBackend):
        priority = 1  # type: ignore[assignment]

        def get_password(self, service: str, username: str) -> str | None:
            return secret if (service, username) == ("bastion", "ana") else None

        def set_password(self, service: str, username: str, password: str) -> None: ...

    monkeypatch.setattr("keyring.core._keyring_backend", Keyring())
    file = folder / "secret"
    file.write_text(f"{secret}\n")
    file.chmod(0o600)
    monkeypatch.setenv("THE_SECRET", secret)
    return {
        "env": "env:THE_SECRET",
        "keyring": "keyring:bastion/ana",
        "cmd": f"cmd:cat {file}",
        "file": f"file:{file}",
        "callable": lambda: secret,
        "itself": secret,
    }


@pytest.mark.parametrize("kind", ["env", "keyring", "cmd", "file", "callable", "itself"])
def test_passphrase_comes_from_every_source(
    bastion: Sshd, config: Path, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = sources(tmp_path, PASSPHRASE, monkeypatch)[kind]
    reaches(xf.ssh("bastion", private_key=bastion.encrypted_key(), passphrase=source), services)


@pytest.mark.parametrize("kind", ["env", "keyring", "cmd", "file", "callable", "itself"])
def test_password_comes_from_every_source(
    bastion: Sshd, config: Path, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if not bastion.passwords:
        pytest.skip("an account with a password (root, and a mount namespace)")
    source = sources(tmp_path, PASSWORD, monkeypatch)[kind]
    reaches(xf.ssh("bastion", username=PASSWORD_USER, ssh_password=source), services)


def test_prompt_as_a_source_asks_in_the_cell(bastion: Sshd, config: Path, services: Services, tmp_path: Path) -> None:
    if reason := kernel_missing():
        pytest.skip(reason)
    folder = tmp_path / "kernel"
    folder.mkdir()
    env = {"XEC_FORWARD_SSH_CONFIG": os.environ["XEC_FORWARD_SSH_CONFIG"]}
    with Kernel(folder, env, "%load_ext xec_forward") as kernel:
        spec = f"bastion 0:localhost:{services.echo}"
        line = f"%forward {spec} -i {bastion.encrypted_key()} --passphrase prompt"
        done = kernel.run(line, answers=[PASSPHRASE]).ok()
        assert done.prompts == [("Passphrase of the key for bastion (--passphrase prompt): ", True)]
        assert PASSPHRASE not in done.text
        if bastion.passwords:
            line = f"%forward -l {PASSWORD_USER} {spec} --ssh-password prompt --as carla"
            done = kernel.run(line, answers=[PASSWORD]).ok()
            assert done.prompts == [("Password for bastion (--ssh-password prompt): ", True)]
            assert PASSWORD not in done.text


# keys in hardware


def test_missing_pkcs11_provider_is_told_in_the_one_line(bastion: Sshd, services: Services, tmp_path: Path) -> None:
    bastion.write_config(tmp_path / "ssh_config", IdentityFile="none", PKCS11Provider="/nowhere/opensc-pkcs11.so")
    with pytest.raises(xf.AuthenticationError) as caught:
        reaches(xf.ssh("bastion"), services)
    assert "the PKCS11Provider /nowhere/opensc-pkcs11.so is not there" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_security_key_without_its_library_is_told_in_the_one_line(
    bastion: Sshd, services: Services, tmp_path: Path
) -> None:
    if importlib.util.find_spec("fido2") is not None:
        pytest.skip("an installation without fido2")
    from asyncssh.sk_eddsa import _SKEd25519Key

    key = tmp_path / "id_ed25519_sk"
    key.write_bytes(_SKEd25519Key(bytes(range(32)), "ssh:", 1, b"a handle").export_private_key("openssh"))
    key.chmod(0o600)
    bastion.write_config(tmp_path / "ssh_config", IdentityFile=key)
    with pytest.raises(xf.AuthenticationError) as caught:
        reaches(xf.ssh("bastion"), services)
    assert "security keys need pip install 'asyncssh[fido2]', or the ssh-agent" in str(caught.value)


def test_key_of_a_token_logs_in_with_its_pin(
    bastion: Sshd, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = next((path for path in SOFTHSM if os.path.exists(path)), "")
    for component, there in (
        ("softhsm2", provider and shutil.which("softhsm2-util")),
        ("pkcs11-tool (Debian: opensc)", shutil.which("pkcs11-tool")),
        ("python-pkcs11 (asyncssh[pkcs11])", importlib.util.find_spec("pkcs11")),
    ):
        if not there:
            pytest.skip(component)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))

    def run(*command: str) -> str:
        return subprocess.run(command, check=True, timeout=30, capture_output=True, text=True).stdout

    run("softhsm2-util", "--init-token", "--free", "--label", "ana", "--pin", "1234", "--so-pin", "4321")
    login = ("pkcs11-tool", "--module", provider, "--login", "--pin", "1234", "--token-label", "ana")
    run(*login, "--keypairgen", "--key-type", "rsa:2048", "--label", "ana", "--id", "01", "--usage-sign")
    with (bastion.folder / "authorized_keys").open("a") as file:
        file.write(run("ssh-keygen", "-D", provider))
    bastion.write_config(tmp_path / "ssh_config", IdentityFile="none", PKCS11Provider=provider)
    reaches(xf.ssh("bastion", passphrase=lambda: "1234"), services)
    with pytest.raises(xf.AuthenticationError) as caught:
        reaches(xf.ssh("bastion", passphrase=lambda: "9999"), services)
    assert "PinIncorrect" in str(caught.value)
    with pytest.raises(xf.AuthenticationError) as caught:
        reaches(xf.ssh("bastion"), services)
    assert f"needs the PIN of {provider}" in str(caught.value)
