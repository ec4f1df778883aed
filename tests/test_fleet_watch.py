"""Alerts, how people are notified, metrics and what is built on them; and the watch, killed and started again."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml
from clock import NOON
from fleets import fleet_at, write_fleet
from pydantic import TypeAdapter
from test_fleet_health import PULSE, beat, ill
from typer.testing import CliRunner

from lakehouse.cli import app
from lakehouse.errors import ConfigError, LakeError, UsageError, WebhookError
from lakehouse.fleet import alerts, webhooks
from lakehouse.fleet.alerts import (
    Alert,
    WatchState,
    alertmanager,
    burn,
    due,
    due_in,
    forgotten,
    notified,
    pagerduty,
    seen,
    with_late,
)
from lakehouse.fleet.deployments import Deployments, Journal, Step
from lakehouse.fleet.files import launcher_of
from lakehouse.fleet.incidents import Incident, incidents
from lakehouse.fleet.metrics import METRICS, PREFIX, exposition
from lakehouse.fleet.serving import answer, server
from lakehouse.fleet.wanted import Webhook
from lakehouse.fleet.watch import Watch

HOUSE = Path(__file__).parent.parent
SOON, AFTER = timedelta(seconds=15), timedelta(seconds=30)
(BROKER,) = incidents([ill("plays", since=NOON), ill("skips")], ["music"])


def looks(state: WatchState, *found: list[Incident], after: timedelta = AFTER) -> tuple[WatchState, list[str]]:
    """So many looks, 15 seconds apart, whose alerts all are taken; of what people were notified."""
    said, at = [], NOON
    for each in found:
        at += SOON
        state = seen(state, each, at)
        for alert in due(state, at, after):
            said.append(alert.status)
            state = notified(state, alert)
        state = forgotten(state)
    return state, said


# --- whom to tell --------------------------------------------------------------------------------------------------


def test_an_incident_is_notified_once_and_so_is_its_end() -> None:
    state, said = looks(WatchState(), *[[BROKER]] * 9, [], [], [], [])
    assert said == ["firing", "resolved"]
    assert state.open == {}


def test_what_passes_by_itself_notifies_nobody() -> None:
    state, said = looks(WatchState(), [BROKER], [BROKER], [], [], [])
    assert (said, state.open) == ([], {})


def test_one_look_without_it_is_not_its_end() -> None:
    _, said = looks(WatchState(), *[[BROKER]] * 4, [], [BROKER], [], [BROKER], [BROKER])
    assert said == ["firing"]


def test_topics_that_come_and_go_make_no_new_alert() -> None:
    (more,) = incidents([ill("plays"), ill("likes"), ill("skips")], ["music"])
    _, said = looks(WatchState(), *[[BROKER]] * 4, [more], [more])
    assert said == ["firing"]


def test_it_begins_when_the_incident_did_though_it_was_seen_later() -> None:
    state = seen(WatchState(), [BROKER], NOON + timedelta(hours=1))
    (alert,) = due(state, NOON + timedelta(hours=1), timedelta(0))
    assert alert.starts_at == NOON
    assert due(state, NOON + timedelta(hours=1), AFTER) == [], "it may pass by itself all the same"


def test_the_next_check_is_when_an_incident_has_lasted_long_enough() -> None:
    """Else whoever is to be notified waits for half a minute, and then for the next check."""
    state = seen(WatchState(), [BROKER], NOON)
    assert due_in(WatchState(), NOON, AFTER) is None
    assert due_in(state, NOON + AFTER / 3, AFTER) == AFTER * 2 / 3
    assert due_in(state, NOON + 2 * AFTER, AFTER) is None, "its application is being replaced"
    (alert,) = due(state, NOON + AFTER, AFTER)
    assert due_in(notified(state, alert), NOON, AFTER) is None


def test_what_is_being_replaced_notifies_only_when_that_is_over() -> None:
    state = seen(WatchState(), [BROKER], NOON)
    assert due(state, NOON + AFTER, AFTER, silent=["music", "social"]) == []
    assert len(due(state, NOON + AFTER, AFTER, silent=["social"])) == 1
    assert len(due(state, NOON + AFTER, AFTER)) == 1


# --- the error budget ----------------------------------------------------------------------------------------------


def test_burn_is_the_share_that_was_late_over_the_share_that_may_be() -> None:
    state, at = WatchState(), NOON
    for minute in range(120):
        at = NOON + timedelta(minutes=minute)
        state = with_late(state, 0.01 if minute >= 60 else 0.0, at)
    assert burn(state, timedelta(hours=1), 0.999, at) == pytest.approx(10, rel=0.1)
    assert burn(state, timedelta(hours=6), 0.999, at) == pytest.approx(5, rel=0.1)
    assert burn(WatchState(), timedelta(hours=1), 0.999, at) is None


def test_what_is_kept_of_the_budget_is_bounded() -> None:
    state = WatchState()
    for minute in range(0, 6 * 24 * 60, 5):
        state = with_late(state, 0.0, NOON + timedelta(minutes=minute))
    assert len(state.late) <= 3 * 24 * 12 + 1


# --- what receivers get --------------------------------------------------------------------------------------------


def test_alertmanagers_format_has_what_its_receivers_read() -> None:
    fires = alertmanager([Alert("firing", BROKER, NOON)], "http://watch/")
    assert (fires["version"], fires["status"]) == ("4", "firing")
    (alert,) = fires["alerts"]
    assert alert["fingerprint"] == alert["labels"]["incident"] == BROKER.key
    assert alert["startsAt"] == NOON.isoformat()
    assert alert["endsAt"].startswith("0001-")
    assert alert["annotations"]["topics"] == "plays, skips"
    over = alertmanager([Alert("resolved", BROKER, NOON, NOON + AFTER)], "")
    assert (over["status"], over["alerts"][0]["endsAt"]) == ("resolved", (NOON + AFTER).isoformat())


def test_pagerduty_is_notified_by_the_same_key_when_it_is_over() -> None:
    fires = pagerduty(Alert("firing", BROKER, NOON), "http://watch/", "secret")
    over = pagerduty(Alert("resolved", BROKER, NOON, NOON), "", "secret")
    assert (fires["event_action"], over["event_action"]) == ("trigger", "resolve")
    assert fires["dedup_key"] == over["dedup_key"] == BROKER.key
    assert fires["payload"]["severity"] == "critical"


class Receiver:
    """A server that keeps what it takes, and refuses while it is asked to. It answers once as many are called at the
    same time as `others` waits for."""

    def __init__(self, others: threading.Barrier) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.code = 200
        self.others = others

    @property
    def taken(self) -> list[tuple[str, str]]:
        return [(body["status"], body["alerts"][0]["fingerprint"]) for body in self.bodies]


@contextmanager
def receiving(others: threading.Barrier | None = None) -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver(others or threading.Barrier(1))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.others.wait(10)
            if receiver.code == 200:
                receiver.bodies.append(body)
            self.send_response(receiver.code)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield receiver, f"http://127.0.0.1:{serving.server_port}/hook"
        serving.shutdown()


def test_a_webhook_that_refuses_or_is_away_is_an_error_that_says_so() -> None:
    with receiving() as (receiver, url):
        webhooks.call(Webhook(url=url), [Alert("firing", BROKER, NOON)], "")
        receiver.code = 500
        with pytest.raises(WebhookError, match="500"):
            webhooks.call(Webhook(url=url), [Alert("firing", BROKER, NOON)], "")
    with pytest.raises(WebhookError, match="refused"):
        webhooks.call(Webhook(url=url), [Alert("firing", BROKER, NOON)], "")


def test_secrets_of_webhooks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as (receiver, url):
        pager = Webhook(url_from="HOOK", format="pagerduty", routing_key_from="KEY")
        with pytest.raises(ConfigError, match="no variable HOOK"):
            webhooks.check(pager)
        monkeypatch.setenv("HOOK", url)
        with pytest.raises(ConfigError, match="no variable KEY"):
            webhooks.check(pager)
        monkeypatch.setenv("KEY", "routing-key-1234")
        webhooks.call(pager, [Alert("firing", BROKER, NOON)], "")
        assert receiver.bodies[0]["routing_key"] == "routing-key-1234"


@pytest.mark.parametrize(
    "values", [{}, {"url": "http://a", "url_from": "B"}, {"url": "http://a", "format": "pagerduty"}]
)
def test_a_webhook_that_cannot_be_called_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"url|routing_key_from"):
        Webhook(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://a/b", "data:,x", "javascript:1", "x", "//a/b", "http://", "http:///x",
        "http://a b/", "http://a:99999/", "http://a:x/", "http://a:0/", "http://[::1", "https://a/å", " http://a/", "http://a/\n",
    ],
)  # fmt: skip
def test_an_address_that_no_alert_can_be_posted_to_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A file can be opened, too: whoever opens it has notified nobody."""
    with pytest.raises(ValueError, match="an address such as https://"):
        Webhook(url=url)
    monkeypatch.setenv("HOOK", url)
    with pytest.raises(ConfigError, match="an address such as https://") as refused:
        webhooks.check(Webhook(url_from="HOOK"))
    assert len(url) < 5 or url not in str(refused.value), "it may be secret"


@pytest.mark.parametrize("url", ["http://a", "HTTPS://a:8443/b?c=d", "http://user:key@[::1]:80/x%20y"])
def test_an_address_with_all_that_one_may_have_is_taken(url: str) -> None:
    assert Webhook(url=url).url == url


@contextmanager
def answering(*parts: bytes, pause_seconds: float = 0.0) -> Iterator[str]:
    """A server that says this to whoever comes, part by part, whatever it is asked."""
    stop = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            with suppress(OSError):
                for part in parts:
                    self.request.sendall(part)
                    stop.wait(pause_seconds)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}/hook"
        stop.set()
        serving.shutdown()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_no_answer_that_an_alert_was_taken(code: int) -> None:
    """It would be followed without the alert, to a page that answers 200, such as a login."""
    with receiving() as (receiver, url):
        head = f"HTTP/1.1 {code} Moved\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()
        with answering(head) as moved, pytest.raises(WebhookError, match=str(code)):
            webhooks.call(Webhook(url=moved), [Alert("firing", BROKER, NOON)], "")
        assert receiver.bodies == []


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x01", b"HTTP/1.1 x\r\n\r\n", b"HTTP/1.1 200 OK"]
)
def test_what_is_no_answer_of_http_is_an_error_that_says_so(said: bytes) -> None:
    with answering(said) as url:
        if said.endswith(b"OK"):  # the line is whole, though nothing follows
            webhooks.call(Webhook(url=url), [Alert("firing", BROKER, NOON)], "")
            return
        with pytest.raises(WebhookError, match="an answer between 200 and 299"):
            webhooks.call(Webhook(url=url), [Alert("firing", BROKER, NOON)], "")


def test_a_receiver_that_answers_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PATIENCE_SECONDS", 0.3)
    drops = [b"HTTP/1.1 200 OK\r\n", *(b"X: y\r\n" for _ in range(60))]
    with answering(*drops, pause_seconds=0.1) as url:
        began = time.monotonic()
        with pytest.raises(WebhookError, match="no answer within"):
            webhooks.call(Webhook(url=url), [Alert("firing", BROKER, NOON)], "")
        assert time.monotonic() - began < 3


# --- metrics -------------------------------------------------------------------------------------------------------


def names_in(text: str) -> set[str]:
    return {name.removeprefix(PREFIX) for name in re.findall(rf"{PREFIX}\w+", text)}


RULES = yaml.safe_load((HOUSE / "ops/prometheus/lakehouse-fleet.rules.yaml").read_text())
DASHBOARD = json.loads((HOUSE / "ops/grafana/lakehouse-fleet.json").read_text())


def test_every_metric_of_the_alert_rules_exists_with_its_labels() -> None:
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        names = names_in(rule["expr"])
        assert names
        assert names <= set(METRICS), rule["alert"]
        labels = {label for name in names for label in METRICS[name].labels}
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule))) | set(re.findall(r"[{,](\w+)=", rule["expr"]))
        assert used <= labels, rule["alert"]
        assert {"summary", "next_step"} <= set(rule["annotations"])
        assert "severity" in rule["labels"]


def test_every_metric_of_the_dashboard_exists_and_every_metric_is_shown() -> None:
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    shown = set[str]()
    for target in targets:
        names = names_in(target["expr"])
        assert names <= set(METRICS), target["expr"]
        shown |= names
        labels = {label for name in names for label in METRICS[name].labels}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels
        assert target["expr"].count("(") == target["expr"].count(")")
    assert shown == set(METRICS)


def test_every_metric_says_its_unit_what_it_is_and_what_to_do() -> None:
    for name, metric in METRICS.items():
        assert metric.meaning
        assert metric.reaction
        assert (metric.kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|minutes|age)$", name)


def test_the_text_format_escapes_what_a_name_may_hold() -> None:
    labels = {"key": "k", "cause": 'a "b"', "severity": "back\\slash", "subject": "two\nlines"}
    text = exposition({"incident_start_timestamp_seconds": [(labels, 1.0)]})
    assert text.splitlines()[-1] == (
        'lakehouse_fleet_incident_start_timestamp_seconds{key="k",cause="a \\"b\\"",'
        'severity="back\\\\slash",subject="two\\nlines"} 1.0'
    )
    with pytest.raises(ValueError, match="has the labels"):
        exposition({"topics": [({"colour": "red"}, 1.0)]})


def test_a_log_line_says_no_secret_of_a_webhook() -> None:
    """An address may have a key in its path, its query or before its host."""
    secret = Webhook(url="https://user:key@hooks.example.com:8443/services/key?token=key")
    assert webhooks.shown_name(secret) == "hooks.example.com"
    assert webhooks.shown_name(Webhook(url_from="HOOK")) == "HOOK"


# --- the watch -----------------------------------------------------------------------------------------------------


class Site:
    def __init__(self, folder: Path, *urls: str) -> None:
        watch = {"notify_after": "0 seconds", "webhooks": [{"url": url} for url in urls]}
        applications = {"music": {"topics": ["plays", "skips"]}, "social": {"topics": ["likes"]}}
        self.folder = folder
        self.conf = write_fleet(folder, applications, ["plays", "skips", "likes"], watch=watch)
        self.config = fleet_at(self.conf).config

    def watch(self) -> Watch:
        def loaded() -> Any:
            fleet = fleet_at(self.conf)
            return fleet, launcher_of(fleet)

        return Watch(loaded, "http://watch/")

    def beat(self, *broken: str, silent: tuple[str, ...] = ()) -> None:
        at = self.config.now()
        well = replace(PULSE, since=at, last_trigger=at, frontier=at)
        ill = replace(well, state="parked", failures=2, error="topic x: found no route; expected an answer. Wait.")
        for name, topics in {"music": ("plays", "skips"), "social": ("likes",)}.items():
            ended = {"ended_at": at, "why_ended": "asked to"} if name in silent else {}
            beat(self.config, name, {each: ill if each in broken else well for each in topics}, **ended)


@pytest.fixture
def hooked(tmp_path: Path) -> Iterator[tuple[Site, Receiver]]:
    with receiving() as (receiver, url):
        yield Site(tmp_path, url), receiver


def test_a_watch_that_is_killed_and_started_again_repeats_no_alert(hooked: tuple[Site, Receiver]) -> None:
    """Its state is in the lake, so another machine can go on with it."""
    site, receiver = hooked
    site.beat("plays", "likes")
    site.watch().look()
    site.watch()
    again = site.watch()
    again._state = again._store.read()
    again.look()
    assert [status for status, _ in receiver.taken] == ["firing"]
    site.beat()
    for _ in range(3):
        other = site.watch()
        other._state = other._store.read()
        other.look()
    assert [status for status, _ in receiver.taken] == ["firing", "resolved"]
    assert len({key for _, key in receiver.taken}) == 1


def test_what_a_webhook_refuses_is_sent_again(hooked: tuple[Site, Receiver]) -> None:
    site, receiver = hooked
    site.beat("plays")
    watch = site.watch()
    receiver.code = 503
    watch.look()
    assert receiver.taken == []
    receiver.code = 200
    watch.look()
    watch.look()
    assert [status for status, _ in receiver.taken] == ["firing"]
    assert (watch.counts.sent, watch.counts.failed) == (1, 1)


def test_who_has_taken_an_alert_is_not_called_again_because_another_refuses(tmp_path: Path) -> None:
    """Nor is anybody left with an incident that never ends, because another never took it."""
    with receiving() as (well, url), receiving() as (ill, other):
        site = Site(tmp_path, url, other)
        site.beat("plays")
        ill.code = 503
        watch = site.watch()
        for _ in range(3):
            watch.look()
        again = site.watch()
        again._state = again._store.read()
        again.look()
        assert ([status for status, _ in well.taken], ill.taken) == (["firing"], [])
        site.beat()
        for _ in range(4):
            again.look()
        assert ([status for status, _ in well.taken], ill.taken) == (["firing", "resolved"], [])
        assert again._state.open == {}


def test_a_webhook_that_hangs_holds_up_neither_the_next_check_nor_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "PATIENCE_SECONDS", 0.3)
    with receiving() as (well, url), answering(b"", b"", pause_seconds=60) as hangs:
        site = Site(tmp_path, hangs, url)
        site.beat("plays", "likes", silent=("social",))
        watch = site.watch()
        watch.look()
        assert len(well.taken) == 2
        assert (watch.counts.sent, watch.counts.failed) == (2, 1), "it is called once in a check"


def test_webhooks_are_called_side_by_side(tmp_path: Path) -> None:
    """Five that hang would take 50 seconds one after another, and an incident is to be notified of within 45."""
    others = threading.Barrier(5)
    with ExitStack() as servers:
        receivers, urls = zip(*(servers.enter_context(receiving(others)) for _ in range(5)), strict=True)
        site = Site(tmp_path, *urls)
        site.beat("plays", "likes", silent=("social",))
        watch = site.watch()
        watch.look()
        assert [len(each.taken) for each in receivers] == [2] * 5
        assert (watch.counts.sent, watch.counts.failed) == (10, 0)
        again = site.watch()
        again._state = again._store.read()
        again.look()
        assert again.counts.sent == 0, "what each has taken is kept"


def test_a_webhook_that_is_gone_from_the_file_keeps_no_incident_open(tmp_path: Path) -> None:
    with receiving() as (_, url), receiving() as (_, other):
        site = Site(tmp_path, url)
        site.beat("plays")
        site.watch().look()
        site = Site(tmp_path, other)
        site.beat()
        watch = site.watch()
        watch._state = watch._store.read()
        assert len(watch._state.open) == 1
        for _ in range(3):
            watch.look()
        assert watch._state.open == {}


def test_a_clock_that_was_set_back_keeps_nobody_from_being_notified() -> None:
    state = seen(WatchState(), [BROKER], NOON)
    assert len(due(state, NOON - timedelta(hours=1), AFTER)) == 1


def test_a_watch_begins_though_the_clock_was_set_back_since_the_last_one_died(hooked: tuple[Site, Receiver]) -> None:
    site, _ = hooked
    watch = site.watch()
    watch.begin()
    ahead = replace(watch._store.read(), written_at=watch._fleet.config.now() + timedelta(hours=1))
    path = site.folder / "lake/_fleet/watch.json"
    path.write_bytes(TypeAdapter(WatchState).dump_json(ahead))
    site.watch().begin()


def test_of_two_watches_that_begin_at_once_one_goes_on(hooked: tuple[Site, Receiver]) -> None:
    site, _ = hooked
    site.beat()
    first, second = site.watch(), site.watch()
    first.begin()
    (site.folder / "lake/_fleet/watch.json").unlink()  # as if the second had read it before
    second.begin()
    with pytest.raises(LakeError, match="begun since this one"):
        first.run(threading.Event())
    first.end()
    assert second._other_run() is None
    assert first._store.read().run, "it does not say that the other one has ended"


def test_two_watches_do_not_tell_twice(hooked: tuple[Site, Receiver]) -> None:
    site, _ = hooked
    first = site.watch()
    first.begin()
    with pytest.raises(LakeError, match="another watch, run"):
        site.watch().begin()
    first.end()
    site.watch().begin()


def test_an_application_that_is_being_deployed_is_no_alarm(hooked: tuple[Site, Receiver]) -> None:
    site, receiver = hooked
    site.beat(silent=("social",))
    deployments = Deployments(site.config.settings)
    ours, _ = deployments.begin("deploy", "")
    journal = Journal(deployments, ours)
    journal.keep(steps=(Step(application="social", action="replace"),))
    watch = site.watch()
    watch.look()
    assert receiver.taken == []
    journal.end("done")
    watch.look()
    assert [status for status, _ in receiver.taken] == ["firing"]


def test_it_serves_page_metrics_and_health(hooked: tuple[Site, Receiver]) -> None:
    site, _ = hooked
    site.beat("plays")
    watch = site.watch()
    assert answer(watch, "/healthz")[0] == 503
    with server(watch, "127.0.0.1", 0) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{pages.server_port}"
        assert b"first look" in urlopen(f"{address}/").read()
        watch.look()
        assert urlopen(f"{address}/healthz").read() == b"ok\n"
        text = urlopen(f"{address}/metrics").read().decode()
        page = urlopen(f"{address}/").read().decode()
        with pytest.raises(HTTPError) as missing:
            urlopen(f"{address}/x")
        missing.value.close()
        pages.shutdown()
    assert 'lakehouse_fleet_topics{cause="cannot read"} 1.0' in text
    assert 'lakehouse_fleet_topic_cause{topic="plays",application="music",cause="cannot read"} 1.0' in text
    assert 'lakehouse_fleet_application_running{application="social"} 1.0' in text
    assert "lakehouse_fleet_watch_looks_total 1.0" in text
    assert 'lakehouse_fleet_budget_burn_ratio{window="3d"} 0.0' in text
    for line in text.splitlines():
        assert re.fullmatch(rf"# (HELP|TYPE) {PREFIX}\w+ .+|{PREFIX}\w+({{.*}})? -?[0-9.e+-]+", line), line
    assert "cannot read: topic plays" in page
    assert page.count("<i class=") == 3


def test_it_answers_whoever_asks_however_they_do(
    hooked: tuple[Site, Receiver], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Probes ask with HEAD, scrapes meet, and a browser that goes away is no news."""
    site, _ = hooked
    site.beat("plays")
    watch = site.watch()
    watch.look()
    with server(watch, "127.0.0.1", 0) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        port = pages.server_port
        for path, code in {
            "/healthz": 200,
            "/metrics": 200,
            "/": 200,
            "/x": 404,
            "/metrics?a=b": 200,
            "/%00": 404,
        }.items():
            asked = HTTPConnection("127.0.0.1", port, timeout=10)
            asked.request("HEAD", path)
            said = asked.getresponse()
            assert (said.status, said.read()) == (code, b"")
            assert int(said.headers["Content-Length"]) > 0
            asked.close()
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as leaves:
                leaves.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                leaves.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        for odd in (
            b"\x16\x03\x01\x00",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET " + b"x" * 70000 + b"\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port)) as asks:
                asks.sendall(odd)
        with ThreadPoolExecutor(8) as scrapers:
            texts = list(scrapers.map(lambda _: urlopen(f"http://127.0.0.1:{port}/metrics").read(), range(40)))
        assert all(text.endswith(b"\n") and b"topic_cause" in text for text in texts)
        pages.shutdown()
    assert capfd.readouterr().err == ""
    assert caplog.records == []


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 64, "a..b", "256.1.1.1"])
def test_a_host_that_is_none_of_this_machine_is_said(hooked: tuple[Site, Receiver], host: str) -> None:
    site, _ = hooked
    with pytest.raises(UsageError, match="cannot be bound"):
        server(site.watch(), host, 0)


def test_a_port_that_is_taken_is_said(hooked: tuple[Site, Receiver]) -> None:
    site, _ = hooked
    with server(site.watch(), "127.0.0.1", 0) as pages, pytest.raises(UsageError, match="cannot be bound"):
        server(site.watch(), "127.0.0.1", pages.server_port)


def test_a_look_that_fails_is_counted_and_the_next_one_succeeds(
    hooked: tuple[Site, Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = hooked
    site.beat()
    watch = site.watch()
    good, file = site.conf.read_text(), site.conf
    file.write_text("raw_root: [")
    watch.look_or_log()
    file.write_text(good)
    watch.look_or_log()
    assert (watch.counts.failed_looks, watch.counts.looks) == (1, 1)
    assert "lakehouse_fleet_watch_failed_looks_total 1.0" in watch.metrics()


def test_one_look_can_be_scheduled(hooked: tuple[Site, Receiver]) -> None:
    site, receiver = hooked
    site.beat("plays")
    for _ in range(2):
        done = CliRunner().invoke(
            app.app, ["fleet", "watch", "--once", "--conf", str(site.conf)], catch_exceptions=False
        )
        assert done.exit_code == 0
        assert done.stdout == "3 topics: 1 cannot read, 2 ok · releases: r1 ×2\n"
    assert [status for status, _ in receiver.taken] == ["firing"]


def test_the_watch_runs_until_it_is_stopped(hooked: tuple[Site, Receiver]) -> None:
    site, _ = hooked
    site.beat()
    watch, stop = site.watch(), threading.Event()
    watch.begin()
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    while not watch.is_well():
        stop.wait(0.05)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert watch.counts.looks == 1
    assert alerts.RESOLVED_AFTER == 2
