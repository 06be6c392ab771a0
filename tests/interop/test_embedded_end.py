"""The embedded cluster's end: nothing of it goes on, and it says nothing."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import http.client, ssl, threading, urllib.request
from xec_forward.demo.cluster import Cluster

cluster = Cluster()
request = urllib.request.Request(
    cluster.server + "/api/v1/pods?watch=1&sendInitialEvents=true", headers={"Authorization": "Bearer " + cluster.token}
)
context = ssl.create_default_context(cadata=cluster.authority.decode())
with urllib.request.urlopen(request, context=context, timeout=10) as watch:
    assert b"BOOKMARK" in watch.readline()
    cluster.close()
    try:
        watch.read()
    except (http.client.HTTPException, OSError):
        print("cut")
print(threading.active_count())
"""


def test_close_ends_an_open_watch_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "cut\n1\n"
