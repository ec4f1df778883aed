"""A person's events are gone from every file, and the hours say so: as revisions, with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse import hours
from lakehouse.checksum import checksum_of
from lakehouse.cli import app
from lakehouse.errors import LakehouseError
from lakehouse.operations.audit import audit_hour
from lakehouse.operations.condition import Condition
from lakehouse.operations.erase import Erasure, erase
from lakehouse.operations.erasure import fence
from lakehouse.operations.erasure import silver as silver_module
from lakehouse.operations.erasure.silver import SilverErasure
from lakehouse.operations.trace import trace_event
from lakehouse.operations.verify import verify_hours
from lakehouse.progress import OpenHour
from lakehouse.seal.stage import newest_seal
from lakehouse.store import bronze_log
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.delta import files, files_of_hour
from lakehouse.store.files import LocalStorage
from lakehouse.store.ledger import LedgerTable
from lakehouse.store.records import Closed
from lakehouse.topics import Topic
from tests.lake import FIVE, SEVEN, SIX, Delivery, Lake, conf_of, lake_in


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """User 7 has events in both sealed hours and in the open one, user 8 in the second."""
    lake = lake_in(tmp_path_factory.mktemp("made"))
    lake.deliver(Delivery("a", 1, 0, "a1", 7), Delivery("b", 2, 0, "b1", 1), Delivery("b", 2, 1, "b2", 1))
    lake.deliver(Delivery("old", -30, 0, "o1", 7))
    lake.seal(FIVE)
    lake.deliver(Delivery("c", 61, 0, "c1", 7), Delivery("d", 62, 0, "d1", 8), hour=SIX)
    lake.seal(SIX)
    lake.deliver(Delivery("e", 121, 0, "e1", 7), Delivery("f", 122, 0, "f1", 1), hour=SEVEN)
    lake.clear(FIVE, "folder")
    lake.clear(SIX, "folder")
    return lake


@pytest.fixture
def lake(made: Lake, tmp_path: Path) -> Lake:
    return made.copied(tmp_path)


def run(lake: Lake, where: str = "\"user\" = 'u7'", *, dry_run: bool = False) -> Erasure:
    return erase(lake.topic, lake.config, where, reason="asked by letter", by="ann", dry_run=dry_run)


def findings(lake: Lake) -> list[str]:
    return [finding.kind for finding in verify_hours(lake.topic, lake.config, [], datetime.now(UTC)).findings]


def users_on_disk(lake: Lake) -> set[str]:
    """Of every Parquet file below the lake, whether a log names it or not."""
    found: set[str] = set()
    for file in Path(lake.settings.raw_root).rglob("*.parquet"):
        table = pq.ParquetFile(file).read()
        if "event" in table.column_names:
            found |= {event["user"] for event in table["event"].to_pylist() if event}
        elif "user" in table.column_names:
            found |= set(table["user"].to_pylist())
    return found


def test_a_person_s_events_are_in_no_file_any_more(lake: Lake) -> None:
    """Not in silver, not in bronze, not in the hour that is still open, not in files that only old versions name."""
    assert "u7" in users_on_disk(lake)
    erasure = run(lake)
    assert users_on_disk(lake) == {"u1", "u8"}
    assert [(each.hour, each.revision, each.erased, each.rows) for each in erasure.hours] == [
        (FIVE, 2, 2, 1),
        (SIX, 2, 1, 1),
    ]
    assert erasure.deliveries == 4
    assert (lake.ids(FIVE), lake.ids(SIX)) == (["b"], ["d"])


def test_the_hour_s_new_revision_is_counted_and_verified(lake: Lake) -> None:
    """Its own numbers, the old ones as evidence, and the reason: in the commit and in the ledger."""
    before = lake.ledger.history().last("sealed", FIVE)
    assert before is not None
    run(lake)
    entry = lake.ledger.history().last("sealed", FIVE)
    assert entry is not None
    details = dict(entry.details)
    assert (details["revision"], details["rows"], details["erased"], details["skewed"]) == (2, 1, 2, 0)
    assert details["id_checksum"] == str(checksum_of(["b"]))
    assert (details["reason"], details["requested_by"]) == ("asked by letter", "ann")
    assert details["previous"]["id_checksum"] == before.details["id_checksum"]
    assert details["previous"]["rows"] == 3
    version, manifest = newest_seal(lake.silver, FIVE)
    said_twice = {key: value for key, value in manifest.items() if key not in ("kind", "hour")}
    assert {**said_twice, "silver_version": version} == details
    assert findings(lake) == []


def test_the_condition_itself_is_written_nowhere(lake: Lake) -> None:
    """It names the person."""
    run(lake)
    for file in Path(lake.settings.raw_root).rglob("*.json"):
        assert "u7" not in file.read_text()


def test_other_events_are_what_they_were(lake: Lake) -> None:
    before = {hour: {row["event_id"]: row for row in lake.sealed(hour)} for hour in (FIVE, SIX)}
    run(lake)
    for hour in (FIVE, SIX):
        assert all(row == before[hour][row["event_id"]] for row in lake.sealed(hour))


def test_a_field_that_is_no_longer_declared_stays_of_the_others(lake: Lake) -> None:
    """The file is written again as it was, whatever the topic declares by now."""
    lake.deliver(Delivery("g", 63, 0, "g1", 2), Delivery("h", 64, 0, "h1", 7), hour=SEVEN)
    lake.seal(SEVEN)
    fields = {name: kind for name, kind in lake.topic.fields.items() if name != "n"} | {"track": "struct<id: string>"}
    lake.topic = lake.topic.model_copy(update={"fields": fields})
    run(lake)
    assert [(row["n"], row["track"]) for row in lake.sealed(SEVEN) if row["event_id"] == "g"] == [
        (2, {"id": "t2", "ms": 2})
    ]


def test_a_condition_reads_hours_from_before_a_member_came(lake: Lake) -> None:
    """Their files lack it: for them it is null, and the others are searched."""
    full = lake.topic
    lake.topic = full.model_copy(update={"fields": {**full.fields, "track": "struct<id: string>"}})
    lake.seal(SEVEN)
    lake.topic = full
    assert [each.hour for each in run(lake, "track.ms = 7", dry_run=True).hours] == [FIVE, SIX]


def test_hours_and_files_without_such_rows_are_not_touched(lake: Lake) -> None:
    before = files_of_hour(lake.silver, FIVE)
    erasure = run(lake, "track.id = 't8'")
    assert [each.hour for each in erasure.hours] == [SIX]
    assert files_of_hour(lake.silver, FIVE) == before
    assert lake.ledger.history().revision(FIVE) == 1


def test_the_hour_is_judged_and_mirrored_again(lake: Lake) -> None:
    """What was said of the old revision no longer counts."""
    assert lake.ledger.history().targets_done(FIVE) == {"folder"}
    run(lake)
    history = lake.ledger.history()
    assert history.due_to_validate() == [FIVE, SIX]
    assert history.targets_done(FIVE) == set()
    lake.clear(FIVE)
    assert lake.ledger.history().due_to_mirror("folder") == [FIVE]


def test_an_open_hour_closes_without_them(lake: Lake) -> None:
    run(lake)
    assert lake.seal(SEVEN)["rows"] == 1
    assert lake.ids(SEVEN) == ["f"]


def test_every_delivery_of_an_erased_event_goes(lake: Lake) -> None:
    """Also one that says something else: or it would be reported as missing, and sealed at the next chance."""
    lake.deliver(Delivery("d", 62, 70, "d2", 1), hour=SEVEN)
    assert run(lake, "n = 8").deliveries == 2
    assert lake.seal(SEVEN)["deliveries"] == 2


def test_what_is_left_is_audited_and_traced(lake: Lake) -> None:
    """Segments keep their names, so a delivery still tells where it came from."""
    run(lake)
    audit = audit_hour(lake.topic, lake.config, FIVE)
    assert (audit.is_right, audit.rows, audit.sealed_rows) == (True, 1, 1)
    assert [each.batch["bronze_version"] for each in trace_event(lake.topic, lake.config, "b").deliveries] == [1, 1]
    with pytest.raises(LakehouseError, match="no delivery"):
        trace_event(lake.topic, lake.config, "a")


def test_a_second_erasure_finds_nothing(lake: Lake) -> None:
    run(lake)
    before = files(lake.silver), files(lake.bronze), lake.ledger.history()
    assert run(lake) == Erasure("plays", (), 0)
    assert (files(lake.silver), files(lake.bronze), lake.ledger.history()) == before


def test_erasures_follow_one_another(lake: Lake) -> None:
    run(lake)
    run(lake, "n = 1")
    entry = lake.ledger.history().last("sealed", FIVE)
    assert entry is not None
    assert (entry.details["revision"], entry.details["rows"], entry.details["erased"]) == (3, 0, 3)
    assert (lake.ids(FIVE), findings(lake)) == ([], [])


def test_a_dry_run_says_what_would_be_and_changes_nothing(lake: Lake) -> None:
    before = (lake.silver.version(), lake.bronze.version(), users_on_disk(lake))
    shown = run(lake, dry_run=True)
    assert (lake.silver.version(), lake.bronze.version(), users_on_disk(lake)) == before
    done = run(lake)
    assert (shown.hours, shown.deliveries) == (done.hours, done.deliveries)


def test_reports_on_the_hours_go_too(lake: Lake) -> None:
    """They show rows that failed."""
    report = Path(lake.folders.reports, f"{FIVE}.html")
    report.parent.mkdir(parents=True)
    report.write_text("u7")
    run(lake)
    assert not report.exists()


@pytest.mark.parametrize(
    "where",
    [
        "",
        "nobody = 1",
        "n",
        "n + 1",
        '"user"',
        "track",
        "event_time",
        "null + n",
        "user = ",
        "n = 1; drop table x",
        "true",
        "1 = 1",
        "*",
        "n = 1) or (n = 2",
        "n = $1",
        "\"user\" in (select content from read_text('/etc/hostname'))",
        "exists (select 1)",
        "count(*) > 0",
        "n = 1 and getenv('HOME') = 'x'",
        "current_user = 'x'",
        "n > random()",
        "track.nobody = 1",
        '"user" = uuid()',
        '"user" = version()',
        '"user" = current_database()',
        "event_time < localtimestamp",
        "select 1",
        "n = #1",
        "[n for n in [1] if n = 1] = [1]",
        "(" * 400 + "n = 1" + ")" * 400,
        "n > 1e-999999999",
    ],
)
def test_a_condition_that_cannot_be_read_is_refused(lake: Lake, where: str) -> None:
    with pytest.raises(LakehouseError, match="--where"):
        run(lake, where)


@pytest.mark.parametrize(
    ("where", "expected"),
    [("d = 1e-1", [False, True]), ("d > 1e-1", [True, False]), ("d = 0.1", [False, True]), ("f = 1e-1", [True, True]),
     ("f in (-1e0, 1.00e-1)", [True, True]), ("x = 0.30000000000000004", [True, False])],
)  # fmt: skip
def test_a_number_is_compared_as_it_is_spelled(
    topic_with: Callable[..., Topic], where: str, expected: list[bool]
) -> None:
    """With an exponent it is a double to the database, of which two decimals are one."""
    topic = topic_with(fields={"d": "decimal(38, 18)", "f": "float", "x": "double"})
    values = [(Decimal("0.100000000000000001"), 0.1, 0.1 + 0.2), (Decimal("0.1"), 0.1, 0.3)]
    rows = [dict(zip("dfx", each, strict=True)) for each in values]
    schema = pa.schema([("d", pa.decimal128(38, 18)), ("f", pa.float32()), ("x", pa.float64())])
    assert Condition(where, topic).mask(pa.Table.from_pylist(rows, schema)).to_pylist() == expected


def test_an_error_at_some_row_does_not_show_the_row(lake: Lake) -> None:
    with pytest.raises(LakehouseError, match="a ConversionException at some row") as refused:
        run(lake, 'cast("user" as int) = 7')
    assert "u7" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "where",
    [
        "user = 'u7' -- the person", "USER = 'u7'", "track.id = 't7'", "\"track\".ms between 7 and 7",
        "regexp_matches(\"user\", '^u7$')", "case when n = 7 then true end", "n::double / 2 = 3.5",
        "n = 7 and event_time < '2026-01-01T00:00:00Z'::timestamptz and hour like '2025%'",
    ],
)  # fmt: skip
def test_a_condition_is_any_expression_over_a_row_s_columns(lake: Lake, where: str) -> None:
    assert run(lake, where, dry_run=True).deliveries == 4


def test_a_closed_hour_must_be_sealed_first(lake: Lake) -> None:
    """It is sealed from the files with which it closed."""
    lake.close(SEVEN)
    with pytest.raises(LakehouseError, match=f"the oldest {SEVEN}"):
        run(lake)


def test_a_close_that_only_the_log_has_yet_must_be_sealed_first(lake: Lake) -> None:
    """A driver died between its commit and the ledger, or is about to write there: the hour's files must not change."""
    before = [file.path for file in files_of_hour(lake.bronze, SEVEN)]
    closed = {"hour": SEVEN, "why": "watermark", "conditions": [], "epoch": lake.epoch + 1, "release": "test"}
    lake.commit(open_hour=hours.after(SEVEN), closed=[closed])
    with pytest.raises(LakehouseError, match=f"just closed, the oldest {SEVEN}"):
        run(lake)
    assert [file.path for file in files_of_hour(lake.bronze, SEVEN)] == before
    lake.ledger.record(Closed(bronze_version=lake.bronze.version(), why="watermark"), SEVEN)
    assert lake.sealer().seal(SEVEN) is not None
    run(lake)
    assert users_on_disk(lake) == {"u1", "u8"}


def test_an_open_hour_no_longer_counts_what_is_erased(lake: Lake) -> None:
    held = OpenHour(2, datetime.now(UTC))
    lake.commit(state=replace(newest_state(lake.bronze), hours={SEVEN: held}))
    run(lake)
    assert newest_state(lake.bronze).hours == {SEVEN: replace(held, rows=1)}
    assert newest_state(lake.bronze).epoch == lake.epoch


def test_ingest_and_an_erasure_do_not_pass_each_other(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch came while the files were rewritten: the erasure looks again, and finds what that brought."""
    newest_state = bronze_log.newest_state
    came: list[str] = []

    def while_it_looks(table: Any) -> bronze_log.IngestState:
        state = newest_state(table)
        if not came:
            came.append("a batch")
            monkeypatch.setattr(bronze_log, "newest_state", newest_state)
            lake.deliver(Delivery("g", 123, 0, "g1", 7), hour=SEVEN)
        return state

    monkeypatch.setattr(bronze_log, "newest_state", while_it_looks)
    assert run(lake).deliveries == 5
    assert came
    assert users_on_disk(lake) == {"u1", "u8"}


class Killed(BaseException):
    """The process ends here."""


DURABLE_STEPS = [
    (LocalStorage, "create"), (LocalStorage, "finish"), (LocalStorage, "delete"), (LocalStorage, "write"),
    (fence, "commit"), (silver_module, "commit"), (LedgerTable, "append"),
]  # fmt: skip


EVERY = 3
"""Of so many durable steps, `make test` kills at one. Odd, so that either way to go on is taken."""


def killed_at(point: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each durable step, counted over all of them, the process can end: between two of them nothing lasts."""
    reached = iter(range(10_000))

    def with_deaths(step: Callable[..., Any]) -> Callable[..., Any]:
        def run_step(*arguments: Any, **options: Any) -> Any:
            if next(reached) == point:
                raise Killed
            return step(*arguments, **options)

        return run_step

    for owner, name in DURABLE_STEPS:
        monkeypatch.setattr(owner, name, with_deaths(getattr(owner, name)))


def copied(lake: Lake, folder: Path) -> Lake:
    shutil.copytree(lake.settings.raw_root, folder)
    settings = lake.settings.model_copy(update={"raw_root": str(folder), "sealed_root": str(folder)})
    return Lake(lake.topic, replace(lake.config, settings=settings))


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.long) for first in range(1, EVERY))])
def test_an_erasure_that_was_killed_anywhere_is_finished_by_the_next(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Also by one for somebody else, and at once: nothing of either is left in any file, named by a log or not."""
    report = Path(lake.folders.reports, FIVE, "r1.html")
    report.parent.mkdir(parents=True)
    report.write_text("u7")
    is_killed, point = True, first
    while is_killed:
        each = copied(lake, tmp_path / f"killed-{point}")
        with monkeypatch.context() as patched:
            killed_at(point, patched)
            try:
                run(each)
                is_killed = False
            except Killed:
                point += EVERY
        run(each, "\"user\" = 'u8'" if point % 2 else "\"user\" = 'u7'")
        if point % 2:
            run(each)
            assert users_on_disk(each) == {"u1"}, point
        else:
            assert users_on_disk(each) == {"u1", "u8"}, point
        assert each.ids(FIVE) == ["b"], point
        assert findings(each) == [], point
        assert not Path(each.folders.reports, FIVE, "r1.html").exists()
        named = {file.path for file in files(each.bronze)} | {file.path for file in files(each.silver)}
        assert sum(1 for _ in Path(each.settings.raw_root).rglob("plays/*/*/*.parquet")) <= len(named) + 1
        shutil.rmtree(each.settings.raw_root)
    assert point > 20


def test_of_two_erasures_the_later_one_counts(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier one's files may be gone by then: it must not commit them."""
    matches, others = SilverErasure.matches, []

    def while_it_looks(self: SilverErasure) -> Any:
        found = matches(self)
        if not others:
            others.append("another erasure")
            run(lake, "n = 8")
        return found

    monkeypatch.setattr(SilverErasure, "matches", while_it_looks)
    with pytest.raises(LakehouseError, match="one erasure at a time"):
        run(lake)
    run(lake)
    assert users_on_disk(lake) == {"u1"}
    assert findings(lake) == []


# --- what makes an event --------------------------------------------------------------------------------------------


def test_another_event_under_the_same_id_stays(lake: Lake) -> None:
    """An id may be used again at another time: that is somebody else's event."""
    lake.deliver(Delivery("a", 125, 0, "x1", 1), hour=SEVEN)
    lake.deliver(Delivery("a", 1, 125, "x2", 1), hour=SEVEN)
    assert run(lake).deliveries == 5
    lake.seal(SEVEN)
    assert [row["message_id"] for row in lake.sealed(SEVEN)] == ["x1", "f1"]


def test_what_is_not_known_of_a_rejected_delivery_is_not_null(lake: Lake) -> None:
    """It has no fields: a condition over one says nothing of it."""
    lake.deliver(Delivery("a", 3, 0, "x1", reject_reason="event.n: not a number"), hour=None)
    assert run(lake, '"user" is null').deliveries == 0
    assert run(lake, "hour is null or event_time is null").deliveries == 0
    assert run(lake).deliveries == 4
    assert [file.rows for file in files(lake.bronze) if file.hour is None] == [1]
    assert run(lake, "message_id = 'x1'").deliveries == 1


def test_rejected_deliveries_are_found_by_their_id(lake: Lake) -> None:
    lake.deliver(Delivery("bad", 3, 0, "x1", reject_reason="event.n: not a number"), hour=None)
    assert run(lake, "event_id = 'bad'").deliveries == 1
    assert [file for file in files(lake.bronze) if file.hour is None] == []


def test_the_command_asks_for_a_reason(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = conf_of(lake, tmp_path)

    def command(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            app.main(["--conf", str(conf), "erase", "plays", "--where", "n = 7", *arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out + captured.err

    assert command("--reason", " ")[0] == 2
    code, text = command("--reason", "asked", "--by", "ann", "--dry-run")
    assert (code, "would" in text) == (0, True)
    code, text = command("--reason", "asked", "--by", "ann", "--json")
    assert (code, json.loads(text)["deliveries"]) == (0, 4)
