"""Which kinds of mirror there are, and the one that the configuration calls by a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from lakehouse.config import Config, Settings, config_error
from lakehouse.errors import EXTRAS, ConfigError, require
from lakehouse.mirrors.contract import Mirror
from lakehouse.mirrors.limits import Neighbour
from lakehouse.topics import Frozen, Topic

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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

    def objections(self, topic: Topic, options: Any, neighbours: Sequence[Neighbour]) -> list[str]: ...

    def warnings(self, topic: Topic, options: Any) -> list[str]: ...

    def type_name(self, kind: pa.DataType) -> str: ...

    def from_config(self, name: str, options: Any, spark: SparkSession | None) -> Mirror: ...


def mirror_named(name: str, settings: Settings, config_path: Path, spark: SparkSession | None) -> Mirror:
    """The mirror that `mirrors.<name>` of the configuration describes; ConfigError when it cannot be one."""
    values = _values(name, settings, config_path)
    kind = _kind(name, values, config_path)
    return kind.from_config(name, _options(kind, name, values, config_path), spark)


def check(name: str, topic: Topic, config: Config) -> list[str]:
    """What may keep single hours of the topic out of the mirror; no target is asked.

    ConfigError when the mirror's configuration cannot be used, or the mirror can never take the topic.
    """
    values = _values(name, config.settings, config.path)
    kind = _kind(name, values, config.path)
    options = _options(kind, name, values, config.path)
    neighbours = list(_neighbours(name, topic, values["kind"], kind, config))
    objections = kind.objections(topic, options, neighbours)
    if objections:
        raise ConfigError(
            f"{config.path.parent / config.settings.topics / topic.name}.yaml: mirrors: {name}",
            found="; ".join(objections),
            expected=f"what a mirror of kind {values['kind']} takes",
            next_step="See What each target takes in the manual; rename it, or take the mirror out of the topic.",
        )
    return [f"{name}: {warning}" for warning in kind.warnings(topic, options)]


def _neighbours(name: str, topic: Topic, kind_name: str, kind: MirrorKind, config: Config) -> Iterator[Neighbour]:
    """What other mirrors of the kind hold, and what else this one does; those that cannot be read have no say."""
    for other in config.topics.values():
        for mirror in other.mirrors:
            values = config.settings.mirrors.get(mirror, {})
            if (other.name, mirror) != (topic.name, name) and values.get("kind") == kind_name:
                with suppress(ConfigError):
                    yield Neighbour(other, mirror, _options(kind, mirror, values, config.path))


def _values(name: str, settings: Settings, config_path: Path) -> dict[str, Any]:
    values = settings.mirrors.get(name)
    if values is None:
        raise ConfigError(
            f"{config_path}: mirrors.{name}",
            found="no such mirror",
            expected="one of " + (", ".join(settings.mirrors) or "(there are none)"),
            next_step="Check the spelling, or define it there.",
        )
    return values


def _kind(name: str, values: dict[str, Any], config_path: Path) -> MirrorKind:
    found = values.get("kind")
    if not isinstance(found, str) or found not in KINDS:
        raise ConfigError(
            f"{config_path}: mirrors.{name}.kind",
            found="nothing" if found is None else repr(found),
            expected="one of " + ", ".join(sorted(KINDS)),
            next_step="Fix that key.",
        )
    if found in EXTRAS:
        _, packages = EXTRAS[found]
        require(*packages)
    return class_of(found)


def class_of(kind: str) -> MirrorKind:
    module, _, attribute = KINDS[kind].partition(":")
    found: MirrorKind = getattr(import_module(module), attribute)
    return found


def _options(kind: MirrorKind, name: str, values: dict[str, Any], config_path: Path) -> Frozen:
    """Validated as nested as it is in the file, so that an error names the whole key."""
    nested: TypeAdapter[dict[str, dict[str, Frozen]]] = TypeAdapter(dict[str, dict[str, kind.Options]])  # type: ignore[name-defined]
    try:
        return nested.validate_python({"mirrors": {name: values}})["mirrors"][name]
    except ValidationError as error:
        raise config_error(config_path, error) from None
