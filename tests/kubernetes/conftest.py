"""The fixture `peer`: the embedded API server, or with `--kubeconfig FILE` a namespace of a real cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xec_forward.demo.cluster import Cluster

from .peer import EmbeddedPeer, Peer, Programs
from .real import RealPeer


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """What runs in the embedded server's pods."""
    with Programs() as running:
        yield running


@pytest.fixture
def embedded(cluster: Cluster, programs: Programs) -> EmbeddedPeer:
    """The embedded API server, for what a real one cannot be made to do."""
    return EmbeddedPeer(cluster, programs.serves)


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """The cluster that was asked for, with an empty namespace."""
    kubeconfig = request.config.getoption("--kubeconfig")
    if kubeconfig is None:
        yield request.getfixturevalue("embedded")
        return
    with RealPeer(Path(kubeconfig), request.config.getoption("--kube-image")) as real:
        yield real
