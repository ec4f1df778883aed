"""Every delivery has its explanation, and every event its way."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.cli import app
from lakehouse.errors import LakeError, LakehouseError
from lakehouse.operations.audit import Audit, audit_hour, check_topic
from lakehouse.operations.trace import trace_event
from lakehouse.store.delta import DataFile, commit, files_of_hour
from tests.lake import FIVE, SEVEN, SIX, Delivery, Lake, conf_of, lake_in


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two sealed hours with everything that can happen to a delivery."""
    lake = lake_in(tmp_path_factory.mktemp("made"))
    lake.deliver(Delivery("a", 1, 0, "a1"), Delivery("a", 1, 2, "a2"), Delivery("b", 2, 0, "b1"))
    lake.deliver(Delivery("bad", 3, 0, "x1", reject_reason="event.n: not a number"), hour=None)
    lake.seal(FIVE)
    lake.deliver(Delivery("b", 2, 70, "b2"), Delivery("late", 30, 60, "l1"), hour=SIX)
    lake.deliver(Delivery("c", 61, 0, "c1"), hour=SIX)
    lake.seal(SIX)
    return lake


@pytest.fixture
def lake(made: Lake, tmp_path: Path) -> Lake:
    return made.copied(tmp_path)


def answer(audit: Audit) -> list[tuple[str, str | None, str | None, str]]:
    return [(each.what, each.event_id, each.message_id, each.where) for each in audit.explained]


def test_an_untouched_hour_is_what_its_deliveries_come_to(lake: Lake) -> None:
    """And what is not in it is explained, id by id."""
    audit = audit_hour(lake.topic, lake.config, FIVE)
    assert audit.is_right
    assert (audit.deliveries, audit.rows, audit.sealed_rows) == (3, 2, 2)
    assert answer(audit) == [
        ("duplicate", "a", "a2", "first delivered as a1"),
        ("in another hour", "b", "b2", f"after the close, delivered in {SIX}"),
        ("in another hour", "late", "l1", f"after the close, delivered in {SIX}"),
        ("rejected", "bad", "x1", "event.n: not a number"),
    ]


def test_a_late_duplicate_is_reported_with_the_hour_that_has_it(lake: Lake) -> None:
    audit = audit_hour(lake.topic, lake.config, SIX)
    assert answer(audit) == [("late duplicate", "b", "b2", f"sealed in {FIVE}")]
    assert (audit.rows, audit.is_right) == (2, True)


def test_rows_that_nobody_delivered_and_rows_that_are_not_there_are_found(lake: Lake) -> None:
    """Silver holds another hour's file, and lacks its own."""
    (ours,), (theirs, *_) = files_of_hour(lake.silver, FIVE), files_of_hour(lake.silver, SIX)
    moved = DataFile(theirs.path, FIVE, theirs.rows, theirs.size_bytes, datetime.now(UTC))
    commit(lake.silver, [moved], metadata={}, transactions={}, removed=[ours])
    audit = audit_hour(lake.topic, lake.config, FIVE)
    assert not audit.is_right
    assert audit.counts["missing"] == 2
    assert audit.counts["extra"] == 1


def rewritten(lake: Lake, hour: str, **values: object) -> None:
    """The hour's first file with another value in the row of `a`, under the same name and in the log as it was."""
    (ours, *_) = files_of_hour(lake.silver, hour)
    path = Path(lake.folders.silver, ours.path)
    table = pq.read_table(path, partitioning=None)
    rows = [row | values if row["event_id"] == "a" else row for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


@pytest.mark.parametrize(
    "values",
    [{"n": 17}, {"user": None}, {"track": {"id": "t0", "ms": 9}}, {"message_id": "x"}, {"event_hour": SIX}],
)
def test_values_that_were_edited_are_found_by_their_event(lake: Lake, values: dict[str, object]) -> None:
    """Ids and counts are as they were, so nothing else sees it."""
    rewritten(lake, FIVE, **values)
    audit = audit_hour(lake.topic, lake.config, FIVE)
    assert (audit.is_right, audit.counts["different"]) == (False, 1)
    assert ("different", "a", "a1", "in silver with other values than delivered") in answer(audit)
    assert audit_hour(lake.topic, lake.config, FIVE, compares_values=False).is_right


def test_a_field_that_came_or_went_since_is_no_difference(lake: Lake) -> None:
    """What the files have is compared, as far as the topic declares it."""
    fields = {name: kind for name, kind in lake.topic.fields.items() if name != "n"}
    grown = {**fields, "speed": "double", "track": "struct<id: string, ms: int, bpm: int>"}
    lake.topic = lake.topic.model_copy(update={"fields": grown})
    assert audit_hour(lake.topic, lake.config, FIVE).is_right
    rewritten(lake, FIVE, user="somebody")
    assert audit_hour(lake.topic, lake.config, FIVE).counts["different"] == 1


def test_counts_are_whole_when_the_list_is_cut(lake: Lake) -> None:
    lake.deliver(*(Delivery("d", 121, number, f"d{number:02d}") for number in range(20)), hour=SEVEN)
    lake.seal(SEVEN)
    audit = audit_hour(lake.topic, lake.config, SEVEN, limit=3)
    assert audit.counts["duplicate"] == 19
    assert [each.message_id for each in audit.explained] == ["d01", "d02", "d03"]


def test_an_hour_is_audited_as_it_was(lake: Lake) -> None:
    """Before its seal it had deliveries and no rows."""
    before = min(entry.at for entry in lake.ledger.history().of_hour(FIVE) if entry.state == "sealed")
    audit = audit_hour(lake.topic, lake.config, FIVE, before - timedelta(microseconds=1))
    assert (audit.deliveries, audit.rows, audit.sealed_rows) == (3, 2, None)
    assert "in another hour" not in audit.counts


def test_a_time_before_there_was_a_lake_is_no_time_to_audit(lake: Lake) -> None:
    """The table's first version would answer, and say that nothing was ever delivered."""
    with pytest.raises(LakeError, match="no version as of 2001"):
        audit_hour(lake.topic, lake.config, FIVE, datetime(2001, 1, 1, tzinfo=UTC))


def test_an_empty_hour_is_audited(lake: Lake) -> None:
    lake.seal(SEVEN)
    audit = audit_hour(lake.topic, lake.config, SEVEN)
    assert (audit.deliveries, audit.rows, audit.sealed_rows, audit.explained) == (0, 0, 0, ())


def test_an_hour_whose_deliveries_are_gone_cannot_be_audited(lake: Lake) -> None:
    """Saying that it should be empty would be a lie."""
    commit(lake.bronze, [], metadata={}, transactions={}, removed=files_of_hour(lake.bronze, FIVE))
    with pytest.raises(LakeError, match="no deliveries in bronze"):
        audit_hour(lake.topic, lake.config, FIVE)


def test_an_event_is_traced_from_its_first_delivery_to_its_mirrors(lake: Lake) -> None:
    """Release, batch, epoch and segment of each delivery, and what became of it."""
    lake.clear(FIVE, "folder")
    trace = trace_event(lake.topic, lake.config, "b")
    assert trace.hours == (FIVE,)
    first, second = trace.deliveries
    assert (first.message_id, first.outcome) == ("b1", f"the row of {FIVE}")
    assert (first.epoch, first.slot, first.position) == (1, 0, 2)
    assert first.segment == "000000000001-0000-abc"
    assert (first.batch["release"], first.batch["run"], first.batch["bronze_version"]) == ("test", "run", 1)
    assert (second.message_id, second.outcome) == ("b2", f"late duplicate: {FIVE} has it")
    assert [entry.state for entry in trace.story if entry.hour == FIVE] == ["closed", "sealed", "valid", "mirrored"]


def test_what_became_of_a_delivery_is_reported(lake: Lake) -> None:
    def outcomes(event_id: str) -> list[str]:
        return [each.outcome for each in trace_event(lake.topic, lake.config, event_id).deliveries]

    lake.deliver(Delivery("new", 121), hour=SEVEN)
    assert outcomes("a") == [f"the row of {FIVE}", f"duplicate in {FIVE}"]
    assert outcomes("late") == [f"the row of {SIX}"]
    assert outcomes("bad") == ["rejected: event.n: not a number"]
    assert outcomes("new") == [f"waits for the seal of {SEVEN}"]


def test_an_event_outlives_its_deliveries(lake: Lake) -> None:
    """After the retention of bronze the sealed row and its story are still found."""
    commit(lake.bronze, [], metadata={}, transactions={}, removed=files_of_hour(lake.bronze, FIVE))
    trace = trace_event(lake.topic, lake.config, "a")
    assert (trace.deliveries, trace.hours) == ((), (FIVE,))


def test_an_unknown_event_is_an_error(lake: Lake) -> None:
    with pytest.raises(LakehouseError, match="'nobody'"):
        trace_event(lake.topic, lake.config, "nobody")


def test_the_commands_show_it(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = conf_of(lake, tmp_path)

    def run(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            app.main(["--conf", str(conf), *arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out + captured.err

    code, text = run("audit", "plays", SIX)
    assert (code, f"sealed in {FIVE}" in text) == (0, True)
    code, text = run("audit", "plays", SIX, "--json", "--as-of", "2100-01-01T00:00:00Z")
    assert json.loads(text)["counts"] == {"late duplicate": 1}
    code, text = run("trace", "plays", "b")
    assert (code, "000000000001-0000-abc" in text) == (0, True)
    code, text = run("trace", "plays", "b", "--json")
    assert [each["message_id"] for each in json.loads(text)["deliveries"]] == ["b1", "b2"]
    code, text = run("audit", "plays", SIX, "--as-of", "yesterday")
    assert (code, text.startswith("--as-of: found 'yesterday'")) == (2, True)


def test_the_job_fails_when_an_hour_is_not_as_it_was_sealed(lake: Lake) -> None:
    """Its log ends with what to look at."""
    now = datetime.now(UTC)
    check_topic(lake.topic, lake.config, now)
    (ours,) = files_of_hour(lake.silver, FIVE)
    commit(lake.silver, [], metadata={}, transactions={}, removed=[ours])
    with pytest.raises(LakehouseError, match="2 missing"):
        check_topic(lake.topic, lake.config, now)
