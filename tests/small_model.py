"""The ingest protocol (docs/architecture.md, "Ingest"), with so few messages that every order of its steps is tried.

`model.py` plays long random schedules; this one leaves out nothing, in a world that is small. A move is what the code
does between two looks at what others can change: the subscription, manifests, the log, the ledger, a checkpoint. Each
move names the code that makes it, and `STEPS` the step of `lakehouse.failpoints` that this code reaches after it.

There are no leases: any pull may bring any message that is not acknowledged, as if its last lease had just run out. So
a message can be in two segments, by Pub/Sub's doing; sealing sees to that. A segment is in one commit.

Safety and liveness (docs/concepts.md) are judged at each state: what the log has is nowhere twice and nothing is lost;
and one more driver, left in peace, brings everything to its end and closes every hour in time, by ingest's own rules,
though something that could hold it comes at each of its batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, combinations
from typing import NamedTuple

from lakehouse import hours
from lakehouse.crash.liveness import Liveness
from lakehouse.ingest.batch import plan
from lakehouse.ingest.facts import Fact
from lakehouse.progress import IngestState
from tests.trickles import AFTER_IT, COMING, FIRST, TOPIC, UNTIL_DUE, fact, observed

Messages = frozenset[int]
EVENTS = (("x", 0), ("x", 1), ("y", 0))
"""(id, hour) of the event that each message delivers: two of them have one id, and are two events."""
Key = tuple[int, int]
"""(epoch, slot), as a manifest is named."""


class Segment(NamedTuple):
    """What one attempt pulled for a slot; another attempt at the same slot makes another segment."""

    key: Key
    by: str
    messages: Messages


class Commit(NamedTuple):
    """An entry of bronze's log. `hour` is the open hour that it was decided by; each commit closes one."""

    by: str
    segments: frozenset[Segment]
    epoch: int
    hour: int
    is_newest: bool


class Checkpoint(NamedTuple):
    """Spark's: (epoch, slots) by batch number, and how many batches are in the commit log."""

    offsets: tuple[tuple[int, int], ...] = ()
    done: int = 0


class World(NamedTuple):
    """What outlives a driver. `made` is every segment that ever had a manifest, `newest` the run that started last."""

    unacked: Messages
    manifests: frozenset[Segment]
    log: tuple[Commit, ...]
    checkpoints: tuple[Checkpoint, ...]
    made: frozenset[Segment]
    newest: str

    def epoch_at(self, version: int) -> int:
        return self.log[version - 1].epoch if version else 0

    def manifest(self, key: Key) -> Segment | None:
        return next((each for each in self.manifests if each.key == key), None)

    def in_log(self, version: int) -> frozenset[Segment]:
        return frozenset(chain.from_iterable(commit.segments for commit in self.log[:version]))


class Driver(NamedTuple):
    """A run of ingest and where it stands; the other fields are what it remembers at that place, and empty before."""

    name: str
    checkpoint: int
    slots: int
    batches: int
    at: str = "start"
    number: int = -1
    epoch: int = 0
    planned: int = 0
    slot: int = 0
    used: int = 0
    is_fresh: bool = False
    is_stale: bool = False
    pulled: Messages = frozenset()
    facts: frozenset[Segment] = frozenset()
    version: int = 0
    new: frozenset[Segment] = frozenset()
    clearing: frozenset[Segment] = frozenset()

    @property
    def key(self) -> Key:
        return self.epoch, self.slot

    @property
    def is_attempt(self) -> bool:
        """Spark's second try at a slot, on another executor: by speculation, or for one that was only thought dead."""
        return not self.batches


ATTEMPT = Driver("again", 0, slots=1, batches=0, at="waits")


@dataclass(frozen=True)
class Rules:
    """What the protocol rests on. A test breaks one after the other, and the exploration must find each."""

    acknowledges_last: bool = True
    puts_if_absent: bool = True
    loser_gives_back: bool = True
    conflicts: bool = True
    looks_in_log: bool = True
    adopts: bool = True
    clears_by_log: bool = True
    clears_what_it_listed: bool = True
    checks_newest: bool = True
    matches_time: bool = True


Next = Iterator[tuple[World, Driver]]


# --- planning: Spark, and the source on the driver --------------------------------------------------------------------


def _start(world: World, me: Driver, rules: Rules) -> Next:
    """`lakehouse.ingest.journal.Journal.take_over`: the ledger's `started` row."""
    yield world._replace(newest=me.name), me._replace(at="claim")


def _claim(world: World, me: Driver, rules: Rules) -> Next:
    """The last epoch that log or manifests have, `lakehouse.ingest.claim.claim`."""
    used = max((segment.key[0] for segment in world.manifests), default=0)
    yield world, me._replace(at="plan", used=max(used, world.epoch_at(len(world.log))))


def _plan(world: World, me: Driver, rules: Rules) -> Next:
    """The last batch of the checkpoint again when its end is not logged; else one epoch on, and never one used before.

    `lakehouse.landing.source.FactStream.latestOffset` and `lakehouse.landing.source.FactStream.initialOffset`. A
    living query remembers its batch's number and epoch; a new one goes on after what log and manifests had when it was
    claimed, `lakehouse.ingest.claim.ClaimedTopic.last_used`. An epoch that leaves neither can be planned again.
    """
    logged = world.checkpoints[me.checkpoint]
    if me.number < 0 and len(logged.offsets) > logged.done:
        epoch, planned = logged.offsets[-1]
        yield (
            world,
            me._replace(at="look", number=len(logged.offsets) - 1, epoch=epoch, planned=planned, is_fresh=False),
        )
        return
    if me.number < 0 and logged.offsets:
        me = me._replace(number=len(logged.offsets) - 1, epoch=logged.offsets[-1][0])
    epoch = max(me.epoch, me.used) + 1
    yield world, me._replace(at="log offset", number=me.number + 1, epoch=epoch, planned=me.slots, is_fresh=True)


def _log_offset(world: World, me: Driver, rules: Rules) -> Next:
    """Spark's offset log: put if absent. The number of slots is part of it, so another driver plans the same."""
    logged = world.checkpoints[me.checkpoint]
    if len(logged.offsets) > me.number:
        yield world, _stopped(me, "checkpoint in use")
        return
    logged = logged._replace(offsets=(*logged.offsets, (me.epoch, me.planned)))
    yield _with_checkpoint(world, me, logged), me._replace(at="look")


# --- pulling: the source on an executor -------------------------------------------------------------------------------


def _look(world: World, me: Driver, rules: Rules) -> Next:
    """A slot that has a manifest gives its facts, and never pulls; another one pulls some of what is not acknowledged.

    Of an epoch that nobody has planned before it is not looked for: whoever publishes second gives the first one's. A
    slot to which nothing comes leaves nothing, `lakehouse.landing.bundles.pulled`.

    `lakehouse.landing.pull.Puller.parts`. What is acknowledged a moment later could have been pulled now, so looking
    and pulling are one move. A driver that is asked to stop skips the whole batch,
    `lakehouse.ingest.query.IngestQuery.take`, and is done.
    """
    if not me.slot and not me.is_attempt:
        yield world, me._replace(at="end batch", batches=1)
    if not me.is_fresh and (present := world.manifest(me.key)) is not None:
        yield world, _next_slot(me._replace(facts=me.facts | {present}))
        return
    yield world, _next_slot(me)
    for messages in _subsets(world.unacked):
        if not messages:
            continue
        pulled = me._replace(pulled=messages, at="publish" if rules.acknowledges_last else "acknowledge")
        yield world, pulled


def _publish(world: World, me: Driver, rules: Rules) -> Next:
    """The manifest, put if absent, when all files are durable; who loses gives the winner's facts.

    `lakehouse.landing.pull._Attempt._manifest_there`.
    """
    mine, present = Segment(me.key, me.name, me.pulled), world.manifest(me.key)
    if present is not None and rules.puts_if_absent:
        answer = me._replace(facts=me.facts | {present})
        yield world, _next_slot(answer) if rules.loser_gives_back else answer._replace(at="acknowledge")
        return
    others = world.manifests - {present} if present else world.manifests
    world = world._replace(manifests=others | {mine}, made=world.made | {mine})
    answer = me._replace(facts=me.facts | {mine})
    yield world, answer._replace(at="acknowledge") if rules.acknowledges_last else _next_slot(answer)


def _acknowledge(world: World, me: Driver, rules: Rules) -> Next:
    """After the manifest; some requests may be lost, or come too late.

    `lakehouse.landing.brokers.leases.Leases.acknowledge`.
    """
    for arrived in _subsets(me.pulled):
        acknowledged = world._replace(unacked=world.unacked - arrived)
        yield acknowledged, _next_slot(me) if rules.acknowledges_last else me._replace(at="publish")


# --- the batch: ingest on the driver ----------------------------------------------------------------------------------


def _check(world: World, me: Driver, rules: Rules) -> Next:
    """`lakehouse.ingest.claim.ClaimedTopic.check_newest`, before each attempt at a commit.

    The batch ends all the same, as other topics may be in it; a run that has no other is over then.
    """
    if rules.checks_newest and world.newest != me.name:
        yield world, me._replace(at="end batch", facts=frozenset(), is_stale=True)
    else:
        yield world, me._replace(at="read")


def _read(world: World, me: Driver, rules: Rules) -> Next:
    """`lakehouse.store.bronze_head.Head.state`: the version that everything from here on is decided by."""
    yield world, me._replace(at="decide", version=len(world.log))


def _decide(world: World, me: Driver, rules: Rules) -> Next:
    """What that version has of a batch that comes again is left out, and what it has not of others is added.

    `lakehouse.ingest.claim.unknown_to_log` and `lakehouse.ingest.adoption.Manifests.adoptable`. Manifests are listed
    now, after the log was read. A batch with nothing new commits nothing.
    """
    epoch, known = world.epoch_at(me.version), world.in_log(me.version)
    new = me.facts - known if rules.looks_in_log and me.epoch <= epoch else me.facts
    if rules.adopts:
        mine = {each.key for each in me.facts}
        new |= {
            each for each in world.manifests - known if each.key not in mine and each.key[0] <= max(me.epoch, epoch)
        }
    new = frozenset(each for each in new if each.messages)
    if new:
        yield world, me._replace(at="commit", new=new)
    else:
        yield world, me._replace(at="list", facts=new)


def _commit(world: World, me: Driver, rules: Rules) -> Next:
    """Its app transaction is a conflict when a commit came since; then all is read again.

    `lakehouse.store.bronze_log.commit_batch`.
    """
    if len(world.log) > me.version and rules.conflicts:
        yield world, me._replace(at="check", new=frozenset(), version=0)
        return
    epoch = max(me.epoch, world.epoch_at(me.version))
    entry = Commit(me.name, me.new, epoch, hour=me.version, is_newest=world.newest == me.name)
    world = world._replace(log=(*world.log, entry))
    yield world, me._replace(at="list", facts=frozenset(), new=frozenset(), version=len(world.log))


def _list(world: World, me: Driver, rules: Rules) -> Next:
    """Which manifests of epochs that cannot come again are in the log.

    `lakehouse.ingest.adoption.Manifests.batch_done`.
    """
    me = me._replace(used=max(me.used, world.epoch_at(me.version)))
    past = frozenset(each for each in world.manifests if each.key[0] < me.epoch - 1)
    known = world.in_log(me.version)
    settled = frozenset(each for each in past if each in known or not each.messages) if rules.clears_by_log else past
    yield world, me._replace(at="clear" if settled else "end batch", version=0, clearing=settled)


def _clear(world: World, me: Driver, rules: Rules) -> Next:
    """One after the other, and none that is not the one that was listed any more.

    `lakehouse.store.files.Storage.delete_as_listed`.
    """
    first = min(me.clearing)
    gone = {
        each for each in world.manifests if each == first or (each.key == first.key and not rules.clears_what_it_listed)
    }
    left = me.clearing - {first}
    yield (
        world._replace(manifests=world.manifests - gone),
        me._replace(at="clear" if left else "end batch", clearing=left),
    )


def _end_batch(world: World, me: Driver, rules: Rules) -> Next:
    """Spark's commit log, put if absent."""
    logged = world.checkpoints[me.checkpoint]
    if logged.done > me.number:
        yield world, _stopped(me, "checkpoint in use")
        return
    world = _with_checkpoint(world, me, logged._replace(done=me.number + 1))
    if me.is_stale:
        yield world, _stopped(me, "stale")
        return
    left = me.batches - 1
    yield world, me._replace(at="plan" if left else "ended", batches=left, slot=0)


MOVES: dict[str, Callable[[World, Driver, Rules], Next]] = {
    "start": _start,
    "claim": _claim,
    "plan": _plan,
    "log offset": _log_offset,
    "look": _look,
    "publish": _publish,
    "acknowledge": _acknowledge,
    "check": _check,
    "read": _read,
    "decide": _decide,
    "commit": _commit,
    "list": _list,
    "clear": _clear,
    "end batch": _end_batch,
}
"""What a driver does next where it stands. It may also die there: it then makes no move any more."""

STEPS = {
    ("start", "claim"): "ingest.started",
    ("plan", "look"): "ingest.offsets_logged",
    ("log offset", "look"): "ingest.offsets_logged",
    ("look", "publish"): "pull.files_durable",
    ("publish", "acknowledge"): "pull.manifest_durable",
    ("publish", "look"): "pull.race_lost",
    ("publish", "check"): "pull.race_lost",
    ("acknowledge", "look"): "pull.acknowledged",
    ("acknowledge", "check"): "pull.acknowledged",
    ("publish", "ended"): "pull.race_lost",
    ("acknowledge", "ended"): "pull.acknowledged",
    ("decide", "commit"): "ingest.decided",
    ("commit", "list"): "ingest.committed",
    ("check", "end batch"): "ingest.batch_done",
    ("list", "end batch"): "ingest.batch_done",
    ("clear", "end batch"): "ingest.batch_done",
}
"""The step of `lakehouse.failpoints` that the code says it has reached when a move led from one place to another."""

UNSEEN = {
    "pull.received": "files that no manifest names are nobody's",
    "pull.half_acknowledged": "any part of them may arrive",
    "ingest.close_recorded": "the ledger's closes are derived from the log",
    "ingest.manifests_half_cleared": "each manifest is cleared by a move of its own",
}
"""Steps of ingest that the model passes without a word."""


def _next_slot(me: Driver) -> Driver:
    """Or the batch, after the last one. Slots pull side by side; as each has its own manifest, one order is as good."""
    if me.is_attempt:
        return _stopped(me, "ended")
    me = me._replace(pulled=frozenset(), slot=me.slot + 1)
    return me._replace(at="look") if me.slot < me.planned else me._replace(at="check", slot=0)


def _stopped(me: Driver, why: str) -> Driver:
    return Driver(me.name, me.checkpoint, me.slots, 0, at=why)


def _with_checkpoint(world: World, me: Driver, logged: Checkpoint) -> World:
    return world._replace(
        checkpoints=tuple(logged if place == me.checkpoint else each for place, each in enumerate(world.checkpoints))
    )


def _subsets(messages: Messages) -> Iterable[Messages]:
    ordered = sorted(messages)
    return (frozenset(each) for size in range(len(ordered) + 1) for each in combinations(ordered, size))


# --- every order ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What an exploration came to: how many states, where each driver got to, and the shortest way to what is wrong."""

    states: int
    places: frozenset[tuple[str, str]]
    wrong: str | None = None
    way: tuple[str, ...] = ()


State = tuple[World, tuple[Driver, ...]]


def explored(
    drivers: Sequence[Driver],
    messages: int,
    rules: Rules = Rules(),
    may: Callable[[Driver, Sequence[Driver]], bool] = lambda me, living: True,
) -> Found:
    """Every state that the drivers can reach, in each order of their moves; any of them may be where all of them die.

    So at each state one more driver must bring everything to its end. `may` says who may move, where not all orders are
    of interest.
    """
    first = at_first(drivers, messages)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    judged: dict[World, str | None] = {}
    closing: dict[Deliveries, str | None] = {}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        world, living = state
        if world not in judged:
            wrong = _wrong_now(world, messages) or _wrong_in_the_end(world, messages, rules)
            if wrong is None and (deliveries := _deliveries(world, messages)) not in closing:
                closing[deliveries] = _open_too_long(deliveries)
            judged[world] = wrong or closing[_deliveries(world, messages)]
        if wrong := judged[world]:
            return Found(len(came_from), _places(came_from), wrong, _way(came_from, state))
        for me in living:
            for following in moved(state, me, rules) if may(me, living) else ():
                if following not in came_from:
                    came_from[following] = state, f"{me.name}: {me.at}"
                    waiting.append(following)
    return Found(len(came_from), _places(came_from))


def at_first(drivers: Sequence[Driver], messages: int) -> State:
    checkpoints = tuple(Checkpoint() for _ in range(1 + max(driver.checkpoint for driver in drivers)))
    return World(frozenset(range(messages)), frozenset(), (), checkpoints, frozenset(), ""), tuple(drivers)


def moved(state: State, me: Driver, rules: Rules = Rules()) -> Iterator[State]:
    """The states that one of the living drivers can make of this one."""
    world, living = state
    place = living.index(me)
    for after, then in _moves(world, me, living, rules):
        yield after, (*living[:place], then, *living[place + 1 :])


def _moves(world: World, me: Driver, living: Sequence[Driver], rules: Rules) -> Next:
    if me.at == "waits":
        pulling = [each for each in living if each.at in ("look", "publish")]
        yield from ((world, me._replace(at="look", epoch=each.epoch, slot=each.slot)) for each in pulling)
    elif me.at in MOVES:
        yield from MOVES[me.at](world, me, rules)


def _places(states: Iterable[State]) -> frozenset[tuple[str, str]]:
    return frozenset((driver.name, driver.at) for _, living in states for driver in living)


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    way: list[str] = []
    while (step := came_from[state]) is not None:
        state, move = step
        way.append(move)
    return tuple(reversed(way))


def _wrong_now(world: World, messages: int) -> str | None:
    """What must hold at each moment."""
    committed = [segment for commit in world.log for segment in commit.segments]
    kept = chain.from_iterable(segment.messages for segment in [*committed, *world.manifests])
    if lost := set(range(messages)) - world.unacked - set(kept):
        return f"lost: {sorted(lost)} acknowledged, and neither in the log nor in a manifest"
    if len(set(committed)) < len(committed):
        return "doubled: a segment is in the log twice"
    if any(commit.hour < number for number, commit in enumerate(world.log)):
        return "late: a commit wrote to an hour that had closed"
    for name in {commit.by for commit in world.log}:
        if sum(not commit.is_newest for commit in world.log if commit.by == name) > 1:
            return "not stopped: an older run goes on committing"
    return None


def _wrong_in_the_end(world: World, messages: int, rules: Rules) -> str | None:
    """One more driver, left in peace, on any of the checkpoints or on a new one: it acknowledges all, and commits all.

    Every segment that ever had a manifest is then in the log, once.
    """
    for checkpoint in range(len(world.checkpoints) + 1):
        end = world._replace(checkpoints=(*world.checkpoints, Checkpoint()))
        me = Driver("last", checkpoint, slots=1, batches=_MOST)
        while me.at in MOVES and (me.at != "plan" or not _is_done(end)):
            *_, (end, me) = MOVES[me.at](end, me, rules)
        if lost := {each for each in end.made if each.messages} - end.in_log(len(end.log)):
            return f"lost: in no commit in the end: {sorted(segment.key for segment in lost)}"
        if not _is_done(end):
            return f"stuck: the last driver {me.at}, {sorted(end.unacked)} not acknowledged"
        if wrong := _wrong_now(end, messages) or _wrong_when_sealed(end, messages, rules):
            return wrong
    return None


def _wrong_when_sealed(world: World, messages: int, rules: Rules) -> str | None:
    """Of each event the first delivery is sealed, whatever was delivered again, late, or under the same id.

    `lakehouse.seal.dedup.duplicates` and `lakehouse.seal.dedup.late_duplicates`.
    """
    buckets: dict[int, list[tuple[str, int]]] = {}
    for commit in world.log:
        for event in (EVENTS[message] for segment in commit.segments for message in segment.messages):
            buckets.setdefault(max(event[1], commit.hour), []).append(event)
    sealed: list[tuple[str, int]] = []
    for event in chain.from_iterable(buckets[bucket] for bucket in sorted(buckets)):
        if all(event != known if rules.matches_time else event[0] != known[0] for known in sealed):
            sealed.append(event)
    if merged := set(EVENTS[:messages]) - set(sealed):
        return f"merged: {sorted(merged)} with another event of the same id"
    return None


Deliveries = tuple[tuple[int, ...], ...]
"""The hours of the events of each commit and, last, of all that no commit has: what closing hours goes by."""


def _deliveries(world: World, messages: int) -> Deliveries:
    commits = [[message for segment in commit.segments for message in segment.messages] for commit in world.log]
    left = set(range(messages)).difference(*commits)
    return tuple(tuple(sorted(EVENTS[message][1] for message in each)) for each in (*commits, left))


def _open_too_long(deliveries: Deliveries) -> str | None:
    """What is open for longer than promised, though a driver runs in peace from here on and the frontier goes on.

    Whoever ran before has closed nothing, and what it waited for is forgotten: a new run waits for quiet again.
    """
    *commits, left = deliveries
    state = IngestState()
    for number, events in enumerate(commits):
        state = plan(state, number + 1, _facts(number + 1, events), [], observed(FIRST), TOPIC).state
    for kind in COMING:
        if wrong := _too_long_with(kind, state, left, len(commits)):
            return f"open too long: with {kind} at each batch, {wrong}"
    return None


def _too_long_with(kind: str, state: IngestState, left: Sequence[int], epoch: int) -> str | None:
    """With one kind of message at each batch, after what was left has come with the first."""
    now, liveness, awaited, facts = FIRST, Liveness(TOPIC), None, _facts(epoch + 1, left)
    for number, pause in enumerate([timedelta(0), *UNTIL_DUE, *AFTER_IT], epoch + 1):
        now += pause
        if came := COMING[kind](now):
            facts.append(fact(number, *came, now))
        made = plan(state, number, facts, [], observed(now, awaited), TOPIC)
        state, facts = made.state, []
        if made.awaits_quiet_alone and made.held is not None:
            awaited = awaited if awaited and awaited[0] == made.held.hour else (made.held.hour, now)
        else:
            awaited = None
        if wrong := liveness.batch_done("last", state, now, now):
            return wrong
    return None


def _facts(epoch: int, events: Iterable[int]) -> list[Fact]:
    """Of events in the middle of their hours, the first of which is that of `FIRST`."""
    return [
        fact(epoch, FIRST, hours.start_of(hours.hour_of(FIRST)) + timedelta(hours=hour, minutes=30)) for hour in events
    ]


def _is_done(world: World) -> bool:
    return not world.unacked and all(each in world.in_log(len(world.log)) for each in world.manifests if each.messages)


_MOST = 6
"""Batches that the last driver may need: some of the epochs before it were pulled by those who died, and are empty."""
