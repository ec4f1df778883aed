"""Schemas from the folder `conf/schemas/`, as the texts that travel with a topic."""

from __future__ import annotations

import re
from pathlib import Path

from lakehouse import avro_types, protobuf_types, protoc

_IMPORT = re.compile(r'(?:^|[;}])\s*import\s+(?:public\s+|weak\s+)?"([^"\n]+)"\s*;', re.MULTILINE)


def schema_text_of(folder: Path, name: str, kind: str) -> str:
    """A topic's schema of the format `kind`, checked; UnreadableSchemaError for what is no schema, OSError without it.

    Avro's is the file's own text, Protobuf's its descriptors: of a `.proto` and what it imports from the folder, or of
    a file that holds them.
    """
    if kind != "protobuf":
        text = (folder / name).read_text(encoding="utf-8")
        avro_types.node_of(text)
        return text
    if name.endswith(".proto"):
        return protobuf_types.schema_text(protoc.compiled(name, with_imports(folder, name)))
    text = protobuf_types.schema_text((folder / name).read_bytes())
    protobuf_types.pool_of(protobuf_types.descriptors_of(text))
    return text


def with_imports(folder: Path, name: str) -> dict[str, str]:
    """A `.proto` and the files below the folder that it imports, by their names there."""
    texts = {name: (folder / name).read_text(encoding="utf-8")}
    waiting = [name]
    while waiting:
        for imported in _IMPORT.findall(texts[waiting.pop()]):
            file = folder / imported
            if imported not in texts and ".." not in imported and file.is_file():
                texts[imported] = file.read_text(encoding="utf-8")
                waiting.append(imported)
    return texts
