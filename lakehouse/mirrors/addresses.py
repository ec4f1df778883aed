"""Which file system an address is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from lakehouse.errors import MirrorError
from lakehouse.keys import key
from lakehouse.mirrors.files import Files, LocalFiles
from lakehouse.store.delta import first_line

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

StorageOptions = Annotated[
    dict[str, str] | None,
    key(
        None,
        unit="delta-rs' options",
        doc="How `path` is reached, where the lake's own options do not serve: in another account than the lake.",
    ),
]
"""A key of every target whose `path` can be an address."""


def files_at(
    path: str, mirror: str, spark: SparkSession | None, target_options: Mapping[str, str] | None = None
) -> Files:
    """The file system of an address; MirrorError when nothing here reaches it."""
    if "://" not in path:
        return LocalFiles()
    if spark is None:
        raise MirrorError(
            f"mirror {mirror}",
            found=f"no Spark session for {path}",
            expected="a Spark session, whose Hadoop reaches that address",
            next_step="Run the mirror stage as a Spark job.",
        )
    from lakehouse.mirrors.hadoop import GoogleFiles, HadoopFiles

    kind = GoogleFiles if path.startswith("gs://") else HadoopFiles
    try:
        return kind(spark, path, target_options)
    except OSError as refused:
        raise MirrorError(
            f"mirror {mirror}",
            found=first_line(refused),
            expected=f"{path} to answer",
            next_step="Check the address, the server and the connector's jar.",
        ) from refused
