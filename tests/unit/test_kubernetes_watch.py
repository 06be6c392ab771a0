"""Lists that are watched, and the chosen pod that is followed, on what a real cluster told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

import pytest

from tests.unit.recorded_cluster import PODS, Body, Recording, chosen, deployment, events, pod_at, recorded, unready
from xec_forward.engine.links.kubernetes import watch
from xec_forward.engine.links.kubernetes.api import Expired
from xec_forward.engine.links.kubernetes.follow import Follow
from xec_forward.engine.links.kubernetes.resolve import choose
from xec_forward.engine.links.kubernetes.watch import snapshots
from xec_forward.errors import LostError, NameNotFoundError, RbacError
from xec_forward.spec import Resource

# ---- the recorded deletion ----


def replay(only: Iterable[str] = ()) -> list[Body | Exception]:
    return [
        event
        for _, event in events("watch-pods-pod-replaced")
        if not only or event["object"]["metadata"]["name"] in only
    ]


async def test_replacement_is_waited_for_through_the_recorded_deletion() -> None:
    api = deployment()
    del api.objects[f"{PODS}/dep-f4cf4f96f-lwtzn"]  # the other one would do at once
    api.objects[f"{PODS}/dep-f4cf4f96f-k9v4k"]["metadata"]["deletionTimestamp"] = "2026-11-22T11:25:46Z"
    api.watches = [replay()]
    told: list[str] = []
    async with asyncio.timeout(5):
        choice = await choose(api, Resource.of("deploy/dep"), waiting=lambda reason: told.append(reason.text))
    assert choice.pod == "dep-f4cf4f96f-npk8x"
    assert told[0] == "pod/dep-f4cf4f96f-k9v4k is being deleted, and no other has taken its place yet"
    assert all(text.startswith("pod/dep-f4cf4f96f-npk8x is Pending") for text in told[1:])
    assert len(told) == len(set(told)), "told only when it changes"


def test_pods_own_watch_is_no_later_than_the_slices() -> None:
    gone = "dep-f4cf4f96f-k9v4k"
    pod = next(t for t, event in events("watch-pods-pod-replaced") if event["object"]["metadata"]["name"] == gone)
    first = events("watch-endpointslices-pod-replaced")[0]
    terminating = [e["targetRef"]["name"] for e in first[1]["object"]["endpoints"] if e["conditions"]["terminating"]]
    assert terminating == [gone]
    assert pod <= first[0]


async def test_follow_tells_once_that_the_recorded_pod_goes() -> None:
    api = deployment()
    choice = await chosen(api, "deploy/dep", prefer="dep-f4cf4f96f-k9v4k")
    api.watches = [replay(only=[choice.pod])]
    told: list[str] = []
    follow = Follow(api, choice, told.append)
    async with asyncio.timeout(5):
        await follow.wait_closed()
    assert told == ["pod/dep-f4cf4f96f-k9v4k is being deleted"]
    assert follow.reason == told[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": {"phase": "Failed", "reason": "Evicted"}}, "pod/pf has failed: Evicted"),
        ({"metadata": {"name": "pf", "uid": "another", "resourceVersion": "9"}}, "pod/pf was replaced"),
    ],
)
async def test_follow_tells_of_other_ends(change: Body, reason: str) -> None:
    api = Recording(pod_at(recorded("pod-ready")))
    choice = await chosen(api, "pod/pf")
    api.watches = [[{"type": "MODIFIED", "object": recorded("pod-ready") | change}]]
    told: list[str] = []
    follow = Follow(api, choice, told.append)
    async with asyncio.timeout(5):
        await follow.wait_closed()
    assert told == [reason]


async def test_readiness_that_flaps_is_no_end() -> None:
    api = Recording(pod_at(recorded("pod-ready")))
    choice = await chosen(api, "pod/pf")
    worse = recorded("pod-ready")
    unready(worse)
    gone = {"type": "DELETED", "object": worse}
    api.watches = [[{"type": "MODIFIED", "object": worse}, gone]]
    seen: list[bool] = []
    follow = Follow(api, choice, lambda reason: seen.append(follow.ready))
    async with asyncio.timeout(5):
        await follow.wait_closed()
    assert seen == [False]
    assert follow.reason == "pod/pf was deleted"


# ---- list and watch ----


async def take(states: AsyncGenerator[dict[str, Body], None], count: int) -> list[list[str]]:
    """The names of the next snapshots."""
    found = []
    async with aclosing(states), asyncio.timeout(10):
        async for objects in states:
            found.append(sorted(objects))
            if len(found) == count:
                break
    return found


def versioned(body: Body, version: str) -> Body:
    body["metadata"]["resourceVersion"] = version
    return body


async def test_expired_watch_begins_with_a_new_list() -> None:
    api = Recording(pod_at(recorded("pod-ready")))
    api.watches = [[Expired("too old resource version: 1 (2658)")]]
    assert await take(snapshots(api, PODS), 2) == [["pf"], ["pf"]]
    assert api.asked == [PODS, f"watch {PODS} from 7", PODS]


async def test_broken_watch_is_told_and_begins_anew() -> None:
    api = Recording(pod_at(recorded("pod-ready")))
    api.watches = [[LostError("the API server broke the connection")]]
    told: list[str] = []
    await take(snapshots(api, PODS, troubled=lambda error: told.append(error.message)), 2)
    assert told == ["the API server broke the connection"]


async def test_first_list_that_fails_is_the_callers_unless_patient() -> None:
    api = Recording(pod_at(recorded("pod-ready")))
    api.failures = [LostError("gone")]
    with pytest.raises(LostError):
        await take(snapshots(api, PODS), 1)
    api.failures = [RbacError("not now"), LostError("gone")]
    assert await take(snapshots(api, PODS, patient=True), 1) == [["pf"]]


async def test_bookmark_and_orderly_end_go_on_where_the_watch_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ending(Recording):
        async def watch(self, path: str, *, resource_version: str, **params: str) -> AsyncGenerator[Body, None]:
            self.asked.append(f"from {resource_version}")
            for event in self.watches.pop(0):
                assert not isinstance(event, Exception)
                yield event

    api = Ending(pod_at(recorded("pod-ready")))
    bookmark = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "42"}}}
    gone = {"type": "DELETED", "object": versioned(recorded("pod-ready"), "43")}
    api.watches = [[bookmark], [gone]]
    assert await take(snapshots(api, PODS), 2) == [["pf"], []]
    assert api.asked == [PODS, "from 7", "from 42"]


async def test_silent_watch_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "WATCH", 0)
    monkeypatch.setattr(watch, "GRACE", 0.05)
    api = Recording(pod_at(recorded("pod-ready")))
    told: list[str] = []
    await take(snapshots(api, PODS, troubled=lambda error: told.append(error.message)), 2)
    assert told == ["the API server's watch has fallen silent"]


async def test_list_is_asked_for_again_where_watching_is_forbidden() -> None:
    api = Recording(pod_at(recorded("pod-ready")))
    api.forbidden = {("watch", PODS)}
    assert await take(snapshots(api, PODS, poll=0.01), 3) == [["pf"]] * 3
    assert api.asked == [PODS, f"watch {PODS} from 7", PODS, PODS]


async def test_permission_to_get_the_one_pod_is_enough() -> None:
    api = Recording(pod_at(recorded("pod-ready")))
    api.forbidden = {("watch", PODS), ("list", PODS)}
    assert (await chosen(api, "pod/pf", "http")).pod == "pf"
    assert api.asked == [f"{PODS}/pf"], "nothing is listed for a pod that is ready"
    states = snapshots(api, PODS, name="pf", poll=0.01)
    assert await take(states, 2) == [["pf"], ["pf"]]


async def test_server_whose_name_does_not_resolve_for_a_while_deletes_no_pod() -> None:
    class Flaky(Recording):
        async def get(self, path: str, **params: str) -> Body:
            if path.endswith("/pf") and path in self.asked:
                self.asked.remove(path)
                raise NameNotFoundError("its name does not resolve")
            return await super().get(path, **params)

    api = Flaky(pod_at(recorded("pod-ready")))
    api.forbidden = {("list", PODS)}
    told: list[str] = []
    states = snapshots(api, PODS, name="pf", patient=True, poll=0.01, troubled=lambda error: told.append(error.message))
    assert await take(states, 3) == [["pf"]] * 3
    assert told == ["its name does not resolve"] * 2
