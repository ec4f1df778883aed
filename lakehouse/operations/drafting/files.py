"""The text of a new topic's two files, in the form in which people write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from lakehouse.durations import duration_text
from lakehouse.operations.drafting.id_and_time import Message
from lakehouse.operations.drafting.inference import Doubt
from lakehouse.printable import printable
from lakehouse.sources import Registry, Source
from lakehouse.topics import Topic


def topic_yaml(topic: Topic, source: str, doubts: Sequence[Doubt], mirrors: Sequence[str]) -> str:
    """`source` is what it was drafted from, in words. Without `fields` where a schema gives them."""
    lines = [f"# Drafted from {printable(source)}. Settle what is marked `unsure`."]
    of_keys = [each for each in doubts if not each.is_of_field]
    of_fields = [each for each in doubts if each.is_of_field]
    lines += [f"# unsure: {printable(each.text)}" for each in of_keys if each.about == "samples"]
    for key, text in _keys(topic):
        lines.append(_line_with_comment(f"{key}: {text}", key, of_keys))
    if topic.schemas:
        lines.append("# fields: all of the schema; list them here to keep fewer")
        lines += [f"#   {_scalar(name)}: {_scalar(kind)}" for name, kind in topic.fields.items()]
    else:
        lines.append("fields:")
        lines += [
            _line_with_comment(f"  {_scalar(name)}: {_scalar(kind)}", name, of_fields)
            for name, kind in topic.fields.items()
        ]
    left_out = [each for each in of_fields if each.about not in topic.fields]
    lines += [f"  # {printable(each.about)}: {printable(each.text)}" for each in left_out]
    lines.append(_line_with_comment(f"lateness: {duration_text(topic.lateness)}", "lateness", of_keys))
    names = ", ".join(mirrors)
    lines.append("mirrors: []" + (f"  # of {printable(names)}" if names else ""))
    return "\n".join(lines) + "\n"


def _keys(topic: Topic) -> Iterator[tuple[str, str]]:
    """The keys before `fields`, and their values as YAML."""
    if topic.subscription:
        yield "subscription", _scalar(topic.subscription)
    else:
        yield "source", _mapping(topic.reads)
    yield "format", topic.format
    if topic.schemas:
        yield "schemas", f"[{', '.join(map(_scalar, topic.schemas))}]"
    if topic.message:
        yield "message", _scalar(topic.message)
    if topic.registry is not None:
        yield "registry", _mapping(topic.registry)
    for key in ("event_id", "event_time", "event_time_unit"):
        yield key, _scalar(getattr(topic, key))


def _mapping(model: Source | Registry) -> str:
    """On one line, as YAML and JSON both read it, without what is as it is by default; its kind comes first."""
    values = {"kind": model.kind, **model.model_dump(mode="json", exclude_defaults=True)}
    return "{" + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()) + "}"


def _line_with_comment(line: str, about: str, doubts: Sequence[Doubt]) -> str:
    texts = [printable(each.text) for each in doubts if each.about == about]
    return f"{line}  # unsure: {'; '.join(texts)}" if texts else line


def _scalar(text: str) -> str:
    """As YAML reads it back: plain where it can be."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w./<>(), -]*", text) and yaml.safe_load(text) == text
    return text if is_plain else json.dumps(text)


def suite_json(topic: Topic, messages: Sequence[Message]) -> str:
    """Only what the samples bear out, and as warnings: no hour is held back because of a guess."""
    is_always_there = {name: all(each.document.get(name) is not None for each in messages) for name in topic.fields}
    always = [name for name, is_there in is_always_there.items() if messages and is_there]
    expectations = [
        _expectation(
            "expect_column_values_to_not_be_null",
            {"column": name},
            f"All {len(messages)} samples had it. Critical, where an hour without it must not be delivered.",
        )
        for name in always
    ]
    model = {"hour": {"$PARAMETER": "hour"}, "model": {"$PARAMETER": "volume_model"}}
    expectations.append(
        _expectation("expect_volume_as_usual", model, "As many rows as in other weeks at this hour; it only reports.")
    )
    meta = {}
    with suppress(PackageNotFoundError):
        meta = {"great_expectations_version": version("great_expectations")}
    document = {
        "name": topic.name,
        "expectations": expectations,
        "meta": meta,
        "notes": f"A sealed hour of {topic.name}.",
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _expectation(kind: str, kwargs: dict[str, Any], notes: str) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "severity": "warning", "meta": {"severity": "warning"}, "notes": notes}
