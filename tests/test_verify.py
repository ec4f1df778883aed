"""Whatever is done to a sealed hour is found and named."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.cli import app
from lakehouse.errors import LakehouseError
from lakehouse.operations.erase import erase
from lakehouse.operations.verify import Verification, verify_hours
from lakehouse.schemas import LEDGER
from lakehouse.seal import stage
from lakehouse.seal.stage import totals
from lakehouse.store import parquet
from lakehouse.store.delta import DataFile, commit, files_of_hour, open_table
from lakehouse.store.delta_log import commits
from lakehouse.store.records import Valid
from tests.lake import FIVE, SEVEN, SIX, Delivery, Lake, conf_of, lake_in


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two sealed hours, the first with an own and a skewed event."""
    lake = lake_in(tmp_path_factory.mktemp("made"))
    lake.deliver(Delivery("a", 1, value=1), Delivery("b", 2, value=2), Delivery("b", 2, 3))
    lake.deliver(Delivery("old", -30))
    lake.seal(FIVE)
    lake.deliver(Delivery("c", 61), hour=SIX)
    lake.seal(SIX)
    return lake


@pytest.fixture
def lake(made: Lake, tmp_path: Path) -> Lake:
    """In a folder that no test before had: what a process knows of a table it knows by its address."""
    return made.copied(tmp_path / secrets.token_hex(4))


def look(lake: Lake, *hours: str) -> Verification:
    return verify_hours(lake.topic, lake.config, hours, datetime.now(UTC))


def answer(lake: Lake, *hours: str) -> list[tuple[str | None, str]]:
    return [(finding.hour, finding.kind) for finding in look(lake, *hours).findings]


def files_of(lake: Lake, hour: str = FIVE) -> list[Path]:
    return [Path(lake.folders.silver, file.path) for file in files_of_hour(lake.silver, hour)]


def holding(lake: Lake, event_id: str) -> Path:
    return next(file for file in files_of(lake) if event_id in pq.ParquetFile(file).read()["event_id"].to_pylist())


def unprotected(lake: Lake) -> None:
    """Somebody with rights takes the table's own guard away first."""
    open_table(lake.folders.silver, {}).alter.set_table_properties({"delta.appendOnly": "false"})


def log_file(lake: Lake, version: int) -> Path:
    return Path(lake.folders.silver, "_delta_log", f"{version:020d}.json")


def edit_log(lake: Lake, version: int, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    file = log_file(lake, version)
    actions = edit([json.loads(line) for line in file.read_text().splitlines()])
    file.write_text("\n".join(json.dumps(action) for action in actions))


def test_untouched_hours_have_no_findings(lake: Lake) -> None:
    """Counted from the files: what it checked is shown, too."""
    verification = look(lake)
    assert verification.findings == ()
    assert (verification.hours, verification.files, verification.rows) == ((FIVE, SIX), 3, 4)


def test_an_appended_file_is_found(lake: Lake) -> None:
    """Delta's appendOnly lets anybody append, also to an hour that is sealed."""
    file = files_of(lake)[0]
    twin = file.with_name("twin.parquet")
    twin.write_bytes(file.read_bytes())
    rows = pq.ParquetFile(twin).metadata.num_rows
    data_file = DataFile(f"hour={FIVE}/twin.parquet", FIVE, rows, twin.stat().st_size, datetime.now(UTC))
    version = commit(lake.silver, [data_file], metadata={}, transactions={})
    assert {kind for _, kind in answer(lake)} == {"touched", "unknown file", "files", "rows", "id checksum"}
    (touched,) = (finding for finding in look(lake, FIVE).findings if finding.kind == "touched")
    assert (touched.hour, touched.subject) == (FIVE, f"version {version}")
    assert touched.found.endswith("added 1 and removed 0 files")


def test_a_deleted_file_is_found(lake: Lake) -> None:
    file = holding(lake, "a")
    file.unlink()
    (finding,) = look(lake).findings
    assert (finding.hour, finding.kind, finding.subject) == (FIVE, "missing file", f"hour={FIVE}/{file.name}")


def test_a_rewritten_file_is_found_by_its_size(lake: Lake) -> None:
    file = holding(lake, "old")
    pq.write_table(pq.ParquetFile(file).read(), file, compression="none")
    assert answer(lake) == [(FIVE, "changed file")]


def with_value(file: Path, number: int) -> bytes:
    """The file as it would be, had its first row another `n`: the same ids, count, bounds and size."""
    table = pq.ParquetFile(file).read()
    numbers = pa.array([number, *table["n"].to_pylist()[1:]], table.schema.field("n").type)
    other = table.set_column(table.column_names.index("n"), "n", numbers)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **parquet.options(table.schema)) as writer:
        writer.write_table(other, row_group_size=len(table))
    written: bytes = sink.getvalue().to_pybytes()
    assert len(written) == file.stat().st_size
    return written


def changed(lake: Lake, *hours: str, is_quick: bool = False) -> list[str]:
    """The files that were found to be changed, and nothing else was found."""
    findings = verify_hours(lake.topic, lake.config, hours, datetime.now(UTC), is_quick=is_quick).findings
    assert {finding.kind for finding in findings} <= {"changed file"}
    return [finding.subject for finding in findings]


def test_a_changed_value_is_found_where_ids_count_and_size_are_the_same(lake: Lake) -> None:
    file = holding(lake, "a")
    before = file.read_bytes()
    assert with_value(file, 1) == before
    file.write_bytes(with_value(file, 7))
    (finding,) = look(lake).findings
    assert (finding.hour, finding.kind, finding.subject) == (FIVE, "changed file", f"hour={FIVE}/{file.name}")
    assert finding.found == f"sha256 {sha256(file.read_bytes()).hexdigest()}"
    assert finding.expected == f"sha256 {sha256(before).hexdigest()}, as sealed"


def test_two_files_that_were_swapped_are_both_named(lake: Lake) -> None:
    """Together they still have the hour's rows; the log has their sizes as they are now."""
    own, skewed = holding(lake, "a"), holding(lake, "old")
    contents = own.read_bytes(), skewed.read_bytes()
    own.write_bytes(contents[1])
    skewed.write_bytes(contents[0])
    names = sorted(f"hour={FIVE}/{file.name}" for file in (own, skewed))
    assert {finding.subject for finding in look(lake).findings} == set(names)

    def swap(add: dict[str, Any]) -> None:
        is_own = own.name in add["path"]
        add["size"] = len(contents[is_own])
        add["stats"] = json.dumps({"numRecords": pq.read_metadata(own if is_own else skewed).num_rows})

    edit_adds(lake, swap)
    assert sorted(changed(lake)) == names


@pytest.mark.parametrize("is_careful", [False, True])
def test_a_file_of_an_older_revision_in_the_place_of_its_successor_is_found(lake: Lake, is_careful: bool) -> None:
    """The erased row is back. Careful is who corrects size and rows in the log."""
    older = holding(lake, "a")
    before = older.read_bytes()
    erase(lake.topic, lake.config, "event_id = 'b'", reason="asked", by="ann")
    newer = holding(lake, "a")
    assert look(lake).findings == ()
    newer.write_bytes(before)
    if is_careful:

        def as_before(add: dict[str, Any]) -> None:
            add["size"] = len(before)
            add["stats"] = json.dumps({"numRecords": 2})

        edit_adds(lake, as_before)
    subjects = {finding.subject for finding in look(lake, FIVE).findings if finding.kind == "changed file"}
    assert subjects == {f"hour={FIVE}/{newer.name}"}


def test_a_file_that_the_seal_does_not_name_is_found(lake: Lake) -> None:
    """The log was edited to give another file, as good as the seal's own in rows and ids."""
    file = holding(lake, "a")
    other = file.rename(file.with_name("part-other.parquet"))

    def to_other(add: dict[str, Any]) -> None:
        add["path"] = add["path"].replace(file.name, other.name)

    edit_adds(lake, to_other)
    (finding,) = look(lake).findings
    assert (finding.kind, finding.subject) == ("unknown file", f"hour={FIVE}/{other.name}")


def test_what_an_erasure_left_has_digests_of_all_files(lake: Lake) -> None:
    """Of those that it wrote, and of those that it left as they were."""
    erase(lake.topic, lake.config, "event_id = 'b'", reason="asked", by="ann")
    digests = lake.history().seal_of(FIVE).digest_by_name  # type: ignore[union-attr]
    on_disk = {file.name: sha256(file.read_bytes()).hexdigest() for file in files_of(lake)}
    assert {name: digest.sha256 for name, digest in digests.items()} == on_disk
    holding(lake, "a").write_bytes(with_value(holding(lake, "a"), 7))
    assert len(changed(lake)) == 1


def test_an_edited_digest_is_found(lake: Lake) -> None:
    """Who changes a file and the seal's commit would have to change the ledger, too."""
    file = holding(lake, "a")

    def edit(actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        (info,) = (action["commitInfo"] for action in actions if "commitInfo" in action)
        manifest = json.loads(info["userMetadata"])
        forged = f"{file.name} {'0' * 64} AAAAAA=="
        manifest["digests"] = [forged if file.name in each else each for each in manifest["digests"]]
        info["userMetadata"] = json.dumps(manifest)
        return actions

    edit_log(lake, seal_version(lake), edit)
    (finding,) = look(lake).findings
    assert (finding.kind, finding.found) == ("edited log", f"other digests of {file.name}")


def test_quick_goes_by_sizes_and_opens_no_file(lake: Lake) -> None:
    """A disk keeps no checksums: a value of the same size is for the whole look."""
    file = holding(lake, "a")
    file.write_bytes(with_value(file, 7))
    assert changed(lake, is_quick=True) == []
    assert changed(lake) == [f"hour={FIVE}/{file.name}"]
    with file.open("ab") as appended:
        appended.write(b"x")
    assert changed(lake, is_quick=True) == [f"hour={FIVE}/{file.name}"]


def as_an_older_release(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "digests"}


def test_an_hour_of_an_older_release_is_verified_by_what_its_seal_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its seal has no digests, which is said; ids and counts are compared as ever, also after an erasure."""
    lake = lake_in(tmp_path)
    lake.deliver(Delivery("a", 1, value=1), Delivery("b", 2, value=2), Delivery("old", -30))
    with monkeypatch.context() as patched:
        patched.setattr(stage, "totals", lambda copied: as_an_older_release(totals(copied)))
        lake.seal(FIVE)
    lake.deliver(Delivery("c", 61), Delivery("d", 62), hour=SIX)
    lake.seal(SIX)
    verification = look(lake)
    assert (verification.findings, verification.without_digests) == ((), (FIVE,))
    with pytest.raises(SystemExit) as ended:
        app.main(["--conf", str(conf_of(lake, tmp_path)), "verify", "plays"])
    shown = " ".join(capsys.readouterr().out.split())
    assert (ended.value.code, f"Without digests of all files: 1 hours ({FIVE})" in shown) == (0, True)
    erase(lake.topic, lake.config, "event_id in ('b', 'd')", reason="asked", by="ann")
    verification = look(lake)
    assert (verification.findings, verification.without_digests[1:]) == ((), ())
    table = pq.ParquetFile(holding(lake, "a")).read()
    pq.write_table(pa.concat_tables([table, table]), holding(lake, "a"))
    assert {"changed file", "rows", "id checksum"} <= {kind for _, kind in answer(lake)}


def test_a_rewritten_file_of_the_same_size_is_found_by_its_ids(lake: Lake) -> None:
    """Somebody was careful, and corrected the log, too; the ids' sum is another all the same."""
    file = holding(lake, "a")
    table = pq.ParquetFile(file).read()
    column = table.column_names.index("event_id")
    other = table.set_column(column, "event_id", table["event_id"].combine_chunks().take([0, 0]))
    pq.write_table(other, file)
    edit_log_size(lake, file, file.stat().st_size)
    assert answer(lake) == [(FIVE, "changed file"), (FIVE, "id checksum")]


def edit_log_size(lake: Lake, file: Path, size_bytes: int) -> None:
    def edit(actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for action in actions:
            add = action.get("add")
            if isinstance(add, dict) and str(add["path"]).endswith(file.name):
                add["size"] = size_bytes
        return actions

    version = next(
        each.version
        for each in commits(lake.tables.sealed.files(), "silver")
        if any(file.name in path for _, path in each.added)
    )
    edit_log(lake, version, edit)


def test_a_file_with_fewer_rows_is_found(lake: Lake) -> None:
    file = holding(lake, "a")
    pq.write_table(pq.ParquetFile(file).read().slice(0, 1), file)
    assert {"changed file", "rows", "id checksum"} <= {kind for _, kind in answer(lake)}


def test_a_file_that_is_no_parquet_is_found(lake: Lake) -> None:
    file = holding(lake, "a")
    file.write_bytes(b"x" * file.stat().st_size)
    assert answer(lake) == [(FIVE, "changed file")]


def test_an_optimize_is_found(lake: Lake) -> None:
    """The rows are all there; yet the hour is not what it was."""
    lake.silver.optimize.compact()
    assert (FIVE, "touched") in answer(lake)
    finding = next(finding for finding in look(lake).findings if finding.kind == "touched")
    assert finding.found.startswith("OPTIMIZE")


def test_a_delete_is_found(lake: Lake) -> None:
    unprotected(lake)
    open_table(lake.folders.silver, {}).delete("event_id = 'b'")
    kinds = answer(lake)
    assert {(FIVE, "touched"), (FIVE, "rows"), (FIVE, "id checksum"), (None, "not append-only")} <= set(kinds)
    assert all(hour != SIX for hour, _ in kinds)


def test_a_guard_that_was_away_for_a_while_is_found(lake: Lake) -> None:
    """The next seal puts it back; what happened in between is for people to look at."""
    unprotected(lake)
    lake.seal(SEVEN)
    assert lake.silver.metadata().configuration["delta.appendOnly"] == "true"
    assert answer(lake) == [(None, "not append-only")]


def test_a_file_that_no_commit_names_is_found(lake: Lake) -> None:
    """Readers of plain Parquet would see its rows."""
    file = files_of(lake)[0]
    file.with_name("stray.parquet").write_bytes(file.read_bytes())
    assert answer(lake) == [(FIVE, "extra file")]


def test_an_edited_manifest_is_found(lake: Lake) -> None:
    """The ledger, another table, says the same: both would have to be forged."""

    def edit(actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for action in actions:
            info = action.get("commitInfo")
            if isinstance(info, dict):
                info["userMetadata"] = info["userMetadata"].replace('"rows": 3', '"rows": 2')
        return actions

    version = lake.ledger.history().last("sealed", FIVE).details["silver_version"]  # type: ignore[union-attr]
    edit_log(lake, version, edit)
    (finding,) = look(lake).findings
    assert (finding.kind, finding.found) == ("edited log", "rows 2")


@pytest.mark.parametrize("key", ["duplicates", "late_duplicates", "skewed", "release", "a_new_key"])
def test_any_figure_that_was_edited_in_the_manifest_is_found(lake: Lake, key: str) -> None:
    def edit(actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        (info,) = (action["commitInfo"] for action in actions if "commitInfo" in action)
        info["userMetadata"] = json.dumps({**json.loads(info["userMetadata"]), key: 7})
        return actions

    edit_log(lake, seal_version(lake), edit)
    (finding,) = look(lake).findings
    assert (finding.kind, finding.found) == ("edited log", f"{key} 7")


def seal_version(lake: Lake) -> int:
    seal = lake.ledger.history().seal_of(FIVE)
    assert seal is not None
    return seal.silver_version


def edit_adds(lake: Lake, edit: Callable[[dict[str, Any]], None]) -> None:
    def edit_all(actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for action in actions:
            if "add" in action:
                edit(action["add"])
        return actions

    edit_log(lake, seal_version(lake), edit_all)


@pytest.mark.parametrize(
    ("kind", "column", "value"),
    [
        ("minValues", "event_time", "2025-06-01T05:59:00.000Z"),
        ("maxValues", "event_time", "2025-06-01T04:00:00.000Z"),
        ("minValues", "event_id", "x"),
        ("nullCount", "event_id", 3),
    ],
)
def test_statistics_that_hide_rows_from_readers_are_found(lake: Lake, kind: str, column: str, value: object) -> None:
    def edit(add: dict[str, Any]) -> None:
        stats = json.loads(add["stats"])
        stats.setdefault(kind, {})[column] = value
        add["stats"] = json.dumps(stats)

    edit_adds(lake, edit)
    assert set(answer(lake)) == {(FIVE, "edited statistics")}


def test_a_deletion_vector_is_found(lake: Lake) -> None:
    inline = "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"
    vector = {"storageType": "i", "pathOrInlineDv": inline, "sizeInBytes": 40, "cardinality": 6}
    edit_adds(lake, lambda add: add.update(deletionVector=vector))
    assert {kind for _, kind in answer(lake)} & {"deletion vector", "unreadable log"}


@pytest.mark.parametrize("is_mapped", [True, False])
def test_a_renamed_column_is_found(lake: Lake, is_mapped: bool) -> None:
    """By a commit that touches no file: readers see nulls, or another column's values."""
    first = [json.loads(line) for line in log_file(lake, 0).read_text().splitlines()]
    (declared,) = (action["metaData"] for action in first if "metaData" in action)
    schema = json.loads(declared["schemaString"])
    for field in schema["fields"]:
        if field["name"] == "n":
            field["name"] = "m"
            field["metadata"] = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "n"}
    configuration = {**declared["configuration"], **({"delta.columnMapping.mode": "name"} if is_mapped else {})}
    forged = {**declared, "schemaString": json.dumps(schema), "configuration": configuration}
    version = lake.silver.version() + 1
    log_file(lake, version).write_text(
        json.dumps({"commitInfo": {"timestamp": 0, "operation": "RENAME COLUMN"}})
        + "\n"
        + json.dumps({"metaData": forged})
    )
    findings = look(lake).findings
    assert "edited schema" in {finding.kind for finding in findings} or findings[-1].kind == "unreadable log"


def hide_a_row(lake: Lake) -> None:
    """As another engine deletes without rewriting: the file's entry again, with a deletion vector."""
    inline = "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"
    vector = {"storageType": "i", "pathOrInlineDv": inline, "sizeInBytes": 40, "cardinality": 1}
    features = ["deletionVectors"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features}
    seal = [json.loads(line) for line in log_file(lake, seal_version(lake)).read_text().splitlines()]
    add = next(action["add"] for action in seal if "add" in action)
    gone = {"path": add["path"], "partitionValues": add["partitionValues"], "dataChange": True, "deletionTimestamp": 1}
    forge(
        lake,
        {"commitInfo": {"timestamp": 0, "operation": "DELETE"}},
        {"protocol": {**protocol, "writerFeatures": [*features, "appendOnly", "invariants"]}},
        {"remove": gone},
        {"add": {**add, "deletionVector": vector}},
    )


def rename(lake: Lake, configuration: dict[str, str]) -> None:
    first = [json.loads(line) for line in log_file(lake, 0).read_text().splitlines()]
    declared = next(action["metaData"] for action in first if "metaData" in action)
    schema = declared["schemaString"].replace('"n"', '"m"')
    configuration = {**declared["configuration"], **configuration}
    declared = {**declared, "schemaString": schema, "configuration": configuration}
    forge(lake, {"commitInfo": {"timestamp": 0, "operation": "RENAME COLUMN"}}, {"metaData": declared})


def forge(lake: Lake, *actions: dict[str, Any]) -> None:
    log_file(lake, lake.silver.version() + 1).write_text("\n".join(map(json.dumps, actions)))


def misplace(lake: Lake) -> None:
    file = files_of(lake)[0]
    stray = Path(lake.folders.silver, "hour=2020-01-01T00", "stray.parquet")
    stray.parent.mkdir()
    shutil.copy(file, stray)
    size, rows = stray.stat().st_size, pq.read_metadata(stray).num_rows
    added = DataFile("hour=2020-01-01T00/stray.parquet", "2020-01-01T00", rows, size, datetime.now(UTC))
    commit(lake.silver, [added], metadata={}, transactions={})


def narrow_bounds(lake: Lake) -> None:
    def edit(add: dict[str, Any]) -> None:
        stats = json.loads(add["stats"])
        stats["maxValues"]["event_time"] = "2025-06-01T04:00:00.000Z"
        add["stats"] = json.dumps(stats)

    edit_adds(lake, edit)


FORGERIES: dict[str, Callable[[Lake], None]] = {
    "deletion vector": hide_a_row,
    "edited schema": lambda lake: rename(lake, {}),
    "misplaced file": misplace,
    "edited statistics": narrow_bounds,
    "not append-only": unprotected,
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_change_that_only_a_checkpoint_still_has_is_found(lake: Lake, kind: str) -> None:
    """Delta cleans its log: the commit that made the change is gone, its effect is not."""
    FORGERIES[kind](lake)
    silver = DeltaTable(lake.folders.silver)
    silver.create_checkpoint()
    for version in range(silver.version() + 1):
        log_file(lake, version).unlink()
    later = datetime.now(UTC) + timedelta(days=401)
    found = verify_hours(lake.topic, lake.config, [], later).findings
    assert {finding.kind for finding in found} == {kind}


def test_columns_that_a_checkpoint_maps_are_found(lake: Lake) -> None:
    """Where this release can read such a table at all."""
    rename(lake, {"delta.columnMapping.mode": "name"})
    DeltaTable(lake.folders.silver).create_checkpoint()
    for file in Path(lake.folders.silver, "_delta_log").glob("*.json"):
        file.unlink()
    assert {kind for _, kind in answer(lake)} & {"edited schema", "unreadable log"}


def test_a_damaged_checkpoint_is_found(lake: Lake) -> None:
    """delta-rs goes by the commits where it has them all; whoever needs the checkpoint gets nothing."""
    lake.silver.create_checkpoint()
    (checkpoint,) = Path(lake.folders.silver, "_delta_log").glob("*.checkpoint.parquet")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert (None, "unreadable log") in answer(lake)


@pytest.mark.parametrize("hour", [None, "2020-01-01T00"])
def test_files_of_no_closed_hour_are_found(lake: Lake, hour: str | None) -> None:
    file = files_of(lake)[0]
    folder = Path(lake.folders.silver, f"hour={hour}" if hour else "hour=__HIVE_DEFAULT_PARTITION__")
    folder.mkdir()
    shutil.copy(file, folder / "stray.parquet")
    assert answer(lake) == [(hour, "extra file")]
    size = file.stat().st_size
    stray = DataFile(f"{folder.name}/stray.parquet", hour, pq.read_metadata(file).num_rows, size, datetime.now(UTC))
    commit(lake.silver, [stray], metadata={}, transactions={})
    assert answer(lake) == [(hour, "misplaced file")]


@pytest.mark.parametrize(
    "row",
    [
        {"details": "{}"},
        {"details": "no JSON"},
        {"hour": "never"},
        {"state": "finished"},
        {"at": None},
        {"state": "closed", "hour": SEVEN, "details": '{"bronze_version": "many"}'},
    ],
)
def test_a_forged_row_is_found_and_the_rest_is_still_checked(lake: Lake, row: dict[str, Any]) -> None:
    sound = {"hour": FIVE, "state": "sealed", "at": datetime.now(UTC), "by": "mallory", "details": "{}"}
    ledger = open_table(lake.folders.ledger, {})
    write_deltalake(ledger, pa.Table.from_pylist([sound | row], schema=LEDGER), mode="append")
    assert [kind for _, kind in answer(lake)] == ["broken row"]
    holding(lake, "a").unlink()
    assert [kind for _, kind in answer(lake)] == ["broken row", "missing file"]


def judged(lake: Lake, **changes: Any) -> None:
    """A verdict on the first hour as the stage leaves it: its result, then its row."""
    seal = lake.history().seal_of(FIVE)
    assert seal is not None
    said = {"state": "valid", "revision": 1, "silver_version": seal.silver_version, "rows": 3} | changes
    lake.tables.reports.files().write(f"{FIVE}/r1.json", json.dumps(said).encode())
    lake.ledger.record(Valid(revision=1, silver_version=seal.silver_version, rows=3), FIVE)


def test_a_verdict_with_its_result_is_right(lake: Lake) -> None:
    judged(lake)
    assert answer(lake) == []


@pytest.mark.parametrize("changes", [{"state": "invalid"}, {"rows": 2}, {"silver_version": 17}, {"revision": 2}])
def test_a_verdict_that_says_something_else_than_its_result_is_found(lake: Lake, changes: dict[str, Any]) -> None:
    """An hour that failed is let go by a row alone."""
    judged(lake, **changes)
    assert answer(lake) == [(FIVE, "unfounded verdict")]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_a_verdict_without_a_result_is_found(lake: Lake, content: bytes | None) -> None:
    """Somebody else wrote the row; or the result is gone, which one wants to know, too."""
    judged(lake)
    reports = lake.tables.reports.files()
    reports.delete([f"{FIVE}/r1.json"])
    if content is not None:
        reports.write(f"{FIVE}/r1.json", content)
    assert answer(lake) == [(FIVE, "unfounded verdict")]
    assert answer(lake, SIX) == []


def test_a_result_that_has_expired_is_missed_by_nobody(lake: Lake) -> None:
    judged(lake)
    lake.tables.reports.files().delete([f"{FIVE}/r1.json"])
    later = datetime.now(UTC) + timedelta(days=400)
    assert verify_hours(lake.topic, lake.config, [], later).findings == ()


def test_a_ledger_that_was_put_back_is_found(lake: Lake, tmp_path: Path) -> None:
    """Of before the second seal, and of before the second close: both are whole tables, with no broken row."""
    later = datetime.now(UTC) + timedelta(hours=2)
    lake.deliver(Delivery("d", 121), hour=SEVEN)
    before_close = tmp_path / "before close"
    shutil.copytree(lake.folders.ledger.removeprefix("file://"), before_close)
    lake.close(SEVEN)
    before_seal = tmp_path / "before seal"
    shutil.copytree(lake.folders.ledger.removeprefix("file://"), before_seal)
    lake.sealer(None).seal(SEVEN)
    assert verify_hours(lake.topic, lake.config, [], later).findings == ()
    for copy, kinds in ((before_seal, {"edited ledger"}), (before_close, {"edited ledger", "misplaced file"})):
        shutil.rmtree(lake.folders.ledger.removeprefix("file://"))
        shutil.copytree(copy, lake.folders.ledger.removeprefix("file://"))
        found = verify_hours(lake.topic, lake.config, [], later).findings
        assert {(finding.hour, finding.kind) for finding in found} == {(SEVEN, kind) for kind in kinds}


def test_a_seal_that_is_being_recorded_is_right(lake: Lake) -> None:
    """Its commit is there first, and what died in between is recorded by the next run."""
    lake.deliver(Delivery("d", 121), hour=SEVEN)
    ledger = lake.folders.ledger.removeprefix("file://")
    lake.close(SEVEN)
    shutil.copytree(ledger, f"{ledger}.kept")
    lake.sealer(None).seal(SEVEN)
    shutil.rmtree(ledger)
    os.rename(f"{ledger}.kept", ledger)
    assert answer(lake) == []


def test_an_entry_taken_out_of_the_log_is_found(lake: Lake) -> None:
    version = lake.ledger.history().last("sealed", FIVE).details["silver_version"]  # type: ignore[union-attr]
    edit_log(lake, version, lambda actions: [action for action in actions if "add" not in action])
    assert {"edited log", "files", "rows", "id checksum", "extra file"} <= {kind for _, kind in answer(lake)}


def test_a_log_cut_short_is_found(lake: Lake) -> None:
    """The last seal is gone without a trace but in the ledger."""
    newest = lake.silver.version()
    log_file(lake, newest).unlink()
    kinds = answer(lake)
    assert (None, "edited log") in kinds
    assert (SIX, "files") in kinds


def test_a_log_with_a_hole_is_found(lake: Lake) -> None:
    log_file(lake, 1).unlink()
    assert look(lake).findings[0].kind in ("unreadable log", "edited log")


def test_an_entry_older_than_the_audit_window_may_be_gone(lake: Lake) -> None:
    """Delta cleans its log; the seal's numbers stand in the ledger for ever."""
    lake.silver.create_checkpoint()
    later = datetime.now(UTC) + timedelta(days=401)
    version = lake.silver.version()
    for number in range(version):
        log_file(lake, number).unlink()
    assert verify_hours(lake.topic, lake.config, [], later).findings == ()
    assert (FIVE, "edited log") in answer(lake)


def test_only_the_hours_asked_for_are_checked(lake: Lake) -> None:
    holding(lake, "a").unlink()
    assert answer(lake, SIX) == []
    assert answer(lake, FIVE) == [(FIVE, "missing file")]


def test_an_hour_without_a_seal_cannot_be_verified(lake: Lake) -> None:
    with pytest.raises(LakehouseError, match=SEVEN):
        look(lake, SEVEN)


def test_the_command_ends_with_1_when_something_is_found(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For those who run it every night."""
    conf = conf_of(lake, tmp_path)

    def run(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            app.main(["--conf", str(conf), *arguments])
        return ended.value.code, capsys.readouterr().out

    code, text = run("verify", "plays")
    assert (code, "2 hours" in text) == (0, True)
    os.unlink(holding(lake, "a"))
    code, text = run("verify", "plays", FIVE, "--json")
    assert code == 1
    assert [finding["kind"] for finding in json.loads(text)["findings"]] == ["missing file"]
    code, text = run("verify", "plays", FIVE)
    assert (code, "missing file" in text) == (1, True)
