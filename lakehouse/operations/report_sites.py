"""Where a lake's pages were written to: an erasure is not finished before they are drawn without the erased."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
from dataclasses import asdict, dataclass

from lakehouse.errors import LakehouseError, in_one_line
from lakehouse.store.history import History
from lakehouse.store.tables import TopicTables

log = logging.getLogger(__name__)

_FOLDER = "sites"


@dataclass(frozen=True)
class Site:
    """A folder or bucket with pages of the topic, on `host` if it is a folder; drawn after so many erasures."""

    address: str
    host: str
    erasures: int

    @property
    def is_gone(self) -> bool:
        """Whether it was here, and is no longer."""
        return self.host == socket.gethostname() and "://" not in self.address and not os.path.exists(self.address)


def register(tables: TopicTables, address: str, history: History) -> None:
    """Note in the lake that the site has pages of the topic as of that history; a lake that takes no note is logged."""
    here = address if "://" in address else os.path.abspath(address)
    site = Site(here, socket.gethostname(), _erasures(history))
    path = f"{_FOLDER}/{hashlib.md5(here.encode(), usedforsecurity=False).hexdigest()}.json"
    storage = tables.sealed.files()
    text = json.dumps(asdict(site)).encode()
    try:
        if storage.read(path) != text:
            storage.write(path, text)
    except (OSError, LakehouseError) as refused:
        log.warning(
            "report: topic=%s site=%s state=unregistered error=%s", tables.topic.name, here, in_one_line(refused)
        )


def outdated_sites(tables: TopicTables, history: History) -> list[Site]:
    """Sites whose pages may show what has been erased since they were drawn."""
    storage = tables.sealed.files()
    sites = [_site(storage.read(stored.path)) for stored in storage.listing(_FOLDER)]
    return [each for each in sites if each.erasures < _erasures(history) and not each.is_gone]


def _site(text: bytes | None) -> Site:
    """One whose note is damaged is somewhere, and may show anything."""
    try:
        found = json.loads(text or b"")
        return Site(str(found["address"]), str(found["host"]), int(found["erasures"]))
    except (ValueError, KeyError, TypeError):
        return Site("a site whose note is damaged", "?", -1)


def _erasures(history: History) -> int:
    return sum(revision - 1 for revision in history.erased_hours().values())
