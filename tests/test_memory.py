"""Freed memory is kept for a while, unless somebody has decided otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pyarrow as pa
import pytest

BACKEND = """
import pyarrow as pa
from lakehouse.store.memory import keep_freed_memory
keep_freed_memory()
print(pa.default_memory_pool().backend_name)
"""


@pytest.mark.parametrize("chosen", ["", "system"])
def test_the_pool_that_an_operator_chose_stays(chosen: str) -> None:
    """In a process of its own: the choice is read once, when Arrow is loaded."""
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    if chosen:
        environment["ARROW_DEFAULT_MEMORY_POOL"] = chosen
    found = subprocess.run(
        [sys.executable, "-c", BACKEND], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found == (chosen or ("jemalloc" if "jemalloc" in pa.supported_memory_backends() else found))
