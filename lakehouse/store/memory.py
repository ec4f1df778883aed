"""Arrow's memory of this process."""

from __future__ import annotations

import os
from functools import cache

import pyarrow as pa

_KEPT_MS = 10_000


@cache
def keep_freed_memory() -> None:
    """From now on what Arrow frees is used again for ten seconds, before the system gets it back.

    By default it gets it back at once, and each new page of memory costs a fault: a fifth of the processor time of who
    reads, filters and writes row groups. Nothing changes where ARROW_DEFAULT_MEMORY_POOL is set, or without jemalloc.
    """
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ and "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
        pa.jemalloc_set_decay_ms(_KEPT_MS)
