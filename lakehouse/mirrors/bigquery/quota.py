"""BigQuery's limit on load jobs for a table and day."""

from __future__ import annotations

import time
from threading import Lock

from lakehouse.errors import TargetLimitError
from lakehouse.mirrors.bigquery.dataset import Dataset
from lakehouse.mirrors.contract import SealedHour

_ASK_AGAIN_AFTER_SECONDS = 3600


class LoadQuota:
    """Load jobs of the last day for each table: asked of BigQuery once, then counted here, and asked again hourly."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset, self._limit = dataset, dataset.options.loads_per_day
        self._counts: dict[str, tuple[int, float]] = {}
        self._lock = Lock()

    def count(self, hour: SealedHour, table_id: str) -> None:
        """Count one more load; TargetLimitError when the day has no more of them for this table."""
        table, is_partition, _ = table_id.partition("$")
        if not is_partition:  # a table of its own for each hour never comes near the limit
            return
        with self._lock:
            known, since = self._counts.get(table, (0, 0.0))
            if not since or time.monotonic() - since > _ASK_AGAIN_AFTER_SECONDS:
                known, since = self._dataset.loads_today(table), time.monotonic()
            if known >= self._limit:
                raise TargetLimitError(
                    f"mirror {self._dataset.mirror}: {hour.topic.name} {hour.hour}",
                    found=f"{known} loads into {self._dataset.options.dataset}.{table} within a day",
                    expected=f"fewer than {self._limit}, the limit for a table",
                    next_step="Nothing to do: the hour stays due, and is loaded when fewer loads lie in the last day.",
                )
            self._counts[table] = known + 1, since
