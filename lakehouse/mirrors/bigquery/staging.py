"""Copies of an hour's files at an address that BigQuery can read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lakehouse.errors import MirrorError
from lakehouse.mirrors.contract import SealedHour
from lakehouse.mirrors.files import CHUNK_BYTES
from lakehouse.store.delta import DataFile
from lakehouse.store.place import Place


@contextmanager
def staged(hour: SealedHour, staging: str, mirror: str) -> Iterator[list[str]]:
    """The addresses of the hour's files: silver's own on GCS, else copies that are removed after the load."""
    if hour.silver.uri.startswith("gs://"):
        yield [f"{hour.silver.uri}/{file.path}" for file in hour.files]
        return
    if hour.files and not staging:
        raise MirrorError(
            f"mirror {mirror}: {hour.topic.name} {hour.hour}",
            found=f"a lake at {hour.silver.uri}",
            expected="one on gs://, which BigQuery can read",
            next_step=f"Give `staging` of mirrors.{mirror} a gs:// folder for copies.",
        )
    # Below the mirror's name: mirrors that share a staging folder would delete each other's files.
    folder = f"{mirror}/{hour.topic.name}/{hour.hour}-r{hour.revision}"
    parts = {f"{folder}/{number:05d}.parquet": file for number, file in enumerate(hour.files)}
    storage = Place(staging, hour.silver.options).files() if parts else None
    try:
        for path, file in parts.items():
            _stage(storage, path, hour, file)
        yield [f"{staging}/{path}" for path in parts]
    finally:
        if storage is not None:
            storage.delete(parts)


def _stage(storage: Any, path: str, hour: SealedHour, file: DataFile) -> None:
    with hour.silver.open(file.path) as source, storage.create(path) as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)
    storage.finish([path])
