"""`%k8s_forward` in a real kernel, against the embedded API server and the services behind its pods."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import kernel as peer
from tests.peers.kernel import Kernel, Result
from tests.peers.ports import free_port, port_free
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd
from xec_forward.demo.cluster import Cluster, Context


@pytest.fixture
def kernel(tmp_path: Path, cluster: Cluster) -> Iterator[Kernel]:
    """A kernel that has run `%load_ext xec_forward`; its $KUBECONFIG is the cluster's, context demo."""
    if missing := peer.missing():
        pytest.skip(missing)
    folder = tmp_path / "kernel"
    folder.mkdir()
    env = {"KUBECONFIG": str(cluster.kubeconfig), "XEC_FORWARD_STATE": os.environ["XEC_FORWARD_STATE"]}
    with Kernel(folder, env, "%load_ext xec_forward") as running:
        yield running


@pytest.fixture
def api(cluster: Cluster, services: Services) -> Cluster:
    """The cluster with a Deployment `api` behind a Service `api`."""
    ports = {"debug": 9229, "echo": 7000}
    serves = {9229: ("127.0.0.1", services.echo), 7000: ("127.0.0.1", services.echo)}
    cluster.add_deployment("api", ports=ports, serves=serves)
    echo: dict[str, int | str] = {"name": "echo", "port": 70, "targetPort": "echo"}
    cluster.add_service("api", selector={"app": "api"}, ports=[{"name": "debug", "port": 9229}, echo])
    return cluster


def _cards(result: Result) -> list[str]:
    return result.ok().displays[-1].text.splitlines()


def _refused(result: Result) -> str:
    assert result.error is not None
    assert "\n" not in result.error.value
    return result.error.value


def _round_trip(port: int, data: bytes = b"ping") -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        assert client.recv(len(data), socket.MSG_WAITALL) == data


# What asks no cluster


def test_malformed_line_is_one_line_and_asks_nobody(kernel: Kernel, cluster: Cluster) -> None:
    for line, said in (
        ("svc/api", "ESPEC svc/api: a PORT is missing"),
        ("svc/api 1:2:3", "ESPEC '1:2:3' is no PORT. Write 5432"),
        ("svc/api 80 -i key", "ESPEC -i belongs to %forward"),
        ("svc/api 80 --password hunter2", "ESPEC --password takes the place a secret comes from"),
        ("-n prod", "ESPEC RESOURCE is missing"),
    ):
        refused = kernel.run(f"%k8s_forward {line}")
        assert _refused(refused).startswith(said)
        assert "hunter2" not in refused.text
    assert _refused(kernel.run("%%k8s_forward -n prod\nsvc/a 80\nsvc/b")).startswith("ESPEC line 3: svc/b: a PORT")
    assert _refused(kernel.run("%forward bastion 80 -n prod")).startswith("ESPEC -n belongs to %k8s_forward")
    assert cluster.requests == []


def test_dry_run_says_what_would_be_opened_and_asks_nobody(kernel: Kernel, cluster: Cluster) -> None:
    port = free_port()
    done = kernel.run(f"%k8s_forward svc/api {port}:80 http -n prod --context demo --dry-run")
    assert _cards(done) == [
        f"api_80  would be opened  127.0.0.1:{port} -> demo -> svc/api:80",
        "  in the namespace prod",
        "api_http  would be opened  127.0.0.1:0 (or any free port) -> demo -> svc/api:http",
        "  in the namespace prod",
    ]
    assert cluster.requests == []
    assert kernel.value("'api_80' in globals()") is False


def test_help_and_docstring_tell_the_forms(kernel: Kernel) -> None:
    assert kernel.run("%k8s_forward --help").ok().stdout.startswith("%k8s_forward [OPTIONS] RESOURCE PORT")
    assert "RESOURCE PORT" in kernel.value("get_ipython().find_line_magic('k8s_forward').__doc__")
    kernel.run("%unload_ext xec_forward").ok()
    assert kernel.value("get_ipython().find_line_magic('k8s_forward') is None") is True


# Through the cluster


def test_service_by_number_and_by_name_reaches_its_pod(kernel: Kernel, api: Cluster) -> None:
    port = free_port()
    head = _cards(kernel.run(f"%k8s_forward svc/api {port}:70 --no-check"))[0]
    assert head.startswith(f"api  ready  127.0.0.1:{port} -> demo -> svc/api:70  ")
    _round_trip(port)
    assert kernel.value("(api.local_port, api.remote_host, api.remote_port)") == (port, "svc/api", 70)
    kernel.run("%k8s_forward svc/api :debug --as d --no-check").ok()
    _round_trip(kernel.value("d.local_port"))
    kernel.run("%k8s_forward --close d").ok()
    assert kernel.value("'d' in globals()") is False


def test_same_line_leads_where_the_kubeconfig_says_now(kernel: Kernel, api: Cluster, services: Services) -> None:
    contexts = (Context(name="demo"), Context(name="sales", namespace="sales"))
    api.add_deployment("api", namespace="sales", ports={"echo": 7000}, serves={7000: ("127.0.0.1", services.echo)})
    line = "%k8s_forward deploy/api :7000 --no-check"
    api.write_kubeconfig(api.kubeconfig, *contexts)
    first = _cards(kernel.run(line))[0]
    assert " -> demo -> " in first
    api.write_kubeconfig(api.kubeconfig, *contexts)  # other tokens, and the same place
    assert "reused" in _cards(kernel.run(line))[0]
    api.write_kubeconfig(api.kubeconfig, *contexts, current="sales")
    second = _cards(kernel.run(line))[0]
    assert " -> sales -> " in second
    assert "reused" not in second
    assert kernel.value("[t.snapshot.namespace for t in __import__('xec_forward').tunnels.values()]") == ["sales"]
    _round_trip(kernel.value("api.local_port"))


def test_several_ports_of_one_resource_are_a_group_served_by_one_pod(kernel: Kernel, api: Cluster) -> None:
    api.add_pod("api-other", labels={"app": "api"}, ports={"debug": 9229, "echo": 7000})
    local = free_port()
    kernel.run(f"g = %k8s_forward deploy/api {local}:9229 metrics=echo --no-check --as debugged").ok()
    assert kernel.value("list(g)") == ["api", "metrics"]
    assert kernel.value(f"g[9229] is g[{local}] is api") is True
    assert kernel.value("g['metrics'] is g['echo'] is metrics and debugged is g") is True
    pods = kernel.value("[[note for note in t.snapshot.notes if 'pod/' in note] for t in g.values()]")
    assert len({str(note).split(":")[0] for notes in pods for note in notes}) == 1
    kernel.run("%k8s_forward --close debugged").ok()
    assert port_free(local)


@pytest.mark.parametrize("resource", ["deploy/api", "-l app=api", "svc/api"])
def test_cells_lines_open_side_by_side_and_a_bad_one_touches_no_other(
    kernel: Kernel, api: Cluster, resource: str
) -> None:
    done = kernel.run(f"%%k8s_forward --no-check\n{resource} e=:9229   # one\n\nsvc/missing 80 --timeout 5")
    heads = [line for line in _cards(done) if not line.startswith("  ")]
    assert heads[0].startswith("e  ready  127.0.0.1:")
    assert heads[1].startswith("missing  failed")
    assert "ENOTFOUND" in done.text
    _round_trip(kernel.value("e.local_port"))


def test_same_line_is_reused_and_a_changed_one_replaces(kernel: Kernel, api: Cluster) -> None:
    kernel.run("%k8s_forward svc/api :9229 --no-check").ok()
    port = kernel.value("api.local_port")
    assert "reused, up" in _cards(kernel.run("%k8s_forward svc/api :9229 --no-check"))[0]
    kernel.run("%k8s_forward svc/api :9229 --no-check --hold 5").ok()
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 1
    # Another namespace is another far end: the name is not taken over.
    api.add_deployment("api", namespace="other", serves={9229: ("127.0.0.1", port)})
    kernel.run("%k8s_forward deploy/api :9229 --no-check -n other").ok()
    assert kernel.value("sorted(t.name for t in __import__('xec_forward').tunnels.values())") == ["api", "api_2"]


def test_table_lists_tunnels_of_both_magics(kernel: Kernel, api: Cluster) -> None:
    kernel.run("%k8s_forward svc/api :9229 --no-check").ok()
    assert "demo -> svc/api:9229" in kernel.run("%forward").ok().displays[-1].text
    assert "demo -> svc/api:9229" in kernel.run("%k8s_forward").ok().displays[-1].text


def test_cluster_made_in_python_is_used_as_it_is(kernel: Kernel, api: Cluster) -> None:
    kernel.run("import xec_forward as xf\nhere = xf.k8s(context='demo', namespace='default')").ok()
    kernel.run("%k8s_forward $here svc/api :9229 --no-check").ok()
    _round_trip(kernel.value("api.local_port"))
    assert "xf.k8s" in _refused(kernel.run("%k8s_forward $here svc/api :9229 -n x"))


def test_password_is_read_from_a_secret_and_anew_for_each_connection(
    kernel: Kernel, cluster: Cluster, postgres: Postgres
) -> None:
    cluster.add_statefulset("postgres", serves={5432: ("127.0.0.1", postgres.port)})
    cluster.add_service("postgres", selector={"app": "postgres"}, ports=[5432])
    cluster.add_secret("postgres", {"password": postgres.password.encode()})
    dsn = f"postgresql://{postgres.user}@/{postgres.database}"
    line = f"%k8s_forward svc/postgres :5432 --dsn {dsn} --password secret:postgres/password"
    done = kernel.run(line)
    assert _cards(done)[0].endswith("postgresql ok)")
    assert postgres.password not in done.text
    query = "import psycopg\nprint(psycopg.connect(postgres_dsn).execute('select 6 * 7').fetchone())"
    assert kernel.run(query).ok().stdout == "(42,)\n"
    kernel.run("engine = postgres.engine()\none = engine.connect()").ok()
    cluster.add_secret("postgres", {"password": b"rotated"})
    refused = kernel.run("two = engine.connect()")
    assert refused.error is not None
    assert "rotated" not in refused.text
    cluster.add_secret("postgres", {"password": postgres.password.encode()})
    assert kernel.run("print(engine.connect().exec_driver_sql('select 6 * 7').scalar())").ok().stdout == "42\n"
    kernel.run("one.close(); engine.dispose()").ok()
    missing = _refused(kernel.run(f"{line.replace('postgres/password', 'postgres/nothing')} --as other"))
    assert "nothing" in missing


def test_missing_service_is_one_line_with_what_to_do(kernel: Kernel, api: Cluster) -> None:
    assert _refused(kernel.run("%k8s_forward svc/ap 80 --timeout 5")).startswith("ENOTFOUND ")
    assert _refused(kernel.run("%k8s_forward svc/api 81 --timeout 5")).startswith("E")
    assert _refused(kernel.run("%k8s_forward svc/api 80 --context nowhere")).startswith("ECONFIG ")


def test_pod_that_is_not_ready_is_waited_for_in_sight_and_named_when_time_is_up(
    kernel: Kernel, cluster: Cluster, services: Services
) -> None:
    pod = cluster.add_pod("late", ports={"debug": 9229}, serves={9229: ("127.0.0.1", services.echo)}, ready=False)
    refused = _refused(kernel.run("%k8s_forward pod/late :9229 --no-check --timeout 1.5"))
    assert refused.startswith("ETIMEDOUT ")
    assert "not ready within 1.5 s: pod/late is Running but not ready" in refused
    assert "describe pod late" in refused
    assert kernel.value("'late' in globals()") is False
    running = kernel.start("%k8s_forward pod/late :9229 --no-check")
    running.until(lambda result: any("pod/late is Running but not ready" in shown.text for shown in result.displays))
    pod.set_ready(True)
    assert "  ready  127.0.0.1:" in _cards(running.wait())[0]
    _round_trip(kernel.value("late.local_port"))


def test_cluster_behind_a_bastion_is_reached_through_it(bastion: Sshd, kernel: Kernel, api: Cluster) -> None:
    card = _cards(kernel.run("%k8s_forward svc/api :9229 --no-check -J bastion"))[0]
    assert " -> bastion -> demo -> svc/api:9229" in card
    assert bastion.connections() == 1
    _round_trip(kernel.value("api.local_port"))


def test_kubeconfig_that_the_kernel_sets_later_is_the_one_that_counts(kernel: Kernel, api: Cluster) -> None:
    kernel.run("import os; os.environ['KUBECONFIG'] = 'nothing-here'").ok()
    assert "nothing-here" in _refused(kernel.run("%k8s_forward svc/api :9229"))
    kernel.run(f"os.environ['KUBECONFIG'] = 'nothing-here' + os.pathsep + {str(api.kubeconfig)!r}").ok()
    kernel.run("%k8s_forward svc/api :9229 --no-check").ok()
    _round_trip(kernel.value("api.local_port"))
