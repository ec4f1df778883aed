"""What a target that keeps rows says of an hour's values, compared with silver's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from lakehouse.mirrors.contract import Mirror, SealedHour
from lakehouse.store.parquet import LakeFile
from lakehouse.value_checksum import Leaf, leaves_of, value_checksum

_ROWS_AT_A_TIME = 131_072


def differing_values(mirror: Mirror, hour: SealedHour) -> list[str]:
    """Which columns have other values there, beside the right ids.

    LakeError when a file of silver is gone or damaged.
    """
    leaves = _leaves_in(hour)

    def is_same(compared: Sequence[Leaf]) -> bool:
        found = mirror.value_checksum(hour.topic, hour.hour, compared) if compared else None
        return found is None or found == value_checksum(_rows(hour, compared), compared)

    if is_same(leaves):
        return []
    ids = [leaf for leaf in leaves if leaf.path == ("event_id",)]
    differing = [str(leaf) for leaf in leaves if not is_same([*ids, leaf])]
    return [f"other values of {', '.join(differing)}"]


def _leaves_in(hour: SealedHour) -> list[Leaf]:
    """What all files of the hour have; nothing where there are none."""
    of_files = []
    for file in hour.files:
        with LakeFile(hour.silver.files(), file.path) as opened:
            of_files.append(list(leaves_of(opened.schema_arrow)))
    return [leaf for leaf in of_files[0] if all(leaf in others for others in of_files)] if of_files else []


def _rows(hour: SealedHour, leaves: Sequence[Leaf]) -> Iterator[pa.RecordBatch]:
    columns = list(dict.fromkeys(leaf.path[0] for leaf in leaves))
    for file in hour.files:
        with LakeFile(hour.silver.files(), file.path) as opened:
            yield from opened.iter_batches(_ROWS_AT_A_TIME, columns=columns)
