"""Spark's Python workers, as our tasks find them."""

from __future__ import annotations

import sys
from zipimport import zipimporter


def forget_archives() -> None:
    """Spare this worker's next task reading the directory of `pyspark.zip` again: 0.15 core-seconds on Python 3.11.

    pyspark drops all import caches before each task, and Python 3.11 then reads the directory of each archive that it
    has looked into, although nothing is imported any more. Since 3.12 only an import does (cpython gh-103200).
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter):
            del sys.path_importer_cache[path]
