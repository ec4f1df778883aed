"""A new topic's two files, made from sample messages by which both are checked before anything is written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from lakehouse.config import Config, config_error, folder_of
from lakehouse.decode.events import decode
from lakehouse.errors import ConfigError, UsageError
from lakehouse.operations.drafting.files import suite_json, topic_yaml
from lakehouse.operations.drafting.id_and_time import (
    EventTime,
    Message,
    ids,
    is_called_an_id,
    no_times,
    times,
)
from lakehouse.operations.drafting.inference import NOT_DECLARED, Doubt, Doubting, declarable_types
from lakehouse.operations.drafting.samples import Samples, named_source
from lakehouse.printable import printable
from lakehouse.sources import KafkaSource, source_at
from lakehouse.topics import Topic, topic_from

_PAGE = 1_000
_LONGEST_NAME = 100
_MINUTES = (10, 30, 60, 120, 180, 360, 720, 1440)
"""Latenesses that are proposed, the shortest that the samples keep to."""
_NULLABLE = 0.5
_FEW_SAMPLES = 20
_SPARE = 10
"""Where no topic takes all samples, one in so many may be rejected, for each reason."""
NAMED = 3
"""Alternatives that are named."""
_UNREADABLE = ("not JSON", "compressed")
"""Reasons that no topic's file can change, as they begin."""


@dataclass(frozen=True)
class Draft:
    """`left_out` counts the samples that no topic could read, by the reason for which they would be rejected.

    `schemas` are files for the folder of schemas, by their names there.
    """

    topic: Topic
    yaml: str
    suite: str
    samples: int
    left_out: dict[str, int]
    doubts: tuple[Doubt, ...]
    schemas: Mapping[str, bytes] = field(default_factory=dict)


def files_of(name: str, config: Config) -> tuple[Path, Path]:
    """Where a topic's configuration and its suite are."""
    return folder_of(config.path, config.settings.topics) / f"{name}.yaml", config.expectations / f"{name}.json"


def check_name(name: str, config: Config) -> None:
    """ConfigError when no new topic can have the name, or when one of its files is there."""
    try:
        topic_from(name, {"subscription": "projects/p/subscriptions/s", "event_id": "payload.i",
                          "event_time": "publish_time", "fields": {"i": "string"}})  # fmt: skip
        is_fit = len(name) <= _LONGEST_NAME
    except ValidationError:
        is_fit = False
    if not is_fit:
        raise ConfigError(
            "NAME",
            found=repr(name),
            expected=f"lower-case letters, digits and _, beginning with a letter, at most {_LONGEST_NAME}",
            next_step="Choose such a name; it need not be that of the subscription.",
        )
    for file in files_of(name, config):
        if file.exists() or file.is_symlink():
            raise ConfigError(
                str(file),
                found="a file that is there already",
                expected="none: what a person wrote is never overwritten",
                next_step="Choose another name, or move the file away.",
            )


def draft(
    name: str,
    samples: Samples,
    config: Config,
    *,
    subscription: str | None = None,
    event_id: str | None = None,
    event_time: str | None = None,
) -> Draft:
    """A topic that rejects none of the samples that are JSON objects; UsageError where there can be none.

    A location that is given takes precedence over what the samples suggest. `subscription` is what the topic will read,
    which may be a topic of Kafka, as `kafka://host:port/topic`.
    """
    doubts: list[Doubt] = []
    source = source_keys(name, samples.source, config, subscription, doubts)
    messages, left_out = _readable(samples)
    for reason, count in left_out.items():
        doubts.append(Doubt("samples", f"{count} of {len(samples.messages)} are left out: {reason}"))
    if len(messages) < _FEW_SAMPLES:
        doubts.append(Doubt("samples", f"only {len(messages)} to go by"))
    chosen = _Choice(name, source, samples, messages, event_id, event_time)
    topic = chosen.topic(spare=0) or chosen.topic(spare=len(messages) // _SPARE)
    if topic is None:
        raise _no_topic(samples, chosen.complaint)
    doubts += [*chosen.doubts, *_doubts_of(topic, messages, samples)]
    lateness = _lateness(topic, samples)
    if lateness is not None:
        topic = topic.model_copy(update={"lateness": lateness})
    suite = suite_json(topic, messages)
    origin = f"{len(messages)} messages of {samples.source}"
    text = topic_yaml(topic, origin, doubts, tuple(config.settings.mirrors))
    return Draft(topic, text, suite, len(messages), dict(left_out), tuple(doubts))


def write(drafted: Draft, config: Config) -> tuple[Path, Path]:
    """Writes both files and the schemas, or none, and gives the paths of the first two.

    An existing file is never replaced; a schema's that is there already may be used as it is.
    """
    from lakehouse.schemas import silver_schema
    from lakehouse.validate import gx, suite_files

    topic_file, suite_file = files_of(drafted.topic.name, config)
    gx.check(suite_files.suite_with(drafted.suite, drafted.topic, config), silver_schema(drafted.topic))
    schemas = {folder_of(topic_file, "../schemas") / name: content for name, content in drafted.schemas.items()}
    own = {suite_file: drafted.suite.encode(), topic_file: drafted.yaml.encode()}
    made: list[Path] = []
    try:
        for file, content in {**schemas, **own}.items():
            if file in schemas and file.is_file() and file.read_bytes() == content:
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as opened:
                made.append(file)
                opened.write(content)
    except OSError as error:
        for file in made:
            file.unlink(missing_ok=True)
        raise ConfigError(
            str(error.filename or topic_file),
            found=error.strerror or str(error),
            expected="a new file in a folder that can be written",
            next_step="Nothing was written. Choose another name, or give access.",
        ) from error
    return topic_file, suite_file


# --- what the samples say ------------------------------------------------------------------------------------------


def source_keys(name: str, found_at: str, config: Config, given: str | None, doubts: list[Doubt]) -> dict[str, Any]:
    """The topic's keys that say what it reads: what is `given`, else where its samples were, else a guess.

    A topic of Kafka has the settings of another one's of the same cluster. ConfigError where nobody can guess, or where
    another topic reads it.
    """
    address = given or (found_at if source_at(found_at) is not None else None)
    if address is None:
        address = _guessed_subscription(name, config)
        doubts.append(Doubt("subscription", "named after the topic, in the project of the others"))
    source = named_source(address)
    for other in config.topics.values():
        if source is not None and other.reads.address == source.address:
            raise ConfigError(
                "--subscription",
                found=f"{address}, which the topic {other.name} reads",
                expected="a subscription of its own: two readers would each get half of the events",
                next_step="Create a second subscription to the Pub/Sub topic, and name it with --subscription.",
            )
    if isinstance(source, KafkaSource):
        source = like_others(source, config)
    return {"subscription": address} if source is None or source.kind == "pubsub" else {"source": source}


def like_others(source: KafkaSource, config: Config) -> KafkaSource:
    """With the settings that lead to its cluster, where a topic of this configuration has them."""
    for topic in config.topics.values():
        known = topic.reads
        if isinstance(known, KafkaSource) and known.bootstrap == source.bootstrap:
            return known.model_copy(update={"topic": source.topic, "start": source.start})
    return source


def _guessed_subscription(name: str, config: Config) -> str:
    projects = {topic.subscription.split("/")[1] for topic in config.topics.values() if topic.subscription}
    if len(projects) != 1:
        raise ConfigError(
            "--subscription",
            found="nothing, and " + (f"topics of {len(projects)} projects" if projects else "no other topic"),
            expected="projects/<project>/subscriptions/<subscription>, or kafka://<host>:<port>/<topic>",
            next_step="Say what the topic will read.",
        )
    return f"projects/{projects.pop()}/subscriptions/{name}"


def _readable(samples: Samples) -> tuple[list[Message], Counter[str]]:
    """The samples that are JSON objects to the decoder, and why the others are none, counted."""
    probe = topic_from("probe", {"subscription": "projects/p/subscriptions/s", "event_id": "payload.i",
                                 "event_time": "publish_time", "fields": {"_none_": "string"}})  # fmt: skip
    reasons = list(_reasons(samples.messages, probe))
    messages, left_out = [], Counter[str]()
    for row, reason in zip(samples.messages.to_pylist(), reasons, strict=True):
        document: Any = None
        if reason is None or not reason.startswith(_UNREADABLE):
            with suppress(ValueError, RecursionError):
                document = json.loads(row["payload"] or b"{}")
        if isinstance(document, dict):
            messages.append(Message(document, dict(row["attributes"] or ()), row["publish_time"]))
        else:
            left_out[reason or "not JSON"] += 1
    if not messages:
        first = next(iter(left_out))
        raise UsageError(
            samples.source,
            found=f"{len(samples.messages)} messages, none of which is a JSON object ({first})",
            expected="JSON objects, as a topic's payloads are",
            next_step="Give the payloads as they are published, one in a line.",
        )
    return messages, left_out


def _reasons(messages: pa.RecordBatch, topic: Topic) -> Iterator[str | None]:
    for start in range(0, len(messages), _PAGE):
        yield from decode(messages.slice(start, _PAGE), topic).columns.column("reject_reason").to_pylist()


class _Choice:
    """Looks for an id, a time and types that fit the samples; says in `doubts` what else could be, or in `complaint`
    why nothing fits."""

    def __init__(self, name: str, source: dict[str, Any], samples: Samples, messages: Sequence[Message],
                 event_id: str | None, event_time: str | None) -> None:  # fmt: skip
        self._name, self._source, self._samples, self._messages = name, source, samples, messages
        self._event_id, self._event_time = event_id, event_time
        self.doubts: list[Doubt] = []
        self.complaint = ""

    def topic(self, spare: int) -> Topic | None:
        """The likeliest topic that rejects no readable sample for want of an id, a time or a type, but for `spare`."""
        doubting = Doubting([], spare)
        fields = declarable_types([each.document for each in self._messages], doubting)
        found_ids = [self._event_id] if self._event_id else ids(self._messages, spare)
        found_times = self._times(spare)
        self.complaint = self.complaint or f"nothing in {len(self._messages)} messages that is another in each event"
        for event_id in found_ids:
            for time in found_times:
                values = {**self._source, "event_id": event_id, "event_time": time.location,
                          "event_time_unit": time.unit}  # fmt: skip
                topic = self._fitting(values, fields, doubting)
                if topic is not None:
                    own = {f"payload.{each.about}": each for each in doubting.doubts if each.text == NOT_DECLARED}
                    known = [own[place] for place in (topic.event_id, topic.event_time) if place in own]
                    unsettled = [each for each in doubting.doubts if each not in known]
                    self.doubts = [*_others(topic, found_ids, found_times, self._messages), *unsettled]
                    return topic
        return None

    def _times(self, spare: int) -> list[EventTime]:
        found = times(self._messages, self._name, spare)
        if self._event_time is None:
            return [*found, EventTime("publish_time", "iso8601")]
        named = [each for each in found if each.location == self._event_time]
        return named or [EventTime(self._event_time, "iso8601")]

    def _fitting(self, values: dict[str, Any], fields: dict[str, str], doubting: Doubting) -> Topic | None:
        """With these values, less the fields whose types the decoder does not find in more samples than may be."""
        left = dict(fields)
        while left:
            try:
                topic = topic_from(self._name, {**values, "fields": left})
            except ValidationError as error:
                self.complaint = str(config_error(Path(f"{self._name}.yaml"), error))
                return None
            reason, count = _worst(self._samples, topic)
            if count <= doubting.spare:
                return topic
            field = reason.removeprefix("wrong type: ").split(".")[0]
            if not reason.startswith("wrong type: ") or field not in left:
                where = f"event_id {topic.event_id} and event_time {topic.event_time}"
                self.complaint = f"{count} of {len(self._samples.messages)} messages rejected with {where}: {reason}"
                return None
            del left[field]
            doubting(field, f"left out: {count} samples are of another type than the others")
        self.complaint = "no member that could be declared as a field"
        return None


def _worst(samples: Samples, topic: Topic) -> tuple[str, int]:
    """The reason for which the topic would reject most of the readable samples, and how many."""
    reasons = (reason for reason in _reasons(samples.messages, topic) if reason is not None)
    counts = Counter(reason for reason in reasons if not reason.startswith(_UNREADABLE))
    return max(counts.items(), key=lambda each: each[1], default=("", 0))


def _no_topic(samples: Samples, complaint: str) -> UsageError:
    return UsageError(
        samples.source,
        found=complaint,
        expected="an id in each message, and members that can be fields",
        next_step="Name the places with --event-id and --event-time. Where the publisher sets no id, it has to: "
        "without one no duplicate can be recognised.",
    )


def _lateness(topic: Topic, samples: Samples) -> timedelta | None:
    """What all but one in a hundred samples keep to, rounded up; None where nobody knows how late they are."""
    if not samples.are_timed or topic.event_time == "publish_time":
        return None
    ages: list[float] = []
    for start in range(0, len(samples.messages), _PAGE):
        page = samples.messages.slice(start, _PAGE)
        event_times = decode(page, topic).columns.column("event_time").to_pylist()
        published = page.column("publish_time").to_pylist()
        ages += [(p - e).total_seconds() for p, e in zip(published, event_times, strict=True) if e is not None]
    age = sorted(ages)[max(0, math.ceil(len(ages) * 0.99) - 1)]
    return timedelta(minutes=next((minutes for minutes in _MINUTES if age <= minutes * 60), _MINUTES[-1]))


def _others(
    topic: Topic, found_ids: Sequence[str], found_times: Sequence[EventTime], messages: Sequence[Message]
) -> list[Doubt]:
    doubts = []
    other_ids = [each for each in found_ids if each != topic.event_id]
    if topic.event_id in found_ids and not is_called_an_id(topic.event_id):
        doubts.append(Doubt("event_id", "by its values alone: nothing in every sample is called an id and is one"))
    if other_ids:
        doubts.append(Doubt("event_id", f"{', '.join(other_ids[:NAMED])} could be it, too"))
    known = {topic.event_time, "publish_time"}
    other_times = list(dict.fromkeys(each.location for each in found_times if each.location not in known))
    if topic.event_time == "publish_time":
        doubts.append(Doubt("event_time", "no member is a time in every sample: an event counts when it is published"))
        doubts += [Doubt("event_time", _no_time(*each)) for each in list(no_times(messages))[:NAMED]]
    elif other_times:
        doubts.append(Doubt("event_time", f"{', '.join(other_times[:NAMED])} could be it, too"))
    return doubts


def _no_time(location: str, value: Any) -> str:
    such = printable(str(value))[:40]
    return (
        f"{location} is none, such as {such}: a text has date, time of day and zone, a number is no text, and no time"
        " is more than 10 minutes after its publishing or 20 years before it"
    )


def _doubts_of(topic: Topic, messages: Sequence[Message], samples: Samples) -> list[Doubt]:
    """What is unsure about a topic, whatever else it could be."""
    doubts = []
    reasons = Counter(reason for reason in _reasons(samples.messages, topic) if reason is not None)
    for reason, count in sorted(reasons.items()):
        if not reason.startswith(_UNREADABLE):
            doubts.append(Doubt("samples", f"{count} of {len(samples.messages)} are rejected: {reason}"))
    if not samples.are_timed:
        doubts.append(Doubt("lateness", "the samples do not say when they were published, so this is the default"))
    for name in topic.fields:
        share = sum(each.document.get(name) is None for each in messages) / len(messages)
        if share > _NULLABLE:
            doubts.append(Doubt(name, f"null or missing in {share:.0%} of the samples", is_of_field=True))
    return doubts
