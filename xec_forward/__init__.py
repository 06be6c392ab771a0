"""One notebook line opens a private service: SSH tunnels and Kubernetes port-forwards for Jupyter and IPython.

>>> import xec_forward as xf
>>> pg = xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=5432)  # doctest: +SKIP

Names are loaded when they are used: `import xec_forward` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .client.cluster import Cluster, k8s
    from .client.group import ForwardGroup
    from .client.registry import aclose_all, close_all, tunnels
    from .client.targets import Ssh, ssh
    from .client.tunnel import Tunnel
    from .dsn import ConnectionString
    from .errors import (
        AuthenticationError,
        BindPermissionError,
        ChangedHostKeyError,
        ClosedError,
        ConfigError,
        DeadlineError,
        EngineError,
        ForwardError,
        HostKeyError,
        LimitError,
        LostError,
        NameNotFoundError,
        PodGoneError,
        PortInUseError,
        ProhibitedError,
        RbacError,
        RefusedError,
        SpecError,
        UnknownHostKeyError,
        UnreachableError,
    )
    from .model import TunnelState

__version__ = "0.1.0"

__all__ = [
    "AuthenticationError",
    "BindPermissionError",
    "ChangedHostKeyError",
    "ClosedError",
    "Cluster",
    "ConfigError",
    "ConnectionString",
    "DeadlineError",
    "EngineError",
    "ForwardError",
    "ForwardGroup",
    "HostKeyError",
    "LimitError",
    "LostError",
    "NameNotFoundError",
    "PodGoneError",
    "PortInUseError",
    "ProhibitedError",
    "RbacError",
    "RefusedError",
    "SpecError",
    "Ssh",
    "Tunnel",
    "TunnelState",
    "UnknownHostKeyError",
    "UnreachableError",
    "__version__",
    "aclose_all",
    "close_all",
    "k8s",
    "load_ipython_extension",
    "ssh",
    "tunnels",
    "unload_ipython_extension",
]

# Where each name lives; the errors, which are not listed, live in `errors`.
_HOMES = {
    "Cluster": "client.cluster",
    "ConnectionString": "dsn",
    "ForwardGroup": "client.group",
    "Ssh": "client.targets",
    "Tunnel": "client.tunnel",
    "TunnelState": "model",
    "aclose_all": "client.registry",
    "close_all": "client.registry",
    "k8s": "client.cluster",
    "ssh": "client.targets",
    "tunnels": "client.registry",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext xec_forward`."""
    from .jupyter.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext xec_forward`: closes every tunnel and takes the magics away."""
    from .jupyter.extension import unload

    unload(shell)
