"""The control surface: a cluster in a thread of its own, steered by plain calls from any other.

>>> with Cluster() as cluster:                                             # doctest: +SKIP
...     cluster.add_pod("web-1", labels={"app": "web"}, ports={"http": 8080}, serves={8080: ("127.0.0.1", 9999)})
...     cluster.add_service("web", selector={"app": "web"}, ports=[{"name": "web", "port": 80, "targetPort": "http"}])
...     subprocess.run(["kubectl", "--kubeconfig", cluster.kubeconfig, "get", "pods"])
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import uvloop

from ..lifeline import remove_folder
from . import kubeconfig, objects
from .access import ANY, Denial
from .certificates import Authority
from .containerd import Address, Timing
from .counts import Count
from .handles import Pod, WorkloadHandle
from .kubeconfig import Context
from .objects import ContainerPorts, ServicePorts, Template
from .server import Server, State

Result = TypeVar("Result")

_LOOK = 0.05  # seconds between two looks of `wait`, where no object changes
_CALL = 10.0  # seconds that a call into the cluster's thread may take


class Cluster:
    """An API server with pods behind it: used as a context, it serves on 127.0.0.1 until the end.

    Args:
        version: of the server. Up to "1.30" it has no tunnel; below "1.35" a WebSocket needs no `create`.
        folder: where the kubeconfig goes; a temporary one, removed at the end, unless said.

    Attributes:
        folder: private to the owner.
        kubeconfig: the file, with one context `demo`, namespace `default`, and a token of the user `admin`.
        token: that token.
        server: the URL.
        authority: the certificate (PEM) that the server's is signed with.
        state: the cluster itself, for the cluster's own thread: see `call`.
    """

    def __init__(self, version: str = "1.36", folder: Path | None = None) -> None:
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="xec-cluster-"))
        self.kubeconfig = self.folder / "kubeconfig"
        self._authority = Authority()
        self.authority = self._authority.pem
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)
        self._thread.start()
        try:
            self.state = self.call(lambda: State(version))
            self.token = self.new_token("admin")
            self._server = Server(self.state, self._tls())
            self.start_server()
            self.write_kubeconfig(self.kubeconfig, Context(auth={"token": self.token}))
        except BaseException:
            self.close()
            raise

    # The server

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self._server.port}"

    @property
    def protocols(self) -> set[str]:
        """The ways of port-forward that are offered: of `spdy-tunnel`, `v4`, `spdy-raw`. May be set."""
        return self.state.protocols

    @protocols.setter
    def protocols(self, protocols: set[str]) -> None:
        self.state.protocols = set(protocols)

    @property
    def timing(self) -> Timing:
        """How long things take, in seconds; its fields may be set."""
        return self.state.timing

    @property
    def upgrades(self) -> Count:
        """Port-forward requests that were upgraded."""
        return self.state.upgrades

    @property
    def upgraded(self) -> list[str]:
        """The protocol of each upgrade, in order."""
        return list(self.state.upgraded)

    @property
    def streams(self) -> Count:
        """Connections over the upgrades."""
        return self.state.streams

    @property
    def requests(self) -> list[str]:
        """Method and path of each request, in order: `GET /api/v1/namespaces`."""
        return list(self.state.requests)

    def stop_server(self) -> None:
        """The API server dies: nobody listens, every connection is cut. The cluster behind it goes on."""
        self._await(self._server.stop)

    def start_server(self) -> None:
        """It is back, on the same port."""
        self._await(self._server.start)

    def be_busy(self, *statuses: int) -> None:
        """Answer the next requests with these, 429 or 500, and `Retry-After: 1`."""
        self.call(lambda: self.state.busy.extend(statuses))

    def trouble(self, end: str, status: int = 0, text: str = "") -> None:
        """Answer requests for paths that end so with a status and a plain text, as a node or a server in trouble does.

        Status 0: no more.
        """
        if status:
            self.call(lambda: self.state.troubles.update({end: (status, text)}))
        else:
            self.call(lambda: self.state.troubles.pop(end, None))

    def change_service(self, name: str, *, namespace: str = "default", **spec: Any) -> None:
        """Change fields of a Service's spec, which the API spells so: `selector={"app": "green"}`."""
        self.call(lambda: self.state.controller.change_service(name, namespace, spec))

    def forget(self) -> None:
        """Compact the log of changes: a watch from an earlier resourceVersion gets 410."""
        self.call(self.state.store.forget)

    # Objects

    def add_namespace(self, name: str) -> None:
        """Add a namespace; those of other objects come by themselves."""
        self.call(lambda: self.state.controller.add_namespace(name))

    def add_pod(
        self,
        name: str,
        *,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        ports: ContainerPorts | None = None,
        serves: Mapping[int, Address] | None = None,
        ready: bool = True,
    ) -> Pod:
        """Add a pod that runs.

        Args:
            ports: named container ports; `(5353, "UDP")` where it is not TCP.
            serves: the real address behind each port; nothing listens on the others.
        """
        template = Template(labels or {}, ports or {}, serves or {})
        return Pod(self, self.call(lambda: self.state.controller.add_pod(name, namespace, template, ready=ready)))

    def add_deployment(self, name: str, **options: Any) -> WorkloadHandle:
        """Add a Deployment with its ReplicaSet and pods. For the options see `add_workload`."""
        return self.add_workload("deployments", name, **options)

    def add_statefulset(self, name: str, **options: Any) -> WorkloadHandle:
        """Add a StatefulSet; its pods are NAME-0, NAME-1 and so on."""
        return self.add_workload("statefulsets", name, **options)

    def add_replicaset(self, name: str, **options: Any) -> WorkloadHandle:
        """Add a ReplicaSet that no Deployment owns."""
        return self.add_workload("replicasets", name, **options)

    def add_daemonset(self, name: str, **options: Any) -> WorkloadHandle:
        """Add a DaemonSet."""
        return self.add_workload("daemonsets", name, **options)

    def add_job(self, name: str, **options: Any) -> WorkloadHandle:
        """Add a Job whose pods run."""
        return self.add_workload("jobs", name, **options)

    def add_workload(
        self,
        plural: str,
        name: str,
        *,
        namespace: str = "default",
        pods: int = 1,
        labels: Mapping[str, str] | None = None,
        ports: ContainerPorts | None = None,
        serves: Mapping[int, Address] | None = None,
    ) -> WorkloadHandle:
        """Add a workload with so many ready pods; their labels are `app: NAME` unless said."""
        template = Template(labels or {"app": name}, ports or {}, serves or {})
        controller = self.state.controller
        return WorkloadHandle(self, self.call(lambda: controller.add_workload(plural, name, namespace, pods, template)))

    def add_service(
        self,
        name: str,
        *,
        namespace: str = "default",
        selector: Mapping[str, str] | None = None,
        ports: ServicePorts,
        headless: bool = False,
    ) -> None:
        """Add a Service.

        Args:
            ports: numbers, or the API's own fields: `{"name": "web", "port": 80, "targetPort": "http"}`.
        """
        controller = self.state.controller
        self.call(lambda: controller.add_service(name, namespace, selector, ports, headless=headless))

    def add_endpoint_slice(
        self, service: str, *, namespace: str = "default", pods: Sequence[str] = (), addresses: Sequence[str] = ()
    ) -> None:
        """Add a slice by hand, as is done for a Service without a selector."""
        self.call(lambda: self.state.controller.add_endpoint_slice(service, namespace, pods, addresses))

    def add_secret(self, name: str, data: Mapping[str, bytes], *, namespace: str = "default") -> None:
        """Add a Secret, or replace it."""
        self.call(lambda: self.state.store.add("secrets", objects.secret(name, namespace, data)))

    # Users

    def new_token(self, user: str) -> str:
        """A token that stands for a user, who may do all that is not denied."""
        return self.call(lambda: self.state.access.new_token(user))

    def expire_token(self, token: str) -> None:
        """It is refused from now on."""
        self.call(lambda: self.state.access.tokens.pop(token, None))

    def deny(self, verb: str, resource: str, *, namespace: str = ANY, user: str = ANY) -> None:
        """Refuse a verb ("*": every) on a resource: `deny("create", "pods/portforward")`."""
        self.call(lambda: self.state.access.denials.add(Denial(verb, resource, namespace, user)))

    def allow(self, verb: str, resource: str, *, namespace: str = ANY, user: str = ANY) -> None:
        """Take back a denial of the same words."""
        self.call(lambda: self.state.access.denials.discard(Denial(verb, resource, namespace, user)))

    def write_kubeconfig(self, path: Path, *contexts: Context, current: str | None = None) -> Path:
        """Write a kubeconfig (0600) with these contexts; the current one is the first unless said ("": none).

        Each context with `auth="token"` gets a token of its own.
        """
        entries = [(context, self._user_entry(context, path)) for context in contexts or (Context(),)]
        kubeconfig.write(path, kubeconfig.document(entries, self.server, self.authority, current))
        return path

    def _user_entry(self, context: Context, path: Path) -> Mapping[str, Any]:
        match context.auth:
            case "token":
                return {"token": self.new_token(context.user)}
            case "token-file":
                file = path.with_name(f"{path.name}.{context.name}.token")
                kubeconfig.write_private(file, self.new_token(context.user))
                return {"tokenFile": str(file)}
            case "certificate":
                certificate, key = self._authority.client(context.user)
                return {
                    "client-certificate-data": kubeconfig.encoded(certificate),
                    "client-key-data": kubeconfig.encoded(key),
                }
            case "none":
                return {}
            case str(word):
                raise ValueError(f"{word!r} is no kind of credentials")
            case entry:
                return entry

    # The thread

    def call(self, act: Callable[[], Result]) -> Result:
        """Do something in the cluster's thread; its result, or what it raised."""

        async def carry() -> Result:
            return act()

        return self._await(carry)

    def wait(self, holds: Callable[[], bool], timeout: float) -> None:
        """Wait until something holds, looked at in the cluster's thread every few moments. Raises TimeoutError."""

        async def carry() -> None:
            async with asyncio.timeout(timeout):
                while not holds():
                    await self.state.store.changed(_LOOK)

        self._await(carry, timeout + _CALL)

    def close(self) -> None:
        """End the server and its thread, and remove the folder. Idempotent."""
        if self._loop.is_closed():
            return
        if hasattr(self, "_server"):
            self.stop_server()
            self.call(self.state.controller.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL)
        self._loop.close()
        if self._own_folder:
            remove_folder(self.folder)

    def _await(self, act: Callable[[], Awaitable[Result]], timeout: float = _CALL) -> Result:
        async def carry() -> Result:
            return await act()

        return asyncio.run_coroutine_threadsafe(carry(), self._loop).result(timeout)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = self._authority.server(("127.0.0.1", "localhost", "kubernetes"))
        pair = self.folder / "server.pem"
        kubeconfig.write_private(pair, (certificate + key).decode())
        context.load_cert_chain(pair)
        pair.unlink()
        # A client's certificate is welcome and not required: most have a token.
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.authority.decode())
        return context

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
