"""From resources to pods, against an API server: waiting, watching, following, and what refusals say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from xec_forward.demo.cluster import Cluster
from xec_forward.engine.links.kubernetes.api import Api
from xec_forward.engine.links.kubernetes.follow import Follow
from xec_forward.engine.links.kubernetes.reasons import Reason
from xec_forward.engine.links.kubernetes.resolve import Choice, choose
from xec_forward.errors import ConfigError, NameNotFoundError, PodGoneError, RbacError
from xec_forward.options import ClusterTarget
from xec_forward.spec import Endpoint, Resource

T = TypeVar("T")


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    running = await Api.open(ClusterTarget(kubeconfig=str(cluster.kubeconfig)))
    yield running
    await running.close()
    left = [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()} if not task.done()]
    assert not [name for name in left if name.startswith("follow")], "nothing watches on"


async def within(seconds: float, wanted: Awaitable[T]) -> T:
    async with asyncio.timeout(seconds):
        return await wanted


class Told:
    """What `choose` waits for, as it says it."""

    def __init__(self) -> None:
        self._reasons: asyncio.Queue[Reason] = asyncio.Queue()

    def __call__(self, reason: Reason) -> None:
        self._reasons.put_nowait(reason)

    async def until(self, text: str) -> Reason:
        """The next that holds a text."""
        async with asyncio.timeout(10):
            while True:
                reason = await self._reasons.get()
                if text in reason.text:
                    return reason


@asynccontextmanager
async def choosing(api: Api, word: str, prefer: str = "") -> AsyncIterator[tuple[asyncio.Task[Choice], Told]]:
    """A `choose` that waits."""
    told = Told()
    task = asyncio.create_task(choose(api, Resource.of(word), prefer=prefer, waiting=told))
    try:
        yield task, told
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def following(api: Api, choice: Choice) -> AsyncIterator[tuple[Follow, asyncio.Future[str]]]:
    """A watch of the chosen pod, and the reason for its end."""
    going: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    follow = Follow(api, choice, going.set_result)  # a second call would be an error
    try:
        yield follow, going
    finally:
        follow.close()
        await within(5, follow.wait_closed())


async def holds(condition: Callable[[], bool]) -> None:
    """Wait until something holds that nobody tells of."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def watches(cluster: Cluster) -> int:
    return sum("watch=1" in request for request in cluster.requests)


# ---- choosing ----


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("deployments", "deploy/web"),
        ("statefulsets", "sts/web"),
        ("replicasets", "rs/web"),
        ("daemonsets", "ds/web"),
        ("jobs", "job/web"),
    ],
)
async def test_each_workload_leads_to_its_pod(cluster: Cluster, api: Api, kind: str, word: str) -> None:
    workload = cluster.add_workload(kind, "web", ports={"http": 8080})
    choice = await within(5, choose(api, Resource.of(word), [Endpoint(port_name="http")]))
    pod = workload.pods[0]
    assert (choice.pod, choice.uid, choice.namespace) == (pod.name, pod.uid, "default")
    assert choice.describe(Endpoint(port_name="http")) == f"pod/{pod.name}:8080 (http)"


async def test_several_ports_of_a_service_are_one_choice(cluster: Cluster, api: Api) -> None:
    cluster.add_deployment("web", pods=3, ports={"http": 8080, "admin": 9901})
    rows: list[int | Mapping[str, int | str]] = [
        {"name": "web", "port": 80, "targetPort": "http"},
        {"name": "admin", "port": 81, "targetPort": "admin"},
    ]
    cluster.add_service("web", selector={"app": "web"}, ports=rows)
    choice = await within(5, choose(api, Resource.of("svc/web")))
    assert [choice.port(Endpoint(port=80)), choice.port(Endpoint(port_name="admin"))] == [8080, 9901]
    again = await within(5, choose(api, Resource.of("svc/web"), prefer=choice.pod))
    assert again == choice


async def test_ready_pod_costs_two_requests_and_no_watch(cluster: Cluster, api: Api) -> None:
    cluster.add_deployment("web")
    await within(5, choose(api, Resource.of("deploy/web")))
    assert len(cluster.requests) == 2
    assert watches(cluster) == 0


async def test_slices_that_name_pods_do_for_a_service_without_selector(cluster: Cluster, api: Api) -> None:
    cluster.add_pod("pg-0", ports={"pg": 5432})
    cluster.add_service("pg", ports=[{"name": "pg", "port": 5432, "targetPort": "pg"}])
    with pytest.raises(ConfigError, match="no EndpointSlice of it names a pod"):
        await within(5, choose(api, Resource.of("svc/pg")))
    cluster.add_endpoint_slice("pg", pods=["pg-0"])
    choice = await within(5, choose(api, Resource.of("svc/pg")))
    assert choice.describe(Endpoint(port=5432)) == "pod/pg-0:5432 (pg)"


async def test_slices_that_change_while_their_pod_is_waited_for_are_read_anew(cluster: Cluster, api: Api) -> None:
    """As when somebody points them at another pod, because the first never becomes ready."""
    cluster.add_pod("pg-0", ports={"pg": 5432}, ready=False)
    cluster.add_pod("pg-1", ports={"pg": 5433})
    cluster.add_service("pg", ports=[{"name": "pg", "port": 5432, "targetPort": "pg"}])
    cluster.add_endpoint_slice("pg", pods=["pg-0"])
    (slice,) = cluster.call(lambda: cluster.state.store.of_kind("endpointslices", "default"))
    async with choosing(api, "svc/pg") as (task, told):
        await told.until("pg-0")
        cluster.call(lambda: cluster.state.store.delete("endpointslices", "default", slice["metadata"]["name"]))
        await told.until("no EndpointSlice of it names a pod")
        cluster.add_endpoint_slice("pg", pods=["pg-1"])
        choice = await within(5, task)
    assert choice.describe(Endpoint(port=5432)) == "pod/pg-1:5433 (pg)"
    await holds(lambda: not [one for one in asyncio.all_tasks() if one is not asyncio.current_task()])


# ---- waiting ----


@pytest.mark.parametrize("word", ["pod/web-1", "svc/web", "-l app=web"])
async def test_pod_is_waited_for_and_taken_when_it_is_ready(cluster: Cluster, api: Api, word: str) -> None:
    pod = cluster.add_pod("web-1", labels={"app": "web"}, ready=False)
    cluster.add_service("web", selector={"app": "web"}, ports=[80])
    async with choosing(api, word) as (task, told):
        await told.until("pod/web-1 is Running but not ready: containers with unready status: [c]")
        pod.waiting("ErrImagePull", "not found")
        reason = await told.until("pod/web-1: container c: ErrImagePull: not found")
        assert reason.hint == "Correct the image's name, or the secret it is pulled with"
        pod.pending("0/3 nodes are available: 3 Insufficient memory. preemption: no")
        await told.until("pod/web-1 is Pending: 0/3 nodes are available: 3 Insufficient memory")
        pod.set_ready(True)
        assert (await within(1, task)).uid == pod.uid


async def test_pods_that_come_later_are_found(cluster: Cluster, api: Api) -> None:
    cluster.add_service("web", selector={"app": "web"}, ports=[80])
    async with choosing(api, "svc/web") as (task, told):
        await told.until("no pod has the labels app=web")
        pod = cluster.add_pod("web-1", labels={"app": "web"})
        assert (await within(1, task)).pod == pod.name


async def test_pod_that_is_deleted_while_waited_for_ends_the_wait(cluster: Cluster, api: Api) -> None:
    pod = cluster.add_pod("web", ready=False)
    async with choosing(api, "pod/web") as (task, told):
        await told.until("not ready")
        pod.delete()
        with pytest.raises(PodGoneError, match="pod/web is being deleted"):
            await within(2, task)


async def test_statefulsets_pod_is_waited_for_through_its_replacement(cluster: Cluster, api: Api) -> None:
    workload = cluster.add_statefulset("pg")
    old = workload.pods[0]
    old.delete()
    async with choosing(api, "pod/pg-0", prefer="pg-0") as (task, told):
        await told.until("pod/pg-0 is being deleted")
        choice = await within(10, task)
    assert (choice.pod, choice.uid) == ("pg-0", workload.pods[0].uid)
    assert choice.uid != old.uid


async def test_wait_survives_a_restart_of_the_api_server(cluster: Cluster, api: Api) -> None:
    pod = cluster.add_pod("web", ready=False)
    async with choosing(api, "pod/web") as (task, told):
        await told.until("not ready")
        await holds(lambda: watches(cluster) == 1)
        cluster.stop_server()
        await told.until("listens")
        pod.set_ready(True)
        cluster.start_server()
        assert (await within(8, task)).uid == pod.uid


async def test_expired_watch_is_listed_anew(cluster: Cluster, api: Api) -> None:
    pod = cluster.add_pod("web", ready=False)
    async with choosing(api, "pod/web") as (task, told):
        await told.until("not ready")
        await holds(lambda: watches(cluster) == 1)
        cluster.stop_server()
        cluster.add_pod("other")
        cluster.forget()
        cluster.start_server()
        await holds(lambda: watches(cluster) == 2)
        pod.set_ready(True)
        assert (await within(5, task)).uid == pod.uid


@pytest.mark.parametrize("denied", [("watch",), ("watch", "list")])
async def test_pod_is_looked_at_again_where_watching_is_forbidden(
    cluster: Cluster, api: Api, denied: tuple[str, ...]
) -> None:
    for verb in denied:
        cluster.deny(verb, "pods")
    pod = cluster.add_pod("web", ready=False)
    async with choosing(api, "pod/web") as (task, told):
        await told.until("not ready")
        pod.set_ready(True)
        assert (await within(3, task)).uid == pod.uid


async def test_time_is_the_callers_and_the_last_reason_says_why(cluster: Cluster, api: Api) -> None:
    cluster.add_pod("web").pending("0/3 nodes are available")
    last = Reason("the API server has not answered")

    def tell(reason: Reason) -> None:
        nonlocal last
        last = reason

    with pytest.raises(TimeoutError):
        await within(0.5, choose(api, Resource.of("pod/web"), waiting=tell))
    assert str(last.late(0.5, "pod/web")) == (
        "ETIMEDOUT pod/web: no pod was ready within 0.5 s: pod/web is Pending: 0/3 nodes are available. "
        "Mend what keeps it off the nodes; kubectl -n default describe pod web shows its events"
    )


# ---- following ----


async def test_follow_tells_of_a_deletion_at_once_and_the_next_choice_is_the_replacement(
    cluster: Cluster, api: Api
) -> None:
    workload = cluster.add_deployment("web")
    cluster.add_service("web", selector={"app": "web"}, ports=[80])
    first = await within(5, choose(api, Resource.of("svc/web")))
    async with following(api, first) as (follow, going):
        await holds(lambda: watches(cluster) == 1)
        replacement = workload.replace_pod()
        assert await within(1, going) == f"pod/{first.pod} is being deleted"
        assert follow.reason
    second = await within(10, choose(api, Resource.of("svc/web"), prefer=first.pod))
    assert second.uid == replacement.uid


async def test_follow_outlives_a_restart_of_the_api_server(cluster: Cluster, api: Api) -> None:
    pod = cluster.add_pod("web")
    choice = await within(5, choose(api, Resource.of("pod/web")))
    async with following(api, choice) as (follow, going):
        await holds(lambda: watches(cluster) == 1)
        cluster.stop_server()
        cluster.start_server()
        await holds(lambda: watches(cluster) == 2)
        pod.set_ready(False)
        await holds(lambda: not follow.ready)
        assert not going.done(), "unready is no end"
        pod.fail("Evicted")
        assert await within(2, going) == "pod/web has failed: Evicted"


async def test_deletion_that_nobody_could_watch_is_noticed_afterwards(cluster: Cluster, api: Api) -> None:
    workload = cluster.add_statefulset("pg")
    choice = await within(5, choose(api, Resource.of("sts/pg")))
    async with following(api, choice) as (_, going):
        await holds(lambda: watches(cluster) == 1)
        cluster.stop_server()
        pod = workload.pods[0]
        pod.delete()
        pod.wait_gone()
        await holds(lambda: bool(workload.pods))
        cluster.start_server()
        assert await within(8, going) == "pod/pg-0 was replaced"


async def test_closed_follow_tells_nothing_and_leaves_no_watch(cluster: Cluster, api: Api) -> None:
    pod = cluster.add_pod("web")
    choice = await within(5, choose(api, Resource.of("pod/web")))
    async with following(api, choice) as (_, going):
        await holds(lambda: watches(cluster) == 1)
    pod.delete()
    pod.wait_gone()
    assert not going.done()


# ---- refusals ----


async def test_missing_object_names_what_there_is(cluster: Cluster, api: Api) -> None:
    for name in ("postgres", "redis", "web"):
        cluster.add_service(name, selector={"app": name}, ports=[80])
    with pytest.raises(NameNotFoundError) as caught:
        await within(5, choose(api, Resource.of("svc/postgress")))
    assert str(caught.value) == (
        "ENOTFOUND svc/postgress: there is no service postgress in the namespace default. "
        "Those there are: postgres, redis, web"
    )


async def test_object_of_another_namespace_is_pointed_at(cluster: Cluster, api: Api) -> None:
    cluster.add_service("pg", namespace="production", selector={"app": "pg"}, ports=[5432])
    with pytest.raises(NameNotFoundError, match=r"no service pg in the namespace default\. Write -n production, where"):
        await within(5, choose(api, Resource.of("svc/pg")))
    cluster.deny("list", "services")
    with pytest.raises(NameNotFoundError, match=r"no service pg in the namespace default\. Check it, and -n"):
        await within(5, choose(api, Resource.of("svc/pg")))


async def test_bare_name_of_a_deployment_is_pointed_at(cluster: Cluster, api: Api) -> None:
    cluster.add_deployment("api")
    with pytest.raises(
        NameNotFoundError, match=r"no pod api in the namespace default\. Write deploy/api, which exists"
    ):
        await within(5, choose(api, Resource.of("pod/api")))


@pytest.mark.parametrize("word", ["svc/pg", "-l app=pg"])
async def test_missing_namespace_is_what_is_missing(cluster: Cluster, word: str) -> None:
    cluster.add_namespace("production")
    elsewhere = await Api.open(ClusterTarget(kubeconfig=str(cluster.kubeconfig), namespace="prodction"))
    try:
        with pytest.raises(NameNotFoundError) as caught:
            await within(5, choose(elsewhere, Resource.of(word)))
        assert str(caught.value) == (
            "ENOTFOUND -n prodction: there is no namespace prodction. "
            "Write -n production; those there are: production, default"
        )
    finally:
        await elsewhere.close()


async def test_permission_that_is_missing_is_said_at_once(cluster: Cluster, api: Api) -> None:
    cluster.add_deployment("web")
    cluster.deny("list", "pods")
    with pytest.raises(RbacError, match="admin may not list pods in the namespace default"):
        await within(5, choose(api, Resource.of("deploy/web")))
    cluster.deny("get", "deployments")
    with pytest.raises(RbacError, match="admin may not get deployments"):
        await within(5, choose(api, Resource.of("deploy/web")))


async def test_deployment_scaled_to_zero_says_how_to_start_one(cluster: Cluster, api: Api) -> None:
    cluster.add_deployment("web", pods=0)
    with pytest.raises(
        PodGoneError, match=r"scaled to zero\. kubectl -n default scale deploy/web --replicas=1 starts one"
    ):
        await within(5, choose(api, Resource.of("deploy/web")))


async def test_pod_that_has_ended_is_not_waited_for(cluster: Cluster, api: Api) -> None:
    pod = cluster.add_pod("load")
    pod.succeed()
    with pytest.raises(PodGoneError, match="pod/load has completed"):
        await within(5, choose(api, Resource.of("pod/load")))
