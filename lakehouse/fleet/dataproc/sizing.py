"""How much memory an application needs on a cluster, by the number of its topics."""

from __future__ import annotations

from collections.abc import Mapping

HEAP_MIB = 1024
"""Of a driver with few topics; driver and executor's JVM together took 804 MiB over 14 million events."""
HEAP_MIB_PER_TOPIC = 0.5
"""From 300 to 1,800 idle topics all processes together grew by 0.16 MiB for each."""
PYTHON_MIB = 2560
"""Beside the heap: all Python processes took 1,521 MiB to seal an hour of 4 million rows, 30% of them duplicates."""
PYTHON_MIB_PER_TOPIC = 4.2
"""What it knows of the tables of a topic with rows in every hour took 1.1 to 4.1 MiB after 400 days, run by run."""
_STEP_MIB = 256


def driver_properties(topics: int, heap: str = "") -> dict[str, str]:
    """Spark's settings for a driver with so many topics; `heap` in the place of what is computed, in Spark's words."""
    return {
        "spark.driver.memory": heap or f"{_rounded(HEAP_MIB + HEAP_MIB_PER_TOPIC * topics)}m",
        "spark.driver.memoryOverhead": f"{_rounded(PYTHON_MIB + PYTHON_MIB_PER_TOPIC * topics)}m",
    }


def driver_mib(topics: int) -> int:
    """What YARN gives such a driver, heap and all beside it."""
    return sum(int(value.removesuffix("m")) for value in driver_properties(topics).values())


def executor_properties(spark: Mapping[str, str], slot_bytes: int) -> dict[str, str]:
    """The memory beside the heap of an executor whose cores `spark` names: each may hold a slot, three times over.

    Nothing where `spark` says it, or does not say how many cores an executor has.
    """
    names = ("spark.executor.memoryOverhead", "spark.executor.memoryOverheadFactor")
    cores = spark.get("spark.executor.cores", "")
    if not cores.isdigit() or any(name in spark for name in names):
        return {}
    return {names[0]: f"{_rounded(int(cores) * 3 * slot_bytes / 1024**2 + 512)}m"}


def _rounded(mib: float) -> int:
    return -(-int(mib) // _STEP_MIB) * _STEP_MIB
