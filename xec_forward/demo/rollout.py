"""What happens to pods while a notebook works: one is deleted, and its owner replaces it.

For the demo's notebooks, in the place of `kubectl delete pod`, which nobody needs to have installed.

>>> delete_pod("postgres-0")                                               # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from base64 import b64decode
from http import HTTPStatus
from pathlib import Path
from typing import Any

from .lifeline import DemoError

_TIMEOUT = 10.0  # seconds for one request
_GONE_WITHIN = 30.0  # seconds


def delete_pod(name: str, namespace: str = "default", kubeconfig: str | Path = "") -> None:
    """Delete a pod of the demo's cluster, and wait until it is gone, as `kubectl delete pod NAME` does.

    Args:
        kubeconfig: the demo's own, which is JSON and has one context; $KUBECONFIG unless told.

    Raises:
        DemoError: this is not the demo's kubeconfig; the API server refused, or does not answer; or the pod is still
            there after 30 s.
    """
    path = Path(kubeconfig or os.environ.get("KUBECONFIG", ""))
    try:
        config = json.loads(path.read_text())
        entry, token = config["clusters"][0]["cluster"], config["users"][0]["user"]["token"]
        authority = b64decode(entry["certificate-authority-data"]).decode()
    except (OSError, ValueError, LookupError):
        raise DemoError("KUBECONFIG does not lead to the demo's cluster. Elsewhere use: kubectl delete pod") from None
    # No proxy of the environment's: the cluster is on this machine.
    handlers = (
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=authority)),
    )
    opener = urllib.request.build_opener(*handlers)
    url = f"{entry['server']}/api/v1/namespaces/{namespace}/pods/{name}"
    deleted = _ask(opener, "DELETE", url, token)
    if deleted is None:
        raise DemoError(f"there is no pod {name} in the namespace {namespace}")
    deadline = time.monotonic() + _GONE_WITHIN
    while (pod := _ask(opener, "GET", url, token)) and pod["metadata"]["uid"] == deleted["metadata"]["uid"]:
        if time.monotonic() > deadline:
            raise DemoError(f"the pod {name} is still there after {_GONE_WITHIN:.0f} s")
        time.sleep(0.05)


def _ask(opener: urllib.request.OpenerDirector, method: str, url: str, token: str) -> Any:
    """The answer as JSON; None where there is no such object. Raises DemoError."""
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"Bearer {token}"})
    try:
        with opener.open(request, timeout=_TIMEOUT) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise DemoError(f"the cluster: {json.load(error).get('message', error.reason)}") from None
    except OSError as error:
        raise DemoError(f"the cluster does not answer: {error}") from None
