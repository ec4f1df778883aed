"""The comments beside the keys of `conf/<environment>.yaml`: unit · default · what it is, as the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.keys import default_of, unit_of
from lakehouse.config import Settings

FILES = sorted(file for file in (Path(__file__).parent.parent / "conf").glob("*.yaml") if file.name != "fleet.yaml")
"""The environments."""

_LINE = re.compile(
    r"^(?P<blanks> *)(?P<off># )?(?P<more> *)(?P<key>\w+):(?P<value>(?: [^#\n]*?)?)(?P<gap> *)(?:# .*)?$"
)
"""A key, which may be commented out, with what is set and the comment beside it."""


def with_comments(text: str, mirrors: Mapping[str, type[BaseModel]]) -> str:
    """The file with the comment of each key written again; what no model declares, such as Spark's keys, stays."""
    return "\n".join(_lines(text.split("\n"), mirrors))


def _lines(lines: list[str], mirrors: Mapping[str, type[BaseModel]]) -> Iterator[str]:
    section, kind = "", ""
    for line in lines:
        found = _LINE.match(line)
        if not found:
            yield line
            continue
        key, value = found["key"], found["value"].strip()
        depth = len(found["blanks"] + found["more"])
        field: FieldInfo | None = None
        if depth == 0:
            section, field = key, Settings.model_fields.get(key)
        elif section == "mirrors" and key == "kind":
            kind = value
        elif section == "mirrors" and depth == 4:
            field = mirrors[kind].model_fields[key]
        elif depth == 2 and section != "mirrors":
            field = getattr(Settings.model_fields[section].annotation, "model_fields", {}).get(key)
        yield line if field is None or not field.description else _with_comment(line, found, field)


def _with_comment(line: str, found: re.Match[str], field: FieldInfo) -> str:
    start = line[: found.end("gap")] if found["gap"] else f"{line}  "
    return f"{start}# {unit_of(field)} · {default_of(field)} · {field.description}"
