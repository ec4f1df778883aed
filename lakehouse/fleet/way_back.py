"""What a deployment that is not well has touched runs again what it ran before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lakehouse.errors import ConfigError
from lakehouse.fleet.deployments import Deployment, Journal, Step
from lakehouse.fleet.files import Fleet
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.versions import Launch, Version
from lakehouse.fleet.waiting import Started, Waiting, histories
from lakehouse.store import records
from lakehouse.store.heartbeats import Heartbeats
from lakehouse.store.records import State


@dataclass(frozen=True)
class WayBack:
    """Brings back what a deployment has started anew. Safe to begin again where it was interrupted."""

    fleet: Fleet
    launcher: Launcher
    journal: Journal
    waiting: Waiting
    report: Callable[[str], None]

    def go(self, why: str) -> Deployment:
        """The deployment, ended: `rolled back`, or `failed` where what ran before is not well either, or is gone."""
        self.report(f"not well: {why}")
        self.journal.keep(is_rolling_back=True, why=why)
        touched = [step for step in self.journal.current.steps if step.state == "started" or step.state == "well"]
        again: list[Started] = []
        gone: dict[str, ConfigError] = {}
        for step in touched:
            try:
                again += self._bring_back(step)
            except ConfigError as missing:  # nothing that a later command could go on with
                gone[step.application] = missing
        not_well = self.waiting.until_well(again) if again else None
        for step in touched:
            if step.job is not None:
                self.launcher.end(step.job)
            state = "failed" if step.application in gone else "restored"
            self.journal.keep_step(step.application, state=state, why=why)
        failures = [*map(str, gone.values()), *([not_well] if not_well is not None else [])]
        if failures:
            return self.journal.end("failed", f"{why}; and on the way back: {'; '.join(failures)}")
        return self.journal.end("rolled back", why)

    def _bring_back(self, step: Step) -> list[Started]:
        """The job that is to be waited for; none where none had to be started. ConfigError where none can be."""
        name = step.application
        if step.job is not None:
            self.launcher.retire(step.job)
        if step.before is None:
            self.report(f"{name}: ends; nothing ran before that the launcher had started")
            return []
        if self._former_has_all(step, step.before):
            self.report(f"{name}: {step.before.release} has never stopped, and goes on")
            self.launcher.retire(step.former_job or "", is_retired=False)
            return []
        job = step.back_job or f"{step.job or name}-back"
        if step.back_job is None:  # else the heartbeat may be that of the job itself, which was started before
            said = Heartbeats(self.fleet.config.settings).of(name)
            self.journal.keep_step(name, back_job=job, back_from_run=said.run if said else None)
        self.report(f"{name}: back to {step.before.release}")
        self.launcher.start(Launch(job, name, step.before))
        return [Started(name, step.before, job, self.journal.current.step(name).back_from_run)]

    def _former_has_all(self, step: Step, before: Version) -> bool:
        """Whether the former job still runs, and the new one has claimed no topic: their ledgers say who has them."""
        active = {job.launch.id: job.launch.version for job in self.launcher.jobs() if job.is_active}
        if active.get(step.former_job or "") != before or step.former_run is None:
            return False
        known = histories(self.fleet.config, before.topics)
        starts = {topic: history.last(State.STARTED) for topic, history in known.items()}
        runs = {topic: started.of(records.Started).run for topic, started in starts.items() if started is not None}
        return all(runs.get(topic) == step.former_run for topic in before.topics)
