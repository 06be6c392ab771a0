"""Chains of real sshds: each hop with its own user, key and host-key check, shared as far as two chains agree."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import xec_forward as xf
from tests.peers.kernel import Kernel, wait_until
from tests.peers.kernel import missing as kernel_missing
from tests.peers.services import Services
from tests.peers.sshd import PASSWORD, PASSWORD_USER, Sshd, missing

NAMES = ("outer", "middle", "inner")


def ask(port: int, data: bytes = b"ping") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


class Chain:
    """Three servers. `outer` lets in anybody's forwards to `middle` alone, `middle` to `inner` alone.

    So whatever reaches the service has gone through all of them.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.servers: dict[str, Sshd] = {}
        opens = ""
        for name in reversed(NAMES):
            place = folder / name
            place.mkdir()
            options = {"PermitOpen": opens} if opens else {}
            server = Sshd(place, options=options)
            stack.enter_context(server)
            self.servers[name] = server
            opens = f"127.0.0.1:{server.port}"
        self.outer, self.middle, self.inner = (self.servers[name] for name in NAMES)

    def write(self, file: Path, **options: dict[str, object]) -> Path:
        """An ssh_config with the three aliases; the keywords name options of one of them."""
        file.write_text("".join(self.servers[name].config(name, **options.get(name, {})) for name in NAMES))
        return file

    def connections(self) -> tuple[int, int, int]:
        return self.outer.connections(), self.middle.connections(), self.inner.connections()


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    if reason := missing():
        pytest.skip(reason)
    with ExitStack() as stack:
        chain = Chain(tmp_path, stack)
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(chain.write(tmp_path / "ssh_config")))
        yield chain


def reaches(target: xf.Ssh, services: Services) -> tuple[str, ...]:
    with target.forward(remote_host="localhost", remote_port=services.echo, local_port=0) as tunnel:
        assert ask(tunnel.local_port) == b"ping"
        return tunnel.route


# the ways to say it


def test_hops_may_be_a_text_a_list_or_targets_that_have_hops_of_their_own(chain: Chain, services: Services) -> None:
    expected = ("outer", "middle", "inner", f"localhost:{services.echo}")
    outer = xf.ssh("outer")
    middle = xf.ssh("middle", proxy=outer)
    for proxy in ("outer,middle", ["outer", "middle"], [outer, "middle"], middle, [middle]):
        assert reaches(xf.ssh("inner", proxy=proxy), services) == expected


def test_proxy_jump_of_ssh_config_in_both_its_forms(chain: Chain, services: Services, tmp_path: Path) -> None:
    chain.write(tmp_path / "ssh_config", inner={"ProxyJump": "outer,middle"})
    assert reaches(xf.ssh("inner"), services)[:3] == NAMES
    chain.write(tmp_path / "ssh_config", inner={"ProxyJump": "middle"}, middle={"ProxyJump": "outer"})
    assert reaches(xf.ssh("inner"), services)[:3] == NAMES


def test_proxy_command_of_ssh_config_is_the_way_to_the_next_hop(
    chain: Chain, services: Services, tmp_path: Path
) -> None:
    config = tmp_path / "ssh_config"
    command = f"ssh -F {config} -W %h:%p outer"
    chain.write(config, middle={"ProxyCommand": command}, inner={"ProxyJump": "middle"})
    assert reaches(xf.ssh("inner"), services)[:2] == ("middle", "inner")
    assert chain.middle.log.read_text().count("Accepted publickey") == 1


def test_magic_opens_through_hops_written_with_j(chain: Chain, services: Services, tmp_path: Path) -> None:
    if reason := kernel_missing():
        pytest.skip(reason)
    folder = tmp_path / "kernel"
    folder.mkdir()
    env = {"XEC_FORWARD_SSH_CONFIG": str(tmp_path / "ssh_config")}
    with Kernel(folder, env, "%load_ext xec_forward") as kernel:
        done = kernel.run(f"%forward -J outer,middle inner 0:localhost:{services.echo} --as far").ok()
        assert f"-> outer -> middle -> inner -> localhost:{services.echo}" in done.text
        assert "ssh outer " in done.text
        assert "ssh middle " in done.text
        assert ask(kernel.value("far.local_port")) == b"ping"
        assert chain.connections() == (1, 1, 1)
        chain.middle.kill()
        failed = kernel.run(f"%forward -J outer,middle inner localhost:{services.reply} --as other --timeout 5")
        assert failed.error is not None
        assert failed.error.value.startswith("ECONNREFUSED middle: refused, as seen from outer")


# each hop for itself


def test_each_hop_has_its_own_user_and_key(chain: Chain, services: Services, tmp_path: Path) -> None:
    # As root there is an account with a password, for that hop alone.
    user, accepted = chain.middle.user, "publickey"
    middle = xf.ssh("middle", private_key=chain.middle.second_key())
    if chain.middle.passwords:
        user, accepted = PASSWORD_USER, "password"
        middle = xf.ssh("middle", username=user, ssh_password=PASSWORD)
    target = xf.ssh("inner", private_key=chain.inner.second_key(), proxy=[xf.ssh("outer"), middle])
    chain.write(tmp_path / "ssh_config", **{name: {"IdentityFile": "none"} for name in ("middle", "inner")})
    assert reaches(target, services)[:3] == NAMES
    assert f"Accepted publickey for {chain.outer.user} " in chain.outer.log.read_text()
    assert f"Accepted {accepted} for {user} " in chain.middle.log.read_text()
    assert f"Accepted publickey for {chain.inner.user} " in chain.inner.log.read_text()


def test_key_of_the_target_is_not_shown_to_its_hops(chain: Chain, services: Services, tmp_path: Path) -> None:
    chain.write(tmp_path / "ssh_config", middle={"IdentityFile": "none"})
    with pytest.raises(xf.AuthenticationError) as caught:
        reaches(xf.ssh("inner", private_key=chain.inner.key, proxy="outer,middle"), services)
    assert caught.value.hop == "middle"
    assert "there is no key to try" in str(caught.value)


def test_unknown_host_key_at_the_middle_hop_names_that_hop(chain: Chain, services: Services) -> None:
    chain.middle.known_hosts.write_text("")
    with pytest.raises(xf.UnknownHostKeyError) as caught:
        reaches(xf.ssh("inner", proxy="outer,middle"), services)
    assert caught.value.hop == "middle"
    assert chain.middle.fingerprint() in str(caught.value)
    assert chain.inner.connections() == 0
    assert not chain.middle.known_hosts.read_text()


def test_unknown_host_key_at_the_middle_hop_is_recorded_with_accept_new(chain: Chain, services: Services) -> None:
    chain.middle.known_hosts.write_text("")
    assert reaches(xf.ssh("inner", proxy="outer,middle", host_key="accept-new"), services)[:3] == NAMES
    assert f"[127.0.0.1]:{chain.middle.port} " in chain.middle.known_hosts.read_text()


def test_changed_host_key_at_the_middle_hop_names_that_hop_and_both_keys(chain: Chain, services: Services) -> None:
    before = chain.middle.fingerprint()
    chain.middle.restart(changed_host_key=True)
    for policy in ("strict", "accept-new"):
        with pytest.raises(xf.ChangedHostKeyError) as caught:
            reaches(xf.ssh("inner", proxy="outer,middle", host_key=policy), services)
        assert caught.value.hop == "middle"
        assert before in str(caught.value)
        assert chain.middle.fingerprint() in str(caught.value)
    assert chain.inner.log.read_text().count("Accepted") == 0


def test_failing_hop_is_named_whatever_fails(chain: Chain, services: Services, tmp_path: Path) -> None:
    chain.write(tmp_path / "ssh_config", middle={"IdentityFile": chain.middle.stranger_key()})
    with pytest.raises(xf.AuthenticationError) as refused:
        reaches(xf.ssh("inner", proxy="outer,middle"), services)
    assert refused.value.hop == "middle"
    chain.write(tmp_path / "ssh_config", middle={"HostName": "nowhere.vpc"})
    with pytest.raises(xf.ForwardError) as unknown:
        reaches(xf.ssh("inner", proxy="outer,middle"), services)
    assert "nowhere.vpc" in str(unknown.value)
    # What `outer` does not let through.
    chain.write(tmp_path / "ssh_config")
    with pytest.raises(xf.ProhibitedError) as prohibited:
        reaches(xf.ssh("inner", proxy="outer"), services)
    assert prohibited.value.hop == "outer"
    chain.outer.kill()
    with pytest.raises(xf.ForwardError) as gone:
        reaches(xf.ssh("inner", proxy="outer,middle"), services)
    assert (gone.value.hop, gone.value.code) == ("outer", "ECONNREFUSED")


# shared, and kept up


def test_chains_share_what_they_have_in_common(chain: Chain, services: Services) -> None:
    far = {"remote_host": "localhost", "remote_port": services.echo, "local_port": 0}
    inner = xf.ssh("inner", proxy="outer,middle")
    with inner.forward(**far) as one:
        assert chain.connections() == (1, 1, 1)
        to_inner = {**far, "remote_host": "127.0.0.1", "remote_port": chain.inner.port}
        # The same middle, as the end of a chain in each of its spellings.
        outer = xf.ssh("outer")
        targets = [xf.ssh("middle", proxy="outer"), xf.ssh("middle", proxy=[outer])]
        others = [target.forward(no_check=True, **to_inner) for target in targets]
        others.append(outer.forward(no_check=True, **{**far, "remote_host": "127.0.0.1"}))
        assert chain.connections() == (1, 1, 1)
        one.close()
        wait_until(lambda: chain.connections() == (1, 1, 0), "the inner connection stays")
        for other in others:
            other.close()
    wait_until(lambda: chain.connections() == (0, 0, 0), "a connection stays")


@pytest.mark.parametrize("place", NAMES)
def test_killed_hop_is_redialled_with_all_that_hangs_on_it(chain: Chain, services: Services, place: str) -> None:
    with xf.ssh("inner", proxy="outer,middle").forward(
        remote_host="localhost", remote_port=services.echo, local_port=0
    ) as tunnel:
        port = tunnel.local_port
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            chain.servers[place].drop()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert ask(port) == b"ping"
        assert (tunnel.local_port, chain.connections()) == (port, (1, 1, 1))
