"""The schemas that the messages of a page name, from their registry: asked for once, and kept on this machine."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

from lakehouse import avro_types, local_cache, protobuf_types, protoc
from lakehouse.decode.events import Schemas
from lakehouse.landing.registries.confluent import HttpRegistry
from lakehouse.landing.registries.contract import AVRO, PROTOBUF, Definition, Registry
from lakehouse.landing.registries.references import inlined
from lakehouse.payload_types import UnreadableSchemaError
from lakehouse.sources import ConfluentRegistry, SchemaService
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

_KEPT = "schema"
_MOST = 1_000
"""Schemas that a process remembers of a registry."""
_UNKNOWN_FOR_SECONDS = 60.0
"""How long a schema that a registry does not have is not asked for again."""
_MOST_UNKNOWN = 1_000
"""Schemas that a registry did not have within that time: where there are more, no more are asked for. Payloads that
begin with a 0 but are not framed name another schema each."""
_AT_ONCE = 16
"""Questions to a registry."""
_NAMED = 5
"""Of the schemas that a log line is about."""
_MAIN = "lakehouse.proto"


def registry_of(declared: SchemaService | ConfluentRegistry) -> Registry:
    """Google's packages, which its own needs, take longer to import than all that Spark's planner needs besides."""
    if isinstance(declared, ConfluentRegistry):
        return HttpRegistry(declared)
    from lakehouse.landing.registries.schema_service import SchemaServiceRegistry

    return SchemaServiceRegistry()


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

    def texts(self, named: Mapping[str, int]) -> dict[str, str]:
        """Of these schemas those that the registry has and that can be read; SourceError where it does not say.

        `named` counts the messages of each: what most of them name is asked for first, and then small ids, as
        registries give them.
        """
        with self._lock:
            self._forget_unknown()
            found = {name: self._known[name] for name in named if name in self._known}
            unasked = [name for name in named if name not in found and name not in self._unknown_since]
            unasked.sort(key=lambda name: (-named[name], len(name), name))
            if unasked:
                self._ask(unasked, found)
            return {name: text for name, text in found.items() if text is not None}

    def _ask(self, unasked: Sequence[str], found: dict[str, str | None]) -> None:
        missing: list[str] = []
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for start in range(0, len(unasked), _AT_ONCE):
                if len(self._unknown_since) >= _MOST_UNKNOWN:
                    missing += unasked[start:]
                    break
                some = unasked[start : start + _AT_ONCE]
                for name, definition in zip(some, threads.map(self._definition, some), strict=True):
                    if definition is None:
                        missing.append(name)
                        self._unknown_since[name] = self.clock()
                    else:
                        found[name] = self._known[name] = self._readable(name, definition)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        if missing:
            some_of = ",".join(missing[:_NAMED]) + ",…" * (len(missing) > _NAMED)
            log.warning("registry: schemas=%d found=none named=%s at=%s", len(missing), some_of, self.address)

    def _forget_unknown(self) -> None:
        latest = self.clock() - _UNKNOWN_FOR_SECONDS
        while self._unknown_since and next(iter(self._unknown_since.values())) <= latest:
            self._unknown_since.popitem(last=False)

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


def schemas_of(topic: Topic) -> Schemas | None:
    """The schemas of the topic's registry, for `decode`; None where it has no registry.

    They raise SourceError where the registry does not answer, or not to us: no message is to be rejected for that.
    """
    return _writers(topic.registry, topic.format).texts if topic.registry is not None else None


@lru_cache(maxsize=64)
def _writers(declared: SchemaService | ConfluentRegistry, kind: str) -> Writers:
    return Writers(registry_of(declared), declared.address, kind)
