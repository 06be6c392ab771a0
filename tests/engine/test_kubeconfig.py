"""From a ClusterTarget to a context and a login: kubectl's rules for the files, and plugins that must not hang us."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.peers.cluster import kubectl_missing, kubectl_path
from xec_forward.demo.cluster.certificates import Authority
from xec_forward.engine.links.kubernetes import config, credentials, plugin
from xec_forward.engine.links.kubernetes.credentials import Credentials, Login
from xec_forward.errors import AuthenticationError, ConfigError, DeadlineError, ForwardError, UnreachableError
from xec_forward.options import ClusterTarget

SECRET = "s3cr3t-t0ken"


@pytest.fixture(autouse=True)
def _no_kubeconfig_of_the_developer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KUBE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def kubeconfig(
    path: Path,
    *names: str,
    current: str | None = None,
    user: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    **context: str,
) -> Path:
    """A file with a context, a cluster and a user under each of these names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, **context}} for name in names],
        "clusters": [
            {"name": name, "cluster": {"server": f"https://{path.stem}.{name}:6443", **(cluster or {})}}
            for name in names
        ],
        "users": [{"name": name, "user": user or {"token": f"{path.stem}-{name}"}} for name in names],
    }
    if current is not None:
        document["current-context"] = current
    path.write_text(yaml.safe_dump(document))
    return path


def login_of(path: Path, **user: Any) -> Path:
    return kubeconfig(path, "it", current="it", user=user)


async def header(path: Path) -> str:
    return dict((await (await Credentials.open(ClusterTarget(kubeconfig=str(path)))).current()).headers)[
        "Authorization"
    ]


# ---- which file, which context ----


def test_files_of_a_list_are_merged_as_kubectl_merges_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing_component := kubectl_missing():
        pytest.skip(missing_component)
    first = kubeconfig(tmp_path / "first", "dev", "shared", namespace="one")
    second = kubeconfig(tmp_path / "second", "prod", "shared", current="shared", namespace="two")
    third = kubeconfig(tmp_path / "third", "test", current="test")
    missing = tmp_path / "missing"
    for files in ([first, second, third], [third, second, first], [missing, second], [second, second, missing, first]):
        monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, files)))
        for context in ("", "shared"):
            if context and context not in config.contexts(ClusterTarget()):
                continue
            ours = config.load(ClusterTarget(context=context))
            asked = [kubectl_path(), "config", "view", "--minify", "--raw", "-o", "json"]
            shown = subprocess.run(
                [*asked, f"--context={context}"] if context else asked, capture_output=True, timeout=30
            )
            theirs = json.loads(shown.stdout)
            assert ours.name == theirs["contexts"][0]["name"]
            assert ours.namespace == theirs["contexts"][0]["context"].get("namespace", "default")
            assert ours.cluster["server"] == theirs["clusters"][0]["cluster"]["server"]
            assert ours.user["token"] == theirs["users"][0]["user"]["token"]


def test_first_current_context_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kubeconfig(tmp_path / "first", "dev", current="dev")
    second = kubeconfig(tmp_path / "second", "prod", current="prod")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}")
    assert config.load(ClusterTarget()).name == "dev"


def test_kubeconfig_option_reads_that_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "first", "dev", current="dev")))
    alone = kubeconfig(tmp_path / "alone", "prod", current="prod")
    assert config.load(ClusterTarget(kubeconfig=str(alone))).name == "prod"
    with pytest.raises(ConfigError, match="there is no context dev"):
        config.load(ClusterTarget(kubeconfig=str(alone), context="dev"))


def test_file_in_the_home_folder_is_read_by_default(tmp_path: Path) -> None:
    kubeconfig(tmp_path / "home" / ".kube" / "config", "home", current="home")
    assert config.load(ClusterTarget()).name == "home"


def test_namespace_is_the_contexts_own_unless_told(tmp_path: Path) -> None:
    path = str(kubeconfig(tmp_path / "file", "dev", current="dev", namespace="billing"))
    assert config.load(ClusterTarget(kubeconfig=path)).namespace == "billing"
    assert config.load(ClusterTarget(kubeconfig=path, namespace="sales")).namespace == "sales"
    path = str(kubeconfig(tmp_path / "file", "dev", current="dev"))
    assert config.load(ClusterTarget(kubeconfig=path)).namespace == "default"


def test_no_file_at_all_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"looked for ~/\.kube/config\. Name one with --kubeconfig"):
        config.load(ClusterTarget())
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/a:{tmp_path}/b")
    with pytest.raises(ConfigError, match=f"looked for {tmp_path}/a, {tmp_path}/b"):
        config.load(ClusterTarget())
    with pytest.raises(ConfigError, match=f"looked for {tmp_path}/c"):
        config.load(ClusterTarget(kubeconfig=f"{tmp_path}/c"))
    assert config.contexts(ClusterTarget()) == []


def test_unknown_context_names_the_nearest_and_those_there_are(tmp_path: Path) -> None:
    path = str(kubeconfig(tmp_path / "file", "dev", "production", current="gone"))
    with pytest.raises(
        ConfigError, match=r"no context prodction in .*file\. The nearest is production; there are dev, p"
    ):
        config.load(ClusterTarget(kubeconfig=path, context="prodction"))
    with pytest.raises(ConfigError, match=r"no context gone in .*There are dev, production"):
        config.load(ClusterTarget(kubeconfig=path))
    path = str(kubeconfig(tmp_path / "file", "dev", "production"))
    with pytest.raises(ConfigError, match=r"no current context is set in .*Name one with --context: dev, production"):
        config.load(ClusterTarget(kubeconfig=path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"users:\n- name: x\n  user: {{token: {SECRET}\n", r"line \d+, column \d+: this is not valid YAML"),
        (f"a: b\n\t- {SECRET}: '", r"line 2, column 1: this is not valid YAML"),
        (f"token: *{SECRET}", "line 1, column 8: this is not valid YAML"),
        (SECRET, "it holds no mapping"),
        (f"contexts: {SECRET}", "contexts is not a list"),
        (f"users: [{{token: {SECRET}}}]", "entry 1 of users has no name"),
        (f"users: [{{name: x, user: {SECRET}}}]", "user of x in users is no mapping"),
        ("", "no current context is set"),
        ("contexts:\nclusters:\nusers:\n", "no current context is set"),
        ("current-context: x\ncontexts: [{name: x, context: {}}]", "the context x names no cluster"),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: y}}]", "there is no cluster y"),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: y, user: z}}]\n"
            "clusters: [{name: y, cluster: {server: 'https://a'}}]",
            "there is no user z",
        ),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: y}}]\nclusters: [{name: y}]",
            "the cluster y names no server",
        ),
    ],
)
def test_malformed_file_is_one_line_with_file_and_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        config.load(ClusterTarget(kubeconfig=str(path)))
    assert "broken" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(repr(each) for each in (caught.value.__cause__, caught.value))


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(ClusterTarget(kubeconfig=str(tmp_path)))


def test_relative_paths_are_those_of_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = {"client-certificate": "me.crt", "client-key": "/abs/me.key", "exec": {"command": "./bin/login"}}
    kubeconfig(tmp_path / "a" / "file", "x", current="x", user=user, cluster={"certificate-authority": "ca.crt"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", "a/file")
    found = config.load(ClusterTarget())
    assert os.path.samefile(tmp_path / "a", os.path.dirname(found.cluster["certificate-authority"]))
    assert found.user["client-certificate"] == str(tmp_path / "a" / "me.crt")
    assert found.user["client-key"] == "/abs/me.key"
    assert os.path.normpath(found.user["exec"]["command"]) == str(tmp_path / "a" / "bin" / "login")


def test_secrets_of_a_context_are_not_in_its_repr(tmp_path: Path) -> None:
    path = login_of(tmp_path / "file", token=SECRET)
    assert SECRET not in repr(config.load(ClusterTarget(kubeconfig=str(path))))
    assert SECRET not in repr(config.read((str(path),), hop="it"))


def test_identity_is_what_the_kubeconfig_means_now_and_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "file"

    def identity(context: str = "") -> object:
        target = ClusterTarget(context=context, kubeconfig=str(file))
        return config.identity(target, config.load(target))

    login_of(file, token=SECRET)
    first = identity()
    assert (identity("it"), SECRET in repr(first)) == (first, False)
    file.write_text(file.read_text() + "\n# nothing that is meant\n")
    assert identity() == first
    login_of(file, token="another")
    assert identity() != first


# ---- in a pod ----


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("pod-token\n")
    (folder / "ca.crt").write_bytes(Authority().pem)
    (folder / "namespace").write_text("apps")
    monkeypatch.setattr(config, "SERVICE_ACCOUNT", folder)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return folder


async def test_pods_service_account_is_used_where_there_is_no_kubeconfig(pod: Path) -> None:
    opened = await Credentials.open(ClusterTarget())
    assert (opened.context.name, opened.context.namespace) == ("in-cluster", "apps")
    login = await opened.current()
    assert login.server == "https://[fd00::1]:443"
    assert dict(login.headers)["Authorization"] == "Bearer pod-token"
    (pod / "token").write_text("rotated")
    renewed = await opened.renewed(login)
    assert renewed is not None
    assert dict(renewed.headers)["Authorization"] == "Bearer rotated"


async def test_kubeconfig_goes_before_the_service_account(pod: Path, tmp_path: Path) -> None:
    kubeconfig(tmp_path / "home" / ".kube" / "config", "home", current="home")
    assert config.load(ClusterTarget()).name == "home"


async def test_pod_without_a_service_account_token_says_so(pod: Path) -> None:
    (pod / "token").unlink()
    with pytest.raises(ConfigError, match=r"this pod has no service account token at .*automountServiceAccountToken"):
        config.load(ClusterTarget())


# ---- the login ----


async def test_token_file_wins_and_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("first\n")
    path = login_of(tmp_path / "file", token="stale", tokenFile="token")
    opened = await Credentials.open(ClusterTarget(kubeconfig=str(path)))
    first = await opened.current()
    assert dict(first.headers)["Authorization"] == "Bearer first"
    (tmp_path / "token").write_text("second")
    assert await opened.current() is first
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + credentials.FILE_PERIOD)
    second = await opened.current()
    assert dict(second.headers)["Authorization"] == "Bearer second"
    assert second.tls is first.tls  # connections that are up can be used again


async def test_user_and_password_and_nobody(tmp_path: Path) -> None:
    basic = base64.b64encode(b"ana:pw").decode()
    assert await header(login_of(tmp_path / "file", username="ana", password="pw")) == f"Basic {basic}"
    opened = await Credentials.open(
        ClusterTarget(kubeconfig=str(kubeconfig(tmp_path / "x", "x", current="x", user={"a": 1})))
    )
    assert (await opened.current()).headers == ()


async def test_impersonation_is_carried_out(tmp_path: Path) -> None:
    user = {
        "token": "t",
        "as": "bo",
        "as-groups": ["dev", "ops"],
        "as-user-extra": {"reason": ["audit"], "example.org/a%": ["x"]},
    }
    path = kubeconfig(tmp_path / "x", "x", current="x", user=user)
    login = await (await Credentials.open(ClusterTarget(kubeconfig=str(path)))).current()
    assert login.headers[1:] == (
        ("Impersonate-User", "bo"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Extra-example.org%2Fa%25", "x"),
        ("Impersonate-Extra-reason", "audit"),
    )


async def test_login_made_meanwhile_in_a_terminal_is_found_after_a_refusal(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "file", "it", "other", current="it", user={"token": "old"})
    opened = await Credentials.open(ClusterTarget(kubeconfig=str(path)))
    refused = await opened.current()
    assert await opened.renewed(refused) is None  # nothing has changed
    refused = await opened.current()
    kubeconfig(tmp_path / "file", "it", "other", current="other", user={"token": "new"})
    renewed = await opened.renewed(refused)
    assert renewed is not None
    assert dict(renewed.headers)["Authorization"] == "Bearer new"
    assert opened.context.name == "it"  # whatever the current context is by now


async def test_no_key_is_left_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    authority = Authority()
    certificate, key = authority.client("ana")
    entry = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    cluster = {"certificate-authority-data": encoded(authority.pem)}
    path = kubeconfig(tmp_path / "file", "it", current="it", user=entry, cluster=cluster)
    login = await (await Credentials.open(ClusterTarget(kubeconfig=str(path)))).current()
    assert login.tls is not None
    assert len(login.tls.get_ca_certs()) == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"client-certificate-data": "%%%"}, "client-certificate-data is not base64"),
        ({"client-certificate": "/nowhere/me.crt"}, "/nowhere/me.crt"),
        ({"client-certificate-data": base64.b64encode(b"no").decode()}, "client-certificate and client-key cannot be"),
        ({"tokenFile": "/nowhere/token"}, "the token file /nowhere/token cannot be read: No such file"),
        ({"token": "two\nlines"}, "spans several lines"),
        ({"auth-provider": {"name": "gcp"}}, "no auth-provider gcp any more. Use gke-gcloud-auth-plugin"),
    ],
)
async def test_faulty_user_entry_says_what_is_wrong(tmp_path: Path, user: dict[str, Any], words: str) -> None:
    path = kubeconfig(tmp_path / "file", "it", current="it", user=user)
    with pytest.raises(ConfigError, match=words) as caught:
        await Credentials.open(ClusterTarget(kubeconfig=str(path)))
    assert "\n" not in str(caught.value)


async def test_encrypted_key_is_refused_and_asks_nobody(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    certificate, key = Authority().client("ana")
    encrypted = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(encrypted)}
    path = kubeconfig(tmp_path / "file", "it", current="it", user=user)
    with pytest.raises(ConfigError, match="client-certificate and client-key cannot be used"):
        async with asyncio.timeout(10):
            await Credentials.open(ClusterTarget(kubeconfig=str(path)))


def id_token(expires: float) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"exp": int(expires)}).encode()).decode().rstrip("=")
    return f"e30.{payload}.sig"


async def test_oidc_token_is_taken_while_it_lives(tmp_path: Path) -> None:
    def provider(token: str) -> dict[str, Any]:
        return {"name": "oidc", "config": {"id-token": token, "refresh-token": SECRET, "idp-issuer-url": "https://x"}}

    good, ended = id_token(time.time() + 60), id_token(time.time() - 60)
    assert await header(login_of(tmp_path / "a", **{"auth-provider": provider(good)})) == f"Bearer {good}"
    for token, words in ((ended, "has expired"), ("a.b", "is malformed"), ("", "holds no id-token")):
        path = login_of(tmp_path / "b", **{"auth-provider": provider(token)})
        with pytest.raises(AuthenticationError, match=f"{words}. Run kubectl get pods --context it") as caught:
            await Credentials.open(ClusterTarget(kubeconfig=str(path)))
        assert SECRET not in str(caught.value)


# ---- plugins ----


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """An exec entry for a Python program; `answer(**status)` in it prints a credential."""
    prelude = (
        f"#!{sys.executable} -S\n"
        "import json, os, sys, time\n"
        "INFO = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "def answer(**status):\n"
        "    print(json.dumps({'kind': 'ExecCredential', 'apiVersion': INFO['apiVersion'], 'status': status}))\n"
    )

    def write(body: str) -> dict[str, Any]:
        path = tmp_path / "login"
        path.write_text(prelude + body)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "interactiveMode": "Never"}

    return write


Script = Callable[[str], dict[str, Any]]


def alive(pid: int) -> bool:
    """Not even a zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


async def logged_in(tmp_path: Path, entry: dict[str, Any], **cluster: Any) -> tuple[Credentials, Login]:
    path = kubeconfig(tmp_path / "file", "it", current="it", user={"exec": entry}, cluster=cluster)
    opened = await Credentials.open(ClusterTarget(kubeconfig=str(path)))
    return opened, await opened.current()


async def test_plugin_gets_its_arguments_environment_and_the_cluster(tmp_path: Path, script: Script) -> None:
    body = f"json.dump([sys.argv, dict(os.environ), INFO, sys.stdin.read()], open('{tmp_path}/seen', 'w'))\n"
    entry = script(body + "answer(token='from-plugin')\n") | {
        "args": ["--for", 'it\'s $HOME; rm -rf "x"\nnext'],
        "env": [{"name": "PROFILE", "value": "a 'b' $c"}],
        "provideClusterInfo": True,
    }
    authority = Authority().pem
    (tmp_path / "ca.crt").write_bytes(authority)
    settings = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    _, login = await logged_in(
        tmp_path, entry, **{"certificate-authority": "ca.crt", "tls-server-name": "api", "extensions": [settings]}
    )
    assert dict(login.headers)["Authorization"] == "Bearer from-plugin"
    arguments, environment, information, stdin = json.loads((tmp_path / "seen").read_text())
    assert arguments[1:] == entry["args"]
    assert environment["PROFILE"] == "a 'b' $c"
    assert environment["HOME"] == os.environ["HOME"]
    assert stdin == ""
    assert information["spec"]["interactive"] is False
    assert information["spec"]["cluster"] == {
        "server": "https://file.it:6443",
        "tls-server-name": "api",
        "certificate-authority-data": encoded(authority),
        "config": {"audience": "x"},
    }


async def test_plugins_token_is_renewed_when_it_ends_and_only_then(tmp_path: Path, script: Script) -> None:
    stamp = "time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(time.time() + LIFE))"
    count = f"open('{tmp_path}/runs', 'a').write('x')\n"
    entry = script(f"{count}answer(token=str(os.getpid()), expirationTimestamp={stamp.replace('LIFE', '3600')})\n")
    opened, login = await logged_in(tmp_path, entry)
    assert await opened.current() is login
    assert login.expires == pytest.approx(time.time() + 3600, abs=15)
    script(f"{count}answer(token=str(os.getpid()), expirationTimestamp={stamp.replace('LIFE', '-5')})\n")
    renewed = await opened.renewed(login)  # a 401: whatever the timestamp says
    assert renewed is not None
    assert renewed.headers != login.headers
    assert renewed.expires < time.time()
    everybody = await asyncio.gather(*(opened.renewed(renewed) for _ in range(5)))
    assert len({id(one) for one in everybody}) == 1  # one run for all who were refused
    assert (await opened.current()) is not everybody[0]  # it has ended: another run
    assert (tmp_path / "runs").read_text() == "xxxx"


async def test_plugins_certificate_is_used(tmp_path: Path, script: Script) -> None:
    certificate, key = (part.decode() for part in Authority().client("ana"))
    _, login = await logged_in(
        tmp_path, script(f"answer(clientCertificateData={certificate!r}, clientKeyData={key!r})\n")
    )
    assert login.tls is not None
    assert login.headers == ()


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("sys.exit('first\\nthe session has expired')\n", AuthenticationError, "exit code 1: the session has expired"),
        ("sys.exit('dial tcp: lookup sts.eu: no such host')\n", UnreachableError, "no such host. Is the network"),
        (f"print('{SECRET}')\n", AuthenticationError, "the plugin login ended without a credential"),
        (f"answer(tokn='{SECRET}')\n", AuthenticationError, "neither a token nor a certificate with its key"),
        (f"answer(clientCertificateData='{SECRET}')\n", AuthenticationError, "neither a token nor a certificate"),
        ("INFO['apiVersion'] = 'x/v9'; answer(token='t')\n", ConfigError, "answers in another form, and client.auth"),
        ("print('[]')\n", AuthenticationError, "ended without a credential"),
        ("print('x' * 5_000_000)\n", AuthenticationError, "the plugin login ended"),
        ("os.kill(os.getpid(), 9)\n", AuthenticationError, "SIGKILL"),
    ],
)
async def test_failing_plugin_gives_its_last_words_and_a_fix(
    tmp_path: Path, script: Script, body: str, kind: type[ForwardError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        async with asyncio.timeout(20):
            await logged_in(tmp_path, script(body))
    assert caught.value.hop == "it"
    assert caught.value.hint
    assert SECRET not in str(caught.value)


async def test_what_a_plugin_says_is_not_logged_and_its_last_words_have_no_token(
    tmp_path: Path, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """As with its debugging turned on."""
    caplog.set_level(logging.DEBUG)
    says = f"print('> Authorization: Bearer {SECRET}', file=sys.stderr, flush=True)\n"
    _, login = await logged_in(tmp_path, script(f"{says}answer(token='{SECRET}')\n"))
    assert dict(login.headers)["Authorization"] == f"Bearer {SECRET}"
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbmEifQ.c2ln"
    for words in (f"403 for Bearer {SECRET}", f"refused: {jwt}", f"AWS_SESSION={'A1' * 25}"):
        with pytest.raises(AuthenticationError) as caught:
            await logged_in(tmp_path, script(f"sys.exit({words!r})\n"))
        assert not any(secret in str(caught.value) for secret in (SECRET, jwt, "A1A1"))
        assert words.split()[0] in str(caught.value) or words.startswith("AWS")
    url = "https://device.sso.eu-central-1.amazonaws.com/?user_code=ABCD-EFGH"
    with pytest.raises(AuthenticationError, match=re.escape(url)):
        await logged_in(tmp_path, script(f"sys.exit('open {url}')\n"))
    assert SECRET not in caplog.text
    assert "Authorization" not in caplog.text
    assert "started as process" in caplog.text, "the log tells that it ran"


async def test_missing_plugin_shows_its_install_hint(tmp_path: Path) -> None:
    entry: dict[str, Any] = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}
    with pytest.raises(ConfigError, match=r"the plugin no-such-plugin is not there. Install it on the PATH"):
        await logged_in(tmp_path, entry)
    with pytest.raises(ConfigError, match=r"is not there\. See https://example.org for it"):
        await logged_in(tmp_path, entry | {"installHint": "See https://example.org\n\n  for it"})


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            {"apiVersion": "client.authentication.k8s.io/v1alpha1"},
            ConfigError,
            "wants client.authentication.k8s.io/v1a",
        ),
        ({"command": ""}, ConfigError, "names no command"),
        ({"interactiveMode": "Always"}, AuthenticationError, "wants to ask questions"),
        ({"env": [{"name": "a b", "value": "x"}]}, ConfigError, "whose name is no variable's"),
        ({"args": "x"}, ConfigError, "no lists"),
    ],
)
async def test_malformed_exec_entry_says_what_is_wrong(
    tmp_path: Path, script: Script, change: dict[str, Any], kind: type[ForwardError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await logged_in(tmp_path, script("answer(token='t')\n") | change)


async def test_hanging_plugin_ends_at_the_deadline_with_all_its_children(
    tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "DEADLINE", 1.5)
    body = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        f"open('{tmp_path}/pids', 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "print('open https://login.example in a browser', file=sys.stderr, flush=True)\ntime.sleep(300)\n"
    )
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    ticking = asyncio.create_task(tick())
    with pytest.raises(
        DeadlineError, match=r"did not answer within 1\.5 s; its last words: open https://login.example"
    ):
        await logged_in(tmp_path, script(body))
    ticking.cancel()
    assert ticks > 10  # nobody else had to wait for it
    async with asyncio.timeout(10):
        for pid in map(int, (tmp_path / "pids").read_text().split()):
            while alive(pid):
                await asyncio.sleep(0.02)


async def test_cancelling_a_login_ends_the_plugin(tmp_path: Path, script: Script) -> None:
    entry = script(f"open('{tmp_path}/pid', 'w').write(str(os.getpid()))\ntime.sleep(300)\n")
    task = asyncio.create_task(logged_in(tmp_path, entry))
    async with asyncio.timeout(10):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pid = int((tmp_path / "pid").read_text())
        while alive(pid):
            await asyncio.sleep(0.02)


async def test_plugin_that_leaves_a_helper_behind_does_not_hold_us(tmp_path: Path, script: Script) -> None:
    body = "import subprocess\nanswer(token='t'); sys.stdout.flush()\n"
    body += "subprocess.Popen(['sleep', '20'], start_new_session=True)\n"
    start = time.monotonic()
    _, login = await logged_in(tmp_path, script(body))
    assert dict(login.headers)["Authorization"] == "Bearer t"
    assert time.monotonic() - start < 10


async def test_secret_of_a_plugins_environment_is_in_no_argument(tmp_path: Path, script: Script) -> None:
    body = (
        "def line(pid): return open(f'/proc/{pid}/cmdline').read()\n"
        f"open('{tmp_path}/lines', 'w').write(line(os.getpid()) + line(os.getppid()))\nanswer(token='t')\n"
    )
    entry = script(body) | {"env": [{"name": "KEY", "value": SECRET}]}
    await logged_in(tmp_path, entry)
    assert "login" in (tmp_path / "lines").read_text()
    assert SECRET not in (tmp_path / "lines").read_text()
