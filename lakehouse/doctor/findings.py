"""Checks, each with a time limit of its own, and what they found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from lakehouse.durations import brief
from lakehouse.errors import LakehouseError, in_one_line

Outcome = Literal["ok", "fails", "not tried"]
LIMIT = timedelta(seconds=30)
"""Of a check that says no other: calls of Google's take less than a second, and what is refused may be tried again."""
LOGIN = "Run `gcloud auth application-default login`; a cluster needs a service account and the scope cloud-platform."
_AT_A_TIME = 16


class Failed(Exception):
    """What a check found wrong, where `what_to_do` of the check is not the whole answer."""

    def __init__(self, found: str, what_to_do: str = "") -> None:
        super().__init__(found)
        self.found, self.what_to_do = found, what_to_do


class NotTried(Exception):
    """Why a check does not apply here."""


@dataclass(frozen=True)
class Check:
    """One question: `ask` gives what was found where all is well, and raises what was not."""

    name: str
    ask: Callable[[], str]
    what_to_do: str
    limit: timedelta = LIMIT


@dataclass(frozen=True)
class Finding:
    """What came of a check. `what_to_do` is empty unless it fails."""

    check: str
    outcome: Outcome
    found: str
    what_to_do: str = ""
    seconds: float = 0.0


def findings(checks: Sequence[Check]) -> list[Finding]:
    """Of all checks, in their order. One that hangs, or kills its thread, is a failure, and stops no other.

    Each has its limit from when it begins; at most 16 are under way at a time, and one that hangs gives its place up.
    """
    running: dict[int, _Running] = {}
    found: dict[int, Finding] = {}
    waiting = list(enumerate(checks))
    while waiting or running:
        while waiting and len(running) < _AT_A_TIME:
            place, check = waiting.pop(0)
            running[place] = _Running(check)
        for place, each in list(running.items()):
            if (ended := each.finding()) is not None:
                found[place] = ended
                del running[place]
        time.sleep(0.01)
    return [found[place] for place in sorted(found)]


def advice(error: BaseException, otherwise: str) -> str:
    """To log in, where nobody is: no role helps then."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.startswith("google.auth"):
            return LOGIN
        cause = cause.__cause__ or cause.__context__
    return otherwise


class _Running:
    """A check in a thread that nobody waits for when the process ends."""

    def __init__(self, check: Check) -> None:
        self._check, self._began = check, time.monotonic()
        self._result: Finding | None = None
        self._thread = threading.Thread(target=self._run, name=f"doctor: {check.name}", daemon=True)
        self._thread.start()

    def finding(self) -> Finding | None:
        """None as long as it may still come."""
        if self._result is not None:
            return self._result
        limit = self._check.limit.total_seconds()
        if not self._thread.is_alive() and self._result is None:
            return self._failed("it ended without a word", self._check.what_to_do)
        if time.monotonic() - self._began > limit:
            return self._failed(f"no answer within {brief(limit)}", self._check.what_to_do)
        return None

    def _run(self) -> None:
        try:
            self._result = Finding(self._check.name, "ok", self._check.ask(), seconds=self._seconds())
        except NotTried as why:
            self._result = Finding(self._check.name, "not tried", str(why), seconds=self._seconds())
        except Failed as failed:
            self._result = self._failed(failed.found, advice(failed, failed.what_to_do or self._check.what_to_do))
        except LakehouseError as error:
            self._result = self._failed(f"{error.subject}: {error.found}", advice(error, error.next_step))
        except BaseException as error:
            said = f"{type(error).__name__}: {in_one_line(error)}"
            self._result = self._failed(said, advice(error, self._check.what_to_do))

    def _failed(self, found: str, what_to_do: str) -> Finding:
        return Finding(self._check.name, "fails", found, what_to_do, self._seconds())

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 3)
