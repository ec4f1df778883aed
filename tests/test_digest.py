"""A ledger's digest: it says what the table says, or it is not used."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse import hours
from lakehouse.hours import Hour
from lakehouse.operations import report
from lakehouse.operations.erasure.verdicts import JUDGED
from lakehouse.operations.hour_status import hour_statuses
from lakehouse.operations.snapshot import Batch, TopicSnapshot, read_topic
from lakehouse.operations.status import status_of
from lakehouse.progress import IngestState
from lakehouse.store import ledger_rows, tables
from lakehouse.store.digest import DIGEST, SHOWN_HOURS, Digest, decoded, digest_rows, encoded, followed
from lakehouse.store.history import Entry, History, in_order
from lakehouse.store.ledger import Ledger, LedgerTable
from lakehouse.store.ledger_files import LedgerFile
from lakehouse.store.ledger_rows import AllRows
from lakehouse.store.records import HOUR_STATES, State
from lakehouse.topics import Topic
from tests.status_lake import BACKLOG, CLOSED, FIVE, INVALID, MIRRORED, NOON, SEALED, SEVEN, SIX, Lake
from tests.status_lake import lake as lake

TARGETS = ("folder", "warehouse")
_HOURS = [hours.after(FIVE, number) for number in range(6)]


def details_of(state: State, target: str, revision: int, version: int) -> dict[str, Any]:
    """Of a row of that state, as a stage writes it."""
    details: dict[str, dict[str, Any]] = {
        State.CLOSED: CLOSED | {"bronze_version": version},
        State.SEALED: SEALED | {"revision": revision},
        State.INVALID: INVALID,
        State.MIRRORED: MIRRORED | {"target": target, "revision": revision},
        State.WITHDRAWN: {"target": target, "revision": revision},
        State.MIRROR_FAILED: {"target": target, "error": "refused", "revision": revision},
        State.STAGE_FAILED: {"stage": ("seal", "mirror")[version % 2], "error": f"error {version}"},
        State.HELD: {
            "reasons": [BACKLOG | {"text": "behind"}],
            "waits_for_frontier": "behind" if version % 2 else None,
        },
        State.STARTED: {"run": "run", "host": "here", "release": "r1"},
        State.FAILED: {"error": f"error {version}", "run": "run", "host": "here"},
        State.DAMAGED: {"count": version},
        State.REPLAYED: {"segments": 1, "reason": "r", "by": "me"},
        State.CLOSE_REQUESTED: {"by": "me", "reason": "r"},
    }
    return details.get(state, {})


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    """Rows as stages record them, in an order of their own: hours close oldest first, some of them many at once."""
    entries: list[Entry] = []
    closed = 0
    for number in range(draw(st.integers(0, 40))):
        state = draw(st.sampled_from(list(State)))
        target, revision = draw(st.sampled_from(TARGETS)), draw(st.integers(1, 2))
        hour: str | None = draw(st.sampled_from(_HOURS[: closed or 1]))
        if state == State.CLOSED:
            if closed == len(_HOURS):
                continue
            hour, closed = _HOURS[closed], closed + 1
        elif state in HOUR_STATES and not closed:
            continue
        elif state in (State.HELD, State.CLOSE_REQUESTED):
            hour = _HOURS[min(closed, len(_HOURS) - 1)]
        elif state not in (*HOUR_STATES, State.MIRROR_FAILED, State.STAGE_FAILED):
            hour = None
        details = details_of(state, target, revision, number // 3)
        entries.append(Entry(hour, state, NOON + timedelta(minutes=number), "test/r1/run", details))
    return entries


def shown(topic: Topic, history: History, last: int) -> list[Any]:
    """All that is asked of a history, with a bronze table that knows of the hours, and long after."""
    open_hour = hours.after(history.closed_through() or FIVE)
    batch = _batch(IngestState(7, open_hour))
    found: list[Any] = []
    for snapshot in (TopicSnapshot(topic, history, batch), TopicSnapshot(topic, history)):
        later = NOON + timedelta(days=1)
        found.append(status_of(snapshot, [], later))
        found.append(hour_statuses(snapshot, last, later)[-last:] if last else [])
    return found


def _batch(state: IngestState) -> Batch:
    return Batch(7, NOON, state, {"rows": 1, "watermark": None, "frontier": None})


@given(histories(), st.integers(1, 4), st.integers(0, 40))
def test_what_tells_says_what_all_rows_say(entries: list[Entry], newest: int, cut: int) -> None:
    """Of the topic, and of its newest hours; also where newer rows have come since."""
    topic = Topic.model_validate(TOPIC)
    whole = History(in_order(entries))
    assert shown(topic, digest_rows(whole, TARGETS, newest), newest) == shown(topic, whole, newest)
    known = digest_rows(History(in_order(entries[:cut])), TARGETS, newest)
    for entry in entries[cut:]:
        known = followed(known, entry, lambda hour: [row for row in entries if row.hour == hour])
    assert shown(topic, known, newest) == shown(topic, whole, newest)
    assert digest_rows(known, TARGETS, newest) == digest_rows(whole, TARGETS, newest)


@given(histories())
def test_what_is_due_is_the_same_by_the_rows_of_a_digest(entries: list[Entry]) -> None:
    """The stages ask no others; of an hour that is left out nothing is due, and each that is there is whole."""
    whole = History(in_order(entries))
    known = digest_rows(whole, TARGETS, 1)
    assert (known.due_to_seal(), known.due_to_validate()) == (whole.due_to_seal(), whole.due_to_validate())
    for target in TARGETS:
        assert known.due_to_mirror(target) == whole.due_to_mirror(target)
        assert known.due_to_withdraw(target) == whole.due_to_withdraw(target)
    assert known.closed_through() == whole.closed_through()
    assert known.erased_hours() == whole.erased_hours()
    for state in (State.STARTED, State.STOPPED, State.FAILED, State.LOST, State.LOSS_ACCEPTED, State.DAMAGED):
        assert known.last(state) == whole.last(state)
    assert all(known.of_hour(hour) == whole.of_hour(hour) for hour in known.hours())
    asked, open_from = whole.requested_close(), whole.closed_through() or ""
    if asked is not None and (asked.hour or "") > open_from:
        assert known.requested_close() == asked


@given(histories())
def test_a_digest_says_what_it_was_made_of(entries: list[Entry]) -> None:
    known = digest_rows(History(in_order(entries)), TARGETS)
    newest_at = max((entry.at for entry in entries), default=None)
    digest = Digest(7, (LedgerFile("a.parquet", 3, 9),), known, newest_at, {"a": "b"}, "c")
    content = encoded(digest, TARGETS)
    if content is None:
        assert not known.entries
        return
    whole = decoded(content, TARGETS, SHOWN_HOURS, "ledger")
    assert whole is not None
    assert whole == digest
    brief = decoded(content, TARGETS[:1], 0, "ledger")
    assert brief is not None
    assert brief.history == digest_rows(known, TARGETS, 2)
    assert decoded(content, (*TARGETS, "new"), 0, "ledger") is None
    assert decoded(content, TARGETS, SHOWN_HOURS + 1, "ledger") is None
    for damaged in (content[:-9], b"", b"{}"):
        assert decoded(damaged, TARGETS, 0, "ledger") is None


@given(histories(), st.integers(0, 40))
def test_a_history_that_is_followed_says_what_one_of_all_rows_says(entries: list[Entry], cut: int) -> None:
    """What was asked of it before is kept, but for hours with new rows."""
    followed = History(in_order(entries[:cut]))
    for entry in [None, *entries[cut:]]:
        followed = followed.followed_by([entry]) if entry else followed
        answers = _answers(followed)
    assert answers == _answers(History(in_order(entries)))


def _answers(history: History) -> list[Any]:
    of_hours = [(history.current(hour), history.is_cleared(hour), history.targets_done(hour)) for hour in _HOURS]
    of_targets = [(history.due_to_mirror(target), history.due_to_withdraw(target)) for target in TARGETS]
    return [history.due_to_seal(), history.due_to_validate(), of_hours, of_targets]


TOPIC = {
    "name": "plays",
    "subscription": "projects/p/subscriptions/plays",
    "event_id": "payload.id",
    "event_time": "payload.at",
    "fields": {"user": "string"},
    "mirrors": TARGETS,
}


# --- on a lake -----------------------------------------------------------------------------------------------------


@pytest.fixture
def told(lake: Lake) -> Lake:
    """An hour that is everywhere, one that is sealed, and rows that the digest does not have yet."""
    lake.start()
    lake.sealed(FIVE)
    lake.record("valid", FIVE)
    lake.record("mirrored", FIVE, MIRRORED)
    lake.record("held", SEVEN, {"reasons": [BACKLOG | {"text": "behind"}]})
    lake.sealed(SIX)
    return lake


def from_digest(lake: Lake) -> History | None:
    return lake.tables().digest_history(24)


def digest_file(lake: Lake) -> Path:
    return Path(lake.tables().sealed.uri, "ledger", DIGEST)


def test_a_topic_has_a_digest_from_its_first_row_on(lake: Lake) -> None:
    """One without events may never have a second row; each look at it would open a table."""
    lake.record("started", None, {"run": "run", "host": "here", "release": "r1"})
    assert digest_file(lake).exists()
    assert from_digest(lake) == lake.tables().history()


def test_rows_that_the_digest_lacks_are_read_from_the_table(told: Lake) -> None:
    assert from_digest(told) == told.tables().history()
    told.tables().ledger("other")  # another handle, as of another process
    told.record("valid", SIX)
    assert from_digest(told) == told.tables().history()


@pytest.mark.parametrize("wanted", [set(), {FIVE}, {SIX, SEVEN}, {hours.after(SEVEN)}])
def test_of_some_hours_the_ledger_says_what_all_its_rows_say(told: Lake, wanted: set[Hour]) -> None:
    whole = told.tables().history().entries
    found = told.tables().stored_rows().of_hours(wanted)
    assert found.entries == tuple(entry for entry in whole if entry.hour in wanted)


def test_status_reads_no_table_where_there_is_a_digest(told: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = told.status()
    assert expected.newest_sealed_hour == SIX
    monkeypatch.setattr(AllRows, "history", None)
    assert told.status() == expected
    digest_file(told).unlink()
    monkeypatch.undo()
    assert told.status() == expected


def set_back(lake: Lake) -> None:
    """As from a backup, with the digest of what came after it."""
    log = digest_file(lake).parent / "_delta_log"
    newest = sorted(log.glob("*.json"))[-6:]
    for entry in newest:
        entry.unlink()


def set_back_and_written_again(lake: Lake) -> None:
    """Up to the version that the digest is of, or beyond, and not by whoever wrote the digest."""
    before = digest_file(lake).read_bytes()
    set_back(lake)
    for _ in range(12):
        Ledger(LedgerTable(lake.tables().sealed.below("ledger").table()), "other").record(
            "recovered", details={"run": "r"}
        )
    digest_file(lake).write_bytes(before)


def set_back_and_altered(lake: Lake) -> None:
    """Up to the version that the digest is of, by a commit that adds no file."""
    known = decoded(digest_file(lake).read_bytes(), (), 0, "ledger")
    assert known is not None
    for entry in (digest_file(lake).parent / "_delta_log").glob("*.json"):
        if int(entry.stem) >= known.version:
            entry.unlink()
    table = lake.tables().sealed.below("ledger").table()
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 500 days"})
    assert table.version() == known.version


def of_another_form(lake: Lake) -> None:
    table = pq.read_table(digest_file(lake))
    told = json.loads(table.schema.metadata[b"digest"]) | {"form": 1}
    pq.write_table(table.replace_schema_metadata({"digest": json.dumps(told)}), digest_file(lake))


def torn(lake: Lake) -> None:
    digest_file(lake).write_bytes(digest_file(lake).read_bytes()[:-100])


def rows_taken_out(lake: Lake) -> None:
    """By who does not know of digests, as an older release that erases."""
    table = LedgerTable(lake.tables().sealed.below("ledger").table())
    table.rewrite(lambda entry: replace(entry, details={}) if entry.state == State.MIRRORED else entry)


def many_more_rows(lake: Lake) -> None:
    before = digest_file(lake).read_bytes()
    for number in range(20):
        lake.record("recovered", details={"run": f"run {number}"})
    digest_file(lake).write_bytes(before)


@pytest.mark.parametrize(
    "change",
    [
        set_back,
        set_back_and_written_again,
        set_back_and_altered,
        of_another_form,
        torn,
        rows_taken_out,
        many_more_rows,
    ],
)
def test_a_digest_that_may_not_be_what_the_table_says_is_not_used(told: Lake, change: Callable[[Lake], None]) -> None:
    change(told)
    assert from_digest(told) is None
    assert told.status().topic == "plays"


@pytest.mark.parametrize("seed", range(4))
def test_a_digest_of_which_bits_changed_says_the_same_or_nothing(told: Lake, seed: int) -> None:
    """A disk may do that, and whoever writes the next digest goes on from this one."""
    written = digest_file(told).read_bytes()
    known, chance = decoded(written, (), 24, "ledger"), random.Random(seed)
    assert known is not None
    for _ in range(250):
        changed = bytearray(written)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        assert decoded(bytes(changed), (), 24, "ledger") in (known, None)


def test_of_an_hour_that_the_digest_left_out_all_rows_are_read_where_one_comes(told: Lake) -> None:
    """What an older hour's new row means, only its other rows say."""
    for number in range(1, SHOWN_HOURS + 2):
        hour = hours.after(SEVEN, number)
        told.record("closed", hour, CLOSED | {"bronze_version": 3 + number})
        told.record("sealed", hour, SEALED)
        told.record("valid", hour)
        told.record("mirrored", hour, MIRRORED)
    known = from_digest(told)
    assert known is not None
    assert FIVE not in known.hours()
    assert SIX in known.hours()  # it was never mirrored
    expected = told.status()
    assert expected.waiting_hour == SIX
    other = Ledger(LedgerTable(told.tables().sealed.below("ledger").table()), "erase")
    content = digest_file(told).read_bytes()
    other.record("sealed", FIVE, SEALED | {"revision": 2})
    digest_file(told).write_bytes(content)
    followed_back = from_digest(told)
    assert followed_back is not None
    assert followed_back.of_hour(FIVE) == told.tables().history().of_hour(FIVE)
    assert told.status().waiting_hour == FIVE
    digest_file(told).unlink()
    assert told.status().waiting_hour == FIVE


def test_rows_of_many_hours_that_were_left_out_take_one_reading_of_the_ledger(
    told: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an erasure records them, that takes somebody out of old hours."""
    for number in range(1, SHOWN_HOURS + 9):
        _deliver(told, number)
    old, mine = [hours.after(SEVEN, number) for number in range(1, 6)], told.tables().ledger("one")
    assert not any(map(mine.digest().of_hour, old))
    content = digest_file(told).read_bytes()
    erasing = Ledger(LedgerTable(told.tables().sealed.below("ledger").table()), "erase")
    for hour in old:
        erasing.record("sealed", hour, SEALED | {"revision": 2})
    digest_file(told).write_bytes(content)
    read, rows_in = list[int](), ledger_rows.rows_in

    def counted(files: Any, ledger: str, paths: Iterable[str]) -> pa.Table:
        read.append(len(list(paths)))
        return rows_in(files, ledger, paths)

    monkeypatch.setattr(ledger_rows, "rows_in", counted)
    for look in (lambda: from_digest(told), mine.digest):
        read.clear()
        known = look()
        assert known is not None
        assert [known.revision(hour) for hour in old] == [2] * 5
        assert sum(count > 1 for count in read) == 1


def _deliver(lake: Lake, number: int, revisions: int = 1) -> None:
    """An hour, the so many-th after seven, which an erasure sealed again where there are more revisions."""
    hour = hours.after(SEVEN, number)
    lake.record("closed", hour, CLOSED | {"bronze_version": 3 + number})
    for revision in range(1, revisions + 1):
        lake.record("sealed", hour, SEALED | {"revision": revision, "rows": 991 - revision})
        lake.record("valid", hour)
        lake.record("mirrored", hour, MIRRORED | {"revision": revision})


@pytest.mark.parametrize("revisions", [1, 2])
def test_a_ledger_of_years_is_held_by_its_digest(told: Lake, monkeypatch: pytest.MonkeyPatch, revisions: int) -> None:
    """Of hours that are everywhere no row is in memory, also where somebody was erased who was in all of them.

    Who asks for one of them is given all rows.
    """
    for number in range(1, 2 * SHOWN_HOURS):
        _deliver(told, number, revisions)
    ledger, old = told.tables().ledger("test"), hours.after(SEVEN, 1)
    whole = told.tables().history()
    assert len(ledger.known_digest().entries) < 0.6 * len(whole.entries)
    assert ledger.known_digest().erased_hours() == whole.erased_hours()
    assert len(whole.erased_hours()) == (2 * SHOWN_HOURS - 1) * (revisions - 1)
    assert not ledger.known_digest().of_hour(old)
    assert ledger.history_with(old).of_hour(old) == whole.of_hour(old)
    seen: list[History] = []
    assert ledger.record("released", old, unless=lambda history: bool(seen.append(history)) or True) is None
    assert all(history.of_hour(old) == whole.of_hour(old) for history in seen)
    tables._ledgers.clear()
    monkeypatch.setattr(tables, "_ensure", None)
    monkeypatch.setattr(AllRows, "read", None)
    again = told.tables().ledger("another process")
    assert again.digest() == digest_rows(whole, ("folder",))
    assert again.record("held", hours.after(SEVEN, 2 * SHOWN_HOURS), {"reasons": [BACKLOG]}) is not None


def test_the_page_of_an_hour_that_is_left_out_follows_an_erasure(told: Lake, tmp_path: Path) -> None:
    """And is drawn once more, not with each build."""
    for number in range(1, SHOWN_HOURS + 9):
        _deliver(told, number, revisions=1 + number % 2)
    erased, site = hours.after(SEVEN, 2), tmp_path / "site"
    for last in (2 * SHOWN_HOURS, 2):
        report.build(told.config, str(site), NOON, last=last)
    page = site / "plays" / f"{erased}.html"
    assert f"{erased}: 990 rows" in page.read_text()
    for state, details, waits_for in (
        ("sealed", SEALED | {"revision": 2, "rows": 987}, "validate"),
        ("valid", {}, "mirror folder"),
        ("mirrored", MIRRORED | {"revision": 2}, None),
    ):
        told.record(state, erased, details)
        assert [report.build(told.config, str(site), NOON, last=2).drawn for _ in range(2)] == [1, 0]
        found = re.search(r"waits for: ([a-z ]+)", page.read_text())
        assert (found and found[1]) == waits_for
    known = from_digest(told)
    assert known is not None
    assert not known.of_hour(erased)
    assert f"{erased}: 987 rows" in page.read_text()


def test_an_erasure_takes_what_it_erases_out_of_the_digest(told: Lake) -> None:
    secret = "observed@example.com"
    told.record("invalid", SIX, INVALID | {"failed": [{"expectation": "e", "observed": secret}]})
    assert secret.encode() in _plain(digest_file(told))

    def changed(entry: Entry) -> Entry:
        return replace(entry, details=INVALID) if entry.state == State.INVALID else entry

    assert any(DIGEST in address for address in told.tables().ledger_files_to_change(changed, JUDGED))
    assert DIGEST in told.tables().ledger("erase/r1/run").erase(changed)
    assert not told.tables().ledger_files_to_change(changed, JUDGED)
    told.record("held", SEVEN, {"reasons": [BACKLOG | {"text": "still"}]})
    assert secret.encode() not in _plain(digest_file(told))
    assert from_digest(told) == told.tables().history()


def test_the_table_is_the_same_with_and_without_its_digest(told: Lake) -> None:
    """No reader of Delta takes it for a file of the table, and no clean-up removes it."""
    table = told.tables().sealed.below("ledger").table()
    assert DIGEST not in {Path(path).name for path in table.file_uris()}
    assert table.vacuum(0, dry_run=True, enforce_retention_duration=False, full=True).count(DIGEST) == 0


def _plain(file: Path) -> bytes:
    return b"\n".join(str(value).encode() for value in pq.read_table(file)["details"].to_pylist())


def test_bronze_is_followed_from_the_commit_that_a_heartbeat_names(told: Lake) -> None:
    topic, config = told.config.topic("plays"), told.config
    first = read_topic(topic, config).batch
    assert first is not None
    told.batch(open_hour=SIX)
    newest = read_topic(topic, config).batch
    assert newest is not None
    assert newest.version == first.version + 1
    assert all(read_topic(topic, config, commit=known).batch == newest for known in (first.version, newest.version))
    assert read_topic(topic, config, commit=newest.version + 1).batch == newest  # the log was set back since
