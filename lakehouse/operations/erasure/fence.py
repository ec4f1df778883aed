"""One erasure at a time: the fence of a table, which each erasure moves on when it begins."""

from __future__ import annotations

from deltalake import DeltaTable

from lakehouse.errors import LakeError, LakehouseError
from lakehouse.operations.erasure.order import ERASE
from lakehouse.store.delta import commit
from lakehouse.store.table_log import ConflictError
from lakehouse.topics import Topic


class Claim:
    """The fence of one table: only the newest erasure may commit to it."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._number = 0

    def take(self, table: DeltaTable, release: str) -> None:
        self._number = (table.transaction_version(ERASE) or 0) + 1
        try:
            commit(table, [], metadata={"kind": ERASE, "release": release}, transactions={ERASE: self._number})
        except ConflictError as conflict:
            raise self.lost() from conflict

    def transactions(self, table: DeltaTable) -> dict[str, int]:
        """What a commit to the table as it was read must carry; LakehouseError when another erasure has begun."""
        if table.transaction_version(ERASE) != self._number:
            raise self.lost()
        return {ERASE: self._number}

    def lost(self) -> LakehouseError:
        return LakeError(
            f"topic {self._topic.name}",
            found="another erasure, or another revision, that was made at the same time",
            expected="one erasure at a time",
            next_step="Run this one again when the other is done.",
        )
