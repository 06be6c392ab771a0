"""The demo's services together: a bastion and a Kubernetes cluster, and a PostgreSQL that only these two can reach.

>>> with demo_services() as services:                   # doctest: +SKIP
...     subprocess.run(["ssh", "-F", services.ssh_config, ...])

The kernel that is to see them gets `services.env`: XEC_FORWARD_SSH_CONFIG leads to an ssh_config with
`Host bastion`, so that nobody's ~/.ssh is touched; KUBECONFIG to the cluster's; SALES_PASSWORD is the database's
password.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .lifeline import DemoError, ServiceProcess, remove_folder
from .pods import NAMES as PROGRAMS
from .postgres import ORDINARY_USER, SOCKET_NAME, reachable

USER = "ana"
DATABASE = "sales"
DATABASE_NAME = "pg.vpc:5432"
FORBIDDEN = ("ledger.vpc",)
NAMESPACE = "demo"  # of the shop's own pods; the database is in the context's, `default`
START_TIMEOUT = 60.0

# Arithmetic in the place of random(): the same thousand rows on every machine.
ORDERS = (
    """
    CREATE TABLE orders (
        id        integer PRIMARY KEY,
        placed_on date NOT NULL,
        region    text NOT NULL,
        amount    numeric(10, 2) NOT NULL
    )
    """,
    """
    INSERT INTO orders
    SELECT n,
           date '2026-01-01' + (n * 269 / 1000),
           (ARRAY['north', 'south', 'east', 'west'])[1 + (n * n + n / 7) % 4],
           20 + (n * 7919 % 48000) / 100.0
    FROM generate_series(1, 1000) AS n
    """,
    f"GRANT SELECT ON orders TO {USER}",
)


class DemoServices:
    """The services, started at once, ready after `wait_ready`, gone after `stop`.

    They end as well when the process that made them goes, whatever ended it.

    Args:
        routes: where else the bastion leads: a unix socket for each `name:port`.

    Attributes:
        folder: the client's files (0700): ssh_config, known_hosts, id_ed25519.
        ssh_config: the path of the configuration with `Host bastion`.
        kubeconfig: the path of the configuration with the context `demo`.
        database_folder: the database's own folder; only the bastion's owner can enter it.
        folders: all that are made, these two among them.
        env: what a kernel needs in its environment.
        port: the bastion's port on 127.0.0.1, 0 until it is ready.
        processes: name and process id of what runs, the database's server included once it is ready.
    """

    def __init__(self, routes: Mapping[str, str] = MappingProxyType({})) -> None:
        base, token = temporary_base(), secrets.token_hex(4)
        self.folder = base / f"xec-demo-{token}"
        self.database_folder = base / f"xec-demo-pg-{token}"
        cluster_folder = base / f"xec-demo-cluster-{token}"
        pods_folder = base / f"xec-demo-pods-{token}"
        self.folders = (self.folder, self.database_folder, cluster_folder, pods_folder)
        self.ssh_config = self.folder / "ssh_config"
        self.kubeconfig = cluster_folder / "kubeconfig"
        self.port = 0
        database_socket = str(self.database_folder / SOCKET_NAME)
        password = secrets.token_urlsafe(12)
        self.env = {
            "XEC_FORWARD_SSH_CONFIG": str(self.ssh_config),
            "KUBECONFIG": str(self.kubeconfig),
            "SALES_PASSWORD": password,
        }
        self._bastion = ServiceProcess(
            "the bastion",
            "xec_forward.demo.bastion",
            {
                "folder": str(self.folder),
                "user": USER,
                "routes": {DATABASE_NAME: database_socket, **routes},
                "forbidden": FORBIDDEN,
            },
        )
        self._database = ServiceProcess(
            "the database",
            "xec_forward.demo.postgres",
            {
                "folder": str(self.database_folder),
                "superuser_password": secrets.token_urlsafe(12),
                # token_urlsafe has no quote in it
                "statements": [f"CREATE ROLE {USER} LOGIN PASSWORD '{password}'"],
                "databases": {DATABASE: ORDERS},
            },
        )
        self._cluster = ServiceProcess(
            "the cluster",
            "xec_forward.demo.cluster",
            {"folder": str(cluster_folder), **cluster_contents(database_socket, password, pods_folder)},
        )
        self._pods = ServiceProcess("the cluster's pods", "xec_forward.demo.pods", {"folder": str(pods_folder)})
        self._processes = (self._pods, self._cluster, self._database, self._bastion)
        self.processes = {
            "bastion": self._bastion.pid,
            "cluster": self._cluster.pid,
            "the cluster's pods": self._pods.pid,
            "postgres watcher": self._database.pid,
        }

    def wait_ready(self, timeout: float = START_TIMEOUT) -> dict[str, float]:
        """Wait until all serve; the seconds each one took. Raises DemoError, and then stops them."""
        try:
            self._pods.ready(timeout)
            self._cluster.ready(timeout)
            self.port = int(self._bastion.ready(timeout)["port"])
            self.processes["postgres"] = int(self._database.ready(timeout)["pid"])
        except DemoError:
            self.stop()
            raise
        return {
            "bastion": self._bastion.seconds,
            "cluster": max(self._cluster.seconds, self._pods.seconds),
            "postgres": self._database.seconds,
        }

    def stop(self) -> None:
        """End them and remove their folders; at most some seconds. Idempotent."""
        for process in self._processes:
            process.release()
        for process in self._processes:
            process.stop()
        # Their own work; ours only where one of them was killed.
        for folder in self.folders:
            remove_folder(folder)


def cluster_contents(database_socket: str, password: str, pods: Path) -> dict[str, Any]:
    """What the cluster has, as its configuration says it: the database by a second way, and the shop's own pods.

    Args:
        database_socket: where the pod `postgres-0` leads.
        password: of USER; the Secret `postgres` holds it.
        pods: the folder of the sockets of `demo.pods`.
    """
    app, metrics, debugger = (str(pods / f"{name}.sock") for name in PROGRAMS)
    ports = {"http": 8080, "metrics": 9090}
    serves = {"8080": app, "9090": metrics}
    return {
        "workloads": [
            {
                "plural": "statefulsets",
                "name": "postgres",
                "ports": {"postgres": 5432},
                "serves": {"5432": database_socket},
            },
            {
                "plural": "deployments",
                "name": "api",
                "namespace": NAMESPACE,
                "pods": 2,
                "ports": ports,
                "serves": serves,
            },
        ],
        "pods": [
            {
                "name": "checkout",
                "namespace": NAMESPACE,
                "labels": {"app": "checkout"},
                "ports": {"debugpy": 5678, **ports},
                "serves": {"5678": debugger, **serves},
            }
        ],
        "services": [
            {"name": "postgres", "selector": {"app": "postgres"}, "ports": [{"port": 5432, "targetPort": "postgres"}]},
            {
                "name": "api",
                "namespace": NAMESPACE,
                "selector": {"app": "api"},
                "ports": [
                    {"name": "http", "port": 80, "targetPort": "http"},
                    {"name": "metrics", "port": 9090, "targetPort": "metrics"},
                ],
            },
        ],
        "secrets": [{"name": "postgres", "data": {"user": USER, "password": password}}],
    }


@contextmanager
def demo_services() -> Iterator[DemoServices]:
    """The services, ready. Raises DemoError."""
    services = DemoServices()
    try:
        services.wait_ready()
        yield services
    finally:
        services.stop()


def temporary_base() -> Path:
    """Where the folders go: the user's own choice, unless root's is one that the database's user cannot enter."""
    base = Path(tempfile.gettempdir()).resolve()
    # 104 bytes are all that a socket's path may have on macOS (sockaddr_un), 108 on Linux.
    too_long = len(os.fsencode(base)) > 60
    if too_long or (os.geteuid() == 0 and not reachable(base)):
        base = Path("/tmp").resolve()
        if not os.access(base, os.W_OK):
            raise DemoError(
                f"{tempfile.gettempdir()} cannot be used by {ORDINARY_USER}. Set TMPDIR to a folder of all users"
            )
    return base
