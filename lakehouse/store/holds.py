"""Holds: on Google's storage the files of a sealed hour can be held, so that no script deletes them by mistake.

A temporary hold is set on each object by itself. A retention policy on the whole bucket would not do: Delta replaces
`_last_checkpoint` and cleans its log, and both would be refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from lakehouse.config import Settings
from lakehouse.errors import ConfigError, LakeError
from lakehouse.store.files import GoogleStorage, storage_for

_PARALLEL = 16


class Holds:
    """Of the files below one root."""

    def __init__(self, storage: GoogleStorage) -> None:
        self._storage = storage

    def put(self, paths: Iterable[str]) -> None:
        """Hold the files; one that is held already is no error."""
        self._set(paths, True)

    def lift(self, paths: Iterable[str]) -> None:
        self._set(paths, False)

    def held(self, folder: str) -> set[str]:
        """The paths of all files below the folder that are held."""
        return {path for path, blob in self._storage.blobs(folder) if blob.temporary_hold}

    def _set(self, paths: Iterable[str], is_held: bool) -> None:
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(partial(self._set_one, is_held), paths))

    def _set_one(self, is_held: bool, path: str) -> None:
        from google.api_core.exceptions import GoogleAPIError, NotFound

        blob = self._storage.blob(path)
        blob.temporary_hold = is_held
        try:
            blob.patch()
        except GoogleAPIError as refused:
            if isinstance(refused, NotFound) and not is_held:
                return
            raise LakeError(
                path,
                found=str(refused),
                expected="a temporary hold " + ("set" if is_held else "lifted"),
                next_step="Grant storage.objects.update on the bucket; the hour is due again.",
            ) from refused


def holds_for(settings: Settings, root: str) -> Holds | None:
    """None where sealed files are not held; ConfigError where they cannot be."""
    if settings.seal.protect == "none":
        return None
    storage = storage_for(root, settings.storage_options)
    if not isinstance(storage, GoogleStorage):
        raise ConfigError(
            "seal.protect",
            found=f"hold, with sealed_root at {root}",
            expected="a sealed_root of gs://: only Google's storage has holds",
            next_step="Set seal.protect to none, or move sealed_root.",
        )
    return Holds(storage)
