"""Hourly event delivery on Spark: deduplicated, complete hours that never change once sealed."""

from importlib import import_module

__version__ = "0.1.0"

__all__ = ["PubSubSource", "open_lake"]

_WHERE = {"open_lake": "lakehouse.lake", "PubSubSource": "lakehouse.landing.source"}


def __getattr__(name: str) -> object:
    """A name of `__all__`, imported at its first use: without that, every import of a module would load all tables."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
