"""An invalid hour goes on as it is, on a person's word."""

from __future__ import annotations

from lakehouse.config import Config
from lakehouse.errors import LAKE, LakehouseError
from lakehouse.hours import Hour
from lakehouse.store.history import Entry, History
from lakehouse.store.records import VERDICTS, Released, State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic


class ReleaseError(LakehouseError):
    """An hour that is not held back by a verdict cannot be released, nor one without a reason."""

    exit_code = LAKE


def release(topic: Topic, config: Config, hour: Hour, reason: str, by: str) -> Entry:
    """Let an invalid hour go to its mirrors; gives the ledger's row. ReleaseError when it is not invalid."""
    if not reason.strip():
        raise ReleaseError(
            f"{topic.name} {hour}",
            found="no reason",
            expected="a reason, which the ledger keeps",
            next_step="Give it with --reason.",
        )
    ledger = TopicTables(topic, config.settings).ledger(f"release/{config.settings.release}/{by}")
    entry = ledger.record(
        Released(reason=reason.strip(), by=by, revision=ledger.history_with(hour).revision(hour)),
        hour,
        unless=lambda history: not _is_invalid(history, hour),
    )
    if entry is None:
        raise ReleaseError(
            f"{topic.name} {hour}",
            found=f"the hour {ledger.history_with(hour).state_of(hour)}",
            expected="an invalid hour",
            next_step="`lakehouse explain` says what happened to it.",
        )
    return entry


def _is_invalid(history: History, hour: Hour) -> bool:
    verdicts = [entry.state for entry in history.current(hour) if entry.state in VERDICTS]
    return bool(verdicts) and verdicts[-1] == State.INVALID
