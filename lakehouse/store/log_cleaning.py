"""What a Delta log needs no longer: found from its beginning on, without a look at what is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.store.files import Storage, Stored

_NAMED_BY_VERSION = re.compile(r"(\d{20})\.")
_WHOLE_CHECKPOINT = re.compile(r"\d{20}\.checkpoint\.parquet")


def expired_log_files(files: Storage, before: datetime) -> list[Stored]:
    """Entries and checkpoints written before an instant, older than a checkpoint that is written before it as well.

    Every version since that checkpoint stays readable. Paths are relative to the table; nothing is expired where that
    checkpoint cannot be read.
    """
    old = list(takewhile(lambda stored: stored.modified_at < before, _by_version(files)))
    checkpoints = [stored for stored in old if _WHOLE_CHECKPOINT.fullmatch(_name(stored))]
    readable = next((stored for stored in reversed(checkpoints) if _is_readable(files, stored)), None)
    if readable is None:
        return []
    first_kept = _name(readable)[:20]
    return [stored for stored in old if _name(stored)[:20] < first_kept]


def data_files(files: Storage, table: str) -> Iterator[Stored]:
    """Every file in the table's folder but those of its log, which may be far more."""
    yield from files.walk(table, before="_delta_log")
    yield from files.walk(table, since="_delta_log0")  # what sorts right behind `_delta_log/`


def _by_version(files: Storage) -> Iterator[Stored]:
    listed = files.walk("_delta_log", since="0", before=":")  # digits only
    return (stored for stored in listed if _NAMED_BY_VERSION.match(_name(stored)))


def _name(stored: Stored) -> str:
    return stored.path.rpartition("/")[2]


def _is_readable(files: Storage, checkpoint: Stored) -> bool:
    try:
        with files.open(checkpoint.path) as source:
            pq.read_metadata(source)
    except (OSError, pa.ArrowException):
        return False
    return True
