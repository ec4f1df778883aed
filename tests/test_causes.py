"""Topics with the same trouble have the same cause, whatever their names, hours and ages are."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lakehouse.operations.causes import shared_cause
from lakehouse.operations.signs import Failure
from lakehouse.operations.status import STATES, TopicStatus
from tests.clock import NOON


def failing(topic: str, seconds: float) -> TopicStatus:
    error = f"topic {topic}: projects/p/subscriptions/{topic}: found no permission; expected access. Grant it."
    failure = Failure(NOON - timedelta(seconds=seconds), seconds, error, "run", "host")
    return TopicStatus(topic, "failing", failure=failure)


def test_an_error_is_named_without_its_subject_and_its_age() -> None:
    """Each names its own subscription: only what was found is the same."""
    assert {shared_cause(failing("plays", 5)), shared_cause(failing("likes", 500))} == {"failing: no permission"}


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_a_cause(state: str) -> None:
    assert shared_cause(TopicStatus("plays", state)) == ("ok" if state == "ok" else f"{state}: {STATES[state]}")


def test_a_lake_that_cannot_be_read_says_what_was_found() -> None:
    broken = TopicStatus("plays", "error", error="/lake/plays: found no Delta table; expected the topic's. Restore it.")
    assert shared_cause(broken) == "error: no Delta table"
