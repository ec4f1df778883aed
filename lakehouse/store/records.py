"""The ledger's contract: the states, and what a row of each says in its `details`.

Every class is one state's `details` as JSON: a field's name is the key, its annotation the type and the meaning (see
`meanings`). A field that is None is not written. Keys that a class does not know are ignored, and a key that a row does
not have gives the default: rows that an older or a newer release wrote can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, TypeAdapter, ValidationError


class State(StrEnum):
    """What happened. The first six happen to an hour, in this order; the others to a target, topic or open hour."""

    CLOSED = "closed"
    SEALED = "sealed"
    VALID = "valid"
    INVALID = "invalid"
    RELEASED = "released"
    MIRRORED = "mirrored"
    STARTED = "started"
    FAILED = "failed"
    RECOVERED = "recovered"
    STOPPED = "stopped"
    HELD = "held"
    CLOSE_REQUESTED = "close_requested"
    REPLAYED = "replayed"
    LOSS_ACCEPTED = "loss_accepted"
    LOST = "lost"
    STAGE_FAILED = "stage_failed"
    DAMAGED = "damaged"
    WITHDRAWN = "withdrawn"
    MIRROR_FAILED = "mirror_failed"


HOUR_STATES = (
    State.CLOSED, State.SEALED, State.VALID, State.INVALID, State.RELEASED, State.MIRRORED, State.WITHDRAWN,
)  # fmt: skip
VERDICTS = (State.VALID, State.INVALID, State.RELEASED)

_Instant = Annotated[datetime, PlainSerializer(datetime.isoformat, return_type=str)]
_Checksum = Annotated[int, PlainSerializer(str, return_type=str)]
"""As text in JSON, whose readers round large numbers."""


class Record:
    """The base of all `details`. Subclasses are frozen dataclasses with keyword arguments only."""

    state: ClassVar[State]

    def as_json(self) -> dict[str, Any]:
        """Ready for `json.dumps`; `from_json` gives an equal record."""
        written: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json", exclude_none=True)
        return written

    @classmethod
    def from_json(cls, details: Mapping[str, Any]) -> Self:
        """ValueError when a key without a default is missing, or a value has another type; it names the keys."""
        try:
            read: Self = _adapter(cls).validate_python(cls._with_present_keys(details))
        except (TypeError, AttributeError) as wrong:  # of keys that were written otherwise before
            raise ValueError(f"details of other types: {wrong}") from wrong
        except ValidationError as wrong:
            found = [f"{'.'.join(map(str, each['loc'])) or 'details'}: {each['msg']}" for each in wrong.errors()]
            raise ValueError("; ".join(found[:3])) from wrong
        return read

    @classmethod
    def _with_present_keys(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """The details as the present release would have written them."""
        return dict(details)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One closing condition for one hour."""

    condition: Annotated[str, "name of the closing rule (older rows also have `idle`)"]
    is_met: Annotated[bool, "whether the hour met it"] = False
    required: Annotated[str, "what it asks for: an instant (ISO 8601) or a phrase"] = ""
    measured: Annotated[str | None, "what was measured: an instant (ISO 8601) or a phrase; none when unknown"] = None
    text: Annotated[str, "the same in a sentence"] = ""


@dataclass(frozen=True, kw_only=True)
class Closed(Record):
    """The hour takes no more events; recorded by ingest after the bronze commit that closed it."""

    state = State.CLOSED

    bronze_version: Annotated[int, "version of bronze that closed the hour; seal reads this one"]
    why: Annotated[str, "`watermark`, `idle` or `request`"] = ""
    through: Annotated[str | None, "last hour of a range of empty hours that closed together and is not sealed"] = None
    rows: Annotated[int, "deliveries in the bucket"] = 0
    rejected: Annotated[int, "messages rejected since the close before"] = 0
    conditions: Annotated[tuple[Condition, ...], "every closing condition as measured"] = ()
    watermark: Annotated[_Instant | None, "event time before which no input was expected"] = None
    frontier: Annotated[_Instant | None, "publish time before which everything was consumed"] = None
    newest_write: Annotated[_Instant | None, "when the newest segment of its own time was written"] = None
    epoch: Annotated[int, "ingest's epoch that closed the hour"] = 0
    release: Annotated[str, "release that closed it"] = ""
    requested_by: Annotated[str | None, "who asked for the close"] = None
    request_reason: Annotated[str | None, "the reason that was given"] = None

    @staticmethod
    def range_end(details: Mapping[str, Any]) -> Any:
        """The `through` of a row, whatever the rest of it is: a row that is broken elsewhere is a range, too."""
        return details.get("through")

    @property
    def because(self) -> str:
        """Why the hour closed, as it goes on after "because"."""
        if self.requested_by is not None:
            return f"{self.requested_by} asked for it: {self.request_reason}"
        texts = [condition.text for condition in self.conditions if condition.is_met and condition.text]
        return ", ".join([*texts[:-2], " and ".join(texts[-2:])]) if texts else self.why

    @classmethod
    def _with_present_keys(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Before `is_met` was written, a row had all conditions that were met, unless somebody asked for the close."""
        rows = details.get("conditions") or ()
        if not isinstance(rows, (list, tuple)):
            return dict(details)
        are_met = details.get("why") != "request"
        return {
            **details,
            "conditions": [{"is_met": are_met, **row} if isinstance(row, Mapping) else row for row in rows],
        }


@dataclass(frozen=True, kw_only=True)
class PreviousSeal:
    """What an erased revision was: the evidence that stays of it."""

    revision: Annotated[int, "its revision"] = 1
    rows: Annotated[int, "its rows"] = 0
    skewed: Annotated[int | None, "its skewed rows"] = None
    files: Annotated[int | None, "its files"] = None
    id_checksum: Annotated[_Checksum, "its id checksum"] = 0
    silver_version: Annotated[int | None, "version of silver that held it"] = None
    release: Annotated[str | None, "release that made it"] = None


def _number_of_files(value: Any) -> Any:
    """The first releases wrote the paths."""
    return len(value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """One file of a sealed hour by its bytes, as they were when it was written.

    `name` is in the hour's folder, `sha256` in hexadecimal digits, `crc32c` in base64. In a row it is one text, as a
    ledger has those of years.
    """

    name: str
    sha256: str
    crc32c: str

    def __str__(self) -> str:
        return f"{self.name} {self.sha256} {self.crc32c}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """ValueError when it is none."""
        name, sha256, crc32c = text.split(" ")
        return cls(name=name, sha256=sha256, crc32c=crc32c)


def _digests(texts: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for text in texts or ():
        if text.count(" ") != 2:
            raise ValueError(f"{text!r} is no name with SHA-256 and CRC32C")
    return texts


@dataclass(frozen=True, kw_only=True)
class Sealed(Record):
    """The hour is one row per event in silver. The silver commit's `userMetadata` holds the same keys.

    A revision above 1 is what an erasure left; then `erased`, `reason`, `requested_by` and `previous` say of what.
    """

    state = State.SEALED

    silver_version: Annotated[int, "version of silver that holds the hour"]
    bronze_version: Annotated[int, "version of bronze that it was made from"]
    rows: Annotated[int, "rows in silver"]
    id_checksum: Annotated[_Checksum, "sum over md5 of the event ids, order-independent; text in JSON"]
    revision: Annotated[int, "how often the hour was sealed, this time included"] = 1
    deliveries: Annotated[int, "deliveries in the bucket"] = 0
    duplicates: Annotated[int, "deliveries left out: the event came more than once in this hour"] = 0
    late_duplicates: Annotated[int, "deliveries left out: an earlier hour has the event"] = 0
    skewed: Annotated[int, "rows whose event hour is an earlier one"] = 0
    files: Annotated[int | None, BeforeValidator(_number_of_files), "files in silver"] = None
    digests: Annotated[
        tuple[str, ...] | None,
        AfterValidator(_digests),
        "each file's name, SHA-256 (hexadecimal) and CRC32C (base64); none of files that an older release wrote",
    ] = None
    release: Annotated[str, "release that sealed it"] = ""
    seconds: Annotated[float | None, "how long it took"] = None
    erased: Annotated[int | None, "rows taken out by erasures so far"] = None
    reason: Annotated[str | None, "the reason of the erasure"] = None
    requested_by: Annotated[str | None, "who ordered the erasure"] = None
    previous: Annotated[PreviousSeal | None, "the revision before the erasure"] = None

    @property
    def digest_by_name(self) -> dict[str, FileDigest]:
        return {each.name: each for each in map(FileDigest.from_text, self.digests or ())}

    @property
    def has_all_digests(self) -> bool:
        """Not so of an hour that an older release sealed, also where an erasure has written some of its files since."""
        return len(self.digests or ()) == self.files


@dataclass(frozen=True, kw_only=True)
class FailedExpectation:
    """One expectation that the hour does not meet."""

    expectation: Annotated[str, "type of the expectation"]
    column: Annotated[str | None, "columns it is about"] = None
    severity: Annotated[str, "`critical` or `warning`"] = ""
    unexpected: Annotated[int | None, "rows that break it"] = None
    observed: Annotated[Any, "what was observed of the hour as a whole; of columns only the report has it"] = None


@dataclass(frozen=True, kw_only=True)
class Judged(Record):
    """What a verdict says."""

    failed: Annotated[tuple[FailedExpectation, ...], "critical expectations that the hour does not meet"] = ()
    warnings: Annotated[tuple[FailedExpectation, ...], "the others that it does not meet"] = ()
    silver_version: Annotated[int | None, "version of silver that was judged"] = None
    revision: Annotated[int, "revision of the hour that was judged"] = 1
    rows: Annotated[int | None, "rows that were judged"] = None
    evaluated: Annotated[int | None, "expectations in the suite"] = None
    seconds: Annotated[float | None, "how long it took"] = None
    suite_hash: Annotated[str | None, "hash of the expectation files"] = None
    report: Annotated[str | None, "address of the HTML report"] = None


@dataclass(frozen=True, kw_only=True)
class Valid(Judged):
    """The hour meets every critical expectation."""

    state = State.VALID


@dataclass(frozen=True, kw_only=True)
class Invalid(Judged):
    """The hour fails a critical expectation: it goes no further until a person releases it."""

    state = State.INVALID


@dataclass(frozen=True, kw_only=True)
class Released(Record):
    """A person let an invalid hour go further."""

    state = State.RELEASED

    by: Annotated[str, "who"] = ""
    reason: Annotated[str, "why"] = ""
    revision: Annotated[int, "revision of the hour"] = 1


@dataclass(frozen=True, kw_only=True)
class Mirrored(Record):
    """A target has the hour, and counted it as the seal did. One row per target."""

    state = State.MIRRORED

    target: Annotated[str, "name of the target"]
    where: Annotated[str, "address of the hour there"] = ""
    rows: Annotated[int | None, "rows that the target counted"] = None
    id_checksum: Annotated[_Checksum | None, "id checksum that the target computed; text in JSON"] = None
    silver_version: Annotated[int | None, "version of silver that was published"] = None
    revision: Annotated[int, "revision of the hour that was published"] = 1
    seconds: Annotated[float | None, "how long it took"] = None


@dataclass(frozen=True, kw_only=True)
class Withdrawn(Record):
    """A target no longer has the hour: what an erasure left of it is invalid, and the revision before must go."""

    state = State.WITHDRAWN

    target: Annotated[str, "name of the target"]
    where: Annotated[str, "address that the hour had there"] = ""
    revision: Annotated[int, "revision of the hour that is invalid"] = 1


@dataclass(frozen=True, kw_only=True)
class MirrorFailed(Record):
    """A target that answers did not take the hour; it is tried again after a pause that grows, the others at once."""

    state = State.MIRROR_FAILED

    target: Annotated[str, "name of the target"]
    error: Annotated[str, "the whole message"] = ""
    revision: Annotated[int, "revision of the hour that was to be published"] = 1


@dataclass(frozen=True, kw_only=True)
class Started(Record):
    """A run of ingest took the topic over."""

    state = State.STARTED

    run: Annotated[str, "id of the run"] = ""
    host: Annotated[str, "host it runs on"] = ""
    release: Annotated[str | None, "release it runs"] = None
    application: Annotated[str | None, "name of its application"] = None


@dataclass(frozen=True, kw_only=True)
class Failed(Record):
    """Ingest of the topic ended with an error, or could not start."""

    state = State.FAILED

    error: Annotated[str, "the whole message"] = ""
    run: Annotated[str, "id of the run"] = ""
    host: Annotated[str, "host it ran on"] = ""


@dataclass(frozen=True, kw_only=True)
class Recovered(Record):
    """Ingest of the topic works again after a failure that did not end the run."""

    state = State.RECOVERED

    run: Annotated[str, "id of the run"] = ""
    host: Annotated[str, "host it runs on"] = ""


@dataclass(frozen=True, kw_only=True)
class Stopped(Record):
    """A run of ingest ended as it was asked to: from here on nobody runs the topic, until one starts."""

    state = State.STOPPED

    run: Annotated[str, "id of the run"] = ""
    host: Annotated[str, "host it ran on"] = ""


@dataclass(frozen=True, kw_only=True)
class Held(Record):
    """Why ingest keeps the oldest open hour open; recorded when the reason changes."""

    state = State.HELD

    reasons: Annotated[tuple[Condition, ...], "closing conditions that the hour does not meet"] = ()
    rows: Annotated[int, "deliveries in the bucket so far"] = 0
    watermark: Annotated[_Instant | None, "event time before which no input was expected"] = None
    frontier: Annotated[_Instant | None, "publish time before which everything was consumed"] = None
    frontier_text: Annotated[str | None, "what the source of the frontier said of it"] = None
    problem: Annotated[str | None, "why nobody knows the frontier; the same as long as the cause is"] = None
    waits_for_frontier: Annotated[str | None, "that the frontier keeps the hour open, in a sentence"] = None
    newest_write: Annotated[_Instant | None, "when the newest segment of its own time was written"] = None
    epoch: Annotated[int, "ingest's epoch"] = 0

    @classmethod
    def _with_present_keys(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Before `waits_for_frontier` and `frontier_text` were written, the reasons' texts said it."""
        backlog: Mapping[str, Any] = next(
            (row for row in details.get("reasons") or () if row.get("condition") == "backlog"), {}
        )
        text = backlog.get("text")
        cause = str(text).removeprefix("the backlog is unknown: ") if text and not backlog.get("measured") else None
        return {"waits_for_frontier": text, "frontier_text": cause, **details}


@dataclass(frozen=True, kw_only=True)
class CloseRequested(Record):
    """A person asked for the close of all hours through the row's hour; ingest carries it out."""

    state = State.CLOSE_REQUESTED

    by: Annotated[str, "who"] = ""
    reason: Annotated[str, "why"] = ""


@dataclass(frozen=True, kw_only=True)
class LossAccepted(Record):
    """A person said that ingest goes on without messages that the source has lost; ingest carries it out."""

    state = State.LOSS_ACCEPTED

    by: Annotated[str, "who"] = ""
    reason: Annotated[str, "why"] = ""


@dataclass(frozen=True, kw_only=True)
class LostRange:
    """Offsets of a partition that the source had no longer; it may never have had a message at some of them."""

    partition: Annotated[int, "number of the partition"]
    begin: Annotated[int, "the first offset that was to be read next"] = 0
    end: Annotated[int | None, "the offset from which ingest goes on; none where the topic is another one now"] = None


@dataclass(frozen=True, kw_only=True)
class Lost(Record):
    """Ingest went on without messages that the source had lost; recorded after the bronze commit that did so."""

    state = State.LOST

    messages: Annotated[int | None, "how many at most; none when unknown"] = None
    ranges: Annotated[tuple[LostRange, ...], "where they were"] = ()
    by: Annotated[str, "who accepted it"] = ""
    reason: Annotated[str, "why"] = ""


@dataclass(frozen=True, kw_only=True)
class Replayed(Record):
    """Rejected deliveries were decoded again and went into open hours; recorded after the bronze commit that did it."""

    state = State.REPLAYED

    bronze_version: Annotated[int, "version of bronze that moved them"]
    deliveries: Annotated[int, "how many"] = 0
    reasons: Annotated[dict[str, int], "how many by the reason for which they had been rejected"] = field(
        default_factory=dict
    )
    hours: Annotated[dict[str, int], "how many went into which hour"] = field(default_factory=dict)
    by: Annotated[str, "who replayed them"] = ""


@dataclass(frozen=True, kw_only=True)
class StageFailed(Record):
    """A stage after ingest failed; the row's hour is the oldest that was due there. Over when the hour is not due."""

    state = State.STAGE_FAILED

    stage: Annotated[str, "`seal`, `validate` or `mirror`"] = ""
    error: Annotated[str, "the whole message"] = ""
    run: Annotated[str, "id of the run"] = ""
    host: Annotated[str, "host it ran on"] = ""


@dataclass(frozen=True, kw_only=True)
class DamagedFile:
    """One file that is missing, or is not as it was written."""

    path: Annotated[str, "its address"]
    found: Annotated[str, "what is there"] = ""
    expected: Annotated[str, "what the log or the manifest says"] = ""


@dataclass(frozen=True, kw_only=True)
class Damaged(Record):
    """A look at the topic's files found other damage than the look before; a `count` of 0 says that all is repaired."""

    state = State.DAMAGED

    count: Annotated[int, "how many files"] = 0
    files: Annotated[tuple[DamagedFile, ...], "the first of them"] = ()


NO_DAMAGE = Damaged()


RECORDS: Mapping[State, type[Record]] = {
    kind.state: kind
    for kind in (
        Closed, Sealed, Valid, Invalid, Released, Mirrored, Started, Failed, Recovered, Stopped, Held, CloseRequested,
        Replayed, LossAccepted, Lost, StageFailed, Withdrawn, MirrorFailed, Damaged,
    )
}  # fmt: skip
"""The class of each state's `details`."""


def record_of(state: str, details: Mapping[str, Any]) -> Record:
    """The typed details of a row; ValueError when the state is unknown or the details are not those of the state."""
    return RECORDS[State(state)].from_json(details)


@dataclass(frozen=True)
class Meaning:
    """One key of a state's `details`, for the manual. A `type` that is a class here has keys of its own."""

    key: str
    type: str
    is_required: bool
    meaning: str


def meanings(kind: type[Any]) -> Iterator[Meaning]:
    """The keys of a class whose fields are annotated as those of this module are, in order."""
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        annotated, *metadata = get_args(hints[each.name])
        text = next(extra for extra in metadata if isinstance(extra, str))
        is_required = each.default is MISSING and each.default_factory is MISSING
        yield Meaning(each.name, _type_name(annotated), is_required, text)


_TYPE_NAMES = {str: "text", int: "number", float: "number", bool: "true or false", datetime: "instant", Any: "any"}


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _type_name(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return f"list of {_type_name(get_args(kind)[0])}"
    if get_origin(kind) is Mapping:
        return f"object of {_type_name(get_args(kind)[1])}"
    if get_origin(kind) is Literal:
        return "text"
    if members := [member for member in get_args(kind) if member is not type(None)]:
        return _type_name(members[0])
    return _TYPE_NAMES.get(kind, getattr(kind, "__name__", str(kind)))


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Made once for each class: a status command reads thousands of rows of few states."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
