"""The commands of the palette in a real JupyterLab: Refresh Tunnels; Close All Tunnels, whatever kernels run beside."""

from __future__ import annotations

import time
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import show
from tests.browser.test_sidebar import Open, forward, row
from tests.peers.kernel import wait_until
from tests.peers.lab import Lab, LabKernel
from tests.peers.services import Services
from tests.peers.sshd import Sshd

OPEN_NAMES = "import xec_forward as xf\nprint(list(xf.tunnels))"
# Native code that keeps Python's global lock, until a signal comes.
HOLD = "import ctypes, pathlib\npathlib.Path({!r}).touch()\nctypes.PyDLL(None).sleep(300)"
# How long a person may wait for the dialog, seconds: a kernel that does not answer is waited for so long.
DIALOG_WITHIN = 2.5

# More than the actions that may be under way in a kernel at once.
MANY = 24
# Something moves in each, so that its close gives it time to finish.
DOWNLOADS = """
import socket, threading, time
import xec_forward as xf

def download(port):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"1000000000\\n")
        while s.recv(65536):
            time.sleep(0.05)

def quietly(port):
    try:
        download(port)
    except OSError:
        pass

for tunnel in xf.tunnels.values():
    threading.Thread(target=quietly, args=(tunnel.local_port,), daemon=True).start()
"""


def hold(kernel: LabKernel, folder: Path) -> str:
    """Begin a cell that keeps the lock, which also keeps it from telling so but by a file; its message's id."""
    held = folder / "held"
    message = kernel.start(HOLD.format(str(held)))
    wait_until(held.exists, "the cell did not begin")
    return message


def choose(page: Page, label: str) -> None:
    """Choose a command in the palette."""
    page.evaluate("window.jupyterapp.commands.execute('apputils:activate-command-palette')")
    page.locator(".lm-CommandPalette-input").fill(label)
    page.locator(".lm-CommandPalette-item", has_text=label).first.click()


def close_all(page: Page) -> tuple[Locator, float]:
    """Run Close All Tunnels; its dialog, and after how many seconds it came."""
    start = time.monotonic()
    page.evaluate("void window.jupyterapp.commands.execute('xec_forward:close-all')")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    return dialog, time.monotonic() - start


def test_close_all_asks_first(kernel: LabKernel, door: Sshd, services: Services, opened: Open) -> None:
    kernel.run(f"{forward(door, services.echo, 'echo')}\n{forward(door, services.hang, 'other', '--no-check')}")
    page = opened(panel=False)
    choose(page, "Close All Tunnels")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("2 tunnels will be closed: echo, other.")
    dialog.get_by_role("button", name="Close all").click()
    show(page)
    expect(page.get_by_role("region", name="Tunnels of orders.ipynb")).to_contain_text("No tunnel is open.")
    assert kernel.run(OPEN_NAMES) == "[]\n"


def test_kernel_that_does_not_answer_holds_up_neither_the_dialog_nor_the_others(
    kernel: LabKernel, lab: Lab, door: Sshd, services: Services, opened: Open, tmp_path: Path
) -> None:
    kernel.run(forward(door, services.echo, "echo"))
    stuck = lab.start_kernel("stuck.ipynb")
    stuck.run(f"%load_ext xec_forward\n{forward(door, services.echo, 'held')}")
    page = opened()
    expect(row(page, "echo")).to_contain_text("ready")
    expect(row(page, "held")).to_contain_text("ready")
    begun = hold(stuck, tmp_path)
    dialog, took = close_all(page)
    assert took < DIALOG_WITHIN
    expect(dialog).to_contain_text("2 tunnels will be closed")
    dialog.get_by_role("button", name="Close all").click()
    expect(row(page, "echo")).to_have_count(0)
    expect(dialog).to_contain_text("stuck.ipynb: native code keeps the kernel from answering")
    expect(row(page, "held")).to_have_count(1)
    # Then it takes effect all the same.
    page.keyboard.press("Escape")
    stuck.interrupt()
    stuck.wait(begun)
    expect(row(page, "held")).to_have_count(0)
    assert stuck.run(OPEN_NAMES) == "[]\n"


def test_kernel_that_has_never_answered_is_named(
    kernel: LabKernel, lab: Lab, door: Sshd, services: Services, opened: Open, tmp_path: Path
) -> None:
    kernel.run(forward(door, services.echo, "echo"))
    stuck = lab.start_kernel("stuck.ipynb")
    begun = hold(stuck, tmp_path)
    page = opened()
    expect(row(page, "echo")).to_contain_text("ready")
    dialog, took = close_all(page)
    assert took < DIALOG_WITHIN
    expect(dialog).to_contain_text(
        "1 tunnel will be closed: echo. Without an answer, and left as they are: stuck.ipynb."
    )
    stuck.interrupt()
    stuck.wait(begun)


def test_kernels_without_the_extension_are_left_alone(kernel: LabKernel, lab: Lab, opened: Open) -> None:
    lab.start_kernel("plain.ipynb")
    before = lab.log().count("UNKNOWN CONTROL MESSAGE")
    page = opened()
    expect(page.locator(".xf-Panel")).to_contain_text("One more kernel has not loaded xec_forward.")
    for _ in range(2):
        dialog, took = close_all(page)
        assert took < DIALOG_WITHIN
        expect(dialog).to_contain_text("No tunnel is open.")
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
    assert lab.log().count("UNKNOWN CONTROL MESSAGE") == before + 1


def test_close_all_closes_any_number_of_tunnels_in_use(
    kernel: LabKernel, door: Sshd, services: Services, opened: Open
) -> None:
    specs = "\n".join(f"s{number}=0:{door.far()}:{services.source} --no-check" for number in range(MANY))
    kernel.run(f"%%forward bastion\n{specs}")
    kernel.run(DOWNLOADS)
    page = opened()
    expect(page.locator(".xf-Row", has_text="1 client now")).to_have_count(MANY)
    dialog, _ = close_all(page)
    dialog.get_by_role("button", name="Close all").click()
    expect(dialog).to_have_count(0)
    expect(page.locator(".xf-Row")).to_have_count(0)
    assert kernel.run(OPEN_NAMES) == "[]\n"


def test_refresh_shows_a_kernel_that_somebody_else_started(
    lab: Lab, door: Sshd, services: Services, opened: Open
) -> None:
    page = opened()
    expect(page.locator(".xf-Panel")).to_contain_text("No kernel has tunnels yet.")
    # JupyterLab itself looks every 10 seconds.
    for manager in ("kernels", "sessions"):
        page.evaluate(f"window.jupyterapp.serviceManager.{manager}._pollModels.stop()")
    lab.start_kernel("orders.ipynb").run(f"%load_ext xec_forward\n{forward(door, services.echo, 'echo')}")
    choose(page, "Refresh Tunnels")
    expect(row(page, "echo")).to_contain_text("ready")
