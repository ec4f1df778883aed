"""What is done with goes; what anybody may still need stays, however old it is."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lakehouse import hours
from lakehouse.cli import app
from lakehouse.config import Config, Maintain
from lakehouse.ingest.frontier import DrainedFrontier
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.facts import row_of_idle
from lakehouse.landing.manifests import Manifest, SegmentFile, manifest_path
from lakehouse.landing.slots import Slot
from lakehouse.operations.damage import damage
from lakehouse.operations.maintain import maintain_topic
from lakehouse.operations.removal import Removal
from lakehouse.running import care
from lakehouse.running.care import Care
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.delta import files, files_of_hour, open_table
from lakehouse.store.files import LocalStorage
from lakehouse.store.log_cleaning import expired_log_files
from lakehouse.store.table_log import entry_path
from lakehouse.topics import Topic
from tests.clock import Clock
from tests.lake import FIVE, SIX, Delivery, Lake, conf_of

MINUTE = timedelta(minutes=1)
LATER = datetime.now(UTC) + timedelta(days=31)
MUCH_LATER = datetime.now(UTC) + timedelta(days=401)


@pytest.fixture
def lake(topic: Topic, config: Config) -> Lake:
    return Lake(topic, config)


def run(lake: Lake, now: datetime = LATER, *, dry_run: bool = False) -> list[Removal]:
    return maintain_topic(lake.topic, lake.config, now, dry_run=dry_run)


def answer(removals: list[Removal]) -> list[tuple[str, str]]:
    return [(removal.kind, removal.path) for removal in removals]


def stray(lake: Lake, table: str, path: str) -> Path:
    file = Path(lake.folders.raw if table == "bronze" else lake.folders.sealed, table, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"rows")
    return file


def manifest(lake: Lake, epoch: int, *paths: str, slot: int = 0) -> Path:
    """As a slot leaves it, naming the files."""
    moment = datetime.now(UTC)
    named = tuple(SegmentFile(path, FIVE, 1, 4, moment, moment, moment, moment) for path in paths)
    file = Path(lake.folders.raw, manifest_path(epoch, slot))
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(Manifest(epoch, slot, "abc", 0, moment, None, False, named).as_json())
    return file


def at(lake: Lake, path: str) -> Path:
    return Path(lake.folders.raw, "bronze", path)


# --- hours of bronze -----------------------------------------------------------------------------------------------


def test_deliveries_go_when_the_hour_is_everywhere_and_old(lake: Lake) -> None:
    (path,) = lake.deliver(Delivery("a"))
    lake.deliver(Delivery("open", 61), hour=SIX)
    lake.seal(FIVE)
    lake.clear(FIVE, "folder")
    (removal,) = run(lake)
    assert (removal.kind, removal.hour, removal.path) == ("bronze file", FIVE, f"bronze/{path}")
    assert not at(lake, path).exists()
    assert [file.hour for file in files(lake.bronze)] == [SIX]
    assert lake.ids(FIVE) == ["a"]
    assert run(lake) == []


def test_deliveries_stay_for_the_retention(lake: Lake) -> None:
    """Counted from the close: a replay of old events is not old."""
    lake.deliver(Delivery("a"))
    lake.seal(FIVE)
    lake.clear(FIVE, "folder")
    assert run(lake, LATER - timedelta(days=2)) == []


def test_what_was_retired_is_not_damaged(lake: Lake) -> None:
    """Also where its manifest is still there, as of an idle topic's last epoch."""
    (path,) = lake.deliver(Delivery("a"))
    left = manifest(lake, lake.epoch, path)
    assert damage(lake.tables).count == 0
    lake.seal(FIVE)
    lake.clear(FIVE, "folder")
    run(lake)
    assert (at(lake, path).exists(), left.exists()) == (False, True)
    assert damage(lake.tables).count == 0


class Life:
    """A topic that is run now and then: what is done to its lake and the days between, as a seed decides.

    Each file is as old as it would be, by the clock of the one who does it.
    """

    def __init__(self, lake: Lake, seed: int) -> None:
        self.lake, self._chance = lake, random.Random(seed)
        self._clock = lake.clock = Clock(LATER)
        self._hour = FIVE
        self._stamped: set[Path] = set()
        self.written: set[str] = set()
        """Files that a manifest has named."""
        self.taken: set[str] = set()
        """Files that the table has, or had."""
        self._present: set[str] = set()

    def act(self) -> None:
        self._chance.choice([self.deliver, self.leave_out, self.finish, self.maintain, self.ingest, self.rest])()
        self.check()

    def deliver(self) -> None:
        """As a run that ends right after it: its manifest stays."""
        (path,) = self.lake.deliver(Delivery("a"), hour=self._hour)
        self._name(path)

    def leave_out(self) -> None:
        """An attempt that was thought dead."""
        self._name(self.lake.bronze_file([Delivery("b")], self._hour, self.lake.epoch, slot=len(self.written) + 1).path)

    def finish(self) -> None:
        hour, self._hour = self._hour, hours.after(self._hour)
        self.lake.seal(hour)
        self.lake.clear(hour, "folder")

    def maintain(self) -> None:
        run(self.lake, self._clock())

    def ingest(self) -> None:
        now, lake = self._clock(), self.lake
        frontier = DrainedFrontier(MINUTE, MINUTE, now + MINUTE)
        ingest = TopicIngest(lake.topic, lake.config, run="next", clock=lake.clock, frontier=frontier)
        ingest.open_topic(MINUTE)
        ingest.commit_facts([row_of_idle(Slot(lake.epoch + 1, 0, None), now, now, None, 0)])
        lake.epoch = newest_state(lake.bronze).epoch

    def rest(self) -> None:
        """Nobody runs it for a while, which somebody else maintains."""
        self.lake.bronze.create_checkpoint()
        self.check()
        for _ in range(self._chance.randrange(3)):
            self._clock.advance(86_400 * self._chance.choice([1, 8, 31, 38]))
            self.maintain()
            self.check()

    def check(self) -> None:
        """What the table has is there, and nothing that it once had comes back."""
        present = {file.path for file in files(self.lake.bronze)}
        assert all(at(self.lake, path).exists() for path in present)
        assert not (present - self._present) & self.taken
        self._present, self.taken = present, self.taken | present
        for file in set(Path(self.lake.settings.raw_root).rglob("*")) - self._stamped:
            self._stamped.add(file)
            os.utime(file, (self._clock.seconds(), self._clock.seconds()))

    def _name(self, path: str) -> None:
        manifest(self.lake, self.lake.epoch, path, slot=int(path.split("-")[-2]))
        self.written.add(path)


@pytest.mark.parametrize("seed", range(6))
def test_in_whatever_order_a_topic_is_run_and_maintained_each_file_is_committed_once(lake: Lake, seed: int) -> None:
    """After months without a run, too, when of the log only its newest entries are left."""
    life = Life(lake, seed)
    for _ in range(30):
        life.act()
    life.ingest()
    life.check()
    assert life.written <= life.taken


@pytest.mark.parametrize("state", ["open", "closed", "sealed", "invalid", "valid", "mirrored, sealed again"])
def test_an_hour_that_is_not_delivered_stays(lake: Lake, state: str) -> None:
    """However old: its deliveries are all there is of it, or may be asked for by who decides."""
    lake.deliver(Delivery("a"))
    if state != "open":
        lake.close(FIVE)
    if state not in ("open", "closed"):
        lake.sealer().seal(FIVE)
    if state == "invalid":
        lake.ledger.record("invalid", FIVE, {})
    if state == "valid":
        lake.ledger.record("valid", FIVE, {})
    if state.startswith("mirrored"):
        lake.clear(FIVE, "folder")
        lake.ledger.record("sealed", FIVE, {"revision": 2})
    assert run(lake, MUCH_LATER) == []
    assert len(files_of_hour(lake.bronze, FIVE)) == 1


def test_an_hour_waits_for_its_last_target(topic_with: Callable[..., Topic], config: Config) -> None:
    lake = Lake(topic_with(mirrors=["folder", "hive"]), config)
    lake.deliver(Delivery("a"))
    lake.seal(FIVE)
    lake.clear(FIVE, "folder")
    assert run(lake) == []
    lake.ledger.record("mirrored", FIVE, {"target": "hive"})
    assert len(run(lake)) == 1


def test_rejected_deliveries_go_after_the_retention(lake: Lake) -> None:
    """No hour will ever have them; until then they can be read."""
    (path,) = lake.deliver(Delivery(None, reject_reason="no time"), hour=None)
    assert run(lake, LATER - timedelta(days=2)) == []
    assert answer(run(lake)) == [("bronze file", f"bronze/{path}")]


# --- what is not committed yet -------------------------------------------------------------------------------------


def test_a_driver_that_was_down_for_longer_than_the_retention_finds_all_it_left(lake: Lake) -> None:
    """Its messages were acknowledged: these files are the only place where the events are."""
    lake.deliver(Delivery("a"))
    acknowledged = stray(lake, "bronze", f"{FIVE}/000000000002-0000-abc.parquet")
    in_manifest = manifest(lake, 2, f"{FIVE}/000000000002-0000-abc.parquet")
    pulled = stray(lake, "bronze", f"{FIVE}/000000000002-0001-def.parquet")
    assert run(lake, MUCH_LATER) == []
    assert acknowledged.exists()
    assert in_manifest.exists()
    assert pulled.exists()


def test_a_segment_left_out_by_a_later_epoch_stays_until_it_is_adopted(lake: Lake) -> None:
    """Another driver planned other slots for the epoch: no commit took the file, yet its manifest makes it count."""
    left_out = stray(lake, "bronze", f"{FIVE}/000000000001-0007-abc.parquet")
    its_manifest = manifest(lake, 1, f"{FIVE}/000000000001-0007-abc.parquet", slot=7)
    for number in range(5):
        lake.deliver(Delivery(f"e{number}"))
    assert run(lake, MUCH_LATER) == []
    assert left_out.exists()
    assert its_manifest.exists()


def test_files_of_attempts_that_lost_go(lake: Lake) -> None:
    """Neither the log nor a manifest names them, their epoch is over and nobody writes for a day."""
    lake.deliver(Delivery("a"))
    lost = stray(lake, "bronze", f"{FIVE}/000000000001-0000-def.parquet")
    assert answer(run(lake)) == [("orphan", f"bronze/{FIVE}/{lost.name}")]
    assert not lost.exists()
    assert len(files(lake.bronze)) == 1


def test_a_file_that_may_be_in_the_making_stays(lake: Lake) -> None:
    """Of a committed epoch, and young: a task that was given up may still be at it."""
    lake.deliver(Delivery("a"))
    stray(lake, "bronze", f"{FIVE}/000000000001-0000-def.parquet")
    assert run(lake, datetime.now(UTC) + timedelta(hours=1)) == []


def test_a_file_that_nobody_knows_stays(lake: Lake) -> None:
    lake.deliver(Delivery("a"))
    stray(lake, "bronze", "notes.txt")
    assert run(lake, MUCH_LATER) == []


def test_manifests_of_past_epochs_go_once_the_log_has_their_files(lake: Lake) -> None:
    """The last two epochs may be planned again by Spark."""
    manifests = []
    for number in range(4):
        (path,) = lake.deliver(Delivery(f"e{number}"))
        manifests.append(manifest(lake, lake.epoch, path))
    manifest(lake, 1, slot=1)
    run(lake, datetime.now(UTC))
    assert [file.exists() for file in manifests] == [False, False, True, True]


# --- silver, reports, ledger ---------------------------------------------------------------------------------------


def test_files_of_seals_that_died_go(lake: Lake) -> None:
    lake.deliver(Delivery("a"))
    lake.seal(FIVE)
    lost, open_hour = (stray(lake, "silver", f"hour={hour}/part-00000-dead.parquet") for hour in (FIVE, SIX))
    assert answer(run(lake)) == [("orphan", f"silver/hour={FIVE}/{lost.name}")]
    assert open_hour.exists()
    assert lake.ids(FIVE) == ["a"]


def test_what_somebody_took_out_of_silver_is_kept(lake: Lake) -> None:
    """It is what the hour can be restored from."""
    lake.deliver(Delivery("a"), Delivery("b"))
    lake.seal(FIVE)
    (file,) = files_of_hour(lake.silver, FIVE)
    silver = open_table(lake.folders.silver, {})
    silver.alter.set_table_properties({"delta.appendOnly": "false"})
    silver.delete("event_id = 'a'")
    assert run(lake) == []
    assert Path(lake.folders.silver, file.path).exists()


def test_reports_go_after_the_audit_window(lake: Lake) -> None:
    lake.deliver(Delivery("a"))
    report = Path(lake.folders.reports, f"{FIVE}.html")
    report.parent.mkdir(parents=True)
    report.write_text("fine")
    assert run(lake, LATER) == []
    assert answer(run(lake, MUCH_LATER)) == [("report", f"reports/{FIVE}.html")]
    assert not report.exists()


def test_small_files_that_a_ledger_no_longer_has_go_after_a_while(lake: Lake) -> None:
    lake.deliver(Delivery("a"))
    lake.seal(FIVE)
    lake.clear(FIVE, "folder")
    before = lake.ledger.history()
    table = open_table(lake.folders.ledger, {})
    table.optimize.compact()
    (kept,) = (Path(uri).name for uri in table.file_uris())
    small = sorted(file.name for file in Path(lake.folders.ledger).glob("[!_]*.parquet") if file.name != kept)
    assert small
    assert run(lake, datetime.now(UTC)) == []
    table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    assert sorted(answer(run(lake, datetime.now(UTC), dry_run=True))) == [
        ("ledger", f"ledger/{name}") for name in small
    ]
    assert sorted(answer(run(lake, datetime.now(UTC)))) == [("ledger", f"ledger/{name}") for name in small]
    assert [file.name for file in Path(lake.folders.ledger).glob("[!_]*.parquet")] == [kept]
    assert lake.ledger.history() == before


def test_bronze_s_log_goes_somewhat_later_than_its_deliveries_and_checkpoints_do_not_pile_up(lake: Lake) -> None:
    """At 10 s a trigger a log of 400 days had three million entries, and 173 checkpoints a day."""
    lake.deliver(Delivery("a"))
    bronze = open_table(lake.folders.bronze, {})
    assert bronze.metadata().configuration["delta.logRetentionDuration"] == "interval 37 days"
    assert bronze.metadata().configuration["delta.deletedFileRetentionDuration"] == "interval 1 day"
    bronze.create_checkpoint()
    aged(Path(lake.folders.bronze, "_delta_log"), days=38)
    assert [removal.path for removal in run(lake, datetime.now(UTC))] == ["bronze/_delta_log"]
    silver = Path(lake.folders.ledger, "_delta_log")
    open_table(lake.folders.ledger, {}).create_checkpoint()
    aged(silver, days=399)
    assert run(lake, datetime.now(UTC)) == []


def test_a_log_whose_checkpoint_is_damaged_stays(lake: Lake) -> None:
    lake.deliver(Delivery("a"))
    bronze = open_table(lake.folders.bronze, {})
    bronze.create_checkpoint()
    log = Path(lake.folders.bronze, "_delta_log")
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    aged(log)
    files, before = LocalStorage(lake.folders.bronze), datetime.now(UTC)
    assert [stored.path for stored in expired_log_files(files, before)] == [entry_path(0)]
    checkpoint.write_bytes(b"cut")
    aged(log)
    assert expired_log_files(files, before) == []


def test_log_entries_go_after_the_audit_window_and_the_state_stays(lake: Lake) -> None:
    """No commit looks for them, as that lists the whole log: 31 s of each commit after 30 days on a real store."""
    lake.deliver(Delivery("a"))
    for number in range(4):
        lake.deliver(Delivery(f"e{number}", 61), hour=SIX)
    bronze = open_table(lake.folders.bronze, {})
    before, state = bronze.version(), newest_state(bronze)
    bronze.create_checkpoint()
    log = Path(lake.folders.bronze, "_delta_log")
    assert run(lake, datetime.now(UTC)) == []
    aged(log)
    assert [removal.kind for removal in run(lake, datetime.now(UTC), dry_run=True)] == ["log"]
    assert len(list(log.glob("*.json"))) == before + 1
    assert answer(run(lake, datetime.now(UTC))) == [("log", "bronze/_delta_log")]
    assert [file.name for file in log.glob("*.json")] == [f"{before:020d}.json"]
    kept = open_table(lake.folders.bronze, {})
    assert (kept.version(), newest_state(kept)) == (before, state)
    lake.deliver(Delivery("late", 61), hour=SIX)
    assert run(lake, datetime.now(UTC)) == []


def aged(folder: Path, days: int = 401) -> None:
    """As if its files had been written so many days ago."""
    moment = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    for file in folder.iterdir():
        os.utime(file, (moment, moment))


# --- looking first -------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_would_go_and_removes_nothing(lake: Lake) -> None:
    (path,) = lake.deliver(Delivery("a"))
    manifest(lake, 0)
    stray(lake, "bronze", f"{FIVE}/000000000001-0000-def.parquet")
    for number in range(3):
        lake.deliver(Delivery(f"e{number}", 61), hour=SIX)
    lake.seal(FIVE)
    lake.clear(FIVE, "folder")
    everything = sorted(str(file) for file in Path(lake.settings.raw_root).rglob("*"))
    shown = run(lake, dry_run=True)
    assert sorted(str(file) for file in Path(lake.settings.raw_root).rglob("*")) == everything
    assert at(lake, path).exists()
    assert answer(run(lake)) == answer(shown)
    assert {removal.kind for removal in shown} == {"bronze file", "manifest", "orphan"}


def test_a_topic_without_a_lake_has_nothing_to_maintain(config: Config, topic: Topic) -> None:
    assert maintain_topic(topic, config, LATER) == []
    assert not os.path.exists(config.settings.raw_root)


def test_the_command_shows_and_then_removes_the_same(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--dry-run first, then for good."""
    lake.deliver(Delivery("a"))
    lost = stray(lake, "bronze", f"{FIVE}/000000000001-0000-def.parquet")
    os.utime(lost, (0, 0))
    conf = conf_of(lake, tmp_path)
    for arguments in (["plays", "--dry-run", "--json"], ["--json"]):
        assert lost.exists()
        with pytest.raises(SystemExit) as ended:
            app.main(["--conf", str(conf), "maintain", *arguments])
        assert ended.value.code == 0
        document = json.loads(capsys.readouterr().out)
        assert [removal["kind"] for removal in document["removals"]] == ["orphan"]
    assert not lost.exists()


# --- several at a time, and within a run ---------------------------------------------------------------------------


def test_several_may_maintain_a_topic_at_the_same_time(lake: Lake) -> None:
    """A person does it, and two applications: what one has removed is no error of another, and nothing else goes."""
    (path,) = lake.deliver(Delivery("a"))
    manifests = [manifest(lake, 0, slot=slot) for slot in range(20)]
    strays = [stray(lake, "bronze", f"{FIVE}/000000000001-{slot:04d}-def.parquet") for slot in range(20)]
    for number in range(3):
        lake.deliver(Delivery(f"e{number}", 61), hour=SIX)
    lake.seal(FIVE)
    lake.clear(FIVE, "folder")
    together = threading.Barrier(4)

    def maintained(_: int) -> list[Removal]:
        together.wait()
        return run(lake)

    with ThreadPoolExecutor(4) as people:
        removals = [removal for removed in people.map(maintained, range(4)) for removal in removed]
    assert [removal.path for removal in removals if removal.kind == "bronze file"] == [f"bronze/{path}"]
    assert not any(file.exists() for file in (*manifests, *strays))
    assert lake.ids(FIVE) == ["a"]
    assert len(files(lake.bronze)) == 3


def test_an_end_cuts_maintenance_off_and_the_next_goes_on(lake: Lake) -> None:
    """SIGTERM waits for no thousand files."""
    for slot in range(3):
        manifest(lake, 0, slot=slot)
    for number in range(3):
        lake.deliver(Delivery(f"e{number}"))
    assert len(maintain_topic(lake.topic, lake.config, LATER, is_stopping=lambda: True)) == 1
    assert len(run(lake)) == 2


@pytest.mark.parametrize(
    ("last_done", "wait"),
    [(None, 300), (timedelta(hours=1), 23 * 3600), (timedelta(days=3), 300), (timedelta(hours=-5), 24 * 3600)],
)
def test_the_first_care_of_a_run_is_when_it_is_due_but_not_at_once(last_done: timedelta | None, wait: float) -> None:
    """One that is started again every minute does none; a clock that was set back does no harm."""
    at = datetime(2026, 11, 23, tzinfo=UTC)
    assert care.first_wait(None if last_done is None else at - last_done, at, timedelta(days=1)) == wait


def care_of(lake: Lake, every: str) -> tuple[Care, list[tuple[str, str | None]]]:
    """That is due at once, and what it tells."""
    noted: list[tuple[str, str | None]] = []
    settings = lake.settings.model_copy(update={"maintain": Maintain.model_validate({"every": every})})
    config = replace(lake.config, settings=settings)

    def note(topic: str, at: datetime, error: Exception | None) -> None:
        noted.append((topic, str(error) if error else None))

    return Care([lake.topic], config, threading.Event(), note, after_start=timedelta(0)), noted


def test_a_run_maintains_its_topics_by_itself(lake: Lake) -> None:
    """So that nobody must schedule it."""
    past = manifest(lake, 0)
    for number in range(3):
        lake.deliver(Delivery(f"e{number}"))
    ours, noted = care_of(lake, "1 day")
    ours.start({})
    wait_until(lambda: bool(noted))
    ours.end()
    assert noted == [("plays", None)]
    assert not past.exists()


def test_what_fails_of_it_is_noted_for_the_topic_and_ends_no_run(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    lake.deliver(Delivery("a"))
    Path(lake.folders.bronze, "_delta_log", f"{lake.bronze.version():020d}.json").write_text("no commit")
    ours, noted = care_of(lake, "1 day")
    ours.start({})
    wait_until(lambda: bool(noted))
    ours.end()
    ((topic, error),) = noted
    assert topic == "plays"
    assert error is not None
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"maintain: topic=plays state=parked error={error}"
    ]


def test_what_the_end_of_a_run_cuts_off_is_due_at_the_next_start(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counted as done, and the rest of it waited for another day."""
    ours, noted = care_of(lake, "1 day")
    began, ended = threading.Event(), threading.Event()

    def long(*topic: object, is_stopping: Callable[[], bool]) -> list[Removal]:
        began.set()
        wait_until(is_stopping)
        ended.set()
        return []

    monkeypatch.setattr(care, "maintain_topic", long)
    ours.start({})
    assert began.wait(20)
    ours.end()
    assert ended.is_set()
    assert noted == []


def test_never_means_never(lake: Lake) -> None:
    ours, noted = care_of(lake, "never")
    ours.start({})
    ours.end()
    assert noted == []
    with pytest.raises(ValueError, match="at least '1 minute', or 'never'"):
        Maintain.model_validate({"every": "1 second"})


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)
