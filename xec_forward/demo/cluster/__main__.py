"""A cluster in a process of its own: `python -m xec_forward.demo.cluster`, as a `lifeline.ServiceProcess` starts it.

For the demo, and where speed is measured: nothing is shared with the caller, not even the interpreter's lock.

Configuration: `folder`, where the kubeconfig goes; `version`; `pods` and `services`, lists of the keyword arguments
of `Cluster.add_pod` and `add_service`; `workloads`, those of `add_workload`; `secrets`, those of `add_secret` with
text for values. A pod's `serves` has its ports as text, as JSON wants it: `{"5432": ["127.0.0.1", 40001]}`, or the
path of a unix socket in the place of the pair.

It reports `kubeconfig`, `server` and `pid`, and ends when its stdin does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..lifeline import released, remove_folder, report, serve
from .cluster import Cluster

_LONG = 3600.0
_LARGE_BLOCK = 1 << 20


def fill(cluster: Cluster, config: Mapping[str, Any]) -> None:
    """Add what a configuration names (see the module's docstring)."""
    for pod in config.get("pods", ()):
        cluster.add_pod(**_with_ports(pod))
    for workload in config.get("workloads", ()):
        cluster.add_workload(**_with_ports(workload))
    for service in config.get("services", ()):
        cluster.add_service(**service)
    for secret in config.get("secrets", ()):
        cluster.add_secret(**secret | {"data": {key: text.encode() for key, text in secret["data"].items()}})


def _with_ports(options: dict[str, Any]) -> dict[str, Any]:
    serves = {
        int(port): where if isinstance(where, str) else (str(where[0]), int(where[1]))
        for port, where in options.get("serves", {}).items()
    }
    return {**options, "serves": serves}


def _keep_large_blocks() -> None:
    """Let malloc serve uvloop's reads of TLS, 256 KiB each, from its heap.

    glibc maps a block of that size anew each time until it has once freed a larger one (mallopt(3), M_MMAP_THRESHOLD):
    a read then costs as much as all that is done with it.
    """
    block = bytes(_LARGE_BLOCK)
    del block


def main(config: dict[str, Any]) -> None:
    """Serve until stdin ends."""
    os.umask(0o077)
    _keep_large_blocks()
    folder = Path(config["folder"])
    folder.mkdir(mode=0o700)
    try:
        with Cluster(config.get("version", "1.36"), folder) as cluster:
            fill(cluster, config)
            report({"kubeconfig": str(cluster.kubeconfig), "server": cluster.server, "pid": os.getpid()})
            while not released(_LONG):
                pass
    finally:
        remove_folder(folder)


if __name__ == "__main__":
    serve(main)
