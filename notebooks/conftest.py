"""The notebooks' tests run against the demo's services, which are up only while a notebook runs.

nbval's cells are no functions and take no fixtures; its kernel inherits this process's environment when the
notebook's first cell is set up. So the services start just before that, and stop after the last cell.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xec_forward.demo.lifeline import DemoError
from xec_forward.demo.office import Office, redis_server
from xec_forward.demo.run import kernel_environment
from xec_forward.demo.services import DemoServices, temporary_base

HERE = Path(__file__).parent


class _Surroundings:
    """The services, and the environment as it was before them."""

    def __init__(self) -> None:
        self._services: DemoServices | None = None
        self._office: Office | None = None
        self._before: dict[str, str] = {}

    def begin(self) -> None:
        if self._services is not None:
            return
        office = Office(temporary_base())
        services = DemoServices(office.routes)
        try:
            office.wait_ready()
            services.wait_ready()
        except DemoError as error:
            office.stop()
            services.stop()
            pytest.fail(f"the demo's services did not start: {error}")
        self._services, self._office = services, office
        self._before = dict(os.environ)
        environment = kernel_environment(services.env, services.folder)
        os.environ.clear()
        os.environ.update(environment)

    def end(self) -> None:
        if self._services is None:
            return
        os.environ.clear()
        os.environ.update(self._before)
        self._services.stop()
        if self._office is not None:
            self._office.stop()
        self._services = self._office = None


_surroundings = _Surroundings()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path.name == "development.ipynb" and not redis_server():
        pytest.skip("redis-server (Debian: redis-server)")
    _surroundings.begin()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or HERE not in nextitem.path.parents:
        _surroundings.end()


def pytest_unconfigure() -> None:
    _surroundings.end()
