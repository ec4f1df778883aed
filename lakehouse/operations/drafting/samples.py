"""Messages to look at before a topic is run: from a file, or from a subscription that keeps them."""

from __future__ import annotations

import base64
import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from lakehouse.concealed import without_credentials
from lakehouse.config import Ingest
from lakehouse.errors import UsageError, in_one_line
from lakehouse.landing.brokers.catalogue import broker_of
from lakehouse.schemas import DELIVERED
from lakehouse.sources import KafkaSource, Source, SubscriptionSource, source_at

ENOUGH_MESSAGES = 1_000
"""Read from a subscription unless another number is given."""

_PEEK_SECONDS = 2.0
_GZIP = b"\x1f\x8b"
_SPACE = " \t\r\n"
_ACK_ID = {"ackId", "ack_id"}
_ENVELOPE = {*_ACK_ID, "message", "ackStatus", "deliveryAttempt", "delivery_attempt", "subscription"}
_CONTENT = {"data", "attributes", "messageId", "message_id"}
_MESSAGE = {*_CONTENT, "publishTime", "publish_time", "orderingKey", "ordering_key"}
_URL_SAFE = str.maketrans("-_", "+/")
"""gcloud prints base64 in the alphabet for URLs, and the REST API in the usual one."""
_ADDRESSES = (
    "projects/<project>/subscriptions/<subscription>, "
    "projects/<project>/locations/<zone or region>/subscriptions/<subscription> or kafka://<host>:<port>/<topic>"
)
_FORM = (
    "one JSON payload per line, a JSON array of them, or what `gcloud pubsub subscriptions pull --format=json` prints"
)


@dataclass(frozen=True)
class Samples:
    """`messages` has the columns `DELIVERED`; row 0 is the source's first message.

    Where the source does not say when a message was published, it is taken to be published now, and `are_timed` is
    False.
    """

    source: str
    messages: pa.RecordBatch
    are_timed: bool


def samples_of(
    source: str,
    now: datetime,
    *,
    answers: str,
    most: int = ENOUGH_MESSAGES,
    newest: bool = False,
    known: Callable[[KafkaSource], KafkaSource] = lambda source: source,
) -> Samples:
    """The messages of a file (all of them), or up to `most` that a broker has, of which none is taken away.

    Of `projects/…/subscriptions/…` those that wait, which are given back; of a log such as `kafka://…/…` the oldest or
    the `newest`, and no offset is stored. `answers` is the key `ingest.answers`, for a subscription; `known` adds to a
    topic of Kafka how its cluster is reached.
    """
    if Path(source).exists():
        return file_samples(Path(source), now)
    read = named_source(source)
    if read is None:
        return file_samples(Path(source), now)
    if isinstance(read, KafkaSource):
        read = known(read)
    if newest and not isinstance(read, SubscriptionSource):
        read = read.model_copy(update={"start": "latest"})
    messages = broker_of(read.kind).peek(read, Ingest(answers=answers), most, _PEEK_SECONDS)
    return Samples(source, messages, True)


def named_source(address: str) -> Source | None:
    """What reads there; None for a text that can only be a file's name, UsageError for an address that is none."""
    expected = _ADDRESSES
    try:
        source = source_at(address)
    except ValidationError as error:
        source, expected = (
            None,
            f"kafka://<host>:<port>/<topic>: {error.errors()[0]['msg'].removeprefix('Value error, ')}",
        )
    if source is None and address.startswith(("kafka://", "projects/")):
        raise UsageError(
            without_credentials(address),
            found="an address that cannot be read from",
            expected=expected,
            next_step="Correct it; how a cluster is reached is in the topic's file, under `source.options`.",
        )
    return source


def file_samples(file: Path, now: datetime) -> Samples:
    """UsageError when it cannot be read, or has no message. What is not JSON is a message, too.

    The file may be compressed (gzip), and begin with a byte order mark.
    """
    content = _content(file).removeprefix(codecs.BOM_UTF8)
    rows = [_row(payload, f"{file}, message {number}", number, now) for number, payload in enumerate(_cut(content), 1)]
    if not rows:
        raise UsageError(str(file), found="no message", expected=_FORM, next_step="Give a file with messages.")
    are_timed = all(is_timed for _, is_timed in rows)
    return Samples(str(file), pa.RecordBatch.from_pylist([row for row, _ in rows], schema=DELIVERED), are_timed)


def _content(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(
            str(file), found=in_one_line(error), expected=f"a file: {_FORM}", next_step="Check the path, or the file."
        ) from error


def _cut(content: bytes) -> Iterator[bytes]:
    """The documents of a file as they are written there; its lines, where it is not only JSON documents."""
    try:
        text = content.decode("utf-8")
        documents = [text[start:end] for start, end in _documents(text, 0, "")]
        if len(documents) == 1 and documents[0].startswith("["):
            documents = [documents[0][start:end] for start, end in _documents(documents[0], 1, ",]")]
    except (ValueError, RecursionError):
        yield from (line.strip() for line in content.split(b"\n") if line.strip())
        return
    for document in documents:
        yield document.encode()


def _documents(text: str, at: int, between: str) -> Iterator[tuple[int, int]]:
    """Where each of several JSON documents begins and ends; ValueError where there is something else."""
    decoder = json.JSONDecoder()
    skipped = _SPACE + between
    while True:
        while at < len(text) and text[at] in skipped:
            at += 1
        if at == len(text):
            return
        _, end = decoder.raw_decode(text, at)
        yield at, end
        at = end


def _row(document: bytes, place: str, number: int, now: datetime) -> tuple[dict[str, Any], bool]:
    """A message as `DELIVERED` has it, and whether its publish time is known."""
    message = _message_in_envelope(document)
    if message is None:
        plain = {"message_id": str(number), "publish_time": now, "attributes": [], "payload": document}
        return {**plain, "ordering_key": None}, False
    try:
        published = message.get("publishTime") or message.get("publish_time")
        at = datetime.fromisoformat(published) if published is not None else None
        row = {
            "message_id": str(message.get("messageId") or message.get("message_id") or number),
            "publish_time": now if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC),
            "attributes": [(str(name), str(value)) for name, value in (message.get("attributes") or {}).items()],
            "payload": base64.b64decode((message.get("data") or "").translate(_URL_SAFE), validate=True),
            "ordering_key": message.get("orderingKey") or message.get("ordering_key") or None,
        }
        pa.RecordBatch.from_pylist([row], schema=DELIVERED)  # what has no place in a table is found with its place
    except (ValueError, TypeError, AttributeError, OverflowError, pa.ArrowException) as error:
        raise UsageError(
            place,
            found=f"a Pub/Sub message that cannot be read: {error}",
            expected="`data` in base64, `attributes` as an object and `publishTime` as RFC 3339",
            next_step="Leave the message as gcloud printed it, or give the payload alone.",
        ) from error
    return row, at is not None


def _message_in_envelope(document: bytes) -> dict[str, Any] | None:
    """The message in what gcloud or the REST API prints, or pushes; None for a payload."""
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    message = value.get("message")
    if isinstance(message, dict):
        is_envelope = bool(_ACK_ID & value.keys()) or value.keys() <= _ENVELOPE
        return message if is_envelope and _is_message(message) else None
    is_bare = "data" in value and bool({"messageId", "message_id"} & value.keys())
    return value if is_bare and _is_message(value) else None


def _is_message(value: dict[str, Any]) -> bool:
    return bool(_CONTENT & value.keys()) and value.keys() <= _MESSAGE
