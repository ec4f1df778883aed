from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from lakehouse.cli import app
from lakehouse.config import Ingest, Settings, load, load_usable, topic_of, values_of
from lakehouse.errors import ConfigError
from lakehouse.topics import Slots, Topic

HOUSE = Path(__file__).parent.parent
ENVIRONMENTS = sorted(file for file in (HOUSE / "conf").glob("*.yaml") if file.name != "fleet.yaml")

PLAYS: dict[str, Any] = {
    "subscription": "projects/test/subscriptions/plays",
    "event_id": "payload.event_id",
    "event_time": "payload.played_at",
    "fields": {"user": "string"},
    "mirrors": ["folder"],
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration; gives the path to load."""

    def written(*, plays: dict[str, Any] | None = None, others: dict[str, Any] | None = None, **settings: Any) -> Path:
        conf = tmp_path / "conf"
        (conf / "topics").mkdir(parents=True, exist_ok=True)
        own = {key: value for key, value in (PLAYS | (plays or {})).items() if value is not None}
        for name, values in {"plays": own, **(others or {})}.items():
            (conf / "topics" / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        mirrors = {"folder": {"kind": "folder", "path": "build/mirror"}}
        values = {"raw_root": str(tmp_path / "lake"), "mirrors": mirrors, **settings}
        (conf / "test.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return conf / "test.yaml"

    return written


def refusal(conf: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(conf)
    return caught.value


# --- what is there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.name)
def test_every_environment_loads_with_its_topics(file: Path) -> None:
    assert set(load(file).topics) == {"flight_departed", "flight_landed", "weather_observed"}


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.name)
def test_every_environment_shows_every_key(file: Path) -> None:
    """The file is the reference of its keys: unit, default and when to change it stand beside each."""
    text = file.read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        assert re.search(rf"^(# )?{name}:", text, re.MULTILINE), name
        for key in getattr(field.annotation, "model_fields", {}):
            assert re.search(rf"^  {key}: .+ # .+ · .+ · ", text, re.MULTILINE), f"{name}.{key}"


def test_the_manual_names_every_key_of_a_topic_and_its_default() -> None:
    page = (HOUSE / "docs" / "configuration.md").read_text(encoding="utf-8")
    text = page.partition("## A topic")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| [^|]+ \| ([^|]+) \|", text, re.MULTILINE))
    slots = {f"slots.{key}" for key in Slots.model_fields}
    assert set(rows) == set(Topic.model_fields) - {"name", "slots"} | slots
    topic = Topic.model_validate({"name": "plays", **PLAYS, "mirrors": []}).model_dump(mode="json")
    defaults = {key: topic[key] for key, field in Topic.model_fields.items() if not field.is_required()}
    defaults |= {f"slots.{key}": value for key, value in defaults.pop("slots").items()}
    defaults["mirrors"] = defaults["deliver_within"] = defaults["registry"] = "none"
    defaults |= {"source": "the subscription", "subscription": "that of source"}
    defaults |= {
        "fields": "all of the schema; required for JSON",
        "schemas": "none",
        "message": "the only one of the file",
        "max_decompressed_bytes": "16 MiB",
    }
    assert {key: rows[key].strip("`") for key in defaults} == {key: str(value) for key, value in defaults.items()}


def test_a_source_of_kind_pubsub_is_what_a_subscription_is_short_for(write: Callable[..., Path]) -> None:
    """Either says it all; both, where they differ, are as wrong as neither."""
    short = load(write()).topic("plays")
    source = {"kind": "pubsub", "subscription": short.subscription}
    long = load(write(plays={"subscription": None, "source": source})).topic("plays")
    assert (long.subscription, long.reads) == (short.subscription, short.reads)
    assert Topic.from_json(long.as_json()) == long
    with pytest.raises(ConfigError, match=r"subscription: found 'projects/p/subscriptions/other'; expected either a"):
        load(write(plays={"subscription": "projects/p/subscriptions/other", "source": source}))
    with pytest.raises(ConfigError, match="subscription: found nothing; expected a value"):
        load(write(plays={"subscription": None}))


def test_a_key_that_is_left_out_has_its_default(write: Callable[..., Path]) -> None:
    settings = load(write()).settings
    assert settings.ingest == Ingest()
    assert settings.sealed_root == settings.raw_root


def test_keys_are_typed(write: Callable[..., Path]) -> None:
    config = load(write(plays={"lateness": "90 minutes"}, ingest={"trigger": "0.5 seconds"}))
    assert config.settings.ingest.trigger == timedelta(milliseconds=500)
    assert config.topic("plays").lateness == timedelta(minutes=90)


def test_the_path_comes_from_the_environment_when_none_is_given(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_CONF", str(write()))
    assert set(load().topics) == {"plays"}


def test_the_release_comes_from_the_environment_when_the_file_has_none(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment names its release; what is written tells by whom."""
    monkeypatch.setenv("LAKEHOUSE_RELEASE", "2026-11-23.1")
    assert load(write()).settings.release == "2026-11-23.1"


def test_a_topic_survives_being_sent_to_an_executor(write: Callable[..., Path]) -> None:
    topic = load(write(plays={"lateness": "90 minutes", "first_hour": "2026-11-23T05"})).topic("plays")
    assert Topic.from_json(topic.as_json()) == topic


# --- what is refused -----------------------------------------------------------------------------------------------

WRONG_SETTINGS = [
    ({"rawroot": "x"}, "test.yaml: rawroot", "the unknown key 'rawroot'", "a key that the application knows"),
    ({"ingest": {"triger": "1 second"}}, "test.yaml: ingest.triger", "the unknown key", "a key that"),
    ({"ingest": {"trigger": "10s"}}, "test.yaml: ingest.trigger", "'10s'", "a duration such as '90 seconds'"),
    ({"ingest": {"max_messages": 0}}, "test.yaml: ingest.max_messages", "0", "greater than or equal to 1"),
    ({"ingest": {"max_messages": "many"}}, "test.yaml: ingest.max_messages", "'many'", "integer"),
    ({"frontier": {"source": "guess"}}, "test.yaml: frontier.source", "'guess'", "'monitoring' or 'drained'"),
    ({"raw_root": ""}, "test.yaml: raw_root", "''", "at least 1 character"),
    ({"raw_root": "s3://bucket/x"}, "test.yaml: raw_root", "'s3://bucket/x'", "an address such as gs://bucket/folder"),
    ({"sealed_root": "gs:///x"}, "test.yaml: sealed_root", "'gs:///x'", "an address such as gs://bucket/folder"),
    ({"ingest": {"checkpoint_root": "ftp://x/y"}}, "test.yaml: ingest.checkpoint_root", "'ftp://x/y'", "hdfs://host"),
    ({"ingest": {"checkpoint_root": "hdfs://"}}, "test.yaml: ingest.checkpoint_root", "'hdfs://'", "hdfs://host/fold"),
    ({"raw_root": "file:/x"}, "test.yaml: raw_root", "'file:/x'", "an address such as `gs://…`"),
    ({"raw_root": "~nobody-of-that-name/x"}, "test.yaml: raw_root", "~nobody", "a home that this machine has"),
    ({"topics": "nowhere"}, "nowhere: topics", "no such folder", "a folder with one <topic>.yaml for each topic"),
    ({"mirrors": {}}, "plays.yaml: mirrors", "'folder'", "one of (there are none)"),
]

WRONG_TOPICS = [
    ({"latenes": "1 hour"}, "latenes", "the unknown key 'latenes'", "a key that the application knows"),
    ({"lateness": "1h"}, "lateness", "'1h'", "a duration such as '90 seconds'"),
    ({"lateness": 3600}, "lateness", "3600", "a duration such as '90 seconds'"),
    ({"fields": {"user": "strng"}}, "fields", "{'user': 'strng'}", "for 'user' a Spark type: string"),
    ({"fields": {"hour": "string"}}, "fields", "'hour'", "a name other than 'hour'"),
    ({"fields": {"event_id": "string"}}, "fields", "'event_id'", "a name other than 'event_id'"),
    ({"fields": {"a": "int", "A": "int"}}, "fields", "'A'", "names that differ in more than case"),
    ({"fields": {"i": "int", "İ": "int"}}, "fields", "'İ'", "names that differ in more than case"),
    ({"fields": {"µs": "int", "μs": "int"}}, "fields", "'μs'", "names that differ in more than case"),
    ({"fields": {"x": "struct<s: int, \u017f: int>"}}, "fields", "'x'", "for 'x' a Spark type"),
    ({"fields": {"a\0b": "int"}}, "fields", "a", "names without control characters"),
    ({"fields": {"": "int"}}, "fields", "''", "none that is empty"),
    ({"fields": {"x": "array<struct<`a\x1bb`: int>>"}}, "fields", "x", "names without control characters"),
    ({"fields": {}}, "fields", "nothing", "a value, as this key is required"),
    ({"subscription": "plays"}, "subscription", "'plays'", "projects/<project>/subscriptions/<subscription>"),
    ({"event_id": "publish_time"}, "event_id", "'publish_time'", "payload.<dotted path> or attributes.<name>"),
    ({"event_time": "played_at"}, "event_time", "'played_at'", "payload.<dotted path>"),
    ({"first_hour": "yesterday"}, "first_hour", "'yesterday'", "not an hour such as 2026-11-23T05"),
    ({"empty_hours": "drop"}, "empty_hours", "'drop'", "'close' or 'skip'"),
    ({"slots": {"min": 4, "max": 2}}, "slots", "{'max': 2, 'min': 4}", "min (4) no greater than max (2)"),
    ({"mirrors": ["bigquery"]}, "mirrors", "'bigquery'", "one of folder, as"),
]


@pytest.mark.parametrize(("settings", "subject", "found", "expected"), WRONG_SETTINGS)
def test_a_wrong_setting_is_named_with_file_key_found_and_expected(
    write: Callable[..., Path], settings: dict[str, Any], subject: str, found: str, expected: str
) -> None:
    error = refusal(write(**settings))
    assert error.subject.endswith(subject)
    assert found in error.found
    assert expected in error.expected
    assert error.next_step


@pytest.mark.parametrize(("plays", "key", "found", "expected"), WRONG_TOPICS)
def test_a_wrong_topic_is_named_with_file_key_found_and_expected(
    write: Callable[..., Path], plays: dict[str, Any], key: str, found: str, expected: str
) -> None:
    error = refusal(write(plays=plays))
    assert error.subject.endswith(f"conf/topics/plays.yaml: {key}")
    assert found in error.found
    assert expected in error.expected
    assert error.next_step


OF_A_SCHEMA = {"format": "avro", "schemas": ["play.avsc"], "registry": {"kind": "confluent", "url": "http://h"}}
ODD = [None, [], {}, 5, -1.5, True, "x", "é\0", "9" * 5_000, [None], {"x": "y"}, {"kind": "x"}, {5: [6]}]


@pytest.mark.parametrize("own", [PLAYS, {**PLAYS, **OF_A_SCHEMA}, {**PLAYS, **OF_A_SCHEMA, "format": "protobuf"}])
@pytest.mark.parametrize("key", sorted({*Topic.model_fields} - {"name"}))
def test_no_value_of_a_key_is_an_unforeseen_error(own: dict[str, Any], key: str, tmp_path: Path) -> None:
    """A key whose value is wrong is not there for the checks of others, which must not rely on it."""
    (tmp_path / "topics").mkdir()
    (tmp_path / "schemas").mkdir()
    fields = ({"name": "event_id", "type": "string"}, {"name": "played_at", "type": "string"})
    (tmp_path / "schemas" / "play.avsc").write_text(json.dumps({"type": "record", "name": "P", "fields": fields}))
    for odd in ODD:
        (tmp_path / "topics" / "plays.yaml").write_text(yaml.safe_dump({**own, key: odd}))
        with suppress(ConfigError):
            topic_of(tmp_path / "topics" / "plays.yaml")


@pytest.mark.parametrize(
    ("plays", "key", "found", "expected"),
    [
        ({"format": "xml", "schemas": ["play.avsc"]}, "format", "'xml'", "'json', 'avro' or 'protobuf'"),
        ({"format": "avro", "schemas": "play.avsc"}, "schemas", "'play.avsc'", "a list of files in"),
        ({"format": "avro", "schemas": ["a\0b"]}, "schemas", "embedded null byte", "the name of a schema's file"),
        ({"schemas": ["play.avsc"]}, "schemas", "['play.avsc']", "for the formats avro and protobuf"),
    ],
)
def test_wrong_schemas_are_named(
    write: Callable[..., Path], plays: dict[str, Any], key: str, found: str, expected: str
) -> None:
    error = refusal(write(plays=plays))
    assert error.subject.endswith(f"conf/topics/plays.yaml: {key}")
    assert found in error.found
    assert expected in error.expected


def test_credentials_in_an_address_are_not_shown(write: Callable[..., Path]) -> None:
    kafka = {"kind": "kafka", "bootstrap": "a:1,reader:s3cret-word@h:1", "topic": "t"}
    registry = {"kind": "confluent", "url": "https://reader:s3cret-word@h"}
    for plays in ({"subscription": None, "source": kafka}, {"registry": registry}):
        error = refusal(write(plays=plays))
        assert "…@h" in error.found
        assert "s3cret-word" not in str(error)


def test_a_key_that_is_missing_is_named(write: Callable[..., Path]) -> None:
    error = refusal(write(others={"skips": {key: PLAYS[key] for key in PLAYS if key != "event_id"}}))
    assert error.subject.endswith("skips.yaml: event_id")
    assert (error.found, error.expected) == ("nothing", "a value, as this key is required")


def test_two_topics_cannot_read_one_subscription(write: Callable[..., Path]) -> None:
    """Pub/Sub would give each of them half of the events, and neither would notice."""
    error = refusal(conf := write(others={"skips": PLAYS}))
    assert error.subject.endswith("plays.yaml: subscription")
    assert PLAYS["subscription"] in error.found
    assert "skips.yaml" in error.found
    assert "a subscription of its own" in error.expected
    assert load_usable(conf).unusable.keys() == {"plays", "skips"}, "which of them is the reader nobody knows"


def test_a_topic_whose_file_is_wrong_leaves_the_others_usable(write: Callable[..., Path]) -> None:
    skips = {**PLAYS, "subscription": "projects/p/subscriptions/skips"}
    config = load_usable(write(plays={"lateness": "1h"}, others={"skips": skips, "odd": {**skips, "mirrors": ["x"]}}))
    assert (config.names(), [*config.topics]) == (["odd", "plays", "skips"], ["skips"])
    assert config.topic("skips").name == "skips"
    with pytest.raises(ConfigError, match=r"plays.yaml: lateness: found '1h'"):
        config.topic("plays")
    with pytest.raises(ConfigError, match=r"odd.yaml: mirrors: found 'x'"):
        config.refuse_unusable()


def test_further_mistakes_in_a_file_are_counted(write: Callable[..., Path]) -> None:
    assert "1 more to fix in this file" in refusal(write(plays={"lateness": "1h", "quiet_period": "1m"})).next_step


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere.yaml")
    assert error.subject == str(tmp_path / "nowhere.yaml")
    assert error.found == "no such file"
    assert "--conf or LAKEHOUSE_CONF" in error.next_step


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [("a: [1", "line ", "YAML"), ("- a\n- b\n", "list", "a mapping of keys"), ("", "NoneType", "a mapping of keys")],
)
def test_a_file_that_is_not_a_mapping_in_yaml_is_named(
    write: Callable[..., Path], text: str, found: str, expected: str
) -> None:
    conf = write()
    conf.write_text(text, encoding="utf-8")
    error = refusal(conf)
    assert error.subject == str(conf)
    assert found in error.found
    assert error.expected.startswith(expected)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"raw_root: a\nraw_root: b\n", "the key 'raw_root' twice, line 2, column 1"),
        (b"ingest:\n  trigger: a\n  'trigger': b\n", "the key 'trigger' twice, line 3, column 3"),
        ("raw_root: å\n".encode("latin-1"), "bytes that are no UTF-8, from byte 11 on"),
    ],
)
def test_a_key_that_is_there_twice_and_what_is_no_text_are_named(tmp_path: Path, content: bytes, found: str) -> None:
    """YAML's readers take the last one, and say nothing of the first: an application of a fleet would be gone."""
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        values_of(file)
    assert error.value.found == found


def test_what_a_merge_brings_may_be_said_otherwise(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\n")
    assert values_of(tmp_path / "x.yaml")["d"] == {"b": 3, "c": 2}


def test_an_unknown_topic_is_answered_with_those_there_are(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"topic 'play'.*expected one of plays") as caught:
        load(write()).topic("play")
    assert "add play.yaml" in caught.value.next_step


def test_a_wrong_configuration_ends_the_command_with_one_message(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main(["--conf", str(write(plays={"lateness": "1h"})), "reconcile"])
    assert ended.value.code == ConfigError.exit_code != 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "plays.yaml: lateness: found '1h'; expected a duration" in err


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ({"fields": {"event_ref": "struct<a: int>"}, "event_id": "payload.event_ref"}, "a string or an integer"),
        ({"fields": {"ref": "binary"}, "event_id": "payload.ref"}, "a string or an integer"),
        ({"fields": {"ref": "int"}, "event_id": "payload.ref.id"}, "lead through structs only"),
        ({"fields": {"played_at": "boolean"}}, "a string or a timestamp"),
        ({"fields": {"played_at": "bigint"}}, "a string or a timestamp"),
        (
            {"fields": {"played_at": "boolean"}, "event_time_unit": "ms"},
            "an integer, a double, a decimal, a string or a timestamp",
        ),
        *(
            ({"fields": {"played_at": "float"}, "event_time_unit": unit}, "(a float has too few digits)")
            for unit in ("s", "ms", "us", "ns")
        ),
        ({"fields": {"played_at": "float"}}, "a string or a timestamp"),
    ],
)
def test_an_id_or_a_time_is_declared_as_something_that_can_be_one(
    write: Callable[..., Path], topic: dict[str, Any], expected: str
) -> None:
    """Found at the first message instead, it would stop the topic's query."""
    error = refusal(write(plays=topic))
    assert "plays.yaml" in str(error)
    assert expected in error.expected


def test_the_spellings_of_the_first_release_are_still_read(write: Callable[..., Path]) -> None:
    """`dry` became `drained`, and `dry_after` `empty_after`: a configuration that works goes on to work."""
    former = load(write(frontier={"source": "dry"}, ingest={"dry_after": "3 seconds"})).settings
    assert (former.frontier.source, former.ingest.empty_after) == ("drained", timedelta(seconds=3))
    assert Ingest.model_validate_json(former.ingest.model_dump_json()) == former.ingest
    assert Ingest(empty_after=timedelta(seconds=3)) == former.ingest


@pytest.mark.parametrize(
    ("plays", "key", "expected"),
    [
        ({"fields": "x"}, "fields", "a dictionary"),
        ({"mirrors": "folder"}, "mirrors", "a "),
        ({"event_id": 5}, "event_id", "a string"),
        ({"max_rejected_share": "much"}, "max_rejected_share", "a number"),
        ({"max_rejected_share": 2}, "max_rejected_share", "less than or equal to 1"),
        ({"empty_hours": "sometimes"}, "empty_hours", "'"),
    ],
)
def test_what_a_key_should_be_is_said_in_our_words(
    write: Callable[..., Path], plays: dict[str, Any], key: str, expected: str
) -> None:
    error = refusal(write(plays=plays))
    assert error.subject.endswith(f"plays.yaml: {key}")
    assert error.expected.startswith(expected)
    assert not any(said in str(error) for said in ("Input should", "Field required", "valid"))


def test_every_wrong_key_of_a_file_is_named(write: Callable[..., Path]) -> None:
    """A file that is given in another's place would else say one key of many at each try."""
    conf = write()
    error = refusal(conf.parent / "topics" / "plays.yaml")
    assert (error.found, error.expected) == ("nothing", "a value, as this key is required")
    assert re.search(r"more to fix in this file: .*subscription", error.next_step)


@pytest.mark.parametrize("section", [{"small_rows": 7}, {}, None])
def test_a_section_that_has_no_effect_any_more_is_read_for_one_release(
    write: Callable[..., Path], section: object
) -> None:
    """`validation.small_rows` of release 0.1: a configuration that works goes on to work."""
    assert "validation" not in load(write(validation=section)).settings.model_dump()


@pytest.mark.parametrize("section", [{"small_row": 7}, [{}], "small_rows"])
def test_what_never_was_in_that_section_is_an_error(write: Callable[..., Path], section: object) -> None:
    assert refusal(write(validation=section)).found == "the unknown key 'validation'"
