"""A message that kills its decoder is set apart, and the topic goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from google.pubsub_v1 import types
from subscribing import SUBSCRIPTION, TOPIC, subscribed_broker

from lakehouse.config import Ingest, Settings
from lakehouse.decode.events import decode
from lakehouse.errors import SourceError, unexpected
from lakehouse.landing.bundles import Bundle
from lakehouse.landing.plan import Plan, TopicPlan
from lakehouse.landing.pull import Puller
from lakehouse.landing.quarantine import KILLS_THE_DECODER, QuarantiningDecoder
from lakehouse.landing.source import FactStream, source_options
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.schemas import DELIVERED
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from tests.clock import Clock
from tests.decoders import deadly

ACK_DEADLINE_SECONDS = 10
PUBLISHED = datetime(2026, 11, 23, 12, tzinfo=UTC)
DEADLY = partial(QuarantiningDecoder, "tests.decoders:deadly", timedelta(seconds=2))


def play(number: int) -> bytes:
    return json.dumps({"event_id": f"e{number}", "played_at": "2026-11-23T11:00:00Z", "n": number}).encode()


def page(payloads: list[bytes]) -> pa.RecordBatch:
    rows = [
        {"message_id": str(number), "publish_time": PUBLISHED, "attributes": [], "payload": payload}
        for number, payload in enumerate(payloads)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=DELIVERED)


def test_a_page_that_kills_nobody_is_decoded_as_ever(topic: Topic) -> None:
    messages = page([play(number) for number in range(50)] + [b"not json"])
    with DEADLY() as decoder:
        decoded = decoder(messages, topic)
    assert decoded.columns.equals(decode(messages, topic).columns)


@pytest.mark.parametrize("how", [b"KILL", b"SEGV", b"HANG", b"RAISE"])
def test_only_the_messages_that_kill_are_rejected(topic: Topic, how: bytes) -> None:
    """By really dying processes; what is between them is decoded, in its place."""
    payloads = [play(0), how, play(2), play(3)]
    with DEADLY() as decoder:
        columns = decoder(page(payloads), topic).columns
    assert columns.column("reject_reason").to_pylist() == [None, KILLS_THE_DECODER, None, None]
    assert columns.column("event_id").to_pylist() == ["e0", None, "e2", "e3"]


def test_a_machine_that_cannot_decode_at_all_blames_no_message(topic: Topic) -> None:
    """Else everything would be rejected where a process cannot start."""
    with (
        QuarantiningDecoder("tests.decoders:none_such") as decoder,
        pytest.raises(SourceError, match="did not start"),
    ):
        decoder(page([play(1)]), topic)


def test_a_package_that_is_missing_here_blames_no_message(topic: Topic) -> None:
    """An executor may have fewer packages than the driver: it is named, as in any other process."""
    with (
        QuarantiningDecoder("tests.decoders:without_fastavro") as decoder,
        pytest.raises(ModuleNotFoundError, match="fastavro") as missing,
    ):
        decoder(page([play(1), play(2)]), topic)
    assert "pip install '.[avro]'" in unexpected("topic plays", missing.value).next_step


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Broker]:
    with subscribed_broker(monkeypatch, clock.seconds) as broker:
        yield broker


def test_a_slot_that_died_is_read_again_in_quarantine(
    broker: Broker, clock: Clock, settings: Settings, topic: Topic, tmp_path: Path
) -> None:
    """The first attempt is a process that is killed; the second, on a new driver, leaves out what killed it."""
    tables = TopicTables(topic, settings)
    tables.ensure_bronze()
    messages = [types.PubsubMessage.pb()(data=payload) for payload in (play(0), b"KILL", play(2))]
    DirectChannel(broker).unary_unary("/x/Publish")(types.PublishRequest.pb()(topic=TOPIC, messages=messages))
    ingest = Ingest(empty_after="0.2 seconds")  # type: ignore[arg-type]
    planned = tmp_path / "plan.json"
    Plan({"plays": TopicPlan(ack_deadline_seconds=ACK_DEADLINE_SECONDS)}).write(planned)
    options = source_options([topic], settings.raw_root, ingest, {}, planned)
    first = (
        "import json, sys\n"
        "from lakehouse.landing.pull import Puller\n"
        "from lakehouse.landing.source import FactStream\n"
        "from tests.decoders import deadly\n"
        "stream = FactStream(json.loads(sys.argv[1]), Puller(decode=deadly))\n"
        "(bundle,) = stream.partitions(stream.initialOffset(), stream.latestOffset())\n"
        "list(stream.read(bundle))\n"
    )
    died = subprocess.run([sys.executable, "-c", first, json.dumps(options)], env={**os.environ, "PYTHONPATH": "."})
    assert died.returncode == -9
    assert tables.raw.files().listing("segments") == []

    stream = FactStream(options, Puller(decode=deadly, quarantine=DEADLY))
    start, end = ({"epoch": epoch, "slots": {}, "left_out": []} for epoch in (0, 1))
    (bundle,) = stream.partitions(start, end)
    assert isinstance(bundle, Bundle)
    assert bundle.slots[0][1].is_suspect, "it was planned by another process"
    list(stream.read(bundle))
    rows = []
    clock.advance(ACK_DEADLINE_SECONDS)
    while broker.unacked(SUBSCRIPTION):
        start, end = end, stream.latestOffset(end)
        (later,) = stream.partitions(start, end)
        assert isinstance(later, Bundle)
        assert later.slots[0][1].is_suspect, "what the dead process had leased comes again in a later epoch"
        rows += [row for batch in stream.read(later) for row in batch.to_pylist()]
    assert sum(row["rows"] for row in rows) == 3
    reasons = [json.loads(row["counts"])["reasons"] for row in rows if row["counts"]]
    assert {KILLS_THE_DECODER: 1} in reasons


def test_a_new_epoch_of_a_healthy_topic_is_not_suspect(settings: Settings, topic: Topic, tmp_path: Path) -> None:
    """Decoding in another process takes longer."""
    planned = tmp_path / "plan.json"
    Plan({"plays": TopicPlan()}).write(planned)
    stream = FactStream(source_options([topic], settings.raw_root, settings.ingest, {}, planned))
    start = stream.initialOffset()
    (bundle,) = stream.partitions(start, stream.latestOffset(start))
    assert isinstance(bundle, Bundle)
    assert not bundle.slots[0][1].is_suspect
