"""A slow opening shows live which step it is in; Ctrl-C ends it and leaves nothing half-open."""

from __future__ import annotations

import re

import pytest

from tests.peers.kernel import Kernel, wait_until
from tests.peers.ports import free_port, port_free
from tests.peers.services import Services
from tests.peers.sshd import Sshd


def test_slow_opening_shows_its_step_and_the_card_takes_its_place(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    bastion.freeze()
    running = kernel.start(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo")
    running.until(lambda result: len(result.displays) == 1 and len(result.displays[0].bundles) >= 3)
    bastion.thaw()
    result = running.wait().ok()
    assert len(result.displays) == 1
    *steps, card = result.displays[0].bundles
    for shown in steps:
        assert re.match(r"echo  opening  .*bastion.*  ssh for \d+ s\.\.\.$", shown["text/plain"])
        assert "text/html" in shown
    assert card["text/plain"].startswith("echo  ready  127.0.0.1:")
    assert len(steps) <= 4 * result.seconds + 1


def test_quick_opening_shows_nothing_but_its_card(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    result = kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo").ok()
    assert [len(display.bundles) for display in result.displays] == [1]


@pytest.mark.parametrize("cell", ["{line}", "import asyncio\nawait asyncio.sleep(0)\n{line}"], ids=["plain", "await"])
def test_interrupt_cancels_an_opening_and_leaves_nothing(
    kernel: Kernel, bastion: Sshd, services: Services, cell: str
) -> None:
    port = free_port()
    line = f"%forward bastion {port}:{bastion.far()}:{services.echo} --as echo"
    bastion.freeze()
    running = kernel.start(cell.format(line=line))
    running.until(lambda result: bool(result.displays))
    kernel.interrupt()
    result = running.wait()
    bastion.thaw()
    assert result.error is not None
    assert result.error.name == "Interrupted"
    assert result.error.traceback == result.error.value
    assert result.error.value.startswith("interrupted; ")
    assert result.displays[0].text == ""
    assert kernel.value("(len(__import__('xec_forward').tunnels), 'echo' in globals())") == (0, False)
    assert port_free(port)
    wait_until(lambda: bastion.connections() == 0, "a connection to the bastion is left")
    kernel.run(line).ok()
    assert kernel.value("echo.local_port") == port


def test_interrupt_at_a_prompt_cancels(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    bastion.write_config(bastion.folder.parent / "ssh_config", IdentityFile=bastion.encrypted_key())
    port = free_port()
    running = kernel.start(f"%forward bastion {port}:{bastion.far()}:{services.echo} --as echo", allow_stdin=True)
    running.until(lambda result: bool(result.prompts))
    kernel.interrupt()
    result = running.wait()
    assert result.error is not None
    assert result.error.name == "Interrupted"
    assert port_free(port)
    wait_until(lambda: bastion.connections() == 0, "a connection to the bastion is left")


def test_failed_opening_leaves_no_progress_on_the_screen(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    bastion.freeze()
    result = kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo --timeout 2")
    bastion.thaw()
    assert result.error is not None
    assert result.error.traceback.startswith("ETIMEDOUT bastion: ")
    assert len(result.error.traceback.splitlines()) == 1
    assert result.displays[0].text == ""


def test_interrupt_after_the_opening_leaves_nothing_either(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    port, flag = free_port(), kernel.folder / "asked"
    line = f"%forward bastion {port}:{bastion.far()}:{services.hang} --as pg --no-check --dsn postgresql://ana@/sales"
    running = kernel.start(f"{line} --password 'cmd:touch {flag}; sleep 60'")
    wait_until(flag.exists, "the SOURCE was not asked")
    kernel.interrupt()
    result = running.wait()
    assert result.error is not None
    assert result.error.name == "Interrupted"
    assert port_free(port)
    assert kernel.value("(len(__import__('xec_forward').tunnels), 'pg' in globals())") == (0, False)
