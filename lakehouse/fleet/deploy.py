"""A deployment from its first step to its end: wave by wave, and back when a wave is not well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakehouse.errors import CheckError, ConfigError, LakehouseError, in_one_line
from lakehouse.fleet.deployments import Deployment, Deployments, Journal, Kind, Step, last_well, state_after
from lakehouse.fleet.files import Fleet
from lakehouse.fleet.launchers.contract import Launcher
from lakehouse.fleet.plan import Change, Plan, plan
from lakehouse.fleet.publishing import check_launches, publish
from lakehouse.fleet.roll_out import Before, Waves, before, waves
from lakehouse.fleet.running import current_jobs, running_applications
from lakehouse.fleet.versions import Job, Launch, Running, Version
from lakehouse.fleet.waiting import Started, Waiting
from lakehouse.fleet.way_back import WayBack
from lakehouse.store.heartbeats import Heartbeats

Report = Callable[[str], None]


def running(fleet: Fleet, launcher: Launcher) -> dict[str, Running]:
    """What runs; the store's own error where it cannot be said, for then nothing must be touched."""
    config = fleet.config
    return running_applications(Heartbeats(config.settings).all(), launcher.jobs(), config.now())


def deploy(
    fleet: Fleet,
    launcher: Launcher,
    wanted: Callable[[], Plan],
    *,
    kind: Kind = "deploy",
    reason: str = "",
    by: str | None = None,
    has_canary: bool = True,
    report: Report = lambda line: None,
) -> Deployment | None:
    """Do what the plan says that `wanted` gives once nobody else deploys; the deployment when it has ended, whichever
    way; None where there was nothing to do.

    Refused with the error of `check_deployable`. LakeError, too, when another one has begun because this one was silent
    for too long. One that died before is gone on with: what it started is waited for, and where it was on the way back,
    it is brought to that end and nothing else is done.
    """
    deployments, found = Deployments(fleet.config.settings), wanted()
    if not found.touched and deployments.died() is None:
        return None
    check_deployable(fleet, launcher, found)
    ours, died = deployments.begin(kind, reason, by)
    journal = Journal(deployments, ours)
    try:
        return _Deployment(fleet, launcher, journal, report).go(wanted(), died, has_canary=has_canary)
    except BaseException as error:
        why = in_one_line(error) if isinstance(error, Exception) else type(error).__name__
        _interrupted(journal, why, report)
        raise


def plan_of(fleet: Fleet, launcher: Launcher, wanted: Mapping[str, Version]) -> Plan:
    return plan(wanted, running(fleet, launcher))


def check_deployable(fleet: Fleet, launcher: Launcher, found: Plan) -> None:
    """What `deploy` refuses, it refuses with this error, before there is a deployment; changes nothing.

    LakeError while another one is under way. To bring one that died back to where it began needs nothing of the plan.
    """
    died = Deployments(fleet.config.settings).died()
    if died is None or not died.is_rolling_back:
        check_startable(fleet, launcher, found)


def check_startable(fleet: Fleet, launcher: Launcher, found: Plan) -> None:
    """ConfigError where something is missing of which a new job of the plan is to be made."""
    wanted = [(change.application, change.wanted) for change in found.touched if change.wanted is not None]
    check_launches(fleet.config, launcher, [Launch(name, name, version) for name, version in wanted])


def check_done(ended: Deployment) -> None:
    """CheckError unless it ended as it was meant to."""
    if ended.outcome == "done":
        return
    is_back = ended.outcome == "rolled back"
    raise CheckError(
        f"deployment {ended.number}",
        found=f"{ended.outcome}: {ended.why}",
        expected="every application well with its new version",
        next_step="What ran before runs again." if is_back else "See `lakehouse fleet status`, and the jobs' logs.",
    )


def _interrupted(journal: Journal, why: str, report: Report) -> None:
    try:
        journal.end("interrupted", why)
    except Exception as refused:  # whoever has begun since goes on with it
        report(f"deployment {journal.current.number}: its end is not kept: {in_one_line(refused)}")


@dataclass
class _Deployment:
    fleet: Fleet
    launcher: Launcher
    journal: Journal
    report: Report
    _earlier: dict[str, Mapping[str, Before]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting = Waiting(self.fleet, self.launcher, self.report, self.journal.renew)

    def go(self, found: Plan, died: Deployment | None, *, has_canary: bool) -> Deployment:
        carried = [step for step in died.steps if step.state in ("started", "well")] if died else []
        if died is not None and died.is_rolling_back:
            self.report(f"deployment {died.number} was on its way back: it is brought there")
            self.journal.keep(steps=tuple(carried), kind="rollback")
            return self._back(f"{died.why}, found by deployment {died.number}")
        carried = [step for step in carried if _is_still_wanted(step, found)]
        made = waves(found.touched, self.fleet.file.roll_out, has_canary=has_canary and not carried)
        self.journal.keep(steps=tuple(self._steps(found, carried)), **_kept(made, died, carried))
        publish(self.fleet.config, self.launcher, self._launches())
        signs = {sign.heartbeat.application: sign for sign in Heartbeats(self.fleet.config.settings).all()}
        self._earlier = {name: before(sign) for name, sign in signs.items()}
        return self._go()

    def _go(self) -> Deployment:
        for place, wave in enumerate(self.journal.current.waves):
            is_canary = place == 0 and self.journal.current.has_canary
            if (why := self._wave(wave, is_canary=is_canary)) is not None:
                return self._back(why)
        return self._end()

    def _end(self) -> Deployment:
        """What was replaced, and what is not wanted any more, ends; only the latter is waited for."""
        stopped = [step for step in self.journal.current.steps if step.action == "stop"]
        replaced = {step.former_job for step in self.journal.current.steps if step.former_job is not None}
        left_over = {job.launch.id for job in self.launcher.jobs() if job.is_retired and job.is_active}
        for former in sorted(replaced | left_over):  # of an earlier deployment what would not end
            self.launcher.end(former)
        for step in stopped:
            self.report(f"{step.application}: ends, as it is not wanted any more")
            self.journal.keep_step(step.application, state="stopped")
        why = self._waiting.until_ended([step.former_job for step in stopped if step.former_job])
        return self.journal.end("done" if why is None else "failed", why)

    def _back(self, why: str) -> Deployment:
        return WayBack(self.fleet, self.launcher, self.journal, self._waiting, self.report).go(why)

    # --- a wave ----------------------------------------------------------------------------------------------------

    def _wave(self, names: Sequence[str], *, is_canary: bool) -> str | None:
        """Start the applications and wait until they are well; else why they are not."""
        began_at = self.fleet.config.now()
        try:
            started = [self._start(self.journal.current.step(name)) for name in names]
        except LakehouseError as refused:
            return str(refused)
        why = self._waiting.until_well(started)
        if why is None and is_canary:
            why = self._waiting.as_canary(started, began_at)
        for name in names if why is None else ():
            self.journal.keep_step(name, state="well")
            self.report(f"{name}: well")
        return why

    def _start(self, step: Step) -> Started:
        if step.job is None or step.version is None:
            raise ValueError(f"{step.application} is to be stopped, not started")
        self.journal.keep_step(step.application, state="started")
        for job in self._losing(step, step.version):
            self.launcher.retire(job)
        count = len(step.version.topics)
        self.report(f"{step.application}: starts {step.version.release} with {count:,} topic{'s' * (count != 1)}")
        self.launcher.start(Launch(step.job, step.application, step.version))
        earlier = self._earlier.get(step.application, {})
        return Started(step.application, step.version, step.job, step.former_run, earlier)

    def _losing(self, step: Step, version: Version) -> list[str]:
        """Jobs that lose topics to the new one: started again, they would take them back."""
        lost = set(version.topics)
        return [
            other.former_job
            for other in self.journal.current.steps
            if other.former_job is not None
            and (other.application == step.application or (other.before and lost & set(other.before.topics)))
        ]

    # --- steps -----------------------------------------------------------------------------------------------------

    def _steps(self, found: Plan, carried: Sequence[Step]) -> list[Step]:
        """Those of the plan; what a deployment that died has begun stays as that left it."""
        begun = {step.application: step for step in carried}
        history = Deployments(self.fleet.config.settings).all()
        jobs = current_jobs(self.launcher.jobs())
        ours = self.journal.current
        for change in found.touched:
            if change.application not in begun or begun[change.application].state == "well":
                begun[change.application] = _step(change, jobs.get(change.application), history, ours)
        return list(begun.values())

    def _launches(self) -> list[Launch]:
        steps = self.journal.current.steps
        return [Launch(each.job, each.application, each.version) for each in steps if each.job and each.version]


def _step(change: Change, job: Job | None, history: Sequence[Deployment], ours: Deployment) -> Step:
    """Back it goes to what runs now, unless that was never well and something before it was."""
    is_active = job is not None and job.is_active
    runs = job.launch.version if job is not None and is_active else None
    once_well = [version for version in last_well(history, change.application) if version != change.wanted]
    is_known_well = runs in once_well or not once_well
    return Step(
        application=change.application,
        action=change.action,  # type: ignore[arg-type]
        version=change.wanted,
        before=runs if runs is None or is_known_well else once_well[0],
        job=ours.job_for(change.application) if change.wanted else None,
        former_job=job.launch.id if job is not None and is_active else None,
        former_run=change.running.run if change.running else None,
    )


def _kept(made: Waves, died: Deployment | None, carried: Sequence[Step]) -> dict[str, Any]:
    """The waves, of which the first is what a deployment that died had begun; its canary goes on as a canary."""
    begun = tuple(step.application for step in carried if step.state == "started")
    rest = [tuple(name for name in wave if name not in begun) for wave in made.all]
    is_canary = died is not None and died.has_canary and not any(step.state == "well" for step in carried)
    return {
        "waves": tuple(wave for wave in (begun, *rest) if wave),
        "has_canary": is_canary if begun else bool(made.canary),
    }


def _is_still_wanted(step: Step, found: Plan) -> bool:
    return any(change.application == step.application and change.wanted == step.version for change in found.changes)


# --- what else can be wanted than what the file says ---------------------------------------------------------------


def restart_plan(fleet: Fleet, launcher: Launcher, names: Sequence[str]) -> Plan:
    """These applications with what they run now, all of them touched; ConfigError for one that does not run."""
    found = running(fleet, launcher)
    changes = []
    for name in names:
        runs = found.get(name)
        if runs is None or runs.job is None or not runs.is_running:
            raise ConfigError(
                f"application {name}",
                found="no job of it that runs"
                if runs is None or not runs.is_running
                else "a run that a person started",
                expected="an application that the launcher started",
                next_step="`lakehouse fleet deploy` starts it.",
            )
        version = runs.job.launch.version
        changes.append(Change(name, "replace", len(version.topics), (), version, runs))
    return Plan(tuple(changes))


def rollback_plan(fleet: Fleet, launcher: Launcher, to: int | None, names: Sequence[str]) -> Plan:
    """What ran after deployment `to`, else after the last one that was done before the newest that was.

    `names`: only these applications, or all where it is empty. What did not run then stays as it is. ConfigError where
    there is no such deployment.
    """
    history = Deployments(fleet.config.settings).all()
    done = [each.number for each in history if each.outcome == "done" and each.kind != "stop"]
    chosen = to if to is not None else (done[-2] if len(done) > 1 else None)
    if chosen is None or chosen not in done:
        raise ConfigError(
            "rollback" if to is None else f"deployment {to}",
            found="no earlier deployment" if to is None else "no deployment of that number that was done",
            expected="one of those that were done: " + (", ".join(map(str, done)) or "(there are none)"),
            next_step="`lakehouse fleet history` lists them.",
        )
    wanted = state_after(history, chosen)
    found = plan(wanted, {name: each for name, each in running(fleet, launcher).items() if name in wanted})
    return Plan(tuple(change for change in found.changes if not names or change.application in names))


def stop_plan(fleet: Fleet, launcher: Launcher, names: Sequence[str]) -> Plan:
    """These applications, as if they were not wanted."""
    found = running(fleet, launcher)
    return plan({}, {name: found[name] for name in names if name in found})
