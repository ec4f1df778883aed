"""What is gone of a log before it was read, in words; only a person can go on without it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from lakehouse import hours
from lakehouse.errors import ACCEPT_LOSS, LostMessagesError
from lakehouse.sources import LogSource


def lost_messages(
    source: LogSource, lost: Mapping[int, tuple[int, int | None]], since: datetime | None
) -> LostMessagesError:
    """`lost` has for each partition where we are, and where its log begins now; None where it ends before us."""
    counts = [begin - at for at, begin in lost.values() if begin is not None]
    places = ", ".join(
        f"{number}: {at} to {begin - 1}" if begin is not None else f"{number}: from {at} on"
        for number, (at, begin) in sorted(lost.items())
    )
    many = f"up to {sum(counts):,} messages" if len(counts) == len(lost) else "an unknown number of messages"
    when = f", published after {hours.instant_text(since)}" if since else ""
    return LostMessagesError(
        source.address,
        found=f"{many} gone{when} (offsets of partition {places})",
        expected="messages to stay until they are read",
        next_step=f"Let the topic keep them for longer; {ACCEPT_LOSS} goes on with what is there.",
    )


def another_log(source: LogSource, found: str, expected: str, since: datetime | None) -> LostMessagesError:
    """There is a log of that name, but not the one that was read. `found` and `expected` say what tells them apart."""
    when = f" after {hours.instant_text(since)}" if since else ""
    return LostMessagesError(
        source.address,
        found=f"another topic of that name: {found}; what the former one had{when} is gone",
        expected=expected,
        next_step=f"If it was created again, {ACCEPT_LOSS} reads it from its begin.",
    )
