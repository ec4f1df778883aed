"""The configuration of a small lake that is played in one process, and the suites of every lake of the kit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lakehouse.config import Config, Settings
from lakehouse.topics import Topic, topic_from

PLAYS = "plays"
NAMES = (PLAYS, "skips", "stops")
"""Topics of a lake that has several."""


def pubsub_topic(name: str) -> str:
    """The Pub/Sub topic of one of ours."""
    return f"projects/sandbox/topics/{name}"


def subscription_of(name: str) -> str:
    """The subscription that one of our topics reads."""
    return f"projects/sandbox/subscriptions/{name}"


PUBSUB_TOPIC, SUBSCRIPTION = pubsub_topic(PLAYS), subscription_of(PLAYS)


def small_config(
    folder: Path,
    *,
    first_hour: str = "earliest",
    empty_hours: str = "skip",
    quiet_period: str = "0 seconds",
    names: Sequence[str] = (PLAYS,),
) -> Config:
    """Small topics, mirrored into a folder; everything of them below `folder`."""
    topics = {name: _small_topic(name, first_hour, empty_hours, quiet_period) for name in names}
    settings = Settings(
        raw_root=str(folder / "raw"),
        sealed_root=str(folder / "sealed"),
        release="crash",
        application="crash",
        ingest={"empty_after": "0.005 seconds"},
        mirrors={"folder": {"kind": "folder", "path": str(folder / "mirror")}},
    )
    expectations = folder / "expectations"
    expectations.mkdir(parents=True)
    write_suites(expectations, names)
    return Config(folder / "conf" / "crash.yaml", settings, topics, expectations)


def _small_topic(name: str, first_hour: str, empty_hours: str, quiet_period: str) -> Topic:
    return topic_from(
        name,
        {
            "subscription": subscription_of(name),
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


def write_suites(folder: Path, names: Sequence[str] = (PLAYS,)) -> None:
    """Hours with an event of `n` above 97 are invalid: enough that some are, and have to be released."""
    (folder / "_every_topic.json").write_text(json.dumps({"name": "_every_topic", "expectations": []}))
    low = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "n", "max_value": 97},
        "severity": "critical",
    }
    for name in names:
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "expectations": [low]}))
