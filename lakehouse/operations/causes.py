"""Why a topic is what it is, in words that topics with the same trouble share."""

from __future__ import annotations

from lakehouse.operations.status import STATES, TopicStatus


def shared_cause(status: TopicStatus) -> str:
    """What an incident is called: without the topic's name, its hours and its ages."""
    words = _error(status)
    return f"{status.state}: {words or STATES[status.state]}" if status.state != "ok" else "ok"


def _error(status: TopicStatus) -> str | None:
    """What was found, without its subject, which names the topic."""
    life, found = status.life, None
    if status.state == "error":
        found = status.error
    elif status.state == "stuck" and status.stuck:
        found = status.stuck.reason
    elif status.state == "failing" and life and life.is_failing:
        found = life.error
    elif status.state == "failing" and status.failure:
        found = status.failure.error
    elif status.state == "failing" and status.stage_failures:
        found = status.stage_failures[0].error
    elif status.state == "failing" and life:
        found = life.maintain_error
    return found.rpartition(": found ")[2].partition("; expected ")[0] if found else None
