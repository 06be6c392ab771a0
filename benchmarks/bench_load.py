"""What `%load_ext xec_forward` costs a kernel. Wanted: at most 30 ms, and none of the heavy modules.

Measured in fresh kernels by the kernel's own clock, median of 5.
"""

from __future__ import annotations

import ast
import statistics

from jupyter_client.manager import start_new_kernel

from benchmarks.setting import Verdicts, setting

HEAVY = {"asyncssh", "aiohttp", "ipywidgets", "kubernetes_asyncio", "sqlalchemy", "pandas", "keyring", "uvloop"}
CODE = """
import sys, time
before = set(sys.modules)
start = time.perf_counter()
get_ipython().run_line_magic("load_ext", "xec_forward")
took = time.perf_counter() - start
"""


def one() -> tuple[float, set[str]]:
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        reply = client.execute(
            CODE, user_expressions={"took": "took", "new": "sorted(set(sys.modules) - before)"}, reply=True, timeout=60
        )
        values = reply["content"]["user_expressions"]
        took = float(values["took"]["data"]["text/plain"])
        return took * 1e3, set(ast.literal_eval(values["new"]["data"]["text/plain"]))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def main(verdicts: Verdicts) -> None:
    with setting():
        runs = [one() for _ in range(5)]
    times = [took for took, _ in runs]
    heavy = set().union(*(new for _, new in runs)) & HEAVY
    verdicts.at_most("%load_ext xec_forward, ms", statistics.median(times), 30, f"worst {max(times):.0f} ms")
    verdicts.at_most("heavy modules it imports", len(heavy), 0, " ".join(sorted(heavy)))


if __name__ == "__main__":
    verdicts = Verdicts()
    main(verdicts)
    verdicts.exit()
