"""Folders of the lake: what is asked of them, and the clock that they go by."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TypeVar

from lakehouse.config import Config
from lakehouse.doctor.findings import Check, Failed, NotTried
from lakehouse.durations import brief
from lakehouse.errors import in_one_line
from lakehouse.ingest.frontier import LARGEST_STEP
from lakehouse.store.files import Storage, storage_for

T = TypeVar("T")

_ADDRESS = "https://storage.googleapis.com"
_RIGHTS = (
    "Grant roles/storage.objectAdmin on the bucket to the account of the application, or write access to the folder; "
    "create it where it is not there, or correct its address in the configuration."
)
_CONDITIONAL = (
    "Two applications could write one commit: put the lake on Google's own storage or a disk that has hard links, or "
    "use an emulator that keeps `ifGenerationMatch`."
)

_NETWORK = "Let this machine reach the store: on a cluster, turn Private Google Access on for its subnet."


def checks(config: Config) -> Iterator[Check]:
    settings = config.settings
    roots = {"raw_root": settings.raw_root, "sealed_root": settings.sealed_root}
    if settings.raw_root == settings.sealed_root:
        del roots["sealed_root"]
    for name, root in roots.items():
        storage = storage_for(root, settings.storage_options)
        yield Check(f"{name}: objects", partial(objects, storage), _RIGHTS)
        yield Check(f"{name}: put-if-absent", partial(_put_if_absent, storage), _CONDITIONAL)
    clock = "Set this machine's clock, by NTP: hours close by it."
    yield Check("clock", partial(_clock, settings.raw_root, settings.storage_options), clock)


def objects(storage: Storage) -> str:
    """Create, read, list and delete one, in that order; the first that fails is named."""
    path = f"_doctor/{uuid.uuid4().hex}"
    _named("create", lambda: storage.write(path, b"doctor"))
    with _removed(storage, path):
        if _named("read", lambda: storage.read(path)) != b"doctor":
            raise Failed(f"{storage.address(path)} is not as it was written")
        if not _named("list", lambda: [each for each in storage.listing("_doctor") if each.path == path]):
            raise Failed(f"{storage.address(path)} is not listed after it was written")
    return f"created, read, listed and deleted one at {storage.address('_doctor')}"


def _put_if_absent(storage: Storage) -> str:
    """A second conditional write must be refused, and leave what is there."""
    path = f"_doctor/{uuid.uuid4().hex}"
    if not _named("create", lambda: storage.put_if_absent(path, b"first")):
        raise Failed(f"{storage.address(path)} is refused although it is not there")
    with _removed(storage, path):
        is_written = _named("create", lambda: storage.put_if_absent(path, b"second"))
        if is_written or _named("read", lambda: storage.read(path)) != b"first":
            raise Failed("a second conditional write replaced the first")
    return "the second conditional write was refused"


@contextmanager
def _removed(storage: Storage, path: str) -> Iterator[None]:
    """What was written is deleted in any case; a refusal to do so counts unless something else failed before."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            storage.delete([path])
        raise
    _named("delete", lambda: storage.delete([path]))


def _named(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as refused:
        raise Failed(f"cannot {what}: {in_one_line(refused)}", _RIGHTS) from refused


def _clock(root: str, options: Mapping[str, str]) -> str:
    if not root.startswith("gs://"):
        raise NotTried("a folder has no clock of its own")
    import requests

    began = datetime.now(UTC)
    address = options.get("google_base_url") or _ADDRESS
    try:
        answer = requests.get(address, timeout=10)
    except requests.RequestException as silence:
        raise Failed(f"no answer of {address}", _NETWORK) from silence
    middle = began + (datetime.now(UTC) - began) / 2
    if "Date" not in answer.headers:
        raise NotTried("the store's answer has no date")
    ahead = middle - parsedate_to_datetime(answer.headers["Date"]) - timedelta(seconds=0.5)  # it is cut to the second
    words = f"{brief(abs(ahead).total_seconds())} {'ahead of' if ahead > timedelta(0) else 'behind'} the store's"
    if abs(ahead) > LARGEST_STEP:
        raise Failed(words)
    return words
