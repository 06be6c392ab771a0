"""How long an opening takes: the first forward, a second one to the same host, and `ssh -L` for comparison.

Wanted: the second forward within 20 ms (median of 20), the far service checked.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.setting import Verdicts, setting


def main(verdicts: Verdicts) -> None:
    import xec_forward as xf

    with setting() as place:
        target = xf.ssh("bastion")

        def open_one() -> tuple[float, xf.Tunnel]:
            start = time.perf_counter()
            tunnel = target.forward(remote_host="pg.vpc", remote_port=place.services.echo, local_port=0)
            return (time.perf_counter() - start) * 1e3, tunnel

        first, tunnel = open_one()
        times = []
        for _ in range(20):
            took, other = open_one()
            times.append(took)
            other.close()
        start = time.perf_counter()
        with place.ssh_forward(place.services.echo):
            ssh = (time.perf_counter() - start) * 1e3
        detail = f"first with a cold engine {first:.0f} ms; ssh -L {ssh:.0f} ms; worst {max(times):.1f} ms"
        verdicts.at_most("second forward to the same host, ms", statistics.median(times), 20, detail)
        tunnel.close()
        xf.close_all()


if __name__ == "__main__":
    verdicts = Verdicts()
    main(verdicts)
    verdicts.exit()
