"""Templates become pages: every value is escaped and shows no secret, and one that a template misses is an error."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lakehouse import durations
from lakehouse.concealed import without_secrets
from lakehouse.pages.words import counted, second, sentence, text


def markup_of(template: str, **values: Any) -> Markup:
    """The template filled with the values: safe to be put into another one as it is."""
    return Markup(_environment().get_template(template).render(values))


@dataclass(frozen=True)
class Script:
    """A page's script, the digest by which its page allows it and no other, and how often it asks for a newer page."""

    script: Markup
    digest: str
    seconds: int = 3


@cache
def script(name: str) -> Script:
    environment = _environment()
    assert environment.loader is not None
    text, _, _ = environment.loader.get_source(environment, name)
    return Script(Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def live(is_live: bool) -> Script | None:
    """What shows the newest page in the place of the one before it, without a reload."""
    return script("live.js") if is_live else None


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lakehouse.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: without_secrets(value) if type(value) is str else value,
    )
    environment.filters |= {
        "text": text,
        "counted": counted,
        "second": second,
        "duration": durations.brief,
        "sentence": sentence,
    }
    return environment
