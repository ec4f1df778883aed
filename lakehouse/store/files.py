"""One small port to where files are: the local file system or `gs://`.

Paths are relative to the storage's root. What is written is durable when the call returns.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from lakehouse.errors import ConfigError, UnknownOutcomeError
from lakehouse.store.google_reads import PlainReads, crc32c_of

Item = TypeVar("Item")

_PARALLEL = 16
_CONNECTIONS = 64
_PROXIES = {"http_proxy", "https_proxy", "all_proxy"}

_LISTED = "items(name,size,updated,generation,crc32c,temporaryHold),nextPageToken"
"""What is asked of each object of a listing on GCS."""

_SMALL_BYTES = 4 * 1024 * 1024
"""Below it a file on GCS is read and written whole, in one request."""


@dataclass(frozen=True)
class Stored:
    """A file that is there; one that is written there later has another `version`.

    `crc32c` is the store's own checksum of its bytes, in base64; empty where the store keeps none.
    """

    path: str
    size_bytes: int
    modified_at: datetime
    version: str = ""
    crc32c: str = ""


class Storage(Protocol):
    """Files below one root. Paths are relative to it, with `/` between their parts.

    OSError or Google's own errors when the store does not answer; UnknownOutcomeError only where it is said.
    """

    has_clock: bool
    """Whether the times of files are by a clock of the store's own, not by this machine's."""

    def create(self, path: str) -> Any:
        """A binary file to write to; complete and durable once `finish` was called with its path."""

    def finish(self, paths: Iterable[str]) -> None:
        """Make created files durable, whose streams are closed, with the folders that they are in."""

    def open(self, path: str) -> Any:
        """A binary file to read from, at any place."""

    def address(self, path: str) -> str:
        """The path with all before it, for people."""

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Whether this call wrote the file; False when one is there. UnknownOutcomeError when no answer came."""

    def write(self, path: str, content: bytes) -> None:
        """Write or replace, all or nothing to a reader."""

    def read(self, path: str) -> bytes | None:
        """All of a file; None when it is not there."""

    def listing(self, folder: str, since: str = "") -> list[Stored]:
        """Every file below the folder, ordered by path; none when there is no such folder.

        `since`: only those whose path below the folder does not sort before it.
        """

    def walk(self, folder: str, since: str = "", before: str = "") -> Iterator[Stored]:
        """As `listing`, page by page as it is asked for; `before`: only what sorts before it, all where it is empty."""

    def delete(self, paths: Iterable[str]) -> None:
        """Remove files; one that is not there is no error."""

    def delete_as_listed(self, listed: Iterable[Stored]) -> None:
        """Remove files, but for those whose place another has taken since they were listed."""

    def move(self, folder: str, to: str) -> None:
        """All of a folder to another name; a crash can leave some of it in both places where a store has no rename."""


def storage_for(root: str, options: Mapping[str, str] | None = None) -> Storage:
    """The storage that `root` addresses. `options` are those of delta-rs, so that a lake has one set of them.

    An address may be as delta-rs gives it, with what is odd in it quoted; those of the configuration have no `%`.
    """
    scheme = urlsplit(root).scheme
    if scheme in ("", "file"):
        return LocalStorage(unquote(urlsplit(root).path) if scheme else root)
    if scheme == "gs":
        return GoogleStorage(unquote(root), options or {})
    raise ConfigError(
        root, found=f"the scheme {scheme}://", expected="a local folder or gs://", next_step="Fix raw_root."
    )


class Readable(Protocol):
    """The part of a storage that readers need."""

    def open(self, path: str) -> Any: ...

    def address(self, path: str) -> str: ...


class LocalStorage:
    """A folder of the file system. What is written is synced, with its folder, before the call returns."""

    has_clock = False

    def __init__(self, root: str) -> None:
        self._root = root

    def create(self, path: str) -> Any:
        target = self._at(path)
        _make_folder(os.path.dirname(target))
        return fs.LocalFileSystem().open_output_stream(target)

    def open(self, path: str) -> Any:
        return fs.LocalFileSystem().open_input_file(self._at(path))

    def address(self, path: str) -> str:
        return self._at(path)

    def finish(self, paths: Iterable[str]) -> None:
        targets = [self._at(path) for path in paths]
        for target in [*targets, *sorted({os.path.dirname(target) for target in targets})]:
            sync(target)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        temporary = self._write_aside(path, content)
        try:
            os.link(temporary, self._at(path))
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        sync(os.path.dirname(self._at(path)))
        return True

    def write(self, path: str, content: bytes) -> None:
        os.replace(self._write_aside(path, content), self._at(path))
        sync(os.path.dirname(self._at(path)))

    def read(self, path: str) -> bytes | None:
        try:
            with open(self._at(path), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def listing(self, folder: str, since: str = "") -> list[Stored]:
        found = []
        for parent, _, names in os.walk(self._at(folder)):
            for name in names:
                if os.path.relpath(os.path.join(parent, name), self._at(folder)) < since:
                    continue
                try:
                    status = os.stat(os.path.join(parent, name))
                except FileNotFoundError:
                    continue
                path = os.path.relpath(os.path.join(parent, name), self._root)
                modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
                found.append(Stored(path, status.st_size, modified_at, _version(status)))
        return sorted(found, key=lambda stored: stored.path)

    def walk(self, folder: str, since: str = "", before: str = "") -> Iterator[Stored]:
        for stored in self.listing(folder, since):
            if not before or os.path.relpath(self._at(stored.path), self._at(folder)) < before:
                yield stored

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            try:
                os.unlink(self._at(path))
            except FileNotFoundError:
                continue

    def delete_as_listed(self, listed: Iterable[Stored]) -> None:
        """Under the folder's lock, so that nobody else who deletes in this way comes between look and removal."""
        for stored in listed:
            path = self._at(stored.path)
            with suppress(FileNotFoundError), _lock(os.path.dirname(path)):
                if _version(os.stat(path)) == stored.version:
                    os.unlink(path)

    def move(self, folder: str, to: str) -> None:
        os.rename(self._at(folder), self._at(to))
        sync(os.path.dirname(self._at(to)))

    def _write_aside(self, path: str, content: bytes) -> str:
        target = self._at(path)
        _make_folder(os.path.dirname(target))
        temporary = f"{os.path.dirname(target)}/.{os.path.basename(target)}.{uuid.uuid4().hex}"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # each try has a name of its own: a full disk would fill up with them
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return temporary

    def _at(self, path: str) -> str:
        return os.path.join(self._root, path)


def _make_folder(path: str) -> None:
    """With all above it; durable, as the files in it are no more than the folder is."""
    if not os.path.isdir(path):
        parent = os.path.dirname(path) or "."
        _make_folder(parent)
        os.makedirs(path, exist_ok=True)
        sync(parent)


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}"


@contextmanager
def _lock(folder: str) -> Iterator[None]:
    """Until it is closed, the folder's lock is ours among all processes of this machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync(path: str) -> None:
    """OSError when the disk does not take it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class GoogleStorage:
    """`gs://bucket/prefix`. Objects are durable when their upload ends; `put_if_absent` is Google's precondition."""

    has_clock = True

    def __init__(self, root: str, options: Mapping[str, str]) -> None:
        address = urlsplit(root)
        self._bucket_name, self._prefix = address.netloc, address.path.strip("/")
        self._options = dict(options)

    def create(self, path: str) -> Any:
        return _Upload(self.blob(path), lambda: self._files().open_output_stream(self._in_bucket(path)))

    def open(self, path: str) -> Any:
        """A small file comes whole, in one request."""
        first = self._content(path, _SMALL_BYTES)
        if len(first) < _SMALL_BYTES:
            return pa.BufferReader(first)
        return self._files().open_input_file(self._in_bucket(path))

    def address(self, path: str) -> str:
        return f"gs://{self._bucket_name}/{self._at(path)}"

    def finish(self, paths: Iterable[str]) -> None:
        """Nothing: closing the stream ended the upload."""

    def put_if_absent(self, path: str, content: bytes) -> bool:
        from google.api_core.exceptions import PreconditionFailed, RetryError, ServerError

        try:
            self._bucket().blob(self._at(path)).upload_from_string(content, if_generation_match=0)
        except PreconditionFailed:
            return False
        except (RetryError, ServerError, OSError) as silence:
            raise UnknownOutcomeError(
                path,
                found=str(silence),
                expected="an answer",
                next_step="Read the file to see which attempt wrote it.",
            ) from silence
        return True

    def write(self, path: str, content: bytes) -> None:
        self._bucket().blob(self._at(path)).upload_from_string(content)

    def read(self, path: str) -> bytes | None:
        try:
            return self._content(path)
        except FileNotFoundError:
            return None

    def _content(self, path: str, most_bytes: int | None = None) -> bytes:
        """All of a file, or its first bytes; FileNotFoundError when it is not there."""
        from google.api_core.exceptions import NotFound, RequestRangeNotSatisfiable

        content = self._client().reads.content(self._bucket_name, self._at(path), most_bytes)
        if content is not None:
            return content
        part = {} if most_bytes is None else {"start": 0, "end": most_bytes - 1, "checksum": None}
        blob = self.blob(path)
        try:
            content = bytes(blob.download_as_bytes(**part))
            if len(content) < (most_bytes or 0) and blob.crc32c not in (None, crc32c_of(content)):
                return bytes(blob.download_as_bytes())  # all of it, which the client itself compares
            return content
        except NotFound as missing:
            raise FileNotFoundError(self.address(path)) from missing
        except RequestRangeNotSatisfiable:  # it is empty
            return b""

    def listing(self, folder: str, since: str = "") -> list[Stored]:
        return sorted(self.walk(folder, since), key=lambda stored: stored.path)

    def walk(self, folder: str, since: str = "", before: str = "") -> Iterator[Stored]:
        for path, blob in self.blobs(folder, since, before):
            # The client's own reading of an instant takes more than all else of an object that is listed.
            updated = datetime.fromisoformat(blob._properties["updated"])
            yield Stored(path, blob.size, updated, str(blob.generation), blob.crc32c or "")

    def delete(self, paths: Iterable[str]) -> None:
        _side_by_side(self._delete, paths)

    def delete_as_listed(self, listed: Iterable[Stored]) -> None:
        """By Google's precondition, so that a request that is sent again does no harm either."""
        _side_by_side(self._delete_as_listed, listed)

    def _delete_as_listed(self, stored: Stored) -> None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with suppress(NotFound, PreconditionFailed):
            self.blob(stored.path).delete(if_generation_match=int(stored.version))

    def move(self, folder: str, to: str) -> None:
        from google.cloud.storage.retry import DEFAULT_RETRY

        bucket, moved = self._bucket(), list(self.blobs(folder))
        for path, blob in moved:  # again and again the same copy, which the client by itself would not repeat
            name, generation = self._at(to + path.removeprefix(folder)), blob.generation
            bucket.copy_blob(blob, bucket, name, if_source_generation_match=generation, retry=DEFAULT_RETRY)
        self.delete(path for path, _ in moved)

    def _delete(self, path: str) -> None:
        from google.api_core.exceptions import NotFound

        try:
            self._bucket().blob(self._at(path)).delete()
        except NotFound:
            return

    def blob(self, path: str) -> Any:
        """The object itself, for what only Google's storage has."""
        return self._bucket().blob(self._at(path))

    def blobs(self, folder: str, since: str = "", before: str = "") -> Iterator[tuple[str, Any]]:
        """(path, object) of every file below the folder, as of `walk`."""
        cut, prefix = len(self._prefix) + 1 if self._prefix else 0, self._at(folder).rstrip("/") + "/"
        bounds = {"start_offset": prefix + since if since else None, "end_offset": prefix + before if before else None}
        for blob in self._bucket().list_blobs(prefix=prefix, fields=_LISTED, **bounds):
            yield blob.name[cut:], blob

    def _files(self) -> fs.GcsFileSystem:
        base_url = self._options.get("google_base_url")
        endpoint = urlsplit(base_url) if base_url else None
        return fs.GcsFileSystem(
            anonymous=self._options.get("google_skip_signature") == "true",
            endpoint_override=endpoint.netloc if endpoint else None,
            scheme=endpoint.scheme if endpoint else None,
        )

    def _bucket(self) -> Any:
        return self._client().google.bucket(self._bucket_name)

    def _client(self) -> _Client:
        return _shared_client(tuple(sorted(self._options.items())), os.getpid())

    def _in_bucket(self, path: str) -> str:
        return f"{self._bucket_name}/{self._at(path)}"

    def _at(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path


def _side_by_side(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """What is alone is done here, also at the end of a process, where no pool begins anything."""
    waiting = list(items)
    if len(waiting) == 1:
        work(waiting[0])
    elif waiting:
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(work, waiting))


class ReadOnce:
    """A storage for reading files several times: what came whole is kept, up to `most_bytes`."""

    def __init__(self, storage: Storage, most_bytes: int = 256 * 1024 * 1024) -> None:
        self._storage, self._left = storage, most_bytes
        self._kept: dict[str, pa.Buffer] = {}

    def address(self, path: str) -> str:
        return self._storage.address(path)

    def open(self, path: str) -> Any:
        if path not in self._kept:
            source = self._storage.open(path)
            if not isinstance(source, pa.BufferReader) or source.size() > self._left:
                return source
            self._left -= source.size()
            self._kept[path] = source.read_buffer()
        return pa.BufferReader(self._kept[path])


class _Upload:
    """A file for writing: a small one is uploaded whole when it is closed, in one request instead of two."""

    def __init__(self, blob: Any, stream: Callable[[], Any]) -> None:
        self._blob, self._open_stream = blob, stream
        self._stream: Any = None
        self._waiting, self.closed = bytearray(), False

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        if self._stream is None and len(self._waiting) + size < _SMALL_BYTES:
            self._waiting += content
        else:
            self._upload().write(content)
        return size

    def tell(self) -> int:
        return len(self._waiting) if self._stream is None else int(self._stream.tell())

    def flush(self) -> None:
        """Nothing: what is written is durable once it is closed."""

    def close(self) -> None:
        from google.cloud.storage.retry import DEFAULT_RETRY

        if self.closed:
            return
        self.closed = True
        if self._stream is None:  # the same bytes again do no harm
            self._blob.upload_from_string(bytes(self._waiting), retry=DEFAULT_RETRY)
        else:
            self._stream.close()

    def __enter__(self) -> _Upload:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _upload(self) -> Any:
        if self._stream is None:
            self._stream = self._open_stream()
            self._stream.write(self._waiting)
            self._waiting = bytearray()
        return self._stream


class _Client(NamedTuple):
    google: Any
    reads: PlainReads


@lru_cache(maxsize=8)
def _shared_client(options: tuple[tuple[str, str], ...], process: int) -> _Client:
    """One for all folders: each client has a token and connections of its own. A forked process must not share it."""
    client = google_client(dict(options))
    return _Client(client, PlainReads(client))


def google_client(options: Mapping[str, str]) -> Any:
    """A client of GCS by delta-rs' options: those of an emulator, or none for the machine's own account.

    What it would ask of a bucket for traces that nobody collects, one request for each object that is not there, it
    does not ask.
    """
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    if options.get("google_skip_signature") != "true":
        return _with_connections(Client())
    base_url = options.get("google_base_url")
    endpoint = {"api_endpoint": base_url} if base_url else None
    client = Client(project="anonymous", credentials=AnonymousCredentials(), client_options=endpoint)  # type: ignore[no-untyped-call]
    return _with_connections(client)


def _with_connections(client: Any) -> Any:
    """By default 10 are kept open: every request beyond these would begin with a connection of its own."""
    from requests.adapters import HTTPAdapter

    for scheme in ("https://", "http://"):
        client._http.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=_CONNECTIONS))
    if not any(name.lower() in _PROXIES for name in os.environ):
        # Else `requests` looks through the whole environment for each request, which is a third of what one takes.
        client._http.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        client._http.trust_env = False
    return client
