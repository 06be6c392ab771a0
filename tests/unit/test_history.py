"""The rate and the line of a tunnel, made of the engine's reports alone."""

from __future__ import annotations

import pytest

from xec_forward.client.history import POINTS, History
from xec_forward.model import Counters, Snapshot, TunnelState
from xec_forward.spec import Kind


def report(history: History, when: float, up: int, down: int = 0) -> None:
    counters = Counters(bytes_up=up, bytes_down=down)
    history.add(Snapshot(1, "pg", Kind.LOCAL, TunnelState.READY, counters=counters, serial=round(when * 1e9)))


def test_nothing_moves_before_the_second_report() -> None:
    history = History()
    assert (history.rate(100.0), history.line(100.0)) == (0.0, (0,) * POINTS)
    report(history, 100.0, 5000)
    assert history.rate(100.0) == 0.0


def test_steady_stream_has_its_rate() -> None:
    history = History()
    for tick in range(20):
        report(history, 100 + tick / 2, up=tick * 500, down=tick * 1500)
    assert history.rate(109.5) == pytest.approx(4000)
    assert history.line(109.5)[-9:] == (4000,) * 9


def test_rate_is_back_at_nothing_two_seconds_later() -> None:
    history = History()
    report(history, 100.0, 0)
    report(history, 100.5, 1000)
    assert history.rate(100.5) == pytest.approx(500)
    assert history.rate(102.5) == 0.0


def test_what_comes_after_a_long_silence_has_not_trickled() -> None:
    history = History()
    report(history, 100.0, 0)
    report(history, 120.0, 3000)
    assert history.line(120.0) == (0,) * (POINTS - 1) + (3000,)


def test_line_moves_on_and_forgets() -> None:
    history = History()
    report(history, 100.0, 0)
    report(history, 101.0, 1000)
    assert history.line(101.0)[-1] == 1000
    assert history.line(111.0)[-11] == 1000
    assert sum(history.line(131.0)) == 0


def test_nothing_is_lost_between_two_seconds() -> None:
    history = History()
    for tick in range(30):
        report(history, 100.3 + tick * 0.47, up=tick * 1000)
    assert abs(sum(history.line(113.93)) - 29_000) <= POINTS


def test_older_report_is_passed_over() -> None:
    history = History()
    report(history, 100.0, 0)
    report(history, 101.0, 1000)
    report(history, 100.5, 700)
    assert sum(history.line(101.0)) == 1000


def test_engine_that_counts_anew_takes_nothing_back() -> None:
    history = History()
    report(history, 100.0, 50_000)
    report(history, 101.0, 0)
    report(history, 102.0, 100)
    assert history.line(102.0)[-2:] == (0, 100)
