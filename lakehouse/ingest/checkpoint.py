"""Spark's checkpoint of an ingest query: what cannot be read of it is set aside, since it may be lost as a whole.

A full disk or a crash of the machine leaves empty or half-written files, and Spark refuses to start with them for ever.
Without a checkpoint ingest begins after the last epoch that any topic's log or manifests have, and adopts the rest.
"""

from __future__ import annotations

import json
import logging
import zlib
from datetime import datetime

from lakehouse.store.files import Storage

log = logging.getLogger(__name__)

FOLDER, ASIDE = "checkpoint", "checkpoint-damaged"
_READ_BY_SPARK = 2
"""The newest entries of each log that Spark reads when a query starts."""
_CRC_HEADER_BYTES, _CRC_CHUNK_BYTES, _CRC_BYTES = 8, 512, 4
"""Hadoop's checksum files on local disks: `crc` and the chunk's size, then a CRC32 for each chunk."""


def is_readable(address: str) -> bool:
    """Whether anybody but Spark reads what is there; HDFS, whose files are whole or absent, only Spark does."""
    return not address.startswith("hdfs://")


def set_aside_if_damaged(storage: Storage, application: str, now: datetime) -> str | None:
    """The damage, once the checkpoint in that folder is out of the way; None when Spark can start from it."""
    damage = damage_of(storage)
    if damage is None:
        return None
    aside = f"{ASIDE}-{now:%Y%m%dT%H%M%S%f}"
    storage.move(FOLDER, aside)
    log.warning(
        "ingest: application=%s moved_to=%s next=go on without it, nothing is lost error=damaged checkpoint: %s",
        *(application, aside, damage),
    )
    return damage


def damage_of(storage: Storage) -> str | None:
    """What Spark could not read of the checkpoint; None when there is no such thing, or no checkpoint."""
    paths = {stored.path for stored in storage.listing(FOLDER)}
    metadata = f"{FOLDER}/metadata"
    entries = [path for log_name in ("offsets", "commits") for path in _newest(paths, f"{FOLDER}/{log_name}/")]
    if metadata not in paths:
        return f"{metadata} is missing" if entries else None
    for path in (metadata, *entries):
        content = storage.read(path) or b""
        lines = _LINES.get(path.split("/")[1], 1)
        problem = _problem(content, lines, is_entry=path != metadata) or _wrong_checksum(storage, path, content)
        if problem:
            return f"{path} {problem}"
    return None


def _newest(paths: set[str], folder: str) -> list[str]:
    numbers = [name for path in paths if (name := path.removeprefix(folder)) != path and name.isdigit()]
    return [f"{folder}{number}" for number in sorted(numbers, key=int)[-_READ_BY_SPARK:]]


_LINES = {"offsets": 2, "commits": 1}
"""Of JSON in an entry, at least: the batch's metadata and the source's offset; what the commit left for the next."""


def _problem(content: bytes, least_lines: int, *, is_entry: bool) -> str | None:
    """An entry is `v1` and lines of JSON, `metadata` one line of it."""
    try:
        lines = content.decode().splitlines()
        if is_entry and (not lines or not lines.pop(0).startswith("v")):
            return "is empty" if not content else "does not begin with its version"
        if len(lines) < least_lines:
            return "is cut" if content else "is empty"
        for line in lines:
            if line != "-":  # a source without an offset yet
                json.loads(line)
    except ValueError as wrong:
        return f"is cut or garbled ({wrong})"
    return None


def _wrong_checksum(storage: Storage, path: str, content: bytes) -> str | None:
    """What Hadoop would refuse on a local disk; stores have no such files."""
    folder, _, name = path.rpartition("/")
    sums = storage.read(f"{folder}/.{name}.crc")
    if sums is None or len(sums) < _CRC_HEADER_BYTES:
        return None
    chunks = [content[at : at + _CRC_CHUNK_BYTES] for at in range(0, len(content), _CRC_CHUNK_BYTES)]
    expected = b"".join(zlib.crc32(chunk).to_bytes(_CRC_BYTES, "big") for chunk in chunks)
    return None if sums[_CRC_HEADER_BYTES:] == expected else "does not match its checksum"
