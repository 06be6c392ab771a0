"""A Kubernetes API server with pods behind it, for the demo and the tests: as little of one as clients need.

What lives here:

    cluster.py, handles.py    the control surface: plain calls from any thread
    __main__.py       the same in a process of its own
    server.py         HTTPS: who asks, what for, and the answer
    answers.py, discovery.py    what it says
    portforward.py    which protocol an upgrade gets
    streams.py        SPDY/3.1, raw and tunnelled in a WebSocket
    channels.py       v4.channel.k8s.io
    websocket.py      messages
    containerd.py     the pod's side of a connection
    controller.py     pods come and go, services and workloads follow
    store.py, kinds.py, objects.py, selectors.py    the objects
    access.py, certificates.py, kubeconfig.py       users and their files
    counts.py         what a test may look at

It behaves as v1.36 with containerd 2.1 was recorded to, the flaws included, for they are what clients meet.
"""

from .cluster import Cluster
from .containerd import Timing
from .handles import Pod, WorkloadHandle
from .kubeconfig import Context

__all__ = ["Cluster", "Context", "Pod", "Timing", "WorkloadHandle"]
