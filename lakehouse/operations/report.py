"""A lake's reports as a folder of pages: the grid of all topics, a page for each topic and for each of its hours."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.durations import brief, seconds_since
from lakehouse.errors import LakeError, LakehouseError, UsageError, in_one_line, joined_lines
from lakehouse.hours import Hour
from lakehouse.operations.causes import shared_cause
from lakehouse.operations.explain import Explanation, explain_hour
from lakehouse.operations.hour_status import HourStatus, hour_statuses
from lakehouse.operations.report_sites import register
from lakehouse.operations.snapshot import TopicSnapshot, read_topic
from lakehouse.operations.status import STATES, status_of
from lakehouse.operations.topic_life import known_commit, signs_of
from lakehouse.operations.tracking import Track, no_tracking
from lakehouse.pages import charts, hour
from lakehouse.pages.charts import Outcome
from lakehouse.pages.hour import HourContext
from lakehouse.pages.lake import HourLine, Line, index, topic_page
from lakehouse.pages.words import second
from lakehouse.store.files import Storage, storage_for
from lakehouse.store.heartbeats import Sign
from lakehouse.store.records import Mirrored, State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import volume_models
from lakehouse.validate.volume import ROWS, Model

log = logging.getLogger(__name__)

SHOWN_HOURS = 72
_READERS = 8
_SHORTEST_PAUSE_SECONDS = 3.0
_PAUSE_SHARE = 4
"""Between two builds, of the last one's time: to serve pages must not take a machine's cores."""
_CONTEXT = 48
"""Hours before one that its page shows beside it."""
_BUILT = "built.json"
_FORM = 4
"""Changes when pages of unchanged hours must be drawn again."""


@dataclass(frozen=True)
class Built:
    """What a build did: there are `pages` of hours, of which `drawn` were drawn again."""

    topics: int
    pages: int
    drawn: int


@dataclass(frozen=True)
class _TopicView:
    """What is shown of a topic; `complaint` where it could not be read. `state` and `cause` are as of `status`."""

    topic: Topic
    rows: Sequence[HourStatus] = ()
    complaint: str | None = None
    state: str = "error"
    cause: str = "error: its lake cannot be read"


@dataclass(frozen=True)
class _Pages:
    """A topic's pages: what they show, where they go, and in `before` what each was drawn from last."""

    view: _TopicView
    snapshot: TopicSnapshot
    model: Model | None
    reports: Storage
    storage: Storage
    before: Mapping[str, str]
    now: datetime
    is_live: bool


def build(
    config: Config,
    out: str,
    now: datetime,
    *,
    last: int = SHOWN_HOURS,
    track: Track = no_tracking,
    is_live: bool = False,
) -> Built:
    """Write the pages of the `last` newest hours to the folder or bucket `out`.

    An hour's page is drawn again when something happened to the hour, and once a minute while it is open; pages of
    older hours stay. What cannot be read of one topic or hour is said on its page, and holds up no other. `track`
    counts topics; pages that are live ask their server for newer ones.
    """
    storage = storage_for(out, config.settings.storage_options)
    with _refusals_of(out):
        before = _keys_before(storage)
    topics = [config.topics[name] for name in sorted(config.topics)]
    signs = signs_of(config.settings)
    with ThreadPoolExecutor(_READERS) as readers:
        built = readers.map(
            lambda topic: _build_topic(topic, config, out, storage, before, last, signs, now, is_live), topics
        )
        results = list(track(built, len(topics)))
    views = [view for view, _ in results]
    pages = {page: key for _, of_topic in results for page, key in of_topic.items()}
    axis = _axis(views, last)
    lines = [_line(view) for view in sorted(views, key=lambda view: list(STATES).index(view.state))]
    with _refusals_of(out):
        storage.write("index.html", index(lines, axis, now, config.settings.release, is_live=is_live).encode())
        storage.write(_BUILT, json.dumps(before | pages).encode())
    drawn = sum(before.get(page) != key for page, key in pages.items())
    return Built(len(topics), len(pages), drawn)


@contextmanager
def _refusals_of(out: str) -> Iterator[None]:
    """A folder of pages is none of the lake's: what it refuses is an option that cannot be meant."""
    try:
        yield
    except (OSError, LakeError) as refused:
        raise UsageError(
            out,
            found=refused.found if isinstance(refused, LakeError) else in_one_line(refused),
            expected="a folder or gs:// address for pages that can be written",
            next_step="Give access to it, or name another with --out.",
        ) from refused


def server(folder: str, port: int) -> ThreadingHTTPServer:
    """Serves the pages to this machine alone, without a log line for each; UsageError where the port is taken."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=folder))
    except OSError as refused:
        raise UsageError(
            f"pages at 127.0.0.1:{port}",
            found=f"an address that cannot be bound ({refused.strerror or refused})",
            expected="a free port of this machine",
            next_step="Stop what listens there, or choose another port; 0 takes any free one.",
        ) from refused


@contextmanager
def kept_built(config: Config, out: str, last: int) -> Iterator[None]:
    """While this lasts the pages are built again and again, with pauses by how long that takes; they are live."""
    stopping = threading.Event()

    def build_again() -> None:
        pause = _SHORTEST_PAUSE_SECONDS
        while not stopping.wait(pause):
            began = time.monotonic()
            try:
                build(config, out, config.now(), last=last, is_live=True)
            except LakehouseError as error:
                log.warning("report: path=%s error=%s", out, error)
            pause = max(_SHORTEST_PAUSE_SECONDS, _PAUSE_SHARE * (time.monotonic() - began))

    thread = threading.Thread(target=build_again, name="report", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


# --- reading -------------------------------------------------------------------------------------------------------


def _keys_before(storage: Storage) -> dict[str, str]:
    """What each page was drawn from; nothing when that is not known, and then all pages are drawn again."""
    try:
        built = json.loads(storage.read(_BUILT) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return {str(page): str(key) for page, key in built.items()} if isinstance(built, dict) else {}


def _build_topic(
    topic: Topic,
    config: Config,
    out: str,
    storage: Storage,
    before: Mapping[str, str],
    last: int,
    signs: Sequence[Sign],
    now: datetime,
    is_live: bool,
) -> tuple[_TopicView, dict[str, str]]:
    """The topic's view, and what each of its pages was drawn from; a topic that cannot be read has a complaint."""
    try:
        snapshot = read_topic(topic, config, newest_hours=last, commit=known_commit(topic.name, signs))
        tables = TopicTables(topic, config.settings)
        status = status_of(snapshot, signs, now)
        view = _TopicView(topic, _rows(snapshot, last, now), state=status.state, cause=shared_cause(status))
        pages = _Pages(view, snapshot, _model_of(tables), tables.reports.files(), storage, before, now, is_live)
        drawn_from = _write_pages(pages) | _write_erased_pages(pages, config)
        register(tables, out, snapshot.history)
        return view, drawn_from
    except Exception as error:  # whatever breaks one topic must not hide the others
        return _TopicView(topic, complaint=joined_lines(str(error)) or type(error).__name__), {}


def _result_of(reports: Storage, row: HourStatus) -> tuple[dict[str, Any] | None, str]:
    """The result of the hour's newest verdict, and a complaint when there is one that cannot be read."""
    path = f"{row.hour}/r{row.revision}.json"
    try:
        text = reports.read(path)
        if text is None:
            return None, ""
        result = json.loads(text)
        hour.page(result, HourContext(lateness=_lateness(result)))  # it may be well-formed, and still lack something
    except Exception as error:
        return None, f"The result {path} cannot be read: {in_one_line(error)}."
    return result, ""


def _model_of(tables: TopicTables) -> Model | None:
    """The model of usual hours; None when there is none, or when it is unreadable, as it is when it is next fitted."""
    try:
        return volume_models.current(tables)
    except (ValueError, KeyError, TypeError):
        return None


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


def _line(view: _TopicView) -> Line:
    states = {row.hour: _state(row) for row in view.rows}
    return Line(view.topic.name, states, view.complaint, view.cause)


# --- writing -------------------------------------------------------------------------------------------------------


def _rows(snapshot: TopicSnapshot, last: int, now: datetime) -> list[HourStatus]:
    return [row for row in hour_statuses(snapshot, last, now) if row.through is None]


def _write_pages(pages: _Pages) -> dict[str, str]:
    """The topic's page, and those of its hours that changed; gives what each was drawn from, as a hash."""
    keys = _write_hours(pages, range(len(pages.view.rows)))
    pages.storage.write(f"{pages.view.topic.name}/index.html", _topic_page(pages).encode())
    return keys


def _write_erased_pages(pages: _Pages, config: Config) -> dict[str, str]:
    """Pages of older hours that an erasure has changed: no page may stay that shows what is erased."""
    topic, shown = pages.view.topic, {row.hour for row in pages.view.rows}
    erased = {hour: revision for hour, revision in pages.snapshot.history.erased_hours().items() if hour not in shown}
    if not erased:
        return {}
    present = {stored.path for stored in pages.storage.listing(topic.name)}
    old = {
        hour
        for hour, revision in erased.items()
        if (page := f"{topic.name}/{hour}.html") in present
        and not pages.before.get(page, "").startswith(_done(revision))
    }
    if not old:
        return {}
    has_all = old <= set(pages.snapshot.history.hours())  # those that something still happens to are never left out
    snapshot = pages.snapshot if has_all else read_topic(topic, config)
    complete = replace(pages.view, rows=_rows(snapshot, len(snapshot.history.entries), pages.now))
    places = [place for place, row in enumerate(complete.rows) if row.hour in old]
    return _write_hours(replace(pages, view=complete, snapshot=snapshot), places)


def _write_hours(pages: _Pages, places: Iterable[int]) -> dict[str, str]:
    """What the pages of the hours at these places are drawn from; those that changed are written."""
    view, model = pages.view, pages.model
    keys: dict[str, str] = {}
    for place in places:
        row = view.rows[place]
        page = f"{view.topic.name}/{row.hour}.html"
        explanation = explain_hour(pages.snapshot, row.hour, pages.now)
        as_of = pages.now if explanation.state in ("open", "held") else None
        key = _key(row, explanation, model, view.rows[max(0, place - 1) : place + 2], as_of, pages.is_live)
        if key != pages.before.get(page):
            result, complaint = _result_of(pages.reports, row)
            context = _context(view, place, explanation, result, model)
            context = replace(context, as_of=as_of, complaint=complaint, is_live=pages.is_live)
            drawn = hour.page(result, context) if result else hour.page_without_verdict(context)
            pages.storage.write(page, drawn.encode())
            key = f"{key} unreadable" if complaint else key
        keys[page] = key
    return keys


def _key(
    row: HourStatus,
    explanation: Explanation,
    model: Model | None,
    neighbours: Sequence[HourStatus],
    as_of: datetime | None,
    is_live: bool,
) -> str:
    """By the minute of `as_of`, too, where an hour is open: what was measured of it goes on without an event."""
    around = [(each.hour, each.rows) for each in neighbours]
    conditions = [(condition.condition, condition.is_met) for condition in explanation.conditions]
    drawn_from = (
        _FORM,
        is_live,
        row,
        conditions,
        as_of and as_of.replace(second=0, microsecond=0),
        [event.at for event in explanation.story],
        around,
        model and model.version,
    )
    done = _done(row.revision) if row.waits_for is None else ""
    return done + hashlib.md5(repr(drawn_from).encode(), usedforsecurity=False).hexdigest()


def _done(revision: int) -> str:
    """What the key of an hour's page begins with when that revision is everywhere it goes."""
    return f"r{revision} "


def _context(
    view: _TopicView, place: int, explanation: Explanation, result: dict[str, Any] | None, model: Model | None
) -> HourContext:
    row = view.rows[place]
    before = [each for each in view.rows[max(0, place - _CONTEXT) : place + 1] if each.rows is not None]
    has_volume = len(before) > 1 and row.rows is not None
    return HourContext(
        topic=view.topic.name,
        hour=row.hour,
        state=_state(row),
        why=explanation.why,
        waits_for=explanation.waits_for,
        released=_release(explanation) if row.verdict == "released" else None,
        links=_links(view, place),
        conditions=[
            [each.condition, "yes" if each.is_met else "no", each.required, each.measured, each.text]
            for each in explanation.conditions
        ],
        measured_at=explanation.measured_at,
        mirrors=_mirror_rows(explanation, row),
        story=[[second(event.at), event.state, event.by, event.text] for event in explanation.story],
        lateness=_lateness(result) if result else "",
        volume=_volume_chart(before, model, row.hour) if has_volume else "",
        volume_note=_volume_note(row, model),
        events=_events_chart(row),
    )


def _lateness(result: Mapping[str, Any]) -> str:
    return charts.lateness(result["lateness"]["rows"]) if result.get("lateness") else ""


def _release(explanation: Explanation) -> str | None:
    """Who released the hour last, and why."""
    return next((event.text for event in reversed(explanation.story) if event.state == State.RELEASED), None)


def _volume_note(row: HourStatus, model: Model | None) -> str:
    band = model.band(ROWS, row.hour) if model else None
    if band is None or row.rows is None:
        return ""
    return f"{row.rows:,} rows; between {band.low:,.0f} and {band.high:,.0f} are usual for this hour of the week."


def _volume_chart(rows: Sequence[HourStatus], model: Model | None, marked: Hour | None) -> str:
    bands = {row.hour: (band.low, band.high) for row in rows if model and (band := model.band(ROWS, row.hour))}
    return charts.volume([row.hour for row in rows], [row.rows or 0 for row in rows], bands, marked)


def _events_chart(row: HourStatus) -> str:
    """Of a sealed hour: its messages, and the rejected ones that came since the close before it."""
    if row.rows is None or row.deliveries is None:
        return ""
    skewed, twice, late = row.skewed or 0, row.duplicates or 0, row.late_duplicates or 0
    outcomes = [
        Outcome("delivered, of this hour", row.rows - skewed, "good"),
        Outcome("delivered, late: of earlier hours", skewed, "accent"),
        Outcome("left out: came twice", twice, "pale"),
        Outcome("left out: in an earlier sealed hour", late, "purple"),
        Outcome("rejected: no event of any hour", row.rejected or 0, "bad"),
    ]
    return charts.events(sum(each.messages for each in outcomes), outcomes)


def _freshness_chart(rows: Sequence[HourStatus], topic: Topic, now: datetime) -> str:
    """Of hours that have closed: how long after its end each was everywhere it goes, or has waited until now."""
    delays: dict[Hour, tuple[float, bool]] = {}
    for row in rows:
        through = row.mirrored_after_seconds if topic.mirrors else row.sealed_after_seconds
        if through is not None:
            delays[row.hour] = through, True
        elif row.state != "open":
            delays[row.hour] = seconds_since(hours.end_of(row.hour), now), False
    goal = topic.deliver_within / timedelta(seconds=1) if topic.deliver_within else None
    return charts.freshness(delays, goal) if len(delays) > 1 else ""


def _links(view: _TopicView, place: int) -> list[tuple[str, str]]:
    links = [("All topics", "../index.html"), (view.topic.name, "index.html")]
    if place > 0:
        links.append((f"← {view.rows[place - 1].hour}", f"{view.rows[place - 1].hour}.html"))
    if place + 1 < len(view.rows):
        links.append((f"{view.rows[place + 1].hour} →", f"{view.rows[place + 1].hour}.html"))
    return links


def _mirror_rows(explanation: Explanation, row: HourStatus) -> list[list[Any]]:
    """A row for each target that has the newest revision; LakeError came before this where a row is broken."""
    seals = [event.at for event in explanation.story if event.state == State.SEALED]
    events = [event for event in explanation.story if event.state == State.MIRRORED and seals and event.at > seals[-1]]
    mirrored = [(event, Mirrored.from_json(event.details)) for event in events]
    return [
        [there.target, there.rows, "yes" if there.rows == row.rows else "no", there.where, second(event.at)]
        for event, there in mirrored
    ]


def _topic_page(pages: _Pages) -> str:
    view = pages.view
    with_rows = [row for row in view.rows if row.rows is not None]
    chart = _volume_chart(with_rows, pages.model, None) if len(with_rows) > 1 else ""
    facts = [("state", view.cause), *_facts(pages.snapshot, pages.model, pages.now)]
    freshness = _freshness_chart(view.rows, view.topic, pages.now)
    return topic_page(view.topic.name, list(_hour_lines(view.rows)), facts, chart, freshness, is_live=pages.is_live)


def _hour_lines(rows: Sequence[HourStatus]) -> Iterator[HourLine]:
    for row in rows:
        cells = (
            _number(row.rows),
            _number(row.duplicates),
            _number(row.skewed),
            _number(row.rejected),
            row.verdict or "",
            row.waits_for or "",
            ", ".join(row.mirrored),
            _age(row.closed_after_seconds),
            _age(row.mirrored_after_seconds),
        )
        yield HourLine(row.hour, _state(row), cells)


def _facts(snapshot: TopicSnapshot, model: Model | None, now: datetime) -> Iterator[tuple[str, str]]:
    if snapshot.batch is None:
        return
    yield "open hour", snapshot.open_hour or "none yet"
    watermark = snapshot.batch.instant("watermark")
    yield "watermark", second(watermark) if watermark else "none yet"
    since = (now - snapshot.batch.committed_at) / timedelta(seconds=1)
    yield "last commit", f"{second(snapshot.batch.committed_at)}, {brief(since)} ago"
    yield "lateness allowed", brief(snapshot.topic.lateness / timedelta(seconds=1))
    if snapshot.topic.deliver_within is not None:
        yield "to be delivered within", brief(snapshot.topic.deliver_within / timedelta(seconds=1))
    if model is not None:
        yield "usual hours fitted to", f"{model.hours:,} hours, {model.first} to {model.last}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _age(seconds: float | None) -> str:
    return "" if seconds is None else brief(seconds)
