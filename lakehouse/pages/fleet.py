"""The page of a fleet: its applications, its incidents, and a cell for each topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup

from lakehouse.pages.render import markup_of

Row = Mapping[str, Any]


def fleet_page(
    at: datetime, totals: str, applications: Sequence[Row], incidents: Sequence[Row], topics: Sequence[Row]
) -> Markup:
    """`applications` have application, state, release, topics, ill, overdue; `incidents` have cause, subject, words,
    severity, since, topics, next_step; `topics` have topic, application, cause, words, level, overdue_hours."""
    return markup_of(
        "fleet.html", at=at, totals=totals, applications=applications, incidents=incidents, topics=topics, live=None
    )
