"""Messages of a log as Arrow, in columns `DELIVERED`: what Kafka's and Pub/Sub Lite's have in common."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from itertools import count

import pyarrow as pa

from lakehouse.schemas import DELIVERED, TIMESTAMP

BASE64 = ".base64"
"""At the end of an attribute's name whose value is no UTF-8: it is in base64."""


@dataclass(frozen=True)
class LogPage:
    """Messages of one or more partitions, each partition's in its order."""

    messages: pa.RecordBatch
    size_bytes: int


@dataclass
class PageBuilder:
    """Messages one after the other. `key_attribute` is the name of a key that is no UTF-8, without `.base64`."""

    key_attribute: str
    size_bytes: int = 0
    _ids: list[str] = field(default_factory=list)
    _times: list[int] = field(default_factory=list)
    _attributes: list[list[tuple[str, str]]] = field(default_factory=list)
    _payloads: list[bytes] = field(default_factory=list)
    _keys: list[str | None] = field(default_factory=list)

    def add(
        self,
        partition: int,
        offset: int,
        published_micros: int,
        attributes: list[tuple[str, str]],
        payload: bytes,
        key: bytes | None,
    ) -> None:
        """`published_micros` since 1970."""
        text: str | None = None
        if key is not None:
            try:
                text = key.decode()
            except UnicodeDecodeError:
                name = _free(self.key_attribute + BASE64, dict(attributes))
                attributes = [*attributes, (name, base64.b64encode(key).decode())]
        self._ids.append(f"{partition}:{offset}")
        self._times.append(published_micros)
        self._attributes.append(attributes)
        self._payloads.append(payload)
        self._keys.append(text)
        self.size_bytes += len(payload)

    def page(self) -> LogPage:
        columns = [
            pa.array(self._ids, pa.string()),
            pa.array(self._times, pa.int64()).cast(TIMESTAMP),
            pa.array(self._attributes, DELIVERED.field("attributes").type),
            pa.array(self._payloads, pa.binary()),
            pa.array(self._keys, pa.string()),
        ]
        return LogPage(pa.RecordBatch.from_arrays(columns, schema=DELIVERED), self.size_bytes)


def attributes_of(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, str]]:
    """Of a name that is there several times, the last has it, as Kafka's clients do; the others `name#1`, `name#2`."""
    left = Counter(name for name, _ in headers)
    seen: Counter[str] = Counter()
    named: dict[str, str] = {}
    for name, value in headers:
        left[name] -= 1
        seen[name] += 1
        own = f"{name}#{seen[name]}" if left[name] else name
        try:
            text = (value or b"").decode()
        except UnicodeDecodeError:
            own, text = own + BASE64, base64.b64encode(value or b"").decode()
        named[_free(own, named)] = text
    return list(named.items())


def _free(name: str, taken: Container[str]) -> str:
    """The name, or the first `name#1`, `name#2` that no other header has: one may be called so, too."""
    return name if name not in taken else next(each for n in count(1) if (each := f"{name}#{n}") not in taken)
