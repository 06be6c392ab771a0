"""From resources to pods and ports, on the answers that a real cluster gave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.recorded_cluster import (
    APPS,
    CORE,
    HERE,
    PODS,
    Body,
    Recording,
    chosen,
    deployment,
    endpoints,
    pod_at,
    recorded,
    service_at,
    unready,
)
from xec_forward.engine.links.kubernetes.objects import Pod, Selector, Service, Workload, read
from xec_forward.engine.links.kubernetes.ports import PodPorts, ServicePorts
from xec_forward.engine.links.kubernetes.reasons import Reason, line, why_unready
from xec_forward.engine.links.kubernetes.resolve import choose
from xec_forward.errors import (
    ConfigError,
    ForwardError,
    NameNotFoundError,
    PodGoneError,
    RbacError,
    UnreachableError,
)
from xec_forward.spec import Endpoint, Resource

# ---- ports ----


@pytest.mark.parametrize(
    ("word", "port", "leads_to"),
    [
        ("svc/pf", 70, "pod/pf:7000 (echo)"),
        ("svc/pf", "echo", "pod/pf:7000 (echo)"),
        ("svc/pf", 80, "pod/pf:8080 (http)"),
        ("svc/pf", "web", "pod/pf:8080 (http)"),
        ("pod/pf", 7000, "pod/pf:7000 (echo)"),
        ("pod/pf", "http", "pod/pf:8080 (http)"),
        ("pod/pf", 12345, "pod/pf:12345"),
        ("-l app=pf", "source", "pod/pf:7001 (source)"),
    ],
)
async def test_port_leads_to_the_pods_number(word: str, port: int | str, leads_to: str) -> None:
    api = Recording(service_at(recorded("service-pf")), pod_at(recorded("pod-ready")))
    choice = await chosen(api, word, port)
    assert choice.describe(endpoints(word, port)[0]) == leads_to
    assert (choice.pod, choice.uid) == ("pf", "5c867c03-a18b-4acf-97b2-798940473ec2")
    assert str(choice.port(endpoints(word, port)[0])) == leads_to.split(":")[1].split()[0]


@pytest.mark.parametrize(
    ("word", "port", "message"),
    [
        ("svc/pf", 81, "ECONFIG svc/pf: the service has no port 81. Its ports are 70 (echo), 80 (web)"),
        (
            "svc/pf",
            "http",
            "ECONFIG svc/pf: the service has no port http. Write 80, the service's port that leads to http",
        ),
        (
            "svc/pf",
            53,
            "ECONFIG svc/pf: port 53 is UDP, and a Kubernetes port-forward carries TCP only. "
            "Name a TCP port; for others run a proxy inside the cluster and forward to that",
        ),
        (
            "svc/pf",
            "dns",
            "ECONFIG svc/pf: port dns is UDP, and a Kubernetes port-forward carries TCP only. "
            "Name a TCP port; for others run a proxy inside the cluster and forward to that",
        ),
        (
            "pod/pf",
            5353,
            "ECONFIG pod/pf: port 5353 is UDP, and a Kubernetes port-forward carries TCP only. "
            "Name a TCP port; for others run a proxy inside the cluster and forward to that",
        ),
        (
            "pod/pf",
            "web",
            "ECONFIG pod/pf: pod/pf has no port named web. Its ports are 7000 (echo), 7001 (source), 8080 (http)",
        ),
    ],
)
async def test_port_that_cannot_be_is_refused_at_once_with_those_there_are(
    word: str, port: int | str, message: str
) -> None:
    api = Recording(service_at(recorded("service-pf")), pod_at(recorded("pod-ready")))
    with pytest.raises(ConfigError) as caught:
        await chosen(api, word, port)
    assert str(caught.value) == message


async def test_unknown_port_is_refused_while_the_pod_is_not_ready() -> None:
    api = Recording(service_at(recorded("service-unready")), pod_at(recorded("pod-not-ready")))
    with pytest.raises(ConfigError, match=r"no port 81\. Its port is 80 \(web\)"):
        await chosen(api, "svc/unready", 81)
    with pytest.raises(ConfigError, match=r"no port named grpc\. Its ports are 7000 \(echo\), 8080 \(http\)"):
        await chosen(api, "pod/unready", "grpc")


async def test_headless_service_leaves_numbers_alone_and_leads_names_to_the_target() -> None:
    pod = recorded("pod-ready", metadata__labels={"app": "sts"})
    api = Recording(service_at(recorded("service-headless")), pod_at(pod))
    choice = await chosen(api, "svc/headless", 80, "web")
    assert choice.describe(Endpoint(port=80)) == "pod/pf:80 (headless: the pod's own port)"
    assert choice.port(Endpoint(port=7000)) == 7000
    assert choice.port(Endpoint(port_name="web")) == 8080
    with pytest.raises(ConfigError, match="5353 is UDP"):
        choice.port(Endpoint(port=5353))


def test_named_port_of_a_sidecar_counts_and_of_an_init_container_does_not() -> None:
    containers = [
        {"name": "proxy", "restartPolicy": "Always", "ports": [{"name": "admin", "containerPort": 9901}]},
        {"name": "migrate", "ports": [{"name": "once", "containerPort": 9}]},
    ]
    pod = read(Pod, recorded("pod-ready", spec__initContainers=containers))
    ports = PodPorts(Resource.of("pod/pf"))
    assert ports.find(pod, Endpoint(port_name="admin")) == (9901, "admin")
    with pytest.raises(ConfigError, match="no port named once"):
        ports.find(pod, Endpoint(port_name="once"))


def test_tcp_wins_where_a_number_is_both_tcp_and_udp() -> None:
    rows = [
        {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353},
        {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
    ]
    pod = read(Pod, recorded("pod-ready"))
    assert (
        ServicePorts(read(Service, recorded("service-pf", spec__ports=rows))).find(pod, Endpoint(port=53)).number == 53
    )


async def test_target_port_is_looked_up_in_the_chosen_pod() -> None:
    api = deployment()
    old, new = (path for path in api.objects if path.startswith(PODS))
    api.objects[new]["spec"]["containers"][0]["ports"][0]["containerPort"] = 7100
    for path, number in ((old, 7000), (new, 7100)):
        choice = await chosen(api, "svc/dep", 70, prefer=path.rpartition("/")[2])
        assert choice.port(Endpoint(port=70)) == number


async def test_pod_that_has_the_port_is_preferred_to_a_newer_one_that_has_not() -> None:
    api = deployment()
    pods = sorted((body["metadata"]["creationTimestamp"], path) for path, body in api.objects.items() if PODS in path)
    newest = api.objects[pods[-1][1]]
    newest["spec"]["containers"][0]["ports"][0]["name"] = "renamed"
    choice = await chosen(api, "deploy/dep", "echo")
    assert choice.pod != newest["metadata"]["name"]
    with pytest.raises(ConfigError, match="no port named absent"):
        await chosen(api, "deploy/dep", "absent")


# ---- which pod ----


async def test_newest_ready_pod_is_chosen_and_the_one_in_use_is_kept() -> None:
    api = deployment()
    by_age = sorted(recorded("pod-list-dep")["items"], key=lambda body: str(body["metadata"]["creationTimestamp"]))
    oldest, newest = (body["metadata"]["name"] for body in by_age)
    for word in ("deploy/dep", "svc/dep", "-l app=dep"):
        assert (await chosen(api, word)).pod == newest
        assert (await chosen(api, word, prefer=oldest)).pod == oldest


async def test_unready_pod_in_use_is_left_only_for_a_ready_one() -> None:
    api = deployment()
    first, second = (path for path in api.objects if path.startswith(PODS))
    used, other = first.rpartition("/")[2], second.rpartition("/")[2]
    unready(api.objects[first])
    assert (await chosen(api, "deploy/dep", prefer=used)).pod == other
    unready(api.objects[second])
    assert (await chosen(api, "deploy/dep", prefer=used)).pod == used


async def test_pod_being_deleted_is_not_chosen_though_it_is_ready() -> None:
    api = deployment()
    first, second = (path for path in api.objects if path.startswith(PODS))
    api.objects[first]["metadata"]["deletionTimestamp"] = "2026-11-22T11:25:46Z"
    used, other = first.rpartition("/")[2], second.rpartition("/")[2]
    assert (await chosen(api, "deploy/dep", prefer=used)).pod == other


async def test_pods_of_another_owner_with_the_same_labels_are_not_the_deployments() -> None:
    api = deployment()
    stranger = recorded(
        "pod-ready", metadata__labels={"app": "dep"}, metadata__creationTimestamp="2026-12-01T00:00:00Z"
    )
    stranger["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "nightly", "uid": "1", "controller": True}]
    api.objects.update([pod_at(stranger)])
    assert (await chosen(api, "deploy/dep")).pod.startswith("dep-")
    assert (await chosen(api, "svc/dep")).pod == "pf"


async def test_service_without_selector_leads_to_the_pods_its_slices_name() -> None:
    service, slices = recorded("service-noselector"), recorded("endpointslices-pf")["items"]
    slices[0]["metadata"]["labels"]["kubernetes.io/service-name"] = "noselector"
    slices[0]["ports"] = [{"name": "", "protocol": "TCP", "port": 7000}]
    where = f"/apis/discovery.k8s.io/v1{HERE}/endpointslices/pf"
    api = Recording(service_at(service), (where, slices[0]), pod_at(recorded("pod-ready")))
    choice = await chosen(api, "svc/noselector", 80)
    assert choice.describe(Endpoint(port=80)) == "pod/pf:7000"


def test_selector_is_written_as_the_api_takes_it() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "zone", "operator": "NotIn", "values": ["x"]},
        {"key": "live", "operator": "Exists"},
        {"key": "old", "operator": "DoesNotExist"},
    ]
    wanted = read(Selector, {"matchLabels": {"app": "web", "v": "2"}, "matchExpressions": expressions})
    assert str(wanted) == "app=web,v=2,tier in (a,b),zone notin (x),live,!old"


# ---- what is not there, or cannot be ----

FAILED = recorded("pod-failed")
ABSENT = (
    "ENOTFOUND svc/missing: there is no service missing in the namespace default. Those there are: dep, headless, pf"
)


def services() -> Recording:
    return Recording(*(service_at(recorded(f"service-{name}")) for name in ("pf", "dep", "headless")))


def scaled(kind: str, replicas: int = 0) -> Recording:
    body = recorded("deployment" if kind == "deployments" else "statefulset", spec__replicas=replicas)
    return Recording((f"{APPS}{HERE}/{kind}/{body['metadata']['name']}", body))


def job(**spec: Any) -> Recording:
    conditions = spec.pop("conditions", [])
    meta = {"name": "load", "namespace": "default", "uid": "1"}
    body = {"metadata": meta, "spec": {"selector": {"matchLabels": {"job-name": "load"}}, **spec}}
    return Recording((f"/apis/batch/v1{HERE}/jobs/load", body | {"status": {"conditions": conditions}}))


def owned_by_deployment(body: Body) -> Body:
    owner = {"kind": "ReplicaSet", "name": "web-7d9f", "uid": "2", "controller": True}
    body["metadata"] |= {"ownerReferences": [owner], "labels": {"pod-template-hash": "7d9f"}}
    return body


REFUSALS: dict[str, tuple[Callable[[], Recording], str, type[ForwardError], str]] = {
    "missing": (services, "svc/missing", NameNotFoundError, ABSENT),
    "misspelt": (
        services,
        "svc/heedless",
        NameNotFoundError,
        "ENOTFOUND svc/heedless: there is no service heedless in the namespace default. "
        "Those there are: headless, dep, pf",
    ),
    "another kind": (
        services,
        "pod/pf",
        NameNotFoundError,
        "ENOTFOUND pod/pf: there is no pod pf in the namespace default. Write svc/pf, which exists",
    ),
    "a deployment's pods": (
        deployment,
        "pod/dep-f4cf4f96f",
        NameNotFoundError,
        "ENOTFOUND pod/dep-f4cf4f96f: there is no pod dep-f4cf4f96f in the namespace default. "
        "Those there are: dep-f4cf4f96f-k9v4k, dep-f4cf4f96f-lwtzn",
    ),
    "external name": (
        lambda: Recording(
            service_at(
                recorded("service-pf", spec__type="ExternalName", spec__externalName="pg.vpc", spec__selector=None)
            )
        ),
        "svc/pf",
        ConfigError,
        "ECONFIG svc/pf: the service is only a name for pg.vpc outside the cluster, and has no pods. "
        "Forward to pg.vpc by another way, such as a bastion",
    ),
    "no selector": (
        lambda: Recording(service_at(recorded("service-noselector"))),
        "svc/noselector",
        ConfigError,
        "ECONFIG svc/noselector: the service has no selector, and no EndpointSlice of it names a pod. "
        "Name the pod, or what makes it: deploy/NAME",
    ),
    "failed": (
        lambda: Recording(pod_at(FAILED)),
        "pod/done",
        PodGoneError,
        "EPODGONE pod/done: pod/done has failed: DeadlineExceeded: Pod was active on the node longer than the "
        "specified deadline. Name a pod that runs, or what makes them: svc/NAME, deploy/NAME",
    ),
    "failed, alone behind a selector": (
        lambda: Recording(pod_at(FAILED)),
        "-l app=done",
        PodGoneError,
        "EPODGONE -l app=done: pod/done has failed: DeadlineExceeded: Pod was active on the node longer than the "
        "specified deadline. Nothing replaces it; start another",
    ),
    "evicted": (
        lambda: Recording(
            pod_at(owned_by_deployment(recorded("pod-failed", status__reason="Evicted", status__message="")))
        ),
        "pod/done",
        PodGoneError,
        "EPODGONE pod/done: pod/done has failed: Evicted. Name deploy/web, which leads to the pod that replaces it",
    ),
    "completed": (
        lambda: Recording(pod_at(recorded("pod-failed", status__phase="Succeeded"))),
        "pod/done",
        PodGoneError,
        "EPODGONE pod/done: pod/done has completed. Name a pod that runs, or what makes them: svc/NAME, deploy/NAME",
    ),
    "being deleted": (
        lambda: Recording(pod_at(owned_by_deployment(recorded("delete-pod-response")))),
        f"pod/{recorded('delete-pod-response')['metadata']['name']}",
        PodGoneError,
        "EPODGONE pod/{0}: pod/{0} is being deleted. Name deploy/web, which leads to the pod that replaces it".format(
            recorded("delete-pod-response")["metadata"]["name"]
        ),
    ),
    "scaled to zero": (
        lambda: scaled("deployments"),
        "deploy/dep",
        PodGoneError,
        "EPODGONE deploy/dep: the deployment is scaled to zero. "
        "kubectl -n default scale deploy/dep --replicas=1 starts one",
    ),
    "statefulset scaled to zero": (
        lambda: scaled("statefulsets"),
        "sts/sts",
        PodGoneError,
        "EPODGONE sts/sts: the statefulset is scaled to zero. kubectl -n default scale sts/sts --replicas=1 starts one",
    ),
    "job complete": (
        lambda: job(conditions=[{"type": "Complete", "status": "True"}]),
        "job/load",
        PodGoneError,
        "EPODGONE job/load: the job has completed, and its pods with it. Run it again, then this",
    ),
    "job failed": (
        lambda: job(conditions=[{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]),
        "job/load",
        PodGoneError,
        "EPODGONE job/load: the job has failed: BackoffLimitExceeded. kubectl -n default logs job/load shows why",
    ),
    "job suspended": (
        lambda: job(suspend=True),
        "job/load",
        PodGoneError,
        "EPODGONE job/load: the job is suspended. "
        """kubectl -n default patch job load -p '{"spec":{"suspend":false}}' resumes it""",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_waiting_cannot_mend_fails_at_once_with_the_fix(case: str) -> None:
    api, word, kind, message = REFUSALS[case]
    with pytest.raises(ForwardError) as caught:
        await chosen(api(), word)
    assert type(caught.value) is kind
    assert str(caught.value) == message
    assert "\n" not in message


async def test_pod_in_use_that_is_not_there_any_more_was_deleted() -> None:
    with pytest.raises(PodGoneError, match="the pod was deleted"):
        await chosen(Recording(), "pod/pf", prefer="pf")


async def test_name_of_the_server_that_does_not_resolve_is_no_missing_pod() -> None:
    api = Recording()
    api.failures = [NameNotFoundError("its name does not resolve", hop="k8s.vpc:6443")]
    with pytest.raises(NameNotFoundError) as caught:
        await chosen(api, "pod/pf")
    assert caught.value.hop == "k8s.vpc:6443"
    assert api.asked == [f"{PODS}/pf"]


async def test_forbidden_is_said_at_once() -> None:
    api = services()
    api.forbidden = {("get", f"{CORE}{HERE}/services/pf")}
    with pytest.raises(RbacError):
        await chosen(api, "svc/pf")


async def test_something_else_in_the_api_servers_place_is_told() -> None:
    api = Recording((f"{CORE}{HERE}/services/pf", {"hello": "world"}))
    with pytest.raises(UnreachableError, match="sends no Service"):
        await chosen(api, "svc/pf")


# ---- what is waited for ----


def waiting_pod(reason: str, message: str = "", **last: Any) -> Body:
    body = recorded("pod-image-missing")
    body["status"]["containerStatuses"][0] |= {"state": {"waiting": {"reason": reason, "message": message}}, **last}
    return body


WAITS: dict[str, tuple[Body, str, str]] = {
    "unschedulable": (
        recorded("pod-pending"),
        "pod/pending is Pending: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector",
        "Mend what keeps it off the nodes; kubectl -n default describe pod pending shows its events",
    ),
    "not ready": (
        recorded("pod-not-ready"),
        "pod/unready is Running but not ready: containers with unready status: [c]",
        "kubectl -n default describe pod unready shows its events",
    ),
    "image never pulled": (
        recorded("pod-image-missing"),
        'pod/noimage: container c: ErrImageNeverPull: Container image "docker.io/local/absent:1" is not present '
        "with pull policy of Never",
        "Load the image onto the node, or change imagePullPolicy",
    ),
    "image not pulled": (
        waiting_pod("ImagePullBackOff", 'Back-off pulling image\n"x"'),
        'pod/noimage: container c: ImagePullBackOff: Back-off pulling image "x"',
        "Correct the image's name, or the secret it is pulled with",
    ),
    "crash loop": (
        waiting_pod("CrashLoopBackOff", "back-off 5m0s", lastState={"terminated": {"exitCode": 3}}),
        "pod/noimage: container c: CrashLoopBackOff, it ended with exit code 3",
        "kubectl -n default logs noimage -c c --previous shows why",
    ),
    "on its way": (
        waiting_pod("ContainerCreating"),
        "pod/noimage is Pending: container c: ContainerCreating",
        "kubectl -n default describe pod noimage shows its events",
    ),
    "being deleted": (
        recorded("delete-pod-response"),
        f"pod/{recorded('delete-pod-response')['metadata']['name']} is being deleted, "
        "and no other has taken its place yet",
        "",
    ),
    "node lost": (
        recorded("pod-ready", status__phase="Unknown"),
        "pod/pf: its node does not answer",
        "kubectl -n default describe pod pf shows its events",
    ),
}


@pytest.mark.parametrize("case", WAITS)
def test_reason_to_wait_is_one_line_with_where_to_look(case: str) -> None:
    body, text, hint = WAITS[case]
    reason = why_unready(read(Pod, body))
    assert (reason.text, reason.hint) == (text, hint)
    late = reason.late(30, "svc/web")
    assert str(late) == f"ETIMEDOUT svc/web: no pod was ready within 30 s: {text}" + (f". {hint}" if hint else "")


def test_text_of_the_api_cannot_break_the_line() -> None:
    assert line("a\n\tb\x1b[31m c") == "a b [31m c"
    assert len(line("word " * 1000)) < 210


async def first_wait(api: Recording, word: str) -> Reason:
    """The first thing that `choose` waits for."""
    told: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(choose(api, Resource.of(word), waiting=told.set_result))
    try:
        async with asyncio.timeout(5):
            return await told
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("api", "word", "text"),
    [
        (services(), "svc/pf", "no pod has the labels app=pf"),
        (services(), "-l tier=none", "no pod has the labels tier=none"),
        (scaled("deployments", 2), "deploy/dep", "deploy/dep has no pod yet"),
        (scaled("statefulsets", 2), "pod/sts-1", "pod/sts-1 is not there yet; its statefulset makes it"),
        (job(), "job/load", "job/load has no pod yet"),
    ],
)
async def test_pods_that_may_yet_come_are_waited_for(api: Recording, word: str, text: str) -> None:
    assert (await first_wait(api, word)).text == text


async def test_deployment_that_may_not_make_pods_says_why() -> None:
    api = scaled("deployments", 1)
    condition = {"type": "ReplicaFailure", "status": "True", "message": 'pods "dep-1" is forbidden: exceeded quota'}
    api.objects[f"{APPS}{HERE}/deployments/dep"]["status"]["conditions"] = [condition]
    expected = 'deploy/dep cannot make its pods: pods "dep-1" is forbidden: exceeded quota'
    assert (await first_wait(api, "deploy/dep")).text == expected


def test_workload_without_optional_fields_is_read() -> None:
    workload = read(Workload, {"metadata": {"name": "x", "creationTimestamp": None}, "spec": {"selector": {}}})
    assert str(workload.spec.selector) == ""
