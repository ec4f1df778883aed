"""Messages that name their schema: it is asked for once, and no message is lost or rejected while it cannot be had."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import google.auth
import grpc
import pyarrow as pa
import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.pubsub_v1 import types
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from subscribing import SUBSCRIPTION, TOPIC, subscribed_broker

from lakehouse import concealed, local_cache, protoc
from lakehouse.config import Ingest, topic_of
from lakehouse.decode import compression
from lakehouse.decode.events import decode
from lakehouse.errors import ConfigError, LakehouseError, SourceError, UnansweredError
from lakehouse.landing.brokers.pubsub import Pauses
from lakehouse.landing.quarantine import QuarantiningDecoder
from lakehouse.landing.registries import writers as registry_writers
from lakehouse.landing.registries.confluent import HttpRegistry
from lakehouse.landing.registries.references import inlined
from lakehouse.landing.registries.schema_service import SchemaServiceRegistry
from lakehouse.landing.registries.writers import Writers, schemas_of
from lakehouse.landing.slots import Slot
from lakehouse.payload_types import UnreadableSchemaError
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.sources import ConfluentRegistry, SchemaService
from lakehouse.topics import Topic
from tests.decoded import decoded_rows
from tests.examples import examples
from tests.fake_registries import FakeConfluentRegistry, FakeSchemaService
from tests.pulls import facts_of, land_of
from tests.test_avro import ID_AND_TIME, schema_of, topic_of_schemas, with_field, written
from tests.test_parse import PLAYED, delivered
from tests.test_protobuf import HEAD, SECONDS, field, plain, text_of, topic_of_schema

AVRO, PROTOBUF = types.Schema.Type.AVRO, types.Schema.Type.PROTOCOL_BUFFER
NAME = "projects/test/schemas/plays"
QUICK = Pauses(timedelta(milliseconds=1), timedelta(milliseconds=5), timedelta(milliseconds=200))


class Time:
    """Seconds that pass only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test is a machine that has seen no schema."""
    monkeypatch.setattr(local_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    registry_writers._writers.cache_clear()
    yield
    registry_writers._writers.cache_clear()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSchemaService]:
    fake = FakeSchemaService()
    with fake.served() as address:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
        monkeypatch.setattr(registry_writers, "registry_of", lambda declared: SchemaServiceRegistry(QUICK))
        yield fake


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeConfluentRegistry]:
    """By `url` where topics find it; pauses take no time."""
    fake = FakeConfluentRegistry()
    time = Time()
    monkeypatch.setattr(
        registry_writers, "registry_of", lambda declared: HttpRegistry(declared, sleep=time.sleep, clock=time.clock)
    )
    with fake.served() as fake.url:  # type: ignore[attr-defined]
        yield fake


def read(topic: Topic, messages: pa.RecordBatch) -> list[dict[str, Any]]:
    return decoded_rows(messages, topic, schemas_of(topic))


def reasons(topic: Topic, messages: pa.RecordBatch) -> list[str | None]:
    return [row["reject_reason"] for row in read(topic, messages)]


# --- Pub/Sub's schema service ----------------------------------------------------------------------------------------


def said(revision: str, encoding: str = "BINARY", name: str = NAME) -> dict[str, str]:
    """As Pub/Sub's attributes."""
    return {
        "googclient_schemaname": name,
        "googclient_schemarevisionid": revision,
        "googclient_schemaencoding": encoding,
    }


OLDER = schema_of({**ID_AND_TIME, "n": {"name": "n", "type": "int"}, "old": {"name": "old", "type": "string"}})
NEWER = schema_of(
    {
        **ID_AND_TIME,
        "count": {"name": "count", "type": "long", "aliases": ["n"]},
        "user": {"name": "user", "type": ["null", "string"], "default": None},
    }
)
AVRO_TOPIC = topic_of_schemas(NEWER, registry={"kind": "pubsub"})
OLD_RECORD = {"id": "e1", "at": PLAYED, "n": 3, "old": "x"}
NEW_RECORD = {"id": "e2", "at": PLAYED, "count": 4, "user": "u"}


def test_each_message_is_read_by_its_own_revision(service: FakeSchemaService) -> None:
    """By Avro's resolution: an alias, a promotion, a default. One question for each revision."""
    older, newer = (service.commit(NAME, AVRO, json.dumps(schema)) for schema in (OLDER, NEWER))
    payloads = [written(OLDER, OLD_RECORD), written(NEWER, NEW_RECORD)] * 5
    rows = read(AVRO_TOPIC, delivered(payloads, [said(older), said(newer)] * 5))
    assert [(row["event"]["count"], row["event"]["user"]) for row in rows] == [(3, None), (4, "u")] * 5
    assert sorted(service.asked) == [f"{NAME}@{older}", f"{NAME}@{newer}"]


def test_a_message_without_the_attributes_is_of_the_topic_s_own_schema(service: FakeSchemaService) -> None:
    assert read(AVRO_TOPIC, delivered([written(NEWER, NEW_RECORD)]))[0]["event"]["count"] == 4
    assert service.asked == []


def avro_json(record: dict[str, Any]) -> bytes:
    micros = int(record["at"].timestamp()) * 1000
    return json.dumps({**record, "at": micros}, indent=1).encode()


def test_avro_s_json_encoding_is_read(service: FakeSchemaService) -> None:
    """With the branch of a union by its name; what is no such JSON is rejected."""
    revision = service.commit(NAME, AVRO, json.dumps(NEWER))
    good = avro_json({**NEW_RECORD, "user": {"string": "å"}})
    payloads = [
        good,
        avro_json({**NEW_RECORD, "user": None}),
        good[:-2],
        b"\xff",
        avro_json({**NEW_RECORD, "count": "x"}),
    ]
    rows = read(AVRO_TOPIC, delivered(payloads, [said(revision, "JSON")] * len(payloads)))
    assert [row["event"] and row["event"]["user"] for row in rows] == ["å", None, None, None, None]
    assert [row["reject_reason"] for row in rows] == [None, None, *["not Avro"] * 3]


PLAY = plain("Play", "int64 count = 3; string user = 4;")
PROTO_TOPIC = topic_of_schema(PLAY, registry={"kind": "pubsub"})


def test_protobuf_s_json_form_is_read_by_the_names_of_its_writer(service: FakeSchemaService) -> None:
    """`plays` is `count` by now, of the same number; a number may be a text, and what is unknown is left out."""
    revision = service.commit(NAME, PROTOBUF, plain("Play", "int32 plays = 3; string userName = 4;"))
    good = {"id": "e1", "at": str(SECONDS * 1000), "plays": 3, "userName": "u", "more": [1]}
    payloads = [json.dumps(good).encode(), b'{"id": 5}', b"{", b"\xff"]
    rows = read(PROTO_TOPIC, delivered(payloads, [said(revision, "JSON")] * 4))
    assert rows[0]["event"] == {"id": "e1", "at": SECONDS * 1000, "count": 3, "user": "u"}
    assert [row["reject_reason"] for row in rows] == [None, *["not Protobuf"] * 3]


def test_protobuf_s_binary_form_is_read_beside_it(service: FakeSchemaService) -> None:
    revision = service.commit(NAME, PROTOBUF, PLAY)
    text = json.dumps({"id": "e2", "at": SECONDS * 1000, "count": "9007199254740993"}).encode()
    messages = delivered([HEAD + field(3, 7), text], [said(revision), said(revision, "JSON")])
    assert [row["event"]["count"] for row in read(PROTO_TOPIC, messages)] == [7, 2**53 + 1]


@pytest.mark.parametrize(
    "named",
    [
        said("0000000f"),
        said("_deleted-schema-revision_"),
        said("00000001", name="_deleted-schema_"),
        said("00000001", name="projects/test/schemas/other"),
        said("not a revision"),
        said("00000001", name="plays"),
    ],
)
def test_a_schema_that_is_gone_rejects_its_messages_only(service: FakeSchemaService, named: dict[str, str]) -> None:
    """They stay in bronze as they came, and can be read again."""
    revision = service.commit(NAME, AVRO, json.dumps(NEWER))
    payload = written(NEWER, NEW_RECORD)
    assert reasons(AVRO_TOPIC, delivered([payload] * 2, [said(revision), named])) == [None, "unknown schema"]


def test_a_schema_of_another_format_or_none_rejects_its_messages(service: FakeSchemaService) -> None:
    other, wrong = service.commit(NAME, PROTOBUF, PLAY), service.commit(NAME, AVRO, '{"type": "recor"}')
    messages = delivered([b"x"] * 2, [said(other), said(wrong)])
    assert reasons(AVRO_TOPIC, messages) == ["unknown schema"] * 2


def test_who_may_not_ask_is_told_which_role_is_missing(service: FakeSchemaService) -> None:
    service.failures.append((grpc.StatusCode.PERMISSION_DENIED, "User not authorized to perform this action."))
    messages = delivered([b"x"], [said("00000001")])
    with pytest.raises(SourceError, match=r"no permission .*roles/pubsub\.viewer.*pubsub\.schemas\.get") as denied:
        read(AVRO_TOPIC, messages)
    assert not isinstance(denied.value, UnansweredError)


def test_a_service_that_is_away_is_waited_for(service: FakeSchemaService) -> None:
    revision = service.commit(NAME, AVRO, json.dumps(NEWER))
    messages = delivered([written(NEWER, NEW_RECORD)], [said(revision)])
    service.failures.extend([(grpc.StatusCode.UNAVAILABLE, "away")] * 2)
    assert reasons(AVRO_TOPIC, messages) == [None]
    registry_writers._writers.cache_clear()
    service.failures.extend([(grpc.StatusCode.UNAVAILABLE, "away")] * 100_000)
    assert reasons(AVRO_TOPIC, messages) == [None], "this machine has it by now"
    with pytest.raises(UnansweredError, match="UNAVAILABLE: away"):
        read(AVRO_TOPIC, delivered([b"x"], [said("00000009")]))


# --- a registry of Confluent's kind ----------------------------------------------------------------------------------


def framed(schema_id: int, body: bytes, indexes: bytes = b"") -> bytes:
    return b"\0" + struct.pack(">I", schema_id) + indexes + body


def avro_topic(registry: FakeConfluentRegistry, **changes: Any) -> Topic:
    declared = {"kind": "confluent", "url": registry.url, **changes}  # type: ignore[attr-defined]
    return topic_of_schemas(NEWER, registry=declared)


def proto_topic(registry: FakeConfluentRegistry, **changes: Any) -> Topic:
    declared = {"kind": "confluent", "url": registry.url}  # type: ignore[attr-defined]
    return topic_of_schema(PLAY, registry=declared, **changes)


def test_each_message_is_read_by_the_schema_of_its_id(registry: FakeConfluentRegistry) -> None:
    older, newer = (registry.register("plays-value", json.dumps(schema)) for schema in (OLDER, NEWER))
    topic = avro_topic(registry)
    payloads = [framed(older, written(OLDER, OLD_RECORD)), framed(newer, written(NEWER, NEW_RECORD))] * 3
    rows = read(topic, delivered(payloads))
    assert [(row["event_id"], row["event"]["count"]) for row in rows] == [("e1", 3), ("e2", 4)] * 3
    assert sorted(registry.asked) == [f"/schemas/ids/{older}", f"/schemas/ids/{newer}"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no schema id"),
        (None, "no schema id"),
        (b"\0\0\0\0", "no schema id"),
        (b'{"id": 1}', "no schema id"),
        (framed(7, b"x"), "unknown schema"),
    ],
)
def test_what_names_no_schema_is_rejected(registry: FakeConfluentRegistry, payload: bytes | None, reason: str) -> None:
    newer = registry.register("plays-value", json.dumps(NEWER))
    clean = framed(newer, written(NEWER, NEW_RECORD))
    assert reasons(avro_topic(registry), delivered([clean, payload, clean])) == [None, reason, None]


def test_a_schema_that_is_not_there_is_asked_for_again_later(registry: FakeConfluentRegistry) -> None:
    """A registry that is restored from a copy has it a minute later; nobody asks for each message meanwhile."""
    time = Time()
    known = Writers(HttpRegistry(ConfluentRegistry(kind="confluent", url=registry.url)), "x", "avro", time.clock)  # type: ignore[attr-defined]
    assert [known.texts({"100001": 1}), known.texts({"100001": 1})] == [{}, {}]
    assert len(registry.asked) == 1
    registry.register("plays-value", json.dumps(NEWER))
    assert known.texts({"100001": 1}) == {}
    time.now = 61
    assert known.texts({"100001": 1}) == {"100001": json.dumps(NEWER)}


def test_a_page_of_garbage_that_names_a_schema_in_each_message_stops_nothing(registry: FakeConfluentRegistry) -> None:
    """Avro without a frame may begin with a 0: the four bytes after it are no id. Small and frequent ids come first."""
    once, often = (registry.register("plays-value", json.dumps(NEWER)) for _ in range(2))
    good = [framed(number, written(NEWER, NEW_RECORD)) for number in (once, often, often)]
    garbage = [framed(3_000_000 + n, b"x") for n in range(1_500)]
    page = delivered(garbage[:700] + good + garbage[700:])
    topic = avro_topic(registry)
    assert Counter(reasons(topic, page)) == {"unknown schema": 1_500, None: 3}
    assert 1_000 <= len(registry.asked) < 1_100
    assert reasons(topic, delivered([garbage[0], garbage[-1], good[0]])) == ["unknown schema", "unknown schema", None]
    assert len(registry.asked) < 1_100


def test_a_number_that_is_no_id_is_asked_of_nobody(registry: FakeConfluentRegistry) -> None:
    """Of a larger one than Java's int the registry says that there is no such page, as what is no registry does."""
    newer = registry.register("plays-value", json.dumps(NEWER))
    heads = [b"\x80\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"]
    page = [*(b"\0" + head + b"x" for head in heads), framed(newer, written(NEWER, NEW_RECORD))]
    assert reasons(avro_topic(registry), delivered(page)) == ["unknown schema"] * 4 + [None]
    assert len(registry.asked) == 3


OTHERS = 'syntax = "proto3"; package test; message Other { string id = 1; message Deep { int32 x = 1; } } '


@pytest.mark.parametrize(
    ("indexes", "reason"),
    [
        (b"\x00", "other message"),
        (b"\x02\x00", "other message"),
        (b"\x02\x02", None),
        (b"\x04\x00\x00", "other message"),
        (b"\x02\x08", "other message"),
        (b"", "no schema id"),
        (b"\x01", "no schema id"),
        (b"\x02\x01", "no schema id"),
        (b"\xff\xff\xff\xff\x0f", "no schema id"),
        (b"\xff\xff\xff\xff\xff\xff", "no schema id"),
    ],
)
def test_protobuf_s_message_is_found_by_its_place(
    registry: FakeConfluentRegistry, indexes: bytes, reason: str | None
) -> None:
    """One topic may carry several messages: those of another are rejected by that name."""
    schema = registry.register("plays-value", OTHERS + PLAY.partition(";")[2].partition(";")[2], "PROTOBUF")
    body = HEAD + field(3, 5) if indexes else b""
    assert reasons(proto_topic(registry), delivered([framed(schema, body, indexes)])) == [reason]


def test_references_are_followed(registry: FakeConfluentRegistry) -> None:
    """Of Avro, by the full names of types; of Protobuf, by the paths that are imported; at any depth."""
    ids = {"type": "record", "name": "Ids", "namespace": "shared", "fields": [{"name": "n", "type": "int"}]}
    track = {"type": "record", "name": "Track", "namespace": "shared", "fields": [{"name": "ids", "type": "Ids"}]}
    registry.register("ids", json.dumps(ids))
    refers = [{"name": "shared.Ids", "subject": "ids", "version": 1}]
    registry.register("track", json.dumps(track), references=refers)
    play = with_field("shared.Track")
    refers = [{"name": "shared.Track", "subject": "track", "version": 1}]
    number = registry.register("plays-value", json.dumps(play), references=refers)
    whole = with_field({**track, "fields": [{"name": "ids", "type": ids}]})
    declared = {"kind": "confluent", "url": registry.url}  # type: ignore[attr-defined]
    topic = topic_of_schemas(whole, registry=declared)
    record = {"id": "e1", "at": PLAYED, "x": {"ids": {"n": 7}}}
    assert read(topic, delivered([framed(number, written(whole, record))]))[0]["event"]["x"] == {"ids": {"n": 7}}

    registry.register("track.proto", 'syntax = "proto3"; package shared; message Track { int32 n = 1; }', "PROTOBUF")
    body = 'syntax = "proto3"; package test; import "shared/track.proto"; message Play { string id = 1; int64 at = 2; '
    refers = [{"name": "shared/track.proto", "subject": "track.proto", "version": 1}]
    number = registry.register("p", f"{body} shared.Track track = 3; }}", "PROTOBUF", refers)
    topic = topic_of_schema(plain("Play", "message Own { int32 n = 1; } Own track = 3;"), registry=declared)
    payload = framed(number, HEAD + field(3, field(1, 5)), b"\0")
    assert read(topic, delivered([payload]))[0]["event"]["track"] == {"n": 5}


def test_a_type_that_is_used_twice_is_written_out_once() -> None:
    enum = {"type": "enum", "name": "K", "namespace": "s", "symbols": ["A"]}
    text = json.dumps(with_field({"type": "array", "items": ["null", "s.K"]}))
    found = json.loads(inlined(text.replace('"string"', '"s.K"'), {"s.K": json.dumps(enum)}))
    assert found["fields"][0]["type"] == enum
    assert found["fields"][2]["type"]["items"] == ["null", "s.K"]
    with pytest.raises(UnreadableSchemaError):
        inlined("{", {"a": "{}"})


def ask(registry: FakeConfluentRegistry, **changes: Any) -> Any:
    time = Time()
    declared = ConfluentRegistry(kind="confluent", url=registry.url, **changes)  # type: ignore[attr-defined]
    return HttpRegistry(declared, sleep=time.sleep, clock=time.clock).definition("100001")


@pytest.mark.parametrize(
    "failure",
    [
        (429, {"error_code": 429, "message": "Rate limit exceeded"}, {"Retry-After": "1"}),
        (500, {"error_code": 50001, "message": "Error in the backend data store"}, {}),
        (503, b"<html>", {}),
        None,
    ],
)
def test_what_passes_is_waited_out_and_what_does_not_is_an_error_that_may_pass(
    registry: FakeConfluentRegistry, failure: Any
) -> None:
    registry.register("plays-value", json.dumps(NEWER))
    registry.failures.extend([failure] * 3)
    assert ask(registry).text == json.dumps(NEWER)
    registry.failures.extend([failure] * 1_000)
    with pytest.raises(UnansweredError, match="Nothing is lost"):
        ask(registry)


@pytest.mark.parametrize(
    ("kind", "schema", "name", "text"),
    [
        ("AVRO", json.dumps(with_field("x.U")), "x.U", '["null", "int"]'),
        ("AVRO", json.dumps(with_field("x.U")), "x.U", '"x.U"'),
        ("PROTOBUF", PLAY, "a\0b.proto", PLAY),
        ("PROTOBUF", PLAY, "\ud800.proto", PLAY),
        ("PROTOBUF", PLAY, "é" * 150 + ".proto", PLAY),
        ("PROTOBUF", PLAY, "lakehouse.proto/x.proto", PLAY),
        ("PROTOBUF", PLAY + "// \ud800", "a.proto", PLAY),
    ],
)
def test_a_schema_that_cannot_be_put_together_rejects_its_messages(
    registry: FakeConfluentRegistry, kind: str, schema: str, name: str, text: str
) -> None:
    """Whatever it refers to and by whatever name: no machine is to blame for it, and no slot fails."""
    registry.register("other", text, kind)
    number = registry.register("p", schema, kind, [{"name": name, "subject": "other", "version": 1}])
    topic = avro_topic(registry) if kind == "AVRO" else proto_topic(registry)
    assert reasons(topic, delivered([framed(number, b"\0x")])) == ["unknown schema"]


def test_one_that_hangs_is_not_waited_for_without_an_end(registry: FakeConfluentRegistry) -> None:
    registry.hangs.set()
    time = Time()
    declared = ConfluentRegistry(kind="confluent", url=registry.url)  # type: ignore[attr-defined]
    within = timedelta(seconds=0.05)
    asked = HttpRegistry(declared, answers_within=within, patience=within, sleep=time.sleep, clock=time.clock)
    with pytest.raises(UnansweredError, match="timed out"):
        asked.definition("100001")


@pytest.mark.parametrize("status", [b"200 OK", b"500 Oh"])
@pytest.mark.parametrize(
    ("body", "found"),
    [
        ([b"{"], "an answer that was cut off"),
        ([b"{"] + [b" ", 0.04] * 50, "no whole answer in 0.2 s"),
        ([b"{", 1.0], "timed out"),
    ],
)
def test_an_answer_that_does_not_end_is_asked_for_again_and_not_waited_for(
    status: bytes, body: list[bytes | float], found: str
) -> None:
    """Also that of a proxy in trouble, with the text of its error. A number is a pause in seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 1000\r\n\r\n")
                for each in body:
                    connection.sendall(each) if isinstance(each, bytes) else time.sleep(each)

        thread = threading.Thread(target=serve)
        thread.start()
        declared = ConfluentRegistry(kind="confluent", url=f"http://127.0.0.1:{server.getsockname()[1]}")
        within = timedelta(seconds=0.2)
        with pytest.raises(UnansweredError, match=found):
            HttpRegistry(declared, answers_within=within, patience=timedelta(0)).definition("1")
        thread.join()


@pytest.mark.parametrize("url", ["http://[::1", "http://h..x:1", f"http://{'h' * 64}:1", "http://h:port"])
def test_an_address_of_no_host_is_an_error_of_the_topic_s_file(url: str) -> None:
    with pytest.raises(SourceError, match=r"Fix `registry\.url`|Nothing is lost"):
        HttpRegistry(ConfluentRegistry(kind="confluent", url=url), patience=timedelta(0)).definition("1")


@pytest.mark.parametrize(
    ("failure", "found"),
    [
        ((401, {"error_code": 401, "message": "Unauthorized"}, {}), r"HTTP 401: Unauthorized.*`user` and `password`"),
        ((403, {"error_code": 40301, "message": "Denied"}, {}), r"HTTP 403: Denied"),
        ((400, {"message": "x" * 10_000}, {}), r"HTTP 400: x{300}, to /schemas/ids/100001"),
        ((404, b"<html>no such page", {}), r"HTTP 404: no message, to /schemas/ids/100001.*Fix `registry\.url`"),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), r"HTTP 302"),
        ((200, b"<html>a portal", {}), r"without a schema"),
        ((200, {"schema": 5}, {}), r"without a schema"),
        ((200, b"[" * 100_000, {}), r"without a schema"),
        ((204, b"", {}), r"without a schema"),
        ((200, b"\x1f\x8b\x08\0", {"Content-Encoding": "gzip"}), r"without a schema"),
        ((200, b" " * (4 * 1024**2 + 1), {}), r"more than 4,194,304 bytes"),
        ((200, {"schema": "{}", "references": 5}, {}), r"references that do not say"),
        ((200, {"schema": "{}", "references": ["test.Track"]}, {}), r"references that do not say"),
        ((200, {"schema": "{}", "references": [{"name": "a", "subject": "b"}]}, {}), r"references that do not say"),
        ((200, {"schema": "{}", "references": [{"name": "a", "subject": "b", "version": "x"}]}, {}), r"references"),
    ],
)
def test_what_is_no_registry_or_refuses_us_is_an_error_and_rejects_nothing(
    registry: FakeConfluentRegistry, failure: Any, found: str
) -> None:
    registry.failures.append(failure)
    with pytest.raises(SourceError, match=found) as error:
        ask(registry)
    assert not isinstance(error.value, UnansweredError)
    assert len(registry.asked) == 1


def test_credentials_come_from_the_environment_and_are_not_shown(
    registry: FakeConfluentRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = concealed.know_only(())
    try:
        registry.user, registry.password = "reader", "s3cret-word"
        registry.register("plays-value", json.dumps(NEWER))
        given = {"auth": "basic", "user": "reader", "password": "${REGISTRY_PASSWORD}"}
        with pytest.raises(ConfigError, match=r"registry\.password.*REGISTRY_PASSWORD"):
            ask(registry, **given)
        monkeypatch.setenv("REGISTRY_PASSWORD", "s3cret-word")
        assert ask(registry, **given).format == "avro"
        assert concealed.without_secrets("its word is s3cret-word") == "its word is (not shown)"
        with pytest.raises(SourceError, match="HTTP 401"):
            ask(registry)
    finally:
        concealed.know_only(before)


class Credentials:
    """Google's, whose token ends when a test says so."""

    token, valid, refreshed = "", False, 0

    def refresh(self, request: Any) -> None:
        self.refreshed += 1
        self.token, self.valid = f"s3cret-token-{self.refreshed}", True


def test_google_s_token_is_kept_until_it_ends(registry: FakeConfluentRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    before = concealed.know_only(())
    credentials = Credentials()
    monkeypatch.setattr(google.auth, "default", lambda scopes: (credentials, None))
    try:
        declared = ConfluentRegistry(kind="confluent", url=registry.url, auth="google")  # type: ignore[attr-defined]
        asked = HttpRegistry(declared)
        assert [asked.definition(str(number)) for number in range(3)] == [None] * 3
        assert credentials.refreshed == 1
        credentials.valid = False
        asked.definition("3")
        assert credentials.refreshed == 2
        assert concealed.without_secrets("s3cret-token-2") == "(not shown)"
    finally:
        concealed.know_only(before)


@pytest.mark.parametrize(
    ("error", "kind", "found"),
    [
        (DefaultCredentialsError("File /none.json was not found."), SourceError, "no Google credentials here"),
        (RefreshError("invalid_grant"), UnansweredError, "no token of Google: invalid_grant"),
    ],
)
def test_google_s_credentials_that_are_none_are_named(
    error: Exception, kind: type[SourceError], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def default(scopes: Any) -> Any:
        raise error

    monkeypatch.setattr(google.auth, "default", default)
    declared = ConfluentRegistry(kind="confluent", url="http://127.0.0.1:1", auth="google")
    with pytest.raises(kind, match=found):
        HttpRegistry(declared, patience=timedelta(0)).definition("1")


def test_an_empty_page_decodes_to_no_rows(registry: FakeConfluentRegistry) -> None:
    for topic in (avro_topic(registry), proto_topic(registry), PROTO_TOPIC):
        assert read(topic, delivered([])) == []


# --- evolution -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "path"),
    [
        ("int64 count = 3; string user = 4;", None),
        ("bool count = 3; bytes user = 4; int32 more = 5;", None),
        ("reserved 3;", None),
        ("sint64 count = 3;", "count"),
        ("string count = 3;", "count"),
        ("int64 count = 3; Play user = 4;", "user"),
    ],
)
def test_a_field_that_was_written_otherwise_rejects_its_writer_s_messages(
    registry: FakeConfluentRegistry, theirs: str, path: str | None
) -> None:
    """Also where nobody could see it in the bytes: a `sint64` that is read as `int64` is another number."""
    usual, other = (registry.register("p", schema, "PROTOBUF") for schema in (PLAY, plain("Play", theirs)))
    payloads = [framed(usual, HEAD + field(3, 6), b"\0"), framed(other, HEAD + field(3, 6), b"\0")]
    if path == "user":
        payloads[1] = framed(other, HEAD, b"\0")
    expected = None if path is None else f"wrong type: {path}"
    assert reasons(proto_topic(registry), delivered(payloads)) == [None, expected]
    fields = {"id": "string"}
    assert reasons(proto_topic(registry, fields=fields), delivered(payloads)) == [None, None], "nobody wants it"


def test_inner_fields_are_compared_too(registry: FakeConfluentRegistry) -> None:
    body = "message In {{ {} x = 1; }} repeated In items = 3; map<string, In> named = 4;"
    topic = topic_of_schema(plain("Play", body.format("int32")), registry={"kind": "confluent", "url": registry.url})  # type: ignore[attr-defined]
    number = registry.register("p", plain("Play", body.format("double")), "PROTOBUF")
    assert reasons(topic, delivered([framed(number, HEAD, b"\0")])) == ["wrong type: items.x"]
    at = 'syntax = "proto3"; package test; import "google/protobuf/{0}.proto"; message Play {{ string id = 1; '
    at += "int64 at = 2; google.protobuf.{1} x = 3; }}"
    topic = topic_of_schema(at.format("timestamp", "Timestamp"), registry=topic.registry)
    number = registry.register("q", at.format("duration", "Duration"), "PROTOBUF")
    assert reasons(topic, delivered([framed(number, HEAD, b"\0")])) == ["wrong type: x"]


@pytest.mark.parametrize(("theirs", "reason"), [("int", None), ("string", "wrong type: x"), (["null", "long"], None)])
def test_avro_says_which_field_does_not_resolve(
    registry: FakeConfluentRegistry, theirs: Any, reason: str | None
) -> None:
    """A union of the writer's resolves where the branch does that was written."""
    value = "text" if theirs == "string" else 5
    number = registry.register("p", json.dumps(with_field(theirs)))
    topic = topic_of_schemas(with_field("long"), registry={"kind": "confluent", "url": registry.url})  # type: ignore[attr-defined]
    payload = framed(number, written(with_field(theirs), {"id": "e", "at": PLAYED, "x": value}))
    assert reasons(topic, delivered([payload])) == [reason]


def test_no_writer_s_schema_makes_ten_bytes_announce_any_number(registry: FakeConfluentRegistry) -> None:
    """An array of items that take no bytes: the topic's own schema may have none, either."""
    number = registry.register("p", json.dumps(with_field({"type": "array", "items": "null"})))
    assert reasons(
        avro_topic(registry), delivered([framed(number, b"\x02e\0\xfe\xff\xff\xff\xff\xff\xff\xff\x7f")])
    ) == ["unknown schema"]


def test_a_protoc_that_was_killed_says_nothing_of_the_schema(
    registry: FakeConfluentRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine rejects no message: the slot fails, and is tried again."""
    number = registry.register("p", PLAY, "PROTOBUF")
    messages, topic = delivered([framed(number, HEAD + field(3, 6), b"\0")]), proto_topic(registry)
    run = protoc._run
    monkeypatch.setattr(protoc, "_run", lambda command, folder: run(["sh", "-c", "kill -9 $$"], folder))
    with pytest.raises(OSError, match="signal 9"):
        read(topic, messages)
    monkeypatch.setattr(protoc, "_run", run)
    assert reasons(topic, messages) == [None]


# --- any page --------------------------------------------------------------------------------------------------------

CONFLUENT = {"kind": "confluent", "url": "http://nowhere:1"}
KNOWN_AVRO = topic_of_schemas(NEWER, registry=CONFLUENT).with_writers({"1": json.dumps(OLDER), "2": json.dumps(NEWER)})
KNOWN_PROTOBUF = topic_of_schema(PLAY, registry=CONFLUENT).with_writers(
    {"1": text_of(plain("Play", "bool count = 3; bytes user = 4;")), "2": text_of(plain("Play", "sint64 count = 3;"))}
)
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "googclient_schemaname": st.sampled_from([NAME, "_deleted-schema_", "", "a\nb"]),
        "googclient_schemarevisionid": st.sampled_from(["1", "2", "3", "_deleted-schema-revision_", ""]),
        "googclient_schemaencoding": st.sampled_from(["JSON", "BINARY", "", "x"]),
    },
)
OLD_RECORDS = st.fixed_dictionaries(
    {
        "id": st.text(max_size=3),
        "at": st.just(PLAYED),
        "n": st.integers(-(2**31), 2**31 - 1),
        "old": st.text(max_size=3),
    }
)
BODIES = st.one_of(
    st.binary(max_size=12),
    OLD_RECORDS.map(lambda record: written(OLDER, record)),
    OLD_RECORDS.map(lambda record: avro_json(record)),
    st.integers(0, 2**40).map(lambda number: HEAD + field(3, number)),
    st.just(json.dumps({"id": "e", "at": SECONDS * 1000, "plays": 3}).encode()),
)
HEADS = st.sampled_from([b"", b"\0", b"\0\0\0\0\1", b"\0\0\0\0\2", b"\0\0\0\0\3", b"\1\0\0\0\1"])
INDEXES = st.sampled_from([b"", b"\0", b"\2\0", b"\2\2", b"\4\0\0", b"\xff"])
FRAMED = st.tuples(HEADS, INDEXES, BODIES).map(b"".join)


def by_service(topic: Topic) -> Topic:
    """With the same schemas as revisions of Pub/Sub's."""
    texts = {f"{NAME}@{number}": text for number, text in topic.writers.items()}
    return topic.model_copy(update={"registry": SchemaService()}).with_writers(texts)


@settings(max_examples=examples(200), deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(FRAMED | BODIES, ATTRIBUTES), max_size=6),
    st.sampled_from([KNOWN_AVRO, KNOWN_PROTOBUF, by_service(KNOWN_AVRO), by_service(KNOWN_PROTOBUF)]),
    st.integers(0, 6),
)
def test_any_page_is_decoded_as_by_message_however_it_is_cut(page: list[Any], topic: Topic, cut: int) -> None:
    """The schemas are known: no registry is asked."""

    def rows(part: list[Any]) -> list[dict[str, Any]]:
        return decoded_rows(delivered([payload for payload, _ in part], [named for _, named in part]), topic)

    assert repr(rows(page[:cut]) + rows(page[cut:])) == repr(rows(page))


@settings(max_examples=examples(200), deadline=None, derandomize=True, database=None)
@given(OLD_RECORDS)
def test_any_older_record_is_resolved_as_fastavro_does(record: dict[str, Any]) -> None:
    payload = written(OLDER, {**record, "id": "e"})
    row = decode(delivered([framed(1, payload)]), KNOWN_AVRO).columns.to_pylist()[0]
    older, newer = (fastavro.parse_schema(schema) for schema in (OLDER, NEWER))
    assert row["event"] == fastavro.schemaless_reader(BytesIO(payload), older, newer)


# --- a slot ----------------------------------------------------------------------------------------------------------


def published(broker: Any, payloads: Sequence[bytes]) -> None:
    messages = [types.PubsubMessage.pb()(data=payload) for payload in payloads]
    DirectChannel(broker).unary_unary("/x/Publish")(types.PublishRequest.pb()(topic=TOPIC, messages=messages))


@pytest.mark.parametrize("failure", [(503, b"", {}), (401, {"error_code": 401, "message": "Unauthorized"}, {})])
def test_messages_wait_at_their_broker_while_their_schema_cannot_be_had(
    registry: FakeConfluentRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: Any
) -> None:
    """The slot fails with the cause, leaves no segment, and gives its messages back; later all are read."""
    number = registry.register("plays-value", json.dumps(NEWER))
    values = {"subscription": SUBSCRIPTION, "registry": {"kind": "confluent", "url": registry.url}}  # type: ignore[attr-defined]
    topic = topic_of_schemas(NEWER, **values, past_tolerance="99999 days")
    land = land_of(topic, str(tmp_path / "raw"), Ingest(empty_after="0.2 seconds"))  # type: ignore[arg-type]
    slot = Slot(1, 0, None, False, timedelta(seconds=10))
    with subscribed_broker(monkeypatch) as broker:
        published(broker, [framed(number, written(NEWER, {**NEW_RECORD, "id": f"e{n}"})) for n in range(3)])
        registry.failures.extend([failure] * 1_000)
        with pytest.raises(LakehouseError, match=registry.url):  # type: ignore[attr-defined]
            facts_of(land, [slot])
        assert list((tmp_path / "raw").rglob("*.parquet")) == []
        assert len(broker.unacked(SUBSCRIPTION)) == 3
        registry.failures.clear()
        rows = facts_of(land, [slot])
    assert [(row["rows"], row["rejected"]) for row in rows] == [(3, 0)]


def test_a_page_in_quarantine_gets_its_schemas(registry: FakeConfluentRegistry) -> None:
    """The process that may die of a message knows no registry, and its parent decompresses nothing."""
    number = registry.register("plays-value", json.dumps(OLDER))
    topic = avro_topic(registry)
    messages = delivered(
        [gzip.compress(framed(number, written(OLDER, OLD_RECORD))), b"not gzip"], [{"content-encoding": "gzip"}] * 2
    )
    with QuarantiningDecoder() as decoder:
        decoded = decoder(messages, topic, schemas_of(topic))
    assert decoded.columns.column("reject_reason").to_pylist() == [None, "not decompressed: not gzip"]


def test_a_registry_that_is_away_blames_no_message_in_quarantine(registry: FakeConfluentRegistry) -> None:
    number = registry.register("plays-value", json.dumps(OLDER))
    topic = avro_topic(registry)
    messages = delivered([framed(number, written(OLDER, OLD_RECORD))])
    registry.failures.extend([503] * 1_000)
    with QuarantiningDecoder() as decoder:
        with pytest.raises(SourceError):
            decoder(messages, topic, schemas_of(topic))
        registry.failures.clear()
        decoded = decoder(messages, topic, schemas_of(topic))
    assert decoded.columns.column("reject_reason").to_pylist() == [None]


def test_a_page_with_a_registry_is_decompressed_once(
    registry: FakeConfluentRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = registry.register("plays-value", json.dumps(OLDER))
    topic = avro_topic(registry).model_copy(update={"compression": "gzip"})
    decompressed: list[int] = []
    gunzipped = compression._DECOMPRESSORS["gzip"]

    def counted(payload: bytes, limit: int) -> bytes:
        decompressed.append(len(payload))
        return gunzipped(payload, limit)

    monkeypatch.setitem(compression._DECOMPRESSORS, "gzip", counted)
    messages = delivered([gzip.compress(framed(number, written(OLDER, OLD_RECORD)))] * 3)
    columns = decode(messages, topic, schemas_of(topic)).columns
    assert (columns.column("reject_reason").null_count, len(decompressed)) == (3, 3)


# --- the topic's file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        ({"kind": "glue"}, "'pubsub', 'confluent'"),
        ({"kind": "confluent"}, "url"),
        ({"kind": "confluent", "url": "ftp://x"}, "https?"),
        ({"kind": "confluent", "url": "https://me:word@x"}, "https?"),
        ({"kind": "pubsub", "url": "http://x"}, "url"),
    ],
)
def test_a_registry_that_cannot_be_meant_is_an_error(declared: dict[str, str], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        topic_of_schemas(NEWER, registry=declared)


def test_a_registry_needs_a_schema_to_read_by() -> None:
    with pytest.raises(ValidationError, match="a registry for the formats avro and protobuf, beside `schemas`"):
        topic_of_schemas(NEWER, format="json", schemas={}, fields={"id": "string"}, registry={"kind": "pubsub"})


def test_a_password_in_a_topic_s_file_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "topics").mkdir()
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/play.avsc").write_text(json.dumps(NEWER))
    file = tmp_path / "topics/plays.yaml"
    file.write_text(
        "subscription: projects/p/subscriptions/s\nformat: avro\nschemas: [play.avsc]\nevent_id: payload.id\n"
        "event_time: payload.at\nregistry: {kind: confluent, url: 'http://r:1', auth: basic, user: u,"
        " password: hunter2000}\n"
    )
    before = concealed.know_only(())
    try:
        assert Topic.from_json(topic_of(file).as_json()).registry == topic_of(file).registry
        assert concealed.without_secrets("hunter2000") == "(not shown)"
    finally:
        concealed.know_only(before)
