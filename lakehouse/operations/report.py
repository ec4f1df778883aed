"""A lake's reports as a folder of pages: the grid of all topics, a page for each topic and for each of its hours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.hours import Hour
from lakehouse.operations import status
from lakehouse.operations.explain import Explanation, explain_hour
from lakehouse.operations.status import HourStatus, TopicSnapshot
from lakehouse.pages import charts, hour
from lakehouse.pages.hour import Since
from lakehouse.pages.lake import HourLine, Line, index, topic_page
from lakehouse.store.files import Storage, storage_for
from lakehouse.store.tables import TopicTables, folders_of
from lakehouse.topics import Topic
from lakehouse.validate import volume_models
from lakehouse.validate.volume import ROWS, Model

SHOWN_HOURS = 72
_READERS = 8
_CONTEXT = 48
"""Hours before one that its page shows beside it."""
_BUILT = "built.json"
_FORM = 1
"""Changes when pages of unchanged hours must be drawn anew."""


@dataclass(frozen=True)
class Built:
    """What a build did: `pages` stand there, `drawn` of them were drawn anew."""

    topics: int
    pages: int
    drawn: int


@dataclass(frozen=True)
class _TopicView:
    """What is shown of a topic; `complaint` where it could not be read."""

    topic: Topic
    standing: TopicSnapshot | None
    rows: Sequence[HourStatus] = ()
    complaint: str | None = None


def build(config: Config, out: str, now: datetime, *, last: int = SHOWN_HOURS) -> Built:
    """Write the pages of the `last` newest hours to the folder or bucket `out`.

    An hour's page is drawn again only when something happened to the hour; pages of older hours stay.
    """
    storage = storage_for(out, config.settings.storage_options)
    before: dict[str, str] = json.loads(storage.read(_BUILT) or b"{}")
    topics = [config.topics[name] for name in sorted(config.topics)]
    with ThreadPoolExecutor(_READERS) as readers:
        views = list(readers.map(lambda topic: _view(topic, config, last, now), topics))
        kept = list(readers.map(lambda view: _written(view, config, storage, before, now), views))
    pages = {page: key for of_topic in kept for page, key in of_topic.items()}
    axis = _axis(views, last)
    lines = [Line(view.topic.name, {row.hour: _state(row) for row in view.rows}, view.complaint) for view in views]
    storage.write("index.html", index(lines, axis, now, config.settings.release).encode())
    storage.write(_BUILT, json.dumps(before | pages).encode())
    drawn = sum(before.get(page) != key for page, key in pages.items())
    return Built(len(topics), len(pages), drawn)


def server(folder: str, port: int) -> ThreadingHTTPServer:
    """Serves the pages to this machine alone, without a log line for each."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return

    return ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=folder))


# --- reading -------------------------------------------------------------------------------------------------------


def _view(topic: Topic, config: Config, last: int, now: datetime) -> _TopicView:
    try:
        standing = status.read_topic(topic, config)
        return _TopicView(topic, standing, status.hour_statuses(standing, last, now))
    except Exception as error:  # whatever breaks one topic must not hide the others
        return _TopicView(topic, None, complaint=str(error) or type(error).__name__)


def _axis(views: Sequence[_TopicView], last: int) -> list[Hour]:
    """Consecutive hours up to the newest that any topic knows."""
    known = [row.hour for view in views for row in view.rows]
    if not known:
        return []
    first = max(min(known), hours.after(max(known), 1 - last))
    return list(hours.hours_between(first, hours.after(max(known))))


def _state(row: HourStatus) -> str:
    """Mirrored only when it is everywhere it goes."""
    if row.state == "mirrored" and row.waits_for:
        return row.verdict or "valid"
    return row.state


# --- writing -------------------------------------------------------------------------------------------------------


def _written(
    view: _TopicView, config: Config, storage: Storage, before: Mapping[str, str], now: datetime
) -> dict[str, str]:
    """The topic's page, and those of its hours that changed; gives what each was drawn from, as a hash."""
    if view.standing is None:
        return {}
    name = view.topic.name
    model = volume_models.current(TopicTables(view.topic, config.settings))
    results = storage_for(folders_of(config.settings, name).reports, config.settings.storage_options)
    keys: dict[str, str] = {}
    for place, row in enumerate(view.rows):
        page = f"{name}/{row.hour}.html"
        explanation = explain_hour(view.standing, row.hour, now)
        keys[page] = _key(row, explanation, model, view.rows[max(0, place - 1) : place + 2])
        if keys[page] != before.get(page):
            text = results.read(f"{row.hour}/r{row.revision}.json")
            drawn = _hour_page(view, place, explanation, json.loads(text) if text else None, model)
            storage.write(page, drawn.encode())
    storage.write(f"{name}/index.html", _topic_page(view, config, model, now).encode())
    return keys


def _key(row: HourStatus, explanation: Explanation, model: Model | None, neighbours: Sequence[HourStatus]) -> str:
    around = [(each.hour, each.rows) for each in neighbours]
    conditions = [(condition.condition, condition.is_met) for condition in explanation.conditions]
    drawn_from = (_FORM, row, conditions, [event.at for event in explanation.story], around, model and model.version)
    return hashlib.md5(repr(drawn_from).encode(), usedforsecurity=False).hexdigest()


def _hour_page(
    view: _TopicView, place: int, explanation: Explanation, result: dict[str, Any] | None, model: Model | None
) -> str:
    row = view.rows[place]
    shown = [each for each in view.rows[max(0, place - _CONTEXT) : place + 1] if each.rows is not None]
    band = model.band(ROWS, row.hour) if model else None
    since = Since(
        view.topic.name,
        row.hour,
        _state(row),
        explanation.why,
        explanation.waits_for,
        next((f"by {event.details.get('by')}: {event.details.get('reason')}" for event in reversed(explanation.story)
              if event.state == "released"), None) if row.verdict == "released" else None,
        _links(view, place),
        [[each.condition, "yes" if each.is_met else "no", each.required, each.measured, each.text]
         for each in explanation.conditions],
        _mirror_rows(explanation, row),
        [[_second(event.at), event.state, event.by, event.text] for event in explanation.story],
        charts.lateness(result["lateness"]["rows"]) if result and result.get("lateness") else "",
        _volume_chart(shown, model, row.hour) if len(shown) > 1 and row.rows is not None else "",
        f"{row.rows:,} rows; between {band.low:,.0f} and {band.high:,.0f} are usual for this hour of the week."
        if band and row.rows is not None else "",
    )  # fmt: skip
    return hour.page(result, since) if result else hour.page_without_verdict(since)


def _volume_chart(rows: Sequence[HourStatus], model: Model | None, marked: Hour | None) -> str:
    bands = {row.hour: (band.low, band.high) for row in rows if model and (band := model.band(ROWS, row.hour))}
    return charts.volume([row.hour for row in rows], [row.rows or 0 for row in rows], bands, marked)


def _links(view: _TopicView, place: int) -> list[tuple[str, str]]:
    links = [("All topics", "../index.html"), (view.topic.name, "index.html")]
    if place > 0:
        links.append((f"← {view.rows[place - 1].hour}", f"{view.rows[place - 1].hour}.html"))
    if place + 1 < len(view.rows):
        links.append((f"{view.rows[place + 1].hour} →", f"{view.rows[place + 1].hour}.html"))
    return links


def _mirror_rows(explanation: Explanation, row: HourStatus) -> list[list[Any]]:
    seals = [event for event in explanation.story if event.state == "sealed"]
    since = seals[-1].at if seals else None
    return [
        [
            event.details.get("target"),
            event.details.get("rows"),
            "yes" if event.details.get("rows") == row.rows else "no",
            event.details.get("where"),
            _second(event.at),
        ]
        for event in explanation.story
        if event.state == "mirrored" and since is not None and event.at > since
    ]


def _topic_page(view: _TopicView, config: Config, model: Model | None, now: datetime) -> str:
    with_rows = [row for row in view.rows if row.rows is not None]
    chart = _volume_chart(with_rows, model, None) if len(with_rows) > 1 else ""
    return topic_page(view.topic.name, list(_hour_lines(view.rows)), list(_facts(view, model, now)), chart)


def _hour_lines(rows: Sequence[HourStatus]) -> Iterator[HourLine]:
    for row in rows:
        cells = (
            _number(row.rows),
            _number(row.duplicates),
            _number(row.skewed),
            row.verdict or "",
            row.waits_for or "",
            ", ".join(row.mirrored),
            _age(row.closed_after_seconds),
            _age(row.mirrored_after_seconds),
        )
        yield HourLine(row.hour, _state(row), cells)


def _facts(view: _TopicView, model: Model | None, now: datetime) -> Iterator[tuple[str, str]]:
    standing = view.standing
    if standing is None or standing.batch is None:
        return
    yield "open hour", standing.open_hour or "none yet"
    watermark = standing.batch.instant("watermark")
    yield "watermark", _second(watermark) if watermark else "none yet"
    since = (now - standing.batch.committed_at) / timedelta(seconds=1)
    yield "last commit", f"{_second(standing.batch.committed_at)}, {_age(since)} ago"
    yield "lateness allowed", _age(view.topic.lateness / timedelta(seconds=1))
    if model is not None:
        yield "usual hours learnt from", f"{model.hours:,} hours, {model.first} to {model.last}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _second(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
