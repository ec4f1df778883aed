"""A folder of the lake: its address, and what it takes to reach it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

from deltalake import DeltaTable

from lakehouse.store.delta import open_table, table_errors, table_exists
from lakehouse.store.files import Storage, storage_for


@dataclass(frozen=True)
class Place:
    """A folder at `uri`. Without tables it can be pickled; the options (they may hold secrets) are not shown."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    opened: MutableMapping[str, DeltaTable] | None = field(default=None, repr=False, compare=False)
    """Tables that are followed once they are opened, by address; without it each is opened again."""

    def below(self, name: str) -> Place:
        return replace(self, uri=f"{self.uri}/{name}")

    def files(self) -> Storage:
        """Its files; their paths are relative to it."""
        return storage_for(self.uri, self.options)

    def open(self, path: str) -> Any:
        """A binary file below it to read from, at any place; FileNotFoundError when there is none."""
        return self.files().open(path)

    def table(self, version: int | None = None) -> DeltaTable:
        """The Delta table here, as of `version` or now; LakeError when there is none or it cannot be read."""
        if version is not None or self.opened is None:
            return open_table(self.uri, self.options, version)
        known = self.opened.get(self.uri)
        if known is None:
            return self.opened.setdefault(self.uri, open_table(self.uri, self.options))
        with table_errors(self.uri):
            known.update_incremental()
        return known

    def has_table(self) -> bool:
        return table_exists(self.uri, self.options)
