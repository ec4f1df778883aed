"""Where a topic's messages come from: its broker, and the registry of the schemas that they name."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, field_validator

from lakehouse import hours
from lakehouse.keys import Frozen, key

_SUBSCRIPTION = re.compile(r"projects/[^/]+/subscriptions/[^/]+")
_LITE_SUBSCRIPTION = re.compile(r"projects/[^/]+/locations/[a-z]+-[a-z]+[0-9]+(-[a-z])?/subscriptions/[^/]+")
_HOST_AND_PORT = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"
_HOSTS = re.compile(rf"{_HOST_AND_PORT}(,{_HOST_AND_PORT})*")
_KAFKA_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


def _written(pattern: re.Pattern[str], form: str) -> AfterValidator:
    """Only text of the pattern, which is `form` in words."""

    def checked(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(form)
        return text

    return AfterValidator(checked)


_FORM = "projects/<project>/subscriptions/<subscription>"
Subscription = Annotated[str, _written(_SUBSCRIPTION, _FORM)]
SubscriptionOrNone = Annotated[str, _written(re.compile(f"({_SUBSCRIPTION.pattern})?"), _FORM)]


class SubscriptionSource(Frozen):
    """`source: {kind: pubsub, …}`: a subscription of Pub/Sub."""

    kind: Literal["pubsub"] = key("pubsub", unit="pubsub", doc="Which broker it is.")
    subscription: Subscription = key(unit=_FORM, doc="As the key `subscription` of the topic.")

    @property
    def address(self) -> str:
        """What no two topics may read."""
        return self.subscription


def _start(text: str) -> str:
    return text if text in ("earliest", "latest") else hours.parse_hour(text)


class KafkaSource(Frozen):
    """`source: {kind: kafka, …}`: a topic of Apache Kafka, or of what speaks its protocol."""

    kind: Literal["kafka"] = key("kafka", unit="kafka", doc="Which broker it is.")
    bootstrap: Annotated[
        str, _written(_HOSTS, "<host>:<port>, several with commas between them, without spaces and credentials")
    ] = key(
        unit="host:port, several with commas",
        doc="Where the cluster is asked for its brokers.",
    )
    topic: Annotated[
        str,
        _written(_KAFKA_TOPIC, "a topic's name: at most 249 letters, digits, dots, _ and -, and not only dots"),
    ] = key(
        unit="name",
        doc="Kafka's own name of the topic. No two topics may read the same one.",
    )
    start: Annotated[str, AfterValidator(_start)] = key(
        "earliest",
        unit="earliest, latest or an hour",
        doc="Where the first start of all begins to read: at the oldest message there is, after the newest, or at the "
        "first that has the time of such an hour as `2026-11-23T05`. Later starts go on where bronze ends.",
    )
    group: str = key(
        "lakehouse",
        min_length=1,
        unit="name",
        doc="In which group's name offsets are stored once they are committed, for tools that watch lag. Nothing is "
        "read by them.",
    )
    auth: Literal["options", "google"] = key(
        "options",
        unit="options, google",
        doc="`google` for the Managed Service for Apache Kafka: TLS, and this machine's Google credentials. Else what "
        "`options` say.",
    )
    options: dict[str, str] = key(
        default_factory=dict,
        unit="librdkafka's settings",
        shown="none",
        doc="Such as `security.protocol`, `sasl.mechanisms`, `sasl.username`, `ssl.ca.location`. `${NAME}` in a value "
        "is the environment variable of driver and executors: keep passwords there.",
    )

    @property
    def address(self) -> str:
        """What no two topics may read."""
        return f"kafka://{self.bootstrap}/{self.topic}"

    @property
    def log_name(self) -> str:
        """What it is called where it is."""
        return self.topic

    @field_validator("options")
    @classmethod
    def _free(cls, options: dict[str, str]) -> dict[str, str]:
        for name in options:
            if name in _OWN_OPTIONS or name.startswith(("enable.auto.", "auto.")):
                raise ValueError(f"options without {name!r}, which ingest decides")
        return options


_OWN_OPTIONS = {"bootstrap.servers", "group.id", "group.instance.id", "isolation.level", "enable.partition.eof"}


class LiteSource(Frozen):
    """`source: {kind: pubsublite, …}`: a subscription of Pub/Sub Lite."""

    kind: Literal["pubsublite"] = key("pubsublite", unit="pubsublite", doc="Which broker it is.")
    subscription: Annotated[
        str,
        _written(_LITE_SUBSCRIPTION, "projects/<project>/locations/<zone or region>/subscriptions/<subscription>"),
    ] = key(
        unit="projects/<project>/locations/<location>/subscriptions/<subscription>",
        doc="What is read; the project by its id or its number, the location a zone or a region. No two topics may "
        "read the same one, nor may any other reader: the service lets one at a time read a partition of it.",
    )
    start: Annotated[str, AfterValidator(_start)] = key(
        "earliest",
        unit="earliest, latest or an hour",
        doc="Where the first start of all begins to read: at the oldest message there is, after the newest, or at the "
        "first that was published in such an hour as `2026-11-23T05`, or later. Later starts go on where bronze ends.",
    )
    endpoint: str = key(
        "",
        pattern=r"^(http://)?[^\s/]*$",
        unit="host:port",
        shown="the region's, `<region>-pubsublite.googleapis.com`",
        doc="Who is asked: another address, as of Private Service Connect. With `http://` before it there is no TLS, "
        "and no credentials are sent: for a stand-in of your own.",
    )

    @property
    def address(self) -> str:
        """What no two topics may read."""
        return self.subscription

    @property
    def log_name(self) -> str:
        """What it is called where it is."""
        return self.subscription

    @property
    def group(self) -> str:
        """In whose name cursors are committed."""
        return self.subscription

    @property
    def region(self) -> str:
        """That of a zone, `europe-west1-b`, is `europe-west1`."""
        return "-".join(self.subscription.split("/")[3].split("-")[:2])


LogSource = KafkaSource | LiteSource
Source = SubscriptionSource | LogSource
_KAFKA = re.compile(r"kafka://([^/]+)/([^/]+)")


def source_at(address: str) -> Source | None:
    """What reads there, with no more than its address says; None for a text that is no source's address.

    ValueError where it is one of Kafka, but for its hosts or the topic's name.
    """
    if _SUBSCRIPTION.fullmatch(address):
        return SubscriptionSource(subscription=address)
    if _LITE_SUBSCRIPTION.fullmatch(address):
        return LiteSource(subscription=address)
    named = _KAFKA.fullmatch(address)
    return KafkaSource(bootstrap=named[1], topic=named[2]) if named else None


class SchemaService(Frozen):
    """`registry: {kind: pubsub}`: Pub/Sub's own schemas, which its attributes name."""

    kind: Literal["pubsub"] = key("pubsub", unit="pubsub", doc="Whose registry it is.")

    @property
    def address(self) -> str:
        return "Pub/Sub's schema service"


class ConfluentRegistry(Frozen):
    """`registry: {kind: confluent, …}`: a server of Confluent's Schema Registry API, such as Karapace or Redpanda."""

    kind: Literal["confluent"] = key("confluent", unit="confluent", doc="Whose registry it is.")
    url: str = key(
        pattern=r"^https?://[^/?#@\s]+(/[^?#@\s]*)?$",
        unit="http(s)://host:port",
        doc="Where the registry answers; what is before `/schemas/ids/…`.",
    )
    auth: Literal["basic", "google", "none"] = key(
        "none",
        unit="basic, google, none",
        doc="`basic` by `user` and `password`; `google` by this machine's Google credentials, for the registry of "
        "Google's Managed Service for Apache Kafka.",
    )
    user: str = key("", unit="name", shown="none", doc="For `basic`; `${NAME}` is an environment variable.")
    password: str = key(
        "",
        unit="text",
        shown="none",
        doc="For `basic`; `${NAME}` is the environment variable of driver and executors: keep it there.",
    )

    @property
    def address(self) -> str:
        return self.url.rstrip("/")


Registry = SchemaService | ConfluentRegistry
