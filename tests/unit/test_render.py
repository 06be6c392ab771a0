"""Cards and the table, as text and as HTML."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from xec_forward.model import Counters, Fault, Snapshot, Step, TunnelState
from xec_forward.render import (
    SIGNS,
    Card,
    Cards,
    Facts,
    Progress,
    Table,
    clock,
    drawing,
    duration,
    size,
    sparkline,
    speed,
    way,
)
from xec_forward.spec import Kind

NOW = 1_000_000.0

READY = Snapshot(
    1,
    "pg",
    Kind.LOCAL,
    TunnelState.READY,
    ("bastion",),
    "127.0.0.1:5432",
    "127.0.0.1",
    5432,
    "pg.vpc:5432",
    "pg.vpc",
    5432,
    since=NOW - 720,
    opened=NOW - 720,
    steps=(Step("ssh", 0.52, "ok"), Step("target", 0.21, "ok"), Step("postgresql", 0.05, "ok")),
)


def _changed(**fields: object) -> Snapshot:
    import msgspec

    return msgspec.structs.replace(READY, **fields)


def _text(markup: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", markup)).replace("\N{NO-BREAK SPACE}", " ")


def test_card_of_an_opening_says_way_time_and_checks() -> None:
    card = Card(READY, ("pg", "pg_dsn"), fresh=True, now=NOW)
    assert card.plain().splitlines() == [
        "pg  ready  127.0.0.1:5432 -> bastion -> pg.vpc:5432  0.8 s (ssh 0.5, target 0.2, postgresql ok)",
        "  names: pg, pg_dsn",
    ]


def test_card_of_a_reused_tunnel_says_since_when() -> None:
    assert Card(READY, reused=True, now=NOW).plain().endswith("reused, up 12 min")


def test_later_card_says_how_the_tunnel_fares() -> None:
    counters = Counters(clients=1, clients_total=4, bytes_up=1200, bytes_down=3_400_000)
    card = Card(_changed(counters=counters), now=NOW)
    assert card.plain().endswith("up 12 min, 1 client now, 4 in all, 1.2 kB sent, 3.4 MB received")


def test_card_shows_error_with_its_fix_log_and_notes() -> None:
    fault = Fault("RefusedError", "ECONNREFUSED", "connection refused", "pg.vpc:5432", "is it running?")
    card = Card(_changed(state=TunnelState.FAILED, error=fault, log="/x/engine.log", notes=("another port",)), now=NOW)
    lines = card.plain().splitlines()
    assert lines[0].startswith("pg  failed  ")
    assert "  ECONNREFUSED pg.vpc:5432: connection refused. is it running?" in lines
    assert "  log: /x/engine.log" in lines
    assert "  note: another port" in lines


@pytest.mark.parametrize("state", list(TunnelState))
def test_every_state_has_a_word_and_a_sign_and_no_colour(state: TunnelState) -> None:
    for view in (Card(_changed(state=state), now=NOW), Table((_changed(state=state),), NOW)):
        assert str(state) in view.plain()
        assert f"{SIGNS[state]} {state}" in _text(view.html())
        # What a theme has no colour for takes the colour around it.
        assert not re.search(r"color:(?!inherit|var\(--jp-[a-z]+-color1,currentColor\))|#[0-9a-f]{3}|rgb", view.html())


def test_html_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    fault = Fault("ForwardError", "EFORWARD", evil, evil, evil)
    snapshot = _changed(route=(evil,), connect=evil, error=fault, notes=(evil,), log=evil, name=evil)
    for view in (
        Card(snapshot, (evil,), (evil,), (evil,), now=NOW),
        Table((snapshot,), NOW),
        Progress((snapshot,), NOW),
    ):
        assert "<script" not in view.html()
        assert evil in _text(view.html())


def test_text_and_html_say_the_same() -> None:
    card = Card(READY, ("pg", "pg_dsn"), ("PGHOST",), ("a remark",), now=NOW)
    words = _text(card.html()).replace(SIGNS[TunnelState.READY], "").replace("→", "->").split()
    assert words == card.plain().split()


def test_several_cards_are_one_bundle() -> None:
    cards = Cards((Card(READY, now=NOW), Card(_changed(name="cache"), now=NOW)))
    bundle = cards._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert [line.split()[0] for line in bundle["text/plain"].splitlines()] == ["pg", "cache"]


def test_table_has_counters_uptime_errors_and_log() -> None:
    fault = Fault("LostError", "ECONNRESET", "the link was lost", "bastion", "it comes back by itself")
    counters = Counters(2, 1, 7, 10, 2_500_000, reconnects=3)
    lost = _changed(name="cache", state=TunnelState.RECONNECTING, error=fault, counters=counters, log="/x/engine.log")
    lines = Table((READY, lost), NOW).plain().splitlines()
    assert lines[0].split() == ["name", "state", "way", "up", "clients", "sent", "received", "reconnects"]
    assert "2 (1 waiting) of 7" in lines[2]
    assert "2.5 MB" in lines[2]
    assert "12 min" in lines[1]
    assert lines[3] == "cache: ECONNRESET bastion: the link was lost. it comes back by itself"
    assert lines[4] == "cache: log /x/engine.log"


def test_no_number_in_the_table_is_parted_from_its_unit() -> None:
    cells = re.findall(r'<t[hd][^>]* style="([^"]*)">(.*?)</t[hd]>', Table((READY,), NOW).html())
    breaking = [_text(text) for style, text in cells if "white-space:nowrap" not in style]
    assert breaking == ["name", "way", "pg", "127.0.0.1:5432 → bastion → pg.vpc:5432"]


def test_table_shows_turned_away_and_refused_where_there_were_any() -> None:
    troubled = _changed(name="cache", counters=Counters(refused=2, rejected=1))
    table = Table((READY, troubled), NOW)
    assert table.plain().splitlines()[0].split()[-2:] == ["rejected", "refused"]
    assert table.plain().splitlines()[2].split()[-2:] == ["1", "2"]
    assert Table((_changed(counters=Counters(refused=2)),), NOW).plain().splitlines()[0].split()[-1] == "refused"
    assert "1 rejected, 2 refused" in Card(troubled, now=NOW).plain()


def test_time_that_the_ttl_leaves_is_told() -> None:
    facts = Facts(READY, ttl=3600)
    assert "closes in 48 min" in Card(facts, now=NOW).plain()
    assert "closes in 48 min" in _text(Card(facts, fresh=True, now=NOW).html())
    assert "closes in" in Table((facts, READY), NOW).plain().splitlines()[0]
    assert "48 min" in Table((facts, READY), NOW).plain().splitlines()[1]
    assert "closes in" not in Table((READY,), NOW).plain()


def test_card_that_stays_says_times_that_do_not_grow() -> None:
    def card(now: float) -> Card:
        return Card(Facts(READY, ttl=3600), now=now, lasting=True)

    assert card(NOW).html() == card(NOW + 60).html()
    assert f"since {clock(NOW - 720, NOW)}, closes at {clock(NOW + 2880, NOW)}" in card(NOW).plain()
    steps = (Step("ssh", 0.52, "ok"), Step("target"))
    opening = _changed(state=TunnelState.OPENING, steps=steps, step_since=NOW - 3)
    assert Card(opening, now=NOW, lasting=True).plain().endswith("ssh 0.5 s, target...")
    assert Card(opening, now=NOW).plain().endswith("ssh 0.5 s, target for 3 s...")


def test_what_moves_is_told_and_drawn() -> None:
    facts = Facts(READY, rate=12_000, line=(0, 0, 500, 12_000))
    assert Card(facts, now=NOW).plain().endswith("up 12 min, 12 kB/s ▁▁▂█")
    assert Table((facts,), NOW).plain().splitlines()[1].rstrip().endswith("12 kB/s ▁▁▂█  0")
    for view in (Card(facts, now=NOW), Table((facts,), NOW)):
        assert "12 kB/s" in view.html()
        assert 'role="img" aria-label="traffic of the last seconds"' in view.html()
        assert 'stroke="currentColor"' in view.html()
    assert "<svg" not in Card(READY, now=NOW).html()


@pytest.mark.parametrize(
    ("line", "text"),
    [((), ""), ((0, 0), ""), ((0, 1, 4, 8, 0), "▁▂▅█▁"), ((1, 10**9), "▂█"), ((0,) * 29 + (1,), "▁" * 14 + "█")],
)
def test_sparklines(line: tuple[int, ...], text: str) -> None:
    assert sparkline(line) == text
    assert bool(drawing(line, "x")) == bool(text)


def test_drawing_stays_inside_its_box() -> None:
    points = re.search('points="([^"]*)"', drawing((0, 5, 10), "x"))
    assert points is not None
    assert points[1] == "0.0,16.0 45.0,8.0 90.0,0.0"


@pytest.mark.parametrize(("rate", "text"), [(0.0, ""), (0.9, ""), (1.0, "1 B/s"), (1_234_567.8, "1.2 MB/s")])
def test_speeds(rate: float, text: str) -> None:
    assert speed(rate) == text


def test_clock_adds_the_date_on_another_day() -> None:
    assert re.fullmatch(r"\d\d:\d\d:\d\d", clock(NOW, NOW))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", clock(NOW - 90_000, NOW))


def test_lines_of_a_card_stand_apart_without_any_style() -> None:
    """A front-end takes the styles away from a notebook that it does not trust."""
    card = Card(_changed(notes=("another port",)), ("pg", "pg_dsn"), now=NOW)
    bare = re.sub(' style="[^"]*"', "", card.html())
    assert re.findall("<div>(?:(?!<div>).)+</div>", bare)[1:] == [
        "<div>names: pg, pg_dsn</div>",
        "<div>note: another port</div>",
    ]


def test_facts_are_plain_json() -> None:
    fault = Fault("RefusedError", "ECONNREFUSED", "connection refused", "pg.vpc:5432", "is it running?")
    counters = Counters(1, 0, 4, 1200, 3_400_000, 2, 1)
    facts = Facts(_changed(error=fault, counters=counters, notes=("n",)), ttl=60, rate=1000, line=(1, 2))
    told = facts.json()
    assert json.loads(json.dumps(told)) == told
    assert (told["error"], told["hint"]) == ("ECONNREFUSED pg.vpc:5432: connection refused", "is it running?")
    assert told["how"] == ["1 client now, 4 in all", "1.2 kB sent, 3.4 MB received, 1 rejected, 2 refused"]
    assert (told["times"], told["rate"], told["line"]) == (
        [["up", NOW - 720], ["closes in", NOW - 660]],
        "1.0 kB/s",
        [1, 2],
    )


@pytest.mark.parametrize("state", [state for state in TunnelState if state is not TunnelState.WAITING])
def test_sidebar_is_told_what_the_card_says(state: TunnelState) -> None:
    fault = Fault("RefusedError", "ECONNREFUSED", "connection refused", "pg.vpc:5432", "is it running?")
    steps = (Step("ssh", 0.52, "ok"), Step("target"))
    counters = Counters(1, 1, 4, 1200, 3_400_000, 2)
    snapshot = _changed(state=state, since=NOW - 90, steps=steps, counters=counters, error=fault, notes=("n",))
    facts = Facts(snapshot, ttl=3600)
    card, told = Card(facts, now=NOW).plain(), facts.json()
    ages = [] if state is TunnelState.OPENING else facts.ages(NOW)
    said = [told["name"], told["state"], *told["way"], *told["notes"], told["error"], told["hint"], *ages]
    assert [text for text in said if text not in card] == []
    # While it opens the card's step counts its seconds, and the sidebar its age.
    assert all(part in card for line in told["how"] for part in line.removesuffix("...").split(", "))


def test_state_that_is_not_ready_says_for_how_long() -> None:
    snapshot = _changed(state=TunnelState.RECONNECTING, since=NOW - 90)
    assert Card(snapshot, now=NOW).plain().endswith("for 1 min")
    assert Facts(snapshot).json()["times"] == [["for", NOW - 90]]


def test_waiting_tunnel_says_which_way_on_there_is() -> None:
    snapshot = _changed(state=TunnelState.WAITING)
    assert "%forward --reconnect pg logs in again" in Card(snapshot, now=NOW).plain()
    assert Facts(snapshot).json()["hint"] == "Reconnect logs in again"


def test_empty_table_says_so() -> None:
    assert Table(()).plain().startswith("no tunnels")
    assert "no tunnels" in Table(()).html()


def test_progress_says_the_step_and_for_how_long() -> None:
    steps = (Step("ssh", 0.52, "ok"), Step("target"))
    opening = _changed(state=TunnelState.OPENING, listen="", steps=steps, step_since=NOW - 3.2)
    assert Progress((opening,), NOW).plain() == "pg  opening  bastion -> pg.vpc:5432  ssh 0.5 s, target for 3 s..."


def test_port_of_the_target_itself_is_written_out() -> None:
    assert way(_changed(connect=":5432")) == "127.0.0.1:5432 -> bastion -> localhost:5432"


# The sidebar's own are held to the same.
DURATIONS = json.loads((Path(__file__).parents[1] / "data" / "durations.json").read_text())


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_960, "10 kB"), (999_600, "1.0 MB"), (5 * 10**12, "5.0 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
