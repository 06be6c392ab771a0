"""The half of the peers that needs a real cluster, as far as it can be held to the truth without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xec_forward.demo.cluster import Cluster

from . import programs, real
from .peer import NUMBERS, EmbeddedPeer
from .real import RealPeer, Refused

IMAGE = "python:3.13-alpine"
OBJECTS: list[tuple[str, real.Body]] = [
    ("V1Namespace", real.namespace("xec-forward-test-0")),
    ("V1ConfigMap", real.script()),
    ("V1Pod", real.pod("web", IMAGE, gated=True)),
    ("V1Deployment", real.workload("deployment", "web", IMAGE, 2)),
    ("V1StatefulSet", real.workload("statefulset", "web", IMAGE, 1)),
    ("V1ReplicaSet", real.workload("replicaset", "web", IMAGE, 1)),
    ("V1DaemonSet", real.workload("daemonset", "web", IMAGE, 1)),
    ("V1Job", real.workload("job", "web", IMAGE, 1)),
    ("V1Service", real.service("web", ({"name": "echo", "port": 80, "targetPort": "echo"},), headless=True)),
]


@pytest.mark.parametrize(("model", "body"), OBJECTS, ids=[model for model, _ in OBJECTS])
async def test_object_has_only_fields_that_the_api_knows_and_all_that_it_requires(model: str, body: Any) -> None:
    """Read into the models of the API's own description, which check it, and written again, nothing is lost."""
    from kubernetes_asyncio.client import ApiClient

    async with ApiClient() as client:
        read = client._ApiClient__deserialize(body, model)
        assert client.sanitize_for_serialization(read) == body


def test_requests_see_pods_and_replace_them(cluster: Cluster, embedded: EmbeddedPeer) -> None:
    embedded.add_workload("deployment", "web")
    peer = RealPeer(cluster.kubeconfig, IMAGE)
    peer.namespace = "default"
    try:
        before = peer.pods("web")
        assert before == embedded.pods("web")
        ((old, ready),) = before.values()
        assert ready
        peer.delete_pod(old)
        new = peer.replacement("web", before)
        assert (new, True) in embedded.pods("web").values()
        assert peer._runs(new)
        with pytest.raises(Refused, match="404"):
            peer.delete_pod("nothing")
    finally:
        peer.rest.close()


def test_namespace_that_cannot_be_made_leaves_nothing_open(cluster: Cluster) -> None:
    """The embedded server makes no objects by POST: so does one whose user may not."""
    with pytest.raises(Refused), RealPeer(cluster.kubeconfig, IMAGE):
        pass


def test_script_of_the_pods_needs_nothing_but_python(tmp_path: Path) -> None:
    script = tmp_path / "programs.py"
    script.write_text(real.script()["data"]["programs.py"])
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert {int(port) for port in json.loads(process.stdout.readline())} == set(NUMBERS.values())
        process.communicate(timeout=10)
    assert process.returncode == 0
    assert len(script.read_bytes()) < 1 << 20  # the most that a ConfigMap holds
    assert programs.pattern_digest(0) != programs.pattern_digest(1)
