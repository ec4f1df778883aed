"""Mirror: every cleared hour goes to every target of its topic, and is counted there again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lakehouse.clock import Clock
from lakehouse.config import Config
from lakehouse.errors import LakehouseError, MirrorError
from lakehouse.mirrors.catalogue import Checks, mirror_named
from lakehouse.mirrors.contract import Mirror
from lakehouse.mirrors.target import Delivery, Outcome, TargetRun, as_lakehouse_error, due_now
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

if TYPE_CHECKING:
    from lakehouse.spark.session import SparkOrNone


def mirror_due(
    topic: Topic,
    config: Config,
    spark: SparkOrNone,
    *,
    run: str,
    mirrors: Mapping[str, Mirror] | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
    checks: Checks | None = None,
) -> list[Delivery]:
    """Publish what is due to all targets at the same time; only what they count as the seal did is recorded.

    Each target takes its hours oldest first, as many at once as it says, and they are recorded in their order.

    With a `clock` an hour that a target refused before waits for its next try (`backoff.py`); without one all are
    tried. Where an erasure left an hour that is invalid, it is withdrawn.

    Raises a MirrorError at the end when anything failed; what failed stays due, and held up nothing else. Without
    `spark` only targets that need none can be served. `mirrors` take precedence over those of the configuration. No
    hour is begun once `is_stopping`. `checks` are those of the run, which each topic passes once.
    """
    given, checks = mirrors or {}, checks or Checks(config)
    tables = TopicTables(topic, config.settings)
    by = f"mirror/{config.settings.release}/{run}"

    def mirror_of(name: str) -> Mirror:
        checks.check(name, topic)
        return mirror_named(name, config.settings, config.path, spark)

    def run_target(name: str) -> Outcome:
        return _run_target(name, tables, by, lambda: given.get(name) or mirror_of(name), is_stopping, clock)

    with ThreadPoolExecutor(max(1, len(topic.mirrors))) as pool:
        outcomes = list(pool.map(run_target, topic.mirrors))
    _raise_all(topic, [error for outcome in outcomes for error in outcome.errors])
    return [delivery for outcome in outcomes for delivery in outcome.deliveries]


def _run_target(
    name: str,
    tables: TopicTables,
    by: str,
    open_mirror: Callable[[], Mirror],
    is_stopping: Callable[[], bool],
    clock: Clock | None,
) -> Outcome:
    """One target's due hours; it is opened only when there are any. Whatever it raises is an error of the outcome."""
    try:
        ledger = tables.ledger(by, clock)
        history = ledger.digest()
        if is_stopping() or not (due_now(history, name, clock) or history.due_to_withdraw(name)):
            return Outcome()
        return TargetRun(open_mirror(), ledger, tables, is_stopping, clock).run_due()
    except Exception as error:
        return Outcome(errors=[as_lakehouse_error(error, f"mirror {name}: {tables.topic.name}")])


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
