"""The embedded API server held against recordings of a real one: each recorded client, played again, hears the same."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.cluster import PodPrograms
from tests.peers.replay import Heard, Replay, channels, story
from tests.peers.wire import SERVER, load, names
from xec_forward.demo.cluster import Cluster, Context
from xec_forward.spdy import Data

POD = "dep-f4cf4f96f-k9v4k"
PORTS: dict[str, int | tuple[int, str]] = {"echo": 7000, "source": 7001, "http": 8080, "dns": (5353, "UDP")}
AT_ONCE = 12  # replays: most of a replay's time is waiting
# Nothing is said in 70 s of silence; the base64 form of v4 has no user left.
SESSIONS = [
    name
    for name in names("spdy-raw", "spdy-ws-16443", "spdy-ws-16444", "v4-ws", "kubectl")
    if not name.endswith("15-idle-70s")
]
# Where the first end of a stream comes soon and is no effect of a shortened wait.
TIMED = [
    name
    for name in SESSIONS
    if not name.startswith(("v4-ws", "kubectl"))
    and any(
        line["frame"] == "DATA" and "FIN" in line["flags"] and line["t"] < 3000 for line in load(name).lines(SERVER)
    )
]
HANDSHAKES = [name for name in names("handshake") if not name.endswith("ws-base64")]
Replayed = dict[str, Replay | BaseException]
REPLAYED: Replayed = {}


def trust(cluster: Cluster, folder: Path) -> ssl.SSLContext:
    """TLS to the cluster with a client certificate of `admin`."""
    path = cluster.write_kubeconfig(folder / f"{cluster.folder.name}.kubeconfig", Context(auth="certificate"))
    user = json.loads(path.read_text())["users"][0]["user"]
    pair = folder / f"{cluster.folder.name}.pem"
    pair.write_bytes(b"".join(base64.b64decode(text) for text in user.values()))
    context = ssl.create_default_context(cadata=cluster.authority.decode())
    context.load_cert_chain(pair)
    return context


async def replay(name: str, programs: PodPrograms, folder: Path) -> Replay:
    """Play one recording against a cluster of its own."""
    cluster = await asyncio.to_thread(Cluster)
    try:
        return await replay_on(cluster, name, programs, folder)
    finally:
        await asyncio.to_thread(cluster.close)


async def replay_on(cluster: Cluster, name: str, programs: PodPrograms, folder: Path) -> Replay:
    cluster.timing.lone_stream = 0.5
    cluster.add_pod("pf", ports=PORTS, serves=programs.serves)
    cluster.add_pod("unready", serves=programs.serves, ready=False)
    cluster.add_pod("pending").pending("0/1 nodes are available")
    cluster.add_pod("done").fail()
    cluster.add_pod("noimage").waiting("ErrImageNeverPull")
    doomed = cluster.add_pod(POD, serves=programs.serves)
    if "deleted-pod" in name:
        doomed.delete()
        await asyncio.to_thread(doomed.wait_gone)
    user = f"system:serviceaccount:default:{service_account(name)}"
    if "create-only" in name:
        cluster.deny("get", "pods/portforward", user=user)
    elif "get-only" in name:
        cluster.deny("create", "pods/portforward", user=user)
    else:
        cluster.deny("*", "pods/portforward", user=user)
    token = "wrong" if "unauthorized" in name else cluster.new_token(user)
    notes: dict[str, Callable[[], object]] = {"DELETE": doomed.delete, "watch said": doomed.wait_gone}
    playing = Replay(
        load(name), int(cluster.server.rpartition(":")[2]), trust(cluster, folder), token=token, notes=notes
    )
    await playing.run()
    return playing


def service_account(name: str) -> str:
    return "pfcreator" if "create-only" in name else "pfgetter" if "get-only" in name else "viewer"


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """Every recording, played side by side; what went wrong is kept for its test."""

    async def all_of_them() -> None:
        limit = asyncio.Semaphore(AT_ONCE)
        folder = tmp_path_factory.mktemp("replay")

        async def one(name: str) -> None:
            async with limit:
                try:
                    REPLAYED[name] = await replay(name, programs, folder)
                except Exception as error:
                    REPLAYED[name] = error

        async with PodPrograms() as programs:
            await asyncio.gather(*[one(name) for name in SESSIONS + HANDSHAKES])

    asyncio.run(all_of_them())
    return REPLAYED


def result(replayed: Replayed, name: str) -> Replay:
    found = replayed[name]
    if isinstance(found, BaseException):
        raise found
    return found


@pytest.mark.parametrize("name", [name for name in SESSIONS if not name.startswith("v4-ws")])
def test_recorded_client_hears_the_recorded_frames(replayed: Replayed, name: str) -> None:
    playing = result(replayed, name)
    assert story(playing.heard.frames) == story(playing.expected.frames)
    if not name.startswith("kubectl"):  # it leaves without waiting for the answer to its close
        assert others(playing.heard) == others(playing.expected)


@pytest.mark.parametrize("name", [name for name in SESSIONS if name.startswith("v4-ws")])
def test_recorded_client_of_v4_hears_the_recorded_channels(replayed: Replayed, name: str) -> None:
    playing = result(replayed, name)
    assert channels(playing.heard.messages) == channels(playing.expected.messages)
    assert others(playing.heard) == others(playing.expected)


def others(heard: Heard) -> list[tuple[str, bytes]]:
    """Pongs and closes."""
    return [(op, payload) for op, payload in heard.messages if op != "binary"]


@pytest.mark.parametrize("name", TIMED)
def test_streams_end_when_they_ended_in_the_recording(replayed: Replayed, name: str) -> None:
    playing = result(replayed, name)
    recorded, seen = (first_fin(one) for one in (playing.expected, playing.heard))
    assert seen > recorded - 0.25
    assert seen < recorded + 1.5, "two seconds late is another rule than containerd's"


def first_fin(heard: Heard) -> float:
    """Seconds to the first end of a stream."""
    ends = [at for frame, at in zip(heard.frames, heard.arrivals, strict=True) if isinstance(frame, Data) and frame.fin]
    return ends[0]


def test_large_message_comes_as_two_frames(replayed: Replayed) -> None:
    assert result(replayed, "spdy-ws-16443/08-download-40k").heard.fragments > 0
    assert result(replayed, "spdy-ws-16443/01-echo-client-closes").heard.fragments == 0


@pytest.mark.parametrize("name", HANDSHAKES)
def test_recorded_request_gets_the_recorded_answer(replayed: Replayed, name: str) -> None:
    playing = result(replayed, name)
    ours, theirs = playing.heard.head.split(b"\r\n"), playing.expected.head.split(b"\r\n")
    assert ours[0] == theirs[0]
    if b" 101 " in ours[0]:
        assert undated(ours) == undated(theirs)
        assert channels(playing.heard.messages) == channels(playing.expected.messages)
        return
    assert playing.heard.ended == playing.expected.ended
    # The API server's own answers have an Audit-Id, the kubelet's and containerd's have none.
    assert any(line.startswith(b"Audit-Id:") for line in ours) == any(line.startswith(b"Audit-Id:") for line in theirs)
    assert media_type(ours) == media_type(theirs)
    if media_type(theirs) == b"application/json":
        assert json.loads(playing.heard.body) == json.loads(playing.expected.body)
    assert playing.heard.body == playing.expected.body


def undated(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if not line.startswith(b"Date:")]


def media_type(lines: list[bytes]) -> bytes:
    found = [line.partition(b":")[2].strip() for line in lines if line.lower().startswith(b"content-type:")]
    return found[0].partition(b";")[0] if found else b""
