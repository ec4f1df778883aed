"""A topic's files from sample messages, and what a topic makes of messages: no lake, no server but the broker."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google.cloud.pubsub_v1 as pubsub_v1
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lakehouse.cli import app
from lakehouse.config import Config, load
from lakehouse.errors import LakehouseError, UsageError
from lakehouse.landing.brokers.answers import PAGE_READERS
from lakehouse.operations.drafting.draft import Draft, draft
from lakehouse.operations.drafting.files import topic_yaml
from lakehouse.operations.drafting.inference import NOT_DECLARED, Doubt
from lakehouse.operations.drafting.samples import file_samples
from lakehouse.operations.drafting.trial import trial
from lakehouse.sandbox import flights
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.topics import DELIVERY_COLUMNS, topic_from
from lakehouse.validate.suites import suite_from
from tests.examples import examples

HOUSE = Path(__file__).parent.parent
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("conf")
    for name in ("conf", "expectations"):
        shutil.copytree(HOUSE / name, folder / name)
    return load(folder / "conf" / "local.yaml")


@pytest.fixture
def run(config: Config) -> Callable[..., tuple[int, Any]]:
    """Runs `topics …` with `--json`; gives its exit code and what it printed."""

    def invoked(*arguments: str) -> tuple[int, Any]:
        result = CliRunner().invoke(app.app, ["--conf", str(config.path), "topics", *arguments, "--json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, json.loads(result.stdout)

    return invoked


def drafted(lines: list[Any], config: Config, folder: Path, **places: str) -> Draft:
    file = folder / "samples.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return draft("plays", file_samples(file, NOW), config, **places)  # type: ignore[arg-type]


# --- the whole way -------------------------------------------------------------------------------------------------


def test_what_new_writes_passes_the_check_and_takes_its_samples(
    config: Config, run: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    """Sound messages of three kinds, as payloads and as gcloud prints them; then nothing is ever overwritten."""
    for kind in ("flight_departed", "weather_observed"):
        sound = [each for each in flights.messages() if each.topic == kind and each.event_id]
        lines, printed = tmp_path / f"{kind}.jsonl", tmp_path / f"{kind}.json"
        lines.write_bytes(b"\n".join(each.payload for each in sound))
        printed.write_text(json.dumps([_as_gcloud_prints(each) for each in sound]), encoding="utf-8")
        code, written = run("new", f"{kind}_2", "--from", str(printed))
        assert code == 0
        topic = written["topic"]
        assert topic["event_id"] == "payload.event_id"
        assert topic["event_time"] == config.topic(kind).event_time
        for file in (lines, printed):
            code, tried = run("try", f"{kind}_2", "--from", str(file))
            assert (code, tried["rejected"]) == (0, 0)
            assert tried["events"] == len({each.event_id for each in sound})
            assert tried["duplicates"] == len(sound) - tried["events"]
    code, checked = run("check")
    assert code == 0, checked
    before = [Path(file).read_bytes() for file in written["files"]]
    with pytest.raises(LakehouseError, match="never overwritten"):
        run("new", "weather_observed_2", "--from", str(lines))
    assert [Path(file).read_bytes() for file in written["files"]] == before


def _as_gcloud_prints(message: flights.Message) -> dict[str, Any]:
    return {
        "ackId": "x",
        "message": {
            "data": base64.b64encode(message.payload).decode(),
            "attributes": message.attributes,
            "messageId": "1",
            "publishTime": message.publish_at.isoformat(),
        },
    }


_PRINTED = {
    "attributes": {"kind": "play"},
    "data": "eyJpZCI6ICJlMCIsICJ1c2VyIjogIsOlc2E_Pn5-w78ifQ==",
    "messageId": "11",
    "orderingKey": "k",
    "publishTime": "2026-11-23T05:30:00.123Z",
}
"""As gcloud 528 prints a message, whose base64 is in the alphabet for URLs."""
_PUSHED = {
    "attributes": {"kind": "play"},
    "data": "eyJpZCI6ICJlMCIsICJ1c2VyIjogIsOlc2E/Pn5+w78ifQ==",
    "message_id": "11",
    "ordering_key": "k",
    "publish_time": "2026-11-23T05:30:00.123Z",
}


@pytest.mark.parametrize(
    "envelope",
    [
        {"ackId": "RkhRNxkIaFEOT14j", "message": _PRINTED},
        {"ackId": "RkhRNxkIaFEOT14j", "deliveryAttempt": 2, "message": _PRINTED},
        {"ackId": "RkhRNxkIaFEOT14j", "ackStatus": "SUCCESS", "message": _PRINTED},
        {"ackId": "x", "ackStatus": "PERMANENT_FAILURE_INVALID_ACK_ID", "deliveryAttempt": 2, "message": _PRINTED},
        {"ackId": "RkhRNxkIaFEOT14j", "ackHint": "of a later release", "message": _PRINTED},
        {"ackStatus": "SUCCESS", "message": _PRINTED},
        {"message": _PRINTED},
        {"ack_id": "RkhRNxkIaFEOT14j", "delivery_attempt": 2, "message": _PUSHED},
        {"message": _PUSHED, "subscription": "projects/p/subscriptions/s", "deliveryAttempt": 2},
        {"message": {**_PRINTED, **_PUSHED}, "subscription": "projects/p/subscriptions/s"},
        _PRINTED,
        _PUSHED,
    ],
)
def test_an_envelope_is_never_taken_for_a_payload(envelope: dict[str, Any], tmp_path: Path) -> None:
    """Its members would be the topic's fields, and the topic would reject each real message."""
    file = tmp_path / "printed.json"
    file.write_text(json.dumps([envelope], indent=2), encoding="utf-8")
    (message,) = file_samples(file, NOW).messages.to_pylist()
    assert json.loads(message["payload"]) == {"id": "e0", "user": "åsa?>~~ÿ"}
    assert (message["message_id"], message["ordering_key"], message["attributes"]) == ("11", "k", [("kind", "play")])
    assert message["publish_time"] == datetime(2026, 11, 23, 5, 30, 0, 123_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "payload",
    [
        {"message": {"text": "hello"}},
        {"message": {}, "subscription": "gold"},
        {"message": {"data": "hello", "attributes": {}}, "user": "ada"},
        {"ackId": "a1", "message": {"data": "hello", "sender": "ada"}},
        {"messageId": "11", "data": "hello", "user": "ada"},
        {"message": "hello", "ackId": "a1"},
    ],
)
def test_a_payload_is_never_taken_for_an_envelope(payload: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text(json.dumps(payload), encoding="utf-8")
    (message,) = file_samples(file, NOW).messages.to_pylist()
    assert json.loads(message["payload"]) == payload


@pytest.mark.parametrize("answers", PAGE_READERS)
def test_a_look_at_a_subscription_reads_answers_as_ingest_does(
    config: Config, monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    """Where `ptars` fails, `ingest.answers` is the way out, for a look, too."""
    for other in set(PAGE_READERS) - {answers}:
        monkeypatch.setitem(PAGE_READERS, other, None)  # type: ignore[arg-type]
    values = yaml.safe_load(config.path.read_text(encoding="utf-8"))
    values["ingest"] = {"answers": answers}
    conf = config.path.with_name(f"{answers}.yaml")
    conf.write_text(yaml.safe_dump(values), encoding="utf-8")
    subscription = config.topic("flight_departed").subscription
    with Broker() as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        DirectChannel(broker).publish(broker.create(subscription), [b"{}"])
        arguments = ["topics", "try", "flight_departed", "--conf", str(conf), "--from", subscription, "--json"]
        done = CliRunner().invoke(app.app, arguments)
    assert (done.exit_code, json.loads(done.stdout)["rejected"]) == (1, 1)


def test_a_subscription_is_checked_and_keeps_its_messages(
    run: Callable[..., tuple[int, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, subscription = "projects/p/topics/looked", "projects/p/subscriptions/looked"
    with Broker() as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
        publisher.create_topic(name=topic)
        subscriber.create_subscription(name=subscription, topic=topic)
        for number in range(5):
            payload = {"id": f"p{number}", "at": f"2026-11-23T0{number}:00:00Z", "user": "ada"}
            publisher.publish(topic, json.dumps(payload).encode()).result(30)
        code, tried = run("new", "looked", "--from", subscription, "--messages", "3")
        assert (code, tried["samples"], tried["topic"]["subscription"]) == (0, 3, subscription)
        assert len(broker.unacked(subscription)) == 5
        again = subscriber.pull(subscription=subscription, max_messages=10).received_messages
        assert len(again) == 5
        subscriber.close()
        publisher.stop()


def test_a_trial_says_what_becomes_of_each_message(run: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    """The demo's own messages, flaws and all: as many as the demo delivers, removes and rejects."""
    mine = [each for each in flights.messages() if each.topic == "flight_departed"]
    file = tmp_path / "messages.json"
    file.write_text(json.dumps([_as_gcloud_prints(each) for each in mine]), encoding="utf-8")
    code, tried = run("try", "flight_departed", "--from", str(file))
    assert (code, tried["rejected"]) == (1, 5)
    assert set(tried["reasons"]) == {
        "from the future", "no event id", "no event time", "not JSON", "wrong type: route.distance_miles"
    }  # fmt: skip
    assert sum(tried["hours"].values()) == tried["events"] == len({each.event_id for each in mine if each.event_id})
    one = next(each for each in tried["messages"] if each["outcome"] == "event" and each["is_late"])
    published = mine[one["number"] - 1].publish_at
    assert published > datetime.fromisoformat(one["event_time"]) + timedelta(hours=1)
    assert one["event"]["route"]["origin"] in ("EWR", "JFK", "LGA")


# --- the property --------------------------------------------------------------------------------------------------

_names = st.text("aBc_ :.-é\n#'\"", min_size=1, max_size=6) | st.sampled_from(["on", "Id", "hour", "user_id", "time"])
_texts = st.text(max_size=8) | st.sampled_from(["2026-11-23T05:30:00Z", "2026-02-30", "2026-11-23", "007", "9" * 19])
_leaves = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | _texts
)
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    documents=st.lists(st.dictionaries(_names, _values, max_size=5), min_size=1, max_size=12),
    time=st.sampled_from(["iso", "s", "ms", "none"]),
)
def test_a_draft_takes_the_samples_that_it_is_made_of(
    documents: list[dict[str, Any]], time: str, config: Config, tmp_path: Path
) -> None:
    """Whatever they hold: what cannot be a field is left out and named, and both files read back as they were meant."""
    for number, document in enumerate(documents):
        at = datetime(2026, 11, 23, 5, tzinfo=UTC) + timedelta(minutes=number)
        stamp = {"iso": at.isoformat(), "s": at.timestamp(), "ms": int(at.timestamp() * 1000), "none": None}[time]
        document |= {"event_id": f"e{number}", "user": f"ada{number}", "happened_at": stamp}
    made = drafted(documents, config, tmp_path)
    topic = topic_from("plays", yaml.safe_load(made.yaml))
    assert topic == made.topic
    tried = trial(topic, file_samples(tmp_path / "samples.jsonl", NOW))
    assert tried.rejected == 0, tried.reasons
    assert not made.left_out
    suite = suite_from(topic, {"plays.json": made.suite})
    assert {"user"} <= {column for each in suite.expectations for column in each.columns}
    named = {each.about.split(".")[0].split("[")[0] for each in made.doubts}
    for name in {name for document in documents for name in document}:
        assert (
            name in topic.fields
            or name in named
            or f"payload.{name}" in (topic.event_id, topic.event_time)
            or ("." in name)
        )


# --- tables of cases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([True, False], "boolean"),
        ([1, 2**62], "bigint"),
        ([1, 2.5], "double"),
        ([2**64], "decimal(38,0)"),
        (["2026-11-23T05:30:00Z", "2026-11-23t05:30:00+01:00"], "timestamp"),
        (["2026-11-23T05:30:00Z", "never"], "string"),
        (["2026-11-23"], "date"),
        (["2026-02-30"], "string"),
        ([[1], [], [2.5]], "array<double>"),
        ([{"a": 1}, {"b": [{"c": "x"}]}], "struct<a: bigint, b: array<struct<c: string>>>"),
        ([{f"k{n}_{m}": 1 for m in range(3)} for n in range(9)], "map<string, bigint>"),
        ([None], None),
        ([[]], None),
        ([{}], None),
        ([1, "1"], None),
    ],
)
def test_types_are_inferred(values: list[Any], wanted: str | None, config: Config, tmp_path: Path) -> None:
    lines = [{"id": f"e{n}", "at": f"2026-11-23T05:{n:02}:00Z", "x": value} for n, value in enumerate(values)]
    made = drafted(lines, config, tmp_path)
    assert made.topic.fields.get("x") == wanted
    assert wanted is not None or {"x", "x[]"} & {each.about for each in made.doubts}


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"id": "e{n}", "at": "2026-11-23T05:0{n}:00Z"}, ("payload.id", "payload.at")),
        ({"meta": {"uuid": "u{n}"}, "sent_at": "2026-11-23T05:0{n}:00Z"}, ("payload.meta.uuid", "payload.sent_at")),
        (
            {"play_id": "u{n}", "user_id": "ada", "scheduled_at": "2026-11-23T06:0{n}:00Z",
             "played_at": "2026-11-23T05:0{n}:00Z"},
            ("payload.play_id", "payload.played_at"),
        ),
        ({"id": "e{n}", "expires_at": "2100-11-23T05:0{n}:00Z"}, ("payload.id", "publish_time")),
        ({"id": "e{n}", "born": "1969-11-23T05:0{n}:00Z"}, ("payload.id", "publish_time")),
    ],
)  # fmt: skip
def test_ids_and_times_are_proposed(
    members: dict[str, Any], where: tuple[str, str], config: Config, tmp_path: Path
) -> None:
    lines = [json.loads(json.dumps(members).replace("{n}", str(n))) for n in range(5)]
    topic = drafted(lines, config, tmp_path).topic
    assert (topic.event_id, topic.event_time) == where


KEYS = "samples subscription format event_id event_time event_time_unit fields lateness mirrors".split()


@pytest.mark.parametrize("name", KEYS)
def test_a_doubt_about_a_field_is_never_one_about_a_key(name: str, config: Config, tmp_path: Path) -> None:
    """A payload's members have whichever names they have, also those of a topic's keys."""
    lines = [{"id": f"e{n}", "at": f"2026-11-23T05:{n:02}:00Z"} for n in range(9)]
    plain = drafted(lines, config, tmp_path).yaml.splitlines()

    def added(first: dict[str, Any], others: dict[str, Any]) -> list[str]:
        made = drafted([lines[0] | first, *(each | others for each in lines[1:])], config, tmp_path)
        return [line for line in made.yaml.splitlines() if line not in plain]

    if name in DELIVERY_COLUMNS:
        assert added({name: True}, {name: True}) == [f"  # {name}: {NOT_DECLARED}"]
        return
    assert added({name: None}, {name: None}) == [f"  # {name}: left out: always null or empty, so its type is unknown"]
    assert added({name: True}, {}) == [f"  {name}: boolean  # unsure: null or missing in 89% of the samples"]


def test_no_doubt_goes_on_in_a_line_of_its_own(config: Config, tmp_path: Path) -> None:
    """Behind a line break it would be a key of the topic's file."""
    topic = drafted([{"id": "a", "at": "2026-11-23T05:00:00Z"}, {"id": "b"}], config, tmp_path).topic
    doubts = [
        Doubt(about, "odd\nformat: avro\x85\u2028", is_of_field=is_of_field)
        for about in ("samples", "event_id", "lateness", "id", "x\ny")
        for is_of_field in (True, False)
    ]
    assert topic_from("plays", yaml.safe_load(topic_yaml(topic, "a\nb", doubts, ["m\nn"]))) == topic


def test_a_few_flawed_samples_take_no_column_away(config: Config, tmp_path: Path) -> None:
    lines: list[Any] = [{"id": f"e{n}", "at": f"2026-11-23T05:{n:02}:00Z", "ms": n} for n in range(40)]
    lines += [{"at": "2026-11-23T05:00:00Z", "ms": 1}, {"id": "e40", "at": "2026-11-23T05:00:00Z", "ms": "far"}, 17]
    made = drafted(lines, config, tmp_path)
    assert made.topic.fields == {"id": "string", "at": "timestamp", "ms": "bigint"}
    said = [each.text for each in made.doubts if each.about == "samples"]
    assert "1 of 43 are left out: not JSON" in said
    assert {"1 of 43 are rejected: no event id", "1 of 43 are rejected: wrong type: ms"} <= set(said)


@pytest.mark.parametrize("written", [lambda text: b"\xef\xbb\xbf" + text, gzip.compress], ids=["mark", "gzip"])
def test_a_file_as_other_programs_write_it_is_read(written: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A byte order mark made the first message no JSON, and a compressed file all of them."""
    file = tmp_path / "samples"
    file.write_bytes(written(b'{"id": "a"}\n{"id": "b"}\n'))
    assert file_samples(file, NOW).messages.column("payload").to_pylist() == [b'{"id": "a"}', b'{"id": "b"}']


def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "samples.gz"
    file.write_bytes(gzip.compress(b'{"id": "a"}\n' * 1000)[:30])
    with pytest.raises(UsageError, match=r"samples\.gz: found .*expected a file"):
        file_samples(file, NOW)


@pytest.mark.parametrize(
    "at", ["2026-11-26T05:00:00", "1748754000", "2999-06-01T05:00:00Z"], ids=["no zone", "digits as text", "future"]
)
def test_what_looks_like_a_time_and_is_none_is_named(at: str, config: Config, tmp_path: Path) -> None:
    """Silence about it makes an event count when it is published, and nobody knows why."""
    found = drafted([{"id": f"e{number}", "at_time": at} for number in range(20)], config, tmp_path)
    assert found.topic.event_time == "publish_time"
    texts = [each.text for each in found.doubts if each.about == "event_time"]
    assert texts[-1].startswith(f"payload.at_time is none, such as {at}: a text has date, time of day and zone")


def test_an_id_by_its_values_alone_is_unsure(config: Config, tmp_path: Path) -> None:
    """A third of the samples have no `id`, and a number that happens to differ takes its place."""
    lines = [{"v": number} | ({"id": f"e{number}"} if number % 3 else {}) for number in range(30)]
    found = drafted(lines, config, tmp_path)
    assert found.topic.event_id == "payload.v"
    assert "by its values alone" in next(each.text for each in found.doubts if each.about == "event_id")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no message"),
        (b"17\n", "none of which is a JSON object"),
        (b"\x1f\x8b\x08", "Compressed file ended before"),
        (b'{"user": "ada"}\n{"user": "ada", "x": 1}', "another in each event"),
        (b'[{"message": {"data": "%%"}}]', "message 1"),
    ],
)
def test_samples_that_give_no_topic_are_refused(
    content: bytes, expected: str, run: Callable[..., tuple[int, Any]], tmp_path: Path, config: Config
) -> None:
    file = tmp_path / "samples"
    file.write_bytes(content)
    with pytest.raises(LakehouseError, match=expected):
        run("new", "refused", "--from", str(file), "--subscription", "projects/p/subscriptions/refused")
    assert not list(config.path.parent.glob("topics/refused*"))


@pytest.mark.parametrize("name", ["", "Plays", "../plays", "plays.x", "1plays", "plays\n", "_every_topic", "p" * 101])
def test_odd_names_are_refused(name: str, run: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    with pytest.raises(LakehouseError, match="lower-case letters"):
        run("new", name, "--from", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("kafka://localhost/plays", "<host>:<port>"),
        ("kafka://:9092/plays", "<host>:<port>"),
        ("kafka://localhost:1/pl ays", "a topic's name"),
        ("kafka://localhost:1/", "kafka://<host>:<port>/<topic>"),
        ("kafka://reader:s3cret-word@localhost:1/plays", "without spaces and credentials"),
        ("projects/p/locations/EUROPE/subscriptions/s", "<zone or region>"),
        ("projects/p/subscription/s", "projects/<project>/subscriptions/<subscription>"),
        ("https://reader:s3cret-word@127.0.0.1:1/subjects/plays-value", "/subjects/<subject>"),
        ("https://s3cret-word@127.0.0.1:1/subjects/plays-value", "/subjects/<subject>"),
        ("https://127.0.0.1:1?key=s3cret-word/subjects/plays-value", "/subjects/<subject>"),
    ],
)
def test_an_address_that_is_none_is_refused_without_what_may_be_secret(
    source: str, expected: str, run: Callable[..., tuple[int, Any]]
) -> None:
    with pytest.raises(UsageError) as error:
        run("new", "plays", "--from", source)
    assert expected in str(error.value)
    assert "s3cret-word" not in str(error.value)


@pytest.mark.parametrize(
    "odd",
    [
        {"data": "!!"},
        {"data": 5},
        {"attributes": [1]},
        {"attributes": {"a": "\ud800"}},
        {"messageId": "\ud800"},
        {"orderingKey": 5},
        {"publishTime": "0001-01-01T00:00:00+14:00"},
        {"publishTime": "9999-12-31T23:59:59-14:00"},
        {"publishTime": 5},
    ],
)
def test_a_message_that_cannot_be_read_is_named_by_its_number(odd: dict[str, Any], tmp_path: Path) -> None:
    messages = [{"message": {"data": "e30="}}, {"message": {"data": "e30=", **odd}}]
    (tmp_path / "samples.json").write_text(json.dumps(messages))
    with pytest.raises(UsageError, match=r"samples\.json, message 2: found a Pub/Sub message that cannot be read"):
        file_samples(tmp_path / "samples.json", datetime.now(UTC))


@pytest.mark.parametrize("source", ["kafka://r:s3cret-word@h:1/plays", "https://r:s3cret-word@h:1/subjects/plays"])
def test_credentials_in_what_the_topic_is_to_read_are_not_shown(
    source: str, run: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    (tmp_path / "samples.jsonl").write_text('{"id": "a"}')
    with pytest.raises(LakehouseError) as refused:
        run("new", "plays", "--from", str(tmp_path / "samples.jsonl"), "--subscription", source)
    assert "s3cret-word" not in str(refused.value)


def test_a_subscription_of_another_topic_is_refused(run: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text('{"id": "e1", "at": "2026-11-23T05:00:00Z"}', encoding="utf-8")
    taken = "projects/sandbox/subscriptions/flight_departed"
    with pytest.raises(LakehouseError, match="a subscription of its own"):
        run("new", "twice", "--from", str(file), "--subscription", taken)
