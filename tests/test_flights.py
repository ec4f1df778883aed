"""The sample events are as late, as doubled and as flawed as they are meant to be."""

import json
import os
import warnings
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lakehouse.hours import end_of, hour_of
from lakehouse.sandbox.flights import DIVERTED, FIRST, UNTIL, Message, messages
from lakehouse.topics import Topic, topic_from

ROOT = Path(__file__).parents[1]
TOPICS = ["flight_departed", "flight_landed", "weather_observed"]
FLAWS = ["broken_json", "no_event_id", "no_event_time", "wrong_type", "year_2100"]
NEW_YEAR = datetime(2013, 1, 1, 8, tzinfo=UTC)


@pytest.fixture(scope="module")
def sample():
    return messages()


@pytest.fixture(scope="module")
def first_two_days():
    return messages(NEW_YEAR, NEW_YEAR + timedelta(days=2))


def of(topic: str, published: list[Message]) -> list[Message]:
    return [message for message in published if message.topic == topic]


def events(topic: str, published: list[Message]) -> dict[str, tuple[Message, dict]]:
    """The first delivery of each good event, with its payload read."""
    first: dict[str, tuple[Message, dict]] = {}
    for message in of(topic, published):
        if message.event_id:
            first.setdefault(message.event_id, (message, json.loads(message.payload)))
    return first


@cache
def configured(topic: str) -> Topic:
    return topic_from(topic, yaml.safe_load((ROOT / f"conf/topics/{topic}.yaml").read_text()))


def event_time(topic: str, payload: dict) -> datetime:
    return datetime.fromisoformat(payload[configured(topic).event_time.removeprefix("payload.")])


def test_the_same_seed_gives_the_same_messages(sample):
    """A demo that is started again publishes what it published before."""
    assert messages() == sample
    assert messages(seed=1) != sample


def test_messages_come_in_the_order_of_their_publishing_within_the_window(sample):
    """Who replays them can go through the list once, with a clock."""
    moments = [message.publish_at for message in sample]
    assert moments == sorted(moments)
    assert FIRST <= moments[0] <= moments[-1] <= UNTIL


def test_the_default_window_holds_known_numbers_of_events(sample):
    """The README and the demo quote them."""
    assert {topic: len(events(topic, sample)) for topic in TOPICS} == {
        "flight_departed": 384,
        "flight_landed": 384,
        "weather_observed": 24,
    }
    assert Counter(message.topic for message in sample) == {
        "flight_departed": 397,
        "flight_landed": 397,
        "weather_observed": 31,
    }


@pytest.mark.parametrize("topic", TOPICS)
def test_an_event_sent_twice_is_the_same_message_twice(topic, first_two_days):
    """A client that repeats itself changes nothing: two per cent do, half of them at once and half hours later."""
    deliveries = defaultdict(list)
    for message in of(topic, first_two_days):
        if message.event_id:
            deliveries[message.event_id].append(message)
    doubled = [pair for pair in deliveries.values() if len(pair) > 1]
    assert len(doubled) == max(2, round(len(deliveries) * 0.02))
    assert all(first.payload == second.payload and first.attributes == second.attributes for first, second in doubled)
    window_end = NEW_YEAR + timedelta(days=2)
    delays = [second.publish_at - first.publish_at for first, second in doubled if second.publish_at < window_end]
    soon = [delay for delay in delays if delay <= timedelta(minutes=5)]
    late = [delay for delay in delays if timedelta(hours=1) <= delay <= timedelta(hours=3)]
    cut_off = len(doubled) - len(delays)
    assert len(soon) + len(late) == len(delays)
    assert abs(len(soon) - len(late) - cut_off) <= 1


@pytest.mark.parametrize("topic", TOPICS)
def test_some_copies_of_the_default_window_come_an_hour_late(topic, sample):
    """Only a copy that comes when its hour may be closed shows that copies are found across hours."""
    first = events(topic, sample)
    behind = [
        message.publish_at - first[message.event_id][0].publish_at for message in of(topic, sample) if message.event_id
    ]
    assert max(behind) >= timedelta(hours=1)


def test_nothing_is_sent_twice_when_no_share_is():
    """A bench counts deliveries and wants to know how many are one."""
    good = [message.event_id for message in messages(duplicate_share=0) if message.event_id]
    assert len(good) == len(set(good))


@pytest.mark.parametrize("topic", TOPICS)
def test_each_topic_has_one_message_of_every_flaw(topic, sample):
    """Each reason for a reject is seen in the demo; none of them shares an id with a good event."""
    bad = {message.attributes["flaw"]: message.payload for message in of(topic, sample) if message.event_id is None}
    assert sorted(bad) == FLAWS
    time_field = configured(topic).event_time.removeprefix("payload.")
    with pytest.raises(json.JSONDecodeError):
        json.loads(bad["broken_json"])
    assert "event_id" not in json.loads(bad["no_event_id"])
    assert time_field not in json.loads(bad["no_event_time"])
    assert json.loads(bad["year_2100"])[time_field] == "2100-01-01T00:00:00Z"
    assert any(word in bad["wrong_type"] for word in (b'"far"', b'"long"', b'"cold"'))
    good = events(topic, sample)
    assert all(json.loads(bad[flaw]).get("event_id") not in good for flaw in FLAWS if flaw != "broken_json")


@pytest.mark.parametrize("topic", TOPICS)
def test_a_good_event_says_its_id_and_its_declared_fields(topic, sample):
    """What is declared is there, possibly null; the only thing beyond it is the note, in some messages."""
    config = configured(topic)
    note = "observer_note" if topic == "weather_observed" else "gate_agent_note"
    expected = {"event_id", config.event_time.removeprefix("payload."), *config.fields}
    beyond = []
    for event_id, (_, payload) in events(topic, sample).items():
        assert payload["event_id"] == event_id
        assert expected <= payload.keys()
        beyond.append(payload.keys() - expected)
    assert {frozenset(names) for names in beyond} == {frozenset(), frozenset({note})}


def test_a_departure_is_published_when_the_flight_lands(first_two_days):
    """This is what makes the topic late by nature: minutes for a hop, hours for the far coast."""
    landed = {payload["flight_id"]: message for message, payload in events("flight_landed", first_two_days).values()}
    departed = events("flight_departed", first_two_days).values()
    for message, payload in departed:
        late_by = message.publish_at - event_time("flight_departed", payload)
        if payload["flight_id"] in landed:
            assert message.publish_at == landed[payload["flight_id"]].publish_at
        else:
            assert late_by == DIVERTED
        assert late_by >= timedelta(minutes=20)
    assert any(payload["flight_id"] not in landed for _, payload in departed)


def test_a_landing_is_published_as_it_happens(sample):
    """The contrast to departures: the same flights, and no event is late."""
    for message, payload in events("flight_landed", sample).values():
        assert message.publish_at == event_time("flight_landed", payload)
        in_the_air = event_time("flight_landed", payload) - event_time("flight_departed", payload)
        assert in_the_air == timedelta(minutes=payload["air_time_minutes"])


def test_the_weather_is_published_ten_minutes_after_its_hour(sample):
    """Three stations, each hour."""
    observed = events("weather_observed", sample).values()
    assert {message.publish_at - event_time("weather_observed", payload) for message, payload in observed} == {
        timedelta(minutes=10)
    }
    assert set(Counter(event_time("weather_observed", payload) for _, payload in observed).values()) == {3}


def test_a_cancelled_flight_has_no_event(first_two_days):
    """EV4308 of New Year's Day, from EWR to RDU, never left."""
    flights = {payload["flight_id"] for _, payload in events("flight_departed", first_two_days).values()}
    assert "EV4308-EWR-2013-01-01" not in flights
    assert "UA1545-EWR-2013-01-01" in flights


def test_new_york_time_is_published_as_utc(first_two_days):
    """UA1545 was to leave EWR at 05:15 and left two minutes late; in winter New York is five hours behind UTC."""
    _, payload = events("flight_departed", first_two_days)["UA1545-EWR-2013-01-01/departed"]
    assert payload["scheduled_at"] == "2013-01-01T10:15:00Z"
    assert payload["departed_at"] == "2013-01-01T10:17:00Z"
    assert payload["route"] == {"origin": "EWR", "dest": "IAH", "distance_miles": 1400}


def test_summer_time_is_four_hours_behind_utc():
    """US2114 was to leave LGA at 06:00 on the first of July, in summer time."""
    noon = datetime(2013, 7, 1, 12, tzinfo=UTC)
    scheduled = {
        payload["flight_id"]: payload["scheduled_at"]
        for _, payload in events("flight_departed", messages(noon - timedelta(hours=2), noon)).values()
    }
    assert scheduled["US2114-LGA-2013-07-01"] == "2013-07-01T10:00:00Z"


def test_what_was_not_measured_is_null(sample):
    """NaN is no JSON: a calm has no gust, and the register does not know every aircraft."""
    assert not any(b"NaN" in message.payload for message in sample)
    gusts = {payload["wind_gust_mph"] for _, payload in events("weather_observed", sample).values()}
    seats = {payload["seats"] for _, payload in events("flight_departed", sample).values()}
    assert gusts > {None}
    assert seats > {None}


@pytest.fixture(scope="module")
def gx():
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own imports', not ours
        import great_expectations

        # our own expectation; importing it registers it with Great Expectations
        import lakehouse.validate.volume_expectation  # noqa: F401

    return great_expectations


def suite(gx, name: str):
    return gx.ExpectationSuite(**json.loads((ROOT / f"expectations/{name}.json").read_text()))


def sealed(topic: str, published: list[Message]) -> pd.DataFrame:
    """One row per event as silver has it, with each event in its own hour."""
    config = configured(topic)
    rows = []
    for number, (event_id, (message, payload)) in enumerate(events(topic, published).items()):
        happened_at = event_time(topic, payload)
        delivery = {
            "event_id": event_id,
            "event_time": happened_at,
            "event_hour": hour_of(happened_at),
            "publish_time": message.publish_at,
            "message_id": str(number),
            "hour": hour_of(happened_at),
        }
        rows.append({name: payload[name] for name in config.fields} | delivery)
    columns = pd.DataFrame(rows)
    for name, spark_type in config.fields.items():
        if spark_type == "timestamp":
            columns[name] = pd.to_datetime(columns[name])
    return columns


def failed(gx, rows: pd.DataFrame, suites: list[str]) -> list[str]:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("sealed").add_dataframe_asset("hour")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": rows})
    hour = rows["hour"].iloc[0]
    known = {"hour": hour, "hour_end": end_of(hour), "sealed_rows": len(rows), "volume_model": "none/yet.json"}
    checked = [batch.validate(suite(gx, name), expectation_parameters=known) for name in suites]
    results = [result for each in checked for result in each.results]
    assert not [result.exception_info for result in results if result.exception_info.get("raised_exception")]
    return [json.dumps(result.expectation_config["kwargs"]) for result in results if not result.success]


@pytest.mark.parametrize("name", ["_every_topic", *TOPICS])
def test_a_suite_opens_whole_and_is_written_as_it_was_read(gx, name):
    """Great Expectations leaves out what it cannot open, with no more than a line in the log."""
    written = json.loads((ROOT / f"expectations/{name}.json").read_text())
    opened = suite(gx, name).to_json_dict()
    without_ids = [{key: value for key, value in one.items() if key != "id"} for one in opened["expectations"]]
    assert without_ids == written["expectations"]
    assert (opened["name"], opened["meta"], opened["notes"]) == (name, written["meta"], written["notes"])
    assert {one["meta"]["severity"] for one in written["expectations"]} <= {"critical", "warning"}
    assert all(one["meta"]["severity"] == one["severity"] for one in written["expectations"])


@pytest.mark.slow
@pytest.mark.parametrize("topic", TOPICS)
def test_every_hour_of_the_sample_meets_its_expectations(gx, topic, sample):
    """In the demo an hour becomes invalid because somebody broke it, not by itself."""
    for _, rows in sealed(topic, sample).groupby("hour"):
        assert failed(gx, rows, ["_every_topic", topic]) == []


def test_the_impossible_wind_of_2013_fails_its_hour(gx):
    """The data has one famous error: 1048 miles an hour at EWR. The expectations find it, and nothing else."""
    morning = datetime(2013, 2, 12, 8, tzinfo=UTC)
    rows = sealed("weather_observed", messages(morning, morning + timedelta(hours=1)))
    assert [json.loads(kwargs)["column"] for kwargs in failed(gx, rows, ["weather_observed"])] == ["wind_speed_mph"]
