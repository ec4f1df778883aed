"""Folders of `gs://` by Google's own client: without Spark, and what GCS has is copied there, not through here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from lakehouse import failpoints
from lakehouse.hours import EPOCH
from lakehouse.mirrors.contract import Count
from lakehouse.mirrors.files import CHUNK_BYTES, SPREAD_FROM_BYTES, Copy, Found, count_of_file, in_parallel, sum_of
from lakehouse.mirrors.retention import refuse_retention
from lakehouse.store.contents import Contents, sha256_of
from lakehouse.store.delta import first_line
from lakehouse.store.files import GoogleStorage, google_client

if TYPE_CHECKING:
    from lakehouse.spark.session import SparkOrNone


class GoogleFiles:
    """The bucket of an address. Folders are parts of names: they are there as long as anything is in them.

    With `spark` its executors read or copy what is large and has to be read: ids to be counted, and a lake elsewhere.
    """

    renames_are_atomic = False

    def __init__(self, root: str, options: Mapping[str, str] | None = None, spark: SparkOrNone = None) -> None:
        """`options` are delta-rs' for the bucket. OSError when Google's client finds no account."""
        self._bucket = root.removeprefix("gs://").partition("/")[0]
        self._options, self._spark = options or {}, spark
        self._storage = GoogleStorage(f"gs://{self._bucket}", self._options)
        with _refusals():
            self._client = google_client(self._options)

    def listing(self, folder: str) -> dict[str, Found] | None:
        prefix = f"{self._name(folder)}/"
        with _refusals():
            listed = self._client.list_blobs(self._bucket, prefix=prefix, delimiter="/")
            found = {blob.name: Found(blob.size, blob.updated) for blob in listed}
        found |= {name.rstrip("/"): Found(0, EPOCH) for name in listed.prefixes}
        names = {name.removeprefix(prefix): status for name, status in found.items()}
        return {name: names[name] for name in names if name and not name.startswith(".")} if found else None

    def text(self, path: str) -> str | None:
        with _refusals():
            content = self._storage.read(self._name(path))
        return None if content is None else content.decode()

    def write(self, path: str, text: str) -> None:
        with _refusals():
            self._storage.write(self._name(path), text.encode())

    def make_folder(self, folder: str) -> None:
        """Nothing: see the class."""

    def copy(self, copies: Sequence[Copy]) -> None:
        with _refusals():
            if copies:
                refuse_retention(self._client, copies[0].target)
            are_objects = all(copy.source.uri.startswith("gs://") for copy in copies)
            is_large = sum(copy.size_bytes for copy in copies) >= SPREAD_FROM_BYTES
            if self._spark is not None and is_large and not are_objects:
                from lakehouse.mirrors.hadoop import copy_in_tasks

                copy_in_tasks(self._spark(), copies, self._options)
            else:
                in_parallel(self._copy, copies)

    def _copy(self, copy: Copy) -> None:
        if copy.source.uri.startswith("gs://"):
            rewrite(self._client, f"{copy.source.uri}/{copy.path}", copy.target)
        else:
            with copy.source.open(copy.path) as source, self._storage.create(self._name(copy.target)) as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
        failpoints.reach("mirror.half_copied")

    def settle(self, folder: str) -> None:
        """Nothing: an object is durable once it is there."""

    def rename(self, folder: str, to: str) -> None:
        """Object by object: first all copies, then what they were made of goes."""
        with _refusals():
            if self._listed(to, most=1):
                raise FileExistsError(f"{to} exists")
            names = self._listed(folder)
            if not names:
                raise FileNotFoundError(f"{folder} is not there")
            moved = {name: to + f"gs://{self._bucket}/{name}".removeprefix(folder) for name in names}
            in_parallel(lambda name: rewrite(self._client, f"gs://{self._bucket}/{name}", moved[name]), names)
            self._storage.delete(names)

    def remove(self, path: str) -> None:
        with _refusals():
            self._storage.delete([self._name(path), *self._listed(path)])

    def count(self, paths: Sequence[str]) -> Count:
        with _refusals():
            if self._spark is not None and self._size_bytes(paths) >= SPREAD_FROM_BYTES:
                from lakehouse.mirrors.hadoop import HadoopFiles

                return HadoopFiles(self._spark, f"gs://{self._bucket}").count(paths)
            return sum_of(in_parallel(self._count_of_file, paths))

    def _count_of_file(self, path: str) -> Count:
        with closing(self._storage.open(self._name(path))) as source:
            return count_of_file(source, path)

    def contents(self, paths: Sequence[str]) -> list[Contents]:
        """By the CRC32C that GCS keeps of each object."""
        with _refusals():
            kept = {address: blob.crc32c for address, blob in self._blobs_beside(paths)}
            return in_parallel(lambda path: self._contents_of_file(path, kept.get(path)), paths)

    def _contents_of_file(self, path: str, crc32c: str | None) -> Contents:
        return Contents(crc32c=crc32c) if crc32c else sha256_of(self._storage, self._name(path))

    def _size_bytes(self, paths: Sequence[str]) -> int:
        wanted = set(paths)
        return sum(blob.size for address, blob in self._blobs_beside(paths) if address in wanted)

    def _blobs_beside(self, paths: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """(address, object) of all that is in the folders of the paths."""
        for folder in sorted({path.rpartition("/")[0] for path in paths}):
            prefix = f"{self._name(folder)}/"
            for blob in self._client.list_blobs(self._bucket, prefix=prefix, delimiter="/"):
                yield f"gs://{self._bucket}/{blob.name}", blob

    def _listed(self, folder: str, most: int | None = None) -> list[str]:
        """Names of the objects below a folder."""
        listed = self._client.list_blobs(self._bucket, prefix=f"{self._name(folder)}/", max_results=most)
        return [blob.name for blob in listed]

    def _name(self, address: str) -> str:
        return address.removeprefix(f"gs://{self._bucket}/")


def rewrite(client: Any, source: str, target: str) -> None:
    """Copy one object to another address, by GCS itself; again and again, it is the same copy."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    original, copy = _blob(client, source), _blob(client, target)
    token, _, _ = copy.rewrite(original, retry=DEFAULT_RETRY)  # which by itself the client would not repeat
    while token is not None:  # large objects between locations take several calls
        token, _, _ = copy.rewrite(original, token=token, retry=DEFAULT_RETRY)


def _blob(client: Any, address: str) -> Any:
    bucket, _, name = address.removeprefix("gs://").partition("/")
    return client.bucket(bucket).blob(name)


@contextmanager
def _refusals() -> Iterator[None]:
    """What Google's client raises, as an OSError."""
    from google.api_core.exceptions import GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except NotFound as missing:
        raise FileNotFoundError(first_line(missing)) from missing
    except (GoogleAPIError, GoogleAuthError) as refused:
        raise OSError(first_line(refused)) from refused
