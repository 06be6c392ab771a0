"""Host keys against OpenSSH's sshd: what is trusted, what is asked, what is refused, and what is recorded."""

# Set-up and checks block the loop for a moment, with nothing else running on it.
# ruff: noqa: ASYNC221, ASYNC240

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.channels import Conversation
from tests.peers.links import acquire, linked, target
from tests.peers.sshd import Sshd, keygen, missing, public
from xec_forward.engine.links import ssh
from xec_forward.engine.links.base import Unanswered
from xec_forward.engine.links.pool import Pool
from xec_forward.errors import ChangedHostKeyError, ConfigError, ForwardError, HostKeyError, UnknownHostKeyError


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path / "sshd"
    folder.mkdir()
    with Sshd(folder) as running:
        yield running


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """A known_hosts file that is not there yet."""
    return tmp_path / "home" / ".ssh" / "known_hosts"


def config_of(sshd: Sshd, known: object, alias: str = "bastion", **options: object) -> Path:
    return sshd.write_config(sshd.folder / f"config_{alias}", alias, UserKnownHostsFile=known, **options)


async def works(config: Path, opening: Conversation | None = None, host: str = "bastion", **options: Any) -> None:
    async with linked(target(config, host, **options), opening) as link:
        assert await link.round_trip() > 0


async def refused(
    config: Path, opening: Conversation | None = None, host: str = "bastion", **options: Any
) -> ForwardError:
    with pytest.raises(ForwardError) as caught:
        await works(config, opening, host, **options)
    assert "\n" not in str(caught.value)
    return caught.value


async def test_a_key_on_record_is_trusted_without_a_question(sshd: Sshd) -> None:
    opening = Conversation(person=True)
    await works(config_of(sshd, sshd.known_hosts), opening)
    assert opening.asked == []


async def test_an_unknown_key_is_refused_when_strict(sshd: Sshd, known: Path) -> None:
    error = await refused(config_of(sshd, known), Conversation({"host-key": "yes"}, person=True), host_key="strict")
    assert isinstance(error, UnknownHostKeyError)
    assert error.hop == "bastion"
    assert f"ssh-ed25519 {sshd.fingerprint()}" in str(error)
    assert "--host-key accept-new" in error.hint
    assert not known.exists()


@pytest.mark.parametrize(("strictness", "error"), [("yes", UnknownHostKeyError), ("accept-new", None), ("no", None)])
async def test_strict_host_key_checking_of_ssh_config_is_heard(
    sshd: Sshd, known: Path, strictness: str, error: type[ForwardError] | None
) -> None:
    config = config_of(sshd, known, StrictHostKeyChecking=strictness)
    if error is None:
        await works(config)
        assert known.exists()
    else:
        assert isinstance(await refused(config), error)
        await works(config, host_key="accept-new")


async def test_an_unknown_key_with_nobody_to_ask_says_so(sshd: Sshd, known: Path) -> None:
    error = await refused(config_of(sshd, known))
    assert isinstance(error, UnknownHostKeyError)
    assert "nobody is there to answer" in str(error)
    assert isinstance(error.__cause__, Unanswered)
    assert error.__cause__.person
    assert sshd.fingerprint() in str(error)


async def test_a_person_who_says_yes_records_the_key_once_and_for_all(sshd: Sshd, known: Path) -> None:
    config = config_of(sshd, known)
    opening = Conversation({"host-key": "yes"}, person=True)
    await works(config, opening)
    assert len(opening.asked) == 1
    kind, source, prompt = opening.asked[0]
    assert (kind, source) == ("host-key", "")
    assert sshd.fingerprint() in prompt
    assert "bastion" in prompt
    assert f"127.0.0.1:{sshd.port}" in prompt
    key = " ".join(public(sshd.host_key()).read_text().split()[:2])
    assert known.read_text() == f"[127.0.0.1]:{sshd.port} {key}\n"
    assert stat.S_IMODE(known.stat().st_mode) == 0o600
    assert stat.S_IMODE(known.parent.stat().st_mode) == 0o700
    await works(config)
    # ssh itself reads what we wrote.
    done = subprocess.run(
        ["ssh", "-F", config, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-W", "127.0.0.1:1", "bastion"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Host key verification failed" not in done.stderr


@pytest.mark.parametrize("answer", ["no", "y", "", "SHA256:somethingelse"])
async def test_anything_but_yes_refuses(sshd: Sshd, known: Path, answer: str) -> None:
    error = await refused(config_of(sshd, known), Conversation({"host-key": answer}, person=True))
    assert isinstance(error, UnknownHostKeyError)
    assert "was not accepted" in str(error)
    assert not known.exists()


async def test_accept_new_records_after_the_last_line(sshd: Sshd, known: Path) -> None:
    known.parent.mkdir(parents=True)
    other = public(keygen(known.parent / "other")).read_text().strip()
    known.write_text(f"elsewhere.example {other}")  # no newline at its end
    await works(config_of(sshd, known), host_key="accept-new")
    lines = known.read_text().splitlines()
    assert lines[0] == f"elsewhere.example {other}"
    assert lines[1].startswith(f"[127.0.0.1]:{sshd.port} ssh-ed25519 ")
    await works(config_of(sshd, known), host_key="strict")


async def test_names_are_hashed_when_ssh_config_wants_it(sshd: Sshd, known: Path) -> None:
    config = config_of(sshd, known, HashKnownHosts="yes")
    await works(config, host_key="accept-new")
    assert known.read_text().startswith("|1|")
    await works(config, host_key="strict")
    found = subprocess.run(
        ["ssh-keygen", "-F", f"[127.0.0.1]:{sshd.port}", "-f", known], capture_output=True, timeout=20, check=False
    )
    assert found.returncode == 0


async def test_names_hashed_by_ssh_keygen_are_found(sshd: Sshd, tmp_path: Path) -> None:
    hashed = sshd.write_known_hosts(tmp_path / "hashed", hashed=True)
    assert "127.0.0.1" not in hashed.read_text()
    await works(config_of(sshd, hashed), host_key="strict")


@pytest.mark.parametrize("policy", ["", "ask", "strict", "accept-new"])
async def test_a_changed_key_is_never_accepted_and_never_asked_about(sshd: Sshd, policy: str) -> None:
    old = sshd.fingerprint()
    sshd.restart(changed_host_key=True)
    recorded = sshd.known_hosts.read_text()
    opening = Conversation({"host-key": "yes"}, person=True)
    error = await refused(config_of(sshd, sshd.known_hosts, StrictHostKeyChecking="no"), opening, host_key=policy)
    assert isinstance(error, ChangedHostKeyError)
    assert error.hop == "bastion"
    assert old in str(error)
    assert sshd.fingerprint() in str(error)
    assert f"{sshd.known_hosts}:1" in str(error)
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in error.hint
    assert opening.asked == []
    assert sshd.known_hosts.read_text() == recorded


async def test_a_key_of_another_type_than_the_one_on_record_counts_as_changed(sshd: Sshd, known: Path) -> None:
    known.parent.mkdir(parents=True)
    other = " ".join(public(keygen(known.parent / "other", kind="ecdsa")).read_text().split()[:2])
    known.write_text(f"[127.0.0.1]:{sshd.port} {other}\n")
    error = await refused(config_of(sshd, known), host_key="accept-new")
    assert isinstance(error, ChangedHostKeyError)
    assert "ecdsa" in str(error)
    assert sshd.fingerprint() in str(error)


async def test_of_several_host_keys_the_one_on_record_is_asked_for(tmp_path: Path, known: Path) -> None:
    with Sshd(tmp_path, host_keys=("ed25519", "ecdsa", "rsa")) as sshd:
        known.parent.mkdir(parents=True)
        for kind in ("rsa", "ecdsa"):
            key = " ".join(public(sshd.host_key(kind)).read_text().split()[:2])
            known.write_text(f"[127.0.0.1]:{sshd.port} {key}\n")
            await works(config_of(sshd, known), host_key="strict")


async def test_a_revoked_key_is_refused_whatever_else_is_on_record(sshd: Sshd, known: Path) -> None:
    known.parent.mkdir(parents=True)
    sshd.write_known_hosts(known)
    known.write_text(known.read_text() + f"@revoked * {public(sshd.host_key()).read_text()}")
    error = await refused(config_of(sshd, known), host_key="accept-new")
    assert isinstance(error, HostKeyError)
    assert not isinstance(error, UnknownHostKeyError | ChangedHostKeyError)
    assert "host key is revoked" in str(error)


async def test_the_file_of_revoked_keys_is_heard(sshd: Sshd, tmp_path: Path) -> None:
    error = await refused(
        config_of(sshd, sshd.known_hosts, RevokedHostKeys=public(sshd.host_key())), host_key="accept-new"
    )
    assert "host key is revoked" in str(error)
    error = await refused(config_of(sshd, sshd.known_hosts, RevokedHostKeys=tmp_path / "nowhere"))
    assert isinstance(error, ConfigError)


@pytest.mark.parametrize("known_hosts", ["none", "/dev/null"])
async def test_no_known_hosts_file_does_not_mean_no_check(sshd: Sshd, known_hosts: str) -> None:
    config = config_of(sshd, known_hosts)
    assert isinstance(await refused(config, host_key="strict"), UnknownHostKeyError)
    assert isinstance(await refused(config), UnknownHostKeyError)
    opening = Conversation({"host-key": "yes"}, person=True)
    await works(config, opening)
    assert len(opening.asked) == 1


async def test_a_key_accepted_by_a_person_is_not_asked_about_again_while_the_link_is_wanted(sshd: Sshd) -> None:
    wanted = target(config_of(sshd, "none"))
    pool = Pool()
    keep = pool.keep(ssh.identity(wanted))
    opening = Conversation({"host-key": "yes"}, person=True)
    lease = await acquire(pool, wanted, opening)
    sshd.restart()
    await lease.link.lost
    lease.release()
    (await acquire(pool, wanted)).release()
    sshd.restart(changed_host_key=True)
    with pytest.raises(UnknownHostKeyError):
        await acquire(pool, wanted)
    keep.release()
    await pool.close()


async def test_the_key_of_another_port_says_nothing_against_this_one(sshd: Sshd, known: Path) -> None:
    """Containers and forwarded ports: many servers with one name."""
    known.parent.mkdir(parents=True)
    other = " ".join(public(keygen(known.parent / "other")).read_text().split()[:2])
    known.write_text(f"127.0.0.1 {other}\n[127.0.0.1]:1 {other}\n")
    error = await refused(config_of(sshd, known), host_key="strict")
    assert isinstance(error, UnknownHostKeyError)
    sshd.write_known_hosts(known, hosts="127.0.0.1")
    await works(config_of(sshd, known), host_key="strict")


async def test_a_host_key_alias_is_what_is_looked_up_and_recorded(sshd: Sshd, known: Path) -> None:
    config = config_of(sshd, known, HostKeyAlias="the-bastion")
    await works(config, host_key="accept-new")
    assert known.read_text().startswith("the-bastion ssh-ed25519 ")
    await works(config, host_key="strict")


async def test_the_global_file_counts_too(sshd: Sshd, known: Path) -> None:
    await works(config_of(sshd, known, GlobalKnownHostsFile=sshd.known_hosts), host_key="strict")


async def test_a_malformed_line_hides_no_other(sshd: Sshd) -> None:
    good = sshd.known_hosts.read_text()
    sshd.known_hosts.write_text(f"nonsense\n@unheard-of x y\n|1|bad {good.split(None, 1)[1]}{good}")
    await works(config_of(sshd, sshd.known_hosts), host_key="strict")


async def test_a_host_certificate_of_a_known_authority_is_trusted(tmp_path: Path, known: Path) -> None:
    known.parent.mkdir(parents=True)
    authority = keygen(known.parent / "authority")
    with Sshd(tmp_path) as sshd:
        subprocess.run(
            ["ssh-keygen", "-q", "-s", authority, "-I", "test", "-h", "-n", "127.0.0.1", public(sshd.host_key())],
            check=True,
            timeout=20,
        )
        sshd.options["HostCertificate"] = str(sshd.folder / "host_ed25519-cert.pub")
        sshd.restart()
        config = config_of(sshd, known)
        assert isinstance(await refused(config), UnknownHostKeyError)
        known.write_text(f"@cert-authority *,[127.0.0.1]:* {public(authority).read_text()}")
        await works(config, host_key="strict")
        stranger = public(keygen(known.parent / "stranger")).read_text()
        known.write_text(f"@cert-authority *,[127.0.0.1]:* {stranger}")
        error = await refused(config)
        assert isinstance(error, HostKeyError)


async def test_each_hop_is_checked_for_itself(sshd: Sshd, tmp_path: Path, known: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    with Sshd(folder) as inner:
        config = tmp_path / "config"
        config.write_text(
            sshd.config("jump", UserKnownHostsFile=known)
            + inner.config("inner", UserKnownHostsFile=known, ProxyJump="jump")
        )
        error = await refused(config, host="inner")
        assert isinstance(error, UnknownHostKeyError)
        assert error.hop == "jump"
        opening = Conversation({"host-key": ["yes", "no"]}, person=True)
        error = await refused(config, opening, host="inner")
        assert isinstance(error, UnknownHostKeyError)
        assert error.hop == "inner"
        assert sshd.fingerprint() in opening.asked[0][2]
        assert inner.fingerprint() in opening.asked[1][2]
        await works(config, host="inner", host_key="accept-new")
        sshd.restart(changed_host_key=True)
        error = await refused(config, host="inner", host_key="accept-new")
        assert isinstance(error, ChangedHostKeyError)
        assert error.hop == "jump"
