"""`%k8s_forward --doctor` in a real kernel, and the line that a failed opening ends with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.test_doctor import run_command, silent, speaker, timeless
from tests.peers import kernel as peer
from tests.peers.kernel import Kernel
from tests.peers.services import Services
from xec_forward.demo.cluster import Cluster, Context


@pytest.fixture
def kernel(tmp_path: Path, cluster: Cluster, services: Services) -> Iterator[Kernel]:
    """A kernel whose $KUBECONFIG is that of a cluster with a Deployment `web` behind a Service `web`."""
    if missing := peer.missing():
        pytest.skip(missing)
    cluster.add_deployment("web", ports={"echo": 7000}, serves={7000: ("127.0.0.1", services.echo)})
    cluster.add_service("web", selector={"app": "web"}, ports=[{"name": "echo", "port": 70, "targetPort": "echo"}])
    folder = tmp_path / "kernel"
    folder.mkdir()
    env = {"KUBECONFIG": str(cluster.kubeconfig), "XEC_FORWARD_STATE": os.environ["XEC_FORWARD_STATE"]}
    with Kernel(folder, env, "%load_ext xec_forward") as running:
        yield running


def test_magic_and_command_say_the_same(kernel: Kernel, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["deploy/web", "81", "-n", "default"]
    result = kernel.run(f"%k8s_forward --doctor {' '.join(words)}").ok()
    (display,) = result.displays
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    done = run_command(*words)
    assert (done.returncode, done.stderr) == (1, "")
    assert timeless(done.stdout) == timeless(display.text)
    assert "✗ FAILED  listening" in display.text
    assert "<b>fix: " in display.html
    assert len(display.bundles) > 12, "the stages did not appear one by one"
    assert "… running" in display.bundles[0]["text/plain"]
    assert result.result is None
    assert cluster.token not in display.text + display.html
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0


def test_cluster_made_in_python_and_one_without_a_resource(kernel: Kernel, cluster: Cluster) -> None:
    kernel.run("import xec_forward as xf\nhere = xf.k8s(context='demo')").ok()
    assert "all is well" in kernel.run("%k8s_forward --doctor $here -l app=web echo").ok().displays[-1].text
    assert "permission" in kernel.run("%k8s_forward --doctor --context demo").ok().displays[-1].text
    assert kernel.value("here.doctor(service='web', remote_port=70).ok") is True


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("deploy/web :81 --dsn postgresql://ana@/s --timeout 5", "deploy/web 81"),
        ("-n default deploy/web x=:81 --context demo", "deploy/web 81 -n default --context demo"),
        ("-l 'app in (web)' :81", "-l 'app in (web)' 81"),
    ],
)
def test_failed_opening_offers_the_doctor(kernel: Kernel, cluster: Cluster, line: str, offered: str) -> None:
    failed = kernel.run(f"%k8s_forward {line}")
    assert failed.error is not None
    assert "\n" not in failed.error.value.strip()
    words = failed.error.value.rpartition("See each hop: ")[2].strip()
    assert words == f"%k8s_forward --doctor {offered}"
    assert "✗ FAILED  listening" in kernel.run(words).ok().displays[-1].text


def test_refused_permission_offers_it_and_malformed_words_do_not(kernel: Kernel, cluster: Cluster) -> None:
    cluster.deny("list", "pods")
    failed = kernel.run("%k8s_forward svc/web 70")
    assert failed.error is not None
    assert failed.error.value.startswith("ERBAC ")
    assert "%k8s_forward --doctor svc/web 70" in failed.error.value
    for line in ("svc/web 1:2:3", "svc/web 70 --as class"):
        malformed = kernel.run(f"%k8s_forward {line}")
        assert malformed.error is not None
        assert "--doctor" not in malformed.error.value


def test_magic_is_ended_by_ctrl_c(kernel: Kernel, cluster: Cluster) -> None:
    with speaker(silent) as port:
        context = Context(cluster={"server": f"https://127.0.0.1:{port}"})
        file = cluster.write_kubeconfig(cluster.folder / "silent", context)
        running = kernel.start(f"%k8s_forward --doctor --kubeconfig {file}")
        running.until(lambda result: "… running tls" in result.text)
        kernel.interrupt()
        result = running.wait(10)
    assert result.error is not None
    assert "interrupted" in result.error.value
    assert kernel.value("1 + 1") == 2
