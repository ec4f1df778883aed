"""Silver as its log says: an hour is sealed, judged and mirrored without a look at the table's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lakehouse.config import Config
from lakehouse.seal import stage
from lakehouse.store import tables as tables_module
from lakehouse.store.delta import commit, files_of_hours
from lakehouse.store.records import Sealed
from lakehouse.store.silver_log import SEAL, SilverHead, files_of_seal
from lakehouse.store.table_log import ConflictError
from lakehouse.topics import Topic
from tests.lake import FIVE, SEVEN, SIX, Delivery, Lake


@pytest.fixture
def lake(topic: Topic, config: Config) -> Lake:
    """Three closed hours, of which the second has a late event of the first and none of its own."""
    lake = Lake(topic, config)
    lake.deliver(Delivery("a"), Delivery("b", 7))
    lake.close(FIVE)
    lake.deliver(Delivery("c", 65), Delivery("d", 3, 80), hour=SIX)
    lake.close(SIX)
    lake.deliver(Delivery("e", 125), Delivery("a", 0, 140), hour=SEVEN)
    lake.close(SEVEN)
    return lake


def of_another_process(lake: Lake) -> SilverHead:
    return SilverHead(lake.tables._ensure_silver)


def test_a_head_says_of_no_sealed_hour_that_it_is_not_sealed(lake: Lake) -> None:
    """By whichever process it was sealed."""
    head = of_another_process(lake)
    assert head.without(FIVE) is not None
    lake.sealer().seal(FIVE)
    head.update()
    assert head.without(FIVE) is None
    assert of_another_process(lake).without(FIVE) is None
    known = head.without(SIX)
    assert known is not None
    assert known.version == int(lake.silver.version())


def test_a_seal_that_is_far_back_leaves_open_what_is_sealed(lake: Lake) -> None:
    lake.sealer().seal(FIVE)
    for number in range(40):
        commit(lake.silver, [], metadata={"kind": "other"}, transactions={f"other {number}": 1})
    assert of_another_process(lake).without(SIX) is None
    assert lake.sealer().seal(SIX) is not None
    assert of_another_process(lake).without(SIX) is None
    assert of_another_process(lake).without(SEVEN) is not None


@pytest.mark.parametrize("is_sealed_here", [False, True])
@pytest.mark.parametrize("more", [0, 2, 3])
def test_a_silver_that_is_set_back_under_a_process_is_read_as_it_is_then(
    lake: Lake, tmp_path: Path, is_sealed_here: bool, more: int
) -> None:
    """Also where others have committed since, up to the version that was known, and whoever made that."""
    head = lake.tables.silver_head() if is_sealed_here else of_another_process(lake)
    shutil.copytree(lake.folders.silver, tmp_path / "copy")
    lake.sealer().seal(FIVE)
    lake.sealer().seal(SIX)
    if not is_sealed_here:
        head.update()
    assert head.without(SIX) is None
    shutil.rmtree(lake.folders.silver)
    shutil.copytree(tmp_path / "copy", lake.folders.silver)
    for number in range(more):
        commit(lake.silver, [], metadata={"kind": "other"}, transactions={f"other {number}": 1})
    head.update()
    assert head.without(FIVE) is not None


def test_a_commit_behind_what_was_known_is_a_conflict_where_the_hour_was_sealed_since(lake: Lake) -> None:
    head = of_another_process(lake)
    unsealed = head.without(FIVE)
    assert unsealed is not None
    lake.sealer().seal(FIVE)
    head.update()
    manifest = {"kind": SEAL, "hour": FIVE, "revision": 1}
    with pytest.raises(ConflictError):
        head.commit(unsealed, [], manifest, {stage.app_of(FIVE): 1})


def test_the_files_of_a_seal_are_those_that_the_table_had_then(lake: Lake) -> None:
    """With what their statistics say of them; an hour without files has none."""
    for hour in (FIVE, SIX, SEVEN):
        assert lake.sealer().seal(hour) is not None
    place = lake.tables.sealed.below("silver")
    for hour in (FIVE, SIX, SEVEN):
        seal = lake.history().seal_of(hour)
        assert seal is not None
        found = files_of_seal(place, hour, seal)
        expected = files_of_hours(place.table(seal.silver_version), [hour])
        assert [(file.path, file.rows, file.size_bytes) for file in found] == [
            (file.path, file.rows, file.size_bytes) for file in expected
        ]
        assert [file.stats["minValues"] for file in found] == [file.stats["minValues"] for file in expected]


def test_what_is_no_seal_of_the_hour_is_read_from_the_table(lake: Lake) -> None:
    """An entry that was edited, or a row that names another version."""
    lake.sealer().seal(FIVE)
    seal = lake.history().seal_of(FIVE)
    assert seal is not None
    place = lake.tables.sealed.below("silver")
    expected = files_of_seal(place, FIVE, seal)
    commit(lake.silver, [], metadata={"kind": "other"}, transactions={})
    later = Sealed.from_json({**seal.as_json(), "silver_version": seal.silver_version + 1})
    assert [file.path for file in files_of_seal(place, FIVE, later)] == [file.path for file in expected]
    entry = Path(place.uri, "_delta_log", f"{seal.silver_version:020d}.json")
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    lines[0]["commitInfo"]["userMetadata"] = json.dumps({"kind": SEAL, "hour": SIX, "revision": 1})
    entry.write_text("\n".join(map(json.dumps, lines)))
    assert [file.path for file in files_of_seal(place, FIVE, seal)] == [file.path for file in expected]


def test_late_events_are_found_without_the_table(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hours that they may be in are read by their seals."""
    lake.sealer().seal(FIVE)
    lake.sealer().seal(SIX)
    monkeypatch.setattr(tables_module.TopicTables, "silver", None)
    sealed = lake.sealer().seal(SEVEN)
    assert sealed is not None
    assert sealed.of(Sealed).late_duplicates == 1
    monkeypatch.undo()
    assert sorted(lake.silver.to_pyarrow_table()["event_id"].to_pylist()) == ["a", "b", "c", "d", "e"]
