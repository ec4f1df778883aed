"""What landing asks of a registry of schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

AVRO, PROTOBUF = "avro", "protobuf"


@dataclass(frozen=True)
class Definition:
    """A schema as its registry has it: its format, its text, and the texts of others by the names that it uses."""

    format: str
    text: str
    references: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Definition:
        values: dict[str, Any] = json.loads(text)
        return cls(**values)


class Registry(Protocol):
    """One registry. For several threads."""

    def definition(self, schema_id: str) -> Definition | None:
        """The schema of this id, which never changes; None where the registry says that there is none.

        UnansweredError where nothing answers or it is said to pass, SourceError where nobody may ask.
        """

    def newest(self, name: str) -> Definition:
        """The newest schema of this name, for a topic's first file; SourceError where there is none."""
