"""Which kinds of mirror there are, and the one that the configuration calls by a name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from lakehouse.config import Config, Settings, config_error, folder_of
from lakehouse.errors import EXTRAS, ConfigError, LakehouseError, require
from lakehouse.keys import Frozen
from lakehouse.mirrors.contract import Mirror
from lakehouse.mirrors.limits import Neighbour
from lakehouse.mirrors.places import Places, places_of, places_of_lake
from lakehouse.topics import Topic

if TYPE_CHECKING:
    from lakehouse.spark.session import SparkOrNone

KINDS = {
    "bigquery": "lakehouse.mirrors.bigquery.mirror:BigQueryMirror",
    "duckdb": "lakehouse.mirrors.duckdb:DuckDBMirror",
    "folder": "lakehouse.mirrors.folder:FolderMirror",
    "hive": "lakehouse.mirrors.hive:HiveMirror",
}
"""Kind to class. A target's client library is imported only when the target is used."""


_NAME = re.compile(r"\w[\w. -]*")


class MirrorKind(Protocol):
    """A class of mirrors with the keys of its configuration."""

    Options: type[Frozen]

    def objections(self, topic: Topic, options: Any, neighbours: Sequence[Neighbour]) -> list[str]: ...

    def objections_to_lake(self, options: Any, sealed_root: str) -> list[str]: ...

    def warnings(self, topic: Topic, options: Any) -> list[str]: ...

    def type_name(self, kind: pa.DataType) -> str: ...

    def from_config(self, name: str, options: Any, spark: SparkOrNone) -> Mirror: ...


ReadOptions = Callable[[MirrorKind, str, dict[str, Any], Path], Frozen]


def mirror_named(name: str, settings: Settings, config_path: Path, spark: SparkOrNone) -> Mirror:
    """The mirror that `mirrors.<name>` of the configuration describes; ConfigError when it cannot be one.

    Its address is reached as the lake is, where it does not say otherwise.
    """
    values = _values(name, settings, config_path)
    kind = _kind(name, values, config_path)
    options = read_options(kind, name, values, config_path)
    if "storage_options" in kind.Options.model_fields and options.storage_options is None:  # type: ignore[attr-defined]
        options = options.model_copy(update={"storage_options": settings.storage_options})
    return kind.from_config(name, options, spark)


class Checks:
    """What each mirror can take of each topic, by the configuration alone; no target is asked, and each only once."""

    def __init__(self, config: Config, options_of: ReadOptions | None = None) -> None:
        self._config = config
        self._read = options_of or read_options
        self._options: dict[str, Frozen] = {}
        self._warnings: dict[tuple[str, str], list[str]] = {}
        self._neighbours: dict[str, list[Neighbour]] = {}

    def check(self, name: str, topic: Topic) -> list[str]:
        """What may keep single hours of the topic out of the mirror.

        ConfigError when the mirror's configuration cannot be used, or the mirror can never take the topic.
        """
        if (name, topic.name) not in self._warnings:
            self._warnings[name, topic.name] = self._complaints(name, topic)
        return self._warnings[name, topic.name]

    def _complaints(self, name: str, topic: Topic) -> list[str]:
        config = self._config
        kind_name = str(_values(name, config.settings, config.path).get("kind"))
        options = self._options_of(name)
        kind = class_of(kind_name)
        others = [each for each in self._all_of(kind_name) if (each.topic.name, each.mirror) != (topic.name, name)]
        objections = kind.objections(topic, options, others)
        objections += kind.objections_to_lake(options, config.settings.sealed_root)
        objections += self._shared_places(name, topic, options) if not objections else []
        if objections:
            raise ConfigError(
                f"{folder_of(config.path, config.settings.topics) / topic.name}.yaml: mirrors: {name}",
                found="; ".join(objections),
                expected=f"what a mirror of kind {kind_name} takes",
                next_step="See What each target takes in the manual; rename it, or take the mirror out of the topic.",
            )
        return [f"{name}: {warning}" for warning in kind.warnings(topic, options)]

    def _shared_places(self, name: str, topic: Topic, options: Frozen) -> list[str]:
        """Of mirrors of any kind, and of the lake itself, in whatever spelling."""
        return [each for place in places_of(topic, name, options) for each in self._places.objections(place)]

    @cached_property
    def _places(self) -> Places:
        mirrors = [each for kind in KINDS for each in self._all_of(kind)]
        taken = [place for each in mirrors for place in places_of(each.topic, each.mirror, each.options)]
        return Places([*taken, *places_of_lake(list(self._config.topics.values()), self._config.settings)])

    def _all_of(self, kind_name: str) -> list[Neighbour]:
        """Every topic that a mirror of the kind holds; what cannot be read has no say."""
        if kind_name not in self._neighbours:
            found: list[Neighbour] = []
            for topic in self._config.topics.values():
                for mirror in topic.mirrors:
                    if self._config.settings.mirrors.get(mirror, {}).get("kind") == kind_name:
                        with suppress(LakehouseError):
                            found.append(Neighbour(topic, mirror, self._options_of(mirror)))
            self._neighbours[kind_name] = found
        return self._neighbours[kind_name]

    def _options_of(self, name: str) -> Frozen:
        if name not in self._options:
            values = _values(name, self._config.settings, self._config.path)
            kind = _kind(name, values, self._config.path)
            self._options[name] = self._read(kind, name, values, self._config.path)
        return self._options[name]


def _values(name: str, settings: Settings, config_path: Path) -> dict[str, Any]:
    values = settings.mirrors.get(name)
    if values is None:
        raise ConfigError(
            f"{config_path}: mirrors.{name}",
            found="no such mirror",
            expected="one of " + (", ".join(settings.mirrors) or "(there are none)"),
            next_step="Check the spelling, or define it there.",
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{config_path}: mirrors",
            found=f"the name {name!r}",
            expected="letters, digits, _, -, . and blanks, the first of them a letter, a digit or _: folders have it",
            next_step="Rename it there and in the topics that have it; hours go to the new name again.",
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


def read_options(kind: MirrorKind, name: str, values: dict[str, Any], config_path: Path) -> Frozen:
    """Validated as nested as it is in the file, so that an error names the whole key."""
    nested: TypeAdapter[dict[str, dict[str, Frozen]]] = TypeAdapter(dict[str, dict[str, kind.Options]])  # type: ignore[name-defined]
    try:
        return nested.validate_python({"mirrors": {name: values}})["mirrors"][name]
    except ValidationError as error:
        raise config_error(config_path, error) from None
