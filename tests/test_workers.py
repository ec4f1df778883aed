"""What our tasks do to the Python workers that they run in."""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path
from zipimport import zipimporter

import pytest

from lakehouse.workers import forget_archives


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
    forget_archives()
    assert str(archive) not in sys.path_importer_cache
    importlib.invalidate_caches()
    assert importlib.import_module("second_of_archive").NUMBER == 2
