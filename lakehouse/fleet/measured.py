"""What each topic of an environment brings, by the hours that it has closed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lakehouse.config import Config
from lakehouse.errors import LakehouseError
from lakehouse.fleet.files import FILE, fleet_file
from lakehouse.fleet.packing import Load
from lakehouse.fleet.wanted import class_of_topics
from lakehouse.operations.hour_status import hour_statuses
from lakehouse.operations.snapshot import read_topic

_READERS = 16
_SECONDS = 3600.0


def loads(config: Config, hours: int) -> list[Load]:
    """Of each topic, by the largest of its newest `hours` hours; 0 for one that has none, or cannot be read."""
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(lambda name: _load(config, name, hours), sorted(config.topics)))


def classes(config: Config, path: Path | None) -> dict[str, str]:
    """The class of each topic that has one in the fleet's file; none where none is given and there is none yet."""
    file = path or config.path.parent / FILE
    if path is None and not file.exists():
        return {}
    return class_of_topics(fleet_file(file), config.topics, str(file))


def _load(config: Config, name: str, hours: int) -> Load:
    topic = config.topics[name]
    try:
        rows = [row.deliveries or 0 for row in hour_statuses(read_topic(topic, config), hours, config.now())]
    except LakehouseError:
        rows = []
    return Load(name, max(rows, default=0) / _SECONDS, topic.slots.max)
