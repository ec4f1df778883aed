"""The durable steps of an event's path have names, so that a run can be made to die between any two of them.

`LAKEHOUSE_DIE_AT=<step>` ends the whole application by SIGKILL when it gets there, `<step>:<n>` the n-th time in one
process. It costs nothing when it is not set, and is how the crash tests of this project interrupt the real thing.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

VARIABLE = "LAKEHOUSE_DIE_AT"
_GROUP = "LAKEHOUSE_PROCESS_GROUP"

_seen: Counter[str] = Counter()
_watcher: Callable[[str], None] | None = None


def reached(step: str) -> None:
    """Say that everything before `step` is done and nothing after it has begun."""
    if _watcher is not None:
        _watcher(step)
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, nth = wanted.partition(":")
    if name == step:
        _seen[step] += 1
        if _seen[step] == int(nth or 1):
            _die()


def lead() -> None:
    """Make this process the one whose group dies with it: Spark's Python workers stand in groups of their own."""
    os.environ[_GROUP] = str(os.getpgrp())


def _die() -> None:
    group = os.environ.get(_GROUP)
    if group and int(group) != os.getpgrp():
        os.killpg(int(group), signal.SIGKILL)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def watch(watcher: Callable[[str], None] | None) -> None:
    """Call `watcher` at every step of this process, until another call takes its place; None ends it."""
    global _watcher
    _watcher = watcher
