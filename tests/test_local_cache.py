"""What is kept on this machine's disk is what was put there, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse import local_cache
from lakehouse.local_cache import keep, kept

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "begun": lambda content: content[:40],
    "zeros": lambda content: bytes(len(content)),
    "a bit": lambda content: content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
    "more": lambda content: content + b"x",
}
CONTENT = b"a schema, of which each byte counts"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(local_cache.tempfile, "gettempdir", lambda: str(folder))


@given(st.binary())
def test_what_is_kept_is_given_back(content: bytes) -> None:
    keep("schema", "key", content)
    assert kept("schema", "key") == content
    assert kept("schema", "another") is kept("protoc", "key") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_nothing(folder: Path, damage: str) -> None:
    """A machine that failed may leave a part of it, which would park a topic for good, or be another schema."""
    keep("schema", damage, CONTENT)
    file = local_cache._file("schema", damage)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert kept("schema", damage) is None
    keep("schema", damage, CONTENT)
    assert kept("schema", damage) == CONTENT
