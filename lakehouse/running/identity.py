"""Which application this is: its name, and a hash of what it is configured to do."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lakehouse.concealed import may_be_secret
from lakehouse.config import Config
from lakehouse.topics import Topic

_LONGEST_NAME = 60
_ELSEWHERE = {"raw_root", "sealed_root", "release", "application"}
"""Where and who an application is: no part of what it is configured to do."""


def application_name(config: Config, topics: Sequence[Topic]) -> str:
    """The setting `application`; else the topics, or the name of the environment's file where these are all it has."""
    if config.settings.application:
        return config.settings.application
    names = sorted(topic.name for topic in topics)
    if names == sorted(config.topics):
        return re.sub(r"[^A-Za-z0-9_.-]|^[^A-Za-z0-9]", "-", config.path.stem)[:_LONGEST_NAME].lstrip("-_.") or "lake"
    joined = ".".join(names)
    if len(joined) <= _LONGEST_NAME:
        return joined
    digest = hashlib.sha256(joined.encode()).hexdigest()[:8]
    return f"{names[0][:_LONGEST_NAME]}-and-{len(names) - 1}-more-{digest}"


def configuration_hash(config: Config, topics: Sequence[Topic]) -> str:
    """Of settings and topics, whatever machine reads them; suites have a hash of their own in each verdict."""
    values = {
        "settings": _without_secrets(config.settings.model_dump(mode="json", exclude=_ELSEWHERE)),
        "topics": {topic.name: topic.model_dump(mode="json") for topic in topics},
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _without_secrets(value: Any) -> Any:
    """What may be one is left out: a password that is changed is no other configuration."""
    if not isinstance(value, Mapping):
        return value
    kept = {key: each for key, each in value.items() if key != "storage_options" and not may_be_secret(str(key))}
    return {key: _without_secrets(each) for key, each in kept.items()}
