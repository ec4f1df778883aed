"""The pages as a reader has them: real Chromium, no network, on files that the real stages left."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from flights_lake import DIRTY, FlightsLake, shared_lake
from playwright.sync_api import Browser, Page, sync_playwright
from typer.testing import CliRunner

from lakehouse import hours
from lakehouse.cli.app import app
from lakehouse.errors import UsageError
from lakehouse.operations import report
from lakehouse.pages import charts
from lakehouse.pages import lake as overview
from lakehouse.pages.charts import Outcome
from lakehouse.pages.lake import STATES, Line
from lakehouse.store.tables import TopicTables
from lakehouse.validate.release import release

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),
    pytest.mark.xdist_group("flights"),
]

NOW = datetime(2013, 1, 3, 2, tzinfo=UTC)
OPEN = "Conditions for its close"
"""Only on the page of an hour that has not been judged."""
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()


@pytest.fixture(scope="module")
def lake() -> FlightsLake:
    lake = shared_lake()
    release(lake.config.topic(DIRTY), lake.config, _invalid(lake)[0], "counted by hand", "ann")
    return lake


def _invalid(lake: FlightsLake) -> list[str]:
    from lakehouse.operations.hour_status import hour_statuses
    from lakehouse.operations.snapshot import read_topic

    snapshot = read_topic(lake.config.topic(DIRTY), lake.config)
    return [row.hour for row in hour_statuses(snapshot, 72, NOW) if row.state == "invalid"]


@pytest.fixture(scope="module")
def site(lake: FlightsLake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    report.build(lake.config, str(out), NOW)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH (Debian: apt-get install chromium): pages are not checked")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@dataclass
class Reader:
    """A page in the browser, and everything that it should not have done."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def open(self, file: Path, where: str = "") -> Reader:
        self.page.goto(f"file://{file}{where}")
        return self

    def topics(self) -> list[str]:
        return self.page.eval_on_selector_all(
            ".row[data-topic]:not([hidden])", "rows => rows.map(r => r.dataset.topic)"
        )


@pytest.fixture
def reader(browser: Browser) -> Iterator[Reader]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    reader = Reader(context.new_page())
    reader.page.on("console", lambda message: reader.complaints.append(message.text))
    reader.page.on("pageerror", lambda error: reader.complaints.append(str(error)))
    reader.page.on("request", lambda request: _is_local(request.url) or reader.complaints.append(request.url))
    yield reader
    context.close()
    assert reader.complaints == []


def _is_local(url: str) -> bool:
    return url.startswith(("file:", "data:"))


def test_every_link_leads_to_a_page_that_asks_nothing_of_the_network(reader: Reader, site: Path) -> None:
    """From the grid to a topic, to an hour, to its neighbours: a page in a mail or a bucket must not be a dead end."""
    seen: set[str] = set()
    waiting = [f"file://{site}/index.html"]
    while waiting:
        url = waiting.pop()
        if url in seen:
            continue
        seen.add(url)
        assert Path(url.removeprefix("file://")).exists(), url
        reader.page.goto(url)
        waiting += reader.page.eval_on_selector_all("a", "links => links.map(link => link.href.split('#')[0])")
    assert seen == {f"file://{page}" for page in site.rglob("*.html")}
    assert len(seen) > 15


def test_the_grid_shows_each_hours_state_and_says_it_without_colour(
    reader: Reader, site: Path, lake: FlightsLake
) -> None:
    """A cell tells its topic, hour and state to who points at it or reads by ear, and its sign to who sees no red."""
    reader.open(site / "index.html")
    cell = reader.page.locator(f"a[href='{DIRTY}/{_invalid(lake)[0]}.html']")
    cell.hover()
    assert cell.get_attribute("aria-label") == f"{DIRTY} {_invalid(lake)[0]}: invalid"
    assert cell.inner_text() == "✕"
    states = reader.page.eval_on_selector_all(".cells a", "cells => cells.map(cell => cell.className)")
    assert {"s-mirrored", "s-invalid", "s-valid", "s-released"} <= set(states)


def test_the_filter_finds_topics_by_name_and_by_state_and_keeps_both_in_the_address(reader: Reader, site: Path) -> None:
    """What one person has found another can be sent."""
    reader.open(site / "index.html")
    reader.page.fill("input[type=search]", "LANDED")
    assert reader.topics() == ["flight_landed"]
    reader.page.fill("input[type=search]", "")
    reader.page.locator("label.chip", has_text="invalid").click()
    assert reader.topics() == [DIRTY]
    assert reader.page.inner_text("output") == "1 of 3 topics"
    assert reader.page.url.endswith("#state=invalid")
    reader.open(site / "flight_landed" / "index.html").open(site / "index.html", "#name=flight&state=mirrored")
    assert reader.topics() == ["flight_departed"]


def test_an_hours_page_has_all_that_is_known_of_it(reader: Reader, site: Path, lake: FlightsLake) -> None:
    """Verdict first; then what failed, numbers, lateness, rows beside other hours, why it closed, mirrors, release."""
    text = reader.open(site / DIRTY / f"{_invalid(lake)[0]}.html").page.inner_text("main")
    for reported in (
        *("Invalid", "What does not hold", "arrival_delay_minutes", "late duplicates", "How late its events came"),
        *("Rows, hour by hour", "Why it closed", "What happened to it", "waits for: release", "by release"),
    ):
        assert reported.lower() in text.lower(), reported
    mirrored = reader.open(site / "weather_observed" / "2013-01-02T12.html").page.inner_text("main")
    assert "Where it was delivered" in mirrored
    assert "Now: mirrored" in mirrored
    assert reader.page.locator("figure.chart svg").count() == 2


def test_each_failed_expectation_leads_to_its_rows_and_to_the_command_that_lists_them_all(
    reader: Reader, site: Path, lake: FlightsLake
) -> None:
    """Who reads `12 rows against it` wants these rows next: a few are there, and the command for all of them runs."""
    hour = _invalid(lake)[0]
    reader.open(site / DIRTY / f"{hour}.html")
    reader.page.locator("tr.no a").first.click()
    assert reader.page.url.endswith("#finding-1")
    finding = reader.page.locator("article:target")
    assert "arrival_delay_minutes" in finding.inner_text()
    against = int(finding.locator(".figures b").first.inner_text())
    command = finding.locator(".command code").inner_text()
    done = CliRunner().invoke(app, ["--conf", str(lake.conf), *shlex.split(command)[1:], "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["unexpected"] == against > 0


def test_the_path_of_an_hours_messages_adds_up(reader: Reader, site: Path, lake: FlightsLake) -> None:
    """What was received is what was delivered, left out or rejected; for who cannot see it, in words."""
    reader.open(site / "flight_departed" / "2013-01-02T14.html")
    label = reader.page.locator("figure.chart").first.get_attribute("aria-label") or ""
    received, *outcomes = [int(number) for number in re.findall(r"\d+", label)]
    assert received == sum(outcomes)
    assert "delivered, late: of earlier hours" in label
    assert "left out: in an earlier sealed hour" in label


def test_a_topics_page_shows_each_hours_delay_beside_what_is_promised(reader: Reader, site: Path) -> None:
    reader.open(site / "flight_departed" / "index.html")
    chart = reader.page.locator("figure.chart").first
    assert "within 2 h 30 min" in chart.inner_text()
    titles = chart.locator("title").all_text_contents()
    assert titles[0].startswith("2013-01-02T11: delivered after 2 h")
    late = chart.locator("rect[fill='var(--bad)'] title").all_text_contents()
    assert late == [title for title in titles if "has waited for" in title]


def test_topics_with_one_cause_are_together_and_what_is_wrong_is_first(reader: Reader, tmp_path: Path) -> None:
    """Of 300 topics that lost one permission nobody wants to read 300 lines to see that it is one."""
    axis = ["2026-11-23T05"]
    lines = [Line("a", {axis[0]: "held"}, cause="failing: no permission"), Line("b", {axis[0]: "mirrored"})]
    lines.insert(1, Line("c", {axis[0]: "held"}, cause="failing: no permission"))
    (tmp_path / "index.html").write_text(overview.index(lines, axis, NOW, "1.0"))
    reader.open(tmp_path / "index.html")
    heads = ".row.cause:not([hidden])"
    assert reader.page.locator(heads).all_inner_texts() == ["2 topics\n\nfailing: no permission", "1 topic\n\nok"]
    reader.page.fill("input[type=search]", "b")
    assert reader.page.locator(heads).all_inner_texts() == ["1 topic\n\nok"]


def test_the_grid_that_is_served_goes_on_without_a_reload(browser: Browser, lake: FlightsLake, tmp_path: Path) -> None:
    """Left open on a wall it must not show this morning; it asks only the server it came from."""
    report.build(lake.config, str(tmp_path), NOW, is_live=True)
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    with report.server(str(tmp_path), 0) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{pages.server_port}"
        page.goto(address)
        page.evaluate("window.isTheSame = true")
        page.fill("input[type=search]", "weather")
        cell = page.locator("a[href='weather_observed/2013-01-02T12.html']")
        assert cell.get_attribute("class") == "s-mirrored"
        later = (
            (tmp_path / "index.html")
            .read_text()
            .replace(
                's-mirrored" href="weather_observed/2013-01-02T12', 's-invalid" href="weather_observed/2013-01-02T12'
            )
        )
        (tmp_path / "index.html").write_text(later)
        os.utime(tmp_path / "index.html", (time.time() + 60, time.time() + 60))
        page.wait_for_selector("a.s-invalid[href='weather_observed/2013-01-02T12.html']", timeout=20_000)
        assert page.evaluate("window.isTheSame")
        assert page.input_value("input[type=search]") == "weather"
        assert page.locator(".row[data-topic]:not([hidden])").count() == 1
        pages.shutdown()
    page.close()
    assert {url.removeprefix(address) for url in asked} == {"/"}


@pytest.mark.parametrize("page_name", ["weather_observed/index.html", "weather_observed/2013-01-02T12.html"])
def test_the_pages_below_the_grid_are_live_as_well(
    browser: Browser, lake: FlightsLake, tmp_path: Path, page_name: str
) -> None:
    """Who watches an hour to be delivered looks at its page; what is unfolded and not changed stays as it is."""
    report.build(lake.config, str(tmp_path), NOW, is_live=True)
    file, page, asked = tmp_path / page_name, browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    with report.server(str(tmp_path), 0) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{pages.server_port}/"
        page.goto(address + page_name)
        page.evaluate("window.lastPart = document.querySelector('main').lastElementChild")
        file.write_text(file.read_text().replace("</h1>", " and changed</h1>"))
        os.utime(file, (time.time() + 60, time.time() + 60))
        page.wait_for_selector("h1:has-text('and changed')", timeout=20_000)
        assert page.evaluate("window.lastPart === document.querySelector('main').lastElementChild")
        assert page.inner_text(".live") == "live"
        pages.shutdown()
    page.wait_for_selector(".live:has-text('does not answer')", timeout=20_000)
    page.close()
    assert {url.removeprefix(address) for url in asked} == {page_name}


def test_the_page_of_a_topic_begins_with_how_it_is(lake: FlightsLake, tmp_path: Path) -> None:
    """Its hours are green while nothing is heard of it."""
    report.build(lake.config, str(tmp_path), NOW)
    page = (tmp_path / "weather_observed" / "index.html").read_text()
    first = re.search(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    assert first is not None
    assert (first[1], first[2].partition(":")[0]) == ("state", "silent")


def test_pages_that_nobody_serves_have_no_script(lake: FlightsLake, tmp_path: Path) -> None:
    """Drawn again, too, where they were live before."""
    for is_live in (True, False):
        report.build(lake.config, str(tmp_path), NOW, is_live=is_live)
        below = [file.read_text() for file in (tmp_path / "weather_observed").glob("*.html")]
        assert len(below) > 5
        assert {("<script" in each, "connect-src" in each) for each in below} == {(is_live, is_live)}


def test_pages_are_built_again_while_they_are_served(
    lake: FlightsLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_SHORTEST_PAUSE_SECONDS", 0.05)
    with report.kept_built(lake.config, str(tmp_path), 72):
        until = time.monotonic() + 60
        while not (tmp_path / "index.html").exists() and time.monotonic() < until:
            time.sleep(0.05)
    assert 'data-live="' in (tmp_path / "index.html").read_text()
    report.build(lake.config, str(tmp_path), NOW)
    assert "data-live" not in (tmp_path / "index.html").read_text().partition("</script>")[0].rpartition("<script>")[0]


def test_a_released_hour_names_who_let_it_go_and_why(reader: Reader, site: Path, lake: FlightsLake) -> None:
    """Who reads the page of an invalid hour that was delivered asks exactly this."""
    from lakehouse.operations.hour_status import hour_statuses
    from lakehouse.operations.snapshot import read_topic

    snapshot = read_topic(lake.config.topic(DIRTY), lake.config)
    (released,) = [row.hour for row in hour_statuses(snapshot, 72, NOW) if row.state == "released"]
    assert "Released by ann: counted by hand" in reader.open(site / DIRTY / f"{released}.html").page.inner_text(
        "header"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["index.html", "flight_departed/index.html", "flight_landed/2013-01-02T14.html"])
def test_pages_fit_a_phone_by_day_and_by_night(browser: Browser, site: Path, page: str, scheme: Any) -> None:
    """The page itself never scrolls sideways, and its ink differs from its paper in both schemes."""
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(f"file://{site}/{page}")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = opened.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert abs(_lightness(ink) - _lightness(paper)) > 150
    assert (_lightness(paper) > 128) == (scheme == "light")
    context.close()


def _lightness(colour: str) -> float:
    return sum(map(float, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_three_hundred_topics_by_72_hours_open_in_two_seconds(reader: Reader, tmp_path: Path) -> None:
    """The whole lake on one page is of use only if nobody waits for it; the filter answers as one types."""
    chance = random.Random(1)
    axis = list(hours.hours_between("2026-11-20T06", "2026-11-23T06"))
    lines = [Line(f"topic_{number:03d}", {hour: chance.choice(STATES) for hour in axis}) for number in range(300)]
    (tmp_path / "index.html").write_text(overview.index(lines, axis, NOW, "1.0"))
    started = time.monotonic()
    reader.open(tmp_path / "index.html")
    reader.page.evaluate("new Promise(drawn => requestAnimationFrame(() => setTimeout(drawn)))")
    seconds = time.monotonic() - started
    assert reader.page.locator(".cells a").count() == 300 * 72
    started = time.monotonic()
    reader.page.fill("input[type=search]", "topic_29")
    assert len(reader.topics()) == 10
    assert time.monotonic() - started < 1
    assert seconds < 2


def test_a_topic_that_cannot_be_read_is_a_row_that_says_so(reader: Reader, tmp_path: Path) -> None:
    """One broken table must not hide the other topics."""
    axis = ["2026-11-23T05"]
    lines = [Line("good", {axis[0]: "open"}), Line("bad<b>", complaint="found <no> table")]
    (tmp_path / "index.html").write_text(overview.index(lines, axis, NOW, "1.0"))
    assert "found <no> table" in reader.open(tmp_path / "index.html").page.inner_text(".complaint")
    assert reader.topics() == ["good", "bad<b>"]


def test_a_second_build_draws_only_what_changed(site: Path, lake: FlightsLake) -> None:
    """Run every few minutes over hundreds of topics, it must not draw weeks of unchanged hours again."""
    again = report.build(lake.config, str(site), NOW)
    assert (again.pages > 15, again.drawn) == (True, 0)
    release(lake.config.topic(DIRTY), lake.config, _invalid(lake)[-1], "seen", "bob")
    assert report.build(lake.config, str(site), NOW).drawn == 1


def test_the_page_of_an_open_hour_goes_on_with_its_measures(lake: FlightsLake, tmp_path: Path) -> None:
    """How late an hour is, its reader asks while nothing happens to it."""
    shown: list[tuple[str, str]] = []
    for seconds in (0, 20, 80, 3600):
        built = report.build(lake.config, str(tmp_path), NOW + timedelta(seconds=seconds))
        texts = [file.read_text() for file in (tmp_path / "weather_observed").glob("2*.html")]
        page = next(text for text in texts if OPEN in text)
        as_of = re.search(r"as of <time[^>]*>(.*?) UTC", page)
        quiet = re.search(r"the newest file of the hour was written (.*?) ago", page)
        assert as_of is not None
        assert quiet is not None
        shown.append((as_of[1], quiet[1]))
        assert built.drawn < built.pages or not seconds
    assert shown[0] == shown[1], "one minute is soon enough"
    assert len(set(shown)) == 3


def without(*path: str) -> Callable[[bytes], bytes]:
    """Damage: a result that lacks a member which its page is made of."""

    def damaged(sound: bytes) -> bytes:
        result = json.loads(sound)
        *above, last = path
        del reduce(getitem, above, result)[last]
        return json.dumps(result).encode()

    return damaged


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda sound: b"",
    "cut": lambda sound: sound[: len(sound) // 2],
    "a list": lambda sound: b"[1]",
    "no text": lambda sound: b"\xff",
    "of another topic": lambda sound: b'{"topic": "x"}',
    "no bars": without("lateness", "rows"),
    "no seal": without("seal"),
    "no expectations": without("expectations"),
    "deep": lambda sound: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_result_is_shown_as_unreadable_and_ends_nothing(
    lake: FlightsLake, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """A torn file, for any reason: the other hours and topics have their pages, and so has this one."""
    hour = "2013-01-02T12"
    reports = TopicTables(lake.config.topic("weather_observed"), lake.config.settings).reports.files()
    sound = reports.read(f"{hour}/r1.json")
    assert sound is not None
    reports.write(f"{hour}/r1.json", damage(sound))
    try:
        built = report.build(lake.config, str(tmp_path), NOW)
        assert built.drawn == built.pages > 15
        text = (tmp_path / "weather_observed" / f"{hour}.html").read_text()
        assert f"The result {hour}/r1.json cannot be read" in text
    finally:
        reports.write(f"{hour}/r1.json", sound)
    assert report.build(lake.config, str(tmp_path), NOW).drawn == 1
    assert "cannot be read" not in (tmp_path / "weather_observed" / f"{hour}.html").read_text()


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_pages_are_drawn_again_when_nobody_knows_what_they_were_drawn_from(
    lake: FlightsLake, tmp_path: Path, damage: bytes
) -> None:
    """The report's own file can be made again, so it is."""
    (tmp_path / "built.json").write_bytes(damage)
    built = report.build(lake.config, str(tmp_path), NOW)
    assert built.drawn == built.pages > 15
    assert report.build(lake.config, str(tmp_path), NOW).drawn == 0


def test_a_folder_in_the_place_of_a_result_is_shown_as_unreadable(lake: FlightsLake, tmp_path: Path) -> None:
    """As a half restored backup leaves it: the topic's other hours have their pages."""
    hour = "2013-01-02T12"
    result = Path(TopicTables(lake.config.topic("weather_observed"), lake.config.settings).reports.uri, hour, "r1.json")
    aside = result.rename(tmp_path / "r1.json")
    result.mkdir()
    try:
        assert report.build(lake.config, str(tmp_path / "site"), NOW).pages > 15
        text = (tmp_path / "site" / "weather_observed" / f"{hour}.html").read_text()
        assert f"The result {hour}/r1.json cannot be read" in text
    finally:
        result.rmdir()
        aside.rename(result)


def test_a_damaged_model_of_usual_hours_leaves_the_pages_without_bands(lake: FlightsLake, tmp_path: Path) -> None:
    """It is made again when the next hours are judged."""
    reports = TopicTables(lake.config.topic("weather_observed"), lake.config.settings).reports.files()
    before = reports.read("_volume.json")
    reports.write("_volume.json", b'{"hours":')
    try:
        assert report.build(lake.config, str(tmp_path), NOW).pages > 15
        assert 'complaint">' not in (tmp_path / "index.html").read_text()
    finally:
        if before is None:
            reports.delete(["_volume.json"])
        else:
            reports.write("_volume.json", before)


def test_every_state_has_its_colours() -> None:
    """A state that is added must not be a cell without a colour."""
    sheet = (Path(report.__file__).parent.parent / "pages" / "templates" / "lake.css").read_text()
    for state in STATES:
        assert sheet.count(f"--{state}: #") == sheet.count(f"--{state}-ink: #") == 2
        assert f".s-{state} {{" in sheet


def test_the_pages_are_served_to_this_machine(site: Path) -> None:
    """`lakehouse report --serve`, for who has the lake in a terminal and not in a file manager."""
    with report.server(str(site), 0) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        with urlopen(f"http://127.0.0.1:{pages.server_port}/", timeout=10) as answer:
            assert b"The lake, hour by hour" in answer.read()
        pages.shutdown()


def test_a_taken_port_is_an_operators_error(tmp_path: Path) -> None:
    with (
        report.server(str(tmp_path), 0) as pages,
        pytest.raises(UsageError, match=r"127\.0\.0\.1:\d+: found an address that cannot be bound"),
    ):
        report.server(str(tmp_path), pages.server_port)


def test_charts_take_the_colours_of_their_page_and_share_no_names() -> None:
    """Two charts stand in one page, by day and by night: no colour and no name in them may be fixed."""
    one, other = (
        charts.lateness([1, 2, 3, 4, 5, 6, 7, 8]),
        charts.volume(["2026-11-23T05"], [3], {"2026-11-23T05": (1, 2)}),
    )
    assert "var(--accent)" in one
    assert "var(--bad)" in other
    for chart in (one, other):
        assert "#" not in chart
        assert " id=" not in chart


@pytest.mark.parametrize("rows", [[0] * 8, [1, 0, 0, 0, 0, 0, 0, 0], [360_000_000] * 8])
def test_a_chart_of_any_hour_stays_within_its_frame(rows: list[int]) -> None:
    """Empty hours and the largest ones are drawn by the same rule."""
    axis = list(hours.hours_between("2026-11-23T00", "2026-11-23T08"))
    outcomes = [Outcome(f"outcome {number}", count, "good") for number, count in enumerate(rows)]
    delays = {hour: (float(count), True) for hour, count in zip(axis, rows, strict=True)}
    drawn = (charts.lateness(rows), charts.volume(axis, rows, {axis[0]: (0, 2 * max(rows))}))
    for chart in (*drawn, charts.events(sum(rows), outcomes), charts.freshness(delays, 2.0 * max(rows))):
        frame = [float(size) for size in re.search(r'viewBox="0 0 (\d+) (\d+)"', chart).groups()]  # type: ignore[union-attr]
        for x, y, width, height in re.findall(r'<rect x="(.+?)" y="(.+?)" width="(.+?)" height="(.+?)"', chart):
            assert 0 <= float(x) <= float(x) + float(width) <= frame[0]
            assert 0 <= float(y) <= float(y) + float(height) <= frame[1]
