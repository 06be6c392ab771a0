"""Logins to a cluster as the engine lives with them: renewed while a tunnel is up, told when they fail, kept secret."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import xec_forward as xf
from xec_forward.client.session import current
from xec_forward.demo.cluster.kubeconfig import Context, write_private

from .peer import NUMBERS, EmbeddedPeer, until
from .test_port_forward import ask, connect, exchange, stats

EXEC = "client.authentication.k8s.io/v1"


@pytest.fixture
def web(embedded: EmbeddedPeer) -> EmbeddedPeer:
    """The embedded cluster with a deployment `web`."""
    embedded.add_workload("deployment", "web")
    return embedded


def forward(file: Path, **arguments: Any) -> xf.Tunnel:
    """A tunnel to the echo of `deploy/web`, by that kubeconfig."""
    cluster = xf.k8s(kubeconfig=file)
    return cluster.port_forward(
        deployment="web", local_port=0, remote_port=NUMBERS["echo"], no_check=True, timeout=15, **arguments
    )


class Plugin:
    """An exec plugin: a script that answers with the token that it was last given."""

    def __init__(self, folder: Path) -> None:
        self.script = folder / "company-login"
        self._runs = folder / "runs"
        self.entry = {"exec": {"command": str(self.script), "apiVersion": EXEC, "interactiveMode": "Never"}}

    @property
    def runs(self) -> int:
        return len(self._runs.read_text().split()) if self._runs.exists() else 0

    def gives(self, token: str, expires: str = "") -> None:
        status = {"token": token, **({"expirationTimestamp": expires} if expires else {})}
        answer = json.dumps({"kind": "ExecCredential", "apiVersion": EXEC, "status": status})
        self._write(f"cat <<'END'\n{answer}\nEND")

    def fails(self, words: str) -> None:
        self._write(f"echo '{words}' >&2\nexit 3")

    def hangs(self, words: str) -> None:
        self._write(f"echo '{words}' >&2\nexec sleep 60")

    def _write(self, body: str) -> None:
        self.script.write_text(f"#!/bin/sh\necho run >>{self._runs}\n{body}\n")
        self.script.chmod(0o700)


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


def renew(web: EmbeddedPeer, tunnel: xf.Tunnel) -> None:
    """The pod is replaced, which asks the API server anew, with whatever login there is; the tunnel goes on."""
    before = web.pods("web")
    ((old, _),) = before.values()
    web.delete_pod(old)
    web.replacement("web", before)
    for _ in range(5):
        assert ask(tunnel) == b"ping"


def test_expired_token_of_a_plugin_is_renewed_under_a_tunnel(web: EmbeddedPeer, plugin: Plugin, tmp_path: Path) -> None:
    cluster = web.embedded
    first, second = cluster.new_token("ana"), cluster.new_token("ana")
    plugin.gives(first)
    file = cluster.write_kubeconfig(tmp_path / "config", Context(auth=plugin.entry))
    with forward(file) as tunnel, connect(tunnel) as client:
        assert exchange(client, b"a") == b"a"
        assert plugin.runs == 1
        cluster.expire_token(first)
        plugin.gives(second)
        assert exchange(client, b"b") == b"b"  # who is connected notices nothing
        client.close()
        renew(web, tunnel)
        assert plugin.runs == 2
        assert stats(tunnel).reconnects == 0
        hidden((first, second), tunnel)


def test_token_that_says_when_it_ends_is_renewed_before(web: EmbeddedPeer, plugin: Plugin, tmp_path: Path) -> None:
    cluster = web.embedded
    plugin.gives(cluster.new_token("ana"), expires="2020-01-01T00:00:00Z")
    file = cluster.write_kubeconfig(tmp_path / "config", Context(auth=plugin.entry))
    with forward(file) as tunnel:
        assert ask(tunnel) == b"ping"
        runs = plugin.runs
        renew(web, tunnel)
        assert plugin.runs > runs


def test_token_file_that_changes_is_read_again(web: EmbeddedPeer, tmp_path: Path) -> None:
    cluster = web.embedded
    file = cluster.write_kubeconfig(tmp_path / "config", Context(auth="token-file"))
    (token_file,) = tmp_path.glob("config.*.token")
    with forward(file) as tunnel:
        assert ask(tunnel) == b"ping"
        cluster.expire_token(token_file.read_text())
        write_private(token_file, cluster.new_token("admin"))
        renew(web, tunnel)
        assert stats(tunnel).reconnects == 0
        hidden((token_file.read_text(),), tunnel)


def test_static_token_that_is_changed_in_the_kubeconfig_is_read_again(web: EmbeddedPeer, tmp_path: Path) -> None:
    cluster = web.embedded
    first = cluster.new_token("ana")
    file = cluster.write_kubeconfig(tmp_path / "config", Context(auth={"token": first}))
    with forward(file) as tunnel:
        assert ask(tunnel) == b"ping"
        cluster.expire_token(first)
        cluster.write_kubeconfig(file, Context(auth={"token": cluster.new_token("ana")}))
        renew(web, tunnel)


def test_client_certificate_logs_in(web: EmbeddedPeer, tmp_path: Path) -> None:
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(auth="certificate", user="ana"))
    with forward(file) as tunnel:
        assert ask(tunnel) == b"ping"


def test_plugin_has_the_time_of_the_opening_and_its_last_words_are_told(
    web: EmbeddedPeer, plugin: Plugin, tmp_path: Path
) -> None:
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(auth=plugin.entry))
    plugin.hangs("open https://login.example in a browser")
    with pytest.raises(xf.DeadlineError) as caught:
        xf.k8s(kubeconfig=file).port_forward(deployment="web", local_port=0, remote_port=NUMBERS["echo"], timeout=2)
    text = str(caught.value)
    # What is left of the opening's 2 s when it is started, less what its last words need.
    told = r"demo: the plugin company-login did not answer within ([\d.]+) s; its last words: open https://login\.ex"
    assert (found := re.search(told, text)), text
    assert 0 < float(found[1]) <= 1.8
    assert "--timeout S allows more time" in text


def test_api_server_that_is_busy_is_asked_again_when_it_says(web: EmbeddedPeer, tmp_path: Path) -> None:
    web.embedded.be_busy(429, 500)
    with forward(web.kubeconfig) as tunnel:
        assert ask(tunnel) == b"ping"
        first, again, *_ = web.embedded.requests
        assert first == again


def test_refusal_is_told_at_once_however_long_it_is(web: EmbeddedPeer, tmp_path: Path) -> None:
    """What is longer than 2,048 bytes comes in chunks, on a connection that stays."""
    user = f"oidc:{'x' * 2100}"
    token = web.embedded.new_token(user)
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(auth={"token": token}))
    web.embedded.deny("create", "pods/portforward", user=user)
    with pytest.raises(xf.RbacError, match="is forbidden: User"):
        xf.k8s(kubeconfig=file).port_forward(deployment="web", local_port=0, remote_port=NUMBERS["echo"], timeout=15)


def test_plugin_that_fails_says_so_in_one_line(web: EmbeddedPeer, plugin: Plugin, tmp_path: Path) -> None:
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(auth=plugin.entry))
    plugin.fails("your session has ended")
    with pytest.raises(xf.AuthenticationError) as caught:
        forward(file)
    text = str(caught.value)
    assert "\n" not in text
    assert "the plugin company-login" in text
    assert "your session has ended" in text
    assert "Log in anew" in text
    plugin.script.unlink()
    with pytest.raises(xf.ConfigError, match="company-login is not there"):
        forward(file)


def test_login_that_ends_under_a_tunnel_fails_it_with_the_port_held_until_it_is_renewed(
    web: EmbeddedPeer, plugin: Plugin, tmp_path: Path
) -> None:
    cluster = web.embedded
    token = cluster.new_token("ana")
    plugin.gives(token)
    file = cluster.write_kubeconfig(tmp_path / "config", Context(auth=plugin.entry))
    with forward(file) as tunnel:
        assert ask(tunnel) == b"ping"
        port = tunnel.local_port
        cluster.expire_token(token)
        plugin.fails("your session has ended")
        tunnel.reconnect()
        until(lambda: tunnel.state is xf.TunnelState.FAILED)
        assert isinstance(tunnel.error, xf.AuthenticationError)
        assert "your session has ended" in str(tunnel.error)
        with pytest.raises(ConnectionResetError):
            ask(tunnel)
        plugin.gives(cluster.new_token("ana"))
        tunnel.reconnect()
        tunnel.wait_ready(10)
        assert (tunnel.local_port, ask(tunnel)) == (port, b"ping")


@pytest.mark.parametrize("refusal", ["401", "403"])
def test_refusal_that_passes_while_it_is_dialled_again_leaves_no_tunnel_failed(
    web: EmbeddedPeer, tmp_path: Path, refusal: str
) -> None:
    cluster = web.embedded
    token = cluster.new_token("ana")
    file = cluster.write_kubeconfig(tmp_path / "config", Context(auth={"token": token}))
    states: list[xf.TunnelState] = []
    with forward(file) as tunnel:
        assert ask(tunnel) == b"ping"
        tunnel.observe(lambda change: states.append(change["new"]), "state")
        cluster.stop_server()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        if refusal == "401":
            cluster.expire_token(token)
        else:
            cluster.deny("*", "*", user="ana")
        waiting = ThreadPoolExecutor(1).submit(ask, tunnel)
        cluster.start_server()
        until(lambda: isinstance(tunnel.error, xf.AuthenticationError if refusal == "401" else xf.RbacError))
        assert not waiting.done()
        if refusal == "401":
            cluster.call(lambda: cluster.state.access.tokens.update({token: "ana"}))
        else:
            cluster.allow("*", "*", user="ana")
        assert waiting.result(10) == b"ping"
        assert xf.TunnelState.FAILED not in states


def test_token_that_is_no_good_is_refused_in_one_line(web: EmbeddedPeer, tmp_path: Path) -> None:
    file = web.embedded.write_kubeconfig(tmp_path / "config", Context(auth={"token": "never-was-one"}))
    with pytest.raises(xf.AuthenticationError, match="the cluster does not accept the credentials of demo") as caught:
        forward(file)
    assert "never-was-one" not in str(caught.value)


def test_secrets_are_in_no_log_and_no_snapshot(web: EmbeddedPeer, tmp_path: Path) -> None:
    cluster = web.embedded
    token = cluster.new_token("ana")
    cluster.add_secret("login", {"password": b"correct horse battery"})
    file = cluster.write_kubeconfig(tmp_path / "config", Context(auth={"token": token}))
    with forward(file, password="secret:login/password", dsn="postgresql://ana@/sales") as tunnel:
        assert "correct" in tunnel.dsn().reveal()
        assert ask(tunnel) == b"ping"
        cluster.stop_server()
        until(lambda: tunnel.state is xf.TunnelState.RECONNECTING)
        cluster.start_server()
        tunnel.wait_ready(10)
        hidden((token, "correct horse battery", "correct%20horse"), tunnel)


def hidden(secrets: tuple[str, ...], tunnel: xf.Tunnel) -> None:
    """None of these is in the engine's log, in what a user sees of a tunnel, or in a process's arguments."""
    current().refresh()
    log = Path(current().log).read_text()
    seen = [log, repr(tunnel), repr(tunnel.snapshot), repr(tunnel.error), repr(tunnel.url), str(tunnel.url)]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            seen.append(process.read_text(errors="replace"))
        except OSError:
            continue  # it has ended
    for secret in secrets:
        assert not any(secret in text for text in seen)
