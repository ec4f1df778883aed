"""A lake that may be read only: what has to write says so in one line, and changes nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse.config import Config, Settings
from lakehouse.errors import LakeError, UsageError
from lakehouse.ingest.claim import claim
from lakehouse.operations.erase import erase
from lakehouse.operations.maintain import maintain_topic
from lakehouse.operations.report import build
from lakehouse.store.records import CloseRequested, Released
from lakehouse.topics import Topic
from tests.lake import FIVE, SIX, Delivery, Lake

LATER = datetime.now(UTC) + timedelta(days=500)
NOBODY = 65534


@pytest.fixture
def lake(topic: Topic, settings: Settings, config: Config) -> Iterator[Lake]:
    """Where anybody may come: pytest's own folders are for one user."""
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        place = {"raw_root": f"{root}/lake", "sealed_root": f"{root}/lake"}
        settings = settings.model_copy(update=place)
        lake = Lake(topic, replace(config, settings=settings))
        lake.deliver(Delivery("a", 1, 0, "a1", 7), Delivery("b", 2, 0, "b1", 1))
        lake.seal(FIVE)
        yield lake


@contextmanager
def reader_s_rights(lake: Lake) -> Iterator[None]:
    """A user who owns nothing here; root's own rights would not be asked for."""
    for folder, _, names in os.walk(lake.settings.raw_root):
        for name in names:
            os.chmod(Path(folder, name), 0o444)
        os.chmod(folder, 0o555)
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def orphaned(lake: Lake) -> None:
    """A file that a dead attempt left, long ago."""
    file = next(Path(lake.folders.bronze).rglob("*.parquet"))
    orphan = file.with_name("000000000001-0009-dead.parquet")
    shutil.copy(file, orphan)
    os.utime(orphan, (0, 0))


ACTS: dict[str, Callable[[Lake], Any]] = {
    "erase": lambda lake: erase(lake.topic, lake.config, "n = 7", reason="asked", by="ann"),
    "maintain": lambda lake: maintain_topic(lake.topic, lake.config, LATER),
    "close": lambda lake: lake.tables.ledger("close").record(CloseRequested(by="ann", reason="done"), SIX),
    "report": lambda lake: build(lake.config, f"{lake.settings.sealed_root}/_report", LATER),
    "seal": lambda lake: lake.sealer().seal(SIX),
    "ingest": lambda lake: claim(lake.topic, lake.config, run="one", ack_deadline=timedelta(seconds=10)),
    "release": lambda lake: lake.tables.ledger("release").record(Released(by="ann", reason="known"), FIVE),
}


@pytest.mark.parametrize("name", ACTS)
def test_what_has_to_write_says_that_it_may_not(lake: Lake, name: str) -> None:
    if name == "seal":
        lake.deliver(Delivery("c", 61), hour=SIX)
        lake.close(SIX)
    orphaned(lake)
    if name in ("erase", "maintain"):  # also loads what is imported late, which the reader could not
        erase(lake.topic, lake.config, "n = 7", reason="asked", by="ann", dry_run=True)
    before = sorted(Path(lake.settings.raw_root).rglob("*"))
    with reader_s_rights(lake), pytest.raises((LakeError, UsageError), match="ermission denied") as refused:
        ACTS[name](lake)
    assert "\n" not in str(refused.value)
    assert sorted(Path(lake.settings.raw_root).rglob("*")) == before
