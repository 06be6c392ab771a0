"""Port-forwards against kubectl, kr8s and portforward on the same API server, a fresh one for each round.

Wanted: a connection and its first answer no slower than kubectl's and six times as fast as those of kr8s, and as many
connections a second, 16 at once; download and upload no slower than kubectl's, for less CPU time. Ratios are medians
over the rounds, each with two turns of every program, the second in reverse; who goes first in a round rotates.

Our own API server is written in Python and takes its share of the machine, so its CPU time is shown too. A real one:
`python -m benchmarks.bench_kubernetes --kubeconfig FILE`. kr8s and portforward are measured where `--peers PYTHON` has
them, as the environment has that `make bench` makes for them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.cluster import (
    ECHO,
    IMAGE,
    KR8S,
    PORTFORWARD,
    SINK,
    SOURCE,
    Forwards,
    Place,
    by_python,
    embedded,
    kubectl,
    missing,
    ours,
    real,
)
from benchmarks.setting import Verdicts, cpu_seconds, ratio

ONE_BY_ONE = 100
AT_ONCE, TOGETHER = 16, 800
SIZE = 200_000_000
ROUNDS = 4
# Made by `make bench`.
PEERS = Path(sys.prefix) / "peers" / "bin" / "python"
OURS, KUBECTL = "xec_forward", "kubectl"

# What a round found: by measurement and program, the figure, and the CPU-seconds of the program and the API server.
Found = dict[tuple[str, str], list[tuple[float, float, float]]]


def connect_and_echo(port: int) -> float:
    """Seconds until a new connection has its first answer."""
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"x" * 64)
        answer = client.recv(64, socket.MSG_WAITALL)
        assert answer == b"x" * 64, answer
        return time.perf_counter() - start


def one_by_one(forwards: Forwards) -> float:
    """Milliseconds from connecting to the first answer, p50."""
    return statistics.median(connect_and_echo(forwards.local[ECHO]) for _ in range(ONE_BY_ONE)) * 1e3


def at_once(forwards: Forwards) -> float:
    """Connections per second with an answer each, from `AT_ONCE` clients."""
    failures: list[Exception] = []

    def client() -> None:
        try:
            for _ in range(TOGETHER // AT_ONCE):
                connect_and_echo(forwards.local[ECHO])
        except (OSError, AssertionError) as error:
            failures.append(error)

    clients = [threading.Thread(target=client) for _ in range(AT_ONCE)]
    start = time.perf_counter()
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    took = time.perf_counter() - start
    if failures:
        raise failures[0]
    return TOGETHER / took


def download(forwards: Forwards) -> float:
    """MB/s."""
    with socket.create_connection(("127.0.0.1", forwards.local[SOURCE]), timeout=60) as client:
        start = time.perf_counter()
        client.sendall(b"%d\n" % SIZE)
        buffer = bytearray(1 << 20)
        left = SIZE
        while left:
            count = client.recv_into(buffer)
            assert count, f"{left} bytes are missing"
            left -= count
        return SIZE / 1e6 / (time.perf_counter() - start)


def upload(forwards: Forwards) -> float:
    """MB/s, until the pod says that it has everything."""
    block = os.urandom(1 << 20)
    with socket.create_connection(("127.0.0.1", forwards.local[SINK]), timeout=60) as client:
        start = time.perf_counter()
        client.sendall(b"%d\n" % SIZE)
        left = SIZE
        while left:
            client.sendall(block[:left] if left < len(block) else block)
            left -= min(left, len(block))
        answer = client.recv(2, socket.MSG_WAITALL)
        assert answer == b"ok", answer
        return SIZE / 1e6 / (time.perf_counter() - start)


MEASUREMENTS: dict[str, Callable[[Forwards], float]] = {
    "connect and echo, p50 ms": one_by_one,
    f"connections per second, {AT_ONCE} at once": at_once,
    "download, MB/s": download,
    "upload, MB/s": upload,
}
CONNECT, RATE, DOWN, UP = MEASUREMENTS


def measure(place: Place, peers: list[Callable[[Place], contextlib.AbstractContextManager[Forwards]]]) -> Found:
    """One round: each measurement with each program, all of them open beside each other."""
    found: Found = defaultdict(list)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_peer(place)) for open_peer in peers]
        for forwards in opened:
            for _ in range(10):
                connect_and_echo(forwards.local[ECHO])
        for what, figure in MEASUREMENTS.items():
            for forwards in (*opened, *reversed(opened)):
                time.sleep(1.2)  # the last one's connections come to their end
                client, server = cpu_seconds(forwards.pid), cpu_seconds(place.server) if place.server else 0.0
                value = figure(forwards)
                client = cpu_seconds(forwards.pid) - client
                server = cpu_seconds(place.server) - server if place.server else 0.0
                found[what, forwards.name].append((value, client, server))
    return found


def judge(found: Found, names: list[str], verdicts: Verdicts) -> None:
    """Print all figures, and what is wanted of ours."""
    print(f"\n{'':<38} {'figure':>8} {'client s':>9} {'server s':>9}   (medians; CPU-seconds per measurement)")
    for what in MEASUREMENTS:
        for name in names:
            figure, client, server = (statistics.median(side) for side in zip(*found[what, name], strict=True))
            print(f"{what:<26.26} {name:<11} {figure:8.1f} {client:9.3f} {server:9.3f}")
    print()

    def against(peer: str, what: str, column: int = 0) -> float:
        pairs = zip(found[what, OURS], found[what, peer], strict=True)
        return ratio([(a[column], max(b[column], 1e-9)) for a, b in pairs])

    if KUBECTL in names:
        verdicts.at_most("connect and echo, ratio to kubectl", against(KUBECTL, CONNECT), 1)
        verdicts.at_least("connections per second, ratio to kubectl", against(KUBECTL, RATE), 1)
        verdicts.at_least("download, ratio to kubectl", against(KUBECTL, DOWN), 1)
        verdicts.at_least("upload, ratio to kubectl", against(KUBECTL, UP), 1)
        verdicts.at_most("CPU per byte of a download, ratio to kubectl", against(KUBECTL, DOWN, 1), 1)
        verdicts.at_most("CPU per byte of an upload, ratio to kubectl", against(KUBECTL, UP, 1), 1)
    if KR8S in names:
        verdicts.at_least("connect and echo, times faster than kr8s", 1 / against(KR8S, CONNECT), 6)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_kubernetes")
    parser.add_argument("--kubeconfig", type=Path, help="measure on a real cluster")
    parser.add_argument("--kube-image", default=IMAGE, metavar="IMAGE", help="the image of its pod; has python3")
    parser.add_argument(
        "--peers",
        default=PEERS if PEERS.exists() else sys.executable,
        metavar="PYTHON",
        help="has kr8s and portforward",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(words)
    lacking = missing(options.peers)
    for reason in lacking.values():
        print(f"skipped: {reason}")
    peers: dict[str, Callable[[Place], contextlib.AbstractContextManager[Forwards]]] = {
        OURS: ours,
        KUBECTL: kubectl,
        KR8S: partial(by_python, KR8S, options.peers),
        PORTFORWARD: partial(by_python, PORTFORWARD, options.peers),
    }
    names = [name for name in peers if name not in lacking]
    found: Found = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="xec-bench-") as state:
        os.environ["XEC_FORWARD_STATE"] = state
        for number in range(options.rounds):
            order = names[number % len(names) :] + names[: number % len(names)]
            with real(options.kubeconfig, options.kube_image) if options.kubeconfig else embedded() as place:
                for key, values in measure(place, [peers[name] for name in order]).items():
                    found[key] += values
    verdicts = Verdicts()
    judge(found, names, verdicts)
    verdicts.exit()


if __name__ == "__main__":
    main(sys.argv[1:])
