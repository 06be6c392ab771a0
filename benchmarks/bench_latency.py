"""Round trips through the tunnel as a third process sees them, while the kernel burns a core in Python.

Each pair compares the same machine under the same load: once the kernel (which owns the tunnel) burns the core, once
a plain process does. Wanted: the ratio of the p50s at most 1.5 (median of 5 pairs). Also shown: `ssh -L`.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time

from jupyter_client.manager import start_new_kernel

from benchmarks.setting import Verdicts, pairs, ratio, setting

ROUNDS = 400
BURN = "import time\nend = time.monotonic() + 8\nwhile time.monotonic() < end:\n    sum(range(1000))\n"

PROBE = f"""
import socket, statistics, sys, time
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
times = []
for _ in range({ROUNDS}):
    start = time.perf_counter()
    client.sendall(b"x" * 64)
    left = 64
    while left:
        left -= len(client.recv(left))
    times.append(time.perf_counter() - start)
print(statistics.median(times) * 1e6)
"""


def p50(port: int) -> float:
    """Microseconds, measured by a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(port)], capture_output=True, text=True, timeout=60, check=True
    )
    return float(done.stdout)


def main(verdicts: Verdicts) -> None:
    with setting() as place:
        manager, client = start_new_kernel(kernel_name="python3")
        try:

            def run(code: str) -> None:
                reply = client.execute_interactive(code, timeout=60, output_hook=lambda _: None)
                assert reply["content"]["status"] == "ok", reply["content"]

            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                port = sock.getsockname()[1]
            run(f"%load_ext xec_forward\n%forward bastion {port}:pg.vpc:{place.services.echo} --as echo")

            def kernel_burns() -> float:
                client.execute(BURN)
                time.sleep(0.3)
                found = p50(port)
                manager.interrupt_kernel()
                client.get_shell_msg(timeout=30)
                return found

            def other_burns() -> float:
                with subprocess.Popen([sys.executable, "-c", BURN]) as burner:
                    time.sleep(0.3)
                    found = p50(port)
                    burner.kill()
                return found

            idle = p50(port)
            found = pairs(5, kernel_burns, other_burns)
            with place.ssh_forward(place.services.echo) as (ssh_port, _):
                ssh = p50(ssh_port)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        a, b = (statistics.median(side) for side in zip(*found, strict=True))
        detail = f"{a:.0f} against {b:.0f} us; nothing burning {idle:.0f} us; ssh -L {ssh:.0f} us"
        verdicts.at_most("round trip p50, kernel burns / another burns", ratio(found), 1.5, detail)


if __name__ == "__main__":
    verdicts = Verdicts()
    main(verdicts)
    verdicts.exit()
