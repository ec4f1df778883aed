"""Keys of configuration files: typed, frozen, each with what the manual says of it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticUndefined


class Frozen(BaseModel):
    """Configuration never changes while a process runs; a key that nothing reads is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def key(default: Any = PydanticUndefined, *, unit: str, doc: str, shown: str = "", **bounds: Any) -> Any:
    """A key that an operator sets: its unit and default, what it is and when to change it. The manual shows these.

    `shown` is the default in words, where it depends on other keys or on the machine.
    """
    return Field(default, description=doc, json_schema_extra={"unit": unit, "shown": shown}, **bounds)
