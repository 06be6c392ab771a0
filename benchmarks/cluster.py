"""Clusters to measure on, and the port-forwards that are measured: ours, kubectl's, those of kr8s and portforward."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kubernetes.real import RESTRICTED_CONTAINER, RESTRICTED_POD
from tests.peers.cluster import kubectl_missing, kubectl_path
from xec_forward.demo.lifeline import ServiceProcess

HERE = Path(__file__).parent
POD = "bench"
# Those of the pod, in the order of `pod.SERVICES`.
ECHO, SOURCE, SINK = PORTS = (7000, 7001, 7002)
IMAGE = "python:3.13-alpine"
KR8S, PORTFORWARD = "kr8s", "portforward"


@dataclass(frozen=True)
class Place:
    """A pod that serves `PORTS`.

    Attributes:
        kubeconfig: leads to its cluster.
        namespace: the pod's.
        server: the API server's process id; 0 where it is not ours.
    """

    kubeconfig: Path
    namespace: str
    server: int = 0


@dataclass(frozen=True)
class Forwards:
    """Port-forwards to a pod's ports, and the process that carries them.

    Attributes:
        name: whose they are.
        local: the local port of each of the pod's.
        pid: the process.
    """

    name: str
    local: dict[int, int]
    pid: int


@contextlib.contextmanager
def embedded() -> Iterator[Place]:
    """A fresh API server of our own in a process of its own, and what its pod serves in another."""
    with tempfile.TemporaryDirectory(prefix="xec-bench-") as name, _reporting([sys.executable, HERE / "pod.py"]) as far:
        real = json.loads(_line(far))
        serves = {str(port): ["127.0.0.1", real[name]] for port, name in zip(PORTS, real, strict=True)}
        pod = {"name": POD, "ports": dict(zip(real, PORTS, strict=True)), "serves": serves}
        config = {"folder": str(Path(name) / "cluster"), "pods": [pod]}
        process = ServiceProcess("cluster", "xec_forward.demo.cluster", config)
        try:
            report = process.ready(20)
            yield Place(Path(report["kubeconfig"]), "default", report["pid"])
        finally:
            process.stop()


@contextlib.contextmanager
def real(kubeconfig: Path, image: str = IMAGE) -> Iterator[Place]:
    """A pod of our own in a real cluster, in a namespace that is removed at the end.

    Args:
        image: has `python3`.
    """
    namespace = f"xec-bench-{secrets.token_hex(3)}"

    def kubectl(*words: str, objects: Sequence[object] = ()) -> None:
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        subprocess.run(
            [kubectl_path(), "--kubeconfig", kubeconfig, *words],
            input=listed,
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=180,
        )

    connects = f"import socket; socket.create_connection(('127.0.0.1', {ECHO}))"
    container = {
        "name": "bench",
        "image": image,
        "command": ["python3", "/bench/pod.py", *map(str, PORTS)],
        "stdin": True,
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": "bench", "mountPath": "/bench"}],
        "readinessProbe": {"exec": {"command": ["python3", "-c", connects]}, "periodSeconds": 1},
    }
    volume = {"name": "bench", "configMap": {"name": "bench"}}
    metadata = {"name": POD, "namespace": namespace}
    code = {"pod.py": (HERE / "pod.py").read_text()}
    kubectl("create", "namespace", namespace)
    try:
        # Pods are refused until the controller has made it.
        kubectl("-n", namespace, "wait", "--for=create", "--timeout=60s", "serviceaccount/default")
        kubectl(
            *("create", "-f", "-"),
            objects=[
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": code},
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": metadata,
                    "spec": {
                        "automountServiceAccountToken": False,
                        "terminationGracePeriodSeconds": 1,
                        "securityContext": RESTRICTED_POD,
                        "containers": [container],
                        "volumes": [volume],
                    },
                },
            ],
        )
        kubectl("-n", namespace, "wait", "--for=condition=Ready", "--timeout=150s", f"pod/{POD}")
        yield Place(kubeconfig, namespace)
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


# The port-forwards


@contextlib.contextmanager
def ours(place: Place) -> Iterator[Forwards]:
    """By our engine."""
    import xec_forward as xf
    from xec_forward.client.session import current

    cluster = xf.k8s(kubeconfig=place.kubeconfig, namespace=place.namespace)
    ports = [{"remote_port": port, "local_port": 0, "name": f"bench_{port}"} for port in PORTS]
    with cluster.port_forward(pod=POD, forwards=ports, no_check=True) as group:
        local = dict(zip(PORTS, [tunnel.local_port for tunnel in group.values()], strict=True))
        yield Forwards("xec_forward", local, current().engine_pid)


@contextlib.contextmanager
def kubectl(place: Place) -> Iterator[Forwards]:
    """By `kubectl port-forward`."""
    words = ["--kubeconfig", place.kubeconfig, "-n", place.namespace, "port-forward", f"pod/{POD}"]
    with _reporting([kubectl_path(), *words, *(f":{port}" for port in PORTS)]) as process:
        local = {}
        while len(local) < len(PORTS):
            if found := re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)", _line(process)):
                local[int(found[2])] = int(found[1])
        yield Forwards("kubectl", local, process.pid)


@contextlib.contextmanager
def by_python(peer: str, python: str | Path, place: Place) -> Iterator[Forwards]:
    """By a package that `python` has."""
    arguments = [peer, place.kubeconfig, place.namespace, POD, *map(str, PORTS)]
    with _reporting([python, HERE / "python_peers.py", *arguments]) as process:
        yield Forwards(peer, dict(zip(PORTS, json.loads(_line(process)), strict=True)), process.pid)


def missing(python: str | Path) -> dict[str, str]:
    """The peers that cannot be measured, each with the way to get it."""
    found = {}
    if reason := kubectl_missing():
        found["kubectl"] = reason
    for peer in (KR8S, PORTFORWARD):
        if subprocess.run([python, "-c", f"import {peer}"], stderr=subprocess.DEVNULL, timeout=60).returncode:
            found[peer] = f"{peer} is missing: `make .venv/.peers`, or --peers PYTHON for one that has it"
    return found


@contextlib.contextmanager
def _reporting(command: Sequence[str | os.PathLike[str]]) -> Iterator[subprocess.Popen[str]]:
    """A process that reports on its output, and ends with its input or when it is told to."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} did not start")
    return line
