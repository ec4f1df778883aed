"""An hour's page tells its verdict to whoever opens it, wherever that is."""

from __future__ import annotations

import re
import subprocess
from decimal import Decimal
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright._impl._driver import compute_driver_executable

from lakehouse.cli.output import share_text
from lakehouse.pages import charts, render
from lakehouse.pages.hour import page
from lakehouse.pages.words import sentence

ATTACK = "<script>alert('1')</script>&\"'"


def expectation(success: bool = True, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "expectation": "expect_column_values_to_not_be_null",
        "column": "user",
        "kwargs": {"column": "user"},
        "severity": "critical",
        "notes": "",
        "success": success,
        "unexpected": None if success else 12,
        "observed": None,
        "examples": [] if success else [{"event_id": f"e{number}", "user": None} for number in range(12)],
    }
    return values | changes


def result(*expectations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    is_invalid = any(not item["success"] and item["severity"] == "critical" for item in expectations)
    values: dict[str, Any] = {
        "topic": "plays",
        "hour": "2026-11-23T05",
        "state": "invalid" if is_invalid else "valid",
        "at": "2026-11-23T07:00:00.123456+00:00",
        "release": "1.2.3",
        "run": "run-7",
        "engine": "pandas",
        "seconds": 0.08,
        "suite_hash": "abc",
        "silver_version": 3,
        "revision": 1,
        "rows": 12345,
        "seal": {"deliveries": 12400, "duplicates": 55, "late_duplicates": 0, "skewed": 7, "release": "1.2.2"},
        "closed": {
            "at": "2026-11-23T06:10:00+00:00",
            "why": "watermark",
            "because": "its time had passed",
            "conditions": [{"condition": "quiet", "required": "1 minute", "measured": "2 minutes", "text": "still"}],
        },
        "expectations": list(expectations),
    }
    return values | changes


def text_of(html: str) -> str:
    """What a reader sees of it."""
    parts: list[str] = []

    class Reader(HTMLParser):
        silent = False

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.silent = tag in ("style", "script")

        def handle_data(self, data: str) -> None:
            if not self.silent:
                parts.append(data)

    Reader().feed(html)
    return " ".join(" ".join(parts).split())


def test_the_verdict_comes_first() -> None:
    """Who is called at night reads one line."""
    text = text_of(page(result(expectation(False))))
    first = "plays ✕ Invalid Monday, 23 November 2026, 05:00–06:00 UTC 2026-11-23T05 1 critical expectation failed."
    assert text.split("invalid ", 1)[1].startswith(first)
    assert "✓ Valid" in text_of(page(result(expectation())))


def test_what_failed_is_there_with_its_examples() -> None:
    """The first ten stand open, the rest is there to be unfolded without a script."""
    html = page(result(expectation(False), expectation(False, severity="warning", notes="often away")))
    text = text_of(html)
    assert "critical user is not missing 12 of 12,345 rows against it" in text
    assert "often away" in text
    assert all(f"e{number}" in text for number in range(12))
    assert html.count("<summary>2 more examples</summary>") == 2


def test_the_numbers_of_the_hour_and_why_it_closed_are_there() -> None:
    """The page stands alone: who has only the file can answer what was in the hour."""
    text = text_of(page(result(expectation())))
    for part in ("rows 12,345", "deliveries 12,400", "duplicates 55", "late duplicates 0", "skewed 7"):
        assert part in text
    assert "Closed 2026-11-23 06:10:00 UTC because its time had passed" in text
    assert "quiet 1 minute 2 minutes still" in text
    assert "by release 1.2.3" in text
    assert "sealed by release 1.2.2" in text


def test_an_hour_closed_on_request_says_who_asked() -> None:
    """Such an hour may lack events, so the reader must know."""
    closed = {"at": None, "why": "request", "because": "ann asked for it: month's end"}
    assert "because ann asked for it: month's end" in text_of(page(result(expectation(), closed=closed)))


def test_the_page_asks_nothing_of_the_network_and_runs_nothing() -> None:
    """It is read on planes, in mails and years later; and events of strangers are shown in it."""
    html = page(result(expectation(False), expectation()))
    asked = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", html)
    assert [address for address in asked if address != "data:," and not address.startswith("#")] == []
    assert not re.search(r"<script|@import|url\(|https?://", html)
    assert "default-src 'none'" in html


@pytest.mark.parametrize("place", ["event_id", "user", "column", "notes", "observed", "kwargs", "topic", "closed"])
def test_what_comes_from_events_or_files_is_shown_and_never_run(place: str) -> None:
    """An event is written by somebody else, and its text must stay text."""
    bad = expectation(False)
    whole: dict[str, Any] = {}
    if place in ("event_id", "user"):
        bad["examples"][0][place] = ATTACK
    elif place == "kwargs":
        bad |= {"expectation": "expect_something_new", "kwargs": {"like": [ATTACK]}}
    elif place == "closed":
        whole = {"closed": {"at": None, "why": ATTACK, "conditions": [{"text": ATTACK}]}}
    elif place == "topic":
        whole = {"topic": ATTACK}
    else:
        bad[place] = ATTACK
    html = page(result(bad, **whole))
    assert "<script" not in html
    assert ATTACK in text_of(html)


def test_a_columns_name_cannot_leave_its_attribute() -> None:
    """Names of columns stand in attributes, too."""
    html = page(result(expectation(False, examples=[{"x' onclick='alert(1)": 1}])))
    assert "onclick='" not in html


def test_light_dark_phone_and_paper_are_provided_for() -> None:
    """Read at a desk, at night, on the way, and in a printed incident review."""
    html = page(result(expectation()))
    for rule in ("prefers-color-scheme: dark", "max-width: 34rem", "@media print", 'name="viewport"'):
        assert rule in html


@pytest.mark.parametrize(
    ("kind", "kwargs", "answer"),
    [
        ("expect_column_values_to_not_be_null", {"mostly": 0.99}, "is not missing, in at least 99% of the rows"),
        ("expect_column_values_to_be_between", {"min_value": 1, "max_value": 9999}, "lies between 1 and 9999"),
        ("expect_column_values_to_be_between", {"min_value": 0}, "is at least 0"),
        ("expect_column_values_to_be_between", {"min_value": 0, "strict_min": True}, "is more than 0"),
        (
            "expect_column_values_to_be_between",
            {"min_value": "2026-01-01", "max_value": "2026-02-01", "strict_max": True},
            "is at least 2026-01-01 and before 2026-02-01",
        ),
        ("expect_column_value_lengths_to_be_between", {"max_value": 9}, "has a length at most 9"),
        ("expect_column_values_to_be_in_set", {"value_set": ["EWR", "JFK"]}, "is one of EWR, JFK"),
        (
            "expect_column_pair_values_a_to_be_greater_than_b",
            {"column_A": "hour", "column_B": "event_hour", "or_equal": True},
            "hour ≥ event_hour",
        ),
        ("expect_table_row_count_to_equal", {"value": 12345}, "has exactly 12,345 rows"),
        ("expect_column_kl_divergence", {"column": "n", "threshold": 0.1}, "column kl divergence (threshold 0.1)"),
    ],
)
def test_expectations_are_reported_in_words(kind: str, kwargs: dict[str, Any], answer: str) -> None:
    """One that has no words of its own is spelled out, so that nothing is left unsaid."""
    assert sentence({"expectation": kind, "kwargs": kwargs}) == answer


@pytest.mark.parametrize(
    "kind", ["column_values", "column_value_lengths", "column_mean", "column_max", "column_min", "table_row_count"]
)
def test_bounds_that_let_other_values_pass_are_said_otherwise(kind: str) -> None:
    said: dict[str, set[frozenset[float]]] = {}
    for low, high, above, below in product((None, 0), (None, 2), (False, True), (False, True)):
        kwargs = {"min_value": low, "max_value": high, "strict_min": above, "strict_max": below}
        passing = frozenset(
            value
            for value in (-1.0, 0.0, 1.0, 2.0, 3.0)
            if (low is None or value > low or (value == low and not above))
            and (high is None or value < high or (value == high and not below))
        )
        words = sentence({"expectation": f"expect_{kind}_to_be_between", "kwargs": kwargs})
        said.setdefault(words, set()).add(passing)
    assert all(len(meant) == 1 for meant in said.values()), said
    assert len(said) == 9
    (unbounded,) = {words for words, (passing,) in said.items() if len(passing) == 5}
    assert re.fullmatch(r"has any (value|length|mean|(largest|smallest) value|number of rows)", unbounded)


@given(st.floats(0, 1, exclude_max=True))
def test_a_share_is_said_exactly(mostly: float) -> None:
    said = sentence({"expectation": "expect_column_values_to_not_be_null", "kwargs": {"mostly": mostly}})
    (percent,) = re.findall(r"at least ([0-9.]+)% of", said)
    assert Decimal(percent) == 100 * Decimal(repr(mostly))


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_nearly_none_is_not_none_and_nearly_all_is_not_all(some: int, others: int) -> None:
    """In a chart and on a terminal: "100%" beside what is nearly none contradicts it."""
    drawn = re.findall(r">(&[lg]t;)?([0-9]+)%<", charts.lateness([some, others, *[0] * 6]))
    assert len(drawn) == (2 if some else 1)
    assert (("", "100") in drawn) == (some == 0)
    assert ("", "0") not in drawn
    assert (share_text(some / (some + others)) == "0%") == (some == 0)
    assert (share_text(others / (some + others)) == "100%") == (some == 0)


_BROWSER = """
const anything = new Proxy(function () {}, {
  get: (_, name) => name === Symbol.toPrimitive ? () => '' : name === Symbol.iterator ? function* () {} : anything,
  set: () => true, apply: () => anything, construct: () => anything,
});
let look, read = 0;
const answer = {ok: true, headers: {get: () => 'Mon'}, text: async () => { if (!read++) throw new TypeError('cut'); }};
const page = {
  document: anything, history: anything, DOMParser: anything, URLSearchParams,
  location: {protocol: 'http:', pathname: '/', search: '', hash: ''},
  fetch: async () => answer, setInterval: each => { look = each; },
};
require('vm').runInNewContext(process.argv[1], page);
(async () => { for (let time = 0; time < 4; time++) await look(); console.log(read); })();
"""
"""A browser whose elements are all alike, and a server whose first answer breaks off."""


@pytest.mark.parametrize("name", ["live.js", "lake.js"])
def test_a_page_that_came_in_part_is_asked_for_again(name: str) -> None:
    """Otherwise it stays as old as it is, and says that it is live; one that came whole is not read again."""
    node, _ = compute_driver_executable()
    code = Path(render.__file__).with_name("templates") / name
    done = subprocess.run([node, "-e", _BROWSER, code.read_text()], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
