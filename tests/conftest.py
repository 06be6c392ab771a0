"""Fixtures shared by all tests: one real peer each. A missing component skips by name; with CI=true that fails."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.peers.figures import SAID
from tests.peers.postgres import Postgres, postgres_server
from tests.peers.postgres import missing as postgres_missing
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from tests.peers.sshd import missing as sshd_missing

if TYPE_CHECKING:
    from xec_forward.demo.cluster import Cluster


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs the tests in the background has them ignore SIGINT, nohup SIGHUP, and with them every program
    # that they start.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(Workers())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of several tells its figures to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = SAID


class Workers:
    """The other end of that; only where pytest-xdist, whose hook it is, runs."""

    def pytest_testnodedown(self, node: Any) -> None:
        SAID.extend(getattr(node, "workeroutput", {}).get("faults", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of the tables of faults."""
    if SAID:
        terminalreporter.section("faults")
        for line in SAID:
            terminalreporter.write_line(line)


# How long an example takes on a shared machine says nothing of the property.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI=true every component is there, or CI is broken."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{item.nodeid}: skipped under CI=true: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips as a whole."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped under CI=true: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Far services that behave in each way a service can; they listen on 127.0.0.1."""
    with Services() as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL on TCP, whose role's password is checked."""
    if missing := postgres_missing():
        pytest.skip(missing)
    with postgres_server(tcp=True) as running:
        yield running


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A Kubernetes API server without any pod yet, with a kubeconfig of its own."""
    from xec_forward.demo.cluster import Cluster  # aiohttp takes a moment, and most tests need none of it

    with Cluster() as running:
        yield running


@pytest.fixture
def bastion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A real OpenSSH sshd, reached as `bastion` by the ssh_config that our own variable names."""
    if missing := sshd_missing():
        pytest.skip(missing)
    folder = tmp_path / "bastion"
    folder.mkdir()
    with Sshd(folder) as running:
        monkeypatch.setenv("XEC_FORWARD_SSH_CONFIG", str(running.write_config(tmp_path / "ssh_config")))
        yield running


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has its own state folder, no agent of the developer's, and leaves no tunnel open."""
    monkeypatch.setenv("XEC_FORWARD_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield
    if "xec_forward.client.session" in sys.modules:
        sys.modules["xec_forward.client.session"].current().stop()
