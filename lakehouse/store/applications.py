"""Where an application keeps what is its own: its heartbeat, Spark's checkpoint, and notes that others leave it."""

from __future__ import annotations

from lakehouse.config import Settings
from lakehouse.store.place import Place


def application_folder(settings: Settings) -> Place:
    """Of the application that the settings are of."""
    return Place(f"{settings.raw_root}/_applications/{settings.application}", settings.storage_options)


def checkpoint_folder(settings: Settings) -> Place:
    """Of the application that the settings are of: what Spark alone reads is in a folder of it, and may be lost."""
    root = settings.ingest.checkpoint_root
    return Place(f"{root}/{settings.application}", settings.storage_options) if root else application_folder(settings)
