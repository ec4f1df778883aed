"""Whether an application goes by the clock of a day that the sandbox replays."""

from __future__ import annotations

import logging
import os

from lakehouse.clock import replayed_clock
from lakehouse.config import Settings
from lakehouse.hours import instant_text

log = logging.getLogger(__name__)


def settle_clock(settings: Settings) -> None:
    """A replayed clock is for the sandbox's broker alone: an application of any other broker ends it, for all."""
    replayed = replayed_clock(settings.raw_root)
    if replayed is None:
        return
    moment, broker = instant_text(replayed()), replayed.broker()
    if broker is not None and broker == os.environ.get("PUBSUB_EMULATOR_HOST"):
        log.warning("clock: application=%s replays=%s broker=%s", settings.application, moment, broker)
        return
    replayed.end()
    log.warning("clock: application=%s replays=no replayed_until=%s", settings.application, moment)
