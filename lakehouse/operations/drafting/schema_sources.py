"""A schema for a new topic: from a file, from Pub/Sub's schema service, or from a registry of Confluent's kind."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lakehouse import avro_types, protobuf_types, protoc
from lakehouse.concealed import without_credentials
from lakehouse.config import Config
from lakehouse.errors import UsageError, in_one_line
from lakehouse.landing.registries.contract import AVRO, Definition
from lakehouse.landing.registries.references import inlined
from lakehouse.landing.registries.writers import registry_of
from lakehouse.payload_types import UnreadableSchemaError
from lakehouse.schema_files import with_imports
from lakehouse.sources import ConfluentRegistry, Registry, SchemaService

_OF_PUBSUB = re.compile(r"projects/[^/]+/schemas/[^/]+")
_OF_REGISTRY = re.compile(r"(https?://.+)/subjects/([^/]+)")
_FORMATS = {".avsc": "avro", ".proto": "protobuf", ".desc": "protobuf", ".binpb": "protobuf"}


@dataclass(frozen=True)
class FoundSchema:
    """`files` are for the folder `conf/schemas/`, by their names there, the topic's own first; `text` is that one as
    `Topic.schemas` has it. `registry` is where messages' schemas are, None where nobody has them."""

    source: str
    format: str
    text: str
    files: Mapping[str, bytes]
    registry: Registry | None = None


def is_schema(source: str) -> bool:
    """Whether `--from` names a schema, and not messages."""
    named = _OF_PUBSUB.fullmatch(source) or _OF_REGISTRY.fullmatch(source)
    return named is not None or Path(source).suffix in _FORMATS


def found_schema(source: str, topic: str, config: Config) -> FoundSchema:
    """SourceError where a registry has none; UsageError for a file that cannot be read, or a schema that is none."""
    try:
        if _OF_PUBSUB.fullmatch(source):
            declared: Registry = SchemaService()
            return _of_definition(source, topic, registry_of(declared).newest(source), declared)
        if named := _OF_REGISTRY.fullmatch(source):
            declared = _registry_at(named[1], config)
            return _of_definition(source, topic, registry_of(declared).newest(named[2]), declared)
        return _of_file(Path(source), topic)
    except (OSError, UnreadableSchemaError, UnicodeDecodeError) as error:
        raise UsageError(
            source,
            found=in_one_line(error),
            expected="an Avro schema of a record (.avsc), a Protobuf schema (.proto), or a FileDescriptorSet (.desc)",
            next_step="Correct it; docs/avro.md and docs/protobuf.md say what can be read.",
        ) from error


def _of_definition(source: str, topic: str, definition: Definition, declared: Registry) -> FoundSchema:
    if definition.format == AVRO:
        text = inlined(definition.text, definition.references)
        avro_types.node_of(text)
        return FoundSchema(source, AVRO, text, {f"{topic}.avsc": _readable(text)}, declared)
    if definition.format != "protobuf":
        raise UnreadableSchemaError(f"a schema of {definition.format}")
    return _of_protos(source, f"{topic}.proto", {**definition.references, f"{topic}.proto": definition.text}, declared)


def _of_file(file: Path, topic: str) -> FoundSchema:
    kind, name = _FORMATS[file.suffix], f"{topic}{file.suffix}"
    if kind == AVRO:
        text = file.read_text(encoding="utf-8")
        avro_types.node_of(text)
        return FoundSchema(str(file), AVRO, text, {name: text.encode()})
    if file.suffix == ".proto":
        texts = with_imports(file.parent, file.name)
        own = texts.pop(file.name)
        return _of_protos(str(file), name, {**texts, name: own})
    content = file.read_bytes()
    text = protobuf_types.schema_text(content)
    protobuf_types.pool_of(protobuf_types.descriptors_of(text))
    return FoundSchema(str(file), kind, text, {name: content})


def _of_protos(source: str, main: str, texts: Mapping[str, str], registry: Registry | None = None) -> FoundSchema:
    text = protobuf_types.schema_text(protoc.compiled(main, texts))
    names = [main, *(name for name in texts if name != main)]
    return FoundSchema(source, "protobuf", text, {name: texts[name].encode() for name in names}, registry)


def _readable(text: str) -> bytes:
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False).encode() + b"\n"


def _registry_at(url: str, config: Config) -> ConfluentRegistry:
    """With the keys of another topic that has it: credentials are in no address."""
    for topic in config.topics.values():
        if isinstance(topic.registry, ConfluentRegistry) and topic.registry.address == url.rstrip("/"):
            return topic.registry
    try:
        return ConfluentRegistry(kind="confluent", url=url)
    except ValidationError as error:
        raise UsageError(
            f"{without_credentials(url).partition('?')[0]}/subjects/…",
            found="more than an address, such as credentials",
            expected="http(s)://<host>:<port>/subjects/<subject>",
            next_step="Give the address alone; credentials are in `registry` of another topic that has this one.",
        ) from error
