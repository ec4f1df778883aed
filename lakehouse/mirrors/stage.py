"""Mirror: every cleared hour goes to every target of its topic, and is counted there again."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile

from pyspark.sql import SparkSession

from lakehouse import failpoints
from lakehouse.config import Config
from lakehouse.errors import LakeError, LakehouseError, MirrorError
from lakehouse.hours import Hour
from lakehouse.mirrors.catalogue import mirror_named
from lakehouse.mirrors.contract import Count, Mirror, SealedHour
from lakehouse.store.delta import files_of_hour, open_table
from lakehouse.store.ledger import History, Ledger
from lakehouse.store.tables import Folders, folders_of, ledger_table
from lakehouse.topics import Topic

FAILURES_IN_A_ROW = 3
"""So many hours refused one after the other mean that the target is away: the next run tries again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mirrored:
    """One hour that a target now holds as the seal counted it."""

    target: str
    hour: Hour
    revision: int
    silver_version: int
    count: Count
    seconds: float


def mirror_due(
    topic: Topic,
    config: Config,
    spark: SparkSession | None,
    *,
    run: str,
    mirrors: Mapping[str, Mirror] | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> list[Mirrored]:
    """Publish what is due, oldest hour first, to all targets side by side; only what they count rightly is recorded.

    A target takes as many hours at once as it says; they are recorded in their order.

    Raises a MirrorError at the end when anything failed; what failed stays due, and held up nothing else. Without
    `spark` only targets that need none can be served. `mirrors` are taken before those of the configuration. No hour is
    begun once `is_stopping`.
    """
    given = mirrors or {}
    by = f"mirror/{config.settings.release}/{run}"

    def served(name: str) -> _Outcome:
        mirror = lambda: given.get(name) or _configured(name, config, spark)  # noqa: E731
        return _served(name, topic, config, by, mirror, is_stopping)

    with ThreadPoolExecutor(max(1, len(topic.mirrors))) as pool:
        outcomes = list(pool.map(served, topic.mirrors))
    _raise_all(topic, [error for outcome in outcomes for error in outcome.errors])
    return [mirrored for outcome in outcomes for mirrored in outcome.mirrored]


def _configured(name: str, config: Config, spark: SparkSession | None) -> Mirror:
    return mirror_named(name, config.settings, config.path, spark)


@dataclass
class _Outcome:
    """What one target got done, and what went wrong there."""

    mirrored: list[Mirrored] = field(default_factory=list)
    errors: list[LakehouseError] = field(default_factory=list)


def _served(
    name: str, topic: Topic, config: Config, by: str, opened: Callable[[], Mirror], is_stopping: Callable[[], bool]
) -> _Outcome:
    """One target's due hours. Whatever it throws is its own trouble and becomes an error of the outcome."""
    outcome = _Outcome()
    try:
        ledger = Ledger(
            ledger_table(folders_of(config.settings, topic.name), topic, config.settings.storage_options), by
        )
        due = ledger.history().due_to_mirror(name)
        if due and not is_stopping():
            _serve(opened(), topic, config, ledger, takewhile(lambda _: not is_stopping(), due), outcome)
    except Exception as error:
        outcome.errors.append(_as_ours(error, f"mirror {name}: {topic.name}"))
    return outcome


def _serve(
    mirror: Mirror, topic: Topic, config: Config, ledger: Ledger, due: Iterable[Hour], outcome: _Outcome
) -> None:
    folders, options = folders_of(config.settings, topic.name), config.settings.storage_options

    def brought(hour: Hour, history: History) -> Mirrored:
        return _brought(mirror, sealed_hour(history, topic, hour, folders, options))

    failures = 0
    for hour, work in _side_by_side(due, brought, ledger, mirror.hours_at_once):
        try:
            mirrored = work.result()
            if _is_recorded(ledger, topic, mirrored, mirror):
                outcome.mirrored.append(mirrored)
            failures = 0
        except Exception as error:
            outcome.errors.append(_as_ours(error, f"mirror {mirror.name}: {topic.name} {hour}"))
            failures += 1
        if failures == FAILURES_IN_A_ROW:
            log.warning("mirror %s %s: left after %d failures in a row", mirror.name, topic.name, failures)
            break


def _side_by_side(
    due: Iterable[Hour], brought: Callable[[Hour, History], Mirrored], ledger: Ledger, at_once: int
) -> Iterator[tuple[Hour, Future[Mirrored]]]:
    """The hours with their work, oldest first: so many under way at a time, and no new one once the caller leaves.

    The ledger is asked and written in the caller's thread alone.
    """
    under_way: deque[tuple[Hour, Future[Mirrored]]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        for hour in due:
            under_way.append((hour, pool.submit(brought, hour, ledger.history())))
            if len(under_way) == at_once:
                yield under_way.popleft()
        yield from under_way


def _brought(mirror: Mirror, hour: SealedHour) -> Mirrored:
    """Publish, count, compare; MirrorError when the target counts anything else than the seal did."""
    started = time.monotonic()
    expected = Count(hour.rows, hour.id_checksum)
    count = _published(mirror, hour, expected)
    if count != expected:
        raise MirrorError(
            f"mirror {mirror.name}: {hour.topic.name} {hour.hour} at {mirror.where(hour.topic, hour.hour)}",
            found=str(count or "no such hour"),
            expected=f"{expected}, as it was sealed",
            next_step="Look who else writes there and remove the hour there; it stays due and will be published anew.",
        )
    seconds = round(time.monotonic() - started, 3)
    return Mirrored(mirror.name, hour.hour, hour.revision, hour.silver_version, count, seconds)


def _is_recorded(ledger: Ledger, topic: Topic, mirrored: Mirrored, mirror: Mirror) -> bool:
    """Record it; False when meanwhile another run has, or the hour was sealed anew."""
    hour, where = mirrored.hour, mirror.where(topic, mirrored.hour)
    details = {
        "target": mirror.name,
        "rows": mirrored.count.rows,
        "id_checksum": str(mirrored.count.id_checksum),
        "silver_version": mirrored.silver_version,
        "revision": mirrored.revision,
        "seconds": mirrored.seconds,
        "where": where,
    }

    failpoints.reached("mirror.counted")

    def overtaken(history: History) -> bool:
        is_done = mirror.name in history.targets_done(hour)
        return is_done or not history.is_cleared(hour) or history.revision(hour) != mirrored.revision

    if not ledger.record("mirrored", hour, details, unless=overtaken):
        return False
    failpoints.reached("mirror.recorded")
    rows, seconds = mirrored.count.rows, mirrored.seconds
    log.info("mirrored %s %s to %s: %d rows in %.3f s", topic.name, hour, mirror.name, rows, seconds)
    return True


def _published(mirror: Mirror, hour: SealedHour, expected: Count) -> Count | None:
    """What the target counts. An hour that it took to be there already, and counts wrongly, is published anew once."""
    mirror.publish(hour)
    count = mirror.read_back(hour.topic, hour.hour)
    if count != expected:
        log.warning("mirror %s %s %s: found %s, publishes anew", mirror.name, hour.topic.name, hour.hour, count)
        mirror.publish(hour, anew=True)
        count = mirror.read_back(hour.topic, hour.hour)
    return count


def sealed_hour(history: History, topic: Topic, hour: Hour, folders: Folders, options: Mapping[str, str]) -> SealedHour:
    """The newest seal of an hour with the exact files of its silver version; LakeError when they are not its."""
    seal = history.last("sealed", hour)
    if seal is None:
        raise ValueError(f"{hour} of {topic.name} is not sealed")
    version, rows = int(seal.details["silver_version"]), int(seal.details["rows"])
    files = tuple(files_of_hour(open_table(folders.silver, options, version), hour))
    rows_in_files = sum(file.rows for file in files)
    if (len(files), rows_in_files) != (int(seal.details["files"]), rows):
        raise LakeError(
            f"{folders.silver} at version {version}: {hour}",
            found=f"{len(files)} files with {rows_in_files} rows",
            expected=f"{seal.details['files']} files with {rows} rows, as the ledger says",
            next_step="Run `lakehouse verify` for the topic: somebody else may have written there.",
        )
    return SealedHour(
        topic=topic,
        hour=hour,
        revision=history.revision(hour),
        silver_uri=folders.silver,
        silver_version=version,
        files=files,
        rows=rows,
        id_checksum=int(seal.details["id_checksum"]),
        release=str(seal.details["release"]),
        storage_options=options,
    )


def _as_ours(error: Exception, subject: str) -> LakehouseError:
    """A target's own kind of exception, told as ours."""
    if isinstance(error, LakehouseError):
        return error
    log.error("%s failed", subject, exc_info=error)
    ours = MirrorError(
        subject,
        found=f"{type(error).__name__}: {error}",
        expected="the target to take the hour",
        next_step="See the log for where it came from; the hour stays due.",
    )
    ours.__cause__ = error
    return ours


def _raise_all(topic: Topic, errors: list[LakehouseError]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise MirrorError(
            f"mirrors of {topic.name}",
            found=f"{len(errors)} failures: " + "; ".join(str(error) for error in errors),
            expected="every due hour at every target",
            next_step="What failed stays due, the rest is recorded.",
        ) from ExceptionGroup(f"mirrors of {topic.name}", errors)
