"""Which kinds of mirror there are, and the one that the configuration calls by a name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError
from pyspark.sql import SparkSession

from lakehouse.config import Settings, config_error
from lakehouse.errors import ConfigError
from lakehouse.mirrors.contract import Mirror
from lakehouse.topics import Frozen

KINDS = {
    "bigquery": "lakehouse.mirrors.bigquery.mirror:BigQueryMirror",
    "duckdb": "lakehouse.mirrors.duckdb:DuckDBMirror",
    "folder": "lakehouse.mirrors.folder:FolderMirror",
    "hive": "lakehouse.mirrors.hive:HiveMirror",
}
"""Kind to class. A target's client library is imported only when the target is used."""


class MirrorKind(Protocol):
    """A class of mirrors with the keys of its configuration."""

    Options: type[Frozen]

    def opened(self, name: str, options: Any, spark: SparkSession | None) -> Mirror: ...


def mirror_named(name: str, settings: Settings, config_path: Path, spark: SparkSession | None) -> Mirror:
    """The mirror that `mirrors.<name>` of the configuration describes; ConfigError when it cannot be one."""
    values = settings.mirrors.get(name)
    if values is None:
        raise ConfigError(
            f"{config_path}: mirrors.{name}",
            found="no such mirror",
            expected="one of " + (", ".join(settings.mirrors) or "(there are none)"),
            next_step="Check the spelling, or define it there.",
        )
    kind = _kind(name, values, config_path)
    return kind.opened(name, _options(kind, name, values, config_path), spark)


def check(name: str, settings: Settings, config_path: Path) -> None:
    """ConfigError when what the configuration says of the mirror cannot be used; nothing is opened."""
    values = settings.mirrors[name]
    _options(_kind(name, values, config_path), name, values, config_path)


def _kind(name: str, values: dict[str, Any], config_path: Path) -> MirrorKind:
    found = values.get("kind")
    if not isinstance(found, str) or found not in KINDS:
        raise ConfigError(
            f"{config_path}: mirrors.{name}.kind",
            found="nothing" if found is None else repr(found),
            expected="one of " + ", ".join(sorted(KINDS)),
            next_step="Mend that key.",
        )
    module, _, attribute = KINDS[found].partition(":")
    kind: MirrorKind = getattr(import_module(module), attribute)
    return kind


def _options(kind: MirrorKind, name: str, values: dict[str, Any], config_path: Path) -> Frozen:
    """Validated as nested as it stands in the file, so that an error names the whole key."""
    nested: TypeAdapter[dict[str, dict[str, Frozen]]] = TypeAdapter(dict[str, dict[str, kind.Options]])  # type: ignore[name-defined]
    try:
        return nested.validate_python({"mirrors": {name: values}})["mirrors"][name]
    except ValidationError as error:
        raise config_error(config_path, error) from None
