"""What must be true of a topic's tables whatever was interrupted, lost or repeated: read from the tables alone.

Each check gives sentences, one for each thing that is wrong. Delta's logs are read as they are, not through what
wrote them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow.parquet as pq

from lakehouse import hours
from lakehouse.checksum import checksum_of
from lakehouse.config import Config
from lakehouse.landing.manifests import listed_manifests
from lakehouse.progress import IngestState, LogRead
from lakehouse.store.bronze_log import segment_of
from lakehouse.store.files import Storage, storage_for
from lakehouse.store.history import Entry
from lakehouse.store.records import VERDICTS, Closed, Mirrored, Sealed, State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

Event = tuple[Any, ...]
_ENTRY = re.compile(r"_delta_log/\d{20}\.json")
_SHOWN = re.compile(r"[^/]+/_SUCCESS")


@dataclass(frozen=True)
class Expected:
    """What the world outside the tables knows: good events, messages that were bad, message ids acknowledged.

    An event is its values of `Topic.identity`: its id, and its time where it has one of its own.
    """

    events: Collection[Event]
    rejected: int | None = None
    acknowledged: Collection[str] = ()


@dataclass(frozen=True)
class _Commit:
    """One entry of a Delta log: paths with their hours, and our metadata."""

    version: int
    added: Mapping[str, str | None]
    removed: tuple[str, ...]
    metadata: Mapping[str, Any]


class Lake:
    """A topic's tables, read once."""

    def __init__(self, topic: Topic, config: Config) -> None:
        self.topic, self.config = topic, config
        tables = TopicTables(topic, config.settings)
        self.raw = tables.raw.files()
        self.bronze_files, self.silver_files = (
            place.files() for place in (tables.raw.below("bronze"), tables.sealed.below("silver"))
        )
        self.bronze, self.silver = _log(self.bronze_files), _log(self.silver_files)
        self.history = tables.history()

    def seals(self) -> dict[str, _Commit]:
        return {commit.metadata["hour"]: commit for commit in self.silver if commit.metadata.get("kind") == "seal"}


def violations(topic: Topic, config: Config, expected: Expected) -> list[str]:
    """Everything that is wrong with the topic's tables once all that was published has been delivered."""
    lake = Lake(topic, config)
    checks = (
        _bronze_has_each_file_once(lake),
        _no_closed_hour_was_written_to(lake),
        _manifests_are_in_the_log(lake),
        _acknowledged_is_in_bronze(lake, expected),
        _closes_are_recorded(lake),
        _each_hour_closed_once(lake),
        _states_are_in_order(lake),
        _sealed_hours_never_changed(lake),
        _each_event_is_there_once(lake, expected),
        _rejects_are_kept(lake, expected),
        _mirrors_equal_silver(lake),
    )
    return [wrong for check in checks for wrong in check]


def violations_so_far(topic: Topic, config: Config) -> list[str]:
    """What must hold at each moment, in the middle of everything: nothing twice, nothing late, nothing out of order."""
    lake = Lake(topic, config)
    checks = (
        _bronze_has_each_file_once(lake),
        _no_closed_hour_was_written_to(lake),
        _each_hour_closed_once(lake),
        _states_are_in_order(lake),
    )
    return [wrong for check in checks for wrong in check]


def _bronze_has_each_file_once(lake: Lake) -> Iterator[str]:
    """Files, and the segments that the commits name."""
    files = Counter(path for commit in lake.bronze for path in commit.added)
    segments = Counter(each for commit in lake.bronze for each in commit.metadata.get("segments", []))
    yield from (f"bronze has {path} {count} times" for path, count in files.items() if count > 1)
    yield from (f"bronze's commits name segment {each} {count} times" for each, count in segments.items() if count > 1)
    yield from (f"bronze lost {path} again" for commit in lake.bronze for path in commit.removed)
    in_files = {segment_of(path) for path in files}
    yield from (f"segment {each} is named by no commit or has no file" for each in sorted(in_files ^ set(segments)))
    there = {stored.path for stored in lake.bronze_files.listing("")}
    yield from (f"bronze's {path} is not there" for path in files if path not in there)


def _no_closed_hour_was_written_to(lake: Lake) -> Iterator[str]:
    """A close is valid from the next commit on, and hours close in order."""
    open_hour: str | None = None
    for commit in lake.bronze:
        state = commit.metadata.get("state")
        if state is None:
            continue
        for path, hour in commit.added.items():
            if hour is not None and open_hour is not None and hour < open_hour:
                yield f"bronze version {commit.version} wrote {path} to {hour}, when {open_hour} was the first open one"
        if open_hour is not None and (state["open_hour"] or "") < open_hour:
            yield f"bronze version {commit.version} opened {state['open_hour']} again after {open_hour}"
        open_hour = state["open_hour"]


def _manifests_are_in_the_log(lake: Lake) -> Iterator[str]:
    """Whatever a manifest names has been committed; of a log, unless another one's range has taken its place."""
    storage = lake.raw
    states = [commit.metadata["state"] for commit in lake.bronze if "state" in commit.metadata]
    positions = IngestState.from_json(states[-1]).positions if states else None
    known = {path for commit in lake.bronze for path in commit.added}
    for epoch, slot in listed_manifests(storage):
        manifest = json.loads(storage.read(f"segments/{epoch:012d}-{slot:04d}.json") or b"{}")
        read = manifest.get("read")
        if positions is not None and read and positions.is_past(LogRead.from_text(read)):
            continue
        for file in manifest.get("files", []):
            if file["path"] not in known:
                yield f"{file['path']} is in the manifest of epoch {epoch}, slot {slot}, and in no commit"


def _acknowledged_is_in_bronze(lake: Lake, expected: Expected) -> Iterator[str]:
    paths = [path for commit in lake.bronze for path in commit.added]
    missing = set(expected.acknowledged) - set(_ids(lake.bronze_files, paths, "message_id"))
    yield from (f"message {each} was acknowledged and is not in bronze" for each in sorted(missing))


def _closes_are_recorded(lake: Lake) -> Iterator[str]:
    """Bronze's log and the ledger have the same closes, of the same versions, each as far as it reaches."""
    logged = dict(_closes_in_log(lake))
    rows = [entry for entry in lake.history.sound_entries if entry.state == State.CLOSED]
    recorded = {str(row.hour): (row.of(Closed).bronze_version, row.of(Closed).through or row.hour) for row in rows}
    for hour, count in Counter(row.hour for row in rows).items():
        if count > 1:
            yield f"{hour} is recorded as closed {count} times"
    for hour in sorted(logged.keys() | recorded.keys()):
        if logged.get(hour) != recorded.get(hour):
            found = f"{hour} closed at (bronze version, through) {logged.get(hour)}"
            yield f"{found}, and at {recorded.get(hour)} by the ledger"


def _each_hour_closed_once(lake: Lake) -> Iterator[str]:
    """Closes follow each other, without holes where empty hours close, too; one that covers a range has no event."""
    closes = sorted((hour, str(through)) for hour, (_, through) in _closes_in_log(lake))
    for (first, last), (following, _) in pairwise(closes):
        if following <= last:
            yield f"{following} closed alone, and in the range from {first} to {last}"
        elif following != hours.after(last) and lake.topic.empty_hours == "close":
            yield f"{hours.after(last)} never closed, between {last} and {following}, which did"
    ranges = [close for close in closes if close[0] != close[1]]
    filled = {hour for commit in lake.bronze for hour in commit.added.values() if hour}
    for first, last in ranges:
        inside = [hour for hour in sorted(filled.union(lake.history.hours())) if first <= hour <= last]
        yield from (f"{hour} closed as empty with {first}, and holds events or has rows of its own" for hour in inside)


def _closes_in_log(lake: Lake) -> Iterator[tuple[str, tuple[int, str]]]:
    """(first hour, (version, last hour)) of each close: the two hours differ where empty hours closed as one range."""
    for commit in lake.bronze:
        for details in commit.metadata.get("closed", []):
            yield details["hour"], (commit.version, details.get("through") or details["hour"])


def _states_are_in_order(lake: Lake) -> Iterator[str]:
    for hour in lake.history.hours():
        rows = lake.history.of_hour(hour)
        for before, row in enumerate(rows):
            if not _may_follow(row, rows[:before]):
                path = " → ".join(each.state for each in rows[: before + 1])
                yield f"{hour} went {path}"


def _may_follow(row: Entry, before: list[Entry]) -> bool:
    """closed → sealed → valid | invalid → (released) → mirrored, one row for each target; a new seal begins again."""
    states = [each.state for each in before]
    seals = [index for index, state in enumerate(states) if state == State.SEALED]
    since = before[seals[-1] :] if seals else []
    verdicts = [each.state for each in since if each.state in VERDICTS]
    match row.state:
        case State.CLOSED:
            return not states
        case State.SEALED:
            return states[:1] == [State.CLOSED] and row.of(Sealed).revision == len(seals) + 1
        case State.VALID | State.INVALID:
            return bool(seals) and not verdicts
        case State.RELEASED:
            return verdicts == [State.INVALID]
        case State.MIRRORED:
            done = {each.of(Mirrored).target for each in since if each.state == State.MIRRORED}
            may_go = verdicts in ([State.VALID], [State.INVALID, State.RELEASED])
            return may_go and row.of(Mirrored).target not in done
        case State.WITHDRAWN:
            return verdicts == [State.INVALID]
    return False


def _sealed_hours_never_changed(lake: Lake) -> Iterator[str]:
    """Each hour is one commit, nothing was ever removed, and the files still hold what the seal counted."""
    for commit in lake.silver:
        if (commit.added or commit.removed) and commit.metadata.get("kind") != "seal":
            yield f"silver version {commit.version} is no seal and changed files"
        for path in commit.removed:
            yield f"silver version {commit.version} removed {path}"
        for path, hour in commit.added.items():
            if hour != commit.metadata.get("hour"):
                yield f"silver version {commit.version} seals {commit.metadata.get('hour')} and wrote {path} to {hour}"
    sealed = Counter(commit.metadata["hour"] for commit in lake.silver if commit.metadata.get("kind") == "seal")
    yield from (f"{hour} was sealed {count} times" for hour, count in sealed.items() if count > 1)
    for hour, commit in lake.seals().items():
        manifest, seal = commit.metadata, lake.history.seal_of(hour)
        ids = _ids(lake.silver_files, commit.added)
        if (len(ids), checksum_of(ids)) != (manifest["rows"], int(manifest["id_checksum"])):
            yield f"{hour} holds {len(ids)} rows in silver, and was sealed with {manifest['rows']}, or other ids"
        if seal is None or seal.silver_version != commit.version:
            yield f"{hour} was sealed by silver version {commit.version}, and the ledger does not say so"


def _each_event_is_there_once(lake: Lake, expected: Expected) -> Iterator[str]:
    identity = lake.topic.identity
    counts = Counter(each for commit in lake.silver for each in _rows(lake.silver_files, commit.added, identity))
    wanted = set(expected.events)
    yield from (f"{_name(each)} is not in silver" for each in sorted(wanted - counts.keys()))
    yield from (f"{_name(each)} is in silver, and nobody published it" for each in sorted(counts.keys() - wanted))
    yield from (f"{_name(each)} is in silver {count} times" for each, count in sorted(counts.items()) if count > 1)


def _name(event: Event) -> str:
    return " of ".join(map(str, event))


def _rejects_are_kept(lake: Lake, expected: Expected) -> Iterator[str]:
    """Each bad message is in bronze; it may have been delivered more than once."""
    if expected.rejected is None:
        return
    paths = [path for commit in lake.bronze for path, hour in commit.added.items() if hour is None]
    found = len(set(_ids(lake.bronze_files, paths, "message_id")))
    if found != expected.rejected:
        yield f"bronze keeps {found} rejected messages of {expected.rejected}"


def _mirrors_equal_silver(lake: Lake) -> Iterator[str]:
    """Of the targets that are folders on this machine or GCS: all that a reader sees."""
    for name in lake.topic.mirrors:
        target = lake.config.settings.mirrors[name]
        if target["kind"] != "folder" or str(target["path"]).startswith("hdfs://"):
            continue
        place = storage_for(f"{target['path']}/{lake.topic.name}", lake.config.settings.storage_options)
        paths = [stored.path for stored in place.listing("")]
        seals = lake.seals()
        cleared = {hour for hour in seals if lake.history.is_cleared(hour)}
        shown = {path.removesuffix("/_SUCCESS") for path in paths if _SHOWN.fullmatch(path)}
        yield from (f"{hour} is cleared and not in mirror {name}" for hour in sorted(cleared - shown))
        yield from (f"{hour} is in mirror {name} and not cleared" for hour in sorted(shown - cleared))
        for hour in sorted(cleared & shown):
            files, identity = [path for path in paths if path.startswith(f"{hour}/part-")], lake.topic.identity
            if Counter(_rows(place, files, identity)) != Counter(_rows(lake.silver_files, seals[hour].added, identity)):
                yield f"{hour} in mirror {name} is not what silver holds"
            if name not in lake.history.targets_done(hour):
                yield f"{hour} is in mirror {name}, and the ledger does not say so"


def _ids(table: Storage, paths: Iterable[str], column: str = "event_id") -> list[str]:
    return [each for (each,) in _rows(table, paths, (column,))]


def _rows(table: Storage, paths: Iterable[str], columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return [row for path in paths for row in _columns(table.open(path), columns)]


def _columns(source: Any, names: Sequence[str]) -> list[tuple[Any, ...]]:
    with pq.ParquetFile(source) as file:
        rows = file.read(columns=list(names))
        return list(zip(*(rows.column(name).to_pylist() for name in names), strict=True))


def _log(table: Storage) -> list[_Commit]:
    """Every commit, oldest first, from the JSON files of the log."""
    listed = (stored.path for stored in table.listing("_delta_log"))  # none before the table was created
    entries = [path for path in listed if _ENTRY.fullmatch(path)]
    return [_entry(int(path[-25:-5]), (table.read(path) or b"").decode().splitlines()) for path in entries]


def _entry(version: int, lines: Iterable[str]) -> _Commit:
    added: dict[str, str | None] = {}
    removed: list[str] = []
    metadata: dict[str, Any] = {}
    for action in (json.loads(line) for line in lines):
        if "add" in action:
            added[action["add"]["path"]] = action["add"]["partitionValues"]["hour"]
        elif "remove" in action:
            removed.append(action["remove"]["path"])
        elif "commitInfo" in action:
            metadata = json.loads(action["commitInfo"].get("userMetadata") or "{}")
    return _Commit(version, added, tuple(removed), metadata)
