"""What our tasks do to the Python workers that they run in."""

from __future__ import annotations

import gc
import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from zipimport import zipimporter

import pytest

from lakehouse.spark import workers
from lakehouse.spark.workers import spare_next_task


@pytest.fixture(autouse=True)
def thaw() -> Iterator[None]:
    """This process goes on to be no worker."""
    yield
    gc.unfreeze()
    workers.freeze_what_is_there.cache_clear()


def test_what_a_worker_holds_after_its_first_task_is_not_searched_for_garbage_again() -> None:
    """And what comes later is: a worker that never collected would grow."""
    spare_next_task()
    frozen = gc.get_freeze_count()
    assert frozen > 10_000
    spare_next_task()
    assert gc.get_freeze_count() <= frozen
    loop: list[object] = []
    loop.append(loop)
    del loop
    assert gc.collect() >= 1


def test_a_forgotten_archive_is_not_read_again_until_something_is_imported_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is what the next task does on Python 3.11: here the archive is gone by then, and nobody notices."""
    archive = tmp_path / "code.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("first_of_archive.py", "NUMBER = 1")
        file.writestr("second_of_archive.py", "NUMBER = 2")
    monkeypatch.syspath_prepend(str(archive))
    assert importlib.import_module("first_of_archive").NUMBER == 1
    assert isinstance(sys.path_importer_cache[str(archive)], zipimporter)
    spare_next_task()
    assert str(archive) not in sys.path_importer_cache
    importlib.invalidate_caches()
    assert importlib.import_module("second_of_archive").NUMBER == 2
