"""Whether a datum in Avro's binary encoding is of its schema, down to each choice: of a branch, of a symbol.

fastavro counts a negative choice from the end of the list, as Python does, and so reads a value that nobody wrote.
"""

from __future__ import annotations

from typing import Any

_BYTES = {"null": 0, "boolean": 1, "float": 4, "double": 8}
_NAMED = ("record", "enum", "fixed")


class NoDatumError(Exception):
    """The bytes are no datum of the schema."""


def check(body: bytes, schema: Any) -> None:
    """NoDatumError unless the bytes are one datum of a schema that fastavro has parsed, and nothing else."""
    walk = _Walk(body)
    walk.over(schema)
    if walk.at != len(body):
        raise NoDatumError


class _Walk:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._known: dict[str, Any] = {}
        self.at = 0

    def over(self, schema: Any) -> None:
        """One datum of the schema."""
        if isinstance(schema, list):
            return self.over(self._chosen(schema))
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind in _NAMED:
            self._known[schema["name"]] = schema
        match kind:
            case "int" | "long":
                self._long()
            case "bytes" | "string":
                self._pass(self._long())
            case "fixed":
                self._pass(schema["size"])
            case "enum":
                self._chosen(schema["symbols"])
            case "record":
                for field in schema["fields"]:
                    self.over(field["type"])
            case "array":
                self._blocks(schema["items"], has_names=False)
            case "map":
                self._blocks(schema["values"], has_names=True)
            case str() if kind in _BYTES:
                self._pass(_BYTES[kind])
            case _:
                self.over(self._known[kind] if isinstance(kind, str) else kind)

    def _blocks(self, items: Any, *, has_names: bool) -> None:
        while count := self._long():
            if count < 0:
                self._long()  # the bytes of the block
            for _ in range(abs(count)):
                if has_names:
                    self._pass(self._long())
                self.over(items)

    def _chosen(self, choices: list[Any]) -> Any:
        choice = self._long()
        if not 0 <= choice < len(choices):
            raise NoDatumError
        return choices[choice]

    def _long(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            self._pass(1)
            byte = self._body[self.at - 1]
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return (value >> 1) ^ -(value & 1)
        raise NoDatumError

    def _pass(self, count: int) -> None:
        self.at += count
        if count < 0 or self.at > len(self._body):
            raise NoDatumError
