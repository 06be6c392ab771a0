"""Download and upload through the tunnel against `ssh -L` (its default cipher) on the same sshd, 200 MB each way.

Wanted: download at least 0.85 of ssh, upload at least 0.6. CPU-seconds of each client are shown beside it.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable

from benchmarks.setting import Setting, Verdicts, cpu_seconds, pairs, ratio, setting

SIZE = 200_000_000
PAIRS = 5


def download(port: int) -> float:
    """MB/s from the far `source`."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        start = time.perf_counter()
        client.sendall(b"%d\n" % SIZE)
        received = 0
        buffer = bytearray(1 << 20)
        while count := client.recv_into(buffer):
            received += count
        assert received == SIZE, received
        return SIZE / 1e6 / (time.perf_counter() - start)


def upload(port: int) -> float:
    """MB/s to the far `reply`, which answers when it has everything."""
    block = bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        start = time.perf_counter()
        left = SIZE
        while left:
            client.sendall(block[:left] if left < len(block) else block)
            left -= min(left, len(block))
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.split()[0] == str(SIZE).encode(), answer
        return SIZE / 1e6 / (time.perf_counter() - start)


def compare(
    place: Setting, name: str, far: int, measure: Callable[[int], float], limit: float, verdicts: Verdicts
) -> None:
    import xec_forward as xf
    from xec_forward.client.session import current

    tunnel = xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=far, local_port=0, no_check=True)
    with tunnel, place.ssh_forward(far) as (port, pid):
        engine = current().engine_pid
        measure(tunnel.local_port)
        measure(port)
        ours, theirs = cpu_seconds(engine), cpu_seconds(pid)
        found = pairs(PAIRS, lambda: measure(tunnel.local_port), lambda: measure(port))
        ours, theirs = cpu_seconds(engine) - ours, cpu_seconds(pid) - theirs
    a, b = (statistics.median(side) for side in zip(*found, strict=True))
    detail = f"{a:.0f} against {b:.0f} MB/s; CPU {ours / PAIRS:.2f} against {theirs / PAIRS:.2f} s a run"
    verdicts.at_least(f"{name}, ratio to ssh -L", ratio(found), limit, detail)


if __name__ == "__main__":
    verdicts = Verdicts()
    with setting() as place:
        compare(place, "download", place.services.source, download, 0.85, verdicts)
        compare(place, "upload", place.services.reply, upload, 0.6, verdicts)
    verdicts.exit()
