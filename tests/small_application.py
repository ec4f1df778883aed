"""An application as the fleet sees it, without Spark: it takes topics over, is taken over, and gives signs of life.

Only the standard library: tests start many. What it does depends on its release: `bad-dies` ends with 1, the topics of
`bad-fails` fail, those of `bad-lags` fall back, those of `bad-hangs` never bring a batch. A topic fails, too, while the
lake's folder `broken` has a file of its name. With $JOB it obeys what a launcher leaves in the lake for its job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

BEAT_SECONDS = 0.1


def main() -> int:
    root, application, release = Path(os.environ["ROOT"]), os.environ["APPLICATION"], os.environ["RELEASE"]
    topics, run = os.environ["TOPICS"].split(), uuid.uuid4().hex[:8]
    if has_successor(root, application):
        return 0
    if release.endswith("bad-dies"):
        print("cannot start", flush=True)
        return 1
    claims = root / "claims"
    claims.mkdir(parents=True, exist_ok=True)
    for topic in topics:
        (claims / topic).write_text(run)
        with (claims / f"{topic}.log").open("a") as log:
            log.write(f"{application} {release} {run}\n")
    began, is_over = datetime.now(UTC), []
    signal.signal(signal.SIGTERM, lambda *_: is_over.append(True))

    def beat(**changes: Any) -> None:
        at = datetime.now(UTC)
        lost = {topic for topic in topics if (claims / topic).read_text() != run}
        said = {
            "application": application, "run": run, "job": os.environ.get("JOB"), "host": "here", "release": release,
            "configuration": os.environ["CONFIGURATION"], "started_at": began.isoformat(),
            "written_at": at.isoformat(), "topics": {name: pulse(name, release, at, name in lost) for name in topics},
        } | changes  # fmt: skip
        file = root / "_applications" / application / "heartbeat.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f"{run}.part")
        aside.write_text(json.dumps(said))
        aside.replace(file)

    while not is_over and not is_asked_to_end(root, application, run):
        beat()
        time.sleep(BEAT_SECONDS)
        if all((claims / topic).read_text() != run for topic in topics):
            return 3
    beat(ended_at=datetime.now(UTC).isoformat(), why_ended="asked to")
    return 0


def has_successor(root: Path, application: str) -> bool:
    job = os.environ.get("JOB")
    return job is not None and (root / "_applications" / application / "retired" / job).exists()


def is_asked_to_end(root: Path, application: str, run: str) -> bool:
    """Whether somebody asks this run, or the launcher its job, through the lake."""
    asked = root / "_applications" / application / "notes" / "_stop"
    return any(any((asked / name).glob("[!.]*")) for name in (run, os.environ.get("JOB")) if name)


def pulse(name: str, release: str, at: datetime, is_lost: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"subscription": name, "state": "running", "since": at.isoformat(), "failures": 0}
    frontier = at - timedelta(hours=1) if release.endswith("bad-lags") else at
    if is_lost:
        return said | {"state": "taken over", "failures": 1, "error": "a newer run has it"}
    if release.endswith("bad-fails") or Path(os.environ["ROOT"], "broken", name).exists():
        return said | {
            "state": "parked",
            "failures": 9,
            "error": "topic x: found no subscription; expected one. Make it.",
        }
    if release.endswith("bad-hangs"):
        return said
    return said | {"last_trigger": at.isoformat(), "epoch": 1, "frontier": frontier.isoformat()}


if __name__ == "__main__":
    sys.exit(main())
