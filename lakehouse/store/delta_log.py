"""The entries of a Delta table's log as their files say: what each commit did, and what it declared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from lakehouse.hours import Hour
from lakehouse.store.files import Storage

_READERS = 16
LOG = "_delta_log"


@dataclass(frozen=True)
class Commit:
    """One entry. `added` and `removed` are (partition, path); `metadata` is our `userMetadata`, None without one.

    `declares` is the table's schema and properties where the commit sets them. `hidden` are files of which a deletion
    vector hides rows.
    """

    version: int
    operation: str
    metadata: Mapping[str, Any] | None
    added: tuple[tuple[Hour | None, str], ...]
    removed: tuple[tuple[Hour | None, str], ...]
    declares: Mapping[str, Any] | None = None
    protocol: Mapping[str, Any] | None = None
    hidden: tuple[tuple[Hour | None, str], ...] = ()

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
        schema = _parsed(str((self.declares or {}).get("schemaString", "")))
        fields = schema.get("fields")
        return {
            str(field.get("name")): field
            for field in (fields if isinstance(fields, list) else [])
            if isinstance(field, dict)
        }


def commits(storage: Storage, table: str) -> list[Commit]:
    """Every commit that the table's log still has a file of, oldest first. `table` is its folder in the storage."""
    names = [stored.path for stored in storage.listed(f"{table}/{LOG}")]
    versions = [int(stem) for name in names if name.endswith(".json") and (stem := _stem(name)).isdigit()]
    return commits_at(storage, table, versions)


def commits_at(storage: Storage, table: str, versions: Iterable[int]) -> list[Commit]:
    """The commits of these versions whose files are there."""
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(partial(_commit, storage, table), sorted(versions))
        return [commit for commit in found if commit is not None]


def _commit(storage: Storage, table: str, version: int) -> Commit | None:
    content = storage.read(f"{table}/{LOG}/{version:020d}.json")
    if content is None:
        return None
    actions = [action for line in content.decode(errors="replace").splitlines() if (action := _parsed(line))]
    info = _first(actions, "commitInfo") or {}
    adds = [action["add"] for action in actions if isinstance(action.get("add"), dict)]
    removes = [action["remove"] for action in actions if isinstance(action.get("remove"), dict)]
    return Commit(
        version=version,
        operation=str(info.get("operation", "a commit without a name")),
        metadata=_parsed(str(info.get("userMetadata", ""))) or None,
        added=tuple(map(_file, adds)),
        removed=tuple(map(_file, removes)),
        declares=_first(actions, "metaData"),
        protocol=_first(actions, "protocol"),
        hidden=tuple(_file(add) for add in adds if add.get("deletionVector")),
    )


def _file(action: Mapping[str, Any]) -> tuple[Hour | None, str]:
    values = action.get("partitionValues")
    hour = values.get("hour") if isinstance(values, dict) else None
    return hour if isinstance(hour, str) else None, str(action.get("path"))


def _first(actions: Iterable[Mapping[str, Any]], kind: str) -> dict[str, Any] | None:
    return next((action[kind] for action in actions if isinstance(action.get(kind), dict)), None)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _parsed(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
