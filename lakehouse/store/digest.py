"""The rows of a ledger that say how its topic is, as one small object beside the table: who reads it reads no years.

It names the version of the table that it was made from, the files of that version, and what the table was declared to
be. Whoever reads it looks whether that version is still there and which came since, so that it never says anything else
than the table. It is written by whoever records a row; where it is missing, or is of another form, the table is read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from datetime import datetime
from itertools import takewhile

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.hours import Hour
from lakehouse.schemas import LEDGER
from lakehouse.store.history import Entry, History, entries_of, in_order, rows_of
from lakehouse.store.ledger_files import LedgerFile
from lakehouse.store.records import HOUR_STATES, StageFailed, State

DIGEST = "_digest.parquet"
"""Below the table: what begins with `_` is no file of a Delta table to any reader."""
SHOWN_HOURS = 96
"""Newest hours with all their rows: as many as pages show, and more than are listed without being asked for."""
_BRIEF_HOURS = 2
"""The same where only the topic's state is asked for."""
_MOST_ROWS = 5_000
_FORM = 3

_FOLLOWED = {State.STARTED, State.CLOSED, State.SEALED, State.VALID, State.CLOSE_REQUESTED}
"""After which another row comes soon: a reader finds these by the log's names."""
_OF_HOURS = {*HOUR_STATES, State.MIRROR_FAILED, State.STAGE_FAILED} - {State.CLOSED}
_RUNS = (State.STARTED, State.RECOVERED, State.FAILED)


@dataclass(frozen=True)
class Digest:
    """`history` has the `digest_rows` up to `version` of the table, which had `files` and these `properties`.

    `newest_at` is the time of its newest row, also of one that is left out. `properties` are empty where the table may
    lack a column of this release. `checksum` is that of the version's entry; None of an older release's digest.
    """

    version: int
    files: tuple[LedgerFile, ...]
    history: History
    newest_at: datetime | None
    properties: Mapping[str, str] = field(default_factory=dict)
    checksum: str | None = None


def is_due_after(entry: Entry) -> bool:
    """Whether a digest is to be written once the row is there."""
    return entry.state not in _FOLLOWED


def digest_rows(history: History, mirrors: Iterable[str], newest: int = SHOWN_HOURS) -> History:
    """The rows that say how a topic with these mirrors is now, and all of its `newest` hours.

    Hours that are everywhere they go are left out: of those that an erasure has sealed again the revision alone is
    known. `followed` by newer rows it answers as all rows would.
    """
    kept = _kept_hours(history, set(mirrors), newest)
    rare = {id(entry) for entry in _rare(history)}
    first, closed = min(kept, default=""), history.closed_through() or ""

    def tells(entry: Entry) -> bool:
        if id(entry) in rare:
            return True
        if entry.state == State.CLOSE_REQUESTED:
            return (entry.hour or "") >= first
        is_of_hour = entry.state in (*_OF_HOURS, State.CLOSED, State.HELD) and entry.hour is not None
        return is_of_hour and (entry.hour in kept or str(entry.hour) > closed)

    erased = {hour: revision for hour, revision in history.erased_hours().items() if hour not in kept}
    return History(tuple(entry for entry in history.sound_entries if tells(entry)), erased)


def followed(known: History, entry: Entry, rows_of: Callable[[Hour], Iterable[Entry]]) -> History:
    """`known` with a row that came since. Of an hour that was left out `rows_of` is asked for all that there is."""
    hour = entry.hour
    if hour is not None and entry.state in _OF_HOURS and not known.of_hour(hour):
        before = [row for row in rows_of(hour) if row.at < entry.at]
        erased = {each: revision for each, revision in known.erased_before.items() if each != hour}
        others = (row for row in known.entries if row.hour != hour)
        known = History(in_order([*others, *before]), erased)
    return known.followed_by([entry])


def encoded(known: Digest, mirrors: Iterable[str]) -> bytes | None:
    """A digest of these rows, which are `digest_rows`; None where they are too many to be one."""
    brief = digest_rows(known.history, mirrors, _BRIEF_HOURS)
    if not brief.entries or len(known.history.entries) > _MOST_ROWS:
        return None
    first = {id(entry) for entry in brief.entries}
    said = {
        "form": _FORM,
        "version": known.version,
        "checksum": known.checksum,
        "files": sorted(map(astuple, known.files)),
        "newest_at": known.newest_at.isoformat() if known.newest_at else None,
        "mirrors": sorted(mirrors),
        "properties": dict(known.properties),
        "columns": LEDGER.names,
        "erased": _packed(known.history.erased_hours()),
    }
    text = json.dumps(said)
    schema = LEDGER.with_metadata({"digest": text, "sha256": _sha256(text.encode())})
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for entries in (brief.entries, [entry for entry in known.history.entries if id(entry) not in first]):
            if entries:
                writer.write_table(rows_of(entries).replace_schema_metadata(schema.metadata))
    return bytes(buffer.getvalue().to_pybytes())


def decoded(content: bytes, mirrors: Iterable[str], newest: int, ledger: str) -> Digest | None:
    """The digest with the `newest` hours, 0 for the topic's state alone.

    None where it is none, or not as it was written, or was made for a topic with other mirrors, or does not go that far
    back.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        metadata = file.schema_arrow.metadata or {}
        text = metadata[b"digest"]
        said = json.loads(text)
        is_as_written = metadata.get(b"sha256") == _sha256(text).encode()
        if (
            not is_as_written
            or said["form"] != _FORM
            or not set(mirrors) <= set(said["mirrors"])
            or newest > SHOWN_HOURS
        ):
            return None
        groups = range(file.num_row_groups if newest > _BRIEF_HOURS else 1)
        rows = file.read_row_groups(groups, use_threads=False)  # some kilobytes: threads cost more than they gain
        rows = rows if rows.schema.equals(LEDGER) else rows.cast(LEDGER)
        history = _with_erased(in_order(entries_of(rows, ledger)), _unpacked(said["erased"]))
        files = tuple(LedgerFile(str(path), int(count), int(size)) for path, count, size in said["files"])
        properties = dict(said["properties"]) if said["columns"] == LEDGER.names else {}
        newest_at = datetime.fromisoformat(said["newest_at"]) if said["newest_at"] else None
        return Digest(int(said["version"]), files, history, newest_at, properties, said.get("checksum"))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _packed(revisions: Mapping[Hour, int]) -> str:
    """After the erasure of somebody who was there for years they are thousands, whose names are alike."""
    return base64.b64encode(zlib.compress(json.dumps(dict(revisions)).encode())).decode()


def _unpacked(text: str) -> dict[Hour, int]:
    return {str(hour): int(revision) for hour, revision in json.loads(zlib.decompress(base64.b64decode(text))).items()}


def _with_erased(entries: tuple[Entry, ...], erased: Mapping[Hour, int]) -> History:
    there = {entry.hour for entry in entries if entry.state == State.SEALED}
    return History(entries, {hour: revision for hour, revision in erased.items() if hour not in there})


def _kept_hours(history: History, mirrors: set[str], newest: int) -> set[Hour]:
    hours = history.hours()
    kept = set(sorted({*hours, *history.ranges()})[-newest:])
    finished = [hour for hour in hours if _is_finished(history, hour, mirrors)]
    return kept | (set(hours) - set(finished)) | set(finished[-1:]) | _closed_last(history)


def _is_finished(history: History, hour: Hour, mirrors: set[str]) -> bool:
    return history.is_cleared(hour) and mirrors <= history.targets_done(hour)


def _closed_last(history: History) -> set[Hour]:
    """The hours that closed with the newest one that did, in one commit."""
    closes = (entry for entry in reversed(history.sound_entries) if entry.state == State.CLOSED)
    version: object = None

    def is_of_newest(entry: Entry) -> bool:
        nonlocal version
        version = entry.details.get("bronze_version") if version is None else version
        return bool(entry.details.get("bronze_version") == version)

    return {str(entry.hour) for entry in takewhile(is_of_newest, closes)}


def _rare(history: History) -> Iterator[Entry]:
    """Of rows that are not of hours the newest of each state, with the first of the failures in a row that end in the
    newest; of those that say why a stage fails, the newest of each stage.
    """
    newest: dict[str, Entry] = {}
    for entry in history.sound_entries:
        if entry.state == State.STAGE_FAILED:
            newest[f"{entry.state} {entry.of(StageFailed).stage}"] = entry
        elif entry.state not in _OF_HOURS:
            newest[entry.state] = entry
    yield from newest.values()
    runs = [entry for entry in history.sound_entries if entry.state in _RUNS]
    yield from list(takewhile(lambda entry: entry.state == State.FAILED, reversed(runs)))[-1:]
