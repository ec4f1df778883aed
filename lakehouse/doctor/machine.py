"""Python, Spark and packages, of the driver and of its executors."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from lakehouse.config import Config
from lakehouse.doctor.findings import Check, Failed, NotTried
from lakehouse.errors import EXTRAS
from lakehouse.topics import Topic

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SPARK = "4.1"
_STARTS_WITHIN = timedelta(minutes=5)
"""A session on a cluster, which may have to wait for YARN, and its first tasks."""
NEEDED = {
    "deltalake": "deltalake", "duckdb": "duckdb", "pyarrow": "pyarrow", "pandas": "pandas", "orjson": "orjson",
    "pydantic": "pydantic", "grpc": "grpcio", "google.pubsub_v1": "google-cloud-pubsub",
    "google.cloud.storage": "google-cloud-storage", "google.cloud.monitoring_v3": "google-cloud-monitoring",
}  # fmt: skip
"""Packages that every application imports: each module, and the distribution that it is of."""
_SHOWN = ("deltalake", "pyarrow", "grpcio")
_PACKAGE = (
    "On a cluster run `lakehouse dataproc package` and deploy again; on this machine run `make set-up`, or install the "
    "extras that the configuration needs."
)


def checks(config: Config, topics: Iterable[Topic], session: Callable[[], SparkSession] | None) -> Iterator[Check]:
    """`session` starts Spark or gives the one that runs; None where none is to be started."""
    extras = extras_of(config, topics)
    yield Check("Python and Spark", _versions, f"Use Python 3.11 to 3.13 and Spark {SPARK}; image 3.0 has both.")
    yield Check("packages of the driver", lambda: _packages(extras), _PACKAGE, timedelta(minutes=2))
    yield Check("packages of executors", lambda: _on_executors(session), _PACKAGE, _STARTS_WITHIN)


def extras_of(config: Config, topics: Iterable[Topic]) -> list[str]:
    """Which extras these topics' brokers, formats and mirrors need."""
    found = {"quality"}
    for topic in topics:
        found |= {topic.reads.kind, topic.format}
        found |= {str(config.settings.mirrors.get(mirror, {}).get("kind")) for mirror in topic.mirrors}
    found |= {"lite"} if "pubsublite" in found else set()
    return sorted(found & EXTRAS.keys())


def _versions() -> str:
    python = sys.version.split()[0]
    if not (3, 11) <= sys.version_info < (3, 14):
        raise Failed(f"Python {python}")
    try:
        spark = version("pyspark")
    except PackageNotFoundError:
        try:  # a cluster's own has no metadata
            spark = str(import_module("pyspark").__version__)
        except ModuleNotFoundError:
            raise NotTried(f"Python {python}; no pyspark here, which only reads and decides") from None
    if not spark.startswith(f"{SPARK}."):
        raise Failed(f"Python {python}, Spark {spark}")
    return f"Python {python}, Spark {spark}"


def _packages(extras: Iterable[str]) -> str:
    missing = [f"{name} ({_line(error)})" for name, error in _failing([*NEEDED]).items()]
    for extra in extras:
        missing += [f"{name} of extra {extra} ({_line(error)})" for name, error in _failing(EXTRAS[extra][1]).items()]
    if missing:
        raise Failed("cannot import " + ", ".join(missing))
    shown = ", ".join(f"{name} {version(name)}" for name in _SHOWN)
    return f"{shown}; extras {', '.join(extras) or 'none'}"


def _failing(modules: Iterable[str]) -> dict[str, BaseException]:
    failing: dict[str, BaseException] = {}
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # also what is compiled for another machine
            failing[name] = error
    return failing


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100]


def probe(_: Any = None) -> tuple[str, Mapping[str, str]]:
    """What a process has: its host; Python and each package with its version, or `missing`."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    failing = _failing([*NEEDED, "lakehouse.landing.source"])
    for module, name in NEEDED.items():
        found[name] = "missing" if module in failing else version(name)
    found["lakehouse"] = "missing" if "lakehouse.landing.source" in failing else "here"
    return socket.gethostname(), found


def _on_executors(session: Callable[[], SparkSession] | None) -> str:
    if session is None:
        raise NotTried("starts no Spark; --spark does, and so does --on dataproc")
    context = session().sparkContext
    tasks = max(2, context.defaultParallelism)
    answers = context.parallelize(range(tasks), tasks).map(probe).collect()
    ours, hosts = probe()[1], {host for host, _ in answers}
    other = {f"{name} {each[name]} on {host}, {ours[name]} in the driver"
             for host, each in answers for name in ours if each.get(name) != ours[name]}  # fmt: skip
    if other:
        raise Failed("; ".join(sorted(other)[:3]))
    jvm: Any = context._jvm
    java = jvm.java.lang.System.getProperty("java.version")
    return (
        f"the same in {tasks} tasks on {len(hosts)} host{'s' * (len(hosts) != 1)}; Spark {context.version}, Java {java}"
    )
