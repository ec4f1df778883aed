"""The schemas that the messages of a page name, from their registry: asked for once, and kept on this machine."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa

from lakehouse import avro_types, local_cache, protobuf_types, protoc
from lakehouse.decode import compression
from lakehouse.decode.writers import schema_ids
from lakehouse.landing.registries.confluent import HttpRegistry
from lakehouse.landing.registries.contract import AVRO, PROTOBUF, Definition, Registry
from lakehouse.landing.registries.references import inlined
from lakehouse.landing.registries.schema_service import SchemaServiceRegistry
from lakehouse.payload_types import UnreadableSchemaError
from lakehouse.topics import ConfluentRegistry, SchemaService, Topic

log = logging.getLogger(__name__)

_KEPT = "schema"
_MOST = 1_000
"""Schemas that a process remembers of a registry."""
_UNKNOWN_FOR_SECONDS = 60.0
"""How long a schema that a registry does not have is not asked for again."""
_MAIN = "lakehouse.proto"


def registry_of(declared: SchemaService | ConfluentRegistry) -> Registry:
    return SchemaServiceRegistry() if isinstance(declared, SchemaService) else HttpRegistry(declared)


@dataclass
class Writers:
    """The schemas of one registry in one format, as texts like those of `Topic.schemas`. For several threads.

    What is known is on this machine's disk, too, for the processes that come after this one.
    """

    registry: Registry
    address: str
    format: str
    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[str, str | None] = field(default_factory=OrderedDict)
    _unknown_since: OrderedDict[str, float] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def text(self, schema_id: str) -> str | None:
        """None where the registry has no such schema, or one that cannot be read; SourceError where it does not say."""
        with self._lock:
            if schema_id in self._known:
                return self._known[schema_id]
            since = self._unknown_since.get(schema_id)
            if since is not None and self.clock() - since < _UNKNOWN_FOR_SECONDS:
                return None
            definition = self._definition(schema_id)
            if definition is None:
                self._unknown_since[schema_id] = self.clock()
                _shorten(self._unknown_since)
                log.warning("registry: schema=%s found=none at=%s", schema_id, self.address)
                return None
            text = self._known[schema_id] = self._readable(schema_id, definition)
            _shorten(self._known)
            return text

    def _definition(self, schema_id: str) -> Definition | None:
        key = json.dumps([self.address, schema_id])
        kept = local_cache.kept(_KEPT, key)
        if kept is not None:
            return Definition.from_json(kept)
        definition = self.registry.definition(schema_id)
        if definition is not None:
            local_cache.keep(_KEPT, key, definition.as_json().encode())
        return definition

    def _readable(self, schema_id: str, definition: Definition) -> str | None:
        try:
            if definition.format != self.format:
                raise UnreadableSchemaError(f"a schema of {definition.format}, not {self.format}")
            return schema_text(definition)
        except UnreadableSchemaError as unreadable:
            log.warning("registry: schema=%s found=%s at=%s", schema_id, unreadable, self.address)
            return None


def schema_text(definition: Definition) -> str:
    """As `Topic.schemas` has it; UnreadableSchemaError for what is no schema that can be read."""
    if definition.format == AVRO:
        text = inlined(definition.text, definition.references)
        avro_types.node_of(text)
        return text
    if definition.format != PROTOBUF:
        raise UnreadableSchemaError(f"a schema of {definition.format}, not avro or protobuf")
    text = protobuf_types.schema_text(protoc.compiled(_MAIN, {**definition.references, _MAIN: definition.text}))
    protobuf_types.pool_of(protobuf_types.descriptors_of(text))
    return text


def _shorten(known: OrderedDict[str, str | None] | OrderedDict[str, float]) -> None:
    while len(known) > _MOST:
        known.popitem(last=False)


def with_writers(messages: pa.RecordBatch, topic: Topic) -> Topic:
    """The topic with the schemas that a page (columns `DELIVERED`) names, for `decode`.

    SourceError where the registry does not answer, or not to us: no message is to be rejected for that.
    """
    if topic.registry is None:
        return topic
    ids = {name for part in compression.parts(messages, topic) for name in schema_ids(part.messages, topic)}
    writers = _writers(topic.registry, topic.format)
    texts = {schema_id: writers.text(schema_id) for schema_id in sorted(ids)}
    return topic.with_writers({schema_id: text for schema_id, text in texts.items() if text is not None})


@lru_cache(maxsize=64)
def _writers(declared: SchemaService | ConfluentRegistry, kind: str) -> Writers:
    return Writers(registry_of(declared), declared.address, kind)
