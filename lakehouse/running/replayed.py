"""Whether an application goes by the clock of a day that the sandbox replays."""

from __future__ import annotations

import logging
import os

from lakehouse.clock import replayed_clock
from lakehouse.config import Settings
from lakehouse.errors import UsageError
from lakehouse.hours import instant_text

log = logging.getLogger(__name__)


def settle_clock(settings: Settings) -> None:
    """A replayed clock is for the sandbox's broker alone: UsageError for an application of any other one.

    By the clock of that day all that real Pub/Sub publishes now would be of the future, and by today's all that the
    lake has would be years late.
    """
    replayed = replayed_clock(settings.raw_root)
    if replayed is None:
        return
    moment, broker = instant_text(replayed()), os.environ.get("PUBSUB_EMULATOR_HOST")
    if broker is None or broker != replayed.broker():
        raise UsageError(
            settings.raw_root,
            found=f"a lake in which it is {moment}, and {f'another broker ({broker})' if broker else 'no broker'}",
            expected="the sandbox's, by which the day goes on",
            next_step="Start `lakehouse sandbox` and export PUBSUB_EMULATOR_HOST as it says, or end the day with"
            " `lakehouse sandbox --today`.",
        )
    log.warning("clock: application=%s replays=%s broker=%s", settings.application, moment, broker)
