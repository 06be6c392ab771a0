"""Bad input and bad days, through the magic: one line with code, hop and fix; nothing left open; no secret shown."""

from __future__ import annotations

import socket

import pytest

from tests.peers.ipykernels import both_ipykernels
from tests.peers.kernel import Error, Kernel, Result
from tests.peers.ports import free_port
from tests.peers.services import Services
from tests.peers.sshd import PASSPHRASE, Sshd

SECRET = "hunter2-s3cret"


def _one_line(kernel: Kernel, result: Result, code: str) -> Error:
    """The cell's error, which is one line everywhere it is shown; and nothing is open after it."""
    assert result.error is not None, result
    error = result.error
    assert error.traceback.strip() == error.value.strip()
    assert "\n" not in error.value.strip()
    assert error.value.startswith(f"{code} "), error.value
    assert SECRET not in result.text
    assert result.stdout == ""
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0
    return error


@pytest.mark.parametrize(
    ("line", "code", "parts"),
    [
        ("bastion 5432:pg.vpc", "ESPEC", ("5432:pg.vpc",)),
        ("bastion 5432:pg.vpc:99999", "ESPEC", ("99999",)),
        ("bastion --pasword env:X pg.vpc:5432", "ESPEC", ("--pasword", "--password")),
        ("bastion 'pg.vpc:5432", "ESPEC", ("quote",)),
        (f"bastion pg.vpc:5432 --password {SECRET}", "ESPEC", ("--password", "env:NAME")),
        (f"bastion postgresql://ana:{SECRET}@pg.vpc/sales", "ESPEC", ("password",)),
        (f"bastion pg.vpc:5432 --dsn postgresql://ana:{SECRET}@/sales", "ESPEC", ("password",)),
        (f"ana:{SECRET}@bastion pg.vpc:5432", "ESPEC", ("--ssh-password",)),
        ("bastion", "ESPEC", ("SPEC is missing",)),
        ("bastion pg.vpc:5432 --as class", "ESPEC", ("class",)),
        ("bastion -D", "ESPEC", ("-D",)),
        ("no-such-host.invalid 5432", "ENOTFOUND", ("no-such-host.invalid",)),
    ],
)
def test_malformed_line_is_one_line(kernel: Kernel, line: str, code: str, parts: tuple[str, ...]) -> None:
    error = _one_line(kernel, kernel.run(f"%forward {line}"), code)
    for part in parts:
        assert part in error.value
    shown = kernel.run("%tb")
    assert shown.error is not None or shown.stdout
    assert "Traceback (most recent call last)" in shown.text
    assert SECRET not in shown.text


def test_refused_bastion(kernel: Kernel, bastion: Sshd) -> None:
    bastion.kill()
    error = _one_line(kernel, kernel.run("%forward bastion 5432"), "ECONNREFUSED")
    assert "bastion" in error.value


def test_wrong_key(kernel: Kernel, bastion: Sshd) -> None:
    bastion.options["PasswordAuthentication"] = "no"
    bastion.restart()
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.stranger_key())
    error = _one_line(kernel, kernel.run("%forward bastion 5432"), "EAUTH")
    assert "bastion" in error.value
    assert "-i FILE" in error.value


def test_unknown_and_changed_host_keys_are_two_errors(kernel: Kernel, bastion: Sshd) -> None:
    known = bastion.known_hosts.read_text()
    bastion.known_hosts.write_text("")
    unknown = _one_line(kernel, kernel.run("%forward bastion 5432"), "EHOSTKEY")
    assert unknown.name == "UnknownHostKeyError"
    assert bastion.fingerprint() in unknown.value
    assert "accept-new" in unknown.value
    bastion.known_hosts.write_text(known)
    old = bastion.fingerprint()
    bastion.restart(changed_host_key=True)
    changed = _one_line(kernel, kernel.run("%forward bastion 5432", answers=["yes"]), "EHOSTKEY")
    assert changed.name == "ChangedHostKeyError"
    assert old in changed.value
    assert bastion.fingerprint() in changed.value


def test_encrypted_key_and_nobody_to_ask(kernel: Kernel, bastion: Sshd) -> None:
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())
    result = kernel.run("%forward bastion 5432")
    error = _one_line(kernel, result, "EAUTH")
    assert "nobody is here to answer" in error.value
    assert "ssh-add" in error.value
    assert result.prompts == []


@both_ipykernels
def test_passphrase_is_asked_once_and_shown_nowhere(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())
    far = bastion.far()
    result = kernel.run(
        f"%forward bastion a=0:{far}:{services.echo} b=0:{far}:{services.reply}", answers=[PASSPHRASE]
    ).ok()
    assert len(result.prompts) == 1
    assert result.prompts[0][1]
    assert "id_encrypted" in result.prompts[0][0]
    assert PASSPHRASE not in result.text
    assert kernel.value("(a.state, b.state)") == ("ready", "ready")


def test_prompt_as_source_names_the_option(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())
    line = f"%forward bastion 0:{bastion.far()}:{services.echo} --as e --passphrase prompt"
    result = kernel.run(line, answers=[PASSPHRASE]).ok()
    assert result.prompts == [("Passphrase of the key for bastion (--passphrase prompt): ", True)]


@both_ipykernels
def test_new_host_key_is_accepted_by_a_person(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    bastion.known_hosts.write_text("")
    line = f"%forward bastion 0:{bastion.far()}:{services.echo} --as e"
    refused = kernel.run(line, answers=["no"])
    assert refused.error is not None
    assert refused.error.value.startswith("EHOSTKEY bastion")
    result = kernel.run(line, answers=["yes"]).ok()
    assert [echo for _, echo in result.prompts] == [False]
    assert bastion.fingerprint() in result.stdout + result.prompts[0][0]
    assert str(bastion.port) in bastion.known_hosts.read_text()


@both_ipykernels
def test_service_password_is_asked_once(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    line = f"%forward bastion 0:{bastion.far()}:{services.hang} --as pg --no-check --dsn postgresql://ana@/sales"
    nobody = _one_line(kernel, kernel.run(f"{line} --password prompt"), "EAUTH")
    assert "nobody is here to answer" in nobody.value
    empty = _one_line(kernel, kernel.run(f"{line} --password prompt", answers=[""]), "ECONFIG")
    assert "--password prompt: the answer was empty. Run the line again and type it" in empty.value
    result = kernel.run(f"{line} --password prompt", answers=[SECRET]).ok()
    assert len(result.prompts) == 1
    again = kernel.run(f"{line} --password prompt").ok()
    assert "reused" in again.displays[0].text
    assert kernel.value(f"({SECRET!r} in pg_dsn.reveal(), pg.dsn().reveal() == pg_dsn.reveal())") == (True, True)
    assert SECRET not in result.text + again.text


def test_port_taken_by_another_program(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = kernel.run(f"%forward bastion {port}:{bastion.far()}:{services.echo}")
    error = _one_line(kernel, result, "EADDRINUSE")
    assert str(port) in error.value


def test_far_port_refused_and_far_name_unknown(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    far = bastion.far()
    refused = _one_line(kernel, kernel.run(f"%forward bastion {far}:{services.refused}"), "ECONNREFUSED")
    assert f"{far}:{services.refused}" in refused.value
    unknown = kernel.run("%forward bastion 0:no-such-name.invalid:5432")
    assert unknown.error is not None
    assert "no-such-name.invalid" in unknown.error.value
    _one_line(kernel, unknown, unknown.error.value.split()[0])


def test_prohibited_forwarding(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    bastion.options["AllowTcpForwarding"] = "no"
    bastion.restart()
    error = _one_line(kernel, kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo}"), "EPROHIBITED")
    assert "bastion" in error.value


def test_source_that_fails_leaves_nothing_open(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    port = free_port()
    line = f"%forward bastion {port}:{bastion.far()}:{services.hang} --as pg --no-check --dsn postgresql://ana@/sales"
    error = _one_line(kernel, kernel.run(f"{line} --password env:NOT_THERE"), "ECONFIG")
    assert "NOT_THERE" in error.value
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_error_raised_again_is_one_line_again(kernel: Kernel, bastion: Sshd) -> None:
    bastion.kill()
    code = "try:\n    %forward bastion 5432\nexcept Exception as error:\n    kept = error"
    kernel.run(code).ok()
    for _ in range(2):
        again = kernel.run("raise kept")
        assert again.error is not None
        assert again.error.traceback.startswith("ECONNREFUSED ")
    assert kernel.value("isinstance(kept, ConnectionRefusedError) and kept.code == 'ECONNREFUSED'")
