"""Errors and log lines are one line each, whatever a library or a server has said."""

from __future__ import annotations

import json
import logging
import pickle
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.errors import LakehouseError, SourceError, from_trace, joined_lines, note_of, unavailable, unexpected
from lakehouse.landing.brokers.channel import status_text
from lakehouse.payload_types import UnreadableSchemaError

BREAKS = ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028"]
SAID = "handshake failed:{0} certificate verify failed{0}{0}"
JOINED = "handshake failed: certificate verify failed"

texts = st.text(st.sampled_from("ab \t" + "".join(BREAKS)), max_size=12)


class Refused(grpc.RpcError):
    """As a call raises it."""

    def __init__(self, details: str | None) -> None:
        super().__init__()
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str | None:
        return self._details


@given(st.tuples(texts, texts, texts, texts))
def test_an_error_is_one_line_whatever_its_parts_are(parts: tuple[str, str, str, str]) -> None:
    subject, found, expected, next_step = parts
    error = SourceError(subject, found=found, expected=expected, next_step=next_step)
    assert len(str(error).splitlines()) == 1
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(from_trace(f"Traceback …\n{note_of(error)}")) == str(error)


@given(texts)
def test_what_others_raise_is_one_line(text: str) -> None:
    kinds: list[LakehouseError] = [unavailable("lake", OSError(text)), unexpected("topic plays", RuntimeError(text))]
    assert [len(str(error).splitlines()) for error in kinds] == [1, 1]
    assert len(str(UnreadableSchemaError(f"no schema: {text}")).splitlines()) == 1


@pytest.mark.parametrize("line_break", BREAKS, ids=json.dumps)
def test_every_line_of_a_foreign_text_is_kept(line_break: str) -> None:
    assert joined_lines(SAID.format(line_break)) == JOINED
    assert status_text(Refused(SAID.format(line_break))) == f"UNAVAILABLE: {JOINED}"


def test_a_call_that_failed_without_a_word_has_its_code() -> None:
    assert status_text(Refused(None)) == "UNAVAILABLE"


def test_what_librdkafka_says_is_one_line_in_errors_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    kafka: Any = pytest.importorskip("confluent_kafka")
    from lakehouse.landing.brokers.kafka import Cluster
    from lakehouse.sources import KafkaSource

    source = KafkaSource(bootstrap="127.0.0.1:1", topic="plays")
    cluster = Cluster({"bootstrap.servers": source.bootstrap}, "options")
    said = kafka.KafkaError(kafka.KafkaError._SSL, SAID.format("\n"))
    assert f"no valid credentials (_SSL: {JOINED})" in str(cluster.error_of(source, said))
    with caplog.at_level(logging.WARNING):
        cluster._note_stored("lakehouse", said, [])
    assert [record.getMessage() for record in caplog.records] == [
        f"kafka: group=lakehouse offsets=not stored error=_SSL: {JOINED}"
    ]
