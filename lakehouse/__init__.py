"""Hourly event delivery on Spark: deduplicated, complete hours that never change once sealed."""

__version__ = "0.1.0"
