"""Hourly event delivery on Spark: deduplicated, complete hours that never change once sealed."""

__version__ = "0.1.0"

__all__ = ["open_lake"]


def __getattr__(name: str) -> object:
    """`open_lake` when it is asked for: it knows every table, and words must not wait for that."""
    if name == "open_lake":
        from lakehouse.lake import open_lake

        return open_lake
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
