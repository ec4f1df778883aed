"""Where mirrors put their files: no two of them, nor the lake, may be in one folder, however its path is spelled."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lakehouse.config import Settings
from lakehouse.topics import Topic


@dataclass(frozen=True)
class Place:
    """A folder or file of a topic, as one spelling. `whose` is how a person knows it."""

    address: str
    topic: str
    whose: str


def places_of(topic: Topic, mirror: str, options: Any) -> Iterator[Place]:
    """What a mirror writes of the topic; nothing of one that has no path."""
    path = getattr(options, "path", None)
    if path is None:
        return
    is_file = options.kind == "duckdb"
    address = one_spelling(path if is_file else f"{path}/{topic.name}")
    yield Place(address, topic.name if is_file else "", f"{topic.name} in the mirror {mirror}")


def places_of_lake(topics: Sequence[Topic], settings: Settings) -> Iterator[Place]:
    """Of each topic: what is deleted or listed there must be the lake's own."""
    for root in dict.fromkeys((settings.raw_root, settings.sealed_root)):
        for topic in topics:
            yield Place(one_spelling(f"{root}/{topic.name}"), "", f"{topic.name} in the lake at {root}")


def meeting(place: Place, others: Sequence[Place]) -> list[str]:
    """The objections to a place that is another's, within it, or around it."""
    return [f"the same place as {other.whose}: {place.address}" for other in others if _do_meet(place, other)]


def one_spelling(path: str) -> str:
    """Without detours and links, scheme and host in small letters; a local path the same with `file:` and without."""
    address = urlsplit(path)
    if address.scheme in ("", "file"):
        return os.path.realpath(address.path if address.scheme else path)
    folder = posixpath.normpath(f"/{address.path}").lstrip("/")
    return f"{address.scheme.lower()}://{address.netloc.lower()}/{folder}"


def _do_meet(one: Place, other: Place) -> bool:
    """Of one database each topic has tables of its own."""
    if one.address == other.address:
        return not one.topic or not other.topic or one.topic == other.topic
    return _is_within(one.address, other.address) or _is_within(other.address, one.address)


def _is_within(inner: str, outer: str) -> bool:
    return inner.startswith(f"{outer.rstrip('/')}/")
