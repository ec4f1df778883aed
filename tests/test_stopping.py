"""An application, or one topic of it, is asked to stop through the store."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fleets import write_fleet
from typer.testing import CliRunner

from lakehouse import application
from lakehouse.cli import app, decide
from lakehouse.clock import now
from lakehouse.config import Config, load
from lakehouse.errors import LAKE, LakeError, UsageError
from lakehouse.operations.stopping import ToStop, topic_to_stop, what_to_stop
from lakehouse.store.heartbeats import SILENT_AFTER, Heartbeat, Heartbeats, Pulse, Sign
from lakehouse.store.notes import Notes, StopRequest
from lakehouse.store.retired_jobs import RetiredJobs, own_job

NAMES = ["plays", "skips", "likes"]


def heartbeat(application: str, *topics: str, **changes: Any) -> Heartbeat:
    at = now()
    pulses = {name: Pulse(subscription=name, state="running", since=at) for name in topics}
    values = {"run": f"run of {application}", "host": "here", "release": "r", "configuration": "c"}
    beat = Heartbeat(application=application, started_at=at, written_at=at, topics=pulses, **values)  # type: ignore[arg-type]
    return replace(beat, **changes)


def signs(*heartbeats: Heartbeat) -> list[Sign]:
    return [Sign(each, each.written_at) for each in heartbeats]


# --- what is meant -------------------------------------------------------------------------------------------------


def test_a_name_is_an_application_or_a_topic() -> None:
    alive = signs(heartbeat("music", "plays", "skips"), heartbeat("likes", "likes"))
    assert what_to_stop("music", alive, now()) == ToStop("music", "run of music", "here")
    assert what_to_stop("skips", alive, now()) == ToStop("music", "run of music", "here", "skips")
    assert what_to_stop("likes", alive, now()) == ToStop("likes", "run of likes", "here"), "it is all that it has"
    assert topic_to_stop("likes", alive, now()).topic == "likes"


def test_a_name_that_is_both_is_asked_back() -> None:
    """A person who means the topic must not end hundreds."""
    with pytest.raises(UsageError, match=r"found an application, and a topic of application plays; .* --topic"):
        what_to_stop("plays", signs(heartbeat("plays", "plays", "skips")), now())


@pytest.mark.parametrize("find", [what_to_stop, topic_to_stop])
def test_what_does_not_run_cannot_be_stopped(find: Callable[..., ToStop]) -> None:
    ended = heartbeat("music", "plays", ended_at=now())
    left = heartbeat("likes", "likes")
    left = replace(left, topics={"skips": replace(left.topics["likes"], state="ended")})
    silent = heartbeat("old", "olds")
    found = [*signs(ended, left), Sign(silent, now() - SILENT_AFTER - timedelta(seconds=1))]
    for name in ("plays", "skips", "olds"):
        with pytest.raises(LakeError):
            find(name, found, now())
    with pytest.raises(LakeError, match="alive: likes"):
        what_to_stop("music", found, now())


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(decide, "_LOOK_SECONDS", 0.02)
    return load(write_fleet(tmp_path, {"music": {"topics": ["*"]}}, NAMES))


@pytest.fixture
def heeding(config: Config) -> Iterator[list[str]]:
    """An application that looks at its notes, and says with its heartbeat what it has done; what it was asked."""
    beat = heartbeat("music", *NAMES)
    Heartbeats(config.settings).write(beat)
    notes = Notes(config.settings.model_copy(update={"application": "music"}))
    asked: list[str] = []
    over = threading.Event()

    def look() -> None:
        current = beat
        while not over.wait(0.02):
            for stop in notes.look(now(), beat.run).stops:
                asked.append(f"{stop.topic} by {stop.by}: {stop.reason}")
                if stop.topic is None:
                    current = replace(current, ended_at=now())
                else:
                    ended = replace(current.topics[stop.topic], state="ended")
                    current = replace(current, topics={**current.topics, stop.topic: ended})
                Heartbeats(config.settings).write(current)

    thread = threading.Thread(target=look)
    thread.start()
    yield asked
    over.set()
    thread.join()


def stop(config: Config, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app.app, ["stop", "--conf", str(config.path), *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_stop_waits_until_a_topic_is_left_and_the_application_has_ended(config: Config, heeding: list[str]) -> None:
    assert stop(config, "skips", "--by", "ann") == (0, "topic skips of application music has stopped.\n")
    code, out = stop(config, "music", "--by", "ann", "--reason", "a move", "--json")
    assert (code, json.loads(out)["has_stopped"]) == (0, True)
    assert heeding == ["skips by ann: not given", "None by ann: a move"]
    with pytest.raises(LakeError):
        stop(config, "music")


def test_stop_says_when_it_was_not_heeded_in_time(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    Heartbeats(config.settings).write(heartbeat("music", *NAMES))
    with pytest.raises(SystemExit) as exit_:
        app.main(["stop", "--conf", str(config.path), "music", "--wait", "0.1 seconds"])
    assert exit_.value.code == LAKE
    assert "run run of music on here, which has not stopped within 0.1 seconds" in capsys.readouterr().err


def test_stop_need_not_wait(config: Config) -> None:
    Heartbeats(config.settings).write(heartbeat("music", *NAMES))
    assert stop(config, "music", "--wait", "0 seconds") == (0, "application music is asked to stop.\n")


# --- a launcher's job ----------------------------------------------------------------------------------------------


def test_a_job_is_asked_whichever_run_of_it_is_alive(config: Config) -> None:
    """A launcher knows the job, and not the run that was started again since."""
    notes = Notes(config.settings.model_copy(update={"application": "music"}))
    notes.ask_to_stop("music-3", StopRequest(None, "fleet", "replaced"))
    assert notes.look(now(), "another", "music-2").stops == ()
    later = Notes(config.settings.model_copy(update={"application": "music"}))
    assert later.look(now(), "a run", "music-3").stops == (StopRequest(None, "fleet", "replaced"),)
    nobody = Notes(config.settings.model_copy(update={"application": "music"}))
    nobody.ask_to_stop("", StopRequest(None, "fleet", "of no job"))
    assert nobody.look(now(), "a run").stops == (), "a run without a job is not asked as one"


def test_a_job_with_a_successor_ends_before_it_claims_anything(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The cluster starts it again when it was taken over; it would take its topics back. No broker is there to ask."""
    monkeypatch.setenv("LAKEHOUSE_JOB", "music-1")
    named = replace(config, settings=config.settings.model_copy(update={"application": "music"}))
    retired = RetiredJobs(named.settings)
    assert (own_job(), retired.has("music-1")) == ("music-1", False)
    retired.add("music-1")
    caplog.set_level(logging.INFO)
    for job in (application.run, application.ingest):
        job(application.Application(named, tuple(named.topics.values())))
    assert caplog.messages.count("application: job=music-1 state=retired") == 2
    assert Heartbeats(named.settings).of("music") is None
    retired.remove("music-1")
    assert not retired.has("music-1")
