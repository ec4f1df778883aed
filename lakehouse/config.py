"""`conf/<environment>.yaml` and `conf/topics/*.yaml`, typed and frozen."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from lakehouse import __version__
from lakehouse.clock import Clock, clock_of, replayed_clock
from lakehouse.concealed import HIDDEN, learn, may_be_secret, without_credentials
from lakehouse.durations import Duration, Wait
from lakehouse.errors import ConfigError
from lakehouse.keys import Frozen, key
from lakehouse.payload_types import UnreadableSchemaError
from lakehouse.schema_files import schema_text_of
from lakehouse.topics import Topic, topic_from

DEFAULT_CONF = "conf/local.yaml"


class _EachOnce:
    """A key that is twice in a mapping is an error: the last would count, and what is in the first would be gone."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
                if name.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {name.value!r} twice", name.start_mark
                    )
                seen.add(name.value)
        return super().construct_mapping(node, deep)  # type: ignore[misc, no-any-return]


class _Loader(_EachOnce, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Of libyaml where PyYAML was built with it: six times as fast, for which each command on 300 topics waits."""


class _PlainLoader(_EachOnce, yaml.SafeLoader):
    """PyYAML's own."""


Model = TypeVar("Model", bound=BaseModel)


_ODD_IN_PATHS = re.compile(r"%[0-9A-Fa-f]{2}|[\\#?|^`*\[\]{}\x00-\x1f\x7f]")
"""delta-rs 1.6 takes `%20` for a blank and a backslash for a slash, finds no history behind `#` and `?`, and panics at
`[`, `]`, `|` and `^`; Hadoop takes braces and stars for patterns. Blanks, quotes and umlauts are right."""
_ODD_IN_ADDRESSES = re.compile(r"[#?%\\\s*\[\]{}]")
"""What one of the libraries takes for a part of the address that is no path, or for a pattern."""

_HALF_AN_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|:")
"""`file:/x` to one library is a folder `file:` to another; `:memory:` is no file."""


def _rooted(path: str, info: ValidationInfo) -> str:
    """Addresses stay as they are; a path of the file system is made absolute, for executors run elsewhere.

    It counts from the working directory, or from the validation context, where that is a folder. ValueError for what
    not every library understands alike: the absolute path counts, for the folder above may have such a name, too.
    """
    if not path:
        return ""
    if "://" in path:
        return _plain(path.rstrip("/"), _ODD_IN_ADDRESSES)
    if _HALF_AN_ADDRESS.match(path):
        raise ValueError("an address such as `gs://…` or `file:///…`, or a path without a scheme")
    folder = info.context if isinstance(info.context, Path) else Path()
    try:
        absolute = (folder / Path(path).expanduser()).absolute()
    except RuntimeError:
        raise ValueError("a home that this machine has") from None
    return _plain(str(absolute), _ODD_IN_PATHS)


def _plain(path: str, odd: re.Pattern[str]) -> str:
    found = odd.search(path)
    if found:
        raise ValueError(f"an address without {found[0]!r}, which not every library reads alike: move or rename it")
    return path


def _rooted_or_none(path: str, info: ValidationInfo) -> str:
    return _rooted(path, info) if path else ""


def _such_as(pattern: str, examples: str) -> AfterValidator:
    """Of an address, that it begins as these do; any path is none."""
    begins = re.compile(pattern, re.IGNORECASE)

    def check(path: str) -> str:
        if "://" in path and not begins.match(path):
            raise ValueError(f"a folder, or an address such as {examples}")
        return path

    return AfterValidator(check)


Root = Annotated[str, AfterValidator(_rooted)]
LakeRoot = Annotated[
    str, _such_as(r"gs://[^/]|file://[^/]*/+[^/]", "gs://bucket/folder or file:///folder"), AfterValidator(_rooted)
]
SparkRoot = Annotated[
    str,
    _such_as(r"gs://[^/]|(file|hdfs)://[^/]*/+[^/]", "gs://bucket/folder, hdfs://host/folder or file:///folder"),
    AfterValidator(_rooted_or_none),
]


_APPLICATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def _application(name: str) -> str:
    """It names a folder of the lake."""
    if name and not _APPLICATION.fullmatch(name):
        raise ValueError("up to 100 letters, digits, _, . and -, beginning with a letter or a digit")
    return name


FORMER_KEYS = {"dry_after": "empty_after"}
"""Of `ingest`, as release 0.1 spelled them."""
OBSOLETE = {"validation": {"small_rows"}}
"""Sections of release 0.1 with their keys, that have no effect any more: read for one release."""


class Ingest(Frozen):
    """The section `ingest`: how often a topic's subscription is pulled, and how much a slot pulls at a time."""

    trigger: Wait = key(
        timedelta(seconds=10),
        unit="duration",
        doc="How often a batch begins. Shorter closes hours sooner, longer makes fewer and larger files.",
    )
    max_messages: int = key(
        200_000,
        ge=1,
        unit="messages per slot and epoch",
        doc="More makes larger files, as far as executors have the memory.",
    )
    max_bytes: int = key(
        128 * 1024**2,
        ge=1024,
        unit="payload bytes per slot and epoch",
        doc="As above. A slot holds about three times as much.",
    )
    max_pull: Wait = key(
        timedelta(seconds=10),
        unit="duration",
        doc="Longest that a slot pulls before its segment is written; well below the ack deadline.",
    )
    empty_after: Wait = key(
        timedelta(seconds=1),
        unit="duration",
        doc="Wait for a message before the subscription counts as drained. (`dry_after` in 0.1, still read.)",
    )
    answers: Literal["ptars", "google"] = key(
        "ptars",
        unit="ptars | google",
        doc=(
            "What reads Pub/Sub's answers. `google` (its own protobuf classes, slower) only if ptars "
            "fails on this machine: both give the same."
        ),
    )

    checkpoint_root: SparkRoot = key(
        "",
        unit="folder, gs:// or hdfs:// address",
        shown="_applications in raw_root",
        doc="Where Spark's checkpoints are, which may be lost: on HDFS or a disk of the driver they cost no requests.",
    )

    @model_validator(mode="before")
    @classmethod
    def _present(cls, values: Any) -> Any:
        """The spellings of release 0.1 are read as the present ones, for one release."""
        if not isinstance(values, Mapping):
            return values
        return {FORMER_KEYS.get(name, name): value for name, value in values.items()}


def _present_source(source: object) -> object:
    return "drained" if source == "dry" else source


class Frontier(Frozen):
    """The section `frontier`: from where ingest learns up to which publish time everything is consumed."""

    source: Annotated[Literal["monitoring", "drained"], BeforeValidator(_present_source)] = key(
        "monitoring",
        unit="monitoring | drained",
        doc=(
            "`drained` only where there is no Cloud Monitoring, as with Google's emulator. The sandbox's broker has "
            "one, at MONITORING_EMULATOR_HOST. (`dry` in 0.1, still read.)"
        ),
    )
    max_age: Wait = key(
        timedelta(minutes=5),
        unit="duration",
        doc="An older sample is no sample, and hours are held; samples lag by 1 to 2 minutes.",
    )


class Stages(Frozen):
    """The section `stages`: how an application takes closed hours through seal, validation and mirrors."""

    workers: int = key(
        8,
        ge=1,
        le=256,
        unit="topics at a time, 1 to 256",
        doc="How many topics an application's stages serve at a time, one worker each. More where topics wait for one "
        "another while driver and store have room; each may hold an hour in memory.",
    )
    look_every: Wait = key(
        timedelta(minutes=1),
        unit="duration",
        doc="How often a topic is checked although no hour of it has closed: for what a person released, for a new "
        "mirror, and after a crash. Longer with hundreds of topics.",
    )


def _never(value: object) -> object:
    return None if value == "never" else value


def _unhurried(every: timedelta | None) -> timedelta | None:
    if every is not None and every < timedelta(minutes=1):
        raise ValueError("a duration of at least '1 minute', or 'never'")
    return every


class Maintain(Frozen):
    """The section `maintain`: what `run` removes by itself, beside its stages."""

    every: Annotated[Duration | None, BeforeValidator(_never), AfterValidator(_unhurried)] = key(
        timedelta(days=1),
        unit="duration | never",
        doc="How often `run` maintains each topic, in a worker of its own, not in its first 5 minutes. `never` where "
        "the job `maintain` is scheduled.",
    )


class Seal(Frozen):
    """The section `seal`: how silver's files are written and protected."""

    target_file_bytes: int = key(
        256 * 1024**2,
        ge=1024**2,
        unit="bytes",
        doc="Size of silver's files; larger for topics that are only ever scanned whole.",
    )
    small_rows: int = key(
        4_000_000,
        ge=0,
        unit="rows",
        doc="Hours up to this are sealed in the driver, without a Spark job.",
    )
    driver_rows: int = key(
        32_000_000,
        ge=0,
        unit="rows",
        doc="Hours up to this have their duplicates found in the driver, larger ones by Spark's tasks.",
    )
    protect: Literal["none", "hold"] = key(
        "none",
        unit="none | hold",
        doc="`hold` puts a temporary hold on each sealed file on gs://, against deletion by mistake.",
    )


class MLflow(Frozen):
    """The section `mlflow`: where the runs of verdicts go. The ledger and the reports do not depend on it."""

    tracking_uri: str = key(
        "",
        unit="address | none",
        shown="sqlite in sealed_root, where that is a folder",
        doc="An MLflow tracking server. A lake on gs:// has no runs without one, as no sqlite can be there. `none` "
        "where nobody looks at runs.",
    )
    experiment: str = key(
        "lakehouse",
        unit="text",
        doc="The experiment of all topics' runs; another one for each environment of a shared server.",
    )


class Lineage(Frozen):
    """The section `lineage`: whether a lineage server is told of each seal, validation and mirrored hour."""

    events: Literal["none", "openlineage"] = key(
        "none",
        unit="none | openlineage",
        doc="`openlineage` sends events of OpenLineage; where to, its own configuration says (docs/lineage.md).",
    )
    namespace: str = key(
        "lakehouse",
        min_length=1,
        unit="text",
        doc="Of the jobs in these events; another one for each environment that shares a lineage server.",
    )


class Settings(Frozen):
    """One `conf/<environment>.yaml`; unit, default and when to change a key are in the file itself."""

    raw_root: LakeRoot = key(
        min_length=1,
        unit="folder or gs:// address",
        doc="Bronze, checkpoints and segments of all topics.",
    )
    sealed_root: LakeRoot = key(
        "",
        unit="folder or gs:// address",
        shown="raw_root",
        doc="Sealed hours and the ledger: a bucket of its own where analysts may read only these.",
    )
    release: str = key(
        default_factory=lambda: os.environ.get("LAKEHOUSE_RELEASE", __version__),
        min_length=1,
        unit="text",
        shown="$LAKEHOUSE_RELEASE, else the package's version",
        doc="What every commit says it was written by.",
    )
    application: Annotated[str, AfterValidator(_application)] = key(
        default_factory=lambda: os.environ.get("LAKEHOUSE_APPLICATION", ""),
        validate_default=True,
        unit="name",
        shown="$LAKEHOUSE_APPLICATION, else the topics given to the job, else this file's name",
        doc="Whose heartbeat it is. Set it where several applications of one lake would have one name.",
    )
    topics: str = key(
        "topics",
        unit="folder, relative to this file",
        doc="One <topic>.yaml each; another folder for each group of topics.",
    )
    expectations: str = key(
        "../expectations",
        unit="folder, relative to this file",
        doc="One <topic>.json each.",
    )
    ingest: Ingest = Ingest()
    frontier: Frontier = Frontier()
    stages: Stages = Stages()
    maintain: Maintain = Maintain()
    seal: Seal = Seal()
    mlflow: MLflow = MLflow()
    lineage: Lineage = Lineage()
    mirrors: dict[str, dict[str, Any]] = key(
        default_factory=dict,
        unit="name: kind and its own keys",
        doc="Where hours can be mirrored to; a topic lists the names it goes to.",
    )
    spark: dict[str, str] = key(
        default_factory=dict,
        unit="Spark's own settings",
        doc="Settings of spark-submit take precedence; a cluster sets the master and Delta.",
    )
    storage_options: dict[str, str] = key(
        default_factory=dict,
        unit="delta-rs' options",
        doc=(
            "How the lake's storage is reached, as an emulator or a proxy needs it; on Dataproc the cluster's "
            "service account is found without."
        ),
    )

    @property
    def clock(self) -> Clock:
        """The time that the lake goes by."""
        return clock_of(self.raw_root)

    def machine_time(self, moment: datetime) -> datetime:
        """The machine's time at a moment by the lake's clock: what Delta knows versions by."""
        replayed = replayed_clock(self.raw_root)
        return moment if replayed is None else replayed.machine_time(moment)

    @model_validator(mode="before")
    @classmethod
    def _without_obsolete(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {name: each for name, each in values.items() if not _is_obsolete(name, each)}


def _is_obsolete(name: str, section: object) -> bool:
    return name in OBSOLETE and (section is None or (isinstance(section, Mapping) and set(section) <= OBSOLETE[name]))


@dataclass(frozen=True)
class Config:
    """An environment and its topics, as the files say. `unusable` has what is wrong with the files of other topics."""

    path: Path
    settings: Settings
    topics: Mapping[str, Topic]
    expectations: Path
    unusable: Mapping[str, ConfigError] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Of all topics that have a file, usable or not."""
        return sorted({*self.topics, *self.unusable})

    def refuse_unusable(self) -> None:
        """ConfigError for the first topic whose file is wrong."""
        for name in sorted(self.unusable):
            raise self.unusable[name]

    def now(self) -> datetime:
        """By the clock of the lake."""
        return self.settings.clock()

    def topic(self, name: str) -> Topic:
        """The topic of that name; ConfigError when its file is wrong, or none, with the names there are."""
        if name in self.unusable:
            raise self.unusable[name]
        if name not in self.topics:
            raise ConfigError(
                f"topic {name!r}",
                found=f"no such file in {folder_of(self.path, self.settings.topics)}",
                expected="one of " + (", ".join(sorted(self.topics)) or "(there are none)"),
                next_step=f"Check the spelling, or add {name}.yaml there.",
            )
        return self.topics[name]


def load(path: str | Path | None = None, *, folder: Path | None = None) -> Config:
    """As `load_usable`; ConfigError when the file of any topic is wrong, too."""
    config = load_usable(path, folder=folder)
    config.refuse_unusable()
    return config


def load_usable(path: str | Path | None = None, *, folder: Path | None = None) -> Config:
    """The configuration at `path`, else $LAKEHOUSE_CONF, else `conf/local.yaml`, with the topics whose files are right.

    ConfigError when any other part is wrong. `raw_root` and `sealed_root` that are relative count from `folder`, else
    from the working directory.
    """
    file = file_of(path)
    values = values_of(file, given_by="--conf or LAKEHOUSE_CONF")
    learn(values)
    settings = model_of(Settings, file, values, folder)
    if not settings.sealed_root:
        settings = settings.model_copy(update={"sealed_root": settings.raw_root})
    topics, unusable = _topics(folder_of(file, settings.topics), settings, file)
    return Config(file, settings, topics, folder_of(file, settings.expectations), unusable)


def file_of(path: str | Path | None) -> Path:
    """The configuration at `path`, else that of the process."""
    return Path(path or os.environ.get("LAKEHOUSE_CONF") or DEFAULT_CONF)


def folder_of(file: Path, name: str) -> Path:
    """The folder that the configuration at `file` names, as an operator reads it: without `..`."""
    folder = file.parent / name
    return folder.resolve() if ".." in folder.parts else folder


def _topics(folder: Path, settings: Settings, conf: Path) -> tuple[dict[str, Topic], dict[str, ConfigError]]:
    """(the topics whose files are right, what is wrong with each other file), by name."""
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: topics",
            found="no such folder",
            expected="a folder with one <topic>.yaml for each topic",
            next_step="Create it, or point the key `topics` of the configuration at it.",
        )
    topics: dict[str, Topic] = {}
    unusable: dict[str, ConfigError] = {}
    owners: dict[str, Path] = {}
    for file in sorted(folder.glob("*.yaml")):
        try:
            topic = topic_of(file)
            _check_mirrors(topic, settings, file, conf)
        except ConfigError as error:
            unusable[file.stem] = error
            continue
        topics[topic.name] = topic
        other = owners.setdefault(topic.reads.address, file)
        if other != file:  # which of them is the reader nobody knows
            unusable |= {file.stem: _shared(topic, file, other), other.stem: _shared(topic, other, file)}
    return {name: topic for name, topic in topics.items() if name not in unusable}, unusable


def _shared(topic: Topic, file: Path, other: Path) -> ConfigError:
    return ConfigError(
        f"{file}: {'subscription' if topic.subscription else 'source'}",
        found=f"{topic.reads.address}, which {other} has too",
        expected="a subscription of its own for each topic: two readers would each get half of the events",
        next_step="Create a second subscription to the Pub/Sub topic and name it here.",
    )


def topic_of(file: Path) -> Topic:
    """The topic that a file declares, named as the file; ConfigError for the first thing that is wrong in it."""
    values = values_of(file)
    learn({name: values.get(name) for name in ("source", "registry")})
    if values.get("schemas", {}) != {}:
        values["schemas"] = _schema_texts(file, values["schemas"], values.get("format"))
    try:
        return topic_from(file.stem, values)
    except ValidationError as error:
        raise config_error(file, error) from None


def _schema_texts(file: Path, names: Any, kind: Any) -> dict[str, str]:
    """A topic's schemas as texts, by the files' names: executors have the topic, and no files.

    Those of a format that has none are not read.
    """
    folder = folder_of(file, "../schemas")
    if not isinstance(names, list):
        raise ConfigError(
            f"{file}: schemas",
            found=_clipped(repr(names)),
            expected=f"a list of files in {folder}, such as [play.avsc]",
            next_step="Fix that key.",
        )
    if kind not in ("avro", "protobuf"):
        return dict.fromkeys(map(str, names), "")
    texts: dict[str, str] = {}
    for name in map(str, names):
        try:
            texts[name] = schema_text_of(folder, name, kind)
        except UnreadableSchemaError as error:
            raise ConfigError(
                f"{file}: schemas",
                found=f"in {folder / name} {error}",
                expected="a Protobuf schema" if kind == "protobuf" else "an Avro schema of a record",
                next_step=f"Correct the schema; docs/{kind}.md says what can be read.",
            ) from error
        except (OSError, ValueError) as error:  # of a name that no file can have
            raise ConfigError(
                f"{file}: schemas",
                found=f"{folder / name}, which cannot be read ({getattr(error, 'strerror', None) or error})",
                expected="the name of a schema's file in that folder",
                next_step="Put the schema there, or correct its name.",
            ) from error
    return texts


def model_of(kind: type[Model], file: Path, values: dict[str, Any], folder: Path | None = None) -> Model:
    try:
        return kind.model_validate(values, context=folder)
    except ValidationError as error:
        raise config_error(file, error) from None


def values_of(file: Path, *, given_by: str = "") -> dict[str, Any]:
    """The keys and values of a YAML file, unchecked; ConfigError when it cannot be read or is no mapping.

    `given_by`: the option that names the file.
    """
    try:
        values = _parsed(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            str(file),
            found="no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error),
            expected="a readable YAML file",
            next_step=f"Give the path with {given_by}." if given_by else "Give access to it, or remove it.",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            str(file), found=_place_of(error), expected="YAML", next_step="Fix the line it names."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(file),
            found=f"bytes that are no UTF-8, from byte {error.start + 1:,} on",
            expected="YAML in UTF-8",
            next_step="Save the file in UTF-8.",
        ) from None
    except ValueError:  # with the value, which may be a secret
        raise ConfigError(
            str(file),
            found="a value that is not of the type that its tag names",
            expected="YAML",
            next_step="Fix the value behind `!!`.",
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(
            str(file),
            found=type(values).__name__,
            expected="a mapping of keys to values",
            next_step="See the examples in conf/.",
        )
    return values


def _parsed(text: str) -> Any:
    """YAMLError in the words of PyYAML's own parser: those of the fast one say less."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as refused:
        with suppress(RecursionError):
            return yaml.load(text, _PlainLoader)
        raise refused


def _place_of(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself, which may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or type(error).__name__
    return f"{problem}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(problem)


_LONGEST_FOUND = 300
"""Letters of a value that is shown in an error."""


def config_error(file: Path, error: ValidationError) -> ConfigError:
    """The first complaint in full: file, key, found, expected; and which other keys are wrong."""
    first, *others = error.errors()
    key = _key_of(first)
    found = (
        "nothing"
        if first["type"] == "missing"
        else _clipped(repr(_value_without_secrets(first["input"], first["loc"])))
    )
    if first["type"] == "extra_forbidden":
        found = f"the unknown key {key!r}"
    wrong = list(dict.fromkeys(other for each in others if (other := _key_of(each)) != key))
    more = (
        f" {len(wrong)} more to fix in this file: {', '.join(wrong[:10])}{', …' * (len(wrong) > 10)}." if wrong else ""
    )
    return ConfigError(f"{file}: {key}", found=found, expected=_expectation(first), next_step=f"Fix that key.{more}")


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_FOUND else f"{text[:_LONGEST_FOUND]}…"


def _key_of(complaint: ErrorDetails) -> str:
    return ".".join(str(part) for part in complaint["loc"]) or "(whole file)"


def _expectation(complaint: ErrorDetails) -> str:
    """What the key should be, in our words: pydantic's say that an input should be something."""
    known = {"missing": "a value, as this key is required", "extra_forbidden": "a key that the application knows"}
    if complaint["type"] in known:
        return known[complaint["type"]]
    said = complaint["msg"].removeprefix("Value error, ")
    if said.startswith("Input should be "):
        said, _, _ = said.removeprefix("Input should be ").removeprefix("a valid ").partition(", unable to")
        return f"{'an' if said[:1] in 'aeiou' else 'a'} {said}" if " a valid " in complaint["msg"] else said
    if " should " in said:
        kind, _, rule = said.partition(" should ")
        kind, rule = kind.lower(), rule.partition(" after validation")[0]
        return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind} that should {rule}".replace(" that should have", " of")
    return said


def _value_without_secrets(value: Any, location: tuple[int | str, ...]) -> Any:
    """The value without secrets: what is under `storage_options`, under a name that sounds like one, or in an address.

    Of schemas, only which there are.
    """
    if any(may_be_secret(str(part)) or part == "storage_options" for part in location):
        return HIDDEN
    if isinstance(value, Mapping):
        if location == ("schemas",):
            return list(value)
        return {name: _value_without_secrets(each, (str(name),)) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_value_without_secrets(each, ()) for each in value]
    return without_credentials(value) if isinstance(value, str) else value


def _check_mirrors(topic: Topic, settings: Settings, file: Path, conf: Path) -> None:
    for name in topic.mirrors:
        if name not in settings.mirrors:
            raise ConfigError(
                f"{file}: mirrors",
                found=repr(name),
                expected="one of " + (", ".join(settings.mirrors) or "(there are none)") + f", as {conf} defines",
                next_step=f"Define {name!r} under `mirrors` there, or take it out here.",
            )
