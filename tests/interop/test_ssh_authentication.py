"""Logging in at OpenSSH's sshd: which key, whose answer, and what the user is told when it does not work."""

# Set-up and checks block the loop for a moment, with nothing else running on it.
# ruff: noqa: ASYNC221

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.peers.channels import Conversation
from tests.peers.links import acquire, linked, target
from tests.peers.sshd import PASSPHRASE, PASSWORD, PASSWORD_USER, Agent, Sshd, keygen, missing, public
from xec_forward.engine.links import ssh
from xec_forward.engine.links.base import Unanswered
from xec_forward.engine.links.pool import Pool
from xec_forward.errors import AuthenticationError, ConfigError, ForwardError


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if reason := missing():
        pytest.skip(reason)
    with Sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sshd]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path / "own"
    folder.mkdir()
    with Sshd(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def secrets_stay_secret(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that is logged, at any level, shows a secret."""
    caplog.set_level(logging.DEBUG)
    yield
    for secret in (PASSPHRASE, PASSWORD, "wrong secret"):
        assert secret not in caplog.text


def config_of(sshd: Sshd, folder: Path, **options: object) -> Path:
    return sshd.write_config(folder / "ssh_config", **options)


async def works(config: Path, opening: Conversation | None = None, **options: Any) -> None:
    async with linked(target(config, **options), opening) as link:
        assert await link.round_trip() > 0


async def refused(config: Path, opening: Conversation | None = None, **options: Any) -> ForwardError:
    with pytest.raises(ForwardError) as caught:
        await works(config, opening, **options)
    text = f"{caught.value} {caught.value!r} {caught.value.__cause__}"
    assert "\n" not in str(caught.value)
    for secret in (PASSPHRASE, PASSWORD, "wrong secret"):
        assert secret not in text
    return caught.value


# keys


async def test_an_identity_file_given_wins_over_those_of_ssh_config(sshd: Sshd, tmp_path: Path) -> None:
    config = config_of(sshd, tmp_path, IdentityFile=sshd.stranger_key())
    error = await refused(config)
    assert isinstance(error, AuthenticationError)
    await works(config, private_key=(str(sshd.key),))


async def test_a_refused_login_says_what_was_tried_and_what_would_be_accepted(sshd: Sshd, tmp_path: Path) -> None:
    error = await refused(config_of(sshd, tmp_path, IdentityFile=sshd.stranger_key()))
    assert isinstance(error, AuthenticationError)
    assert error.hop == "bastion"
    assert f"as {sshd.user}" in str(error)
    assert str(sshd.stranger_key()) in str(error)
    assert "publickey" in str(error)


async def test_an_unknown_user_is_named(sshd: Sshd, tmp_path: Path) -> None:
    error = await refused(config_of(sshd, tmp_path), username="nobody-of-that-name")
    assert isinstance(error, AuthenticationError)
    assert "nobody-of-that-name" in str(error)


async def test_a_missing_identity_file_is_an_error_when_it_was_asked_for(sshd: Sshd, tmp_path: Path) -> None:
    error = await refused(config_of(sshd, tmp_path), private_key=(str(tmp_path / "nowhere"),))
    assert isinstance(error, ConfigError)
    assert "nowhere cannot be used: no such file" in str(error)
    await works(config_of(sshd, tmp_path, IdentityFile=f"{tmp_path}/nowhere\n    IdentityFile {sshd.key}"))


async def test_a_file_that_is_no_key_is_named(sshd: Sshd, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("this is no key\n")
    error = await refused(config_of(sshd, tmp_path), private_key=(str(rubbish),))
    assert isinstance(error, ConfigError)
    assert "rubbish cannot be used" in str(error)
    error = await refused(config_of(sshd, tmp_path, IdentityFile=rubbish))
    assert isinstance(error, AuthenticationError)
    assert "rubbish cannot be used" in str(error)


async def test_default_identities_are_tried(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    shutil.copy(sshd.key, tmp_path / ".ssh" / "id_ed25519")
    await works(config_of(sshd, tmp_path, IdentityFile=None))


async def test_a_user_certificate_beside_the_key_is_used(own: Sshd, tmp_path: Path) -> None:
    authority, key = keygen(tmp_path / "authority"), keygen(tmp_path / "id_signed")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", authority, "-I", "test", "-n", own.user, public(key)], check=True, timeout=20
    )
    own.options["TrustedUserCAKeys"] = str(public(authority))
    own.restart()
    await works(config_of(own, tmp_path), private_key=(str(key),))
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", PASSPHRASE, "-f", key], check=True, timeout=20)
    opening = Conversation({"ref": PASSPHRASE})
    await works(config_of(own, tmp_path, IdentityFile=None), opening, private_key=(str(key),), passphrase="ref")


# encrypted keys


async def test_a_passphrase_comes_from_its_source(sshd: Sshd, tmp_path: Path) -> None:
    config = config_of(sshd, tmp_path, IdentityFile=sshd.encrypted_key())
    opening = Conversation({"ref-1": PASSPHRASE})
    await works(config, opening, passphrase="ref-1")
    assert opening.asked == [("passphrase", "ref-1", "")]


async def test_a_person_is_asked_for_the_passphrase_up_to_three_times(sshd: Sshd, tmp_path: Path) -> None:
    config = config_of(sshd, tmp_path, IdentityFile=sshd.encrypted_key())
    opening = Conversation({"passphrase": ["wrong secret", "wrong secret", PASSPHRASE]}, person=True)
    await works(config, opening)
    assert [asked[0] for asked in opening.asked] == ["passphrase"] * 3
    assert str(sshd.encrypted_key()) in opening.asked[0][2]


async def test_a_passphrase_is_asked_for_only_when_the_server_wants_the_key(sshd: Sshd, tmp_path: Path) -> None:
    key = keygen(tmp_path / "id_locked", passphrase=PASSPHRASE)
    opening = Conversation({"passphrase": PASSPHRASE}, person=True)
    config = config_of(sshd, tmp_path, IdentityFile=f"{key}\n    IdentityFile {sshd.key}")
    await works(config, opening)
    public(key).unlink()  # its own file tells the public half as well
    await works(config, opening)
    assert opening.asked == []


async def test_an_old_encrypted_key_without_its_public_half_is_unlocked(own: Sshd, tmp_path: Path) -> None:
    key = tmp_path / "id_old"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", PASSPHRASE, "-f", key],
        check=True,
        timeout=60,
    )
    with (own.folder / "authorized_keys").open("a") as file:
        file.write(public(key).read_text())
    public(key).unlink()
    await works(config_of(own, tmp_path, IdentityFile=key), Conversation({"ref": PASSPHRASE}), passphrase="ref")


async def test_an_encrypted_key_with_nobody_to_ask_says_how_to_go_on(sshd: Sshd, tmp_path: Path) -> None:
    error = await refused(config_of(sshd, tmp_path, IdentityFile=sshd.encrypted_key()))
    assert isinstance(error, AuthenticationError)
    assert f"needs the passphrase of {sshd.encrypted_key()} (nobody" in str(error)
    assert "--passphrase env:NAME" in error.hint
    assert "ssh-add" in error.hint
    assert isinstance(error.__cause__, Unanswered)
    assert error.__cause__.person


async def test_a_wrong_passphrase_from_a_source_is_told_and_not_tried_again(sshd: Sshd, tmp_path: Path) -> None:
    opening = Conversation({"ref": "wrong secret"})
    error = await refused(config_of(sshd, tmp_path, IdentityFile=sshd.encrypted_key()), opening, passphrase="ref")
    assert isinstance(error, AuthenticationError)
    assert "passphrase for" in str(error)
    assert "is wrong" in str(error)
    assert [asked[0] for asked in opening.asked].count("passphrase") == 1


async def test_a_source_that_cannot_be_resolved_gives_its_reason(sshd: Sshd, tmp_path: Path) -> None:
    error = await refused(config_of(sshd, tmp_path, IdentityFile=sshd.encrypted_key()), passphrase="ref")
    assert isinstance(error, AuthenticationError)
    assert "there is no answer" in str(error)
    assert isinstance(error.__cause__, Unanswered)
    assert not error.__cause__.person


# the agent


async def test_a_key_of_the_agent_is_used(sshd: Sshd, tmp_path: Path) -> None:
    with Agent(tmp_path, sshd.key) as agent:
        config = config_of(sshd, tmp_path, IdentityFile=None, IdentitiesOnly="no", IdentityAgent=agent.path)
        await works(config)


async def test_the_agent_of_the_environment_is_used(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Agent(tmp_path, sshd.second_key()) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
        monkeypatch.setenv("HOME", str(tmp_path))
        await works(config_of(sshd, tmp_path, IdentityFile=None, IdentitiesOnly="no"))
        error = await refused(config_of(sshd, tmp_path, IdentityFile=None, IdentityAgent="none"))
        assert "there is no key to try" in str(error)


async def test_the_agents_copy_of_an_encrypted_key_needs_no_passphrase(sshd: Sshd, tmp_path: Path) -> None:
    clear = tmp_path / "id_clear"
    shutil.copy(sshd.encrypted_key(), clear)
    clear.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", PASSPHRASE, "-N", "", "-f", clear], check=True, timeout=20)
    with Agent(tmp_path, clear) as agent:
        config = config_of(sshd, tmp_path, IdentityFile=sshd.encrypted_key(), IdentityAgent=agent.path)
        await works(config)
        await works(config_of(sshd, tmp_path, IdentityFile=public(sshd.encrypted_key()), IdentityAgent=agent.path))


async def test_identities_only_keeps_the_agents_other_keys_out(sshd: Sshd, tmp_path: Path) -> None:
    with Agent(tmp_path, sshd.key) as agent:
        options = {"IdentityFile": sshd.stranger_key(), "IdentityAgent": agent.path}
        await works(config_of(sshd, tmp_path, IdentitiesOnly="no", **options))
        error = await refused(config_of(sshd, tmp_path, IdentitiesOnly="yes", **options))
        assert isinstance(error, AuthenticationError)


async def test_a_full_agent_does_not_keep_the_key_asked_for_from_being_tried(sshd: Sshd, tmp_path: Path) -> None:
    with Agent(tmp_path) as agent:
        for number in range(8):
            agent.add(keygen(tmp_path / f"id_{number}"))
        options = {"IdentitiesOnly": "no", "IdentityAgent": agent.path, "IdentityFile": None}
        await works(config_of(sshd, tmp_path, **options), private_key=(str(sshd.key),))
        error = await refused(config_of(sshd, tmp_path, **options))
        assert isinstance(error, AuthenticationError)
        assert "too many keys" in str(error)
        assert "IdentitiesOnly" in error.hint


async def test_a_dead_agent_is_a_remark_and_no_obstacle(sshd: Sshd, tmp_path: Path) -> None:
    await works(config_of(sshd, tmp_path, IdentityAgent=tmp_path / "nowhere"))
    error = await refused(
        config_of(sshd, tmp_path, IdentityAgent=tmp_path / "nowhere", IdentityFile=sshd.stranger_key())
    )
    assert "the ssh-agent does not answer" in str(error)


# passwords


@pytest.fixture
def passwords(sshd: Sshd, tmp_path: Path) -> Path:
    """The ssh_config of an account with a password."""
    if not sshd.passwords:
        pytest.skip("root and mount namespaces, for an account with a password")
    return config_of(sshd, tmp_path, User=PASSWORD_USER, IdentityFile="none")


async def test_a_password_comes_from_its_source(passwords: Path) -> None:
    opening = Conversation({"ref": PASSWORD})
    await works(passwords, opening, ssh_password="ref")
    assert opening.asked == [("password", "ref", "")]


async def test_a_person_is_asked_for_the_password(passwords: Path) -> None:
    opening = Conversation({"password": ["wrong secret", PASSWORD]}, person=True)
    await works(passwords, opening)
    assert [asked[2] for asked in opening.asked] == [f"{PASSWORD_USER}@bastion's password: "] * 2


async def test_a_wrong_password_is_refused(passwords: Path) -> None:
    error = await refused(passwords, Conversation({"ref": "wrong secret"}), ssh_password="ref")
    assert isinstance(error, AuthenticationError)
    assert "tried the password" in str(error)


async def test_a_password_with_nobody_to_ask_says_how_to_go_on(passwords: Path) -> None:
    error = await refused(passwords)
    assert isinstance(error, AuthenticationError)
    assert "needs a password (nobody" in str(error)
    assert "--ssh-password env:NAME" in error.hint
    assert isinstance(error.__cause__, Unanswered)


async def test_no_password_is_asked_for_where_a_key_is_enough(sshd: Sshd, tmp_path: Path) -> None:
    opening = Conversation({"ref": PASSWORD, "password": PASSWORD}, person=True)
    await works(config_of(sshd, tmp_path), opening, ssh_password="ref")
    assert opening.asked == []


async def test_a_key_and_a_password_where_the_server_wants_both(own: Sshd, tmp_path: Path) -> None:
    if not own.passwords:
        pytest.skip("root and mount namespaces, for an account with a password")
    own.options["AuthenticationMethods"] = "publickey,password"
    # The account itself may not look into the test's folder.
    own.options["AuthorizedKeysCommand"] = f"{shutil.which('cat')} {own.folder / 'authorized_keys'}"
    own.options["AuthorizedKeysCommandUser"] = "root"
    own.restart()
    config = config_of(own, tmp_path, User=PASSWORD_USER)
    await works(config, Conversation({"ref": PASSWORD}), ssh_password="ref")
    error = await refused(config)
    assert "needs a password (nobody" in str(error)


# what is remembered


async def test_answers_are_kept_for_the_next_dial_while_the_link_is_wanted(own: Sshd, tmp_path: Path) -> None:
    wanted = target(config_of(own, tmp_path, IdentityFile=own.encrypted_key()))
    pool = Pool()
    keep = pool.keep(ssh.identity(wanted))
    lease = await acquire(pool, wanted, Conversation({"passphrase": PASSPHRASE}, person=True))
    own.restart()
    await lease.link.lost
    lease.release()
    (await acquire(pool, wanted)).release()
    keep.release()
    with pytest.raises(AuthenticationError):
        await acquire(pool, wanted)
    await pool.close()


async def test_the_answers_of_a_hop_are_kept_with_those_of_its_target(own: Sshd, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    with Sshd(folder) as inner:
        config = tmp_path / "config"
        config.write_text(
            own.config("jump", IdentityFile=own.encrypted_key()) + inner.config("inner", ProxyJump="jump")
        )
        wanted = target(config, "inner")
        pool = Pool()
        keep = pool.keep(ssh.identity(wanted))
        lease = await acquire(pool, wanted, Conversation({"passphrase": PASSPHRASE}, person=True))
        own.restart()
        await lease.link.lost
        lease.release()
        (await acquire(pool, wanted)).release()
        keep.release()
        await pool.close()


# keyboard-interactive (sshd has it through PAM only; asyncssh's server can be told what to ask)


class Interrogator(asyncssh.SSHServer):
    """Asks for a password, and then for a code."""

    rounds = 0
    questions: tuple[tuple[str, bool], ...] = (("Password: ", False),)
    right: tuple[str, ...] = (PASSWORD,)

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return False

    def kbdint_auth_supported(self) -> bool:
        return True

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        type(self).rounds += 1
        return "", "", "", list(self.questions)

    def validate_kbdint_response(self, username: str, responses: Any) -> bool:
        return tuple(responses) == self.right


@contextlib.asynccontextmanager
async def interrogation(folder: Path, **attributes: Any) -> AsyncIterator[tuple[Path, type[Interrogator]]]:
    kind = type("Interrogator", (Interrogator,), {**attributes, "rounds": 0})
    host_key = keygen(folder / "host_key")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=kind, server_host_keys=[str(host_key)], public_key_auth=False
    )
    config = folder / "config"
    config.write_text(
        f"Host bastion\n    HostName 127.0.0.1\n    Port {server.get_port()}\n    User ana\n"
        f"    UserKnownHostsFile {folder / 'known'}\n    StrictHostKeyChecking accept-new\n    IdentityFile none\n"
    )
    async with server:
        yield config, kind


async def test_a_single_prompt_for_a_password_is_answered_from_the_source(tmp_path: Path) -> None:
    async with interrogation(tmp_path) as (config, _):
        opening = Conversation({"ref": PASSWORD})
        async with linked(target(config, ssh_password="ref"), opening):
            assert opening.asked == [("password", "ref", "")]


async def test_a_one_time_code_is_asked_of_a_person_and_never_kept(tmp_path: Path) -> None:
    questions = (("Password: ", False), ("Verification code: ", True))
    async with interrogation(tmp_path, questions=questions, right=(PASSWORD, "123456")) as (config, kind):
        wanted = target(config, ssh_password="ref")
        pool = Pool()
        keep = pool.keep(ssh.identity(wanted))
        opening = Conversation({"ref": PASSWORD, "password": "123456"}, person=True)
        lease = await acquire(pool, wanted, opening)
        assert [asked[0] for asked in opening.asked] == ["password", "password"]
        assert "Verification code" in opening.asked[1][2]
        lease.link.abort()
        lease.release()
        with pytest.raises(AuthenticationError) as caught:
            await acquire(pool, wanted)
        assert isinstance(caught.value.__cause__, Unanswered)
        assert caught.value.__cause__.person
        assert "123456" not in pool.memory(ssh.identity(wanted)).answers.values()
        assert kind.rounds == 2
        keep.release()
        await pool.close()


async def test_wrong_answers_end_after_three_rounds(tmp_path: Path) -> None:
    async with interrogation(tmp_path, questions=(("Code: ", True),), right=("123456",)) as (config, kind):
        error = await refused(config, Conversation({"password": "000000"}, person=True))
        assert isinstance(error, AuthenticationError)
        assert kind.rounds == 3


async def test_the_login_clock_stands_still_while_a_person_thinks(tmp_path: Path) -> None:
    class Thoughtful(Conversation):
        async def ask(self, kind: str, *, source: str = "", prompt: str = "", echo: bool = False) -> str:
            await asyncio.sleep(1.5)  # longer than ConnectTimeout
            return await super().ask(kind, source=source, prompt=prompt, echo=echo)

    async with interrogation(tmp_path) as (config, _):
        config.write_text(config.read_text() + "    ConnectTimeout 1\n")
        async with linked(target(config), Thoughtful({"password": PASSWORD}, person=True)):
            pass
