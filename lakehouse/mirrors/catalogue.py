"""Which kinds of mirror there are, and the one that the configuration calls by a name."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter, ValidationError

from lakehouse.config import Settings, config_error
from lakehouse.errors import ConfigError, MirrorError
from lakehouse.mirrors.contract import Mirror
from lakehouse.topics import Frozen

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KINDS = {
    "bigquery": "lakehouse.mirrors.bigquery.mirror:BigQueryMirror",
    "duckdb": "lakehouse.mirrors.duckdb:DuckDBMirror",
    "folder": "lakehouse.mirrors.folder:FolderMirror",
    "hive": "lakehouse.mirrors.hive:HiveMirror",
}
"""Kind to class. A target's client library is imported only when the target is used."""

PACKAGES = {"bigquery": ("google.cloud.bigquery",), "hive": ("puresasl", "pyhive", "thrift", "thrift_sasl")}
"""What a kind needs of the extra that is named as the kind."""


class MirrorKind(Protocol):
    """A class of mirrors with the keys of its configuration."""

    Options: type[Frozen]

    def from_config(self, name: str, options: Any, spark: SparkSession | None) -> Mirror: ...


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
    return kind.from_config(name, _options(kind, name, values, config_path), spark)


def check(name: str, settings: Settings, config_path: Path) -> None:
    """ConfigError when the configuration of the mirror cannot be used; no target is asked."""
    values = settings.mirrors[name]
    _options(_kind(name, values, config_path), name, values, config_path)


def _kind(name: str, values: dict[str, Any], config_path: Path) -> MirrorKind:
    found = values.get("kind")
    if not isinstance(found, str) or found not in KINDS:
        raise ConfigError(
            f"{config_path}: mirrors.{name}.kind",
            found="nothing" if found is None else repr(found),
            expected="one of " + ", ".join(sorted(KINDS)),
            next_step="Fix that key.",
        )
    _require_extra(found, name)
    return class_of(found)


def class_of(kind: str) -> MirrorKind:
    module, _, attribute = KINDS[kind].partition(":")
    found: MirrorKind = getattr(import_module(module), attribute)
    return found


def _require_extra(kind: str, name: str) -> None:
    """MirrorError when a package is missing that the kind's extra installs."""
    for package in PACKAGES.get(kind, ()):
        try:
            is_there = find_spec(package) is not None
        except ModuleNotFoundError:  # the package that it is in
            is_there = False
        if not is_there:
            raise MirrorError(
                f"mirror {name}",
                found=f"no Python package {package}",
                expected=f"the extra for mirrors of kind {kind}",
                next_step=f"Install it: pip install 'lakehouse[{kind}]'.",
            )


def _options(kind: MirrorKind, name: str, values: dict[str, Any], config_path: Path) -> Frozen:
    """Validated as nested as it is in the file, so that an error names the whole key."""
    nested: TypeAdapter[dict[str, dict[str, Frozen]]] = TypeAdapter(dict[str, dict[str, kind.Options]])  # type: ignore[name-defined]
    try:
        return nested.validate_python({"mirrors": {name: values}})["mirrors"][name]
    except ValidationError as error:
        raise config_error(config_path, error) from None
