"""Whose failure it is: one topic's, which waits alone, or everybody's."""

from __future__ import annotations

import logging

from lakehouse.errors import LakehouseError, unexpected
from lakehouse.spark.shutdown import concerns_all

log = logging.getLogger(__name__)


def own_error(name: str, error: BaseException) -> LakehouseError:
    """The topic's own failure, in our words and with its trace in the log; raises what concerns all topics."""
    is_panic = type(error).__name__ == "PanicException"  # of a Rust library, whose panics are no Exceptions
    if concerns_all(error) or not (isinstance(error, Exception) or is_panic):
        raise error
    if not isinstance(error, LakehouseError):
        log.error("ingest: topic=%s error=unexpected %s", name, type(error).__name__, exc_info=error)
    return unexpected(f"ingest of {name}", error)
