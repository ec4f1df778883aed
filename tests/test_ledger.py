"""The ledger: rows are only ever added, one after the other, and say what is due."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from folders import Folders, folders_of, ledger_table
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.config import Settings
from lakehouse.errors import LakeError
from lakehouse.schemas import LEDGER
from lakehouse.store import ledger
from lakehouse.store.delta import open_table
from lakehouse.store.history import Entry, History
from lakehouse.store.ledger import Ledger, LedgerTable
from lakehouse.store.records import (
    RECORDS,
    Closed,
    Condition,
    FailedExpectation,
    Held,
    Mirrored,
    PreviousSeal,
    Record,
    Sealed,
    State,
    meanings,
)
from lakehouse.store.table_log import ConflictError
from lakehouse.topics import Topic
from tests.clock import NOON, Clock

FIVE, SIX, SEVEN, EIGHT = (f"2026-11-23T{hour:02d}" for hour in (5, 6, 7, 8))


@pytest.fixture
def folders(settings: Settings) -> Folders:
    return folders_of(settings, "plays")


@pytest.fixture
def opened(folders: Folders, topic: Topic, clock: Clock) -> Callable[..., Ledger]:
    """Handles of the one ledger, each as if of another process."""
    return lambda by="test": Ledger(LedgerTable(ledger_table(folders, topic, {})), by, clock)


def sealed(revision: int = 1) -> dict[str, Any]:
    return Sealed(silver_version=1, bronze_version=1, rows=1, id_checksum=1, revision=revision).as_json()


def happened(*states: str | tuple[str, str] | tuple[str, str, dict[str, Any]]) -> History:
    """A history of `state`s of hour 05, or of (state, hour), or of (state, hour, details)."""
    entries = []
    for number, answer in enumerate(states):
        state, hour, details = (answer, FIVE, {}) if isinstance(answer, str) else (*answer, {})[:3]
        details = details or (sealed() if state == "sealed" else {})
        entries.append(Entry(hour, state, NOON + timedelta(seconds=number), "test", details))
    return History(tuple(entries))


# --- the table -----------------------------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_was_recorded(opened: Callable[..., Ledger]) -> None:
    details = {"rows": 3, "conditions": [{"condition": "time", "is_met": True}], "requested_by": None, "name": "Ænima"}
    recorded = opened("ingest/1.0/run-7").record("closed", FIVE, details)
    assert opened().history().entries == (recorded,)
    assert recorded == Entry(FIVE, "closed", NOON, "ingest/1.0/run-7", details)


def test_a_typed_row_comes_back_as_it_was_recorded(opened: Callable[..., Ledger]) -> None:
    condition = Condition(condition="time", is_met=True, required=NOON.isoformat(), measured=None, text="Ænima\n")
    close = Closed(bronze_version=3, why="idle", rows=2, conditions=(condition,), frontier=NOON)
    opened().record(close, FIVE)
    (entry,) = opened().history().entries
    assert (entry.state, entry.hour, entry.record) == ("closed", FIVE, close)
    assert opened().history().close_of(FIVE) == close


def test_a_row_may_concern_the_whole_topic(opened: Callable[..., Ledger]) -> None:
    opened().record("started", details={"run": "a"})
    started = opened().history().last("started")
    assert started is not None
    assert started.hour is None
    assert started.details == {"run": "a"}


def test_an_open_ledger_sees_what_others_add(opened: Callable[..., Ledger]) -> None:
    reader, writer = opened(), opened()
    assert reader.history().entries == ()
    writer.record("closed", FIVE)
    assert reader.history().hours() == [FIVE]


def test_rows_are_ordered_though_clocks_differ(opened: Callable[..., Ledger], clock: Clock) -> None:
    """A stage on a machine whose clock is behind must not seem to come before what it answers to."""
    first, second = opened(), opened()
    first.record("closed", FIVE)
    clock.now = NOON - timedelta(hours=1)
    second.record("sealed", FIVE)
    clock.now = NOON - timedelta(hours=2)
    first.record("valid", FIVE)
    entries = opened().history().entries
    assert [entry.state for entry in entries] == ["closed", "sealed", "valid"]
    assert [entry.at for entry in entries] == [NOON + timedelta(microseconds=tick) for tick in range(3)]


def test_a_row_is_not_added_when_another_handle_was_first(opened: Callable[..., Ledger]) -> None:
    """`unless` is asked of the rows that are there when the row is added, not of those that were seen before."""
    one, other = opened(), opened()

    def is_closed(history: History) -> bool:
        return history.first("closed", FIVE) is not None

    assert not other.history().entries
    assert one.record("closed", FIVE, unless=is_closed) is not None
    assert other.record("closed", FIVE, unless=is_closed) is None
    assert len(opened().history().entries) == 1


def test_rows_added_at_the_same_moment_are_decided_one_after_the_other(opened: Callable[..., Ledger]) -> None:
    """Each of some threads, with a handle of its own, adds the next number: none is lost, none comes twice."""
    threads, each = 3, 4
    ledgers = [opened(f"thread-{number}") for number in range(threads)]
    barrier = threading.Barrier(threads)

    def add(ledger: Ledger) -> None:
        barrier.wait()
        for number in range(each):
            seen: list[int] = []

            def look(history: History, seen: list[int] = seen) -> bool:
                seen.append(len(history.entries))
                return False

            ledger.record("held", FIVE, {"number": number}, unless=look)
            rows_before.append(seen[-1])

    rows_before: list[int] = []
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(add, ledgers))
    entries = opened().history().entries
    assert sorted(rows_before) == list(range(threads * each))
    assert len({entry.at for entry in entries}) == threads * each
    for ledger_number in range(threads):
        own = [entry.details["number"] for entry in entries if entry.by == f"thread-{ledger_number}"]
        assert own == list(range(each))


def test_only_one_of_many_that_claim_the_same_hour_gets_it(opened: Callable[..., Ledger]) -> None:
    ledgers = [opened() for _ in range(4)]
    barrier = threading.Barrier(len(ledgers))

    def claim(ledger: Ledger) -> bool:
        barrier.wait()
        return ledger.record("closed", FIVE, unless=lambda history: FIVE in history.hours()) is not None

    with ThreadPoolExecutor(len(ledgers)) as pool:
        assert sorted(pool.map(claim, ledgers)) == [False, False, False, True]


def test_a_row_that_always_meets_a_conflict_is_an_error(
    opened: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What never ends has another cause than other writers, and must be seen."""

    def refused(*answer: object, **more: object) -> None:
        raise ConflictError("version 16 has the transaction ledger, too")

    monkeypatch.setattr(ledger, "commit_to_log", refused)
    with pytest.raises(LakeError, match=r"met 100 conflicts in a row, the last: version 16 has the transaction"):
        opened().record("closed", FIVE)


def test_the_table_is_read_only_when_it_has_moved_on(opened: Callable[..., Ledger]) -> None:
    """Ingest asks at every batch."""
    ledger = opened()
    ledger.record("started", details={"run": "a"})
    assert ledger.history() is ledger.history()


def test_many_small_files_become_one_while_others_record(folders: Folders, topic: Topic) -> None:
    """A stage that is running meanwhile loses no row, and reads none twice."""
    place = ledger_table(folders, topic, {})
    ours, theirs = (Ledger(LedgerTable(open_table(folders.ledger, {}), fan_out=3), by) for by in ("ours", "theirs"))
    for number in range(12):
        assert (ours if number % 3 else theirs).record("held", FIVE, {"number": number})
        place.update_incremental()
        assert len(place.file_uris()) <= 6
        for each in (ours, theirs):
            assert [entry.details["number"] for entry in each.history().entries] == list(range(number + 1))


@pytest.mark.parametrize(("more", "altered"), [(0, 0), (3, 0), (5, 0), (0, 4)])
def test_a_ledger_that_is_set_back_under_a_process_is_read_as_it_is_then(
    opened: Callable[..., Ledger], folders: Folders, tmp_path: Path, more: int, altered: int
) -> None:
    """Its operator is asked to restore what is damaged: the process must then go on by itself."""
    opened()
    running = Ledger(LedgerTable(open_table(folders.ledger, {}), check_every=0), "test")
    running.record("started", details={"run": "a"})
    shutil.copytree(folders.ledger, tmp_path / "copy")
    for number in range(3):
        running.record("held", FIVE, {"number": number})
    shutil.rmtree(folders.ledger)
    shutil.copytree(tmp_path / "copy", folders.ledger)
    for number in range(more):
        opened().record("held", SIX, {"number": number})
    for number in range(altered):
        ledger = open_table(folders.ledger, {})
        ledger.alter.set_table_properties({"delta.logRetentionDuration": f"interval {500 + number} days"})
    assert running.digest() == opened().digest()
    assert running.history() == opened().history()
    assert running.record("held", SEVEN, {"number": 9})
    assert [entry.state for entry in opened().history().entries] == ["started", *["held"] * (more + 1)]


def test_the_ledger_is_plain_delta(opened: Callable[..., Ledger], folders: Folders, topic: Topic) -> None:
    opened().record("closed", FIVE, {"rows": 1})
    opened().record("sealed", FIVE)
    rows = ledger_table(folders, topic, {}).to_pyarrow_table().to_pylist()
    assert sorted(row["state"] for row in rows) == ["closed", "sealed"]
    assert Path(folders.ledger, "_delta_log").is_dir()


# --- what the rows say ---------------------------------------------------------------------------------------------


def test_an_empty_history_has_no_hours_and_nothing_is_due() -> None:
    history = History()
    assert (history.hours(), history.due_to_seal(), history.due_to_validate(), history.due_to_mirror("bq")) == (
        [],
        [],
        [],
        [],
    )
    assert history.state_of(FIVE) == "open"
    assert history.revision(FIVE) == 0
    assert history.requested_close() is None


def test_held_and_requested_hours_are_still_open() -> None:
    """Only the states of an hour count as its history."""
    history = happened("held", "close_requested", ("started", None))  # type: ignore[arg-type]
    assert history.hours() == []
    assert history.state_of(FIVE) == "open"
    assert history.last("held") is not None


@pytest.mark.parametrize(
    ("states", "state", "due"),
    [
        (["closed"], "closed", "seal"),
        (["closed", "sealed"], "sealed", "validate"),
        (["closed", "sealed", "valid"], "valid", "mirror"),
        (["closed", "sealed", "invalid"], "invalid", None),
        (["closed", "sealed", "invalid", "released"], "released", "mirror"),
        (["closed", "sealed", "valid", ("mirrored", FIVE, {"target": "bq"})], "mirrored", None),
        (["closed", "sealed", "invalid", "valid"], "valid", "mirror"),
        (["closed", "sealed", "invalid", "released", "invalid"], "invalid", None),
    ],
)
def test_each_state_makes_the_next_stage_due(states: list[Any], state: str, due: str | None) -> None:
    history = happened(*states)
    stages = {
        "seal": history.due_to_seal(),
        "validate": history.due_to_validate(),
        "mirror": history.due_to_mirror("bq"),
    }
    assert history.state_of(FIVE) == state
    assert [stage for stage, hours in stages.items() if hours == [FIVE]] == ([due] if due else [])


def test_due_hours_come_oldest_first() -> None:
    history = happened(("closed", SEVEN), ("closed", FIVE), ("closed", SIX), ("sealed", SIX))
    assert history.due_to_seal() == [FIVE, SEVEN]
    assert history.hours() == [FIVE, SIX, SEVEN]


def test_each_target_is_due_by_itself() -> None:
    history = happened("closed", "sealed", "valid", ("mirrored", FIVE, {"target": "bq"}))
    assert history.due_to_mirror("bq") == []
    assert history.due_to_mirror("hive") == [FIVE]
    assert history.targets_done(FIVE) == {"bq"}


def test_an_hour_sealed_again_must_be_validated_and_mirrored_again() -> None:
    """What was said of an older revision says nothing of the new one."""
    history = happened(
        "closed",
        ("sealed", FIVE, sealed(1)),
        "valid",
        ("mirrored", FIVE, {"target": "bq"}),
        ("sealed", FIVE, sealed(2)),
    )
    assert history.revision(FIVE) == 2
    assert [entry.state for entry in history.current(FIVE)] == ["sealed"]
    assert history.due_to_seal() == []
    assert history.due_to_validate() == [FIVE]
    assert history.due_to_mirror("bq") == []
    assert not history.is_cleared(FIVE)


def test_a_release_of_an_older_revision_does_not_clear_the_new_one() -> None:
    history = happened("closed", "sealed", "invalid", "released", ("sealed", FIVE, sealed(2)), "invalid")
    assert not history.is_cleared(FIVE)
    assert history.due_to_mirror("bq") == []


def test_nothing_is_current_before_the_first_seal() -> None:
    assert happened("closed").current(FIVE) == []
    assert happened("closed").due_to_validate() == []


def test_first_and_last_of_a_state_are_reported_apart() -> None:
    history = happened(("sealed", FIVE, sealed(1)), ("sealed", SIX), ("sealed", FIVE, sealed(2)))
    first, last, newest = history.first("sealed", FIVE), history.last("sealed", FIVE), history.last("sealed")
    assert first is not None
    assert last is not None
    assert (first.details["revision"], last.details["revision"]) == (1, 2)
    assert newest == last
    assert history.last("valid") is None


def test_of_several_requests_the_one_that_reaches_furthest_counts() -> None:
    """A later request for an earlier hour takes nothing back: closing cannot be undone."""
    history = happened(("close_requested", SIX), ("close_requested", SEVEN), ("close_requested", FIVE))
    request = history.requested_close()
    assert request is not None
    assert request.hour == SEVEN


# --- the details of a state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RECORDS.values(), ids=RECORDS)
@given(data=st.data())
def test_what_is_written_of_a_state_is_read_back_equal(kind: type[Record], data: st.DataObject) -> None:
    """Through JSON text, as a row of the table goes."""
    record = data.draw(
        st.builds(kind, **{name: strategy for name, strategy in _STRATEGIES.items() if name in _keys(kind)})
    )
    details = json.loads(json.dumps(record.as_json()))
    assert kind.from_json(details) == record
    assert kind.from_json({**details, "a key of a later release": [1]}) == record


_INSTANTS = st.none() | st.datetimes(timezones=st.just(UTC))
_STRATEGIES: dict[str, Any] = {
    "observed": st.none() | st.integers() | st.text(),
    "id_checksum": st.integers(0, 2**90),
    **dict.fromkeys(("watermark", "frontier", "newest_write"), _INSTANTS),
    "seconds": st.none() | st.floats(0, 1e6),
    "failed": st.just(()) | st.just((FailedExpectation(expectation="x", observed=[1, "2"], unexpected=3),)),
    "warnings": st.just(()),
}


def _keys(kind: type[Any]) -> list[str]:
    return [each.key for each in meanings(kind)]


def test_every_state_has_its_record_and_every_key_its_meaning() -> None:
    """The manual's table of keys is made from these."""
    assert set(RECORDS) == set(State)
    for kind in (*RECORDS.values(), Condition, FailedExpectation, PreviousSeal):
        assert kind.__doc__
        assert all(each.meaning and each.type for each in meanings(kind))
    (bronze_version, why, *_) = meanings(Closed)
    assert (bronze_version.key, bronze_version.type, bronze_version.is_required) == ("bronze_version", "number", True)
    assert (why.type, why.is_required) == ("text", False)
    assert next(each.type for each in meanings(Closed) if each.key == "conditions") == "list of Condition"


def test_rows_of_the_first_releases_are_read() -> None:
    """They have no `is_met`, no revision, a list of files, and checksums as numbers."""
    time_only = [{"condition": "time", "required": "06:00", "measured": "06:10", "text": "passed"}]
    assert Closed.from_json({"bronze_version": 1, "why": "idle", "conditions": time_only}).conditions[0].is_met
    assert not Closed.from_json({"bronze_version": 1, "why": "request", "conditions": time_only}).conditions[0].is_met
    old = {"silver_version": 2, "bronze_version": 1, "rows": 3, "id_checksum": 12, "files": ["a", "b"]}
    assert Sealed.from_json(old) == Sealed(silver_version=2, bronze_version=1, rows=3, id_checksum=12, files=2)
    assert Held.from_json({"reasons": [{"condition": "quiet"}]}).frontier_text is None
    assert Mirrored.from_json({"target": "bq"}).id_checksum is None


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"state": "sealed", "details": "{}"}, "silver_version: Field required"),
        ({"state": "sealed", "details": '{"rows": "many"}'}, "rows: Input should be a valid integer"),
        ({"state": "closed", "details": "{"}, "details that are no JSON"),
        ({"state": "closed", "details": "[1]"}, "details that are no JSON object"),
        ({"state": "closed", "details": None}, "details that are no JSON"),
        ({"state": "finished", "details": "{}"}, "the state 'finished'"),
        ({"state": None, "details": "{}"}, "the state None"),
        ({"hour": "yesterday"}, "'yesterday' as its hour"),
        ({"hour": None}, "no hour"),
        ({"at": None}, "no time"),
        ({"by": None, "details": '{"conditions": 7}'}, "bronze_version: Field required; conditions"),
    ],
)
def test_a_row_that_no_stage_wrote_is_named_when_it_is_read(
    opened: Callable[..., Ledger], folders: Folders, row: dict[str, Any], problem: str
) -> None:
    """One forged row must not keep anybody from the other rows."""
    ledger_of_topic = opened()
    ledger_of_topic.record("started", details={"run": "a"})
    sound = {"hour": FIVE, "state": "closed", "at": NOON, "by": "mallory", "details": '{"bronze_version": 1}'}
    write_deltalake(folders.ledger, pa.Table.from_pylist([sound | row], schema=LEDGER), mode="append")
    history = opened().history()
    (forged,) = [entry for entry in history.entries if entry.state != "started"]
    with pytest.raises(LakeError) as broken:
        _ = forged.record
    assert problem in str(broken.value)
    assert folders.ledger in broken.value.subject
    assert history.last("started") is not None
    assert isinstance(history.due_to_seal(), list)


def test_a_ledger_that_cannot_be_written_is_an_error_that_says_so(
    opened: Callable[..., Ledger], folders: Folders
) -> None:
    ledger_of_topic = opened()
    log_folder = Path(folders.ledger, "_delta_log")
    shutil.rmtree(log_folder)
    log_folder.write_text("no folder")
    with pytest.raises(LakeError):
        ledger_of_topic.record("started", details={"run": "a"})


# --- an erasure ----------------------------------------------------------------------------------------------------


def without_secret(entry: Entry) -> Entry:
    return replace(entry, details={key: value for key, value in entry.details.items() if key != "secret"})


def test_rows_that_come_while_the_ledger_is_written_again_stay(opened: Callable[..., Ledger]) -> None:
    """The commit meets the other's, reads again, and takes it along. One comes at each of the first looks at a row:
    before the ledger is written again, while it is, and while that is tried once more."""
    mine, others = opened("erase"), opened("ingest")
    mine.record("closed", FIVE, {"bronze_version": 1, "secret": "u17"})
    coming = iter([SIX, SEVEN, EIGHT])

    def meanwhile(entry: Entry) -> Entry:
        hour = next(coming, None)
        if hour is not None:
            others.record("closed", hour, {"bronze_version": 2, "secret": "u18"})
        return without_secret(entry)

    assert mine.erase(meanwhile)
    rows = [(entry.hour, dict(entry.details)) for entry in opened().history().entries]
    assert rows == [(FIVE, {"bronze_version": 1}), *((hour, {"bronze_version": 2}) for hour in (SIX, SEVEN, EIGHT))]
    assert mine.erase(without_secret) == []


def test_broken_rows_are_written_again_as_they_are(opened: Callable[..., Ledger], folders: Folders) -> None:
    """They are evidence of who else writes there."""
    opened().record("closed", FIVE, {"bronze_version": 1, "secret": "u17"})
    broken = [{"hour": "x", "state": "odd", "at": NOON, "by": None, "details": "no JSON"}]
    write_deltalake(folders.ledger, pa.Table.from_pylist(broken, schema=LEDGER), mode="append")
    before = [entry for entry in opened().history().entries if entry.problem]
    opened().erase(without_secret)
    after = opened().history().entries
    assert [entry for entry in after if entry.problem] == before
    assert [dict(entry.details) for entry in after if not entry.problem] == [{"bronze_version": 1}]
