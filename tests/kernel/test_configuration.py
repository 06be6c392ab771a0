"""`c.ForwardMagics` in ipython_config.py and `%config ForwardMagics`, in real kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.peers import kernel as peer
from tests.peers.kernel import Kernel
from tests.peers.services import Services
from tests.peers.sshd import Sshd

HOLD = "e.request.options.hold"


@pytest.fixture
def configured(tmp_path: Path, bastion: Sshd) -> Iterator[Callable[[str], Kernel]]:
    """Starts a kernel with this ipython_config.py, which nobody tells to load anything."""
    if missing := peer.missing():
        pytest.skip(missing)
    with ExitStack() as stack:

        def start(configuration: str) -> Kernel:
            folder = tmp_path / "kernel"
            profile = folder / "home" / ".ipython" / "profile_default"
            profile.mkdir(parents=True)
            (profile / "ipython_config.py").write_text(f"c = get_config()\n{configuration}\n")
            env = {name: os.environ[name] for name in ("XEC_FORWARD_SSH_CONFIG", "XEC_FORWARD_STATE")}
            return stack.enter_context(Kernel(folder, env))

        yield start


def test_file_loads_the_extension_and_sets_defaults(
    configured: Callable[[str], Kernel], bastion: Sshd, services: Services
) -> None:
    kernel = configured('c.InteractiveShellApp.extensions = ["xec_forward"]\nc.ForwardMagics.hold = 60')
    line = f"%forward bastion e=0:{bastion.far()}:{services.echo}"
    kernel.run(line).ok()
    assert kernel.value(HOLD) == 60
    kernel.run(f"{line} --hold 5").ok()
    assert kernel.value(HOLD) == 5
    kernel.run(f"%config ForwardMagics.hold = 7\n{line}").ok()
    assert kernel.value(HOLD) == 7
    assert kernel.run("%config ForwardMagics.hold").ok().result == {"text/plain": "7"}
    kernel.run(f"%config ForwardMagics.hold = None\n{line}").ok()
    assert kernel.value(HOLD) == 30
    # A cell of code, and a list.
    kernel.run("%config ForwardMagics.hold = 8").ok()
    assert kernel.run(f"%{line}\nprint({HOLD})").ok().stdout == "8.0\n"
    kernel.run(f"%%forward bastion\nf=0:{bastion.far()}:{services.echo}").ok()
    assert kernel.value("f.request.options.hold") == 8


def test_bad_value_is_one_line_and_opens_nothing(
    configured: Callable[[str], Kernel], bastion: Sshd, services: Services
) -> None:
    kernel = configured('c.InteractiveShellApp.extensions = ["xec_forward"]\nc.ForwardMagics.host_key = "stricct"')
    said = "ECONFIG ForwardMagics: host_key 'stricct': ask, strict or accept-new is expected. Write host_key = strict"
    line = f"%forward bastion e=0:{bastion.far()}:{services.echo}"
    done = kernel.run(line)
    assert done.error is not None
    assert done.error.traceback == said
    # What opens nothing works, and a good value mends it.
    assert "no tunnel" in kernel.run("%forward").ok().text.lower()
    bad = kernel.run("%config ForwardMagics.hold = 'soon'").ok()
    assert bad.text.count("hold 'soon': a number of seconds") == 1
    assert "Traceback" not in bad.text
    kernel.run(f"%config ForwardMagics.host_key = 'strict'\n{line}").ok()
    assert kernel.value("e.request.ssh.host_key") == "strict"
    again = kernel.run("%unload_ext xec_forward\n%load_ext xec_forward").ok()
    assert again.stderr.startswith("xec_forward: ECONFIG ForwardMagics: hold 'soon': ")
    assert again.stderr.count("\n") == 1


def test_config_in_the_cell_that_loads(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run("%unload_ext xec_forward").ok()
    kernel.run("%load_ext xec_forward\n%config ForwardMagics.ttl = '10m'").ok()
    shown = kernel.run("%config ForwardMagics").ok().stdout
    assert "ForwardMagics.hold=" in shown
    assert "Current: '10m'" in shown
    kernel.run(f"%forward bastion e=0:{bastion.far()}:{services.echo}").ok()
    assert kernel.value("e.request.options.ttl") == 600
