"""The ingest protocol holds whatever is interrupted, lost or repeated: random schedules of a model of it."""

from __future__ import annotations

from model import Outcome, outcome

SEEDS = range(300)
HOLDS = Outcome(lost=set(), in_closed_hours=[], committed_twice=[])


def test_no_message_is_lost_and_no_closed_hour_written_to() -> None:
    """With two drivers, deaths between any two steps, lost checkpoints and redelivery."""
    broken = {seed: found for seed in SEEDS if (found := outcome(seed)) != HOLDS}
    assert broken == {}


def test_without_adoption_messages_would_be_lost() -> None:
    """The schedules are hard enough: what adoption is there for does happen in most of them."""
    losing = [seed for seed in SEEDS if outcome(seed, adopts=False).lost]
    assert len(losing) > len(SEEDS) / 2


def test_a_schedule_is_its_seed() -> None:
    """So that a failure can be looked at again."""
    assert outcome(7, adopts=False) == outcome(7, adopts=False)
