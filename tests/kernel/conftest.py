"""A kernel with the extension loaded, behind it a real sshd and a real PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import ipykernels
from tests.peers import kernel as peer
from tests.peers.kernel import Kernel
from tests.peers.postgres import Postgres
from tests.peers.sshd import Sshd


@pytest.fixture
def kernel(request: pytest.FixtureRequest, tmp_path: Path, bastion: Sshd, postgres: Postgres) -> Iterator[Kernel]:
    """A kernel that has run `%load_ext xec_forward`; its `bastion` is the fixture's, SALES_PASSWORD the database's.

    Which line of ipykernel it is, `ipykernels` has marks for.
    """
    if missing := peer.missing():
        pytest.skip(missing)
    folder = tmp_path / "kernel"
    folder.mkdir()
    env = {
        "XEC_FORWARD_SSH_CONFIG": os.environ["XEC_FORWARD_SSH_CONFIG"],
        "XEC_FORWARD_STATE": os.environ["XEC_FORWARD_STATE"],
        "SALES_PASSWORD": postgres.password,
    }
    with Kernel(folder, env | ipykernels.variables(request), "%load_ext xec_forward") as running:
        yield running
