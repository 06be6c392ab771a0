"""From the port a user writes to the number of a pod's port. Pure.

A service's PORT is its own port, by number or name, and leads to the targetPort; a targetPort that is a name is
looked up in the chosen pod, whose number for it may differ from its siblings' (Kubernetes API reference, ServicePort).
Everywhere else PORT is the pod's: a number as it is, or the name that one of its containers gives a port.

A headless service has no proxy that would map ports, as inside the cluster: a number is the pod's own, whatever the
targetPort says. A name leads where its SRV record does, to the targetPort ("DNS for Services and Pods").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ....errors import ConfigError
from ....spec import Endpoint, Resource
from .objects import EndpointSlice, Pod, Service, ServicePort


class PodPort(NamedTuple):
    """A port of a pod, and what to say of it: its name, or how it was found."""

    number: int
    note: str = ""


class Ports(Protocol):
    """How the ports of a resource are found."""

    def check(self, wanted: Endpoint) -> None:
        """Raises ConfigError where no pod can have that port."""

    def find(self, pod: Pod, wanted: Endpoint) -> PodPort:
        """The pod's port for the one that was written. Raises ConfigError, which names the ports there are."""


@dataclass(frozen=True, slots=True)
class PodPorts:
    """The port is the pod's own."""

    resource: Resource

    def check(self, wanted: Endpoint) -> None:
        pass  # which ports there are, only a pod can tell

    def find(self, pod: Pod, wanted: Endpoint) -> PodPort:
        if wanted.port_name:
            return PodPort(_named(pod, wanted.port_name, str(self.resource)), wanted.port_name)
        return PodPort(*_numbered(pod, wanted.port or 0, str(self.resource)))


@dataclass(frozen=True, slots=True)
class ServicePorts:
    """The port is the service's.

    Args:
        slices: for a service without a selector: its EndpointSlices, which then say where its ports lead.
    """

    service: Service
    slices: tuple[EndpointSlice, ...] = ()

    def check(self, wanted: Endpoint) -> None:
        if wanted.port_name or not self.service.headless:
            self._service_port(wanted)

    def find(self, pod: Pod, wanted: Endpoint) -> PodPort:
        if self.service.headless and not wanted.port_name:
            number, _ = _numbered(pod, wanted.port or 0, self._hop)
            return PodPort(number, "headless: the pod's own port")
        port = self._service_port(wanted)
        target = self._in_slice(pod, port) or port.target_port or port.port
        if isinstance(target, int):
            return PodPort(target, port.name)
        why = f"port {_written(wanted)} leads to targetPort {target}, and "
        return PodPort(_named(pod, target, self._hop, why), target)

    @property
    def _hop(self) -> str:
        return f"svc/{self.service.metadata.name}"

    def _service_port(self, wanted: Endpoint) -> ServicePort:
        ports = self.service.spec.ports or []
        found = [port for port in ports if wanted.port_name in ("", port.name) and wanted.port in (None, port.port)]
        for port in found:
            if port.protocol == "TCP":
                return port
        if found:
            raise _not_tcp(_written(wanted), found[0].protocol, self._hop)
        raise ConfigError(
            f"the service has no port {_written(wanted)}",
            hop=self._hop,
            hint=self._instead(wanted, [port for port in ports if port.protocol == "TCP"]),
        )

    def _instead(self, wanted: Endpoint, ports: list[ServicePort]) -> str:
        """The port that the user is likely to have meant, else all there are."""
        if not ports:
            return "It has no TCP port at all; name a pod or a deployment"
        for port in ports:
            if (wanted.port_name or wanted.port) == port.target_port:
                return f"Write {port.port}, the service's port that leads to {port.target_port}"
        return _these([(port.port, port.name) for port in ports])

    def _in_slice(self, pod: Pod, port: ServicePort) -> int | None:
        """Where the slice that names the pod leads the port; the two are matched by the port's name."""
        for each in self.slices:
            if pod.name in names_in((each,), pod.metadata.namespace):
                for found in each.ports or ():
                    if (found.name or "") == port.name:
                        return found.port
        return None


def names_in(slices: Iterable[EndpointSlice], namespace: str) -> set[str]:
    """The pods of a namespace that EndpointSlices name."""
    return {
        endpoint.target_ref.name
        for each in slices
        for endpoint in each.endpoints or ()
        if endpoint.target_ref is not None
        and endpoint.target_ref.kind == "Pod"
        and endpoint.target_ref.namespace in ("", namespace)
    }


def _numbered(pod: Pod, number: int, hop: str) -> tuple[int, str]:
    """A port that no container declares may be listened on all the same; one that is declared for UDP alone is not."""
    found = [port for port in pod.ports() if port.container_port == number]
    for port in found:
        if port.protocol == "TCP":
            return number, port.name
    if found:
        raise _not_tcp(str(number), found[0].protocol, hop)
    return number, ""


def _named(pod: Pod, name: str, hop: str, why: str = "") -> int:
    ports = pod.ports()
    found = [port for port in ports if port.name == name]
    for port in found:
        if port.protocol == "TCP":
            return port.container_port
    if found:
        raise _not_tcp(name, found[0].protocol, hop)
    known = [(port.container_port, port.name) for port in ports if port.protocol == "TCP"]
    raise ConfigError(
        f"{why}pod/{pod.name} has no port named {name}",
        hop=hop,
        hint=_these(known) if known else "Its containers declare no ports; write the port's number",
    )


def _written(wanted: Endpoint) -> str:
    return wanted.port_name or str(wanted.port)


def _these(ports: list[tuple[int, str]]) -> str:
    listed = ", ".join(f"{number} ({name})" if name else str(number) for number, name in ports)
    return f"Its ports are {listed}" if len(ports) > 1 else f"Its port is {listed}"


def _not_tcp(port: str, protocol: str, hop: str) -> ConfigError:
    return ConfigError(
        f"port {port} is {protocol}, and a Kubernetes port-forward carries TCP only",
        hop=hop,
        hint="Name a TCP port; for others run a proxy inside the cluster and forward to that",
    )
