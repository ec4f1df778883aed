"""A topic's suites as they are in `expectations/`: read, and checked before there is an hour."""

from __future__ import annotations

from collections.abc import Iterable

from lakehouse.config import Config
from lakehouse.errors import SuiteError
from lakehouse.schemas import silver_schema
from lakehouse.topics import Topic
from lakehouse.validate import gx
from lakehouse.validate.suites import EVERY_TOPIC, Suite, suite_from


def check_suites(topic: Topic, config: Config) -> None:
    """SuiteError for what would stop the stage at the topic's first hour: before there is one."""
    gx.check(suite_of(topic, config), silver_schema(topic))


def suite_complaints(topic: Topic, config: Config) -> list[str]:
    """All that `check_suites` could raise, one for each expectation."""
    try:
        return [str(each) for each in gx.complaints(suite_of(topic, config), silver_schema(topic))]
    except SuiteError as unusable:
        return [str(unusable)]


def suite_of(topic: Topic, config: Config) -> Suite:
    """`_every_topic.json` and the topic's own; SuiteError when one is missing or cannot be used."""
    return suite_from(topic, _texts((EVERY_TOPIC, topic.name), topic, config))


def suite_with(text: str, topic: Topic, config: Config) -> Suite:
    """As `suite_of`, with `text` for the topic's own file, which need not be there."""
    texts = _texts((EVERY_TOPIC,), topic, config)
    return suite_from(topic, {**texts, str(config.expectations / f"{topic.name}.json"): text})


def _texts(names: Iterable[str], topic: Topic, config: Config) -> dict[str, str]:
    texts = {}
    for file in (config.expectations / f"{name}.json" for name in names):
        try:
            texts[str(file)] = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SuiteError(
                str(file),
                found="no such file" if isinstance(error, FileNotFoundError) else str(error),
                expected="the expectations for the hours of "
                + ("every topic" if file.stem == EVERY_TOPIC else topic.name),
                next_step='Create it; {"name": "' + file.stem + '", "expectations": []} expects nothing more.',
            ) from error
    return texts
