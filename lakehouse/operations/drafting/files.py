"""The text of a new topic's two files, in the form in which people write them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from lakehouse.durations import duration_text
from lakehouse.operations.drafting.id_and_time import Message
from lakehouse.operations.drafting.inference import Doubt
from lakehouse.printable import printable
from lakehouse.topics import Topic


def topic_yaml(topic: Topic, source: str, doubts: Sequence[Doubt], count: int, mirrors: Sequence[str]) -> str:
    lines = [f"# Drafted from {count} messages of {printable(source)}. Settle what is marked `unsure`."]
    lines += [f"# unsure: {each.text}" for each in doubts if each.about == "samples"]
    for key in ("subscription", "format", "event_id", "event_time", "event_time_unit"):
        lines.append(_line_with_comment(f"{key}: {_scalar(getattr(topic, key))}", key, doubts))
    lines.append("fields:")
    lines += [
        _line_with_comment(f"  {_scalar(name)}: {_scalar(kind)}", name, doubts) for name, kind in topic.fields.items()
    ]
    shown = {"samples", "subscription", "event_id", "event_time", "lateness", *topic.fields}
    lines += [f"  # {printable(each.about)}: {printable(each.text)}" for each in doubts if each.about not in shown]
    lines.append(_line_with_comment(f"lateness: {duration_text(topic.lateness)}", "lateness", doubts))
    names = ", ".join(mirrors)
    lines.append("mirrors: []" + (f"  # of {printable(names)}" if names else ""))
    return "\n".join(lines) + "\n"


def _line_with_comment(line: str, about: str, doubts: Sequence[Doubt]) -> str:
    texts = [printable(each.text) for each in doubts if each.about == about]
    return f"{line}  # unsure: {'; '.join(texts)}" if texts else line


def _scalar(text: str) -> str:
    """As YAML reads it back: plain where it can be."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w./<>(), -]*", text) and yaml.safe_load(text) == text
    return text if is_plain else json.dumps(text)


def suite_json(topic: Topic, messages: Sequence[Message]) -> str:
    """Only what the samples bear out, and as warnings: no hour is held back because of a guess."""
    always = [name for name in topic.fields if all(each.document.get(name) is not None for each in messages)]
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
