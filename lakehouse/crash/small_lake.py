"""The configuration of a small lake that is played in one process, and the suites of every lake of the kit."""

from __future__ import annotations

import json
from pathlib import Path

from lakehouse.config import Config, Settings
from lakehouse.topics import topic_from

PUBSUB_TOPIC = "projects/sandbox/topics/plays"
SUBSCRIPTION = "projects/sandbox/subscriptions/plays"


def small_config(
    folder: Path, *, first_hour: str = "earliest", empty_hours: str = "skip", quiet_period: str = "0 seconds"
) -> Config:
    """One topic, `plays`, mirrored into a folder; everything of it below `folder`."""
    topic = topic_from(
        "plays",
        {
            "subscription": SUBSCRIPTION,
            "event_id": "payload.event_id",
            "event_time": "payload.played_at",
            "fields": {"n": "bigint"},
            "lateness": "30 minutes",
            "quiet_period": quiet_period,
            "dedup_horizon": "60 days",
            "first_hour": first_hour,
            "empty_hours": empty_hours,
            "mirrors": ["folder"],
        },
    )
    settings = Settings(
        raw_root=str(folder / "raw"),
        sealed_root=str(folder / "sealed"),
        release="crash",
        ingest={"empty_after": "0.005 seconds"},
        mirrors={"folder": {"kind": "folder", "path": str(folder / "mirror")}},
    )
    expectations = folder / "expectations"
    expectations.mkdir(parents=True)
    write_suites(expectations)
    return Config(folder / "conf" / "crash.yaml", settings, {"plays": topic}, expectations)


def write_suites(folder: Path) -> None:
    """Hours with an event of `n` above 97 are invalid: enough that some are, and have to be released."""
    (folder / "_every_topic.json").write_text(json.dumps({"name": "_every_topic", "expectations": []}))
    low = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "n", "max_value": 97},
        "severity": "critical",
    }
    (folder / "plays.json").write_text(json.dumps({"name": "plays", "expectations": [low]}))
