"""Text of events on a terminal: what would steer it is spelled out.

An id or a value is whatever a publisher wrote. Raw, an ESC sequence could clear the screen, set the clipboard or forge
a line, and a newline could fake a row.
"""

from __future__ import annotations

import re

_STEERING = (
    "\x00-\x1f\x7f-\x9f"  # control characters, C1 among them: U+009B begins a sequence as ESC [ does
    "\u2028\u2029"  # line and paragraph separator
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the order in which the rest is shown
    "\ud800-\udfff"  # halves of a pair, which cannot be encoded
)
_IN_TEXT = re.compile(f"[{_STEERING}]")
_IN_JSON = re.compile(f"[{_STEERING}]".replace("\x00-\x1f", ""))


def printable(text: str) -> str:
    """The text in one line, with `\\n`, `\\t`, `\\x1b` or `\\u202e` for each character that would steer a terminal."""
    return _IN_TEXT.sub(_escape, text)


def printable_json(document: str) -> str:
    """JSON that means the same, without such characters; `json.dumps` has escaped those below U+0020 already."""
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _escape(found: re.Match[str]) -> str:
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    code = ord(found[0])
    return named.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
