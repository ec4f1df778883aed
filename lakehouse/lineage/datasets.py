"""Names of datasets as OpenLineage's naming specification has them: a namespace for the store, a name within it."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit


class DatasetName(NamedTuple):
    """A table, or a folder of files. Together both parts name it in all the world."""

    namespace: str
    name: str


def dataset_at(address: str) -> DatasetName:
    """What is at the address of a folder: of this machine, on `gs://` or on `hdfs://`.

    https://openlineage.io/docs/spec/naming: names on an object store have no slash before them, paths have.
    """
    if "://" not in address:
        return DatasetName("file", address)
    parts = urlsplit(address)
    if parts.scheme == "file":
        return DatasetName("file", parts.path)
    path = parts.path.strip("/") if parts.scheme == "gs" else parts.path.rstrip("/")
    return DatasetName(f"{parts.scheme}://{parts.netloc}", path)
