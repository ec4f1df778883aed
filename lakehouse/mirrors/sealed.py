"""A sealed hour as its seal and silver's log describe it together."""

from __future__ import annotations

from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.mirrors.contract import SealedHour, digests_of
from lakehouse.store.history import History
from lakehouse.store.silver_log import files_of_seal
from lakehouse.store.tables import TopicTables


def sealed_hour(tables: TopicTables, history: History, hour: Hour) -> SealedHour:
    """The newest seal of an hour with the exact files of its silver version; LakeError when they are not the seal's."""
    seal = history.seal_of(hour)
    if seal is None:
        raise ValueError(f"{hour} of {tables.topic.name} is not sealed")
    silver = tables.sealed.below("silver")
    files = tuple(files_of_seal(silver, hour, seal))
    rows_in_files = sum(file.rows for file in files)
    if (len(files), rows_in_files) != (seal.files, seal.rows):
        raise LakeError(
            f"{silver.uri} at version {seal.silver_version}: {hour}",
            found=f"{len(files)} files with {rows_in_files} rows",
            expected=f"{seal.files} files with {seal.rows} rows, as the ledger says",
            next_step="Run `lakehouse verify` for the topic: somebody else may have written there.",
        )
    return SealedHour(
        topic=tables.topic,
        hour=hour,
        revision=history.revision(hour),
        silver=silver,
        silver_version=seal.silver_version,
        files=files,
        rows=seal.rows,
        id_checksum=seal.id_checksum,
        release=seal.release,
        columns=tables.silver_columns(),
        digests=digests_of(seal, hour),
    )
