"""ControlPath's tokens, checked against what the real ssh makes of them (`ssh -G`)."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import replace

import pytest

from xec_forward.engine.links.ssh.control_path import Names, candidates, expand
from xec_forward.errors import ConfigError

NAMES = Names(
    "Bastion",
    "Bastion.Example.org",
    2222,
    "ana",
    "jump.example.org",
    "alias",
    "here.example.net",
    "me",
    1000,
    "/home/me",
)


def digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/t/%r@%h:%p", "/t/ana@bastion.example.org:2222"),
        ("/t/%n-%l-%L-%u-%i", "/t/Bastion-here.example.net-here-me-1000"),
        ("/t/%k-%j-%d-%%h", "/t/alias-jump.example.org-/home/me-%h"),
        ("~/.ssh/cm-%h", "/home/me/.ssh/cm-bastion.example.org"),
        ("/t/~/x", "/t/~/x"),
        ("~root/x", f"{os.path.expanduser('~root')}/x"),
        ("/t/${WHERE}/%p", "/t/%h/2222"),
        ("/t/%C", "/t/" + digest("here.example.netbastion.example.org2222anajump.example.org")),
        ("none", ""),
        ("None", ""),
        ("", ""),
    ],
)
def test_tokens_become_what_they_stand_for(text: str, path: str) -> None:
    assert expand(text, NAMES, {"WHERE": "%h"}) == path


@pytest.mark.parametrize("text", ["/t/%x", "/t/%", "/t/${NOT_SET}", "/t/${", "/t/${}", "~nobody-of-that-name/x"])
def test_what_ssh_refuses_is_refused_with_the_text_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(text, NAMES)
    assert text in str(caught.value)


def test_path_too_long_for_a_socket_is_refused() -> None:
    assert expand("/" + "x" * 102, NAMES)
    with pytest.raises(ConfigError, match="too long"):
        expand("/" + "x" * 108, NAMES)


def test_hash_without_the_jump_host_is_a_candidate_because_older_ssh_left_it_out() -> None:
    old = "/t/" + digest("here.example.netbastion.example.org2222ana")
    assert candidates("/t/%C", NAMES) == (expand("/t/%C", NAMES), old)
    assert candidates("/t/%C", replace(NAMES, jump="")) == (old,)
    assert candidates("/t/%h", NAMES) == ("/t/bastion.example.org",)
    assert candidates("none", NAMES) == ()


@pytest.mark.parametrize("text", ["~/%r@%h:%p", "/t/%C", "/t/%n.%l.%L.%u.%i", "%d/%%", "/t/${SOCKET_NAME}-%h"])
def test_real_ssh_makes_the_same_path(text: str) -> None:
    if not shutil.which("ssh"):
        pytest.skip("ssh (Debian: openssh-client)")
    names = Names("Bastion", "Bastion.Example.org", 2222, "ana").here()
    environment = {**os.environ, "SOCKET_NAME": "cm"}
    options = ["HostName=Bastion.Example.org", "Port=2222", "User=ana", f"ControlPath={text}"]
    command = ["ssh", "-F", "none", "-G", *(word for option in options for word in ("-o", option)), "Bastion"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=environment)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("controlpath "))
    assert line == f"controlpath {expand(text, names, environment)}"
