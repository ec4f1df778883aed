"""The entries of a Delta table's log as their files say: what each commit did, and what it declared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from lakehouse.hours import EPOCH, Hour
from lakehouse.store.files import Storage

_READERS = 16
LOG = "_delta_log"
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\..+)?\.(?:parquet|json)")
"""Whole, in parts, or with a UUID and sidecars, as the protocol has them."""


@dataclass(frozen=True)
class Commit:
    """One entry. `added` and `removed` are (partition, path); `metadata` is our `userMetadata`, None without one.

    `declares` is the table's schema and properties where the commit sets them. `hidden` are files of which a deletion
    vector hides rows. `committed_at` is what the committer's clock said, None where that is no time.
    """

    version: int
    operation: str
    metadata: Mapping[str, Any] | None
    added: tuple[tuple[Hour | None, str], ...]
    removed: tuple[tuple[Hour | None, str], ...]
    declares: Mapping[str, Any] | None = None
    protocol: Mapping[str, Any] | None = None
    hidden: tuple[tuple[Hour | None, str], ...] = ()
    committed_at: datetime | None = None

    @property
    def hours(self) -> set[Hour | None]:
        """Hours that it added files to or removed files from."""
        return {hour for hour, _ in (*self.added, *self.removed)}

    @property
    def drops_append_only(self) -> bool:
        return self.declares is not None and self.properties.get("delta.appendOnly") != "true"

    @property
    def properties(self) -> Mapping[str, Any]:
        found = (self.declares or {}).get("configuration")
        return found if isinstance(found, dict) else {}

    @property
    def columns(self) -> Mapping[str, Mapping[str, Any]]:
        """The fields of the schema that it declares, by name; empty where it declares none."""
        schema = _json_object(str((self.declares or {}).get("schemaString", "")))
        fields = schema.get("fields")
        return {
            str(field.get("name")): field
            for field in (fields if isinstance(fields, list) else [])
            if isinstance(field, dict)
        }


def commits(storage: Storage, table: str) -> list[Commit]:
    """Every commit that the table's log still has a file of, oldest first. `table` is its folder in the storage."""
    names = [stored.path for stored in storage.listing(f"{table}/{LOG}")]
    versions = [int(stem) for name in names if name.endswith(".json") and (stem := _stem(name)).isdigit()]
    return commits_at(storage, table, versions)


def commits_at(storage: Storage, table: str, versions: Iterable[int]) -> list[Commit]:
    """The commits of these versions whose files are there."""
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(partial(_commit, storage, table), sorted(versions))
        return [commit for commit in found if commit is not None]


@dataclass(frozen=True)
class Hidden:
    """A file of which a deletion vector hides rows, by the newest checkpoint, which is of `version`."""

    version: int
    hour: Hour | None
    path: str


def hidden_in_checkpoint(storage: Storage, table: str) -> list[Hidden]:
    """What the newest checkpoint says is hidden: the commit that hid it may be cleaned away.

    pa.ArrowInvalid or OSError when the checkpoint is damaged.
    """
    names = [stored.path.rpartition("/")[2] for stored in storage.listing(f"{table}/{LOG}")]
    found = [(int(match[1]), name) for name in names if (match := _CHECKPOINT.fullmatch(name))]
    if not found:
        return []
    newest, _ = max(found)
    return [
        Hidden(newest, *_file(action["add"]))
        for version, name in found
        if version == newest
        for action in _checkpoint_actions(storage, f"{table}/{LOG}", name)
        if isinstance(action.get("add"), dict) and action["add"].get("deletionVector")
    ]


def _checkpoint_actions(storage: Storage, log: str, name: str) -> Iterator[dict[str, Any]]:
    """The actions of one file of a checkpoint that add files, those of its sidecars included."""
    if name.endswith(".json"):
        lines = (storage.read(f"{log}/{name}") or b"").decode(errors="replace").splitlines()
        actions = [_json_object(line) for line in lines]
    else:
        with storage.open(f"{log}/{name}") as source, pq.ParquetFile(source) as file:
            wanted = {"add", "sidecar"} & set(file.schema_arrow.names)
            actions = [row for batch in file.iter_batches(columns=sorted(wanted)) for row in batch.to_pylist()]
    for action in actions:
        yield action
        if isinstance(action.get("sidecar"), dict):
            yield from _checkpoint_actions(storage, log, f"_sidecars/{action['sidecar'].get('path')}")


def _commit(storage: Storage, table: str, version: int) -> Commit | None:
    content = storage.read(f"{table}/{LOG}/{version:020d}.json")
    if content is None:
        return None
    actions = [action for line in content.decode(errors="replace").splitlines() if (action := _json_object(line))]
    info = _first(actions, "commitInfo") or {}
    adds = [action["add"] for action in actions if isinstance(action.get("add"), dict)]
    removes = [action["remove"] for action in actions if isinstance(action.get("remove"), dict)]
    return Commit(
        version=version,
        operation=str(info.get("operation", "a commit without a name")),
        metadata=_json_object(str(info.get("userMetadata", ""))) or None,
        added=tuple(map(_file, adds)),
        removed=tuple(map(_file, removes)),
        declares=_first(actions, "metaData"),
        protocol=_first(actions, "protocol"),
        hidden=tuple(_file(add) for add in adds if add.get("deletionVector")),
        committed_at=_instant(info.get("timestamp")),
    )


def _instant(millis: Any) -> datetime | None:
    try:
        return EPOCH + timedelta(milliseconds=millis)
    except (TypeError, OverflowError):
        return None


def _file(action: Mapping[str, Any]) -> tuple[Hour | None, str]:
    values = action.get("partitionValues") or {}
    hour = dict(values).get("hour") if isinstance(values, dict | list) else None  # Arrow has maps as pairs
    return hour if isinstance(hour, str) else None, str(action.get("path"))


def _first(actions: Iterable[Mapping[str, Any]], kind: str) -> dict[str, Any] | None:
    return next((action[kind] for action in actions if isinstance(action.get(kind), dict)), None)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _json_object(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
