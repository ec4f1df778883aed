"""What `fleet.yaml` says, and which application is to have which topics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lakehouse.durations import Duration, Wait
from lakehouse.errors import ConfigError
from lakehouse.keys import Frozen, key
from lakehouse.topics import Topic

DELIVER_WITHIN = timedelta(minutes=45)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?")
_WEB_ADDRESS = re.compile(
    r"https?://([!-.0-~]+@)?(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?([/?#][!-~]*)?", re.IGNORECASE
)
_MANY = 5
"""Names that an error lists."""


def _matching_text(pattern: str, expected: str) -> Callable[[str], str]:
    """Empty, or all of it is as the pattern says."""

    def check(text: str) -> str:
        if text and not re.fullmatch(pattern, text):
            raise ValueError(f"{expected}, not {text!r}")
        return text

    return check


_project = _matching_text(
    r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]",
    "a project's id: 6 to 30 letters a to z, digits and -, beginning with a letter",
)
_region = _matching_text(r"[a-z]+(-[a-z]+)+[0-9]+", "a region such as europe-north1, no zone")
_cluster = _matching_text(
    r"[a-z]([a-z0-9-]{0,49}[a-z0-9])?",
    "a cluster's name: up to 51 letters a to z, digits and -, beginning with a letter",
)
_bucket_folder = _matching_text(
    r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[A-Za-z0-9._=-]+)*",
    "gs://<bucket>, or a folder of one, of letters, digits, ., _, = and -",
)
_account = _matching_text(r"[^@\s]+@[^@\s]+\.[^@\s]+", "a service account's e-mail address")
_image = _matching_text(r"[0-9]+\.[0-9]+(\.[0-9]+)?(-[a-z0-9-]+)?", "an image version such as 3.0 or 3.0.2-debian13")
_python = _matching_text(r"3\.[0-9]+", "a version such as 3.12")
RELEASE = "a release's name such as 0.1.0+0a1b2c3d4e: up to 100 letters, digits, ., +, _ and -"
release_name = _matching_text(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,99}", RELEASE)
_memory = _matching_text(r"[1-9][0-9]*[kmgtKMGT][bB]?", "a size in Spark's words, such as 512m or 4g")
_master = _matching_text(
    r"local(\[([1-9][0-9]*|\*)(,[1-9][0-9]*)?\])?|local-cluster\[[0-9, ]+\]|yarn|(spark|k8s)://\S+",
    "a master of Spark's, such as local[4]",
)
_folder = _matching_text(r"(?!.*://)[^\0]+", "a folder of this machine")


def web_address(text: str) -> str:
    """The text; ValueError, without it, unless it is empty or an address that can be called over HTTP."""
    found = _WEB_ADDRESS.fullmatch(text)
    if text and (found is None or not 0 < int(found["port"] or 80) < 65536):
        raise ValueError("an address such as https://hooks.example.com/services/x, of ASCII and without blanks")
    return text


def _at_least_a_second(duration: timedelta) -> timedelta:
    if duration < timedelta(seconds=1):
        raise ValueError("at least 1 second")
    return duration


def _settings(entries: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in entries.items():
        if not re.fullmatch(r"spark\.[^\s=]+", name) or not value.isprintable():
            raise ValueError(f"settings of Spark's, such as spark.executor.cores, on a line each; not {name!r}")
    return entries


def _named(entries: Mapping[str, object]) -> Mapping[str, object]:
    """Jobs and their labels, of whichever launcher, have the name."""
    for name in entries:
        if not _NAME.fullmatch(name):
            raise ValueError(f"names of up to 50 letters a to z, digits and -, not {name!r}")
    return entries


class Size(Frozen):
    """One of `sizes`: what an application gets of the machine or cluster that it runs on."""

    master: Annotated[str, Field(min_length=1), AfterValidator(_master)] = key(
        "local[2]", unit="Spark's master", doc="On this machine: how many cores. On a cluster it has no effect."
    )
    driver_memory: Annotated[str, AfterValidator(_memory)] = key(
        "",
        unit="Spark's size",
        shown="1g on this machine, by the number of topics on Dataproc",
        doc="Heap of the driver's JVM. More for hundreds of topics, and for large hours.",
    )
    cluster: Annotated[str, AfterValidator(_cluster)] = key(
        "", unit="name", shown="`dataproc.cluster`", doc="On Dataproc: another cluster, for applications of this size."
    )
    spark: Annotated[dict[str, str], AfterValidator(_settings)] = key(
        default_factory=dict,
        unit="Spark's own settings",
        doc="Of this size; they take precedence over `spark` in the environment's file.",
    )


class TopicClass(Frozen):
    """One of `classes`: topics that are treated alike, whichever application has them."""

    topics: tuple[str, ...] = key(
        unit="names and patterns",
        min_length=1,
        doc="As in an application. A topic is of one class at most.",
    )
    deliver_within: Duration | None = key(
        None, unit="duration", shown="that of the application", doc="Where the topic's own file has none."
    )


class Entry(Frozen):
    """One of `applications`: which topics it has, where, and how it is run."""

    topics: tuple[str, ...] = key(
        (),
        unit="names and patterns",
        doc="`flight_*` takes all that begin so, `!flight_landed` leaves one out again.",
    )
    classes: tuple[str, ...] = key(
        (), unit="names of classes", doc="Their topics, too, less those that a ! leaves out."
    )
    size: str = key("", unit="name of a size", shown="that of the fleet", doc="What it gets of the machine.")
    release: Annotated[str, AfterValidator(release_name)] = key(
        "",
        unit="release",
        shown="that of the fleet",
        doc="Only to hold an application back; a fleet should run one release.",
    )
    deliver_within: Duration | None = key(
        None, unit="duration", shown="that of the fleet", doc="Where neither topic nor class has its own."
    )


class RollOut(Frozen):
    """The section `roll_out`: how `fleet deploy` goes from the old to the new."""

    canary: str = key(
        "",
        unit="name of an application",
        shown="of those that change, the one with the fewest topics",
        doc="Which application is replaced first, alone.",
    )
    canary_for: Duration = key(
        timedelta(minutes=15),
        unit="duration",
        doc="How long the canary runs at most before the rest follows; it is over sooner when the canary has sealed "
        "an hour that was found valid.",
    )
    wave_within: Wait = key(
        timedelta(minutes=10),
        unit="duration",
        doc="How long the topics of a wave may take until each has been polled; then the deployment is rolled back.",
    )
    side_by_side: int = key(
        4,
        ge=1,
        le=100,
        unit="applications, 1 to 100",
        doc="How many are replaced at a time after the canary. Each runs twice for a while: old and new need room.",
    )


class Local(Frozen):
    """The section `local`: applications on this machine."""

    folder: Annotated[str, Field(min_length=1), AfterValidator(_folder)] = key(
        "../build/fleet",
        unit="folder, relative to this file",
        doc="Releases, logs and the state of supervisors. On a disk that survives a restart of the machine.",
    )


class Dataproc(Frozen):
    """The section `dataproc`: applications as jobs of Dataproc clusters."""

    project: Annotated[str, AfterValidator(_project)] = key(
        "", unit="project's id", shown="required by `launcher: dataproc`", doc="Where the clusters are."
    )
    region: Annotated[str, AfterValidator(_region)] = key(
        "", unit="region", shown="required by `launcher: dataproc`", doc="Of the clusters, such as `europe-north1`."
    )
    cluster: Annotated[str, AfterValidator(_cluster)] = key(
        "",
        unit="name",
        shown="required by `launcher: dataproc`",
        doc="Where applications run whose size names no other.",
    )
    folder: Annotated[str, AfterValidator(_bucket_folder)] = key(
        "",
        unit="gs:// address",
        shown="required by `launcher: dataproc`",
        doc="Releases, packages and configurations that jobs are made of. Only those who deploy should write there.",
    )
    service_account: Annotated[str, AfterValidator(_account)] = key(
        "", unit="e-mail address", shown="Compute Engine's default", doc="Whose rights the clusters' applications have."
    )
    max_failures_per_hour: int = key(
        10,
        ge=0,
        le=10,
        unit="starts, 0 to 10",
        doc="How often Dataproc starts an application again that dies. It gives one up that dies four times within 10 "
        "minutes, whatever this says.",
    )
    image: Annotated[str, AfterValidator(_image)] = key(
        "3.0", unit="image version", doc="Of new clusters: it must bring Spark 4.1 and the component DELTA."
    )
    python: Annotated[str, AfterValidator(_python)] = key(
        "3.12", unit="version", doc="That of the image, for which packages are taken."
    )
    extras: tuple[str, ...] = key(
        ("quality", "bigquery", "hive", "kafka", "lite", "avro", "protobuf", "lineage"),
        unit="extras of pyproject.toml",
        doc="Whose packages jobs have. Fewer make a smaller archive: leave out mirrors and brokers without use.",
    )


class Webhook(Frozen):
    """One of `watch.webhooks`: who is notified of incidents."""

    url: Annotated[str, AfterValidator(web_address)] = key(
        "", unit="address", doc="What is called. Empty where `url_from` is given."
    )
    url_from: str = key(
        "", unit="name of a variable", doc="The variable of the environment that has the address, where it is secret."
    )
    format: Literal["alertmanager", "pagerduty"] = key(
        "alertmanager",
        unit="alertmanager | pagerduty",
        doc="`alertmanager`: the webhook format of Alertmanager, version 4. `pagerduty`: events, version 2.",
    )
    routing_key_from: str = key(
        "", unit="name of a variable", doc="For `pagerduty`: the variable that has the routing key."
    )

    @model_validator(mode="after")
    def _complete(self) -> Webhook:
        if bool(self.url) == bool(self.url_from):
            raise ValueError("either url or url_from")
        if self.format == "pagerduty" and not self.routing_key_from:
            raise ValueError("routing_key_from, which pagerduty needs")
        return self


class Watch(Frozen):
    """The section `watch`: how `fleet watch` checks the fleet, and whom it notifies."""

    look_every: Annotated[Wait, AfterValidator(_at_least_a_second)] = key(
        timedelta(seconds=15),
        unit="duration",
        doc="How often the fleet is checked. Applications give a sign of life every 30 seconds.",
    )
    notify_after: Wait = key(
        timedelta(seconds=30),
        unit="duration",
        doc="How long an incident lasts before anybody is notified: longer where small ones pass by themselves.",
    )
    objective: float = key(
        0.999,
        gt=0,
        lt=1,
        unit="share",
        doc="Share of the time in which a topic is not to be overdue: what the error budget is made of.",
    )
    webhooks: tuple[Webhook, ...] = key((), unit="list: keys of a webhook", doc="Who is notified of incidents.")


class FleetFile(Frozen):
    """`fleet.yaml`, beside the environment's file."""

    launcher: Literal["local", "dataproc"] = key(
        "local", unit="local | dataproc", doc="Where applications run: on this machine, or on Dataproc clusters."
    )
    release: Annotated[str, AfterValidator(release_name)] = key(
        "",
        unit="release",
        shown="this tree's code, packed when it is deployed",
        doc="Which release all applications are to run, of those that `lakehouse fleet history` has.",
    )
    deliver_within: Duration = key(
        DELIVER_WITHIN,
        unit="duration",
        doc="How long after its end an hour should be everywhere it goes, where nothing closer to the topic says it.",
    )
    size: str = key("", unit="name of a size", shown="2 cores, 1 GiB", doc="Of applications that do not say it.")
    sizes: Annotated[dict[str, Size], AfterValidator(_named)] = key(
        default_factory=dict, unit="name: keys of a size", doc="What applications may get."
    )
    classes: Annotated[dict[str, TopicClass], AfterValidator(_named)] = key(
        default_factory=dict, unit="name: keys of a class", doc="Topics that are treated alike, such as `critical`."
    )
    applications: Annotated[dict[str, Entry], AfterValidator(_named)] = key(
        unit="name: keys of an application",
        min_length=1,
        doc="Every topic must be in exactly one.",
    )
    roll_out: RollOut = RollOut()
    watch: Watch = Watch()
    local: Local = Local()
    dataproc: Dataproc = Dataproc()


@dataclass(frozen=True)
class WantedApplication:
    """An application as `fleet.yaml` wants it. `release` is empty where that of the fleet is yet to be packed."""

    name: str
    topics: tuple[str, ...]
    size_name: str
    size: Size
    release: str
    deliver_within: Mapping[str, timedelta]
    """Of each of its topics."""


def wanted_applications(file: FleetFile, topics: Mapping[str, Topic], origin: str) -> dict[str, WantedApplication]:
    """Each application with its topics, by name. `origin` is the file's name, for errors.

    ConfigError for a topic that no application or more than one has, for a name that there is not, and for an
    application without any topic.
    """
    classes = _classes(file, topics, origin)
    class_of = _owners(classes, origin, "class")
    chosen = {name: _chosen(entry, name, classes, topics, origin) for name, entry in file.applications.items()}
    owners = _owners(chosen, origin, "application")
    orphans = sorted(topics.keys() - owners.keys())
    if orphans:
        raise ConfigError(
            f"{origin}: applications",
            found=f"no application for {_listed(orphans)}",
            expected="each topic of conf/ in one application",
            next_step='Add the names, or a pattern such as "*", to the `topics` of one.',
        )
    return {name: _wanted(file, name, chosen[name], class_of, topics, origin) for name in file.applications}


def class_of_topics(file: FleetFile, topics: Mapping[str, Topic], origin: str) -> dict[str, str]:
    """The class of each topic that has one; ConfigError for one that two classes name."""
    return _owners(_classes(file, topics, origin), origin, "class")


def _classes(file: FleetFile, topics: Mapping[str, Topic], origin: str) -> dict[str, list[str]]:
    return {name: _class_topics(file, name, topics, origin) for name in file.classes}


def _wanted(
    file: FleetFile,
    name: str,
    chosen: Sequence[str],
    class_of: Mapping[str, str],
    topics: Mapping[str, Topic],
    origin: str,
) -> WantedApplication:
    entry = file.applications[name]

    def within(topic: str) -> timedelta:
        of_class = file.classes[class_of[topic]].deliver_within if topic in class_of else None
        return topics[topic].deliver_within or of_class or entry.deliver_within or file.deliver_within

    size_name = entry.size or file.size
    if size_name and size_name not in file.sizes:
        raise _unknown(f"{origin}: applications.{name}.size", size_name, file.sizes, "sizes")
    return WantedApplication(
        name,
        tuple(chosen),
        size_name,
        file.sizes[size_name] if size_name else Size(),
        entry.release or file.release,
        {topic: within(topic) for topic in chosen},
    )


def _chosen(
    entry: Entry, name: str, classes: Mapping[str, Sequence[str]], topics: Mapping[str, Topic], origin: str
) -> list[str]:
    subject = f"{origin}: applications.{name}"
    for each in entry.classes:
        if each not in classes:
            raise _unknown(f"{subject}.classes", each, classes, "classes")
    of_classes = [topic for each in entry.classes for topic in classes[each]]
    chosen = _matching(entry.topics, topics, f"{subject}.topics", of_classes)
    if not chosen:
        raise ConfigError(
            subject,
            found="no topic",
            expected="at least one topic for each application",
            next_step="Give it `topics` or `classes` that there are, or take the application out.",
        )
    return chosen


def _class_topics(file: FleetFile, name: str, topics: Mapping[str, Topic], origin: str) -> list[str]:
    return _matching(file.classes[name].topics, topics, f"{origin}: classes.{name}.topics", [])


def _matching(patterns: Sequence[str], topics: Mapping[str, Topic], subject: str, others: Iterable[str]) -> list[str]:
    """The topics that the patterns and `others` name, less those behind a `!`; ConfigError for a name of none."""
    chosen, left_out = set(others), set[str]()
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        if any(sign in wanted for sign in "*?["):
            names = {topic for topic in topics if fnmatchcase(topic, wanted)}
        elif wanted in topics:
            names = {wanted}
        else:
            raise _unknown(subject, wanted, topics, "topics")
        (left_out if pattern.startswith("!") else chosen).update(names)
    return sorted(chosen - left_out)


def _owners(chosen: Mapping[str, Sequence[str]], origin: str, kind: str) -> dict[str, str]:
    """Who has each topic; ConfigError for one that two have."""
    owners: dict[str, str] = {}
    for name, topics in chosen.items():
        for topic in topics:
            other = owners.setdefault(topic, name)
            if other != name:
                raise ConfigError(
                    f"{origin}: topic {topic}",
                    found=f"{kind} {other} and {kind} {name}",
                    expected=f"one {kind} for each topic",
                    next_step=f'Leave it out of one: "!{topic}" among the `topics` of that {kind}.',
                )
    return owners


def _unknown(subject: str, name: str, known: Iterable[str], what: str) -> ConfigError:
    return ConfigError(
        subject,
        found=repr(name),
        expected=f"one of the {what}: {_listed(sorted(known)) or '(there are none)'}",
        next_step="Check the spelling.",
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MANY
    return ", ".join(names[:_MANY]) + (f" and {more} more" if more > 0 else "")
