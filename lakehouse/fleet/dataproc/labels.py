"""Names as Dataproc takes them: labels and ids."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 63
_SUFFIX = 6
_KEPT = r"(?!v[0-9])[a-z0-9]([a-z0-9.+-]*[a-z0-9])?"


def label_value(text: str) -> str:
    """The text as a label's value; the same text gives the same value, and others another.

    RFC 1035, which the API's reference names: up to 63 of a to z, 0 to 9 and -, beginning with a letter and ending with
    none of -. A digest is added where more is lost than `.` and `+` for `-`, and to a version with the `v` that is put
    before a digit. Empty for an empty text, as is allowed.
    """
    if not text:
        return ""
    plain = re.sub(r"[^a-z0-9]", "-", text.lower()).strip("-")
    value = plain if plain[:1].isalpha() else f"v{plain}"
    if re.fullmatch(_KEPT, text) and len(value) <= _LONGEST:
        return value
    digest = hashlib.sha256(text.encode()).hexdigest()[:_SUFFIX]
    return f"{value[: _LONGEST - _SUFFIX - 1].rstrip('-')}-{digest}"


def lake_label(raw_root: str) -> str:
    """What jobs of one lake have in common, and those of no other in a project."""
    return "l" + hashlib.sha256(raw_root.encode()).hexdigest()[:8]


def job_id(lake: str, launch: str) -> str:
    """Unique in a project: up to 100 letters, digits, _ and -. ValueError for what is longer."""
    found = f"{lake}-{re.sub('[^A-Za-z0-9_-]', '-', launch)}"
    if len(found) > 100:
        raise ValueError(f"a job's name of up to {100 - len(lake) - 1} signs, not {launch!r}")
    return found


def request_id(job: str) -> str:
    """Of the request that submits a job, up to 40 signs: a second one with it makes no second job."""
    return hashlib.sha256(job.encode()).hexdigest()[:40]
