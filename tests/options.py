"""The options of our tests. pyproject.toml names this plugin, so that pytest knows them before it looks for tests:

an option that only a conftest.py knows has its value taken for a path to collect.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The cluster that tests/kubernetes runs against."""
    group = parser.getgroup("kubernetes")
    group.addoption("--kubeconfig", metavar="FILE", help="run tests/kubernetes against the current context of FILE")
    group.addoption(
        "--kube-image", metavar="IMAGE", default="python:3.13-alpine", help="the image of its pods; has python3"
    )
