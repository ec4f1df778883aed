"""A topic's files from a schema: of a file, of Pub/Sub's schema service, of a registry; and for a topic of Kafka."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.pubsub_v1 import types

from lakehouse.config import Config, load
from lakehouse.errors import LakehouseError
from lakehouse.operations.drafting import schema_sources
from lakehouse.sources import KafkaSource
from tests.fake_registries import FakeConfluentRegistry, FakeSchemaService
from tests.test_avro import logical
from tests.test_drafts import config as config
from tests.test_drafts import run as run

PLAY: dict[str, Any] = {
    "type": "record",
    "name": "Play",
    "namespace": "test",
    "fields": [
        {"name": "user_id", "type": "string"},
        {"name": "event_id", "type": "string"},
        {"name": "received_at", "type": logical("long", "timestamp-micros")},
        {"name": "played_at", "type": logical("long", "timestamp-micros")},
        {"name": "track", "type": {"type": "record", "name": "Track", "fields": [{"name": "ms", "type": "int"}]}},
    ],
}
PROTO = """
syntax = "proto3";
package test;
import "shared/track.proto";
message Play { string id = 1; int64 played_at_us = 2; shared.Track track = 3; }
message Other { int32 x = 1; }
"""
TRACK = 'syntax = "proto3"; package shared; message Track { int32 ms = 1; }'
Run = Callable[..., tuple[int, Any]]


def file_of(config: Config, name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((config.path.parent / "topics" / f"{name}.yaml").read_text())
    return values


def schema(config: Config, name: str) -> Path:
    return config.path.parent / "schemas" / name


def test_an_avro_schema_gives_the_topic(config: Config, run: Run, tmp_path: Path) -> None:
    """Without `fields`: they follow the schema. Of several times the one with the topic's verb in its name."""
    source = tmp_path / "play.avsc"
    source.write_text(json.dumps(PLAY))
    code, written = run("new", "tracks_played", "--from", str(source))
    assert code == 0
    assert schema(config, "tracks_played.avsc").read_bytes() == source.read_bytes()
    assert file_of(config, "tracks_played") == {
        "subscription": "projects/sandbox/subscriptions/tracks_played",
        "format": "avro",
        "schemas": ["tracks_played.avsc"],
        "event_id": "payload.event_id",
        "event_time": "payload.played_at",
        "event_time_unit": "iso8601",
        "lateness": "1 hour",
        "mirrors": [],
    }
    topic = load(config.path).topic("tracks_played")
    assert topic.fields == {
        "user_id": "string", "received_at": "timestamp", "played_at": "timestamp", "track": "struct<`ms`: int>",
    }  # fmt: skip
    unsure = {each["about"]: each["text"] for each in written["unsure"]}
    assert "payload.user_id could be it, too" in unsure["event_id"]
    assert "payload.received_at could be it, too" in unsure["event_time"]
    suite = json.loads((config.path.parent.parent / "expectations/tracks_played.json").read_text())
    assert [each["type"] for each in suite["expectations"]] == ["expect_volume_as_usual"]
    assert run("check")[0] == 0


def test_a_protobuf_schema_comes_with_what_it_imports(config: Config, run: Run, tmp_path: Path) -> None:
    source = tmp_path / "play.proto"
    source.write_text(PROTO)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/track.proto").write_text(TRACK)
    with pytest.raises(LakehouseError, match=r"which of test\.Play, test\.Other it is"):
        run("new", "proto_played", "--from", str(source))
    assert not schema(config, "proto_played.proto").exists()
    code, written = run("new", "proto_played", "--from", str(source), "--message", "Play")
    assert code == 0
    assert schema(config, "shared/track.proto").read_text() == TRACK
    values = file_of(config, "proto_played")
    assert (values["format"], values["message"], values["event_time_unit"]) == ("protobuf", "Play", "us")
    assert load(config.path).topic("proto_played").fields["track"] == "struct<`ms`: int>"
    assert "event_time_unit" in {each["about"] for each in written["unsure"]}


def test_a_schema_of_pubsub_s_service_is_read_by_its_newest_revision(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = FakeSchemaService()
    service.commit("projects/p/schemas/plays", types.Schema.Type.AVRO, '"string"')
    service.commit("projects/p/schemas/plays", types.Schema.Type.AVRO, json.dumps(PLAY))
    with service.served() as address:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
        code, _ = run("new", "served", "--from", "projects/p/schemas/plays", "--event-time", "publish_time")
        with pytest.raises(LakehouseError, match="no such schema"):
            run("new", "missing", "--from", "projects/p/schemas/none")
    assert code == 0
    values = file_of(config, "served")
    assert (values["registry"], values["event_time"]) == ({"kind": "pubsub"}, "publish_time")
    assert json.loads(schema(config, "served.avsc").read_text()) == PLAY


def test_a_schema_of_a_registry_comes_with_its_references_and_the_keys_of_others(config: Config, run: Run) -> None:
    """Avro's are written into one file; the second topic has the first one's credentials."""
    registry = FakeConfluentRegistry()
    track, play = (
        PLAY["fields"][4]["type"],
        {**PLAY, "fields": [*PLAY["fields"][:4], {"name": "track", "type": "test.Track"}]},
    )
    registry.register("track", json.dumps({**track, "namespace": "test"}))
    registry.register(
        "plays-value", json.dumps(play), references=[{"name": "test.Track", "subject": "track", "version": 1}]
    )
    with registry.served() as url:
        code, _ = run("new", "registered", "--from", f"{url}/subjects/plays-value")
        assert code == 0
        assert file_of(config, "registered")["registry"] == {"kind": "confluent", "url": url}
        assert load(config.path).topic("registered").fields["track"] == "struct<`ms`: int>"
        topics = config.path.parent / "topics"
        text = (topics / "registered.yaml").read_text()
        (topics / "registered.yaml").write_text(text.replace(f'"url": "{url}"', "").replace(
            f'url: "{url}"', f'url: "{url}", auth: basic, user: reader, password: "${{WORD}}"'))  # fmt: skip
        declared = load(config.path).topic("registered").registry
        assert schema_sources._registry_at(url, load(config.path)) == declared
        with pytest.raises(LakehouseError, match="no such subject"):
            schema_sources.found_schema(f"{url}/subjects/none", "x", config)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.avsc", '{"type": "recor"}', "no Avro schema"),
        ("a.avsc", json.dumps({**PLAY, "fields": PLAY["fields"][2:]}), "no field that is called an id"),
        ("a.proto", "message", "Expected message name"),
        ("a.desc", "x", "no FileDescriptorSet"),
        ("none.avsc", None, "No such file"),
    ],
)
def test_a_schema_that_gives_no_topic_is_refused(
    name: str, content: str | None, expected: str, run: Run, config: Config, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(LakehouseError, match=expected):
        run("new", "refused", "--from", str(tmp_path / name))
    assert not list(config.path.parent.glob("*/refused*"))


def test_a_schema_s_file_that_is_another_is_not_replaced(config: Config, run: Run, tmp_path: Path) -> None:
    (tmp_path / "play.avsc").write_text(json.dumps(PLAY))
    there = schema(config, "kept.avsc")
    there.parent.mkdir(exist_ok=True)
    there.write_text("another")
    with pytest.raises(LakehouseError, match=r"kept\.avsc"):
        run("new", "kept", "--from", str(tmp_path / "play.avsc"))
    assert there.read_text() == "another"
    assert not list(config.path.parent.glob("topics/kept*"))


def test_a_topic_of_kafka_has_the_settings_of_others_of_its_cluster(config: Config, run: Run, tmp_path: Path) -> None:
    source = tmp_path / "samples.jsonl"
    source.write_text(
        '{"id": "e1", "at": "2026-11-23T05:00:00Z", "n": 1}\n{"id": "e2", "at": "2026-11-23T05:00:01Z", "n": 2}'
    )
    code, _ = run("new", "first_logged", "--from", str(source), "--subscription", "kafka://h:9092/plays.v1")
    assert code == 0
    file = config.path.parent / "topics/first_logged.yaml"
    assert file_of(config, "first_logged")["source"] == {"kind": "kafka", "bootstrap": "h:9092", "topic": "plays.v1"}
    options = 'topic: "plays.v1", group: "g", options: {sasl.username: u}'
    file.write_text(file.read_text().replace('topic: "plays.v1"', options))
    assert run("new", "then_logged", "--from", str(source), "--subscription", "kafka://h:9092/plays.v2")[0] == 0
    reads = load(config.path).topic("then_logged").reads
    assert reads == KafkaSource(bootstrap="h:9092", topic="plays.v2", group="g", options={"sasl.username": "u"})
    with pytest.raises(LakehouseError, match="which the topic first_logged reads"):
        run("new", "twice_logged", "--from", str(source), "--subscription", "kafka://h:9092/plays.v1")
