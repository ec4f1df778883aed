"""A topic's tables and folders: the one value that knows where they are and how they are made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from lakehouse.clock import Clock
from lakehouse.config import Settings
from lakehouse.durations import duration_text
from lakehouse.errors import LakeError
from lakehouse.schemas import LEDGER, bronze_schema, silver_schema
from lakehouse.store.delta import first_line, make_durable, sizes, table_errors
from lakehouse.store.history import Entry, History
from lakehouse.store.ledger import Ledger, LedgerTable
from lakehouse.store.ledger_rows import StoredRows, all_rows, followed_digest
from lakehouse.store.place import Place
from lakehouse.store.silver_log import SilverHead
from lakehouse.store.table_definition import TableDefinition, defined_log
from lakehouse.store.table_log import CHECKPOINT_EVERY, TableLog, log_of
from lakehouse.topics import Topic

BRONZE_LOG_MARGIN = timedelta(days=7)
REPLACED_FILES_KEPT = timedelta(days=1)
"""Of bronze and the ledger, whose rows are then in other files: whoever has begun to read them ends in that time."""

_ledgers: dict[tuple[object, ...], LedgerTable] = {}
"""Those that this process records in, by address and options: their digests are read once."""

_silver_heads: dict[tuple[object, ...], SilverHead] = {}
"""Of the silver tables that this process seals into, by the same, and by what they are to have."""


@dataclass(frozen=True)
class TopicTables:
    """Where a topic's things are, and its tables. Nothing else builds an address or hands storage options about."""

    topic: Topic
    settings: Settings
    opened: MutableMapping[str, DeltaTable] | None = field(default=None, repr=False, compare=False)
    """See `Place`."""

    def opened_once(self) -> TopicTables:
        """For one thread that needs a table again and again."""
        return replace(self, opened={})

    @property
    def raw(self) -> Place:
        return self._place(self.settings.raw_root)

    @property
    def sealed(self) -> Place:
        return self._place(self.settings.sealed_root)

    @property
    def segments(self) -> Place:
        return self.raw.below("segments")

    @property
    def reports(self) -> Place:
        return self.sealed.below("reports")

    def bronze(self, version: int | None = None) -> DeltaTable:
        """Every delivery, as of `version` or now; LakeError when there is no such table or version."""
        return self.raw.below("bronze").table(version)

    def silver(self, version: int | None = None) -> DeltaTable:
        """The sealed hours, as of `version` or now; LakeError when there is no such table or version."""
        return self.sealed.below("silver").table(version)

    def ledger(self, by: str, clock: Clock | None = None) -> Ledger:
        """The ledger to record in as `by` (`<stage>/<release>/<run>`); created where there is none.

        Its rows are dated by the clock of the lake, where none is given.
        """
        place = self._ledger
        key = place.uri, tuple(sorted(place.options.items())), self.topic.audit_window, tuple(self.topic.mirrors)
        table = _ledgers.get(key)
        # Another store's table that is gone is an error of whoever reads on: no list is spent on each pass.
        if table is None or not (place.files().has_clock or place.has_table()):
            # Without a lock, which a slow store of one topic would hold against all others: two handles do no harm.
            table = _ledgers[key] = self._opened_ledger(place)
        return Ledger(table, by, clock or self.settings.clock)

    def _opened_ledger(self, place: Place) -> LedgerTable:
        """By its digest, where that says that the table is as it is to be."""
        mirrors, properties = self.topic.mirrors, self._properties(self.topic.audit_window)
        log = TableLog(place.uri, 0, place.options)
        digest = followed_digest(log, mirrors)
        if digest is not None and digest.properties == properties:
            return LedgerTable(log, mirrors=mirrors, properties=properties, digest=digest)
        log, _ = _ensure(place, LEDGER, [], properties)
        return LedgerTable(log, mirrors=mirrors, properties=properties)

    def history(self) -> History:
        """What the ledger says; nothing where there is no ledger."""
        return all_rows(self._ledger.table()) if self.has_ledger() else History()

    def stored_rows(self) -> StoredRows:
        """The ledger as of now, for who asks of some hours; LakeError where there is none."""
        table = self._ledger.table()
        return StoredRows(log_of(table), sizes(table))

    def digest_history(self, newest: int) -> History | None:
        """Of the ledger what tells how the topic is now, see `digest`; None where only the whole ledger does."""
        place = self._ledger
        digest = followed_digest(TableLog(place.uri, 0, place.options), self.topic.mirrors, newest)
        return digest.history if digest else None

    def ledger_files_to_change(self, changed: Callable[[Entry], Entry], states: Collection[str]) -> list[str]:
        """Addresses of the ledger's files with a row of these states that `changed` gives otherwise.

        Those of older versions are among them.
        """
        if not self.has_ledger():
            return []
        return [f"{self._ledger.uri}/{name}" for name, _ in LedgerTable(self._ledger.table()).holding(changed, states)]

    def has_bronze(self) -> bool:
        return self.raw.below("bronze").has_table()

    def has_silver(self) -> bool:
        return self.sealed.below("silver").has_table()

    def has_ledger(self) -> bool:
        return self._ledger.has_table()

    def ensure_bronze_log(self) -> TableLog:
        """The log of bronze, which is created or given new declared fields where that is due."""
        properties = self._properties(self.bronze_log_kept)
        return _ensure(self.raw.below("bronze"), bronze_schema(self.topic), ["hour"], properties)[0]

    def ensure_bronze(self) -> DeltaTable:
        """The same as a table."""
        self.ensure_bronze_log()
        return self.bronze()

    def ensure_silver(self) -> DeltaTable:
        """Silver, created or given new declared fields where that is due; append-only."""
        self._ensure_silver()
        return self.silver()

    def _ensure_silver(self) -> tuple[TableLog, TableDefinition]:
        window = self.topic.audit_window
        properties = self._properties(window, files_kept=window) | {"delta.appendOnly": "true"}
        return _ensure(self.sealed.below("silver"), silver_schema(self.topic), ["hour"], properties)

    def silver_head(self) -> SilverHead:
        """Silver for the one who seals, as of now; created or given new declared fields where that is due."""
        key = self._silver_key
        head = _silver_heads.get(key)
        if head is None:
            head = _silver_heads[key] = SilverHead(self._ensure_silver)
        else:
            head.update()
        return head

    def silver_columns(self) -> pa.Schema:
        """Of silver as it is now, without the partition's; LakeError when there is no such table."""
        head, place = _silver_heads.get(self._silver_key), self.sealed.below("silver")
        if head is not None:
            head.update()
        found = defined_log(place.uri, place.options) if head is None else None
        columns = head.columns if head else found[1].columns if found else pa.schema(self.silver().schema().to_arrow())
        return columns.remove(columns.get_field_index("hour"))

    @property
    def _silver_key(self) -> tuple[object, ...]:
        place = self.sealed.below("silver")
        options = tuple(sorted(place.options.items()))
        return place.uri, options, self.topic.audit_window, silver_schema(self.topic)

    @property
    def bronze_log_kept(self) -> timedelta:
        """As long as its deliveries, and somewhat longer: what the last of them came with can still be said."""
        return self.topic.bronze_retention + BRONZE_LOG_MARGIN

    def _properties(self, log_kept: timedelta, files_kept: timedelta = REPLACED_FILES_KEPT) -> dict[str, str]:
        """`files_kept` is how long the files of older versions stay."""
        return {
            "delta.logRetentionDuration": "interval " + _interval(log_kept),
            "delta.deletedFileRetentionDuration": "interval " + _interval(files_kept),
            "delta.enableExpiredLogCleanup": "false",  # `maintain` does it: in a commit it lists the whole log
            "delta.checkpointInterval": str(CHECKPOINT_EVERY),
        }

    @property
    def _ledger(self) -> Place:
        return self.sealed.below("ledger")

    def _place(self, root: str) -> Place:
        return Place(f"{root}/{self.topic.name}", self.settings.storage_options, self.opened)


def _interval(duration: timedelta) -> str:
    """Delta knows whole units only."""
    seconds = duration // timedelta(seconds=1)
    return duration_text(timedelta(seconds=seconds))


def _ensure(
    place: Place, schema: pa.Schema, partition_by: list[str], properties: Mapping[str, str]
) -> tuple[TableLog, TableDefinition]:
    found = defined_log(place.uri, place.options)
    if found is None:
        _create(place, schema, partition_by, properties)
    if found is None or not _is_as_wanted(place.uri, found[1], schema, properties):
        table = place.table()
        _follow_schema(table, schema, partition_by)
        with table_errors(place.uri):
            _follow_properties(table, properties)
        found = log_of(table), TableDefinition.of(table)
    with table_errors(place.uri):
        make_durable(found[0])
    return found


def _is_as_wanted(uri: str, present: TableDefinition, schema: pa.Schema, properties: Mapping[str, str]) -> bool:
    has_all = all(present.properties.get(key) == value for key, value in properties.items())
    return has_all and not _lacks(uri, present.columns, schema)


def _create(place: Place, schema: pa.Schema, partition_by: list[str], properties: Mapping[str, str]) -> None:
    try:
        DeltaTable.create(
            place.uri,
            schema,
            mode="ignore",
            partition_by=partition_by or None,
            configuration=dict(properties),
            storage_options=dict(place.options) or None,
        )
    except (DeltaError, OSError) as refused:
        raise LakeError(
            place.uri,
            found=first_line(refused),
            expected="a folder in which tables can be created",
            next_step="Check raw_root and sealed_root and the permissions there.",
        ) from refused


def _follow_properties(table: DeltaTable, properties: Mapping[str, str]) -> None:
    """A changed audit window reaches the tables that are there, too."""
    present = table.metadata().configuration
    if any(present.get(key) != value for key, value in properties.items()):
        table.alter.set_table_properties(dict(properties))
        table.update_incremental()


def _follow_schema(table: DeltaTable, schema: pa.Schema, partition_by: list[str]) -> None:
    """Add what the topic has gained; fields that it no longer declares stay, and are null from now on."""
    if not _lacks(table.table_uri, pa.schema(table.schema().to_arrow()), schema):
        return
    try:
        write_deltalake(
            table, schema.empty_table(), mode="append", schema_mode="merge", partition_by=partition_by or None
        )
        table.update_incremental()
    except (DeltaError, pa.ArrowException, ValueError) as refused:
        raise _not_followed(table.table_uri, refused) from refused


def _lacks(uri: str, present: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether a table has not all that is declared; LakeError where it has it of another type."""
    try:
        return _gains(pa.struct(list(present)), pa.struct(list(wanted)), "")
    except ValueError as other:
        raise _not_followed(uri, other) from other


def _not_followed(uri: str, refused: Exception) -> LakeError:
    return LakeError(
        uri,
        found=first_line(refused),
        expected="declared fields that only gain members",
        next_step="Give a field whose type changes a new name.",
    )


def _gains(present: pa.DataType, wanted: pa.DataType, path: str) -> bool:
    """Whether `wanted` has members that `present` lacks; ValueError where one has another type."""
    if pa.types.is_struct(present) and pa.types.is_struct(wanted):
        members = {member.name: member.type for member in present}
        cases = {name.lower(): name for name in members}
        for member in wanted:
            if member.name not in members and member.name.lower() in cases:
                name = f"{path}.{member.name}".lstrip(".")
                raise ValueError(f"{name} in the configuration, and in the table as {cases[member.name.lower()]}")
        known = [member for member in wanted if member.name in members]
        gains = [_gains(members[member.name], member.type, f"{path}.{member.name}".lstrip(".")) for member in known]
        return any(gains) or len(known) < wanted.num_fields
    if _is_list(present) and _is_list(wanted):
        return _gains(present.value_type, wanted.value_type, path)
    if pa.types.is_map(present) and pa.types.is_map(wanted):
        return _gains(present.item_type, wanted.item_type, path)
    if _type_name(present) != _type_name(wanted):
        raise ValueError(f"{path} as {present} in the table and as {wanted} in the configuration")
    return False


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _type_name(kind: pa.DataType) -> str:
    """The type without the widths of offsets, which Delta does not keep."""
    return str(kind).removeprefix("large_").removesuffix("_view")
