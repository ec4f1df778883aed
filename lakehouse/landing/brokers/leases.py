"""Leases: pulled messages are nobody else's until they are acknowledged or given back."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from lakehouse.landing.brokers.contract import Refused

log = logging.getLogger(__name__)


class LeaseHolder(Protocol):
    """What a broker's reader does with leases; each returns the messages for which it was refused for good.

    `extend` begins no request any more, not even one that failed and is to be sent again, once it no longer `goes_on`.
    """

    def acknowledge(self, ack_ids: Iterable[str]) -> Refused: ...

    def extend(self, ack_ids: Iterable[str], deadline: timedelta, goes_on: Callable[[], bool]) -> Refused: ...

    def give_back(self, ack_ids: Iterable[str]) -> Refused: ...


class Leases:
    """Keeps pulled messages leased, by a thread, until they are acknowledged or given back.

    Once their slot `is_given_up` they are not extended any longer, and come again within a deadline. `refused` counts
    the messages for which an extension or a return was refused for good, by `extend` or `give_back`: they come again,
    sooner or later than they should. `of` says in the log whose they are: topic, and epoch and slot.
    """

    def __init__(
        self,
        reader: LeaseHolder,
        deadline: timedelta,
        of: tuple[str, str] = ("", ""),
        is_given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._reader, self._deadline, self._of, self._is_given_up = reader, deadline, of, is_given_up
        self.refused: Counter[str] = Counter()
        self._held: list[_Lease] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
        self._thread.start()

    @property
    def is_kept(self) -> bool:
        """Whether what is held is still extended."""
        return self._thread.is_alive()

    def hold(self, ack_ids: list[str]) -> None:
        with self._lock:
            self._held.append(_Lease(ack_ids, self._from_now()))

    def acknowledge(self) -> Refused:
        return self._reader.acknowledge(self._let_go())

    def give_back(self) -> None:
        self._count("give_back", self._reader.give_back(self._let_go()))

    def stop(self) -> None:
        """Extend nothing any more: what is still held then comes again by itself."""
        self._stopped.set()
        self._thread.join()

    def _let_go(self) -> list[str]:
        """Everything held; the thread must not extend a lease that is being ended."""
        self.stop()
        with self._lock:
            held, self._held = self._held, []
        return [ack_id for lease in held for ack_id in lease.ack_ids]

    def _keep(self) -> None:
        """Extend at half of the deadline, so that one lost request does no harm."""
        half = self._deadline.total_seconds() / 2
        while not self._stopped.wait(half / 5) and self._goes_on():
            soon = time.monotonic() + half
            with self._lock:
                due = [lease for lease in self._held if lease.until < soon]
            if due:
                ack_ids = (ack_id for lease in due for ack_id in lease.ack_ids)
                self._count("extend", self._reader.extend(ack_ids, self._deadline, self._goes_on))
                for lease in due:
                    lease.until = self._from_now()

    def _goes_on(self) -> bool:
        return not self._stopped.is_set() and not self._is_given_up()

    def _count(self, verb: str, refused: Refused) -> None:
        if refused.messages:
            self.refused[verb] += refused.messages
            log.warning(
                "leases: topic=%s slot=%s refused=%s messages=%d error=%s",
                *self._of, verb, refused.messages, refused.error,
            )  # fmt: skip

    def _from_now(self) -> float:
        return time.monotonic() + self._deadline.total_seconds()


@dataclass
class _Lease:
    """A page's, as its messages are leased together."""

    ack_ids: list[str]
    until: float
