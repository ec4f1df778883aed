"""What runs: the heartbeats of the lake and the jobs of the launcher, put together by application."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from lakehouse.fleet.versions import Job, Running
from lakehouse.store.heartbeats import Sign

GONE = ("ended", "taken over")
"""States of a topic that its application has no more."""


def running_applications(signs: Iterable[Sign], jobs: Iterable[Job], now: datetime) -> dict[str, Running]:
    """Every application that ever gave a sign or was started, by name."""
    by_name, newest = {sign.heartbeat.application: sign for sign in signs}, current_jobs(jobs)
    return {name: _running(name, by_name.get(name), newest.get(name), now) for name in by_name.keys() | newest.keys()}


def current_jobs(jobs: Iterable[Job]) -> dict[str, Job]:
    """Of each application the job that is to have its topics: the newest that is not retired, else the newest."""
    ranked = sorted(jobs, key=lambda job: (not job.is_retired, job.is_active, job.created_at))
    return {job.launch.application: job for job in ranked}


def _running(name: str, sign: Sign | None, job: Job | None, now: datetime) -> Running:
    if sign is None:
        return Running(name, False, job=job)
    said = sign.heartbeat
    topics = tuple(sorted(topic for topic, pulse in said.topics.items() if pulse.state not in GONE))
    return Running(
        name,
        sign.is_alive(now),
        run=said.run,
        host=said.host,
        release=said.release,
        configuration=said.configuration,
        topics=topics,
        job=job,
    )
