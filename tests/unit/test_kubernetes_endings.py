"""What the node says of a connection that failed, as our errors: texts recorded from containerd, and of others."""

from __future__ import annotations

import pytest

from tests.peers.wire import SERVER, load
from xec_forward.engine.links.kubernetes.endings import explain, readable
from xec_forward.errors import (
    DeadlineError,
    ForwardError,
    LostError,
    PodGoneError,
    RefusedError,
    UnreachableError,
)
from xec_forward.spdy import Data

SANDBOX = "6a1f0c3d9b2e4f5a6a1f0c3d9b2e4f5a6a1f0c3d9b2e4f5a6a1f0c3d9b2e4f5a"


def recorded(name: str, stream: int) -> str:
    """The text on an error stream of a recording."""
    frames = load(name).frames(SERVER)
    return b"".join(each.data for each in frames if isinstance(each, Data) and each.stream == stream).decode()


@pytest.mark.parametrize(
    ("name", "stream", "kind"),
    [
        ("spdy-raw/04-refused", 1, RefusedError),
        ("spdy-ws-16444/04b-refused-no-data", 1, RefusedError),
        ("spdy-raw/16-container-not-started", 1, RefusedError),
        ("spdy-raw/06-pod-resets", 1, LostError),
        ("spdy-raw/10-pod-deleted", 5, PodGoneError),
        ("spdy-raw/14-lone-error-stream", 1, DeadlineError),
    ],
)
def test_recorded_text_has_its_error(name: str, stream: int, kind: type[ForwardError]) -> None:
    text = recorded(name, stream)
    assert text, "the recording has no such text"
    error = explain(text, 9, "web-1:9")
    assert type(error) is kind
    assert error.hop == "web-1:9"
    assert "cni-" not in str(error)
    assert "sandbox" not in str(error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # CRI-O
        (
            f"error forwarding port 9 to pod {SANDBOX}, uid : port forward into network namespace "
            '"/var/run/netns/2a": failed to connect to localhost:9 inside namespace: dial tcp [::1]:9: '
            "connect: connection refused",
            RefusedError,
        ),
        (f"error forwarding port 9 to pod {SANDBOX}, uid : could not find sandbox {SANDBOX}", PodGoneError),
        (f"error forwarding port 9 to pod {SANDBOX}, uid : sandbox {SANDBOX} is not running", PodGoneError),
        # containerd
        (f'error forwarding port 9 to pod {SANDBOX}, uid : sandbox container "{SANDBOX}" is not running', PodGoneError),
        (f'an error occurred when try to find sandbox "{SANDBOX}": not found', PodGoneError),
        ('open netns: lstat "/var/run/netns/cni-1": no such file or directory', PodGoneError),
        ('failed to Statfs "/var/run/netns/cni-1": no such file or directory', PodGoneError),
        # Docker's shim, by socat
        (
            "error forwarding port 9 to pod 0a1b2c3d4e5f, uid : exit status 1: 2023/01/01 socat[12345] E connect(5, "
            "AF=2 127.0.0.1:9, 16): Connection refused",
            RefusedError,
        ),
        ("unable to do port forwarding: socat not found", LostError),
        ("dial tcp4 127.0.0.1:9: i/o timeout", DeadlineError),
        ("dial tcp 10.1.2.3:9: connect: no route to host", UnreachableError),
        ("write tcp4 127.0.0.1:1->127.0.0.1:9: write: broken pipe", LostError),
        ("something nobody has seen", LostError),
        ("", LostError),
    ],
)
def test_other_texts_have_their_error(text: str, kind: type[ForwardError]) -> None:
    assert type(explain(text, 9, "web-1:9")) is kind


def test_reset_by_the_service_says_so() -> None:
    assert "reset" in explain(recorded("spdy-raw/06-pod-resets", 1), 7006, "web-1:7006").message


def test_what_is_shown_has_no_ids_and_fits_a_line() -> None:
    text = (
        f"error forwarding port 9 to pod {SANDBOX}, uid : failed to execute portforward in network namespace "
        f'"/var/run/netns/cni-1b4e28ba-2fa1-11d2-883f-0016d3cca427": read tcp4 127.0.0.1:5->127.0.0.1:9: '
        f"something\nodd\x1b[31m in {SANDBOX} happened "
    )
    assert readable(text) == "something odd [31m in the pod happened"
    long = readable("word " * 400)
    assert len(long) <= 160
    assert long.endswith("...")
