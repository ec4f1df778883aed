"""What a cluster's nodes reach of an environment."""

from __future__ import annotations

from lakehouse.config import Config
from lakehouse.errors import ConfigError


def check_reachable(config: Config) -> None:
    """ConfigError for a lake that a cluster's nodes do not reach."""
    for name in ("raw_root", "sealed_root"):
        if "://" not in getattr(config.settings, name):
            raise ConfigError(
                f"{config.path}: {name}",
                found=getattr(config.settings, name),
                expected="a lake on gs://, which the clusters' nodes reach",
                next_step="Give the environment of the clusters with --conf, such as conf/dataproc.yaml.",
            )
