"""How much memory an application needs on a cluster, by the number of its topics."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from lakehouse.errors import ConfigError
from lakehouse.fleet.wanted import Size

HEAP_MIB = 1024
"""Of a driver with few topics; driver and executor's JVM together took 804 MiB over 14 million events."""
HEAP_MIB_PER_TOPIC = 0.5
"""From 300 to 1,800 idle topics all processes together grew by 0.16 MiB for each."""
PYTHON_MIB = 2560
"""Beside the heap: all Python processes took 1,521 MiB to seal an hour of 4 million rows, 30% of them duplicates."""
PYTHON_MIB_PER_TOPIC = 4.2
"""What it knows of the tables of a topic with rows in every hour took 1.1 to 4.1 MiB after 400 days, run by run."""
_STEP_MIB = 256


_HEAP, _BESIDE = "spark.driver.memory", "spark.driver.memoryOverhead"
_MIB = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024**2, "p": 1024**3}


def driver_properties(topics: int, spark: Mapping[str, str], size: Size | None = None) -> dict[str, str]:
    """All of Spark's settings for a driver with so many topics, its memory among them.

    `spark` are the environment's; those of the size take precedence, and both over what is computed.
    """
    size = size or Size()
    return {
        _HEAP: f"{_rounded(HEAP_MIB + HEAP_MIB_PER_TOPIC * topics)}m",
        _BESIDE: f"{_rounded(PYTHON_MIB + PYTHON_MIB_PER_TOPIC * topics)}m",
        **spark,
        **({_HEAP: size.driver_memory} if size.driver_memory else {}),
        **size.spark,
    }


def driver_mib(properties: Mapping[str, str]) -> int:
    """What YARN gives a driver with these settings, heap and all beside it; ConfigError for what is no size."""
    return math.ceil(sum(_mib(name, properties[name]) for name in (_HEAP, _BESIDE)))


def _mib(name: str, size: str) -> float:
    found = re.fullmatch(r"([0-9]+)(?:([kmgtp])b?)?", size.strip().lower())
    if found is None:
        raise ConfigError(
            name,
            found=repr(size),
            expected="a size in Spark's words, such as 512m or 4g",
            next_step="Correct it in fleet.yaml or in the environment's file.",
        )
    return int(found[1]) * _MIB[found[2] or "m"]


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
