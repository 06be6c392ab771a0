"""Tab in the lines of %forward and %k8s_forward: complete_request to a real kernel, beside real peers."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.peers import kernel as peer
from tests.peers.kernel import Kernel, wait_until
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.demo.cluster import Cluster

# Where we offer nothing Jedi is asked, whose first answer takes seconds.
INSTALL = """\
%config IPCompleter.use_jedi = False
from xec_forward.jupyter import completion
completion.install(get_ipython())
"""
# A completion that takes longer has waited for something.
AT_ONCE = 2.0


class Completed:
    """The words offered for a cell with the cursor at its mark `|`, or its end."""

    def __init__(self, kernel: Kernel, code: str) -> None:
        before, _, after = code.partition("|")
        start = time.monotonic()
        reply = kernel.client.complete(before + after, len(before), reply=True, timeout=20)
        self.seconds = time.monotonic() - start
        content = reply["content"]
        assert content["status"] == "ok", content
        self.words: list[str] = content["matches"]
        self.fragment = before[content["cursor_start"] : content["cursor_end"]]
        kinds = content["metadata"].get("_jupyter_types_experimental", [])
        self.ours = bool(kinds) and all(kind["type"] in ("value", "param", "path", "instance") for kind in kinds)


def offered(kernel: Kernel, code: str) -> list[str]:
    """What is offered, by us alone; nothing where we offer nothing."""
    done = Completed(kernel, code)
    assert done.seconds < AT_ONCE, done.seconds
    return done.words if done.ours else []


def until(kernel: Kernel, code: str, words: list[str]) -> None:
    """Press Tab until these words are offered: the first one may only have had the cluster asked."""
    wait_until(lambda: offered(kernel, code) == words, f"{code}: {words} not offered, but {offered(kernel, code)}", 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "kernel"
    folder.mkdir()
    return folder


@pytest.fixture
def kernel(folder: Path, tmp_path: Path) -> Iterator[Kernel]:
    """A kernel with the extension, whose ssh_config and home are its own."""
    if missing := peer.missing():
        pytest.skip(missing)
    ssh = folder / "home" / ".ssh"
    ssh.mkdir(parents=True)
    (ssh / "config").write_text(
        "# Host commented\n"
        'Host bastion "quoted host" bas-two *.vpc !secret.vpc ba?\n'
        "  HostName 10.0.0.1\n"
        "Include more/*.conf nowhere\n"
        "host=lower\n"
        "Match host else\n  User ana\n"
    )
    (ssh / "more").mkdir()
    (ssh / "more" / "one.conf").write_text("Host included\nInclude ~/.ssh/config\n")
    (ssh / "known_hosts").write_text("known.vpc ssh-ed25519 AAAA\n")
    (tmp_path / "other_config").write_text("Host other\n")
    env = {"XEC_FORWARD_STATE": os.environ["XEC_FORWARD_STATE"], "SALES_PASSWORD": "x", "SALES_HOST": "y"}
    env["XEC_FORWARD_SSH_CONFIG"] = ""
    with Kernel(folder, env, f"%load_ext xec_forward\n{INSTALL}") as running:
        yield running


# Hosts


def test_target_is_a_host_of_ssh_config_or_of_what_it_includes(kernel: Kernel, tmp_path: Path) -> None:
    known = offered(kernel, "%forward ")
    assert [host for host in known if host in ("bastion", "bas-two", "included", "lower")] == known[:4]
    assert not {"commented", "*.vpc", "!secret.vpc", "secret.vpc", "ba?", "else", "known.vpc"} & set(known)
    assert offered(kernel, "%forward bas") == ["bastion", "bas-two"]
    assert offered(kernel, "%forward bas| 5432:pg.vpc:5432") == ["bastion", "bas-two"]
    assert offered(kernel, "pg = %forward inc") == ["included"]
    assert offered(kernel, "x = 1\n%forward -i 'a key' --lazy inc") == ["included"]
    assert offered(kernel, "%forward --doctor inc") == ["included"]
    assert Completed(kernel, "%forward ana@inc").fragment == "inc"
    assert offered(kernel, "%forward ana@inc") == ["included"]
    assert offered(kernel, "%forward bastion -J inc") == ["included"]
    assert offered(kernel, "%forward bastion --proxy=bastion,ana@inc") == ["included"]
    assert offered(kernel, f"%forward -F {tmp_path}/other_config ") == ["other"]
    assert offered(kernel, "%forward -F none inc") == []
    assert offered(kernel, "%forward bastion inc") == []
    kernel.run(f"import os; os.environ['XEC_FORWARD_SSH_CONFIG'] = {str(tmp_path / 'other_config')!r}").ok()
    assert offered(kernel, "%%forward ") == ["other"]


def test_files_of_ssh_config_in_a_circle_or_unreadable_are_no_trouble(kernel: Kernel, folder: Path) -> None:
    (folder / "home" / ".ssh" / "more" / "two.conf").write_bytes(b"Host \xff\xfe 'open\nHost second\nInclude more/*\n")
    (folder / "home" / ".ssh" / "more" / "dir.conf").mkdir()
    assert offered(kernel, "%forward sec") == ["second"]


# Options and their values


def test_options_are_offered_once_and_only_where_they_belong(kernel: Kernel) -> None:
    assert offered(kernel, "%forward bastion --serv") == ["--server-alive-interval", "--server-alive-count-max"]
    assert offered(kernel, "%forward --clo") == ["--close", "--close-all"]
    assert offered(kernel, "%forward bastion --laz") == ["--lazy"]
    assert offered(kernel, "%forward bastion --lazy --laz") == []
    assert "-i" in offered(kernel, "%forward bastion -i key -")
    assert "-l" not in offered(kernel, "%forward bastion --username ana -")
    assert offered(kernel, "%k8s_forward --con") == ["--context"]
    assert offered(kernel, "%forward --con") == ["--control-master", "--control-path", "--control-persist"]
    assert offered(kernel, "%k8s_forward --sel") == ["--selector"]
    assert offered(kernel, "%forward bastion # --laz") == []
    assert offered(kernel, "%forward bastion -- --laz") == []


def test_values_of_options_are_offered(kernel: Kernel, folder: Path) -> None:
    assert offered(kernel, "%forward bastion --host-key ") == ["ask", "strict", "accept-new"]
    assert offered(kernel, "%forward bastion --host-key=s") == ["strict"]
    assert offered(kernel, "%k8s_forward svc/a 80 --guard ") == ["uid", "off"]
    assert offered(kernel, "%forward bastion --control-persist ") == ["yes", "no"]
    assert offered(kernel, "%forward bastion --hold ") == []
    assert offered(kernel, "%forward bastion --dsn postg") == ["postgresql://", "postgres://"]
    assert offered(kernel, "%forward bastion --password ") == ["env:", "keyring:", "cmd:", "file:", "prompt"]
    assert "secret:" in offered(kernel, "%k8s_forward svc/a 80 --password ")
    assert offered(kernel, "%forward bastion --password env:SALES_") == ["SALES_HOST", "SALES_PASSWORD"]
    assert Completed(kernel, "%forward bastion --password=env:SALES_").fragment == "SALES_"
    assert offered(kernel, "%forward bastion --password cmd:") == []
    keys = folder / "keys"
    keys.mkdir()
    for name in ("id_one", "id two", ".hidden"):
        (keys / name).write_text("")
    assert offered(kernel, "%forward bastion -i key") == ["keys/"]
    assert offered(kernel, "%forward bastion -i keys/") == ["id\\ two", "id_one"]
    assert offered(kernel, "%forward bastion -i 'keys/id") == ["id two", "id_one"]
    assert offered(kernel, f"%forward bastion --private-key={keys}/.h") == [".hidden"]
    assert offered(kernel, "%forward bastion -F ~/.ss") == [".ssh/"]
    assert offered(kernel, "%k8s_forward --kubeconfig keys/id_") == ["id_one"]
    assert offered(kernel, "%forward bastion --password file:keys/id_") == ["id_one"]


# Names of what is open


def test_open_tunnels_and_groups_are_offered_for_close_and_reconnect(
    folder: Path, bastion: Sshd, services: Services
) -> None:
    env = {"XEC_FORWARD_SSH_CONFIG": os.environ["XEC_FORWARD_SSH_CONFIG"]}
    (folder / "home").mkdir()
    with Kernel(folder, env, f"%load_ext xec_forward\n{INSTALL}") as kernel:
        assert offered(kernel, "%forward --close ") == []
        far = f"{bastion.far()}:{services.echo}"
        kernel.run(f"%forward bastion one=0:{far} other=0:{far} --as both --no-check").ok()
        assert offered(kernel, "%forward --close ") == ["one", "other", "both"]
        assert offered(kernel, "%forward --close one ot") == ["other"]
        assert offered(kernel, "%forward --close=ot") == ["other"]
        assert offered(kernel, "%k8s_forward --reconnect o") == ["one", "other"]
        kernel.run("%forward --close both").ok()
        assert offered(kernel, "%forward --reconnect ") == []


# Profiles


def test_profiles_are_offered_after_an_at_sign(kernel: Kernel, folder: Path) -> None:
    assert offered(kernel, "%forward @") == []
    (folder / "xec_forward.toml").write_text(
        '[tunnels.sales]\nssh = "bastion"\nforward = "pg.vpc:5432"\n'
        '[tunnels.pods]\nnamespace = "prod"\n[groups]\nanalytics = ["sales"]\n'
    )
    assert offered(kernel, "%forward @") == ["@sales", "@pods", "@analytics"]
    assert offered(kernel, "%forward --lazy @sales @an") == ["@analytics"]
    assert offered(kernel, "%k8s_forward @p") == ["@pods"]
    assert offered(kernel, "%forward ")[-3:] == ["@sales", "@pods", "@analytics"]
    # A profile knows its kind.
    assert offered(kernel, "%forward @pods --names") == ["--namespace"]
    assert offered(kernel, "%k8s_forward @sales --host-") == ["--host-key"]
    (folder / "xec_forward.toml").write_text("[tunnels.sales\n")
    assert offered(kernel, "%forward @") == []


# Cells


def test_lines_of_a_list_are_completed_and_code_is_not(kernel: Kernel) -> None:
    cell = "%%forward bastion\n\nsales=pg.vpc:5432 "
    assert offered(kernel, f"{cell}--laz") == ["--lazy"]
    assert offered(kernel, f"{cell}--password env:SALES_P") == ["SALES_PASSWORD"]
    assert offered(kernel, f"{cell}--host-") == []  # of the target: in the first line
    assert offered(kernel, f"{cell}--clo") == []
    assert offered(kernel, "%%forward bas|\npg.vpc:5432 --lazy") == ["bastion", "bas-two"]
    assert offered(kernel, "%%k8s_forward -n prod\ndep") == ["deploy/"]
    done = Completed(kernel, "%%forward bastion 5432:pg.vpc:5432\nimpor")
    assert not done.ours
    assert "import" in done.words


def test_other_lines_are_left_to_the_others(kernel: Kernel) -> None:
    kernel.run("forwarded = {'key': 1}").ok()
    for code, word in (("forward", "%forward"), ("forwarded.ke", "keys"), ("%forward_", ""), ("'%forward bas", "")):
        done = Completed(kernel, code)
        assert not done.ours
        assert not word or any(word in each for each in done.words), (code, done.words)


def test_remove_takes_the_matcher_away_and_install_is_idempotent(kernel: Kernel) -> None:
    kernel.run(INSTALL).ok()
    assert kernel.value("len(get_ipython().Completer.custom_matchers)") == 1
    kernel.run("completion.remove(get_ipython()); completion.remove(get_ipython())").ok()
    assert kernel.value("len(get_ipython().Completer.custom_matchers)") == 0
    assert offered(kernel, "%forward bas") == []


def test_completing_imports_nothing_heavy(kernel: Kernel) -> None:
    assert offered(kernel, "%forward bas")
    assert offered(kernel, "%k8s_forward dep")
    heavy = "{'asyncssh', 'aiohttp', 'kubernetes_asyncio', 'yaml', 'ipywidgets'}"
    assert kernel.value(f"sorted({heavy} & set(__import__('sys').modules))") == []


def test_working_folder_that_is_gone_is_no_trouble(kernel: Kernel) -> None:
    kernel.run("import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')").ok()
    for code in ("%forward -F here bas", "%forward @", "%forward -i ke", "%k8s_forward svc/", "%forward bas"):
        Completed(kernel, code)
    assert offered(kernel, "%forward bas") == ["bastion", "bas-two"]
    assert "Traceback" not in kernel.log()


# Clusters


@pytest.fixture
def with_cluster(folder: Path, cluster: Cluster) -> Iterator[Kernel]:
    """A kernel whose $KUBECONFIG is that of a cluster with a Deployment, a Service and another namespace."""
    if missing := peer.missing():
        pytest.skip(missing)
    cluster.add_deployment("api", ports={"debug": 9229, "echo": 7000})
    cluster.add_service("api", selector={"app": "api"}, ports=[{"name": "http", "port": 80}, {"name": "", "port": 81}])
    cluster.add_pod("lonely", ports={"web": 8080})
    cluster.add_service("other", namespace="prod", selector={"app": "x"}, ports=[5432])
    env = {"KUBECONFIG": str(cluster.kubeconfig), "XEC_FORWARD_STATE": os.environ["XEC_FORWARD_STATE"]}
    with Kernel(folder, env, f"%load_ext xec_forward\n{INSTALL}") as running:
        wait_until(
            lambda: running.value("__import__('xec_forward.client.session').client.session.current().engine_pid"),
            "no engine",
            30,
        )
        yield running


def test_names_of_a_cluster_are_there_at_the_next_tab(with_cluster: Kernel, cluster: Cluster) -> None:
    kernel = with_cluster
    assert offered(kernel, "%k8s_forward s") == ["svc/", "sts/"]
    until(kernel, "%k8s_forward svc/a", ["api"])
    until(kernel, "%k8s_forward service/a", ["api"])
    until(kernel, "%k8s_forward -n prod svc/", ["other"])
    until(kernel, "%k8s_forward --context de", ["demo"])
    until(kernel, "%k8s_forward -n pr", ["prod"])
    until(kernel, "%k8s_forward svc/api ", ["80", "http", "81"])
    until(kernel, "%k8s_forward svc/api 8000:h", ["http"])
    until(kernel, "%k8s_forward deploy/api d=15000:", ["9229", "debug", "7000", "echo"])
    until(kernel, "%k8s_forward -l app=api deb", ["debug"])
    until(kernel, "%%k8s_forward -n prod\nsvc/other ", ["5432"])
    assert offered(kernel, "%k8s_forward svc/api http --ti") == ["--timeout"]
    until(kernel, "%k8s_forward lone", ["lonely"])
    until(kernel, "%k8s_forward lonely ", ["8080", "web"])
    kernel.run("import xec_forward as xf\nhere = xf.k8s(namespace='prod')").ok()
    until(kernel, "%k8s_forward $here svc/", ["other"])


def test_names_of_a_cluster_are_asked_once_in_a_while(with_cluster: Kernel, cluster: Cluster) -> None:
    until(with_cluster, "%k8s_forward svc/a", ["api"])
    asked = len(cluster.requests)
    for _ in range(20):
        assert offered(with_cluster, "%k8s_forward svc/") == ["api"]
    assert len(cluster.requests) == asked


def test_cluster_that_does_not_answer_delays_nobody(with_cluster: Kernel, folder: Path, cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = cluster.kubeconfig.read_text().replace(cluster.server, f"https://127.0.0.1:{silent.getsockname()[1]}")
        (folder / "silent").write_text(text)
        for _ in range(5):
            done = Completed(with_cluster, "%k8s_forward --kubeconfig silent svc/")
            assert done.seconds < AT_ONCE
            assert not done.ours
        assert with_cluster.run("print(6 * 7)").ok().stdout == "42\n"
    until(with_cluster, "%k8s_forward svc/a", ["api"])


def test_tab_runs_no_program_until_a_tunnel_is_open(
    with_cluster: Kernel, folder: Path, cluster: Cluster, services: Services
) -> None:
    ran = folder / "ran"
    version = "client.authentication.k8s.io/v1"
    credential = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": cluster.token}}
    plugin = folder / "plugin.py"
    plugin.write_text(f"open({str(ran)!r}, 'a').write('x')\nprint({json.dumps(credential)!r})\n")
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    program = {"apiVersion": version, "command": sys.executable, "args": [str(plugin)], "interactiveMode": "Never"}
    for user in config["users"]:
        user["user"] = {"exec": program}
    (folder / "plugged").write_text(json.dumps(config))
    kernel = with_cluster
    until(kernel, "%k8s_forward --kubeconfig plugged --context ", ["demo"])
    assert offered(kernel, "%k8s_forward --kubeconfig plugged svc/") == []
    # What is asked after it has been answered before it.
    until(kernel, "%k8s_forward svc/a", ["api"])
    assert not ran.exists()
    cluster.add_deployment("echo", ports={"echo": 7000}, serves={7000: ("127.0.0.1", services.echo)})
    kernel.run("%k8s_forward --kubeconfig plugged deploy/echo :7000 --no-check").ok()
    assert ran.exists()
    until(kernel, "%k8s_forward --kubeconfig plugged sts", ["sts/"])
    until(kernel, "%k8s_forward --kubeconfig plugged deploy/", ["api", "echo"])
