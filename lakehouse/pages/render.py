"""Templates become pages: every value is escaped and shows no secret, and one that a template misses is an error."""

from __future__ import annotations

import base64
import hashlib
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


@cache
def script() -> tuple[Markup, str]:
    """The grid's script, and the digest by which its page allows this script and no other."""
    environment = _environment()
    assert environment.loader is not None
    text, _, _ = environment.loader.get_source(environment, "lake.js")
    return Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


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
