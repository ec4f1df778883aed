"""The durable steps of an event's path have ids, so that a run can be made to die between any two of them.

`LAKEHOUSE_DIE_AT=<step>` ends the whole application by SIGKILL when it gets there, `<step>:<n>` the n-th time in one
process, and `any:<n>` at the n-th step of one process, whichever that is. `LAKEHOUSE_EXECUTORS_DIE_IN=<folder>`, in the
environment of Spark's executors, ends one executor for each file there that has a step's id: that which gets to the
step first. The first to find `<step>.hold` there waits: the file is then `<step>.held`, until somebody removes it. They
cost nothing when they are not set, and are how the crash tests of this project interrupt the real
thing.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping

VARIABLE = "LAKEHOUSE_DIE_AT"
EXECUTORS_VARIABLE = "LAKEHOUSE_EXECUTORS_DIE_IN"
ANY = "any"
GROUP_VARIABLE = "LAKEHOUSE_PROCESS_GROUP"

LONGEST_HOLD_SECONDS = 60.0
"""Of an executor that waits at a step and that nobody lets go."""
_POLL_SECONDS = 0.05

STEPS: Mapping[str, str] = {
    "ingest.started": "the run's `started` row; what the last run left out is not read yet",
    "ingest.offsets_logged": "Spark's offset log plans the epoch",
    "pull.received": "nothing: messages are leased, files are not finished",
    "pull.files_durable": "the segment's files, which nothing names",
    "pull.race_lost": "another attempt's manifest; this one's files are nobody's, its messages leased",
    "pull.manifest_durable": "files and manifest; every message will come again",
    "pull.half_acknowledged": "files and manifest; some messages will come again",
    "pull.acknowledged": "files and manifest, which nobody but a manifest knows of",
    "ingest.decided": "files and manifests of the whole epoch",
    "ingest.committed": "the commit, with the closes that the ledger lacks",
    "ingest.close_recorded": "the commit and one more of its closes in the ledger",
    "ingest.manifests_half_cleared": "everything; of the settled manifests a half is gone, or all are",
    "ingest.batch_done": "everything; Spark will plan the epoch again",
    "seal.files_durable": "the hour's silver files, which nothing names",
    "seal.committed": "silver's commit, of which the ledger does not know",
    "seal.recorded": "the hour, sealed",
    "validate.report_durable": "the report, which the ledger does not name",
    "validate.recorded": "report and verdict; MLflow does not know of it",
    "mirror.half_copied": "one more of the hour's files, aside from where readers look",
    "mirror.copied": "all files of the hour aside, or in place where a store cannot rename",
    "mirror.whole": "the whole hour, aside from where readers look",
    "mirror.old_aside": "old and new hour aside; readers find none",
    "mirror.in_place": "the hour where readers look",
    "mirror.counted": "the hour at its target, of which the ledger does not know",
    "mirror.recorded": "the hour at its target, recorded",
}
"""The catalogue, in the order of an event's path: `<stage>.<what is done>`, and what is durable if a run dies there."""

CARE_STEPS: Mapping[str, str] = {
    "compact.file_durable": "the file of an hour's rows, which nothing names",
    "compact.committed": "the commit; the files before it are still there",
}
"""Of `maintain`, which has no part in an event's path."""

LARGE_HOUR_STEPS: Mapping[str, str] = {
    "seal.hashes_compared": "nothing: a task knows which of its rows share a hash",
}
"""Of tasks that find the duplicates of an hour of more than `seal.driver_rows`."""

_seen: Counter[str] = Counter()
_watcher: Callable[[str], None] | None = None


def reach(step: str) -> None:
    """Say that everything before `step` is done and nothing after it has begun.

    ValueError for a step that `STEPS` does not have, whenever somebody watches.
    """
    wanted, deaths = os.environ.get(VARIABLE), os.environ.get(EXECUTORS_VARIABLE)
    if _watcher is None and not wanted and not deaths:
        return
    _check(step)
    if _watcher is not None:
        _watcher(step)
    if wanted:
        name, _, nth = wanted.partition(":")
        if name in (step, ANY):
            _seen[name] += 1
            if _seen[name] == int(nth or 1):
                _die()
    if deaths:
        _wait_where_held(f"{deaths}/{step}")
        if _is_taken(f"{deaths}/{step}"):
            _die_with_executor()


def lead() -> None:
    """Make this process the one whose group dies with it: Spark's Python workers have groups of their own."""
    os.environ[GROUP_VARIABLE] = str(os.getpgrp())
    name = os.environ.get(VARIABLE, "").partition(":")[0]
    if name not in ("", ANY):
        _check(name)


def _check(step: str) -> None:
    if step not in {**STEPS, **CARE_STEPS, **LARGE_HOUR_STEPS}:
        raise ValueError(f"no step {step!r}; there are: {', '.join(STEPS)}")


def _die() -> None:
    group = os.environ.get(GROUP_VARIABLE)
    if group and int(group) != os.getpgrp():
        os.killpg(int(group), signal.SIGKILL)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _wait_where_held(step: str) -> None:
    """Where a hold is, and no other process takes it."""
    try:
        os.rename(f"{step}.hold", f"{step}.held")
    except FileNotFoundError:
        return
    ends = time.monotonic() + LONGEST_HOLD_SECONDS
    while os.path.exists(f"{step}.held") and time.monotonic() < ends:
        time.sleep(_POLL_SECONDS)


def _is_taken(death: str) -> bool:
    """Whether it was there, and no other process takes it."""
    try:
        os.unlink(death)
    except FileNotFoundError:
        return False
    return True


def _die_with_executor() -> None:
    """A Python worker is forked by a daemon that leads their group, and that an executor has started."""
    import psutil

    executor = psutil.Process(os.getppid()).ppid()
    os.kill(executor, signal.SIGKILL)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def watch(watcher: Callable[[str], None] | None) -> None:
    """Call `watcher` at every step of this process, until another call takes its place; None ends it."""
    global _watcher
    _watcher = watcher


def watcher() -> Callable[[str], None] | None:
    """Who watches now, for one that watches for a while and then gives the place back."""
    return _watcher
