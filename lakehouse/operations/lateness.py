"""Lateness: what each possible lateness and dedup horizon of a topic would cost and bring, by the deliveries it had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from lakehouse.config import Config
from lakehouse.durations import duration_text
from lakehouse.errors import LakeError
from lakehouse.schemas import TIMESTAMP
from lakehouse.store import parquet
from lakehouse.store.delta import files
from lakehouse.store.scratch import scratch_database
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

LATENESSES = tuple(timedelta(minutes=minutes) for minutes in (0, 1, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880))
HORIZONS = tuple(timedelta(hours=each) for each in (0, 1, 3, 6, 12, 24, 48, 72, 168))

SAMPLED_ROWS = 5_000_000
"""The most deliveries that are read; of more a share of the events is taken, each with all of its deliveries."""

TOLERATED_SKEW = 0.001
WANTED_CAUGHT = 0.999

_SCHEMA = pa.schema([("event_id", pa.string()), ("event_time", TIMESTAMP), ("publish_time", TIMESTAMP)])
_HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Choice:
    """One possible lateness. `caught` is the share of duplicates that each horizon in hours would leave out."""

    lateness: timedelta
    skewed: int
    skewed_share: float
    delay: timedelta
    caught: Mapping[int, float]


@dataclass(frozen=True)
class Outlook:
    """All choices, shortest first. A recommendation is None where no choice is good enough."""

    topic: str
    events: int
    duplicates: int
    sampled_share: float
    lateness: timedelta
    dedup_horizon: timedelta
    choices: tuple[Choice, ...]
    recommended_lateness: timedelta | None
    recommended_horizon: timedelta | None
    why: str


def outlook(
    topic: Topic, config: Config, *, tolerated: float = TOLERATED_SKEW, wanted: float = WANTED_CAUGHT
) -> Outlook:
    """From the deliveries that bronze has; LakeError when it has no events.

    An hour is taken to close when the watermark has passed it and what was published until its end + lateness is
    consumed, as it does on a topic that keeps up: what comes later is skewed into the hour that is open by then.
    """
    with scratch_database() as database:
        share = _load(database, topic, config)
        [(events, deliveries)] = database.execute("select count(distinct event), count(*) from came").fetchall()
        if not events:
            raise LakeError(
                f"topic {topic.name}",
                found="no events in bronze",
                expected="deliveries of some hours",
                next_step="Let ingest run for a day or more; `bronze_retention` says how far back it can look.",
            )
        candidates = sorted({*LATENESSES, topic.lateness})
        choices = tuple(_choice(database, topic, lateness, int(events)) for lateness in candidates)
    good = [choice for choice in choices if choice.skewed_share <= tolerated]
    chosen = good[0] if good else None
    horizon = _horizon(chosen or choices[-1], wanted)
    return Outlook(
        topic.name,
        int(events),
        int(deliveries) - int(events),
        share,
        topic.lateness,
        topic.dedup_horizon,
        choices,
        chosen.lateness if chosen else None,
        horizon,
        _why(topic, chosen, horizon, tolerated, wanted),
    )


def _load(database: duckdb.DuckDBPyConnection, topic: Topic, config: Config) -> float:
    """Table `came` (event, its time, the topic's clock when it came); gives the share of events that were taken.

    The clock is the watermark's and the frontier's together: the newest event time published so far, and never later
    than the publish time. So replays of old events are judged by their own time.
    """
    tables = TopicTables(topic, config.settings)
    wanted = [file for file in files(tables.bronze()) if file.hour is not None]
    storage = tables.raw.below("bronze").files()
    step = max(1, -(-sum(file.rows for file in wanted) // SAMPLED_ROWS))

    def batches() -> Iterator[pa.RecordBatch]:
        for file in parquet.open_ahead(partial(parquet.LakeFile, storage, each.path) for each in wanted):
            for batch in file.iter_batches(columns=_SCHEMA.names):
                yield batch.select(_SCHEMA.names).cast(_SCHEMA)

    with parquet.readers() as reader_of:
        database.register("reader", reader_of(_SCHEMA, batches()))
        database.execute(
            f"""
            create temp table came as
            select {_event(topic)} as event, epoch_us(event_time) as event_us, epoch_us(publish_time) as publish_us,
                least(publish_us, max(event_us) over (order by publish_us)) as clock_us
            from reader where hash(event_id) % {step} = 0
            """
        )
    return 1 / step


def _event(topic: Topic) -> str:
    """What makes an event of the topic, as one value in SQL."""
    return f"row({', '.join(topic.identity)})"


def _choice(database: duckdb.DuckDBPyConnection, topic: Topic, lateness: timedelta, events: int) -> Choice:
    """A delivery's bucket is its event hour or, if later, the first hour that is still open when it comes."""
    lateness_us = lateness // timedelta(microseconds=1)
    database.execute(
        f"""
        create or replace temp view placed as
        select event, event_us // {_HOUR_US} as own,
            greatest(own, (clock_us - {lateness_us}) // {_HOUR_US}) as bucket,
            row_number() over (partition by event order by publish_us) as nth,
            first_value(bucket) over (partition by event order by publish_us) as first_bucket
        from came
        """
    )
    [(skewed,)] = database.execute("select count(*) from placed where nth = 1 and bucket > own").fetchall()
    apart = database.execute("select bucket - first_bucket, count(*) from placed where nth > 1 group by 1").fetchall()
    duplicates = sum(count for _, count in apart)
    caught = {
        horizon // timedelta(hours=1): (
            sum(count for distance, count in apart if distance <= horizon // timedelta(hours=1)) / duplicates
            if duplicates
            else 1.0
        )
        for horizon in HORIZONS
    }
    return Choice(lateness, int(skewed), skewed / events, lateness + topic.quiet_period, caught)


def _horizon(choice: Choice, wanted: float) -> timedelta | None:
    return next((timedelta(hours=each) for each, share in choice.caught.items() if share >= wanted), None)


def _why(topic: Topic, chosen: Choice | None, horizon: timedelta | None, tolerated: float, wanted: float) -> str:
    if chosen is None:
        text = f"no lateness skews at most {tolerated:.2%} of the events: what comes later than that is skewed anyway"
    else:
        shortest = duration_text(chosen.lateness)
        text = f"{shortest} is the shortest lateness that skews at most {tolerated:.2%} of the events"
        text += " (as it is now)" if chosen.lateness == topic.lateness else f" (now {duration_text(topic.lateness)})"
    if horizon is None:
        return f"{text}; no horizon catches {wanted:.1%} of the duplicates"
    return f"{text}; a dedup horizon of {duration_text(horizon)} catches at least {wanted:.1%} of the duplicates" + (
        " (as it is now)" if horizon == topic.dedup_horizon else f" (now {duration_text(topic.dedup_horizon)})"
    )


def picture(outlook: Outlook, path: Path) -> None:
    """A PNG: the share of skewed events over the lateness, and the duplicates caught over the horizon."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (skew, caught) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    places = range(len(outlook.choices))
    colours = ["tab:green" if each.lateness == outlook.recommended_lateness else "tab:blue" for each in outlook.choices]
    skew.bar(places, [100 * choice.skewed_share for choice in outlook.choices], color=colours)
    skew.set_xticks(places, _short(choice.lateness for choice in outlook.choices), rotation=60)
    skew.set(xlabel="lateness", ylabel="skewed events, %", title=f"{outlook.topic}: {outlook.events:,} events")
    for choice in (each for each in outlook.choices if each.lateness in _drawn(outlook)):
        shares = [100 * share for share in choice.caught.values()]
        caught.plot(range(len(shares)), shares, marker="o", label=f"lateness {duration_text(choice.lateness)}")
    caught.set_xticks(range(len(HORIZONS)), _short(HORIZONS), rotation=60)
    caught.set(xlabel="dedup horizon", ylabel="duplicates left out, %", title=f"{outlook.duplicates:,} duplicates")
    caught.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _drawn(outlook: Outlook) -> set[timedelta]:
    return {timedelta(0), outlook.lateness, outlook.recommended_lateness or outlook.lateness}


def _short(durations: Sequence[timedelta] | Iterator[timedelta]) -> list[str]:
    return [duration_text(each).replace(" minutes", " min").replace(" minute", " min") for each in durations]
