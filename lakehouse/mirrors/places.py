"""Where mirrors put their files: no two of them, nor the lake, may be in one folder, however its path is spelled."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
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
    staging, path = getattr(options, "staging", ""), getattr(options, "path", None)
    if staging:
        yield Place(one_spelling(f"{staging}/{mirror}/{topic.name}"), "", f"{topic.name} in the staging of {mirror}")
    if path is None:
        return
    whose = f"{topic.name} in the mirror {mirror}"
    if options.kind == "duckdb":
        for suffix in ("", ".wal", ".tmp"):
            yield Place(one_spelling(path + suffix), topic.name, whose)
    else:
        yield Place(one_spelling(f"{path}/{topic.name}"), "", whose)


def places_of_lake(topics: Sequence[Topic], settings: Settings) -> Iterator[Place]:
    """Of each topic: what is deleted or listed there must be the lake's own."""
    for root in dict.fromkeys((settings.raw_root, settings.sealed_root)):
        for topic in topics:
            yield Place(one_spelling(f"{root}/{topic.name}"), "", f"{topic.name} in the lake at {root}")
        for folder in ("_applications", "_fleet", "_report"):
            yield Place(one_spelling(f"{root}/{folder}"), "", f"{folder} in the lake at {root}")


class Places:
    """All places of an environment; what meets one of them is found without a look at each."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._at: dict[str, list[tuple[int, Place]]] = {}
        self._within: dict[str, list[tuple[int, Place]]] = {}
        for numbered in enumerate(places):
            address = numbered[1].address.rstrip("/")
            self._at.setdefault(address, []).append(numbered)
            for above in _folders_above(address):
                self._within.setdefault(above, []).append(numbered)

    def objections(self, place: Place) -> list[str]:
        """To a place that is another's, within it, or around it; of one database each topic has tables of its own."""
        address = place.address.rstrip("/")
        found = [each for each in self._at.get(address, ()) if _do_clash(place, each[1])]
        found += [each for above in _folders_above(address) for each in self._at.get(above, ())]
        found += self._within.get(address, ())
        return [f"the same place as {other.whose}: {place.address}" for _, other in sorted(found) if other != place]


def one_spelling(path: str) -> str:
    """Without detours and links, scheme and host in small letters; a local path the same with `file:` and without."""
    address = urlsplit(path)
    if address.scheme in ("", "file"):
        return os.path.realpath(address.path if address.scheme else path)
    folder = posixpath.normpath(f"/{address.path}").lstrip("/")
    scheme, host = address.scheme.lower(), address.netloc.lower()
    return f"{scheme}://{host.removesuffix(':8020') if scheme == 'hdfs' else host}/{folder}"


def scheme_objections(path: str, schemes: Sequence[str] = ("file", "hdfs", "gs")) -> list[str]:
    """Against an address in a store that no file of ours reaches."""
    address = urlsplit(path)
    if "://" not in path:
        return []
    if address.scheme.lower() not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        return [f"the address {path}" + (f", which is none of a path, {known}" if known else ", where it takes a file")]
    return [f"the address {path} without a bucket"] if address.scheme.lower() == "gs" and not address.netloc else []


def _do_clash(one: Place, other: Place) -> bool:
    return not one.topic or not other.topic or one.topic == other.topic


def _folders_above(address: str) -> Iterator[str]:
    return (address[:end] for end, letter in enumerate(address) if letter == "/")
