"""Which file system an address is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from lakehouse.errors import MirrorError
from lakehouse.keys import key
from lakehouse.mirrors.files import Files, LocalFiles
from lakehouse.store.delta import first_line

if TYPE_CHECKING:
    from lakehouse.spark.session import SparkOrNone

StorageOptions = Annotated[
    dict[str, str] | None,
    key(
        None,
        unit="delta-rs' options",
        doc="How `path` is reached, where the lake's own options do not serve: in another account than the lake.",
    ),
]
"""A key of every target whose `path` can be an address."""


def files_at(path: str, mirror: str, spark: SparkOrNone, target_options: Mapping[str, str] | None = None) -> Files:
    """The file system of an address; MirrorError when nothing here reaches it."""
    if "://" not in path:
        return LocalFiles()
    if path.startswith("gs://"):
        return _google_files(path, mirror, spark, target_options)
    if spark is None:
        raise MirrorError(
            f"mirror {mirror}",
            found=f"no Spark session for {path}",
            expected="a Spark session, whose Hadoop reaches that address",
            next_step="Run the mirror stage as a Spark job.",
        )
    from lakehouse.mirrors.hadoop import HadoopFiles

    with _as_mirror_error(path, mirror, "Check the address, the server and the connector's jar."):
        return HadoopFiles(spark, path, target_options)


def _google_files(path: str, mirror: str, spark: SparkOrNone, target_options: Mapping[str, str] | None) -> Files:
    """By Google's client; by Hadoop's connector where that alone has an account."""
    from lakehouse.mirrors.google import GoogleFiles

    with _as_mirror_error(path, mirror, "Check the address and the account (`gcloud auth application-default login`)."):
        try:
            return GoogleFiles(path, target_options, spark)
        except OSError:
            if spark is None:
                raise
        from lakehouse.mirrors.hadoop import HadoopFiles

        return HadoopFiles(spark, path, target_options)


@contextmanager
def _as_mirror_error(path: str, mirror: str, next_step: str) -> Iterator[None]:
    try:
        yield
    except OSError as refused:
        raise MirrorError(
            f"mirror {mirror}", found=first_line(refused), expected=f"{path} to answer", next_step=next_step
        ) from refused
