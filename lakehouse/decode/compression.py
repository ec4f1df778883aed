"""Payloads as they were before their publisher compressed them: bounded, and exact about why one is refused."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.topics import Topic

NOT_DECOMPRESSED = "not decompressed"
"""What the reasons here have before their colon."""
CONTENT_ENCODING = ("content-encoding", "Content-Encoding")
"""The attributes that say how a message is compressed; the first that is there decides."""

_CODINGS = {"": "none", "identity": "none", "none": "none", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
"""By the names of RFC 9110 and RFC 8878, in lower case."""
_PART_BYTES = 64 * 1024**2
"""Decompressed bytes after which a page is cut, so that one of small messages cannot fill the memory."""
_GZIP = 16 + zlib.MAX_WBITS
_FIRST_PIECE_BYTES = 4 * 1024
_PIECE_BYTES = 256 * 1024
_ZEROS = re.compile(rb"\0*")
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_RLE, _RESERVED = 1, 3
"""Types of a block in a zstd frame: one byte repeated, and none that is allowed."""


class Part(NamedTuple):
    """Some messages of a page with plain payloads. Where `refusals` has a reason, the payload is null."""

    messages: pa.RecordBatch
    refusals: pa.StringArray | None


class _Refused(Exception):
    """Its text is the reason."""


def parts(messages: pa.RecordBatch, topic: Topic) -> Iterator[Part]:
    """A page (columns `DELIVERED`) with payloads decompressed, in parts of which each fits into memory.

    A message's own `content-encoding` takes precedence over the topic's key. One without payload stays as it is.
    """
    codings = _codings(messages, topic)
    if codings is None:
        yield Part(messages, None)
        return
    payloads = messages.column("payload").to_pylist()
    together = _whole_frames(payloads, codings, topic.max_decompressed_bytes)
    plain: list[bytes | None] = []
    reasons: list[str | None] = []
    first = waiting_bytes = 0
    for row, (payload, coding) in enumerate(zip(payloads, codings, strict=True)):
        content, reason = (together[row], None) if row in together else _plain(payload, coding, topic)
        plain.append(content)
        reasons.append(reason)
        waiting_bytes += len(content or b"")
        if waiting_bytes >= _PART_BYTES:
            yield _part(messages.slice(first, len(plain)), plain, reasons)
            first, waiting_bytes, plain, reasons = row + 1, 0, [], []
    if plain:
        yield _part(messages.slice(first, len(plain)), plain, reasons)


def parts_by_message(messages: pa.RecordBatch, topic: Topic) -> Iterator[Part]:
    """What `parts` must equal, each payload on its own: the reference of the fast path."""
    codings = _codings(messages, topic)
    if codings is None:
        yield Part(messages, None)
        return
    read = [_plain(payload, codings[row], topic) for row, payload in enumerate(messages.column("payload").to_pylist())]
    yield _part(messages, [plain for plain, _ in read], [reason for _, reason in read])


def _part(messages: pa.RecordBatch, plain: list[bytes | None], reasons: list[str | None]) -> Part:
    place = messages.schema.get_field_index("payload")
    with_plain = messages.set_column(place, messages.schema.field(place), pa.array(plain, pa.binary()))
    return Part(with_plain, pa.array(reasons, pa.string()))


def _codings(messages: pa.RecordBatch, topic: Topic) -> list[str | None] | None:
    """How each is compressed, None for a coding that nobody knows; None for the page where nothing is compressed."""
    attributes = messages.column("attributes")
    named = [pc.map_lookup(attributes, query_key=name, occurrence="first") for name in CONTENT_ENCODING]
    if all(column.null_count == len(messages) for column in named):
        return None if topic.compression == "none" else [topic.compression] * len(messages)
    texts = pc.coalesce(*named).to_pylist()
    return [topic.compression if text is None else _CODINGS.get(text.strip().lower()) for text in texts]


def _plain(payload: bytes | None, coding: str | None, topic: Topic) -> tuple[bytes | None, str | None]:
    """(the payload, None) or (None, the reason why it cannot be had)."""
    if not payload or coding == "none":
        return payload, None
    try:
        if coding is None:
            raise _Refused(f"unknown {CONTENT_ENCODING[0]}")
        return _DECOMPRESSORS[coding](payload, topic.max_decompressed_bytes), None
    except _Refused as refused:
        return None, f"{NOT_DECOMPRESSED}: {refused}"


def _too_large(limit: int) -> _Refused:
    return _Refused(f"more than {limit} bytes")


def _damaged(coding: str, begins_as_such: bool) -> _Refused:
    return _Refused(f"damaged {coding}" if begins_as_such else f"not {coding}")


def _gunzipped(payload: bytes, limit: int) -> bytes:
    """All members, one after another, as RFC 1952 has it; zeros may follow the last."""
    members: list[bytes] = []
    left, at = limit, 0
    while at < len(payload):
        member, at = _gzip_member(payload, at, left)
        members.append(member)
        left -= len(member)
        if left < 0:
            raise _too_large(limit)
        if zeros := _ZEROS.match(payload, at):
            at = zeros.end()
    return b"".join(members)


def _gzip_member(payload: bytes, start: int, limit: int) -> tuple[bytes, int]:
    """What the member that begins there holds, no more than one byte above the limit, and where it ends.

    Few bytes first: zlib copies those behind a member's end, and a payload may have very many members.
    """
    member = zlib.decompressobj(_GZIP)
    pieces: list[bytes] = []
    at, left, size = start, limit, _FIRST_PIECE_BYTES
    while not member.eof and left >= 0:
        fed = payload[at : at + size]
        if not fed:
            raise _Refused("gzip that is cut off")
        try:
            pieces.append(member.decompress(fed, left + 1))
        except zlib.error:
            raise _damaged("gzip", payload.startswith(_GZIP_MAGIC, start)) from None
        at += len(fed) - len(member.unused_data)
        left -= len(pieces[-1])
        size = min(2 * size, _PIECE_BYTES)
    return b"".join(pieces), at


def _unzstd(payload: bytes, limit: int) -> bytes:
    """All frames, one after another, as RFC 8878 has it."""
    content = pa.CompressedInputStream(pa.BufferReader(payload), "zstd")
    pieces: list[bytes] = []
    left = limit
    try:
        while piece := content.read(min(left + 1, _PIECE_BYTES)):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                raise _too_large(limit)
    except (OSError, pa.ArrowException) as error:
        if "Truncated" in str(error):
            raise _Refused("zstd that is cut off") from None
        raise _damaged("zstd", payload.startswith(_ZSTD_MAGIC)) from None
    return b"".join(pieces)


_DECOMPRESSORS = {"gzip": _gunzipped, "zstd": _unzstd}


def _whole_frames(payloads: list[bytes | None], codings: list[str | None], limit: int) -> dict[int, bytes]:
    """The plain payloads of those that are one zstd frame each that says its size, decompressed in one call.

    Frames one after another are read as one content, in less than a tenth of the time. None where the call fails:
    then one of them is damaged.
    """
    sizes: dict[int, int] = {}
    for row, (payload, coding) in enumerate(zip(payloads, codings, strict=True)):
        size = _frame_content_bytes(payload) if coding == "zstd" and payload else None
        if size is not None and size <= limit:
            sizes[row] = size
    total = sum(sizes.values())
    if not 0 < total < _PART_BYTES:
        return {}
    joined = b"".join(payloads[row] or b"" for row in sizes)
    try:
        content: bytes = pa.Codec("zstd").decompress(joined, decompressed_size=total, asbytes=True)
    except (OSError, pa.ArrowException):
        return {}
    ends = np.cumsum(list(sizes.values())).tolist()
    return {row: content[end - size : end] for (row, size), end in zip(sizes.items(), ends, strict=True)}


def _frame_content_bytes(payload: bytes) -> int | None:
    """The size that a zstd frame says its content has; None where it says none, or the payload is not one whole frame.

    Follows the lengths of the blocks to the payload's end: else a frame could take the next message for its own data.
    """
    if len(payload) < 9 or not payload.startswith(_ZSTD_MAGIC):
        return None
    descriptor = payload[4]
    is_single = descriptor >> 5 & 1
    size_bytes = (is_single, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not is_single) + _DICTIONARY_ID_BYTES[descriptor & 3]
    position = start + size_bytes
    is_last = False
    while not is_last:
        header = int.from_bytes(payload[position : position + 3], "little")
        kind = header >> 1 & 3
        if position + 3 > len(payload) or kind == _RESERVED:
            return None
        is_last = bool(header & 1)
        position += 3 + (1 if kind == _RLE else header >> 3)
    has_checksum = descriptor >> 2 & 1
    if not size_bytes or position + 4 * has_checksum != len(payload):
        return None
    size = int.from_bytes(payload[start : start + size_bytes], "little")
    return size + 256 if size_bytes == 2 else size
