"""How long it takes from a click on Close to the row that is gone, while the kernel's cell is busy.

Each case is tried a few times, and the median counts: the machine, the browser and the server do other things too, now
and then; what a test holds is what a person meets who presses the button.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.test_sidebar import END_HUNG, QUERY, Open, forward, hung, row, sales
from tests.peers.kernel import wait_until
from tests.peers.lab import LabKernel
from tests.peers.postgres import Postgres
from tests.peers.services import Services
from tests.peers.sshd import Sshd

__all__ = ["hung"]  # a fixture

# What a person takes for at once, milliseconds.
AT_ONCE = 250
TRIES = ("first", "second", "third", "fourth", "fifth")

# Clicks on Close, and resolves when the row is gone, with the milliseconds that it took.
CLOSE = """name => new Promise((resolve, reject) => {
    const row = document.querySelector(`.xf-Row[data-tunnel="${name}"]`);
    const start = performance.now();
    const gone = new MutationObserver(() => row.isConnected || resolve(performance.now() - start));
    gone.observe(row.parentElement, { childList: true });
    setTimeout(() => reject(new Error('the row stays')), 10_000);
    row.querySelector('button').click();
})"""

BUSY = {
    "sleeps": "import time\ntime.sleep(60)",
    "burns": "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: sum(range(1000))",
}


def at_once(took: list[float]) -> bool:
    """Whether the median was."""
    print(f"from the click to the row that is gone: {', '.join(f'{each:.0f} ms' for each in took)}")
    return statistics.median(took) < AT_ONCE


@pytest.mark.parametrize("code", BUSY.values(), ids=BUSY.keys())
def test_close_is_answered_at_once_while_the_cell(
    code: str, kernel: LabKernel, door: Sshd, services: Services, opened: Open
) -> None:
    page = opened()
    kernel.run("\n".join(forward(door, services.echo, name) for name in TRIES))
    expect(row(page, TRIES[-1])).to_contain_text("● ready")
    begun = kernel.begin(code)
    assert at_once([page.evaluate(CLOSE, name) for name in TRIES])
    kernel.interrupt()
    kernel.wait(begun)


def test_close_is_answered_at_once_while_the_cell_hangs_in_a_query_of_that_tunnel_and_of_another(
    kernel: LabKernel, door: Sshd, postgres: Postgres, services: Services, opened: Open, hung: Callable[[], bool]
) -> None:
    page = opened()
    others, own = [], []
    for name in TRIES:
        kernel.run(f"{sales(door, postgres)}\n{forward(door, services.echo, name)}")
        begun = kernel.begin(QUERY)
        wait_until(hung, "the query does not run")
        expect(row(page, "pg")).to_contain_text("1 client now")
        # The login was traffic; what still moves is given time to finish.
        expect(row(page, "pg").locator(".xf-Row-rate")).to_be_hidden()
        others.append(page.evaluate(CLOSE, name))
        own.append(page.evaluate(CLOSE, "pg"))
        assert kernel.wait(begun)["ename"] == "OperationalError"
        postgres.sql(END_HUNG)
        wait_until(lambda: not hung(), "the query does not end")
    assert at_once(others)
    assert at_once(own)
